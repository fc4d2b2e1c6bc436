"""Which characters a message may hold, and which only deserve a remark.

Text is kept as typed. NFC is for comparing only: it changes 神 塚 福 (U+FA19, U+FA10, U+FA1B) to other shapes, and a
person's name is not ours to change.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby

MOST_COMBINING = 8
"""Marks on one base letter; real text needs three at most, stacked ones break every layout."""

_KEPT_CONTROLS = {"\n", "\t"}
_BIDI = {chr(c) for c in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}
_SEPARATORS = {"\u2028", "\u2029"}
_INVISIBLE = {"\u200b", "\u2060", "\ufeff"}  # U+200D stays: emoji and kanji variants need it

# Letters that some phones and screens cannot show (the NEC and IBM extensions of code page 932), and what to write.
REPLACEMENTS = {
    **{chr(0x2460 + n): f"({n + 1})" for n in range(20)},
    **dict(zip("ⅠⅡⅢⅣⅤⅥⅦⅧⅨⅩ", map(str, range(1, 11)), strict=True)),
    "㈱": "(株)",
    "㈲": "(有)",
    "№": "No.",
    "℡": "電話",
    "㍻": "平成",
    "㍼": "昭和",
    "髙": "高",
    "﨑": "崎",
}


def faults(text: str) -> Iterator[tuple[str, str]]:
    """Each character that may not stand in a message, as (its number, why), once per kind."""
    seen: set[str] = set()
    marks = 0
    for char in text:
        marks = marks + 1 if unicodedata.combining(char) else 0
        kind = "combining" if marks > MOST_COMBINING else _kind(char)
        if kind and kind not in seen:
            seen.add(kind)
            yield f"U+{ord(char):04X}", kind


def _kind(char: str) -> str | None:
    code = ord(char)
    if char in _BIDI:
        return "direction"
    if char in _INVISIBLE or 0xE0000 <= code <= 0xE007F:
        return "invisible"
    if char in _SEPARATORS:
        return "control"
    category = unicodedata.category(char)
    if category == "Cc" and char not in _KEPT_CONTROLS:
        return "control"
    if category == "Cs":
        return "surrogate"
    if category == "Co":
        return "private"
    if code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF:
        return "noncharacter"
    return None


REASONS = {
    "control": ("制御文字", "a control character"),
    "direction": ("文字の向きを変える記号", "a text direction mark"),
    "invisible": ("見えない文字", "an invisible character"),
    "surrogate": ("こわれた文字", "a broken character"),
    "private": ("外字", "a private-use character"),
    "noncharacter": ("文字ではない番号", "a number that is no character"),
    "combining": ("重ねすぎた記号", "too many stacked marks"),
}


def machine_dependent(text: str) -> Iterator[tuple[str, str]]:
    """Letters that some devices cannot show, with what to write instead; a remark, never a refusal."""
    for char in dict.fromkeys(text):
        if char in REPLACEMENTS:
            yield char, REPLACEMENTS[char]
        elif 0xFF61 <= ord(char) <= 0xFF9F:
            yield char, unicodedata.normalize("NFKC", char)


def one_line(text: str) -> str:
    """The text on one line: line breaks and runs of blanks become one blank."""
    return " ".join(text.split())


class BlockKind(StrEnum):
    PARAGRAPH = "paragraph"
    HEADING = "heading"
    LIST = "list"


@dataclass(frozen=True, kw_only=True)
class Block:
    """A part of a description: the lines of a paragraph, the items of a list, or one heading."""

    kind: BlockKind
    lines: tuple[str, ...]


_BLANK_LINES = re.compile(r"\n\s*\n")
_HEADING = re.compile(r"^(?:■\s*(?P<square>.+)|＜(?P<bracket>[^＜＞]+)＞(?P<rest>.*))$")


def blocks(text: str) -> tuple[Block, ...]:
    """A description as staff write it, for media that have paragraphs, headings and lists.

    A line with `・` is an item and an indented line after it belongs to it; `■head` and `＜head＞` are headings; a
    blank line ends a paragraph. Nothing else is read into the text.
    """
    return tuple(block for passage in _BLANK_LINES.split(text) for block in _blocks_of(passage))


def _blocks_of(passage: str) -> Iterator[Block]:
    for kind, group in groupby(_lines_of(passage), key=lambda line: line[0]):
        lines = tuple(words for _, words in group)
        if kind is BlockKind.HEADING:
            yield from (Block(kind=kind, lines=(line,)) for line in lines)
        else:
            yield Block(kind=kind, lines=lines)


def _lines_of(passage: str) -> list[tuple[BlockKind, str]]:
    lines: list[tuple[BlockKind, str]] = []
    for line in filter(str.strip, passage.splitlines()):
        words = line.strip()
        if line[0].isspace() and lines and lines[-1][0] is BlockKind.LIST:
            lines[-1] = (BlockKind.LIST, f"{lines[-1][1]}\n{words}")
        elif line.startswith("・"):
            lines.append((BlockKind.LIST, words[1:].strip()))
        elif heading := _HEADING.match(words):
            lines.append((BlockKind.HEADING, heading["square"] or heading["bracket"]))
            if rest := (heading["rest"] or "").strip():
                lines.append((BlockKind.PARAGRAPH, rest))
        else:
            lines.append((BlockKind.PARAGRAPH, words))
    return lines


def runs(text: str, words: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """The text cut where one of the words stands, as (part, is one of the words): so that Japanese names in an
    English sentence can be marked as Japanese for a speaking machine."""
    known = sorted({word for word in words if word}, key=lambda word: (-len(word), word))
    if not known:
        yield text, False
        return
    for part in re.split(f"({'|'.join(map(re.escape, known))})", text):
        if part:
            yield part, part in known
