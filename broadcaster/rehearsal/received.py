"""What residents of the rehearsal town received, read from where the stand-ins and the boards left it.

Read only: what a mail or a post says is somebody else's text, and stays text. Addresses are given masked. Live and drill
are told apart here, so that no page has to: a mail by the drill's own From, a post by its mark or by the post it answers.

Why clearing deletes nothing: X's stand-in keeps its posts in memory, and the sender looks them up when it does not know
whether one went out. A line drawn under what was there before gives the same empty street, and can be lifted again.
"""

from __future__ import annotations

import email
import email.policy
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from email.message import EmailMessage
from email.utils import parseaddr, parsedate_to_datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from broadcaster.boards import public_folder
from broadcaster.clock import parse_instant
from broadcaster.drill import PREFIX
from broadcaster.message import LANGUAGES, Mode
from broadcaster.rehearsal import smtp, town

LOOKED_THROUGH = 1000
"""Of the latest mails. An alert to a hundred thousand readers must not make the page slow."""

_MAIL_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,120}", re.ASCII)
_SUBSCRIBER = re.compile(r"\.([0-9a-f]{1,12})@", re.ASCII)
_PICTURE = re.compile(r"[0-9a-f]{64}\.(?:jpg|png|webp|gif)", re.ASCII)


class Unreadable(Exception):
    """It is there and makes no sense: half-written just now, or damaged."""


@dataclass(frozen=True, kw_only=True)
class Town:
    """One place of the town: live, or drill."""

    home: Path
    mode: Mode
    drill_sender: str  # the address that drill mails come from

    # Mails

    def mails(self) -> list[Mail]:
        """Newest first. Raises Unreadable."""
        line = self.cleared_at
        found = []
        for kept in smtp.latest(town.mail_folder(self.home), LOOKED_THROUGH):
            mail = Mail(kept=kept)
            if self._is_here(mail):
                if line is not None and mail.received_at <= line:
                    break
                found.append(mail)
        return found

    def mail(self, id: str) -> Mail | None:
        """By its name, in this place only."""
        if not _MAIL_ID.fullmatch(id):
            return None
        path = town.mail_folder(self.home) / "new" / id
        try:
            head = path.read_bytes().partition(b"\r\n\r\n")[0]
        except (FileNotFoundError, IsADirectoryError):
            return None
        mail = Mail(kept=smtp.Mail(path=path, head=head))
        return mail if self._is_here(mail) else None

    def _is_here(self, mail: Mail) -> bool:
        is_drill = mail.sender_address == self.drill_sender or mail.subject.startswith(PREFIX)
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
        return str(self._head["Subject"] or "")

    @cached_property
    def sender(self) -> str:
        """The name that a phone shows, or the address."""
        name, address = parseaddr(str(self._head["From"] or ""))
        return name or address

    @cached_property
    def sender_address(self) -> str:
        return parseaddr(str(self._head["From"] or ""))[1]

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
            return self.kept.received_at
        except (TypeError, ValueError) as error:
            raise Unreadable("Received") from error

    @cached_property
    def seconds(self) -> int | None:
        """From the sending, which a mail says itself, to the arrival."""
        try:
            sent_at = parsedate_to_datetime(str(self._head["Date"] or ""))
            return max(0, round((self.received_at - sent_at).total_seconds()))
        except (TypeError, ValueError):
            return None  # a Date that is none

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
    def _head(self) -> EmailMessage:
        return email.message_from_bytes(self.kept.head.rstrip() + b"\r\n\r\n", policy=email.policy.default)

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
