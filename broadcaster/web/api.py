"""The JSON API under /api/v1: bearer tokens only, no cookies, unknown keys refused, the same key twice is one act.

Role and mode stand inside the token: a drill token cannot name anything live. In a live installation an alert by the API
is a proposal that a person approves; in rehearsal it goes out at once.
"""

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from broadcaster import manuscript, presets, reports
from broadcaster.app import App
from broadcaster.lifecycle import MoveNotAllowed
from broadcaster.message import Change, Message, is_identifier
from broadcaster.pipeline import Also
from broadcaster.problems import Refused, refuse
from broadcaster.roles import Right, Role, may
from broadcaster.store import messages, requests, tokens
from broadcaster.store.audit import Actor
from broadcaster.store.database import Connection
from broadcaster.store.messages import ChangedMeanwhile, Kept
from broadcaster.store.requests import KeyUsedForAnother
from broadcaster.store.tokens import Token

LARGEST = 1 << 20
DEEPEST = 20


class NotAllowed(Exception):
    def __init__(self, status: int, ja: str, en: str) -> None:
        self.status, self.ja, self.en = status, ja, en


class Accepted(BaseModel):
    """What became of a request."""

    identifier: str
    state: str = Field(description="submitted, scheduled or issued")
    mode: str


class Alert(BaseModel):
    model_config = ConfigDict(extra="forbid")

    preset: str = Field(description="E01 …", max_length=8)
    slots: dict[str, str] = Field(default_factory=dict, max_length=20)


class Changed(BaseModel):
    model_config = ConfigDict(extra="forbid")

    change: Change
    text: str = Field(default="", max_length=2_000, description="one more sentence in Japanese")
    slots: dict[str, str] = Field(default_factory=dict, max_length=20, description="fill the preset's slots anew")


class ProblemOut(BaseModel):
    where: str
    ja: str
    en: str


class Problems(BaseModel):
    problems: list[ProblemOut]


_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problems},
    401: {"model": Problems},
    403: {"model": Problems},
    404: {"model": Problems},
    409: {"model": Problems},
    413: {"model": Problems},
    422: {"model": Problems},
}


