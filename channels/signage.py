"""The signage feed: one JSON document for each screen, `signage/S01.json`, that its player asks for again and again.

A board: `items` are the notices to show in turn, `takeover` is the emergency that stands above everything else. Any
player can read it; docs/signage-feed.md tells its maker how.

    [signage]
    seconds_min = 8
    seconds_max = 20
    characters_per_second = 4
    poll_s = 20
    takeover_hours = 3
    never_broken = ["しながわ"]

Why it is so:

* Everything carries its own end, so that a screen whose network died takes it down by itself. A takeover has one
  always: an order that stays for days after the danger teaches people not to look.
* An alert never stands among the items, where it would take turns with the weekend's events.
* Pages are broken here and not by the player: phrases are not broken by a browser, and 26 screens show the same.
* A screen asks after a time of its own, found from its id. All at once would be a flood at every restart of a network.
* No time of composing: equal messages give equal bytes, and so one ETag in every process.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache, lru_cache
from itertools import accumulate
from typing import Any, ClassVar

import budoux

from broadcaster.channel import Kit, Page, PermanentFailure, Receipt, TemporaryFailure
from broadcaster.clock import hours, minutes, stamp
from broadcaster.message import Image, Info, Message, Mode, by_gravity
from broadcaster.render import clock_time
from broadcaster.ward import Screen

VERSION = 1
DEFAULTS: Mapping[str, float] = {
    "seconds_min": 8,
    "seconds_max": 20,
    "characters_per_second": 4,
    "poll_s": 20,
    "takeover_hours": 3,
}
MOST_CHARACTERS = 80
"""On one page: what a reader takes in in twenty seconds, four lines of twenty."""

LONGEST_POLL_S = 30
JITTER = 0.2
FIRST_ALERT_S, OTHER_ALERT_S = 12, 8
ENDED_FOR = minutes(30)
"""How long screens say that an emergency is over or was taken back."""

# 避難情報等の配色 (内閣府, 気象庁): the colour of the ground and that of the words on it.
COLOURS = {
    "黒": ("#0C000C", "#FFFFFF"),
    "紫": ("#AA00AA", "#FFFFFF"),
    "赤": ("#FF2800", "#FFFFFF"),
    "黄": ("#F2E700", "#000000"),
    "白": ("#FFFFFF", "#000000"),
}
COLOUR_OF_LEVEL = {5: "黒", 4: "紫", 3: "赤", 2: "黄", 1: "白"}

Document = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Signage:
    name: ClassVar[str] = "signage"
    shows_all: ClassVar[bool] = False
    mode: Mode
    kit: Kit

    @classmethod
    def built(cls, kit: Kit) -> Signage:
        return cls(mode=kit.mode, kit=kit)

    def missing(self) -> Sequence[str]:
        options = {**DEFAULTS, **self.kit.options}
        wrong = [name for name in DEFAULTS if not _is_positive(options[name])]
        if wrong:
            return [f"channels.toml の [signage] の {name} に、0より大きい数を書いてください。" for name in wrong]
        sentences = []
        if not _is_words(options.get("never_broken", [])):
            sentences.append('channels.toml の [signage] の never_broken は、["しながわ"] のように書いてください。')
        if options["seconds_min"] > options["seconds_max"]:
            sentences.append("channels.toml の [signage] の seconds_min を、seconds_max 以下にしてください。")
        if options["poll_s"] > LONGEST_POLL_S:
            sentences.append(f"channels.toml の [signage] の poll_s を、{LONGEST_POLL_S} 以下にしてください。")
        return sentences

    def compose(self, in_force: Sequence[Message], at: datetime) -> Sequence[Page]:
        """A page for every screen of the ward. `at` only decides which alerts are over."""
        settled = sorted(in_force, key=lambda message: message.identifier)
        alerts = [message for message in by_gravity(settled) if message.is_alert and self._expires_at(message) > at]
        notices = sorted(
            (message for message in settled if not message.is_alert),
            key=lambda message: (self._priority(message), -message.began_at.timestamp()),
        )
        items = {notice.identifier: self._item(notice) for notice in notices}
        shown = {district: self._shown(district, alerts, notices, items) for district in self._districts}
        return [self._page(screen, shown[screen.district]) for screen in self.kit.ward.screens]

    async def deliver(self, page: Page) -> Receipt:
        try:
            self.kit.publish(page)
        except PermissionError as error:
            raise PermanentFailure("画面用データの置き場に書けません。書き込みの権限を確かめてください。") from error
        except OSError as error:
            raise TemporaryFailure("画面用データの置き場に届きません。") from error
        return Receipt(evidence=page.etag)

    async def close(self) -> None:
        """Nothing was opened."""

    @property
    def _districts(self) -> dict[str | None, None]:
        """Screens of one district show the same. None stands for places of the whole ward."""
        return dict.fromkeys(screen.district for screen in self.kit.ward.screens)

    @property
    def _names(self) -> tuple[str, ...]:
        """What the model of phrases does not know for one word."""
        return (self.kit.ward.name, *self.kit.options.get("never_broken", ()))

    def _option(self, name: str) -> float:
        return float(self.kit.options.get(name, DEFAULTS[name]))

    def _page(self, screen: Screen, shown: Document) -> Page:
        document = {
            **shown,
            "version": VERSION,
            "mode": self.mode.value,
            "screen": {
                "id": screen.id,
                "site": screen.site,
                "place": screen.place,
                "orientation": screen.orientation,
            },
            "poll_s": poll_s(screen.id, self._option("poll_s")),
            "drill": self._drill(),
        }
        return Page(path=f"signage/{screen.id}.json", content_type="application/json", body=_bytes(document))

    def _shown(
        self,
        district: str | None,
        alerts: Iterable[Message],
        notices: Iterable[Message],
        items: Mapping[str, Document],
    ) -> Document:
        return {
            "items": [items[notice.identifier] for notice in notices if is_for(notice, district)],
            "takeover": self._takeover([alert for alert in alerts if is_for(alert, district)]),
        }

    # Notices

    def _item(self, notice: Message) -> Document:
        return {
            "id": notice.identifier,
            "category": notice.category,
            "priority": self._priority(notice),
            "start": stamp(notice.effective_at),
            "end": stamp(notice.expires_at),
            "languages": [self._told(info) for info in notice.infos],
            "image": self._picture(notice.images[0]) if notice.images else None,
            "link": notice.web,
            "section": {"name": notice.section.name, "phone": notice.section.phone} if notice.section else None,
        }

    def _priority(self, notice: Message) -> int:
        """1 is shown before 2: dangers, and what puts an earlier notice right."""
        is_first = notice.category == self.kit.ward.emergency_category or notice.change is not None
        return 1 if is_first else 2

    def _told(self, info: Info) -> Document:
        text = next(filter(str.strip, (info.description, info.summary, info.headline)), "")
        return {
            "lang": info.lang_attribute,
            "language": info.language,
            "headline": info.headline,
            "pages": [
                {"phrases": list(phrases), "seconds": self._seconds("".join(phrases))}
                for phrases in pages_of(text, info.language, self._names)
            ],
        }

    def _seconds(self, text: str) -> int:
        """The time to read it, in whole seconds."""
        needed = _length(text) / self._option("characters_per_second")
        return math.ceil(min(max(needed, self._option("seconds_min")), self._option("seconds_max")))

    def _picture(self, image: Image) -> Document:
        return {
            "url": self.kit.picture_address(image),
            "alt": image.alt,
            "width": image.width,
            "height": image.height,
            "type": image.media_type,
            "digest": image.digest,
        }

    # The takeover

    def _takeover(self, alerts: Sequence[Message]) -> Document | None:
        if not alerts:
            return None
        return {
            "id": _takeover_id(alerts),
            "expires": stamp(max(self._expires_at(alert) for alert in alerts)),
            "alerts": [
                self._alert(alert, seconds=OTHER_ALERT_S if place else FIRST_ALERT_S)
                for place, alert in enumerate(alerts)
            ],
            "drill": self._drill(),
        }

    def _alert(self, alert: Message, *, seconds: int) -> Document:
        return {
            "id": alert.identifier,
            "level": alert.level,
            "colour": _colour(alert),
            "event": alert.event,
            "headline": alert.info.headline,
            "lines": _lines(alert.info),
            "languages": [
                {"lang": info.lang_attribute, "language": info.language, "lines": _lines(info)} for info in alert.infos
            ],
            "area": alert.area_text,
            "start": stamp(alert.effective_at),
            "expires": stamp(self._expires_at(alert)),
            "issued": self.kit.words.page("signage.issued", "ja", time=clock_time(alert.began_at)),
            "seconds": seconds,
        }

    def _expires_at(self, alert: Message) -> datetime:
        """Screens let go of an alert that nobody renews before the alert itself ends."""
        longest = ENDED_FOR if alert.is_ended else hours(self._option("takeover_hours"))
        return min(alert.expires_at, alert.began_at + longest)

    def _drill(self) -> Document | None:
        """The words that frame the whole screen in a drill, at every moment of it."""
        if self.mode is not Mode.DRILL:
            return None
        words = self.kit.words
        return {
            "band": words.page("signage.drill_band"),
            "band_other": words.page("signage.drill_band", "en"),
            "foot": words.page("signage.drill_foot"),
        }


def is_for(message: Message, district: str | None) -> bool:
    """Whether a screen of this district shows it; None is a place where people of every district come.

    Those places show every alert, but not the notices of single districts.
    """
    if message.is_for_whole_ward:
        return True
    if district is None:
        return message.is_alert
    return district in message.geocodes


def poll_s(screen: str, usual: float) -> float:
    """Seconds until this screen asks again: the usual time and its own share of up to a fifth more or less."""
    share = int.from_bytes(hashlib.sha256(screen.encode()).digest()[:8]) / 2**64
    return min(round(usual * (1 - JITTER + 2 * JITTER * share), 1), LONGEST_POLL_S)


def _takeover_id(alerts: Iterable[Message]) -> str:
    """Changes when an alert comes or goes: a sent message never changes, an update is a message of its own."""
    return hashlib.sha256("\n".join(alert.identifier for alert in alerts).encode()).hexdigest()[:16]


def _colour(alert: Message) -> Document:
    """The alert's own, else that of its level, else white, which claims no level."""
    name = alert.colour if alert.colour in COLOURS else COLOUR_OF_LEVEL.get(alert.level or 0, "白")
    ground, text = COLOURS[name]
    return {"name": name, "hex": ground, "text": text}


