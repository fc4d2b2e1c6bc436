"""What residents of the rehearsal town received, read from where the stand-ins and the boards left it.

Read only: what a mail or a post says is somebody else's text, and stays text. Addresses are given masked. Live and drill
are told apart here, so that no page has to: a mail by the drill's own From, a post by its mark or by the post it answers.

Why clearing deletes nothing: X's stand-in keeps its posts in memory, and the sender looks them up when it does not know
whether one went out. A line drawn under what was there before gives the same empty street, and can be lifted again.
"""

from __future__ import annotations

import email
import email.message
import email.policy
import json
import os
import re
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.utils import parseaddr, parsedate_to_datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from broadcaster.boards import public_folder
from broadcaster.clock import aware, parse_instant
from broadcaster.drill import PREFIX
from broadcaster.message import LANGUAGES, Mode
from broadcaster.rehearsal import smtp, town

MOST_KEPT = 20_000
"""Mails of one place that can be paged through. What came before still lies in the maildir."""

MOST_KINDS = 500

_MAIL_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,120}", re.ASCII)
_SENDING = re.compile(rb"^Message-ID: <([^\r\n>]*)\.[0-9a-f]{1,12}@", re.MULTILINE | re.IGNORECASE)
_SUBSCRIBER = re.compile(r"\.([0-9a-f]{1,12})@", re.ASCII)
_PICTURE = re.compile(r"[0-9a-f]{64}\.(?:jpg|png|webp|gif)", re.ASCII)


