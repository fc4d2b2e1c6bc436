"""The drill mark, put on in one place, before any channel sees the words.

A channel cannot forget the mark, not even one that somebody else wrote. `carries_mark` is asked again of every output
before it leaves: an output without the mark refuses the whole delivery.
"""

from __future__ import annotations

from dataclasses import replace

from broadcaster.channel import DRILL_MARK
from broadcaster.message import Info, Message
from broadcaster.words import Words

PREFIX = f"【{DRILL_MARK}】"


def watermarked(message: Message, words: Words) -> Message:
    """A drill with 訓練 on every headline, at both ends of every text, before and after all speech, on every line of a
    screen. A live message as it is. Twice is the same as once."""
    if not message.is_drill:
        return message
    return replace(message, infos=tuple(_marked(info, words) for info in message.infos))


def _marked(info: Info, words: Words) -> Info:
    this_is_a_drill = words.phrase("drill", "ja")
    told = words.phrase("drill", info.language)
    line = this_is_a_drill if info.language in ("ja", "easy-ja") else f"{PREFIX}{told}"
    return replace(
        info,
        headline=_prefixed(info.headline),
        summary=_prefixed(info.summary, line) if info.summary else "",
        description=_framed(info.description, line),
        spoken=_spoken(info.spoken or info.summary or info.headline, told, this_is_a_drill),
        display=tuple(_prefixed(text) for text in info.display),
    )


def _prefixed(text: str, line: str = "") -> str:
    if text.startswith(PREFIX):
        return text
    return f"{PREFIX}{line.removeprefix(PREFIX)}{text}"


def _framed(text: str, line: str) -> str:
    if text.startswith(line) and text.endswith(line):
        return text
    return f"{line}\n\n{text}\n\n{line}"


def _spoken(text: str, told: str, this_is_a_drill: str) -> str:
    opening = f"{DRILL_MARK}、{DRILL_MARK}。{told}"
    if text.startswith(opening):
        return text
    separated = text.replace("。", f"。{this_is_a_drill}", 1) if text.count("。") > 2 else text
    return f"{opening}{separated}{told}"


def carries_mark(text: str) -> bool:
    return DRILL_MARK in text