def _lines(info: Info) -> list[str]:
    return list(info.display or (info.headline,))


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _is_words(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(word, str) for word in value)


def _bytes(document: Document) -> bytes:
    text = json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return text.encode("utf-8", "replace")


# Breaking text into pages


@lru_cache(maxsize=2_000)
def pages_of(text: str, language: str, names: tuple[str, ...] = ()) -> tuple[tuple[str, ...], ...]:
    """The text as pages of phrases. A phrase is not broken; one that ends in `\\n` ends its line.

    A page holds at most `MOST_CHARACTERS`. A sentence moves to the next page whole where one page can hold it, and a
    heading stays with what it heads. `names` are never broken either.
    """
    pages: list[list[str]] = []
    room = 0
    for passage in _passages(text):
        if room < _length(passage) <= MOST_CHARACTERS:
            pages.append([])
            room = MOST_CHARACTERS
        for phrase in _phrases(passage, language, names):
            if _length(phrase) > room:
                pages.append([])
                room = MOST_CHARACTERS
            pages[-1].append(phrase)
            room -= _length(phrase)
    return tuple((*page[:-1], page[-1].rstrip()) for page in pages)


def _length(text: str) -> int:
    return len(text.replace("\n", ""))


_HEADING = re.compile(r"■|＜[^＜＞]+＞$")
_SENTENCE_END = re.compile(r"(?<=[。！？])(?![」』）！？]|$)|(?<=[.!?] )")


