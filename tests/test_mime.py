"""Mail as bytes: whatever stands in the words, a mail has the headers we gave it and no other; and its signature holds."""

from __future__ import annotations

import email
import email.policy
import re
from collections.abc import Callable
from email.message import EmailMessage

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from broadcaster import mime
from broadcaster.dkim import OVERSIGNED, KeyNotUsable, Signer
from broadcaster.mime import LEAVE, Fields, NotSpliceable, Template, Text, mailbox
from tests.makers import NOW

STRICT = email.policy.SMTP + email.policy.strict
NAMES = [
    "From", "To", "Subject", "Date", "Message-ID", "List-Id", "List-Unsubscribe", "List-Unsubscribe-Post",
    "Auto-Submitted", "Content-Language", "MIME-Version", "Content-Type",
]  # fmt: skip
READER = Fields(
    to="reader@mail-1.example",
    message_id="13109-a-notice.1a@shinagawa.example.jp",
    leave="https://www.example.jp/u/abcdefghijklmnopqrstuvwxyz012345",
)
JAPANESE = "大井町の人は、高い所へ避難してください。\n\n■ 防災課 ０３（３７７７）２２９２\n配信停止："
HOSTILE = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "\r\nBcc: all@mail.example\r\n",
                "\n",
                "\r",
                "\r\n\r\n",
                "=?utf-8?q?=0D=0ABcc?=",
                "=?",
                "&<>\"'",
                "ｶﾞｯｺｳ",
                "👨\u200d👩\u200d👧",
                "\u202e避難\u202c",
                "\ud83d",
                "\u2028",
                "\x1b",
                "\t",
                "  ",
                ".",
                "\r\n.\r\n",
                "--=_",
                "\ufeff",
                "大" * 40,
            ]
        ),
        st.text(st.characters(exclude_characters="\0"), max_size=30),
    ),
    max_size=6,
).map("".join)


def a_template(
    *,
    subject: str = "【緊急】避難指示が出ました",
    text: str = JAPANESE + LEAVE,
    html: str | None = f"<p>大井町</p>\n<a href='{LEAVE}'>配信停止</a>",
    name: str = "しなメール",
    has_references: bool = False,
    is_urgent: bool = False,
) -> Template:
    texts = [Text(subtype="plain", words=text)]
    if html is not None:
        texts.append(Text(subtype="html", words=html))
    return mime.template(
        sender=(name, "shina-mail@shinagawa.example.jp"),
        subject=subject,
        sent_at=NOW,
        language="ja",
        list_id="shina-mail.shinagawa.example.jp",
        texts=texts,
        is_urgent=is_urgent,
        has_references=has_references,
    )


def parsed(content: bytes) -> EmailMessage:
    """As the strictest reader has it: a defect raises."""
    message = email.message_from_bytes(content, policy=STRICT)
    assert isinstance(message, EmailMessage)
    return message


def the_text(content: bytes, kind: str = "plain") -> str:
    part = parsed(content).get_body((kind,))
    assert part is not None
    raw = part.get_payload(decode=True)
    assert isinstance(raw, bytes)
    return raw.decode("utf-8")


def without_blanks_at_ends(text: str) -> str:
    return re.sub(r" +(?=\r\n)", "", text)


# The plain case


def test_a_reader_finds_the_words_and_a_link_of_their_own() -> None:
    mail = a_template().splice(READER)
    assert parsed(mail).keys() == NAMES
    assert parsed(mail)["Subject"] == "【緊急】避難指示が出ました"
    assert str(parsed(mail)["From"]) == "しなメール <shina-mail@shinagawa.example.jp>"
    assert without_blanks_at_ends(the_text(mail)) == (JAPANESE + READER.leave + "\n").replace("\n", "\r\n")
    assert f"href='{READER.leave}'" in the_text(mail, "html")


def test_two_readers_differ_in_their_own_fields_only() -> None:
    other = Fields(to="b@mail-2.example", message_id="x.2@shinagawa.example.jp", leave="http://www.example.jp/u/other")
    mine, theirs = (a_template(html=None).splice(fields) for fields in (READER, other))
    differing = {name for name in NAMES if parsed(mine)[name] != parsed(theirs)[name]}
    assert differing == {"To", "Message-ID", "List-Unsubscribe"}
    assert the_text(mine).replace(READER.leave, "") == the_text(theirs).replace(other.leave, "")


def test_the_same_letter_has_the_same_bytes_at_every_attempt() -> None:
    assert a_template().splice(READER) == a_template().splice(READER)


def test_a_correction_names_what_it_corrects_and_all_before_it() -> None:
    mail = parsed(a_template(has_references=True).splice(READER._replace(references=("1@a.example", "2@a.example"))))
    assert mail["In-Reply-To"] == "<2@a.example>"
    assert mail["References"].split() == ["<1@a.example>", "<2@a.example>"]


