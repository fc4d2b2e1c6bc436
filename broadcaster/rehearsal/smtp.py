"""The mail relay of the rehearsal town: a strict one, that files every mail it takes in a maildir.

    EHLO       PIPELINING, SIZE, 8BITMIME, ENHANCEDSTATUSCODES; STARTTLS and AUTH where they are asked for
    new/       one file a mail, named in order of arrival: the mail as it came, below the fields a relay puts on top
    received   reads them again, cheaply; any program that knows maildirs may do the same

It refuses what the strictest relays refuse, so that nothing is learned on the night: a CR or LF alone, a line over 998
bytes, a header in 8 bits, From, Date or Message-ID missing, any of these or To or Subject twice, a second recipient
(one envelope a person), a recipient who is not in To, more than 1 MiB. A mail that it took is a mail that was queued:
the reply names its file, and a session that ends without QUIT loses nothing of what came before.

A fault that concerns the relay as a whole (refuse, hang, 429 with neither stage nor domains) meets new connections, and
open ones at their next mail. The others meet one recipient (stage `rcpt`) or one mail (stage `data`), and only the
session it came over.

Why aiosmtpd and not a server of our own: two readings of RFC 5321 find each other's mistakes. It is the grammar of the
commands, the order they come in, STARTTLS and AUTH. Its reading is replaced: it drops pipelined commands when the other
side has ended, lets a LF stand alone, takes a mail apart line by line, and logs every address. Why no fsync: what is
lost when a rehearsal loses its power was never for anybody.
"""

from __future__ import annotations

import asyncio
import email
import email.policy
import heapq
import hmac
import itertools
import logging
import os
import re
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime, getaddresses, parsedate_to_datetime
from pathlib import Path
from typing import NoReturn

import structlog
from aiosmtpd.smtp import SMTP, Envelope, Session, TLSSetupException

from broadcaster.clock import Clock, local
from broadcaster.rehearsal.faults import Fault, Faults, Kind

log = structlog.get_logger(__name__)
# aiosmtpd's own log would hold every address and every command. A filter, because a later `dictConfig` of somebody
# else switches a disabled logger on again.
logging.getLogger("mail.log").addFilter(lambda _record: False)

MEDIUM = "email"
HOST = "relay.rehearsal.test"
MOST_BYTES = 1024 * 1024
MOST_COMMAND = 2048  # bytes of one command; room for AUTH
LONGEST_LINE = 998  # RFC 5322 §2.1.1, without CR LF
MOST_MISTAKES = 10
"""After so many commands that are none, the other side does not speak SMTP."""

IN_ONE_GO = 20
"""After so many commands of a long pipeline the others have their turn."""

_CRLF = b"\r\n"
_END = b"\r\n.\r\n"
_CLOSE_WITH_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no time: the other side sees a reset, not an end

_CONNECTION, _RCPT, _DATA = "connection", "rcpt", "data"
_STAGES: Mapping[Kind, str] = {
    Kind.REFUSE: _CONNECTION,
    Kind.HANG: _CONNECTION,
    Kind.RATE: _CONNECTION,
    Kind.TEMPORARY: _RCPT,
    Kind.PERMANENT: _RCPT,
    Kind.DRIP: _RCPT,
    Kind.RESET: _DATA,
    Kind.DROP: _DATA,
}
"""Where a fault shows that names no stage."""

# What was received


