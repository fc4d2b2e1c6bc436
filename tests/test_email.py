"""しなメール: what readers get, in their language and form; and what becomes of it between here and the relay."""

from __future__ import annotations

import email
import email.policy
import ipaddress
import re
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import dkim
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from broadcaster import changes
from broadcaster.channel import (
    DRILL_MARK,
    ChannelClosed,
    DeliveryFailure,
    Letter,
    Mailing,
    Outcome,
    PermanentFailure,
    TemporaryFailure,
)
from broadcaster.clock import FrozenClock
from broadcaster.drill import watermarked
from broadcaster.message import LANGUAGES, Change, Message, Mode
from broadcaster.rehearsal import smtp
from broadcaster.rehearsal.faults import Fault, Faults, Kind
from broadcaster.settings import Settings
from channels.email import FORMS, Email
from tests.makers import NOW, a_kit, a_notice, a_sample, an_alert, frozen_clock, sample_notices

STRICT = email.policy.SMTP + email.policy.strict
ADDRESS = "https://www.city.shinagawa.example.jp"
READER = "reader@mail-1.example"
OPTIONS = {
    "host": "127.0.0.1",
    "tls": "none",
    "from": "shina-mail@mail.city.shinagawa.example.jp",
    "list_id": "shina-mail.mail.city.shinagawa.example.jp",
    "timeout_s": 5,
    "lines": 1,
}
PARTS = [f"{language}.{form}" for language in LANGUAGES for form in FORMS]
ISSUE = 1


def a_link(letter: Letter) -> str:
    return f"{ADDRESS}/u/{letter.subscriber:032d}"


def a_channel(
    settings: Settings, *, mode: Mode = Mode.LIVE, secrets: Mapping[str, str] | None = None, **options: Any
) -> Email:
    kit = a_kit(
        settings,
        mode=mode,
        ward=replace(settings.ward, base_url=ADDRESS),
        options={**OPTIONS, **options},
        secret=(secrets or {}).get,
        leave_link=a_link,
    )
    return Email.built(kit)


def a_letter(n: int = 1, *, part: str = "ja.text", address: str = "", issue: int = ISSUE, **changes: Any) -> Letter:
    address = address or f"reader-{n}@mail-1.example"
    letter = Letter(
        key=n,
        part=part,
        address=address,
        domain=address.rpartition("@")[2],
        subscriber=n,
        epoch=1,
        issue=issue,
        is_drill=False,
        category="notice",
    )
    return letter._replace(**changes)


def loaded(channel: Email, message: Message, issue: int = ISSUE) -> Email:
    for payload in channel.compose(message):
        channel.load(issue, payload)
    return channel


def parsed(content: bytes) -> EmailMessage:
    """As the strictest reader has it: a defect raises."""
    message = email.message_from_bytes(content, policy=STRICT)
    assert isinstance(message, EmailMessage)
    return message


def the_words(mail: EmailMessage, kind: str) -> str:
    part = mail.get_body((kind,))
    assert part is not None
    return str(part.get_content()).replace("\r\n", "\n")


def as_read(content: bytes, form: str) -> str:
    """A mail as a reader's program shows it, or the page it draws."""
    mail = parsed(content)
    if form == "html":
        return the_words(mail, "html")
    shown = "".join(f"{name}: {mail[name]}\n" for name in ("From", "To", "Subject", "Date"))
    return re.sub(r" +$", "", f"{shown}\n{the_words(mail, 'plain')}", flags=re.MULTILINE)


def everything(settings: Settings) -> list[Message]:
    """The sixteen notices and every prepared alert; one of them is a text for drills only."""
    notices = [a_sample(settings, id) for id in sample_notices(settings)]
    return notices + [an_alert(settings, id) for id in settings.presets if id != "E12"]


def a_change(settings: Settings, original: Message, change: Change = Change.CANCEL) -> Message:
    now = NOW + timedelta(minutes=20)
    renewed = original if change in (Change.UPDATE, Change.CORRECTION) else None
    made = changes.changed(original, change, words=settings.words, now=now, renewed=renewed)
    return replace(made, identifier=f"{original.identifier}-{change.value}").sent(now)


