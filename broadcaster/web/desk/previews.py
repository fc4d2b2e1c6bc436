"""Each medium as residents will see it, and in words what it leaves out. By the channels' own `compose`: nothing here
imitates them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from broadcaster import boards
from broadcaster.channel import Board, Mailing, Push
from broadcaster.drill import watermarked
from broadcaster.message import Message
from broadcaster.mime import LEAVE
from broadcaster.pipeline import Pipeline
from broadcaster.speech import seconds
from broadcaster.web.desk.visit import Visit


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One medium's preview. `content` is what its part of the template needs."""

    medium: str
    content: Any
    omitted: Sequence[str] = ()
    trouble: str = ""  # a sentence, where the medium cannot carry it


@dataclass(frozen=True, kw_only=True)
class ScreenPage:
    phrases: Sequence[str]
    seconds: int


def previews_of(visit: Visit, message: Message) -> list[Shown]:
    """In the order of the media; those that people serve by hand are named and not drawn."""
    pipeline = visit.app.pipeline
    marked = watermarked(message, visit.app.settings.words).sent(visit.now)
    named = [name for name in pipeline.channels[marked.mode] if name in marked.channels]
    return [_shown(pipeline, name, marked) for name in named]


def _shown(pipeline: Pipeline, name: str, message: Message) -> Shown:
    channel = pipeline.channels[message.mode][name]
    if isinstance(channel, Push | Mailing):
        payloads = channel.compose(message)
        omitted = tuple(dict.fromkeys(said for payload in payloads for said in payload.omitted))
        leave = f"{pipeline.ward.base_url}/u/…"
        return Shown(medium=name, content=[_with(leave, payload.content) for payload in payloads], omitted=omitted)
    assert isinstance(channel, Board)
    if name == "signage":
        return Shown(medium=name, content=_screens(channel, message, pipeline))
    if name == "dial":
        return Shown(medium=name, content=_spoken(channel, message, pipeline))
    return Shown(medium=name, content=message)


def _with(leave: str, content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where each reader's own link stands, one that shows what it looks like."""
    return {name: value.replace(LEAVE, leave) if isinstance(value, str) else value for name, value in content.items()}


def _screens(channel: Board, message: Message, pipeline: Pipeline) -> dict[str, Any]:
    """The pages of one landscape and one upright screen, as their feeds have them."""
    pages = boards.pages_of(channel, [message], pipeline.clock.now())
    feeds = [json.loads(page.body) for page in pages if page.path.endswith(".json")]
    shown = next((feed for feed in feeds if feed["items"] or feed["takeover"] or feed["drill"]), None)
    if shown is None:
        return {"pages": (), "takeover": None, "screens": 0}
    reached = sum(bool(feed["items"] or feed["takeover"] or feed["drill"]) for feed in feeds)
    takeover = shown["takeover"] or shown["drill"]
    languages = [] if takeover else shown["items"][0]["languages"]
    return {
        "headline": languages[0]["headline"] if languages else "",
        "pages": [ScreenPage(phrases=page["phrases"], seconds=page["seconds"]) for page in languages[0]["pages"]]
        if languages
        else (),
        "takeover": takeover,
        "screens": reached,
    }


def _spoken(channel: Board, message: Message, pipeline: Pipeline) -> dict[str, Any]:
    text, silent = (_current(channel, shown, pipeline) for shown in ([message], []))
    return {"text": text, "seconds": round(seconds(text, "ja")), "is_silent": text == silent}


def _current(channel: Board, shown: Sequence[Message], pipeline: Pipeline) -> str:
    pages = boards.pages_of(channel, shown, pipeline.clock.now())
    return next((page.body.decode() for page in pages if page.path == "dial/current.txt"), "")
