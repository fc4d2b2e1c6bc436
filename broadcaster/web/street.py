"""What `/rehearsal` shows, as values: the picture on a screen, the entries of a feed, how far each sending has come.

Pure: documents and rows in, values out. A document that lacks what it should have raises Unreadable, because it may come
from a file that is just being written; the page then says a sentence in that place and goes on with the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from broadcaster.clock import parse_instant
from broadcaster.message import lang_attribute
from broadcaster.rehearsal.received import Unreadable
from broadcaster.store.deliveries import MAILING, RETRACT

Document = Mapping[str, Any]

GROUNDS = {"黒": "g5", "紫": "g4", "赤": "g3", "黄": "g2", "白": "g1"}
"""The official colours by their class in the style: a colour out of a document would need a style of its own, which the
page's policy forbids."""


# The screen


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Words in one language."""

    lang: str
    lines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture of a screen, as a player would draw it."""

    seconds: int
    number: int = 1
    of: int = 1
    ground: str = ""  # of a takeover; empty for a notice
    level: str = ""
    name: Lines
    body: tuple[Lines, ...]
    foot: str = ""
    image: tuple[str, str] | None = None  # its path, served from here too, and what it shows
    link: str = ""
    language: str = "ja"


@dataclass(frozen=True, kw_only=True)
class Screen:
    id: str
    place: str
    pictures: tuple[Picture, ...]
    bands: tuple[str, ...] = ()  # the words that frame a drill: the upper, the lower, the foot

    @property
    def is_taken_over(self) -> bool:
        return any(picture.ground for picture in self.pictures)


def screen(document: Document, at: datetime, language: str) -> Screen:
    """What stands on this screen at that instant: the emergency, or else the notices. Raises Unreadable."""
    try:
        takeover, drill, where = document["takeover"], document["drill"], document["screen"]
        alerts = [alert for alert in (takeover or {}).get("alerts", ()) if _is_on(alert, "expires", at)]
        items = [item for item in document["items"] if _is_on(item, "end", at)]
        pictures = [_alert(alert, language) for alert in alerts]
        if not alerts:
            pictures = [picture for item in items for picture in _notice(item, language)]
        return Screen(
            id=str(where["id"]),
            place=" ".join(str(where[name]) for name in ("site", "place") if where[name]),
            pictures=tuple(
                replace(picture, number=number, of=len(pictures)) for number, picture in enumerate(pictures, 1)
            ),
            bands=tuple(str(drill[name]) for name in ("band", "band_other", "foot")) if drill else (),
        )
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise Unreadable("signage") from error


def _is_on(document: Document, end: str, at: datetime) -> bool:
    return parse_instant(document["start"]) <= at < parse_instant(document[end])


def _alert(alert: Document, language: str) -> Picture:
    """The words of the first language stand above; the chosen one takes turns below."""
    first = alert["languages"][0]
    lines = [str(line) for line in first["lines"]]
    level = lines.pop(0) if alert["level"] and len(lines) > 1 else ""
    other = next((told for told in alert["languages"][1:] if told["language"] == language), None)
    below = other["lines"] if other else lines[1:]
    return Picture(
        seconds=int(alert["seconds"]),
        ground=GROUNDS.get(alert["colour"]["name"], "g1"),
        level=level,
        name=Lines(lang=first["lang"], lines=(lines[0],)),
        body=(Lines(lang=(other or first)["lang"], lines=tuple(map(str, below))),),
        foot=str(alert["issued"]),
        language=(other or first)["language"],
    )


def _notice(item: Document, language: str) -> Iterator[Picture]:
    languages = item["languages"]
    told = next((told for told in languages if told["language"] == language), languages[0])
    image = item["image"]
    for page in told["pages"]:
        yield Picture(
            seconds=int(page["seconds"]),
            name=Lines(lang=told["lang"], lines=(str(told["headline"]),)),
            body=(Lines(lang=told["lang"], lines=tuple(map(str, page["phrases"]))),),
            foot=" ".join(str(item["section"][name]) for name in ("name", "phone")) if item["section"] else "",
            image=(urlsplit(image["url"]).path, str(image["alt"])) if image else None,
            link=str(item["link"] or ""),
            language=told["language"],
        )


# The feed reader