# What the public reads


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("language", ["ja", "en"])
@pytest.mark.parametrize("name", ["N02", "E04", "drill-E04", "cancel-E04"])
def test_what_a_reader_reads(
    settings: Settings, golden: Callable[[str, str], None], name: str, language: str, form: str
) -> None:
    mode = Mode.DRILL if name.startswith("drill") else Mode.LIVE
    message = {
        "N02": lambda: a_sample(settings, "N02"),
        "E04": lambda: an_alert(settings),
        "drill-E04": lambda: watermarked(an_alert(settings, mode=mode), settings.words),
        "cancel-E04": lambda: a_change(settings, an_alert(settings)),
    }[name]()
    channel = loaded(a_channel(settings, mode=mode), message)
    mail = channel.write(a_letter(part=f"{language}.{form}", is_drill=mode is Mode.DRILL, address=READER))
    ending = "html" if form == "html" else "txt"
    golden(f"email/{name}{'' if language == 'ja' else f'.{language}'}.{ending}", as_read(mail.content, form))


def test_it_is_a_mailing(settings: Settings) -> None:
    assert isinstance(a_channel(settings), Mailing)


def test_a_reader_of_a_language_that_is_missing_gets_the_japanese_and_is_told(settings: Settings) -> None:
    channel = loaded(a_channel(settings), a_notice(settings, title="図書館の休館"))
    mail = parsed(channel.write(a_letter(part="ko.text")).content)
    assert mail["Subject"] == "図書館の休館"
    assert mail["Content-Language"] == "ja"
    told, _, rest = the_words(mail, "plain").partition("\n\n")
    assert told.strip() == settings.words.phrase("not_translated", "ko")
    assert "12月3日は、設備の点検のため休館します。" in rest


# As bytes


def test_every_sample_in_every_part_is_a_mail_without_a_fault(settings: Settings) -> None:
    channel = a_channel(settings)
    for issue, message in enumerate(everything(settings)):
        loaded(channel, message, issue)
        for part in PARTS:
            letter = a_letter(part=part, issue=issue)
            written = channel.write(letter)
            assert_is_faultless(written.content, letter)
            assert written.recipient == letter.address
            assert channel.write(letter) == written, "a repeat has the same bytes"


def assert_is_faultless(content: bytes, letter: Letter) -> None:
    mail = parsed(content)
    head = content.partition(b"\r\n\r\n")[0]
    names = [name.lower() for name in mail.keys()]  # noqa: SIM118 - a mail is no mapping: a name may stand twice
    assert len(names) == len(set(names))
    assert max(map(len, content.split(b"\r\n"))) <= 998
    assert content.isascii()
    assert content.count(b"\n") == content.count(b"\r\n") == content.count(b"\r")
    assert all(len(word) <= 75 for word in re.findall(rb"=\?\S+\?=", head))
    assert [a.addr_spec for a in mail["To"].addresses] == [letter.address]
    assert mail["List-Unsubscribe"] == f"<{a_link(letter)}>"
    assert len(a_link(letter)) <= 75
    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert mail["Auto-Submitted"] == "auto-generated"
    for part in mail.walk():
        assert not part.defects
    kinds = ("plain", "html") if letter.part.endswith("html") else ("plain",)
    for kind in kinds:
        assert a_link(letter) in the_words(mail, kind)
        assert "\0" not in the_words(mail, kind)


def test_a_correction_stands_below_what_it_corrects(settings: Settings) -> None:
    first = an_alert(settings)
    second = a_change(settings, first, Change.CORRECTION)
    third = a_change(settings, second, Change.CANCEL)
    channel = a_channel(settings)
    mails = []
    for issue, message in enumerate((first, second, third)):
        loaded(channel, message, issue)
        mails.append(parsed(channel.write(a_letter(issue=issue)).content))
    ids = [str(mail["Message-ID"]) for mail in mails]
    assert len(set(ids)) == 3
    assert [mail["In-Reply-To"] for mail in mails] == [None, ids[0], ids[1]]
    assert [str(mail["References"] or "").split() for mail in mails] == [[], ids[:1], ids[:2]]


def test_two_readers_have_two_message_ids(settings: Settings) -> None:
    channel = loaded(a_channel(settings), a_sample(settings, "N02"))
    assert len({parsed(channel.write(a_letter(n)).content)["Message-ID"] for n in range(50)}) == 50


def test_what_was_unloaded_takes_no_room(settings: Settings) -> None:
    channel = loaded(loaded(a_channel(settings), a_sample(settings, "N02")), a_sample(settings, "N03"), 2)
    channel.unload(ISSUE)
    assert channel.write(a_letter(issue=2))
    with pytest.raises(TemporaryFailure):
        channel.write(a_letter())


