"""X, as far as the ward uses it, on this machine: API v2, its signatures, its limits, and what residents would see.

    GET    /2/users/me                 who the keys belong to
    GET    /2/users/:id/tweets         newest first
    GET    /2/tweets/:id
    POST   /2/tweets                   text, reply, media
    DELETE /2/tweets/:id
    POST   /2/media/upload             multipart: media, media_category, media_type
    POST   /2/media/metadata           the words for those who cannot see the picture

Posts lie in `posts.json` and pictures in `media/` of its folder, so that a restart keeps them and a page can show them:

    [{"id", "text", "created_at", "reply_to", "media": [{"digest", "alt", "file"}], "deleted_at"}]

It refuses what X refuses: a wrong signature, a nonce seen before, a text over 280, the same text again, a reply to
nothing, a fifth picture, too many posts. Like X it answers with shortened links and escaped `&`. A request's own
timestamp is not compared with the clock, which in a test may stand still in another year.

Why the signature is checked by hand and not by the library that made it: two readings of RFC 5849 find each other's
mistakes. Why not a mock of tweepy: the mistakes that matter happen between the two ends of a connection.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import html
import json
import os
import re
import socket
import struct
import unicodedata
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from aiohttp import web

from broadcaster.clock import Clock, parse_instant
from broadcaster.rehearsal.faults import Fault, Faults, Kind
from broadcaster.weighted import LIMIT, links, weighted_length

REHEARSAL_KEYS: Mapping[str, str] = {
    "x_consumer_key": "rehearsal-consumer",
    "x_consumer_secret": "rehearsal-consumer-secret",
    "x_access_token": "13109-rehearsal-access",
    "x_access_token_secret": "rehearsal-access-secret",
}
"""Keys that open the stand-in and nothing else."""

ACCOUNT = "shinagawa_rehearsal"
USER_ID = "13109"
MEDIUM = "x"
EVERYTHING = "any"
"""A fault of this stage meets whatever is asked."""

MOST_MEDIA = 4
MOST_ALT = 1000
MOST_BYTES = 5 * 1024 * 1024  # X's limit for a picture
LATEST = 20
"""Among so many of the latest posts X finds the same text again."""

_ENDINGS = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp", "image/gif": "gif"}
_TWITTER_EPOCH_MS = 1288834974657  # ids are counted from here, in milliseconds, shifted by 22 bits
_CLOSE_WITH_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no time: the other side sees a reset, not an end


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Posts in each window of 15 minutes and in each day (UTC)."""

    quarter: int = 100
    day: int = 500


@dataclass(frozen=True, kw_only=True)
class Media:
    digest: str
    alt: str
    file: str


@dataclass(frozen=True, kw_only=True)
class Post:
    id: str
    text: str
    created_at: datetime
    reply_to: str | None
    media: tuple[Media, ...]
    deleted_at: datetime | None = None


class Server:
    """The running stand-in."""

    def __init__(self, listener: asyncio.Server, runner: web.AppRunner) -> None:
        self._listener, self._runner = listener, runner
        self.port: int = listener.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self._listener.close()
        await self._runner.cleanup()