@dataclass(frozen=True, kw_only=True)
class Mail:
    """One mail that the relay took. What is asked of it is read from its head."""

    path: Path
    head: bytes

    @property
    def id(self) -> str:
        """What the relay's reply called it."""
        return self.path.name

    @property
    def message_id(self) -> str:
        return self._value("Message-ID")

    @property
    def sender(self) -> str:
        """Of the envelope; empty where no answer is wanted."""
        return self._value("Return-Path")[1:-1]

    @property
    def recipient(self) -> str:
        """Of the envelope."""
        return self._value("Delivered-To")

    @property
    def subject(self) -> str:
        return str(email.policy.default.header_factory("Subject", self._value("Subject")))

    @property
    def received_at(self) -> datetime:
        return parsedate_to_datetime(self._value("Received").rpartition(";")[2])

    def raw(self) -> bytes:
        """As the sender gave it, to the byte: without the relay's own fields."""
        return _TRACE.sub(b"", self.path.read_bytes(), count=1)

    def parsed(self) -> EmailMessage:
        return email.message_from_bytes(self.path.read_bytes(), policy=email.policy.default)

    def _value(self, name: str) -> str:
        """The first field of that name: a relay's own stand on top."""
        wanted = name.lower()
        return next((value.decode("utf-8", "replace") for field, value in _fields(self.head) if field == wanted), "")


_TRACE = re.compile(rb"\AReturn-Path:.*\r\nDelivered-To:.*\r\nReceived:.*\r\n(?:[ \t].*\r\n)*")


def received(folder: Path) -> Iterator[Mail]:
    """Everything the relay took, in order of arrival."""
    yield from _mails(folder, sorted(_names(folder)))


def latest(folder: Path, n: int) -> list[Mail]:
    """The last `n`, newest first. Reads no more than these."""
    return list(_mails(folder, heapq.nlargest(n, _names(folder))))


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder / "new")
    except FileNotFoundError:
        return []  # nothing was sent yet


def _mails(folder: Path, names: Iterable[str]) -> Iterator[Mail]:
    for name in names:
        path = folder / "new" / name
        try:
            yield Mail(path=path, head=_head_of(path))
        except FileNotFoundError:
            continue  # somebody has put it away since


def _head_of(path: Path) -> bytes:
    head = b""
    with path.open("rb", buffering=0) as file:
        while b"\r\n\r\n" not in head and (more := file.read(4096)):
            head += more
    return head.partition(b"\r\n\r\n")[0]


# The running relay