def _passages(text: str) -> Iterator[str]:
    """What belongs on one page: a sentence or an item, after its heading if it is the first below one."""
    heading = ""
    for line in filter(None, map(str.strip, text.splitlines())):
        if _HEADING.match(line):
            heading += f"{line}\n"
            continue
        for sentence in _SENTENCE_END.split(f"{line}\n"):
            yield heading + sentence
            heading = ""
    if heading:
        yield heading


def _phrases(passage: str, language: str, names: tuple[str, ...]) -> Iterator[str]:
    for line in passage.splitlines(keepends=True):
        *others, last = _cut(line.rstrip("\n"), language, names)
        yield from others
        yield last + "\n" * line.endswith("\n")


def _cut(line: str, language: str, names: tuple[str, ...]) -> Iterator[str]:
    together = _spans(line, names)
    begin = 0
    for end in _breaks(line, language):
        if _may_break(line, begin, end) and not any(first < end < last for first, last in together):
            yield from _at_most(line[begin:end], names)
            begin = end
    yield from _at_most(line[begin:], names)


_DIGIT = "[0-9０-９]"
_KANJI = "[一-龠々]"
_WEEKDAY = "（[月火水木金土日祝休・]+）"
_TOGETHER = re.compile(
    rf"""(?:{_DIGIT}{{1,4}}年)?{_DIGIT}{{1,2}}月{_DIGIT}{{1,2}}日(?:{_WEEKDAY})?   # 12月29日（火）
    | {_DIGIT}{{1,2}}日{_WEEKDAY}
    | (?:(?:午前|午後)?{_DIGIT}{{1,2}}時(?:{_DIGIT}{{1,2}}分|半)?)            # 午後6時55分
    | {_DIGIT}{{1,2}}[:：]{_DIGIT}{{2}}
    | {_DIGIT}{{2,5}}[-－‐−(（]{_DIGIT}{{1,4}}[-－‐−)）]{_DIGIT}{{3,4}}       # a telephone number
    | {_KANJI}{{1,12}}[・～]?[一二三四五六七八九]丁目   # 西五反田一・二丁目
    | {_KANJI}{{1,12}}（[ぁ-んァ-ヶー]+）   # 議員（ぎいん）
    | https?://[!-~]+
    | {_DIGIT}+(?:[,.，．]{_DIGIT}+)*円?""",
    re.VERBOSE,
)