async def start(
    folder: Path,
    faults: Faults,
    *,
    clock: Clock,
    host: str = "127.0.0.1",
    port: int = 0,
    limits: Limits | None = None,
) -> Server:
    """Listen. Raises OSError when somebody else has the port."""
    standin = _StandIn(_Shelf(folder), faults, clock, limits or Limits())
    # A request that is made to hang ends when the other side goes away, and holds up nobody's shutdown.
    runner = web.AppRunner(standin.application(), access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    serve = runner.server
    assert serve is not None  # made by setup()

    def connection() -> asyncio.BaseProtocol:
        return _ClosedDoor() if standin.refuses_connections() else serve()

    try:
        listener = await asyncio.get_running_loop().create_server(connection, host, port)
    except OSError:
        await runner.cleanup()
        raise
    return Server(listener, runner)


class _ClosedDoor(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        _reset(transport)


def _reset(transport: asyncio.Transport) -> None:
    connection: socket.socket = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _CLOSE_WITH_RESET)
    transport.abort()


async def _dripped(request: web.Request, whole: web.StreamResponse, seconds: float) -> web.StreamResponse:
    """The answer, letter by letter."""
    assert isinstance(whole, web.Response)
    assert isinstance(whole.body, bytes)  # JSON, as everything here
    response = web.StreamResponse(status=whole.status, headers=whole.headers)
    response.content_length = len(whole.body)
    await response.prepare(request)
    for n in range(len(whole.body)):
        await asyncio.sleep(seconds / len(whole.body))
        await response.write(whole.body[n : n + 1])
    await response.write_eof()
    return response


class _Refusal(Exception):
    """An answer in X's own form (RFC 7807 with a `detail`)."""

    def __init__(self, status: HTTPStatus, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers or {}

    def response(self) -> web.Response:
        body = {"title": self.status.phrase, "detail": self.detail, "type": "about:blank", "status": int(self.status)}
        return web.json_response(body, status=self.status, headers=self.headers)


def _invalid(detail: str) -> _Refusal:
    return _Refusal(HTTPStatus.BAD_REQUEST, detail)


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _StandIn:
    def __init__(self, shelf: _Shelf, faults: Faults, clock: Clock, limits: Limits) -> None:
        self._shelf, self._faults, self._clock, self._limits = shelf, faults, clock, limits
        self._signatures = _Signatures()

    def application(self) -> web.Application:
        application = web.Application(client_max_size=MOST_BYTES + 64 * 1024, middlewares=[self._checked])
        application.add_routes(
            [
                web.get("/2/users/me", self._with_faults("look", self._me)),
                web.get(r"/2/users/{id:\d+}/tweets", self._with_faults("look", self._timeline)),
                web.get(r"/2/tweets/{id:\d+}", self._with_faults("look", self._one)),
                web.post("/2/tweets", self._with_faults("posts", self._post)),
                web.delete(r"/2/tweets/{id:\d+}", self._with_faults("delete", self._delete)),
                web.post("/2/media/upload", self._with_faults("media", self._upload)),
                web.post("/2/media/metadata", self._with_faults("media", self._metadata)),
            ]
        )
        return application

    @web.middleware
    async def _checked(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if not self._signatures.is_good(request):
                raise _Refusal(HTTPStatus.UNAUTHORIZED, "Unauthorized")
            return await handler(request)
        except _Refusal as refusal:
            return refusal.response()

    # Faults

    def refuses_connections(self) -> bool:
        fault = self._faults.all().get(MEDIUM)
        if fault is None or fault.kind is not Kind.REFUSE:
            return False
        return self._faults.meet(MEDIUM) is not None

    def _fault(self, stage: str) -> Fault | None:
        """A fault that names no stage is one of posting."""
        fault = self._faults.all().get(MEDIUM)
        if fault is None or (fault.stage or "posts") not in (stage, EVERYTHING):
            return None
        return self._faults.meet(MEDIUM)

    def _with_faults(self, stage: str, act: Handler) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            fault = self._fault(stage)
            return await act(request) if fault is None else await self._show(fault, request, act)

        return handle

    async def _show(self, fault: Fault, request: web.Request, act: Handler) -> web.StreamResponse:
        match fault.kind:
            case Kind.TEMPORARY:
                raise _Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "Service Unavailable")
            case Kind.PERMANENT:
                raise _Refusal(HTTPStatus.FORBIDDEN, "You are not permitted to perform this action.")
            case Kind.RATE:
                raise _too_many(self._clock.now() + timedelta(seconds=max(fault.seconds, 1)))
            case Kind.REFUSE | Kind.RESET:
                return _cut(request)
            case Kind.DROP:
                await act(request)
                return _cut(request)
            case Kind.HANG:
                await asyncio.Event().wait()
            case Kind.DRIP:
                return await _dripped(request, await act(request), fault.seconds)
        raise AssertionError(fault.kind)

    # Posts

    async def _me(self, _request: web.Request) -> web.Response:
        return web.json_response({"data": {"id": USER_ID, "name": "品川区（練習）", "username": ACCOUNT}})

    async def _timeline(self, request: web.Request) -> web.Response:
        if request.match_info["id"] != USER_ID:
            raise _Refusal(HTTPStatus.NOT_FOUND, "Could not find user.")
        asked = request.query.get("max_results", "10")
        if not asked.isdecimal() or not 5 <= int(asked) <= 100:
            raise _invalid(f"The `max_results` query parameter value [{asked}] is not between 5 and 100")
        newest = self._shelf.standing()[::-1][: int(asked)]
        document: dict[str, Any] = {"meta": {"result_count": len(newest)}}
        if newest:
            document["data"] = [_as_x_tells(post, request) for post in newest]
        return web.json_response(document)

    async def _one(self, request: web.Request) -> web.Response:
        post = self._shelf.post(request.match_info["id"])
        if post is None:
            raise _Refusal(HTTPStatus.NOT_FOUND, "Could not find tweet.")
        return web.json_response({"data": _as_x_tells(post, request)})

    async def _post(self, request: web.Request) -> web.Response:
        document = await _json(request)
        now = self._clock.now()
        headers = self._count(now)
        text = document.get("text")
        if not isinstance(text, str) or not text.strip():
            raise _invalid("`text` is required.")
        if weighted_length(text) > LIMIT:
            raise _invalid("Your Tweet text is too long.")
        media = self._media(document)
        reply_to = _reply_to(document)
        if reply_to is not None and self._shelf.post(reply_to) is None:
            raise _invalid("You attempted to reply to a Tweet that is deleted or not visible to you.")
        if any(_folded(post.text) == _folded(text) for post in self._shelf.standing()[-LATEST:]):
            raise _Refusal(HTTPStatus.FORBIDDEN, "You are not allowed to create a Tweet with duplicate content.")
        post = Post(id=self._shelf.new_id(now), text=text, created_at=now, reply_to=reply_to, media=media)
        self._shelf.put(post)
        body = {"data": {"id": post.id, "text": text, "edit_history_tweet_ids": [post.id]}}
        return web.json_response(body, status=HTTPStatus.CREATED, headers=headers)

    def _count(self, now: datetime) -> Mapping[str, str]:
        """What the answer says of the limits. Raises _Refusal when one is used up."""
        quarter, quarter_resets_at = _window(now, timedelta(minutes=15))
        day, day_resets_at = _window(now, timedelta(days=1))
        left = self._limits.quarter - self._shelf.count_since(quarter)
        left_today = self._limits.day - self._shelf.count_since(day)
        headers = {
            "x-rate-limit-limit": str(self._limits.quarter),
            "x-rate-limit-remaining": str(max(left - 1, 0)),
            "x-rate-limit-reset": str(int(quarter_resets_at.timestamp())),
            "x-user-limit-24hour-limit": str(self._limits.day),
            "x-user-limit-24hour-remaining": str(max(left_today - 1, 0)),
            "x-user-limit-24hour-reset": str(int(day_resets_at.timestamp())),
        }
        if left <= 0 or left_today <= 0:
            raise _Refusal(HTTPStatus.TOO_MANY_REQUESTS, "Too Many Requests", headers)
        return headers

    def _media(self, document: Mapping[str, Any]) -> tuple[Media, ...]:
        media = document.get("media")
        ids = media.get("media_ids") if isinstance(media, dict) else []
        if not isinstance(ids, list) or len(ids) > MOST_MEDIA:
            raise _invalid(f"`media.media_ids` holds at most {MOST_MEDIA} ids.")
        found = [self._shelf.media(str(id)) for id in ids]
        if None in found:
            raise _invalid("Your media IDs are invalid.")
        return tuple(item for item in found if item is not None)

    async def _delete(self, request: web.Request) -> web.Response:
        post = self._shelf.post(request.match_info["id"])
        if post is None:
            raise _Refusal(HTTPStatus.NOT_FOUND, "Could not find tweet.")
        self._shelf.put(replace(post, deleted_at=self._clock.now()))
        return web.json_response({"data": {"deleted": True}})

    # Pictures

    async def _upload(self, request: web.Request) -> web.Response:
        if not request.content_type.startswith("multipart/"):
            raise _invalid("The upload is not multipart/form-data.")
        form = await request.post()
        upload = form.get("media")
        if not isinstance(upload, web.FileField):
            raise _invalid("`media` is required.")
        if form.get("media_category") != "tweet_image":
            raise _invalid("`media_category` is not tweet_image.")
        data = upload.file.read()
        ending = _ENDINGS.get(upload.content_type)
        if ending is None or not data or len(data) > MOST_BYTES:
            raise _invalid("The media is of a type or size that cannot be taken.")
        id = self._shelf.keep_media(data, ending, self._clock.now())
        body = {"data": {"id": id, "media_key": f"3_{id}", "size": len(data), "expires_after_secs": 86400}}
        return web.json_response(body)

    async def _metadata(self, request: web.Request) -> web.Response:
        document = await _json(request)
        try:
            id, alt = document["id"], document["metadata"]["alt_text"]["text"]
        except (KeyError, TypeError):
            raise _invalid("`id` and `metadata.alt_text.text` are required.") from None
        if not isinstance(alt, str) or len(alt) > MOST_ALT:
            raise _invalid(f"The alt text is longer than {MOST_ALT}.")
        media = self._shelf.media(str(id))
        if media is None:
            raise _invalid("Your media IDs are invalid.")
        self._shelf.describe(str(id), replace(media, alt=alt))
        return web.json_response({"data": {"id": id, "associated_metadata": {"alt_text": {"text": alt}}}})


async def _json(request: web.Request) -> Mapping[str, Any]:
    try:
        document = await request.json()
    except ValueError:
        raise _invalid("The body is not JSON.") from None
    if not isinstance(document, dict):
        raise _invalid("The body is not an object.")
    return document


def _reply_to(document: Mapping[str, Any]) -> str | None:
    reply = document.get("reply")
    if reply is None:
        return None
    try:
        return str(reply["in_reply_to_tweet_id"])
    except (KeyError, TypeError):
        raise _invalid("`reply.in_reply_to_tweet_id` is required.") from None


def _window(now: datetime, length: timedelta) -> tuple[datetime, datetime]:
    """When the present window began, and when it ends."""
    began = now.timestamp() // length.total_seconds() * length.total_seconds()
    began_at = datetime.fromtimestamp(began, UTC)
    return began_at, began_at + length


def _too_many(resets_at: datetime) -> _Refusal:
    headers = {"x-rate-limit-remaining": "0", "x-rate-limit-reset": str(int(resets_at.timestamp()))}
    return _Refusal(HTTPStatus.TOO_MANY_REQUESTS, "Too Many Requests", headers)


def _cut(request: web.Request) -> web.Response:
    """Reset the connection; the response that is handed back reaches nobody."""
    if request.transport is not None:
        _reset(request.transport)
    return web.Response()


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def _as_x_tells(post: Post, request: web.Request) -> dict[str, Any]:
    """With shortened links, and only the fields that were asked for."""
    pictures = f"https://x.com/{ACCOUNT}/status/{post.id}/photo/1"
    told = f"{post.text} {pictures}" if post.media else post.text
    pieces: list[str] = []
    urls: list[dict[str, Any]] = []
    at = 0
    for begin, end in links(told):
        pieces.append(html.escape(told[at:begin], quote=False))
        start = sum(map(len, pieces))
        short = "https://t.co/" + hashlib.sha256(told[begin:end].encode()).hexdigest()[:10]
        pieces.append(short)
        urls.append({"start": start, "end": start + len(short), "url": short, "expanded_url": told[begin:end]})
        at = end
    pieces.append(html.escape(told[at:], quote=False))
    everything = {
        "created_at": post.created_at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "entities": {"urls": urls},
        "author_id": USER_ID,
        "referenced_tweets": [{"type": "replied_to", "id": post.reply_to}] if post.reply_to else [],
    }
    asked = request.query.get("tweet.fields", "").split(",")
    return {"id": post.id, "text": "".join(pieces), **{name: everything[name] for name in asked if name in everything}}


class _Shelf:
    """What was posted, on disk. Each file is replaced whole, so that a reader never sees half of one."""

    def __init__(self, folder: Path) -> None:
        self._posts_file, self._media_file = folder / "posts.json", folder / "media.json"
        self._pictures = folder / "media"
        self._pictures.mkdir(parents=True, exist_ok=True)
        self._posts: dict[str, Post] = {post.id: post for post in map(_post_from, _read(self._posts_file, []))}
        self._media: dict[str, Media] = {id: Media(**item) for id, item in _read(self._media_file, {}).items()}

    def standing(self) -> list[Post]:
        """Oldest first, without what was deleted."""
        return [post for post in self._posts.values() if post.deleted_at is None]

    def post(self, id: str) -> Post | None:
        post = self._posts.get(id)
        return post if post is not None and post.deleted_at is None else None

    def count_since(self, at: datetime) -> int:
        """Deleted ones too: deleting gives nothing back."""
        return sum(post.created_at >= at for post in self._posts.values())

    def new_id(self, now: datetime) -> str:
        """Greater than every earlier one, as X's are."""
        by_time = (int(now.timestamp() * 1000) - _TWITTER_EPOCH_MS) << 22
        return str(max([by_time, *(int(id) + 1 for id in (*self._posts, *self._media))]))

    def put(self, post: Post) -> None:
        self._posts[post.id] = post
        _replace(self._posts_file, [_post_to(post) for post in self._posts.values()])

    def media(self, id: str) -> Media | None:
        return self._media.get(id)

    def keep_media(self, data: bytes, ending: str, now: datetime) -> str:
        digest = hashlib.sha256(data).hexdigest()
        file = f"{digest}.{ending}"
        partial = self._pictures / f"{file}.part"
        partial.write_bytes(data)
        os.replace(partial, self._pictures / file)
        id = self.new_id(now)
        self.describe(id, Media(digest=digest, alt="", file=file))
        return id

    def describe(self, id: str, media: Media) -> None:
        self._media[id] = media
        _replace(self._media_file, {id: asdict(item) for id, item in self._media.items()})


def _read(path: Path, default: Any) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return default


def _replace(path: Path, document: object) -> None:
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(document, ensure_ascii=False, indent=1), encoding="utf-8")
    os.replace(partial, path)


def _post_to(post: Post) -> dict[str, Any]:
    deleted_at = post.deleted_at.isoformat() if post.deleted_at else None
    return {**asdict(post), "created_at": post.created_at.isoformat(), "deleted_at": deleted_at}


def _post_from(document: Mapping[str, Any]) -> Post:
    return Post(
        id=document["id"],
        text=document["text"],
        created_at=parse_instant(document["created_at"]),
        reply_to=document["reply_to"],
        media=tuple(Media(**item) for item in document["media"]),
        deleted_at=parse_instant(document["deleted_at"]) if document["deleted_at"] else None,
    )


@dataclass(kw_only=True)
class _Signatures:
    """OAuth 1.0a with HMAC-SHA1 (RFC 5849). JSON and multipart bodies are not signed, by §3.4.1.3.1."""

    seen: deque[str] = field(default_factory=lambda: deque(maxlen=1000))

    def is_good(self, request: web.Request) -> bool:
        given = _authorization(request.headers.get("Authorization", ""))
        signature = given.pop("oauth_signature", "")
        nonce = given.get("oauth_nonce", "")
        expected = _signed(request, given)
        is_ours = (
            given.get("oauth_consumer_key") == REHEARSAL_KEYS["x_consumer_key"]
            and given.get("oauth_token") == REHEARSAL_KEYS["x_access_token"]
            and given.get("oauth_signature_method") == "HMAC-SHA1"
            and given.get("oauth_timestamp", "").isdecimal()
            and hmac.compare_digest(signature.encode(), expected.encode())
        )
        if not is_ours or not nonce or nonce in self.seen:
            return False
        self.seen.append(nonce)
        return True


_PARAMETER = re.compile(r'\s*([a-z_]+)="([^"]*)"\s*(?:,|$)')


def _authorization(header: str) -> dict[str, str]:
    scheme, _, rest = header.partition(" ")
    if scheme != "OAuth":
        return {}
    return {name: unquote(value) for name, value in _PARAMETER.findall(rest) if name != "realm"}


def _signed(request: web.Request, given: Mapping[str, str]) -> str:
    address = f"{request.scheme}://{request.host.lower()}{request.rel_url.raw_path}"
    base = "&".join(map(_encoded, (request.method, address, _parameters([*given.items(), *request.query.items()]))))
    key = "&".join(_encoded(REHEARSAL_KEYS[name]) for name in ("x_consumer_secret", "x_access_token_secret"))
    digest = hmac.digest(key.encode(), base.encode(), "sha1")
    return base64.b64encode(digest).decode()


def _parameters(pairs: Iterable[tuple[str, str]]) -> str:
    """§3.4.1.3.2: encoded first, then sorted."""
    return "&".join(f"{name}={value}" for name, value in sorted((_encoded(n), _encoded(v)) for n, v in pairs))


def _encoded(text: str) -> str:
    return quote(text, safe="~")