# Words, addresses and links that want to be more


HEADERS = {
    "From", "To", "Subject", "Date", "Message-ID", "List-Id", "List-Unsubscribe", "List-Unsubscribe-Post",
    "Auto-Submitted", "Content-Language", "MIME-Version", "Content-Type",
}  # fmt: skip
HOSTILE = st.lists(
    st.sampled_from(
        ["\r\nBcc: all@mail.example", "\n", "&<>\"'", "<script>", "{{ ward }}", "ｶﾞｯｺｳ", "👩‍🚒", "\u202e", "\ud83d"]
    )
    | st.text(st.characters(exclude_characters="\0"), max_size=20),
    min_size=1,
    max_size=5,
).map("".join)


@examples(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(title=HOSTILE, body=HOSTILE)
def test_no_title_and_no_text_adds_a_header_or_an_element(settings: Settings, title: str, body: str) -> None:
    channel = a_channel(settings)
    channel.load(ISSUE, channel.compose(a_notice(settings, title=title, body=body))[1])
    mail = parsed(channel.write(a_letter(part="ja.html")).content)
    assert len(mail.keys()) == len(set(mail.keys()))
    assert set(mail.keys()) <= HEADERS
    assert "<script" not in the_words(mail, "html")


@pytest.mark.parametrize(
    "address", ["a@mail.example\r\nBcc: b@mail.example", "a b@mail.example", "読者@mail.example", "a@"]
)
def test_an_address_that_is_none_fails_for_good_and_is_not_named(settings: Settings, address: str) -> None:
    channel = loaded(a_channel(settings), a_sample(settings, "N02"))
    with pytest.raises(PermanentFailure, match="名簿を直してください") as caught:
        channel.write(a_letter(address=address))
    assert address not in str(caught.value)


def test_a_link_that_would_end_its_header_fails_for_good(settings: Settings) -> None:
    kit = a_kit(settings, options=OPTIONS, leave_link=lambda letter: f"{ADDRESS}/u/x>\r\nBcc: b@mail.example")
    channel = loaded(Email.built(kit), a_sample(settings, "N02"))
    with pytest.raises(PermanentFailure):
        channel.write(a_letter())


# Drills


def test_every_mail_of_every_drill_says_so_in_subject_text_and_page(settings: Settings) -> None:
    channel = a_channel(settings, mode=Mode.DRILL)
    drills = [an_alert(settings, id, mode=Mode.DRILL) for id in settings.presets]
    drills += [a_sample(settings, id, mode=Mode.DRILL) for id in sample_notices(settings)]
    for issue, drill in enumerate(drills):
        loaded(channel, watermarked(drill, settings.words), issue)
        for part in PARTS:
            mail = parsed(channel.write(a_letter(part=part, issue=issue, is_drill=True)).content)
            assert DRILL_MARK in mail["Subject"]
            assert DRILL_MARK in the_words(mail, "plain")
            assert part.endswith("text") or DRILL_MARK in the_words(mail, "html")


@pytest.mark.parametrize("mode", Mode)
def test_a_letter_of_the_other_place_is_refused(settings: Settings, mode: Mode) -> None:
    message = watermarked(an_alert(settings, mode=mode), settings.words)
    channel = loaded(a_channel(settings, mode=mode), message)
    assert channel.write(a_letter(is_drill=mode is Mode.DRILL))
    with pytest.raises(PermanentFailure, match="本番と訓練"):
        channel.write(a_letter(is_drill=mode is not Mode.DRILL))


# What the configuration lacks


def test_a_whole_configuration_lacks_nothing(settings: Settings) -> None:
    assert a_channel(settings).missing() == []


@pytest.mark.parametrize("mode", Mode)
def test_an_empty_table_says_what_to_write(settings: Settings, mode: Mode) -> None:
    table = f"channels.toml の [email.{mode.value}]"
    assert Email.built(a_kit(settings, mode=mode, ward=replace(settings.ward, base_url=ADDRESS))).missing() == [
        f"{table} の host に、メールの中継の名前を書いてください。",
        f"{table} の from に、差出人のアドレスを書いてください。",
        f"{table} の list_id に、一覧の名（shina-mail.… の形）を書いてください。",
    ]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tls": "ssl"}, "tls は starttls・tls・none のどれか"),
        ({"host": "relay.example.jp"}, "この機械の中の中継にだけ"),
        ({"from": "しなメール"}, "from はメールアドレスではありません"),
        ({"user": "broadcaster"}, "中継のパスワードがありません。smtp_password のファイル"),
        ({"dkim_selector": "s1"}, "署名の鍵がありません"),
        ({"tls": "starttls", "ca_file": "/nowhere/ca.pem"}, "ca_file の証明書を読めません"),
    ],
)
def test_each_thing_that_is_wrong_has_its_sentence(settings: Settings, options: dict[str, Any], sentence: str) -> None:
    [said] = a_channel(settings, **options).missing()
    assert sentence in said