class Server:
    def __init__(self, listener: asyncio.Server, relay: _Relay) -> None:
        self._listener, self._relay = listener, relay
        self.port: int = listener.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Also cuts the sessions that are open, those that hang too."""
        self._listener.close()
        await self._relay.cut_all()
        await self._listener.wait_closed()


async def start(
    folder: Path,
    faults: Faults,
    *,
    clock: Clock,
    host: str = "127.0.0.1",
    port: int = 0,
    tls: ssl.SSLContext | None = None,
    users: Mapping[str, str] | None = None,
    most_recipients: int = 0,
) -> Server:
    """Listen. Raises OSError when somebody else has the port.

    `most_recipients` in one session, as with docomo's 100; the next one is answered with 421. 0: no end.
    """
    relay = _Relay(
        shelf=_Maildir(folder), faults=faults, clock=clock, tls=tls, users=users or {}, most_recipients=most_recipients
    )
    listener = await asyncio.get_running_loop().create_server(lambda: _Session(relay), host, port)
    return Server(listener, relay)


@dataclass(kw_only=True)
class _Relay:
    """What all sessions share."""

    shelf: _Maildir
    faults: Faults
    clock: Clock
    tls: ssl.SSLContext | None
    users: Mapping[str, str]
    most_recipients: int
    sessions: set[_Session] = field(default_factory=set)
    is_closed: bool = False

    def knows(self, _mechanism: str, user: bytes, password: bytes) -> bool:
        expected = self.users.get(user.decode("utf-8", "replace"))
        return expected is not None and hmac.compare_digest(expected.encode(), password)

    def fault(self, stage: str, domain: str = "") -> Fault | None:
        """The fault that is met here, or None."""
        fault = self.faults.all().get(MEDIUM)
        if fault is None or _stage(fault) != stage:
            return None
        return self.faults.meet(MEDIUM, stage=stage, domain=domain)

    async def cut_all(self) -> None:
        self.is_closed = True
        await asyncio.gather(*(session.cut() for session in list(self.sessions)))


def _stage(fault: Fault) -> str:
    if fault.stage:
        return fault.stage
    first = _STAGES[fault.kind]
    return _RCPT if first == _CONNECTION and fault.domains else first


# One session


class _Ended(Exception):
    """The session is over; everything that was to be said has been said."""


class _Session(SMTP):
    line_length_limit = MOST_BYTES  # for the library: what is read ahead at most

    def __init__(self, relay: _Relay) -> None:
        self._relay = relay
        self._mistakes = self._recipients = 0
        self._drips_for = 0.0  # seconds that the next reply takes
        super().__init__(
            self,  # its own `handle_…` below are the library's hooks
            hostname=HOST,
            data_size_limit=MOST_BYTES,
            tls_context=relay.tls,
            auth_require_tls=relay.tls is not None,
            auth_callback=relay.knows,
            loop=asyncio.get_running_loop(),
        )

    # The connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._relay.sessions.add(self)
        if self._relay.is_closed:
            self._writer.transport.abort()  # it was on its way in when the door was shut

    def connection_lost(self, error: Exception | None) -> None:
        self._relay.sessions.discard(self)
        super().connection_lost(error)

    def eof_received(self) -> bool:
        """What was pipelined before the end is still worked off."""
        self._reader.feed_eof()
        assert self.session is not None  # made with the connection
        return self.session.ssl is None  # TLS knows no half-open connection

    async def cut(self) -> None:
        assert self._handler_coroutine is not None  # made with the connection
        self._writer.transport.abort()
        self._handler_coroutine.cancel()
        await asyncio.wait([self._handler_coroutine])

    async def _handle_client(self) -> None:
        try:
            await self.push(await self._show(self._relay.fault(_CONNECTION), lambda: f"220 {HOST} ESMTP"))
            for n in itertools.count(1):
                await self._obey(await self._command())
                if n % IN_ONE_GO == 0:
                    await asyncio.sleep(0)
        except (_Ended, asyncio.IncompleteReadError, ConnectionError):
            pass  # this side or the other has ended it, and there is nobody left to tell
        except TLSSetupException as error:
            self.connection_lost(error)  # the library's own way: asyncio does not say so in this case
        finally:
            self._writer.close()

    async def _command(self) -> bytes:
        try:
            return await self._reader.readuntil(b"\n")
        except asyncio.LimitOverrunError:
            await self._end_with("500 5.5.6 A command without an end")

    async def _obey(self, line: bytes) -> None:
        self._reset_timeout()
        name, _, argument = line.rstrip(_CRLF).partition(b" ")
        act = getattr(self, f"smtp_{name.decode('ascii').upper()}", None) if name.isalpha() else None
        if not line.endswith(_CRLF) or act is None:
            await self._mistake("500 5.5.2 Not a command of SMTP, or not ended by CR LF")
        elif len(line) > MOST_COMMAND:
            await self._mistake("500 5.5.6 Command too long")
        elif not argument.isascii():
            await self._mistake("501 5.6.7 Not in ASCII")
        else:
            await act(argument.decode("ascii").strip() or None)

    async def _mistake(self, reply: str) -> None:
        self._mistakes += 1
        if self._mistakes >= MOST_MISTAKES:
            await self._end_with("421 4.7.0 Too many errors")
        await self.push(reply)

    async def _end_with(self, reply: str) -> NoReturn:
        await self.push(reply)
        raise _Ended

    async def push(self, status: str | bytes) -> None:
        """Gives the library's own replies the enhanced code that they lack."""
        assert self.session is not None  # made with the connection
        said = status if isinstance(status, bytes) else status.encode("ascii", "replace")
        if self.session.extended_smtp and said[:4] in _ENHANCED and not _HAS_ENHANCED.match(said):
            said = said[:4] + _ENHANCED[said[:4]] + said[3:]
        await super().push(await self._dripped(said))

    async def _dripped(self, said: bytes) -> bytes:
        """Say all but the end letter by letter, where a fault wants it; gives what is left to say."""
        seconds, self._drips_for = self._drips_for, 0.0
        while seconds and len(said) > 1:
            self._writer.write(said[:1])
            await asyncio.sleep(seconds / len(said))
            seconds, said = seconds * (1 - 1 / len(said)), said[1:]
        await asyncio.sleep(seconds)
        return said

    # The commands

    async def handle_EHLO(
        self, _server: SMTP, session: Session, _envelope: Envelope, host: str, _replies: list[str]
    ) -> list[str]:
        session.host_name = host
        offers = [HOST, "PIPELINING", f"SIZE {MOST_BYTES}", "8BITMIME"]
        if self._relay.tls is not None and session.ssl is None:
            offers.append("STARTTLS")
        if self._relay.users and (self._relay.tls is None or session.ssl is not None):
            offers.append("AUTH LOGIN PLAIN")
        # As one reply: the library would send line by line.
        return ["\r\n".join([*(f"250-{offer}" for offer in offers), "250 ENHANCEDSTATUSCODES"])]

    def _getaddr(self, arg: str) -> tuple[str | None, str | None]:
        """The address of MAIL and RCPT and what follows it.

        The library's reading of it, made for headers, takes comments and bare names, and a third of all the time.
        """
        path = _PATH.fullmatch(arg)
        return (path["address"] or "<>", path["rest"]) if path is not None else (None, None)

    async def check_auth_needed(self, caller_method: str) -> bool:
        assert self.session is not None  # made with the connection
        is_needed = bool(self._relay.users) and not self.session.authenticated
        if is_needed:
            await self.push("530 5.7.0 Authentication required")
        return is_needed

    async def smtp_AUTH(self, arg: str) -> None:
        try:
            await super().smtp_AUTH(arg)
        except ValueError:  # asyncio's name for a line without an end, where the library reads one
            await self._end_with("500 5.5.6 An answer without an end")

    async def smtp_MAIL(self, arg: str | None) -> None:
        said = await self._show(self._relay.fault(_CONNECTION), lambda: "")
        if said:
            await self.push(said)
        else:
            await super().smtp_MAIL(arg)

    async def handle_RCPT(
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if "@" not in address:
            return "550 5.1.3 Not an address"
        if envelope.rcpt_tos:
            self.envelope = Envelope()  # neither of them gets it
            return "550 5.5.3 One envelope a person: this mail has its recipient"
        if 0 < self._relay.most_recipients <= self._recipients:
            await self._end_with("421 4.7.0 Too many recipients in one session")

        def accept() -> str:
            self._recipients += 1
            envelope.rcpt_tos.append(address)
            return "250 2.1.5 Ok"

        return await self._show(self._relay.fault(_RCPT, _domain(address)), accept)

    async def smtp_DATA(self, arg: str | None) -> None:
        if await self.check_helo_needed() or await self.check_auth_needed("DATA"):
            return
        assert self.envelope is not None  # made with the connection
        if arg or not self.envelope.rcpt_tos:
            await self.push("501 5.5.4 DATA takes no argument" if arg else "503 5.5.1 No recipient")
            return
        envelope = self.envelope
        fault = self._relay.fault(_DATA, _domain(envelope.rcpt_tos[0]))
        await self.push("354 End data with <CR><LF>.<CR><LF>")
        if fault is not None and fault.kind is Kind.RESET:
            await self._reader.readexactly(1)  # in the middle
            self._reset()
        content = await self._content()
        self.envelope = Envelope()
        await self.push(await self._show(fault, lambda: self._take(envelope, content)))

    async def _content(self) -> bytes:
        """As RFC 5321 §4.5.2 has it: ends at a line with nothing but a dot, and only between CR LF and CR LF.

        Of what is too large only its size is kept: it is one byte more than the most.
        """
        data, is_too_large = bytearray(_CRLF), False  # the end of the line DATA may be the beginning of the end
        while not data.endswith(_END):
            if len(data) > 2 * MOST_BYTES:  # more than dots that are doubled can explain
                is_too_large = True
                del data[: 1 - len(_END)]
            try:
                data += await self._reader.readuntil(_END[2:])
            except asyncio.LimitOverrunError as overrun:
                data += await self._reader.readexactly(overrun.consumed)
        if is_too_large:
            return bytes(MOST_BYTES + 1)
        return bytes(data[: 2 - len(_END)]).replace(b"\r\n.", _CRLF)[len(_CRLF) :]

    def _take(self, envelope: Envelope, content: bytes) -> str:
        """File it, or say why not."""
        objection = _objection(content, envelope.rcpt_tos[0])
        if objection is not None:
            return objection
        try:
            return f"250 2.0.0 Ok: queued as {self._relay.shelf.file(lambda id: self._trace(envelope, id) + content)}"
        except OSError as error:
            log.error("rehearsal.mail_not_filed", kind=type(error).__name__, code=error.errno)
            return "452 4.3.1 Cannot be stored"

    def _trace(self, envelope: Envelope, id: str) -> bytes:
        """The fields that a relay puts on top, the last one first (RFC 5321 §4.4)."""
        assert self.session is not None  # made with the connection
        recipient = envelope.rcpt_tos[0]
        sender = "" if envelope.mail_from in (None, "<>") else envelope.mail_from
        way = "ESMTP" + ("S" if self.session.ssl is not None else "") + ("A" if self.session.authenticated else "")
        caller = re.sub(r"[^\w.:\[\]-]", "?", self.session.host_name or "", flags=re.ASCII)[:255]
        at = format_datetime(local(self._relay.clock.now()))
        return (
            f"Return-Path: <{sender}>\r\n"
            f"Delivered-To: {recipient}\r\n"
            f"Received: from {caller}\r\n\tby {HOST} with {way} id {id}\r\n\tfor <{recipient}>; {at}\r\n"
        ).encode("ascii")

    # Faults

    async def _show(self, fault: Fault | None, act: Callable[[], str]) -> str:
        """The reply, under this fault. Raises _Ended where the fault ends the session."""
        match fault.kind if fault is not None else None:
            case None:
                return act()
            case Kind.TEMPORARY:
                return "451 4.7.1 Try again later"
            case Kind.PERMANENT:
                return "550 5.1.1 No such user here"
            case Kind.DRIP:
                assert fault is not None
                reply = act()
                self._drips_for = fault.seconds
                return reply
            case Kind.DROP:
                act()
            case Kind.RATE:
                await self.push("421 4.7.0 Too much at once, try again later")
            case Kind.HANG:
                while await self._reader.read(MOST_BYTES):
                    pass  # until the other side gives up
            case Kind.RESET:
                self._reset()
            case Kind.REFUSE:
                pass
        raise _Ended

    def _reset(self) -> NoReturn:
        connection = self._writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _CLOSE_WITH_RESET)
        self._writer.transport.abort()
        raise _Ended


