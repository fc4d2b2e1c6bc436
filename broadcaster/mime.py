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
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.header import Header
from email.utils import format_datetime, formataddr

from broadcaster.clock import local

LEAVE = "\x00leave\x00"
"""Stands in a text where the reader's own link belongs, at most once, near its end."""

MOST_LINE = 998
_ADDRESS = re.compile(r"[!-;=?-~]+@[A-Za-z0-9.-]+", re.ASCII)  # no blank, no control, no `<` `>`
_LINK = re.compile(r"https?://[!-;=?-~]+", re.ASCII)
_LONGEST_ADDRESS = 254  # RFC 5321 §4.5.3.1.3, without the angle brackets
_PLAIN = re.compile(r"[ -~]{0,900}", re.ASCII)
_DOT_ATOM = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*", re.ASCII)
_LONGEST_LINK = 75  # a longer List-Unsubscribe is folded by relays that rewrite headers, and then opens nothing


class NotSpliceable(ValueError):
    """An address or a link that must not stand in a header. Holds neither."""


@dataclass(frozen=True, kw_only=True)
class Fields:
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


@dataclass(frozen=True, kw_only=True)
class Template:
    """The ready pieces. A header is `(name, value)`; a value of None is filled in for each reader."""

    headers: tuple[tuple[str, str | None], ...]
    body: tuple[Piece, ...]

    def header_lines(self, fields: Fields) -> list[tuple[str, str]]:
        """The headers of this reader's copy, in order. Raises NotSpliceable."""
        own = _own_headers(fields)
        return [(name, own[name] if value is None else value) for name, value in self.headers if value or name in own]

    def body_bytes(self, leave: str) -> bytes:
        return b"".join(piece.bytes_for(leave) for piece in self.body)

    def splice(self, fields: Fields, *, before: str = "") -> bytes:
        """This reader's mail. `before` is a header block that stands first, such as a signature."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in self.header_lines(fields))
        return f"{before}{lines}\r\n".encode("ascii") + self.body_bytes(fields.leave)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Bytes that are the same for everybody, and a base64 tail around the reader's link."""

    fixed: bytes
    tail: tuple[bytes, bytes] | None = None

    def bytes_for(self, leave: str) -> bytes:
        if self.tail is None:
            return self.fixed
        before, after = self.tail
        return self.fixed + _base64(before + leave.encode("ascii") + after)


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


def mailbox(address: str) -> str:
    """The address as SMTP and headers take it. Old carrier addresses with `..` or a dot at the end are quoted
    (RFC 5321 §4.1.2). Raises NotSpliceable."""
    if not _ADDRESS.fullmatch(address) or len(address) > _LONGEST_ADDRESS:
        raise NotSpliceable("an address that cannot stand in a header")
    local_part, _, domain = address.rpartition("@")
    if _DOT_ATOM.fullmatch(local_part):
        return address
    quoted = local_part.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted}"@{domain}'


def _own_headers(fields: Fields) -> dict[str, str]:
    if not _LINK.fullmatch(fields.leave) or len(fields.leave) > _LONGEST_LINK:
        raise NotSpliceable(f"a leaving link that is none, or over {_LONGEST_LINK} characters")
    own = {
        "To": mailbox(fields.to),
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


__all__ = ["LEAVE", "Fields", "NotSpliceable", "Piece", "Template", "Text", "mailbox", "template"]