@dataclass(frozen=True, kw_only=True)
class Entry:
    title: str
    summary: str
    lang: str
    published_at: datetime
    tags: tuple[str, ...]


def entries(document: Document) -> list[Entry]:
    """Of a JSON Feed, in its order. Raises Unreadable."""
    try:
        return [
            Entry(
                title=str(item["title"]),
                summary=str(item.get("summary") or ""),
                lang=lang_attribute(str(item.get("language") or document["language"])),
                published_at=parse_instant(item["date_published"]),
                tags=tuple(map(str, item.get("tags") or ())),
            )
            for item in document["items"]
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Unreadable("feed") from error


# The telephone

_LETTERS_PER_S = {"ja": 7.0, "zh-Hans": 4.5, "zh-Hant": 4.5, "ko": 5.5}
_LETTERS_PER_S_LATIN = 14.0


def seconds_aloud(text: str, lang: str) -> int:
    """About how long a voice takes. A rule of thumb: a kanji is read as two syllables and counted as one letter."""
    letters = sum(1 for char in text if not char.isspace())
    return max(1, round(letters / _LETTERS_PER_S.get(lang, _LETTERS_PER_S_LATIN)))


# How far each sending has come


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A state with its word in words.yaml, and of how many."""

    state: str  # delivered accepted pending retrying failed unknown stopped retracted no_readers counting
    n: int = 1


@dataclass(frozen=True, kw_only=True)
class Standing:
    channel: str
    marks: tuple[Mark, ...]
    seconds: float | None  # from the sending to the last that is settled
    is_mailing: bool


@dataclass(frozen=True, kw_only=True)
class Sent:
    """One sending, from `reports.of`."""

    report: Document

    @property
    def sent_at(self) -> datetime:
        return parse_instant(self.report["sent_at"])

    @property
    def standings(self) -> list[Standing]:
        channels = dict.fromkeys(row["channel"] for row in self.report["deliveries"])
        return [self._standing(channel) for channel in channels]

    def settled_at(self, channel: str) -> datetime | None:
        """When the last part of it was settled there."""
        instants = [row["settled_at"] for row in self._rows(channel) if row["settled_at"]]
        return max(map(parse_instant, instants), default=None)

    def evidence(self, channel: str) -> set[str]:
        """The medium's own ids of what went out."""
        return {row["evidence"] for row in self._rows(channel) if row["evidence"]}

    def seconds_to(self, at: datetime) -> float:
        return max(0.0, (at - self.sent_at).total_seconds())

    def _standing(self, channel: str) -> Standing:
        rows = self._rows(channel)
        found: Counter[str] = Counter()
        for row in rows:
            for state, n in (_of_readers(row) if row["kind"] == MAILING else _of_part(row)).items():
                found[state] = max(found[state], n) if state == "retrying" else found[state] + n
        if len(found) > 1:  # some have readers: those parts that have none say nothing
            found = Counter({state: n for state, n in found.items() if state not in ("no_readers", "counting")})
        settled_at = self.settled_at(channel)
        return Standing(
            channel=channel,
            marks=tuple(Mark(state=state, n=n) for state, n in found.items()),
            seconds=self.seconds_to(settled_at) if settled_at else None,
            is_mailing=any(row["kind"] == MAILING for row in rows),
        )

    def _rows(self, channel: str) -> Sequence[Document]:
        return [row for row in self.report["deliveries"] if row["channel"] == channel]


def _of_readers(row: Document) -> dict[str, int]:
    counts = row["counts"]
    if not counts["total"]:
        return {"counting" if row["settled_at"] is None else "no_readers": 1}
    told = {
        "accepted": counts["delivered"],  # a relay took it; whose box it lies in nobody has said
        "pending": counts["queued"] + counts["in_flight"],
        "failed": counts["failed"],
        "unknown": counts["unknown"],
        "stopped": counts["stopped"],
    }
    return {state: n for state, n in told.items() if n}


def _of_part(row: Document) -> dict[str, int]:
    state = row["state"]
    if row["kind"] == RETRACT and state == "delivered":
        return {"retracted": 1}
    if state in ("queued", "in_flight"):
        return {"retrying": row["attempts"]} if row["attempts"] > 1 else {"pending": 1}
    return {state: 1}
