"""しなメール: a mailing over warm SMTP lines, in the language and form that each reader chose.

    [email]
    lines = 20
    timeout_s = 20
    dkim_selector = ""

    [email.most_per_session]
    "docomo.ne.jp" = 100

    [email.live]
    host = "relay.example.jp"
    port = 587
    tls = "starttls"
    user = "broadcaster"
    from = "shina-mail@mail.city.shinagawa.example.jp"
    list_id = "shina-mail.mail.city.shinagawa.example.jp"

Fourteen parts, one for each language and form (`ja.text`, `en.html`): rendered once, frozen with the issue, and spliced
for each reader. A reader who chose a language that a message lacks gets the Japanese with a sentence that says so;
one who chose another language that it has gets that first and the Japanese below.

Why it is so:

* One envelope a person: no reader ever sees another's address, and a domain that refuses one refuses only that one.
* A Message-ID is made of the message and the reader. A letter that is repeated after a crash is known as the same one,
  and a correction stands below what it corrects.
* A letter of a drill that reaches the channel of the live mails, or the other way round, is refused here once more.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import Any, ClassVar, cast

import aiosmtplib

from broadcaster import mime
from broadcaster.channel import (
    ChannelClosed,
    Kit,
    Letter,
    Outcome,
    Payload,
    PermanentFailure,
    TemporaryFailure,
)
from broadcaster.clock import parse_instant
from broadcaster.dkim import KeyNotUsable, Signature, Signer
from broadcaster.message import LANGUAGES, Info, Message, Mode
from broadcaster.mime import LEAVE, Fields, Template, Text
from broadcaster.smtp_session import Mail, Session

FORMS = ("text", "html")
TLS = ("starttls", "tls", "none")
DEFAULT_LINES = 20
DEFAULT_TIMEOUT_S = 20.0
SILENT_S = 1.0
"""After so long without a word the letter behind the one that waits goes by another line."""

MOST_CHARACTERS = 2_000
"""Of a text: some mobile carriers cut what is longer."""

_LONGEST_LINK = 75
_TOKEN = 32


@dataclass(frozen=True, kw_only=True)
class Relay:
    """Where the mails are handed over, and in whose name."""

    host: str
    port: int
    tls: str
    user: str
    sender: str
    list_id: str

    @functools.cached_property
    def domain(self) -> str:
        return _domain(self.sender)


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """The words of one part, ready for every reader, and the messages that it refers to."""

    template: Template
    signature: Signature | None
    identifier: str
    references: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Email:
    name: ClassVar[str] = "email"
    mode: Mode
    kit: Kit
    relay: Relay
    lines: int
    signer: Signer | None
    _loaded: dict[tuple[int, str], Loaded] = field(default_factory=dict, repr=False)

    @classmethod
    def built(cls, kit: Kit) -> Email:
        options = kit.options
        relay = Relay(
            host=str(options.get("host", "")),
            port=_number(options.get("port"), 587),
            tls=str(options.get("tls", "starttls")),
            user=str(options.get("user", "")),
            sender=str(options.get("from", "")),
            list_id=str(options.get("list_id", "")),
        )
        signer, _ = _signer(kit, relay)
        return cls(
            mode=kit.mode,
            kit=kit,
            relay=relay,
            lines=_number(options.get("lines"), DEFAULT_LINES),
            signer=signer,
        )

    def missing(self) -> Sequence[str]:
        table = f"channels.toml の [email.{self.mode.value}]"
        relay = self.relay
        sentences = [
            f"{table} の {name} に、{what}を書いてください。"
            for name, what, value in (
                ("host", "メールの中継の名前", relay.host),
                ("from", "差出人のアドレス", relay.sender),
                ("list_id", "一覧の名（shina-mail.… の形）", relay.list_id),
            )
            if not value
        ]
        if relay.tls not in TLS:
            sentences.append(f"{table} の tls は {'・'.join(TLS)} のどれかにしてください。")
        if relay.tls == "none" and not _is_this_machine(relay.host):
            sentences.append(f'{table} の tls = "none" は、この機械の中の中継にだけ使えます。starttls にしてください。')
        if relay.sender and not _is_address(relay.sender):
            sentences.append(f"{table} の from はメールアドレスではありません。")
        if relay.user and not self.kit.secret("smtp_password"):
            sentences.append(
                f"中継のパスワードがありません。{self._secret_name('smtp_password')} のファイルを置いてください。"
            )
        if not self._can_trust():
            sentences.append("ca_file の証明書を読めません。PEM のファイルの場所を書いてください。")
        if _longest_leave_link(self.kit) > _LONGEST_LINK:
            sentences.append(
                f"配信停止のリンクが{_LONGEST_LINK}文字を超えます。ward.toml の base_url を短くしてください。"
            )
        if (problem := _signer(self.kit, relay)[1]) is not None:
            sentences.append(problem)
        return sentences

    def _can_trust(self) -> bool:
        try:
            self._tls_context()
        except OSError:  # a broken file is an SSLError, which is one
            return False
        return True

    def _secret_name(self, name: str) -> str:
        return f"drill_{name}" if self.mode is Mode.DRILL else name

    # Compose

    def compose(self, message: Message) -> Sequence[Payload]:
        """A part for each language and form; `omitted` says what this kind of reader does not get."""
        return [self._part(message, language, form) for language in LANGUAGES for form in FORMS]

    def _part(self, message: Message, language: str, form: str) -> Payload:
        info = message.in_language(language)
        content: dict[str, Any] = {
            "identifier": message.identifier,
            "references": [reference.identifier for reference in message.references],
            "language": (info or message.info).lang_attribute,
            "subject": self._subject(message, info or message.info),
            "sent_at": message.began_at.isoformat(),
            "is_urgent": message.is_alert,
            "text": self._words("text", message, language),
        }
        if form == "html":
            content["html"] = self._words("html", message, language)
        return Payload(part=f"{language}.{form}", content=content, omitted=self._omitted(message, form, content))

    def _subject(self, message: Message, info: Info) -> str:
        """The headline, with a tag before an alert that has none of its own."""
        marked, headline = _split_tags(info.headline)
        if not message.is_alert or message.change is not None or self._tag(info) in marked:
            return info.headline
        return f"{marked}{self._tag(info)}{'' if self._tag(info).endswith('】') else ' '}{headline}"

    def _tag(self, info: Info) -> str:
        return self.kit.words.phrase("tag_emergency", info.language)

    def _words(self, form: str, message: Message, language: str) -> str:
        """The words in the reader's language, then the Japanese; `LEAVE` stands for the reader's own link."""
        own = message.in_language(language)
        infos = [own] if own is not None else []
        if own is None or own is not message.info:
            infos.append(message.info)
        return self.kit.render(
            "email/message.html" if form == "html" else "email/message.txt",
            language=language,
            message=message,
            infos=infos,
            is_missing=own is None,
            category=self.kit.ward.category_by_id(message.category),
            ward=self.kit.ward,
            page=self.kit.address("emergency"),
            picture_address=self.kit.picture_address,
            leave=LEAVE,
        )

    def _omitted(self, message: Message, form: str, content: Mapping[str, Any]) -> tuple[str, ...]:
        remarks = []
        if message.images and (form == "text" or message.is_alert):
            remarks.append("画像は載りません。説明だけが載ります。")
        if (more := len(content["text"]) - MOST_CHARACTERS) > 0:
            remarks.append(f"本文が{more}字長く、携帯電話では終わりが切れることがあります。")
        return tuple(remarks)

    # Load and splice

    def load(self, issue: int, payload: Payload) -> None:
        template = self.template_of(payload)
        self._loaded[issue, payload.part] = Loaded(
            template=template,
            signature=self.signer.of(template.headers) if self.signer is not None else None,
            identifier=payload.content["identifier"],
            references=tuple(payload.content["references"]),
        )

    def template_of(self, payload: Payload) -> Template:
        """The mails of one part, but for what is each reader's own."""
        content, ward = payload.content, self.kit.ward
        texts = [Text(subtype="plain", words=content["text"])]
        if "html" in content:
            texts.append(Text(subtype="html", words=content["html"]))
        is_japanese = content["language"] == "ja"
        return mime.template(
            sender=(ward.mail_name if is_japanese else ward.mail_name_english, self.relay.sender),
            subject=content["subject"],
            sent_at=parse_instant(content["sent_at"]),
            language=content["language"],
            list_id=self.relay.list_id,
            texts=texts,
            is_urgent=content["is_urgent"],
            has_references=bool(content["references"]),
        )

    def unload(self, issue: int) -> None:
        for key in [key for key in self._loaded if key[0] == issue]:
            del self._loaded[key]

    def write(self, letter: Letter) -> Mail:
        """This reader's mail. Raises PermanentFailure for a reader that it must not or cannot be written to."""
        if letter.is_drill is not (self.mode is Mode.DRILL):
            raise PermanentFailure("本番と訓練の宛先が食い違っています。送りませんでした。")
        loaded = self._loaded.get((letter.issue, letter.part))
        if loaded is None:
            raise TemporaryFailure("文面の用意ができていません。")
        own = f".{letter.subscriber:x}@{self.relay.domain}"
        try:
            to = mime.mailbox(letter.address)
            references = tuple([earlier + own for earlier in loaded.references]) if loaded.references else ()
            fields = Fields(to, loaded.identifier + own, self.kit.leave_link(letter), references)
            return Mail(to, loaded.template.splice(fields, signature=loaded.signature))
        except mime.NotSpliceable:
            raise PermanentFailure("メールに使えない宛先です。名簿を直してください。") from None

    # Lines

    async def open(self) -> Line:
        if missing := self.missing():
            raise ChannelClosed(missing[0])
        return Line(self, await self.session())

    async def session(self) -> Session:
        """Connected, encrypted and signed in. Raises TemporaryFailure or ChannelClosed."""
        timeout_s, smtp = self._timeout_s, self._connection()
        try:
            await smtp.connect()
            await smtp.ehlo()  # the library says it only where it must sign in or encrypt
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            smtp.close()
            raise _not_connected(error) from None
        assert smtp.transport is not None
        return Session(
            cast(asyncio.Transport, smtp.transport),
            sender=self.relay.sender,
            write=self.write,
            pipelining=smtp.supports_extension("pipelining"),
            timeout_s=timeout_s,
            silent_s=SILENT_S,
            most_for=self.kit.options.get("most_per_session", {}),
        )

    @property
    def _timeout_s(self) -> float:
        return float(self.kit.options.get("timeout_s", DEFAULT_TIMEOUT_S))

    def _connection(self) -> aiosmtplib.SMTP:
        """To the relay, as it is configured; not open yet."""
        return aiosmtplib.SMTP(
            hostname=self.relay.host,
            port=self.relay.port,
            timeout=self._timeout_s,
            use_tls=self.relay.tls == "tls",
            start_tls=self.relay.tls == "starttls",
            tls_context=self._tls_context(),
            username=self.relay.user or None,
            password=self.kit.secret("smtp_password") if self.relay.user else None,
            local_hostname=_domain(self.relay.sender),
        )

    async def tell(self, to: str, subject: str, body: str, *, key: str) -> None:
        """To one of the staff, over a connection of its own: it takes no line from readers. Unsigned where the relay
        signs; these mails stay within the ward."""
        if missing := self.missing():
            raise ChannelClosed(missing[0])
        mail = EmailMessage(policy=SMTP)
        mail["From"] = self.relay.sender
        mail["To"] = to
        mail["Subject"] = subject
        mail["Message-ID"] = f"<staff.{key}@{_domain(self.relay.sender)}>"
        mail["Date"] = format_datetime(self.kit.clock.now())
        mail["Auto-Submitted"] = "auto-generated"
        mail.set_content(body)
        try:
            async with self._connection() as smtp:
                await smtp.send_message(mail, sender=self.relay.sender, recipients=[to])
        except (aiosmtplib.SMTPResponseException, aiosmtplib.SMTPRecipientsRefused) as error:
            code = error.code if isinstance(error, aiosmtplib.SMTPResponseException) else error.recipients[0].code
            failure = PermanentFailure if 500 <= code < 600 else TemporaryFailure
            raise failure(f"{code}") from None  # the words of a relay may hold the address
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            raise _not_connected(error) from None

    def _tls_context(self) -> ssl.SSLContext | None:
        """The system's authorities, or those of the ward's own relay."""
        if self.relay.tls == "none":
            return None
        return ssl.create_default_context(cafile=self.kit.options.get("ca_file") or None)

    async def close(self) -> None:
        """Lines are closed by who opened them."""