def _breaks(line: str, language: str) -> list[int]:
    """Where a reader of this language would accept a new line: after blanks, and where the model finds a phrase."""
    after_blanks = {match.end() for match in re.finditer(r"\s+", line)}
    parser = None if language == "easy-ja" and after_blanks else _parser(language)
    after_phrases = accumulate(map(len, parser.parse(line))) if parser else ()
    return sorted(after_blanks.union(after_phrases) - {len(line)})


_NEVER_FIRST = set("～〜、。，．）」』】＞！？ー々…")
_NEVER_LAST = set("（「『【＜")
_LONE_KANJI = re.compile(rf"{_KANJI}$")


def _may_break(line: str, begin: int, end: int) -> bool:
    """JIS X 4051's rules for the ends of lines. An item's dot stays with its item, and the model's single kanji, as in
    東｜京都, with what follows."""
    before, after = line[end - 1], line[end]
    if after in _NEVER_FIRST or after.isspace() or before in _NEVER_LAST:
        return False
    return line[begin:end] != "・" and not _LONE_KANJI.match(line[begin:end])


@cache
def _parser(language: str) -> budoux.Parser | None:
    """Korean, English and Tagalog need none: they have blanks. So has easy Japanese, as a rule."""
    match language:
        case "ja" | "easy-ja":
            return budoux.load_default_japanese_parser()
        case "zh-Hans":
            return budoux.load_default_simplified_chinese_parser()
        case "zh-Hant":
            return budoux.load_default_traditional_chinese_parser()
    return None


_JOINERS = "\u200d\ufe0e\ufe0f"


def _at_most(phrase: str, names: tuple[str, ...]) -> Iterator[str]:
    """A phrase that no page can hold, cut between characters, and before what belongs together if it can be."""
    while len(phrase) > MOST_CHARACTERS:
        end = MOST_CHARACTERS
        end = next((first for first, last in _spans(phrase, names) if 0 < first < end < last), end)
        while end > 1 and (unicodedata.combining(phrase[end]) or {phrase[end], phrase[end - 1]} & set(_JOINERS)):
            end -= 1
        yield phrase[:end]
        phrase = phrase[end:]
    yield phrase


def _spans(text: str, names: tuple[str, ...]) -> list[tuple[int, int]]:
    """From where to where the text holds together."""
    patterns = (_TOGETHER, *(re.compile(re.escape(name)) for name in names if name))
    return [match.span() for pattern in patterns for match in pattern.finditer(text)]