_PATH = re.compile(
    r"""<(?P<address>(?:[^\x00-\x20\x7f<>()\[\],;:@"\\]{1,64}|"(?:[ !#-\[\]-~]|\\[ -~]){0,62}")@(?:[\w.-]{1,255}|\[[\w.:]{1,255}\])|)>"""
    r"(?P<rest>(?: .*)?)",
    re.ASCII,
)
"""RFC 5321 §4.1.2, with the two dots in a row and the dot before the @ of old carrier addresses."""
_HAS_ENHANCED = re.compile(rb"\d{3} [245]\.\d+\.\d+ ")
_ENHANCED = {
    b"221 ": b"2.0.0", b"250 ": b"2.0.0", b"252 ": b"2.5.0", b"454 ": b"4.7.0", b"500 ": b"5.5.2",
    b"501 ": b"5.5.4", b"502 ": b"5.5.1", b"503 ": b"5.5.1", b"552 ": b"5.3.4", b"555 ": b"5.5.4",
}  # fmt: skip


def _domain(address: str) -> str:
    return address.rpartition("@")[2].lower()


# What is refused


_NAME = re.compile(rb"[!-9;-~]+")
_FOLD = re.compile(rb"\r\n(?=[ \t])")
_EXACTLY_ONCE = ("From", "Date", "Message-ID")
_AT_MOST_ONCE = ("To", "Subject")


