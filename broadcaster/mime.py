"""A mail as bytes: built once for all readers of one kind, spliced for each of them.

What differs from reader to reader is the address, the Message-ID, the link by which one leaves, and nothing else. The
rest is encoded once; a reader's copy is a join of ready pieces (some 3 µs, where a library's message takes a
millisecond). Text is base64, so that no relay has a reason to encode it anew and break a signature; the leaving link
stands at the end of each part, where a new base64 group begins.

The pieces bypass the checks of a mail library. So what is spliced is checked here instead: `splice` refuses an address
or a link that could begin a header, and `Template` holds lines that are short enough (RFC 5322 §2.1.1) and begin with
no dot (RFC 5321 §4.5.2).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from email.header import Header
from email.utils import format_datetime, formataddr
from typing import NamedTuple, Protocol, cast

from broadcaster.clock import local

LEAVE = "\x00leave\x00"
"""Stands in a text where the reader's own link belongs, at most once, near its end."""

MOST_LINE = 998
_ADDRESS = re.compile(r"[!-;=?-~]+@[A-Za-z0-9.-]+", re.ASCII)  # no blank, no control, no `<` `>`
_LINK = re.compile(r"https?://[!-;=?-~]+", re.ASCII)
_LONGEST_ADDRESS = 254  # RFC 5321 §4.5.3.1.3, without the angle brackets
_PLAIN = re.compile(r"[ -~]{0,900}", re.ASCII)
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_ORDINARY = re.compile(rf"{_ATOM}(?:\.{_ATOM})*@[A-Za-z0-9.-]+", re.ASCII)
_LONGEST_LINK = 75  # a longer List-Unsubscribe is folded by relays that rewrite headers, and then opens nothing


class NotSpliceable(ValueError):
    """An address or a link that must not stand in a header. Holds neither."""


class Mailbox(str):
    """An address as SMTP and headers take it; made by `mailbox`, and not looked at again."""

    __slots__ = ()


class Fields(NamedTuple):
    """What is one reader's own. Message-IDs without their angle brackets."""

    to: str
    message_id: str
    leave: str
    references: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Text:
    """One rendering of the words, with `LEAVE` where the reader's link belongs."""

    subtype: str  # plain, html
    words: str


class Stencil:
    """Text with named holes, put into form once."""

    def __init__(self, parts: Iterable[str]) -> None:
        self._format = "".join([f"%({part})s" if isinstance(part, Hole) else part.replace("%", "%%") for part in parts])

    def fill(self, values: Mapping[str, str]) -> str:
        """Raises KeyError for a hole without a value."""
        return self._format % values


class Hole(str):
    """The name of what is filled in."""

    __slots__ = ()


class Signature(Protocol):
    """Signs mails of one template."""

    def header(self, own: Mapping[str, str], body: bytes) -> str:
        """The header for these values of the holes and this body, with the line break that ends it."""
        ...