def test_the_password_of_a_drill_has_a_name_of_its_own(settings: Settings) -> None:
    [said] = a_channel(settings, mode=Mode.DRILL, user="drill").missing()
    assert "drill_smtp_password のファイル" in said


def test_a_public_address_that_makes_links_too_long_is_told(settings: Settings) -> None:
    ward = replace(settings.ward, base_url=f"https://{'a' * 40}.example.jp")
    [said] = Email.built(a_kit(settings, ward=ward, options=OPTIONS)).missing()
    assert "base_url を短く" in said


# Signed


async def test_a_signed_mail_holds_and_a_changed_one_does_not(settings: Settings) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    channel = loaded(a_channel(settings, dkim_selector="s1", secrets={"dkim_key": pem}), an_alert(settings))
    mail = channel.write(a_letter(part="en.html")).content
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    record = b"v=DKIM1; p=" + b"".join(public.splitlines()[1:-1])
    assert dkim.verify(mail, dnsfunc=lambda name, timeout=5: record)
    assert not dkim.verify(mail.replace(b"To: r", b"To: s"), dnsfunc=lambda name, timeout=5: record)
    assert channel.write(a_letter(part="en.html")).content == mail


# Over a relay


@pytest.fixture
def clock() -> FrozenClock:
    return frozen_clock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "mail"


@pytest.fixture
def faults(tmp_path: Path) -> Faults:
    return Faults(tmp_path / "faults.json")


@pytest.fixture
async def relay(folder: Path, faults: Faults, clock: FrozenClock) -> AsyncIterator[smtp.Server]:
    running = await smtp.start(folder, faults, clock=clock)
    yield running
    await running.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ward's own, for a relay on this machine: key and certificate in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "relay.example.jp")])
    made = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=3650))
        .not_valid_after(NOW + timedelta(days=3650))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "relay.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return file