class Line:
    """One warm connection; a session that has to end in good order is followed by another."""

    def __init__(self, email: Email, session: Session) -> None:
        self._email, self._session = email, session

    async def carry(self, take: Callable[[], Letter | None], settle: Callable[[Letter, Outcome], None]) -> None:
        while True:
            if not self._session.is_open:
                self._session.close()
                self._session = await self._email.session()
            if await self._session.carry(take, settle):
                return

    async def close(self) -> None:
        self._session.close()


def _not_connected(error: Exception) -> TemporaryFailure | ChannelClosed:
    """What only a person can mend closes the channel; the rest is tried again."""
    if isinstance(error, aiosmtplib.SMTPAuthenticationError):
        return ChannelClosed(
            f"中継が利用者名かパスワードを断りました（{error.code}）。smtp_password を確かめてください。"
        )
    if isinstance(error, ssl.SSLError) or isinstance(error.__cause__, ssl.SSLError):
        return ChannelClosed("中継の証明書を確かめられません。host と証明書を確かめてください。")
    if isinstance(error, aiosmtplib.SMTPResponseException):
        return TemporaryFailure(f"中継が接続を断りました（{error.code}）。")
    if isinstance(error, TimeoutError | aiosmtplib.SMTPTimeoutError):
        return TemporaryFailure("中継が返事をしません。")
    for extension in ("STARTTLS", "AUTH"):  # the library has no class of its own for these
        if extension in str(error):
            return ChannelClosed(f"中継が {extension} を扱いません。tls と port を確かめてください。")
    return TemporaryFailure("中継につながりません。")