def test_an_alert_says_that_it_is_urgent() -> None:
    mail = parsed(a_template(is_urgent=True).splice(READER))
    assert (mail["Importance"], mail["Priority"]) == ("high", "urgent")


# Words that want to be more than words


@examples(max_examples=300, deadline=None)
@given(subject=HOSTILE, text=HOSTILE, html=st.none() | HOSTILE, leaves=st.booleans())
@example(subject="Closed\r\nBcc: all@mail.example", text="", html=None, leaves=False)
@example(subject="=?utf-8?b?5aSn?=", text=".", html="\r\n.\r\n", leaves=True)
@example(subject="half \ud83d a pair", text="\ud83d", html="\ud83d", leaves=True)
def test_no_words_add_a_header_and_all_arrive_as_written(
    subject: str, text: str, html: str | None, leaves: bool
) -> None:
    link = LEAVE if leaves else ""
    made = a_template(subject=subject, text=text + link, html=None if html is None else html + link)
    mail = made.splice(READER)
    structure = [] if html is not None else ["Content-Transfer-Encoding"]
    without = [name for name in [*NAMES, *structure] if name != "Subject"]
    assert parsed(mail).keys() in ([*without[:2], "Subject", *without[2:]], without)  # a title of blanks is none
    assert mail.isascii()
    assert b"\r\n." not in mail
    assert max(map(len, mail.split(b"\r\n"))) <= 998
    written = text.encode("utf-8", "replace").decode().replace("\r\n", "\n")
    written = (written + READER.leave if leaves else written.rstrip("\n")) + "\n"
    assert without_blanks_at_ends(the_text(mail)) == without_blanks_at_ends(written.replace("\n", "\r\n"))


@examples(max_examples=200, deadline=None)
@given(subject=st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp", "Zs"]), min_size=1, max_size=200))
@example(subject="=?utf-8?b?5aSn?=")
@example(subject="大井町" * 60)
@example(subject="A" * 1500)
def test_a_subject_is_read_as_it_was_written(subject: str) -> None:
    mail = a_template(subject=subject).splice(READER)
    assert str(parsed(mail)["Subject"]) == subject
    for word in re.findall(rb"=\?.*?\?[bq]\?.*?\?=", mail.partition(b"\r\n\r\n")[0]):
        assert len(word) <= 75


@pytest.mark.parametrize(
    "address",
    [
        "", "reader", "@mail.example", "reader@", "a b@mail.example", "a@mail.example\r\nBcc: b@mail.example",
        "a@mail.example\n", "a@mail.example>", "<a@mail.example", "a@mail.example, b@mail.example", "読者@mail.example",
        "a@品川.example", "a@mail.example\0", "a\ud83d@mail.example", f"{'a' * 1000}@mail.example",
    ],
)  # fmt: skip
def test_an_address_that_is_none_is_never_spliced(address: str) -> None:
    with pytest.raises(NotSpliceable) as caught:
        a_template().splice(READER._replace(to=address))
    assert not address or address not in str(caught.value)


@examples(max_examples=300, deadline=None)
@given(address=st.text(max_size=20) | st.from_regex(r"[!-~]{1,12}@[a-z.,;<>\s]{1,12}", fullmatch=True))
def test_an_address_is_one_recipient_or_none(address: str) -> None:
    try:
        mail = a_template(html=None).splice(READER._replace(to=address))
    except NotSpliceable:
        return
    head = mail.partition(b"\r\n\r\n")[0].decode()
    assert head.count("\r\nTo: ") == 1
    assert f"\r\nTo: {mailbox(address)}\r\n" in head
    assert [line.partition(":")[0] for line in re.sub(r"\r\n[ \t]", " ", head).split("\r\n")] == [
        *NAMES,
        "Content-Transfer-Encoding",
    ]


@pytest.mark.parametrize(
    "link",
    [
        "", "javascript:alert(1)", "https://www.example.jp/u/a b", "https://www.example.jp/u/a>",
        "https://www.example.jp/\r\nBcc: b@mail.example", "https://www.example.jp/\n", "https://品川.example/u/a",
        f"https://www.example.jp/u/{'a' * 60}",
    ],
)  # fmt: skip
def test_a_link_that_could_end_its_header_is_never_spliced(link: str) -> None:
    with pytest.raises(NotSpliceable):
        a_template().splice(READER._replace(leave=link))


@pytest.mark.parametrize(
    ("address", "as_mail_has_it"),
    [
        ("reader+tag@mail.example", "reader+tag@mail.example"),
        ("a..b@docomo.example", '"a..b"@docomo.example'),
        ("a.@docomo.example", '"a."@docomo.example'),
        (".a@docomo.example", '".a"@docomo.example'),
        ('a"b@docomo.example', '"a\\"b"@docomo.example'),
    ],
)
def test_old_addresses_of_carriers_are_quoted(address: str, as_mail_has_it: str) -> None:
    assert mailbox(address) == as_mail_has_it


def test_a_sender_cannot_bring_a_header_either() -> None:
    with pytest.raises(NotSpliceable):
        a_template(name="x\r\nBcc: all@mail.example")


# The signature


def a_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def as_pem(key: PrivateKeyTypes, password: bytes | None = None) -> str:
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption).decode()


