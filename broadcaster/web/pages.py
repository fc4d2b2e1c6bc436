"""Boards from memory: bytes made once for each change, answered before any routing.

Every web process composes them from the issues in force, on a wake-up, at the next expiry, and on a slow poll besides.
A board is swapped whole; a reader sees the old bytes or the new ones. When the database cannot be reached the last
bytes go on being served, but never past the instant at which something on them ends.

A poll is one look into a table by its whole path, and two messages to the server that were written when the board
changed: whatever a hundred thousand screens ask for, nothing is built for one of them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import parse_qs

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as ToServer

from broadcaster import boards
from broadcaster.channel import Board, Page
from broadcaster.message import Message, Mode
from broadcaster.pipeline import Pipeline
from broadcaster.signals import POLL_S
from broadcaster.store.database import StoreError

log = structlog.get_logger(__name__)

_SHORT = {"index.html": "", "emergency.html": "emergency"}
"""Pages that have a name without an ending as well."""

_LONG = {short: name for name, short in _SHORT.items()}
_READS = frozenset(("GET", "HEAD"))
_LANGUAGE = re.compile(r"[A-Za-z-]{2,10}")
_OPEN = (b"access-control-allow-origin", b"*")
_COMMON = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"cross-origin"),
)
_FRESH = {"html": b"public, max-age=15", "json": b"no-cache", "txt": b"public, max-age=5", "ssml": b"public, max-age=5"}
_FRESH_FEED = b"public, max-age=30"
_NOTHING: ToServer = {"type": "http.response.body", "body": b""}


@dataclass(frozen=True, slots=True)
class Answer:
    """A page as it goes out: the messages to the server, which only reads them."""

    etag: bytes
    start: ToServer
    body: ToServer
    not_modified: ToServer


class Boards:
    """The pages of both modes, kept current in the background."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._wake = pipeline.signals.subscribe()
        self._answers: dict[str, Answer] = {}
        self._of_board: dict[tuple[Mode, str], dict[str, Answer]] = {}
        self._shown: dict[Mode, tuple[Message, ...]] = {}
        self._changes: dict[Mode, asyncio.Future[None]] = {}
        self.is_ready = False

    def get(self, path: str) -> Answer | None:
        return self._answers.get(path)

    def change(self, mode: Mode) -> asyncio.Future[None]:
        """Done when the boards of this mode have been switched the next time; one for all who wait."""
        change = self._changes.get(mode)
        if change is None:
            change = self._changes[mode] = asyncio.get_running_loop().create_future()
        return change

    async def keep_current(self) -> None:
        while True:
            try:
                for mode in Mode:
                    await self._refresh(mode)
                self.is_ready = True
            except StoreError as error:
                log.error("boards.not_read", why=type(error).__name__)
                await self._drop_ended()
            await self._wake.wait(self._pause())

    def _pause(self) -> float:
        now = self._pipeline.clock.now()
        changes = [boards.next_change_at(messages, now) for messages in self._shown.values()]
        soonest = min((at for at in changes if at), default=None)
        return POLL_S if soonest is None else max(0.0, min(POLL_S, (soonest - now).total_seconds()))

    async def _refresh(self, mode: Mode) -> None:
        now = self._pipeline.clock.now()
        await self._show(mode, tuple(await self._pipeline.database.reads(boards.in_force, mode, now)), now)

    async def _drop_ended(self) -> None:
        """Without the database: what has ended leaves all the same."""
        now = self._pipeline.clock.now()
        for mode, messages in list(self._shown.items()):
            await self._show(mode, tuple(m for m in messages if m.expires_at > now), now)

    async def _show(self, mode: Mode, messages: tuple[Message, ...], now: datetime) -> None:
        if self._shown.get(mode) == messages:
            return
        for name, board in self._pipeline.channels[mode].items():
            if isinstance(board, Board):
                pages = await asyncio.to_thread(boards.pages_of, board, messages, now)
                self._swap(mode, name, {_path(mode, page.path): _answer(page) for page in pages})
        self._shown[mode] = messages
        if change := self._changes.pop(mode, None):
            change.set_result(None)
        log.info("boards.switched", mode=mode.value, total=len(messages))

    def _swap(self, mode: Mode, name: str, answers: Mapping[str, Answer]) -> None:
        """One board at once: a new table of all pages takes the place of the old one."""
        self._of_board[mode, name] = dict(answers)
        self._answers = {path: answer for of in self._of_board.values() for path, answer in _with_short_names(of)}


def _with_short_names(answers: Mapping[str, Answer]) -> Iterable[tuple[str, Answer]]:
    for path, answer in answers.items():
        yield path, answer
        folder, _, name = path.rpartition("/")
        if name in _SHORT and folder in ("", "/drill"):
            yield f"{folder}/{_SHORT[name]}", answer


def _path(mode: Mode, path: str) -> str:
    return f"/drill/{path}" if mode is Mode.DRILL else f"/{path}"


def _answer(page: Page) -> Answer:
    ending = page.path.rpartition(".")[2]
    is_feed = page.path.startswith("feeds/")
    headers = (
        (b"etag", page.etag.encode()),
        (b"cache-control", _FRESH_FEED if is_feed else _FRESH.get(ending, _FRESH_FEED)),
    )
    open_to_all = () if ending == "html" else (_OPEN,)
    extra = tuple((name.lower().encode(), value.encode()) for name, value in page.headers)
    whole = (
        (b"content-type", page.content_type.encode()),
        (b"content-length", str(len(page.body)).encode()),
        *headers,
        *_COMMON,
        *open_to_all,
        *extra,
    )
    return Answer(
        etag=page.etag.encode(),
        start={"type": "http.response.start", "status": 200, "headers": list(whole)},
        body={"type": "http.response.body", "body": page.body},
        not_modified={"type": "http.response.start", "status": 304, "headers": list(headers)},
    )


class BoardsFirst:
    """ASGI: boards are answered here; everything else goes on to the application."""

    def __init__(self, app: ASGIApp, pages: Boards) -> None:
        self._app, self._pages = app, pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] in _READS:
            answer = self._pages.get(scope["path"])
            if answer is not None:
                if scope["query_string"]:
                    answer = self._in_language(answer, scope["path"], scope["query_string"])
                if _is_known(answer.etag, scope["headers"]):
                    await send(answer.not_modified)
                    await send(_NOTHING)
                else:
                    await send(answer.start)
                    await send(answer.body if scope["method"] == "GET" else _NOTHING)
                return
        await self._app(scope, receive, send)

    def _in_language(self, answer: Answer, path: str, query: bytes) -> Answer:
        """The page in the language that was asked for, or as it is."""
        language = _language(query)
        if language is None:
            return answer
        folder, _, name = path.rpartition("/")
        stem, dot, ending = _LONG.get(name, name).rpartition(".")
        return self._pages.get(f"{folder}/{stem}.{language}{dot}{ending}") or answer


def _language(query: bytes) -> str | None:
    if query.startswith(b"lang=") and query[5:].isalpha():
        return query[5:].decode("ascii")
    asked = parse_qs(query.decode("latin-1"), max_num_fields=20).get("lang", [""])[0]
    return asked if _LANGUAGE.fullmatch(asked) else None


def _is_known(etag: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """If-None-Match, compared weakly (RFC 9110, 13.1.2): one tag, a list of them, on one line or several, or `*`. A tag
    brings its quotation marks, so it can be looked for in a list without taking the list apart."""
    for name, value in headers:  # noqa: SIM110 - a generator for each poll would cost more than the comparison
        if name == b"if-none-match" and (etag in value or value.strip() == b"*"):
            return True
    return False