def _objection(content: bytes, recipient: str) -> str | None:
    """Why a strict relay does not take it: a reply, or None."""
    if len(content) > MOST_BYTES:
        return f"552 5.3.4 Larger than {MOST_BYTES} bytes"
    if b"\0" in content:
        return "550 5.6.0 Holds a null byte"
    breaks = content.count(_CRLF)
    if content.count(b"\r") != breaks or content.count(b"\n") != breaks:
        return "550 5.6.11 A CR or LF stands alone"
    if max(map(len, content.split(_CRLF))) > LONGEST_LINE:
        return f"550 5.6.0 A line is longer than {LONGEST_LINE} bytes"
    head = b"" if content.startswith(_CRLF) else content.partition(b"\r\n\r\n")[0].removesuffix(_CRLF)
    return _objection_to_head(head, recipient)


def _objection_to_head(head: bytes, recipient: str) -> str | None:
    if not head.isascii():
        return "550 5.6.9 A header is not in ASCII"
    fields = _fields(head)
    if any(not name for name, _ in fields):
        return "550 5.6.0 A line of the header is not a field"
    counts = Counter(name for name, _ in fields)
    for name in _EXACTLY_ONCE:
        if counts[name.lower()] == 0:
            return f"550 5.7.1 No {name}"
    for name in (*_EXACTLY_ONCE, *_AT_MOST_ONCE):
        if counts[name.lower()] > 1:
            return f"550 5.7.1 More than one {name}"
    told = [value.decode("ascii") for name, value in fields if name == "to"]
    if _comparable(recipient) not in {_comparable(address) for _, address in getaddresses(told)}:
        return "550 5.7.1 The recipient is not in To"
    return None