@dataclass(frozen=True, kw_only=True)
class Template:
    """The ready pieces. A header is `(name, value)`; a value of None is filled in for each reader."""

    headers: tuple[tuple[str, str | None], ...]
    body: tuple[Piece, ...]
    _head: Stencil = field(init=False, repr=False, compare=False)
    _bodies: dict[int, tuple[bytes | Tail, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        lines = ((f"{name}: ", Hole(name) if value is None else value, "\r\n") for name, value in self.headers)
        object.__setattr__(self, "_head", Stencil(itertools.chain(*lines, ("\r\n",))))

    def splice(self, fields: Fields, *, signature: Signature | None = None) -> bytes:
        """This reader's mail, its signature first. Raises NotSpliceable."""
        own = _own_headers(fields)
        body = self._body(fields.leave)
        before = signature.header(own, body) if signature is not None else ""
        try:
            return (before + self._head.fill(own)).encode("ascii") + body
        except KeyError:
            raise NotSpliceable("a message that refers to others, and fields that name none") from None

    def _body(self, leave: str) -> bytes:
        link = leave.encode("ascii")
        pieces = self._bodies.get(len(link))
        if pieces is None:
            pieces = self._bodies[len(link)] = tuple(_joined(piece.around(len(link)) for piece in self.body))
        return b"".join([piece if isinstance(piece, bytes) else piece.around(link) for piece in pieces])


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Bytes that are the same for everybody, and a base64 tail around the reader's link."""

    fixed: bytes
    tail: tuple[bytes, bytes] | None = None

    def around(self, length: int) -> Iterator[bytes | Tail]:
        """The same for links of so many bytes: of the tail, only the groups that hold the link are left to encode."""
        yield self.fixed
        if self.tail is None:
            return
        before, after = self.tail
        whole = before + b"?" * length + after
        first, end = len(before) // 3 * 3, -(-(len(before) + length) // 3) * 3
        lines = _base64(whole)
        start, stop = _place(first), _place(end) if end < len(whole) else len(lines) - len(b"\r\n")
        breaks = [at - start for at in range(76, len(lines), 78) if start < at < stop]
        yield lines[:start]
        yield Tail(opening=whole[first : len(before)], closing=whole[len(before) + length : end], breaks=tuple(breaks))
        yield lines[stop:]


def _place(bytes_before: int) -> int:
    """Where a group begins in lines of 76 with their ends."""
    letters = bytes_before // 3 * 4
    return letters + letters // 76 * 2


@dataclass(frozen=True, slots=True)
class Tail:
    """The base64 groups that hold the link, and where a line ends among them."""

    opening: bytes
    closing: bytes
    breaks: tuple[int, ...]

    def around(self, link: bytes) -> bytes:
        encoded = binascii.b2a_base64(self.opening + link + self.closing, newline=False)
        for at in self.breaks:
            encoded = encoded[:at] + b"\r\n" + encoded[at:]
        return encoded


def _joined(pieces: Iterable[Iterator[bytes | Tail]]) -> Iterator[bytes | Tail]:
    """Neighbours that are the same for everybody as one."""
    for is_fixed, run in itertools.groupby(
        itertools.chain.from_iterable(pieces), lambda piece: isinstance(piece, bytes)
    ):
        if is_fixed:
            yield b"".join(cast(Iterator[bytes], run))
        else:
            yield from run


def template(
    *,
    sender: tuple[str, str],
    subject: str,
    sent_at: datetime,
    language: str,
    list_id: str,
    texts: Sequence[Text],
    is_urgent: bool,
    has_references: bool,
) -> Template:
    """The mail of one kind of reader. `sender` is a name and an address; `texts` the plainest first (RFC 2046 §5.1.4)."""
    parts = [_part(text, language) for text in texts]
    if len(parts) == 1:
        structure, body = parts[0].headers, list(parts[0].pieces)
    else:
        structure, body = _alternative(parts)
    headers: list[tuple[str, str | None]] = [
        ("From", _from(*sender)),
        ("To", None),
        ("Subject", _encoded("Subject", subject)),
        ("Date", format_datetime(local(sent_at))),
        ("Message-ID", None),
        *((("In-Reply-To", None), ("References", None)) if has_references else ()),
        ("List-Id", f"<{list_id}>"),
        ("List-Unsubscribe", None),
        ("List-Unsubscribe-Post", "List-Unsubscribe=One-Click"),  # RFC 8058
        ("Auto-Submitted", "auto-generated"),  # RFC 3834: no holiday notes in answer
        *((("Importance", "high"), ("Priority", "urgent")) if is_urgent else ()),  # RFC 2156 §5.3.6
        ("Content-Language", language),
        ("MIME-Version", "1.0"),
        *structure,
    ]
    made = Template(headers=tuple(headers), body=tuple(body))
    _refuse_unsafe(made)
    return made


def mailbox(address: str) -> Mailbox:
    """The address as SMTP and headers take it. Old carrier addresses with `..` or a dot at the end are quoted
    (RFC 5321 §4.1.2). Raises NotSpliceable."""
    if len(address) <= _LONGEST_ADDRESS:
        if _ORDINARY.fullmatch(address):
            return Mailbox(address)
        if _ADDRESS.fullmatch(address):
            local_part, _, domain = address.rpartition("@")
            quoted = local_part.replace("\\", "\\\\").replace('"', '\\"')
            return Mailbox(f'"{quoted}"@{domain}')
    raise NotSpliceable("an address that cannot stand in a header")


def _own_headers(fields: Fields) -> dict[str, str]:
    if not _LINK.fullmatch(fields.leave) or len(fields.leave) > _LONGEST_LINK:
        raise NotSpliceable(f"a leaving link that is none, or over {_LONGEST_LINK} characters")
    own = {
        "To": fields.to if type(fields.to) is Mailbox else mailbox(fields.to),
        "Message-ID": f"<{fields.message_id}>",
        "List-Unsubscribe": f"<{fields.leave}>",
    }
    if fields.references:
        own["In-Reply-To"] = f"<{fields.references[-1]}>"
        own["References"] = "\r\n ".join(f"<{reference}>" for reference in fields.references)
    return own


# Parts


@dataclass(frozen=True, kw_only=True)
class _Part:
    headers: tuple[tuple[str, str], ...]
    pieces: tuple[Piece, ...]


def _part(text: Text, language: str) -> _Part:
    before, _, after = text.words.replace("\r\n", "\n").rstrip("\n").partition(LEAVE)
    headers = (("Content-Type", f"text/{text.subtype}; charset=utf-8"), ("Content-Transfer-Encoding", "base64"))
    if LEAVE not in text.words:
        return _Part(headers=headers, pieces=(Piece(fixed=_base64(_crlf(before) + b"\r\n")),))
    head, opening = _at_line(before)
    return _Part(
        headers=headers,
        pieces=(Piece(fixed=_base64(head), tail=(opening, _crlf(after) + b"\r\n")),),
    )


def _at_line(text: str) -> tuple[bytes, bytes]:
    """The text cut before its last line, the first part filled up to whole base64 groups: a blank at the end of a line
    is shown nowhere, and a tail of its own may follow."""
    above, line_break, last = text.rpartition("\n")
    missing = -len(_crlf(above + line_break)) % 3
    return _crlf(above + " " * missing + line_break) if line_break else b"", _crlf(last)


def _crlf(text: str) -> bytes:
    return _whole(text).replace("\n", "\r\n").encode("utf-8")


def _whole(text: str) -> str:
    """Half of a surrogate pair cannot be sent; a question mark stands for it."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _base64(data: bytes) -> bytes:
    """Lines of 76 (RFC 2045 §6.8), each ended."""
    return base64.encodebytes(data).replace(b"\n", b"\r\n") if data else b""


def _alternative(parts: Sequence[_Part]) -> tuple[tuple[tuple[str, str], ...], list[Piece]]:
    boundary = _boundary(parts)
    pieces: list[Piece] = []
    for part in parts:
        opening = "".join(f"{name}: {value}\r\n" for name, value in part.headers)
        pieces.append(Piece(fixed=f"--{boundary}\r\n{opening}\r\n".encode()))
        pieces.extend(part.pieces)
        pieces.append(Piece(fixed=b"\r\n"))
    pieces.append(Piece(fixed=f"--{boundary}--\r\n".encode()))
    return (("Content-Type", f'multipart/alternative; boundary="{boundary}"'),), pieces


def _boundary(parts: Sequence[_Part]) -> str:
    """From the words themselves: the same mail has the same bytes at every attempt. `=_` never stands in base64."""
    digest = hashlib.sha256(b"".join(piece.fixed for part in parts for piece in part.pieces))
    return f"=_{digest.hexdigest()[:24]}"


# Headers


def _encoded(name: str, text: str) -> str:
    """RFC 2047, in words of at most 75 characters, folded. Plain text stands as it is, unless it would be read as an
    encoded word or as a header of its own."""
    if _PLAIN.fullmatch(text) and "=?" not in text:
        return text
    return Header(_whole(text), "utf-8", maxlinelen=75, header_name=name).encode(linesep="\r\n")


def _from(name: str, address: str) -> str:
    if name.isascii():
        return formataddr((name, address))
    return f"{_encoded('From', name)}\r\n <{address}>"


def _refuse_unsafe(made: Template) -> None:
    """Nothing here comes from a reader; a fault would be one of ours, and no mail of this kind leaves."""
    for name, value in made.headers:
        for line in (value or "").split("\r\n"):
            if len(name) + 2 + len(line) > MOST_LINE or not line.isascii() or re.search(r"[\x00-\x08\x0a-\x1f]", line):
                raise NotSpliceable(f"the header {name}")
        if re.search(r"\r\n(?![ \t])", value or ""):
            raise NotSpliceable(f"the header {name} would begin another one")
    for content in _lines(made):
        if len(content) > MOST_LINE or content.startswith(b"."):
            raise NotSpliceable("a line of the body")


def _lines(made: Template) -> Iterator[bytes]:
    for piece in made.body:
        yield from piece.fixed.split(b"\r\n")


__all__ = [
    "LEAVE",
    "Fields",
    "Hole",
    "Mailbox",
    "NotSpliceable",
    "Piece",
    "Signature",
    "Stencil",
    "Template",
    "Text",
    "mailbox",
    "template",
]