def routes(app: App) -> APIRouter:
    router = APIRouter(prefix="/api/v1", responses=_ERRORS)
    pipeline, settings = app.pipeline, app.settings

    def allowed(right: Right) -> Callable[..., Token]:
        def check(authorization: Annotated[str, Header(description="Bearer <token>")] = "") -> Token:
            token = _token(app, authorization)
            if not may(token.role, right):
                raise NotAllowed(403, "この鍵ではできません。", "This token may not do that.")
            return token

        return check

    @router.get("/presets")
    def list_presets(_: Annotated[Token, Depends(allowed(Right.READ))]) -> list[dict[str, Any]]:
        """The prepared emergency texts with their slots."""
        return [
            {"id": p.id, "event": p.event, "level": p.level, "slots": list(p.slots), "examples": dict(p.fields)}
            for p in settings.presets.values()
        ]

    @router.get("/messages")
    def list_messages(token: Annotated[Token, Depends(allowed(Right.READ))]) -> list[dict[str, Any]]:
        """The newest messages of the token's mode."""
        with app.database.read() as connection:
            return [
                {
                    "identifier": kept.message.identifier,
                    "state": kept.state.value,
                    "headline": kept.message.info.headline,
                    "mode": kept.message.mode.value,
                }
                for kept in messages.newest(connection)
                if kept.message.mode is token.mode
            ]

    @router.get("/messages/{identifier}")
    def show_message(identifier: str, token: Annotated[Token, Depends(allowed(Right.READ))]) -> dict[str, Any]:
        """What became of it: each medium with counts, times and evidence."""
        with app.database.read() as connection:
            _of_this_mode(connection, identifier, token)
            return reports.of(connection, identifier)

    @router.post("/messages", status_code=201, openapi_extra=_MANUSCRIPT)
    async def hand_in(
        request: Request,
        token: Annotated[Token, Depends(allowed(Right.WRITE))],
        idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
    ) -> Accepted:
        """Hand in one notice, in the shape of a manuscript file. A writer's waits for approval."""
        body = await _body(request)
        source = _object(body)

        def act(also: Also | None) -> Kept:
            message = manuscript.read(
                source, ward=settings.ward, media=settings.enabled, now=app.clock.now(), mode=token.mode
            )
            accept = pipeline.propose if token.role is Role.WRITER else pipeline.hand_in
            return accept(message, _actor(token), also=also)

        return await _once(app, token, idempotency_key, body, act)

    @router.post("/previews", openapi_extra=_MANUSCRIPT)
    async def preview(request: Request, token: Annotated[Token, Depends(allowed(Right.WRITE))]) -> list[dict[str, Any]]:
        """What every medium would say, and what it leaves out. Nothing is kept."""
        source = _object(await _body(request))
        message = manuscript.read(
            source, ward=settings.ward, media=settings.enabled, now=app.clock.now(), mode=token.mode
        )
        return [
            {"channel": p.channel, "part": p.part, "content": dict(p.content), "omitted": list(p.omitted)}
            for p in pipeline.preview(message)
        ]

    @router.post("/messages/{identifier}/approval", status_code=201)
    def approve(identifier: str, token: Annotated[Token, Depends(allowed(Right.APPROVE))]) -> Accepted:
        """Approve what waits; it goes out at its hour."""
        with app.database.read() as connection:
            _of_this_mode(connection, identifier, token)
        return _accepted(pipeline.approve(identifier, _actor(token)))

    @router.post("/messages/{identifier}/changes", status_code=201)
    async def change(
        identifier: str,
        wanted: Changed,
        request: Request,
        token: Annotated[Token, Depends(allowed(Right.CHANGE))],
        idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
    ) -> Accepted:
        """Update, correct, cancel or clear something that was sent: same audience, same media, ahead of all else."""
        with app.database.read() as connection:
            _of_this_mode(connection, identifier, token)
        renew = (lambda original: _refilled(app, original, wanted.slots)) if wanted.slots else None

        def act(also: Also | None) -> Kept:
            return pipeline.change(identifier, wanted.change, _actor(token), renew=renew, line=wanted.text, also=also)

        return await _once(app, token, idempotency_key, await _body(request), act)

    @router.post("/alerts", status_code=201)
    async def alert(
        wanted: Alert,
        request: Request,
        token: Annotated[Token, Depends(allowed(Right.ALERT))],
        idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
    ) -> Accepted:
        """Issue a prepared emergency text at once (in a live installation: propose it)."""
        preset = settings.presets.get(wanted.preset.upper())
        if preset is None:
            raise refuse(
                "preset", ja=f"文案「{wanted.preset}」はありません。", en=f"There is no preset {wanted.preset!r}."
            )

        def act(also: Also | None) -> Kept:
            message = presets.compose_alert(
                preset,
                ward=settings.ward,
                now=app.clock.now(),
                mode=token.mode,
                channels=settings.enabled,
                values=wanted.slots,
                use_examples=settings.is_rehearsal,
            )
            accept = pipeline.hand_in if settings.is_rehearsal else pipeline.propose
            return accept(message, _actor(token), also=also)

        return await _once(app, token, idempotency_key, await _body(request), act)

    return router


_MANUSCRIPT: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"type": "object", "properties": {k: {} for k in sorted(manuscript.KEYS)}, "additionalProperties": False}}},
    }
}  # fmt: skip


def _token(app: App, authorization: str) -> Token:
    scheme, _, shown = authorization.partition(" ")
    token = None
    if scheme.lower() == "bearer" and shown.isascii():
        with app.database.read() as connection:
            token = tokens.check(connection, shown.strip(), app.clock.now())
    if token is None:
        raise NotAllowed(
            401,
            "鍵がないか、使えない鍵です。Authorization: Bearer … に、broadcaster token create で作った鍵を入れてください。",
            "No token, or one that is not valid: send Authorization: Bearer … with one from broadcaster token create.",
        )
    return token