class Unreadable(Exception):
    """It is there and makes no sense: half-written just now, or damaged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Filed:
    """A mail in the maildir, as far as it must be known without opening it again."""

    name: str
    at: datetime


class Mailbox:
    """Which mails there are, by place and by kind, kept up as they arrive: each head is read once in a process.

    An alert brings a mail for every reader, and a page shows one of each kind: the same words in the same form. A drill's
    dozen is found however many live ones came after it.
    """

    def __init__(self, home: Path, *, drill_sender: str) -> None:
        self._folder = town.mail_folder(home) / "new"
        self._drill_sender = f"<{drill_sender}>".encode()
        self._lock = threading.Lock()
        self._forget()

    def filed(self, mode: Mode, after: datetime | None) -> list[Filed]:
        """Newest first; only what came after that instant."""
        with self._lock:
            self._renew()
            return _since(reversed(self._filed[mode]), after)

    def kinds(self, mode: Mode, after: datetime | None) -> list[Filed]:
        """The newest of each kind, newest first."""
        with self._lock:
            self._renew()
            return _since(reversed(self._kinds[mode].values()), after)

    def path(self, name: str) -> Path:
        return self._folder / name

    def is_drill(self, head: bytes) -> bool:
        return self._drill_sender in head

    def _forget(self) -> None:
        self._last = ""
        self._filed: dict[Mode, deque[Filed]] = {mode: deque(maxlen=MOST_KEPT) for mode in Mode}
        self._kinds: dict[Mode, dict[tuple[bytes, ...], Filed]] = {mode: {} for mode in Mode}

    def _renew(self) -> None:
        try:
            names = set(os.listdir(self._folder))
        except FileNotFoundError:
            names = set()
        if self._last not in names:
            self._forget()  # somebody has emptied the maildir, and the relay counts from one again
        for name in sorted(name for name in names if name > self._last):
            self._take(name)
            self._last = name

    def _take(self, name: str) -> None:
        try:
            head = _head_of(self.path(name))
            filed = Filed(name=name, at=smtp.Mail(path=self.path(name), head=head).received_at)
        except (FileNotFoundError, ValueError, TypeError):
            return  # put away since, or no mail: whoever put it there did not go through the relay
        mode = Mode.DRILL if self.is_drill(head) else Mode.LIVE
        self._filed[mode].append(filed)
        kinds = self._kinds[mode]
        kind = _kind(head)
        kinds.pop(kind, None)  # to stand last, as the newest
        kinds[kind] = filed
        if len(kinds) > MOST_KINDS:
            del kinds[next(iter(kinds))]


def _since(filed: Iterable[Filed], after: datetime | None) -> list[Filed]:
    return [one for one in filed if after is None or one.at > after]


def _head_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(8192).partition(b"\r\n\r\n")[0]


_KIND = re.compile(
    rb"^(?:Subject|Content-Language|Content-Type):[^\n]*(?:\n[ \t][^\n]*)*", re.MULTILINE | re.IGNORECASE
)
_BOUNDARY = re.compile(rb"boundary=.*", re.IGNORECASE)


def _kind(head: bytes) -> tuple[bytes, ...]:
    """The same subject in the same language and form, of the same sending."""
    sending = _SENDING.search(head)
    said = sorted(_BOUNDARY.sub(b"", found) for found in _KIND.findall(head))
    return (sending[1] if sending else b"", *said)


@dataclass(frozen=True, kw_only=True)
class Town:
    """One place of the town: live, or drill."""

    home: Path
    mode: Mode
    mailbox: Mailbox

    # Mails

    def mail_count(self) -> int:
        return len(self.mailbox.filed(self.mode, self.cleared_at))

    def mails(self, begin: int, end: int) -> list[Mail]:
        """Newest first, counted from the newest."""
        return self._opened(self.mailbox.filed(self.mode, self.cleared_at)[begin:end])

    def kinds(self) -> list[Mail]:
        """One mail of each kind; the latest sending first, and its decorated form before the plain one."""
        mails = self._opened(self.mailbox.kinds(self.mode, self.cleared_at))
        return sorted(mails, key=lambda mail: (mail.sent_at or mail.received_at, mail.is_decorated), reverse=True)

    def mail(self, id: str) -> Mail | None:
        """By its name, in this place only."""
        if not _MAIL_ID.fullmatch(id):
            return None
        try:
            path = self.mailbox.path(id)
            mail = Mail(kept=smtp.Mail(path=path, head=_head_of(path)))
        except (FileNotFoundError, IsADirectoryError):
            return None
        return mail if self._is_here(mail) else None

    def _opened(self, filed: Sequence[Filed]) -> list[Mail]:
        mails = (self.mail(one.name) for one in filed)
        return [mail for mail in mails if mail is not None]

    def _is_here(self, mail: Mail) -> bool:
        is_drill = self.mailbox.is_drill(mail.kept.head) or mail.subject.startswith(PREFIX)
        return is_drill is (self.mode is Mode.DRILL)

    # Posts

    def posts(self) -> list[Post]:
        """Newest first, those taken back among them. Raises Unreadable."""
        line = self.cleared_at
        posts = [post for post in self._all_posts() if post.is_drill is (self.mode is Mode.DRILL)]
        return [post for post in reversed(posts) if line is None or post.created_at > line]

    def post(self, id: str) -> Post | None:
        return next((post for post in self.posts() if post.id == id), None)

    def picture(self, file: str) -> Path | None:
        """A picture that X took, by the name it was given."""
        path = town.x_folder(self.home) / "media" / file
        return path if _PICTURE.fullmatch(file) and path.is_file() else None

    def _all_posts(self) -> Iterator[Post]:
        """Oldest first. An answer to a drill is a drill, also where its own words do not begin with the mark."""
        drills: set[str] = set()
        documents = _json(town.x_folder(self.home) / "posts.json")
        try:
            for document in documents or []:
                post = _post(document)
                if PREFIX in post.text or post.reply_to in drills:
                    drills.add(post.id)
                yield replace(post, is_drill=post.id in drills)
        except (KeyError, TypeError, ValueError) as error:
            raise Unreadable("posts.json") from error

    # Boards

    def board(self, path: str) -> bytes | None:
        """A page of a board as it was put for the public; None before the first."""
        try:
            return (self._public / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def board_text(self, path: str) -> str | None:
        body = self.board(path)
        return None if body is None else body.decode("utf-8", "replace")

    def board_document(self, path: str) -> Mapping[str, Any] | None:
        """Raises Unreadable."""
        document = _json(self._public / path)
        if document is None or isinstance(document, dict):
            return document
        raise Unreadable(path)

    @property
    def _public(self) -> Path:
        return public_folder(self.home, self.mode)

    # The line under what was there before

    @cached_property
    def cleared_at(self) -> datetime | None:
        """What arrived until then is not shown. Raises Unreadable."""
        lines = _json(self._lines)
        try:
            return parse_instant(lines[self.mode.value]) if lines and self.mode.value in lines else None
        except (TypeError, ValueError) as error:
            raise Unreadable(self._lines.name) from error

    def clear(self, at: datetime | None) -> None:
        """Draw the line at this instant, or lift it (None). The other place keeps its own."""
        try:
            lines = dict(_json(self._lines) or {})
        except (Unreadable, TypeError, ValueError):
            lines = {}  # nothing in it is worth more than a working button
        lines.pop(self.mode.value, None)
        if at is not None:
            lines[self.mode.value] = at.isoformat()
        self._lines.parent.mkdir(parents=True, exist_ok=True)
        partial = self._lines.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(lines), encoding="utf-8")
        os.replace(partial, self._lines)

    @property
    def _lines(self) -> Path:
        return town.folder_of(self.home) / "cleared.json"


@dataclass(frozen=True, kw_only=True)
class Mail:
    """One mail, as its reader finds it."""

    kept: smtp.Mail

    @property
    def id(self) -> str:
        return self.kept.id

    @cached_property
    def subject(self) -> str:
        return self._decoded("Subject")

    @cached_property
    def sender(self) -> str:
        """The name that a phone shows, or the address."""
        name, address = parseaddr(self._decoded("From"))
        return name or address

    @cached_property
    def recipient(self) -> str:
        return masked(self._address)

    @cached_property
    def language(self) -> str:
        """One of ours: whatever else a header says, it is not a language to mark words with."""
        said = str(self._head["Content-Language"] or "").strip()
        return said if said in LANGUAGES else LANGUAGES[0]

    @property
    def subscriber(self) -> int | None:
        """The reader's number, which our own Message-IDs end in."""
        found = _SUBSCRIBER.search(self.kept.message_id)
        return int(found[1], 16) if found else None

    @cached_property
    def received_at(self) -> datetime:
        """Raises Unreadable."""
        try:
            return aware(self.kept.received_at)
        except (TypeError, ValueError) as error:
            raise Unreadable("Received") from error

    @cached_property
    def sent_at(self) -> datetime | None:
        """As the mail says itself; None for a Date that is none."""
        try:
            return aware(parsedate_to_datetime(str(self._head["Date"] or "")))
        except (TypeError, ValueError):
            return None

    @property
    def seconds(self) -> int | None:
        """From the sending to the arrival."""
        return max(0, round((self.received_at - self.sent_at).total_seconds())) if self.sent_at else None

    @property
    def is_decorated(self) -> bool:
        return self._head.get_content_maintype() == "multipart"

    @cached_property
    def text(self) -> str:
        return self._hidden(self._part("plain"))

    @cached_property
    def html(self) -> str:
        return self._hidden(self._part("html"))

    @property
    def source(self) -> bytes:
        """To the byte as it came, but for the address."""
        raw = self.kept.raw().decode("utf-8", "surrogateescape")
        return self._hidden(raw).encode("utf-8", "surrogateescape")

    @cached_property
    def _head(self) -> email.message.Message:
        """Undecoded: many heads are looked through for one page, and the default policy reads ten times as long."""
        return email.message_from_bytes(self.kept.head.rstrip() + b"\r\n\r\n", policy=email.policy.compat32)

    def _decoded(self, name: str) -> str:
        said = str(self._head[name] or "")
        try:
            return str(make_header(decode_header(said)))
        except (HeaderParseError, LookupError, ValueError):
            return said  # an encoding that is none: as it came

    @cached_property
    def _whole(self) -> EmailMessage:
        return self.kept.parsed()

    @property
    def _address(self) -> str:
        return self.kept.recipient or parseaddr(str(self._head["To"] or ""))[1]

    def _part(self, subtype: str) -> str:
        part = self._whole.get_body((subtype,))
        if part is None:
            return ""
        try:
            return str(part.get_content()).replace("\r\n", "\n").strip()
        except (LookupError, ValueError, TypeError):
            return ""  # a charset or an encoding that is none; the source shows what came

    def _hidden(self, text: str) -> str:
        if not self._address:
            return text
        return re.sub(re.escape(self._address), lambda _: self.recipient, text, flags=re.IGNORECASE)