def _split_tags(headline: str) -> tuple[str, str]:
    """`【訓練】【緊急】…` as its leading tags and the rest."""
    at = 0
    while headline.startswith("【", at) and (end := headline.find("】", at)) >= 0:
        at = end + 1
    return headline[:at], headline[at:]


def _signer(kit: Kit, relay: Relay) -> tuple[Signer | None, str | None]:
    """Who signs, or why nobody can; neither where the relay signs."""
    selector = str(kit.options.get("dkim_selector", ""))
    if not selector or kit.is_rehearsal:
        return None, None
    pem = kit.secret("dkim_key")
    if not pem:
        return None, "dkim_selector がありますが、署名の鍵がありません。dkim_key のファイルを置いてください。"
    try:
        return Signer.from_pem(pem, domain=_domain(relay.sender), selector=selector), None
    except KeyNotUsable as problem:
        return None, str(problem)


def _longest_leave_link(kit: Kit) -> int:
    return len(f"{kit.ward.base_url}/u/") + _TOKEN


def _is_address(text: str) -> bool:
    try:
        return mime.mailbox(text) == text
    except mime.NotSpliceable:
        return False


def _is_this_machine(host: str) -> bool:
    return host in ("localhost", "127.0.0.1", "::1")


def _domain(address: str) -> str:
    return address.rpartition("@")[2]


def _number(value: object, default: int) -> int:
    return value if isinstance(value, int) and value > 0 else default