KEY = a_key()


def signed(made: Template, fields: Fields = READER) -> bytes:
    signer = Signer.from_pem(as_pem(KEY), domain="shinagawa.example.jp", selector="s1")
    return made.splice(fields, signature=signer.of(made.headers))


def published(key: rsa.RSAPrivateKey = KEY) -> Callable[..., bytes]:
    """The ward's entry in the name system."""
    der = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)

    def answer(name: bytes, timeout: int = 5) -> bytes:
        assert name == b"s1._domainkey.shinagawa.example.jp."
        return b"v=DKIM1; k=rsa; p=" + mime.base64.b64encode(der)

    return answer


def holds(mail: bytes) -> bool:
    return bool(dkim.verify(mail, dnsfunc=published()))


@given(
    before=st.text("ab大\n", max_size=130), after=st.text("cd町\n", max_size=130), length=st.integers(1, 60)
)  # every place in a group of three and in a line of 76
def test_a_link_anywhere_in_a_line_gives_the_bytes_of_the_standard_library(
    before: str, after: str, length: int
) -> None:
    link = f"http://a/{'x' * length}"
    mail = a_template(text=f"{before}{LEAVE}{after}", html=None).splice(READER._replace(leave=link))
    lines = mail.partition(b"\r\n\r\n")[2].split(b"\r\n")
    assert all(len(line) <= 76 for line in lines)
    assert lines[-1] == b""
    said = without_blanks_at_ends(mime.base64.b64decode(b"".join(lines), validate=False).decode())
    assert link in said
    assert said == without_blanks_at_ends(f"{before}{link}{after}".rstrip("\n").replace("\n", "\r\n") + "\r\n")


@pytest.mark.parametrize("made", [a_template(), a_template(html=None), a_template(has_references=True, name="Ward")])
def test_another_implementation_finds_our_signature_good(made: Template) -> None:
    mail = signed(made, READER._replace(references=("1@a.example", "2@a.example")))
    assert holds(mail)
    assert parsed(mail).keys()[0] == "DKIM-Signature"


def test_a_signature_of_another_key_is_none() -> None:
    assert not dkim.verify(signed(a_template()), dnsfunc=published(a_key(1024)))


def test_it_holds_after_a_relay_has_put_its_own_fields_on_top_and_folded_anew() -> None:
    mail = b"Received: from a by b; Tue, 1 Dec 2026 09:00:00 +0900\r\n" + signed(a_template())
    assert holds(mail.replace(b"List-Unsubscribe: <", b"List-Unsubscribe:\r\n\t<"))


def flips(mail: bytes, start: int, end: int, step: int) -> list[bytes]:
    """One letter changed at a time. Blanks are left: the relaxed form forgives them."""
    found = []
    for at in range(start, end, step):
        byte = mail[at : at + 1]
        if byte.strip():
            found.append(mail[:at] + (b"y" if byte.lower() != b"y" else b"n") + mail[at + 1 :])
    return found


def test_one_changed_letter_of_the_body_breaks_it() -> None:
    mail = signed(a_template())
    for changed in flips(mail, mail.index(b"\r\n\r\n") + 4, len(mail), 1):
        assert not holds(changed)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "Content-Language"])
def test_one_changed_letter_of_a_signed_header_breaks_it(name: str) -> None:
    mail = signed(a_template())
    found = re.search(rb"\r\n%s: ((?:.|\r\n )*)\r\n" % name.encode(), mail)
    assert found is not None
    changes = flips(mail, found.start(1), found.end(1), 1)
    assert changes
    for changed in changes:
        assert not holds(changed)


@pytest.mark.parametrize("name", OVERSIGNED)
def test_a_second_header_put_on_top_breaks_it(name: str) -> None:
    assert not holds(f"{name}: somebody@mail.example\r\n".encode() + signed(a_template()))


@pytest.mark.parametrize(
    ("pem", "sentence"),
    [
        ("", "dkim_key を読めません。パスワードのない PEM の秘密鍵を置いてください。"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "読めません"),
        (as_pem(KEY, b"secret"), "パスワードのない"),
        (as_pem(ed25519.Ed25519PrivateKey.generate()), "dkim_key は RSA の鍵にしてください。"),
    ],
    ids=["empty", "broken", "locked", "another kind"],
)
def test_a_key_that_cannot_sign_says_what_to_do(pem: str, sentence: str) -> None:
    with pytest.raises(KeyNotUsable, match=sentence) as caught:
        Signer.from_pem(pem, domain="shinagawa.example.jp", selector="s1")
    assert not pem or pem.splitlines()[1] not in str(caught.value)