def masked(address: str) -> str:
    """`s***@docomo.example`: enough to tell two readers apart at a glance, too little to write to one."""
    local_part, at, domain = address.rpartition("@")
    first = local_part.lstrip('"')[:1]
    return f"{first}***@{domain}" if at else "***"


@dataclass(frozen=True, kw_only=True)
class Picture:
    file: str
    alt: str


@dataclass(frozen=True, kw_only=True)
class Post:
    id: str
    text: str
    created_at: datetime
    reply_to: str | None
    pictures: tuple[Picture, ...]
    deleted_at: datetime | None
    source: str  # as it lies in the file
    is_drill: bool = False


def _post(document: Mapping[str, Any]) -> Post:
    deleted_at = document["deleted_at"]
    return Post(
        id=str(document["id"]),
        text=str(document["text"]),
        created_at=parse_instant(document["created_at"]),
        reply_to=document["reply_to"],
        pictures=tuple(Picture(file=str(item["file"]), alt=str(item["alt"])) for item in document["media"]),
        deleted_at=parse_instant(deleted_at) if deleted_at else None,
        source=json.dumps(document, ensure_ascii=False, indent=1),
    )


def _json(path: Path) -> Any:
    """None where nothing was written yet. Raises Unreadable."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise Unreadable(path.name) from error