def _actor(token: Token) -> Actor:
    return Actor(name=f"{token.name} ({token.id})", via="api")


def _of_this_mode(connection: Connection, identifier: str, token: Token) -> None:
    kept = messages.get(connection, identifier) if is_identifier(identifier) else None
    if kept is None or kept.message.mode is not token.mode:
        raise NotAllowed(404, "そのお知らせはありません。", "There is no such message.")


def _refilled(app: App, original: Message, slots: dict[str, str]) -> Message:
    if original.preset is None:
        raise refuse("slots", ja="文案から出したものではありません。", en="It was not made from a preset.")
    return presets.compose_alert(
        app.settings.presets[original.preset],
        ward=app.settings.ward,
        now=app.clock.now(),
        mode=original.mode,
        channels=original.channels,
        values={**original.slots, **slots},
        use_examples=False,
    )


async def _once(
    app: App, token: Token, client_key: str | None, body: bytes, act: Callable[[Also | None], Kept]
) -> Accepted:
    """Do it, or give what the same key did before."""
    if client_key is None:
        return _accepted(await asyncio.to_thread(act, None))
    key = requests.key_of(token.id, client_key)
    if (done := await app.database.reads(requests.find, key, body)) is None:

        def remember(connection: Connection, identifier: str) -> None:
            requests.keep(connection, key, body, identifier, app.clock.now())

        with contextlib.suppress(requests.AlreadyKept):  # the same request, a moment earlier
            return _accepted(await asyncio.to_thread(act, remember))
        done = await app.database.reads(requests.find, key, body)
    kept = await app.database.reads(messages.get, done or "")
    assert kept is not None
    return _accepted(kept)


def _accepted(kept: Kept) -> Accepted:
    return Accepted(identifier=kept.message.identifier, state=kept.state.value, mode=kept.message.mode.value)


async def _body(request: Request) -> bytes:
    body = await request.body()
    if len(body) > LARGEST:
        raise NotAllowed(413, "大きすぎます。1 MB までにしてください。", "Larger than 1 MiB.")
    return body


def _object(body: bytes) -> dict[str, Any]:
    """A JSON object with no key twice and no depth that could hurt. Raises Refused."""
    try:
        value = json.loads(body, object_pairs_hook=_no_key_twice, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise refuse("body", ja=f"JSON として読めません（{error}）。", en=f"This is no valid JSON ({error}).") from None
    if not isinstance(value, dict) or _depth(value) > DEEPEST:
        raise refuse("body", ja="お知らせの形ではありません。", en="This is not the shape of a notice.")
    return value


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max((_depth(item) for item in value.values()), default=0)
    if isinstance(value, list):
        return 1 + max((_depth(item) for item in value), default=0)
    return 0


def answer_to(error: Exception) -> JSONResponse:
    """Each failure as sentences, with the status that fits."""
    if isinstance(error, Refused):
        status, problems = 422, [{"where": p.where, "ja": p.ja, "en": p.en} for p in error.problems]
    elif isinstance(error, NotAllowed):
        status, problems = error.status, [{"where": "request", "ja": error.ja, "en": error.en}]
    elif isinstance(error, KeyUsedForAnother):
        status, problems = (
            409,
            [
                _problem(
                    "Idempotency-Key", "この鍵は別の内容に使われています。", "This key was used for another request."
                )
            ],
        )
    elif isinstance(error, ChangedMeanwhile | MoveNotAllowed):
        status, problems = (
            409,
            [
                _problem(
                    "id",
                    "ほかの人が先に変えたか、いまの状態ではできません。",
                    "Changed by somebody else, or not possible now.",
                )
            ],
        )
    else:
        status, problems = 500, [_problem("server", "区の側で問題が起きました。", "Something failed on our side.")]
    return JSONResponse({"problems": problems}, status_code=status)


def _problem(where: str, ja: str, en: str) -> dict[str, str]:
    return {"where": where, "ja": ja, "en": en}