@pytest.fixture
async def guarded(folder: Path, faults: Faults, clock: FrozenClock, certificate: Path) -> AsyncIterator[smtp.Server]:
    """STARTTLS and a password."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    running = await smtp.start(folder, faults, clock=clock, tls=tls, users={"ward": "pass-word-1"})
    yield running
    await running.close()


async def carries(channel: Email, letters: Sequence[Letter]) -> list[tuple[Letter, Outcome]]:
    """One line, until there are no more letters."""
    waiting, settled = list(letters), []
    line = await channel.open()
    try:
        await line.carry(
            lambda: waiting.pop(0) if waiting else None, lambda letter, outcome: settled.append((letter, outcome))
        )
    finally:
        await line.close()
    return settled


async def test_a_line_carries_letters_to_the_relay_in_order(
    settings: Settings, relay: smtp.Server, folder: Path
) -> None:
    channel = loaded(a_channel(settings, port=relay.port), an_alert(settings))
    letters = [a_letter(n, part=PARTS[n % len(PARTS)]) for n in range(50)]
    settled = await carries(channel, letters)
    filed = list(smtp.received(folder))
    assert [letter for letter, _ in settled] == letters
    assert [mail.recipient for mail in filed] == [letter.address for letter in letters]
    assert [mail.raw() for mail in filed] == [channel.write(letter).content for letter in letters]
    for (_, outcome), mail in zip(settled, filed, strict=True):
        assert outcome.receipt is not None
        assert outcome.receipt.evidence == f"250 2.0.0 Ok: queued as {mail.id}"


@pytest.mark.parametrize("address", ["a..b@docomo.example", "a.@docomo.example", ".a@docomo.example"])
async def test_an_old_address_of_a_carrier_is_reached(
    settings: Settings, relay: smtp.Server, folder: Path, address: str
) -> None:
    channel = loaded(a_channel(settings, port=relay.port), a_sample(settings, "N02"))
    [(_, outcome)] = await carries(channel, [a_letter(address=address)])
    assert outcome.receipt is not None
    [mail] = smtp.received(folder)
    local_part, _, domain = address.partition("@")
    assert mail.recipient.replace('"', "") == address
    assert f'To: "{local_part}"@{domain}\r\n'.encode() in mail.raw()


async def test_a_letter_that_cannot_be_written_holds_up_no_other(settings: Settings, relay: smtp.Server) -> None:
    channel = loaded(a_channel(settings, port=relay.port), a_sample(settings, "N02"))
    letters = [a_letter(1, address="a b@mail.example"), a_letter(2), a_letter(3, is_drill=True), a_letter(4)]
    settled = await carries(channel, letters)
    assert {letter.key: type(outcome.failure) for letter, outcome in settled} == {
        1: PermanentFailure,
        2: type(None),
        3: PermanentFailure,
        4: type(None),
    }


async def test_a_domain_that_takes_only_so_many_in_a_session_gets_another(
    settings: Settings, folder: Path, faults: Faults, clock: FrozenClock
) -> None:
    relay = await smtp.start(folder, faults, clock=clock, most_recipients=10)
    channel = a_channel(settings, port=relay.port, most_per_session={"docomo.example": 10})
    loaded(channel, a_sample(settings, "N02"))
    letters = [a_letter(n, address=f"reader-{n}@docomo.example") for n in range(35)]
    settled = await carries(channel, letters)
    await relay.close()
    assert [letter for letter, outcome in settled if outcome.receipt] == letters
    assert len(list(smtp.received(folder))) == 35


async def test_a_relay_with_a_certificate_of_the_ward_and_a_password(
    settings: Settings, guarded: smtp.Server, folder: Path, certificate: Path
) -> None:
    channel = a_guarded_channel(settings, guarded, certificate)
    loaded(channel, a_sample(settings, "N02"))
    settled = await carries(channel, [a_letter(n) for n in range(5)])
    assert [bool(outcome.receipt) for _, outcome in settled] == [True] * 5
    assert all(b"with ESMTPSA id" in mail.path.read_bytes() for mail in smtp.received(folder))


def a_guarded_channel(
    settings: Settings, relay: smtp.Server, certificate: Path | None, password: str = "pass-word-1"
) -> Email:
    return a_channel(
        settings,
        port=relay.port,
        tls="starttls",
        user="ward",
        ca_file=str(certificate or ""),
        secrets={"smtp_password": password},
    )


async def test_a_wrong_password_closes_the_channel_and_is_not_told(
    settings: Settings, guarded: smtp.Server, certificate: Path
) -> None:
    with pytest.raises(ChannelClosed, match="smtp_password を確かめてください") as caught:
        await a_guarded_channel(settings, guarded, certificate, password="wrong-one").open()
    assert "wrong-one" not in str(caught.value)


async def test_a_certificate_that_nobody_vouches_for_closes_the_channel(
    settings: Settings, guarded: smtp.Server
) -> None:
    with pytest.raises(ChannelClosed, match="証明書を確かめられません"):
        await a_guarded_channel(settings, guarded, None).open()


async def test_a_relay_without_starttls_gets_no_mail_in_the_clear(settings: Settings, relay: smtp.Server) -> None:
    with pytest.raises(ChannelClosed, match="STARTTLS を扱いません"):
        await a_channel(settings, port=relay.port, tls="starttls").open()


async def test_a_channel_that_lacks_something_opens_no_line(settings: Settings) -> None:
    with pytest.raises(ChannelClosed, match="host"):
        await a_channel(settings, host="").open()


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (Fault(kind=Kind.REFUSE), "中継"),
        (Fault(kind=Kind.RATE), "中継が接続を断りました（421）。"),
        (Fault(kind=Kind.HANG), "中継が返事をしません。"),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else "",
)
async def test_a_relay_that_takes_no_connection_is_asked_again_later(
    settings: Settings, relay: smtp.Server, faults: Faults, fault: Fault, sentence: str
) -> None:
    faults.set("email", fault)
    channel = a_channel(settings, port=relay.port, timeout_s=0.2)
    with pytest.raises(TemporaryFailure, match=sentence):
        await channel.open()
    faults.set("email", None)
    await (await channel.open()).close()


async def test_a_relay_that_is_not_there_is_asked_again_later(settings: Settings, relay: smtp.Server) -> None:
    await relay.close()
    with pytest.raises(TemporaryFailure, match="中継につながりません。") as caught:
        await a_channel(settings, port=relay.port).open()
    assert isinstance(caught.value, DeliveryFailure)