def _fields(head: bytes) -> list[tuple[str, bytes]]:
    """Unfolded, names in lower case; the name is empty where a line is no field."""
    found = []
    for line in _FOLD.sub(b"", head).split(_CRLF):
        name, colon, value = line.partition(b":")
        name = name.rstrip(b" \t")
        is_field = bool(colon) and _NAME.fullmatch(name) is not None
        found.append((name.decode("ascii").lower() if is_field else "", value.strip()))
    return found


def _comparable(address: str) -> tuple[str, str]:
    """Quotes that some old carrier addresses need in one place and not in the other make no difference."""
    local_part, _, domain = address.rpartition("@")
    return local_part.strip('"'), domain.lower()


# The maildir


class _Maildir:
    """Each file is written aside and then renamed, so that a reader never sees half of one."""

    def __init__(self, folder: Path) -> None:
        self._tmp, self._new = folder / "tmp", folder / "new"
        for path in (self._tmp, self._new, folder / "cur"):
            path.mkdir(parents=True, exist_ok=True)
        before = (name.partition(".")[0] for path in (self._new, folder / "cur") for name in os.listdir(path))
        self._numbers = itertools.count(max((int(number) for number in before if number.isdecimal()), default=0) + 1)

    def file(self, content_of: Callable[[str], bytes]) -> str:
        """The name: counted, because a clock may stand still; and with the process, because two may share a folder."""
        name = f"{next(self._numbers):010}.{os.getpid()}.{HOST}"
        partial = self._tmp / name
        partial.write_bytes(content_of(name))
        os.rename(partial, self._new / name)
        return name
