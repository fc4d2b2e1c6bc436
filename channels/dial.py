"""What residents hear when they dial the emergency line: `dial/current.txt`, and the same as SSML 1.1 for a voice.

A board: it tells every alert in force, the gravest first, and says so when there is none. A telephone exchange fetches
it and speaks. `dial/current.en.txt` is English.

    [dial]
    seconds_max = 90
    characters_per_minute = 235
    said_once = ["品川区です。"]

Why it is so:

* Nobody listens longer than a minute and a half. What does not fit is left out by whole sentences, the least grave
  first, and the line says how many messages it did not tell. The level, the place and the act of the gravest stay;
  where not even they fit, its headline and its place do.
* All is told a second time if there is time: the first time, people look for a pen.
* The time spoken is that of the newest alert and not that of composing: equal messages give equal bytes, and so one
  ETag in every process; and a line that has not been renewed cannot claim to be of now.
* Text and SSML are made from the same sentences, so they cannot disagree.
* In a drill the mark is taken off the single messages and put around the line and before every alert: said with every
  sentence of every message it would leave no time for the rest. Should a message's mark not be found, it stays.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from typing import Any, ClassVar

from broadcaster.changes import bare
from broadcaster.channel import DRILL_MARK, Kit, Page, PermanentFailure, Receipt, TemporaryFailure
from broadcaster.clock import local
from broadcaster.message import LANGUAGES, Change, Info, Message, Mode, by_gravity, lang_attribute
from broadcaster.speech import CHARACTERS_PER_MINUTE, seconds
from broadcaster.text import runs

DEFAULT_LANGUAGE = LANGUAGES[0]
DEFAULT_SECONDS = 90
SHORTEST = 80
"""The barest form of an alert, and all that frames it in a drill, takes as long as this in the slowest language."""

MOST_TOLD = 12
"""More can never be told in the time, and need not be tried."""

LONGEST_NAME, LONGEST_AREA = 50, 30
"""Characters, where the line itself names an alert and its place. A longer list of towns ends with など."""

PAUSE_S = 0.6
"""Between two alerts, as templates/dial/current.ssml has it."""


@dataclass(frozen=True, kw_only=True)
class Sentence:
    text: str
    language: str  # of the voice: not the page's where a message lacks that language
    runs: tuple[tuple[str, str], ...]  # the same cut where the voice changes: Japanese names in an English sentence


Paragraph = tuple[Sentence, ...]


@dataclass(frozen=True, kw_only=True)
class Told:
    """An alert as the line tells it: what is said before it, and its own sentences."""

    lead: Paragraph
    sentences: Paragraph
    barest: Paragraph  # the headline and the place, for words that no line can hold
    essential: frozenset[int]  # these are given up last: level, place, and what to do

    @property
    def once(self) -> Paragraph:
        """Without the sentences that the message itself says twice."""
        return tuple(dict.fromkeys(self.sentences))

    def shorter(self) -> Iterator[Paragraph]:
        """With one sentence less each time, from the end, until only the essential ones are left."""
        kept = dict(enumerate(self.sentences))
        kept = {at: sentence for at, sentence in kept.items() if sentence not in self.sentences[:at]}
        for at in sorted(kept.keys() - self.essential, reverse=True):
            del kept[at]
            yield tuple(kept.values())


@dataclass(frozen=True, kw_only=True)
class Dial:
    name: ClassVar[str] = "dial"
    shows_all: ClassVar[bool] = True
    mode: Mode
    kit: Kit

    @classmethod
    def built(cls, kit: Kit) -> Dial:
        return cls(mode=kit.mode, kit=kit)

    def missing(self) -> Sequence[str]:
        options = self.kit.options
        sentences = []
        longest = options.get("seconds_max", DEFAULT_SECONDS)
        if not _is_number(longest) or longest < SHORTEST:
            sentences.append(f"channels.toml の [dial] の seconds_max に、{SHORTEST} 以上の数を書いてください。")
        pace = options.get("characters_per_minute", CHARACTERS_PER_MINUTE)
        if not _is_number(pace) or pace < CHARACTERS_PER_MINUTE / 2:
            sentences.append("channels.toml の [dial] の characters_per_minute に、120 以上の数を書いてください。")
        once = options.get("said_once", [])
        if not isinstance(once, list | tuple) or not all(isinstance(sentence, str) for sentence in once):
            sentences.append('channels.toml の [dial] の said_once は、["品川区です。"] のように書いてください。')
        return sentences

    def compose(self, in_force: Sequence[Message], at: datetime) -> Sequence[Page]:
        """The line in every language, as text and as SSML. `at` changes nothing."""
        alerts = self.gravest_first(in_force)
        return [page for language in LANGUAGES for page in self._pages(language, alerts)]

    def gravest_first(self, messages: Sequence[Message]) -> list[Message]:
        """The alerts in the order of telling. The identifier settles what is equal."""
        alerts = sorted((message for message in messages if message.is_alert), key=lambda message: message.identifier)
        return by_gravity(alerts)

    async def deliver(self, page: Page) -> Receipt:
        try:
            self.kit.publish(page)
        except PermissionError as error:
            raise PermanentFailure("電話の文の置き場に書けません。書き込みの権限を確かめてください。") from error
        except OSError as error:
            raise TemporaryFailure("電話の文の置き場に届きません。") from error
        return Receipt(evidence=page.etag)

    async def close(self) -> None:
        """Nothing was opened."""

    def _pages(self, language: str, alerts: Sequence[Message]) -> list[Page]:
        paragraphs = Script(kit=self.kit, language=language, alerts=alerts).paragraphs
        return [
            Page(
                path=page_path(language, ending),
                content_type=content_type,
                body=self.kit.render(f"dial/current.{ending}", language=language, paragraphs=paragraphs).encode(),
            )
            for ending, content_type in (("txt", "text/plain; charset=utf-8"), ("ssml", "application/ssml+xml"))
        ]


@dataclass(frozen=True)
class Plan:
    """Which sentences of which alert are said. An alert with none is not told."""

    alerts: tuple[Paragraph, ...]
    twice: bool = False


@dataclass(frozen=True, kw_only=True)
class Script:
    """What is read out in one language."""

    kit: Kit
    language: str
    alerts: Sequence[Message]  # the gravest first

    @cached_property
    def paragraphs(self) -> list[Paragraph]:
        """The fullest plan that fits."""
        if not self.alerts:
            return self._framed([self._say("none")])
        spoken: list[Paragraph] = []
        for plan in self._plans():
            spoken = self._spoken(plan)
            if self.length(spoken) <= self.kit.options.get("seconds_max", DEFAULT_SECONDS):
                break
        return spoken

    def length(self, paragraphs: Sequence[Paragraph]) -> float:
        """Seconds."""
        pace = self.kit.options.get("characters_per_minute", CHARACTERS_PER_MINUTE)
        spoken = sum(_seconds(sentence, pace) for paragraph in paragraphs for sentence in paragraph)
        return spoken + PAUSE_S * (len(paragraphs) - 1)

    @cached_property
    def _told(self) -> list[Told]:
        return [self._tell(message, number) for number, message in enumerate(self.alerts[:MOST_TOLD])]

    def _plans(self) -> Iterator[Plan]:
        """From everything twice to the barest form of the gravest."""
        told = self._told
        yield Plan(tuple(alert.sentences for alert in told), twice=True)
        yield Plan(tuple(alert.sentences for alert in told))
        said = [alert.once for alert in told]
        yield Plan(tuple(said))
        for at in reversed(range(len(told))):
            for shorter in told[at].shorter():
                said[at] = shorter
                yield Plan(tuple(said))
            for barer in (told[at].barest, ()) if at else (told[at].barest,):
                said[at] = barer
                yield Plan(tuple(said))

    def _spoken(self, plan: Plan) -> list[Paragraph]:
        pairs = list(zip(self._told, plan.alerts, strict=True))
        told = [alert.lead + said for alert, said in pairs if said]
        paragraphs = [self._opening, *told]
        if plan.twice:
            paragraphs += [self._between + self._say("repeat"), *told]
        if untold := len(self.alerts) - len(told):
            paragraphs.append(self._say("untold", count=untold))
        elif any(said not in (alert.sentences, alert.once) for alert, said in pairs):
            paragraphs.append(self._say("more"))
        return self._framed([*paragraphs, self._say("closing")])

    @cached_property
    def _opening(self) -> Paragraph:
        return self._say("opening", **self._time(self._newest_at), count=len(self.alerts))

    @cached_property
    def _newest_at(self) -> datetime:
        return max(message.began_at for message in self.alerts)

    # A drill

    @property
    def _is_drill(self) -> bool:
        return self.kit.mode is Mode.DRILL

    @cached_property
    def _between(self) -> Paragraph:
        return self._say("drill") if self._is_drill else ()

    def _framed(self, paragraphs: list[Paragraph]) -> list[Paragraph]:
        if not self._is_drill:
            return paragraphs
        mark = self._sentences(f"{DRILL_MARK}、{DRILL_MARK}。", DEFAULT_LANGUAGE)
        return [mark + self._between, *paragraphs, self._between + mark]

    def _unmarked(self, text: str, language: str) -> str:
        """Without what `drill.watermarked` put into it."""
        words = self.kit.words
        told, this_is_a_drill = words.phrase("drill", language), words.phrase("drill", DEFAULT_LANGUAGE)
        opening = f"{DRILL_MARK}、{DRILL_MARK}。{told}"
        if not text.startswith(opening):
            return text
        own = text.removeprefix(opening).removesuffix(told)
        return own.replace(f"。{this_is_a_drill}", "。", 1)

    # One alert

    def _tell(self, message: Message, number: int) -> Told:
        info = message.in_language(self.language) or message.in_language(DEFAULT_LANGUAGE) or message.info
        own = self._own_sentences(message, info)
        if message.is_ended:
            ended = self._ended(message)
            return Told(
                lead=self._lead(message, info, number),
                sentences=ended + own,
                barest=ended,
                essential=frozenset(range(len(ended))),
            )
        level = self._level(message, info.language)
        says_level = [at for at, sentence in enumerate(own) if level and level.search(_plain(sentence.text))]
        before = self._say("level", info.language, level=message.level) if level and not says_level else ()
        sentences = before + own
        essential = (0, *says_level[:1], *self._names_place(message, sentences), *_asks(sentences)[:1])
        return Told(
            lead=self._lead(message, info, number),
            sentences=sentences,
            barest=before + self._headline(message, info) + self._area(message),
            essential=frozenset((len(before), *essential)),
        )

    def _headline(self, message: Message, info: Info) -> Paragraph:
        name = self._name(info.headline, info.language)
        return self._say("named", info.language, names=message.untranslated, name=name) if name else ()

    def _names_place(self, message: Message, sentences: Paragraph) -> list[int]:
        """The sentences with the place. Without them an order for one street would be one for everybody."""
        if message.is_for_whole_ward:
            return []
        places = {area.description for area in message.areas} | {message.area_text, message.slots.get("area", "")}
        return [
            at
            for at, sentence in enumerate(sentences)
            if any(place and self.kit.read_aloud(place, sentence.language) in sentence.text for place in places)
        ]

    def _own_sentences(self, message: Message, info: Info) -> Paragraph:
        """The message's words. Who speaks is said once, when the line begins."""
        text = info.spoken or info.summary or info.headline
        if message.is_drill:
            text = self._unmarked(text, info.language)
        said_once = {self.kit.read_aloud(said, info.language) for said in self.kit.options.get("said_once", ())}
        sentences = self._sentences(text, info.language, message.untranslated)
        own = tuple(sentence for sentence in sentences if sentence.text not in said_once)
        return own or sentences or self._headline(message, info)

    def _level(self, message: Message, language: str) -> re.Pattern[str] | None:
        """How a sentence says this level, `Alert level 4` in the reviewed phrase, whatever follows it."""
        if message.level is None:
            return None
        phrase = _plain(self.kit.words.phrase(f"level_{message.level}", language))
        word, digit, _ = phrase.partition(str(message.level))
        return re.compile(rf"{re.escape(word + digit)}(?!\d)")

    def _lead(self, message: Message, info: Info, number: int) -> Paragraph:
        lead = self._between if number else ()
        time = self._time(message.began_at)
        if number:
            lead += self._say("next", **time)
        elif message.began_at != self._newest_at:
            lead += self._say("issued", **time)
        if info.language != self.language:
            lead += self._say("japanese_only" if info.lang_attribute == "ja" else "other_language")
        return lead + (self._say("update") if message.change is Change.UPDATE else ())

    def _time(self, at: datetime) -> dict[str, Any]:
        """For the templates: the day is said when the line begins, and again where it is another one."""
        newest = local(self._newest_at)
        told = local(at)
        return {"at": told, "is_other_day": told.date() != newest.date(), "is_newest": at == self._newest_at}

    def _ended(self, message: Message) -> Paragraph:
        """What it was that is over: who calls now has not heard 「先ほどのお知らせ」."""
        part = "cancel" if message.change is Change.CANCEL else "all_clear"
        info = message.in_language_or_first(self.language)
        is_event = self.language == DEFAULT_LANGUAGE and message.event
        name = self._name(message.event if is_event else info.headline, self.language)
        names = message.untranslated if info.language == self.language else (*message.untranslated, name)
        return self._say(part, names=names, name=name) + self._area(message)

    def _name(self, headline: str, language: str) -> str:
        return _cut(self.kit.read_aloud(bare(headline), language), LONGEST_NAME)

    def _area(self, message: Message) -> Paragraph:
        if message.is_for_whole_ward:
            return ()
        text = self.kit.read_aloud(message.area_text, DEFAULT_LANGUAGE).rstrip(_CLOSERS)
        heard = _cut(text, LONGEST_AREA)
        return self._say("area", names=(heard,), area=heard, is_part=heard != text)

    # Words into sentences

    def _say(self, part: str, language: str = "", /, *, names: Sequence[str] = (), **context: Any) -> Paragraph:
        """What the line itself says, by templates/dial/said.txt: a sentence a line."""
        spoken_in = language or self.language
        said = self.kit.render("dial/said.txt", language=spoken_in, part=part, ward=self.kit.ward, **context)
        return tuple(
            sentence
            for line in said.splitlines()
            for sentence in self._sentences(line, spoken_in, names, is_whole=True)
        )

    def _sentences(self, text: str, language: str, names: Sequence[str] = (), *, is_whole: bool = False) -> Paragraph:
        said = self.kit.read_aloud(text, language)
        parts = [said] if is_whole else _SENTENCE_END.split(said)
        spoken = [part.strip() for part in parts if part.strip(f"{_CLOSERS}!?！？")]
        return tuple(self._sentence(_closed(part, language), language, names) for part in spoken)

    def _sentence(self, text: str, language: str, names: Sequence[str]) -> Sentence:
        if lang_attribute(language) == "ja":
            return Sentence(text=text, language=language, runs=((text, language),))
        read_aloud = self.kit.read_aloud
        known = [said for name in names if (said := read_aloud(name, language))]
        pieces = tuple(
            (read_aloud(piece, DEFAULT_LANGUAGE), DEFAULT_LANGUAGE) if is_name else (piece, language)
            for piece, is_name in runs(text, known)
        )
        return Sentence(text=text, language=language, runs=pieces)


def page_path(language: str, ending: str) -> str:
    """`dial/current.txt`, and `dial/current.en.txt` in English."""
    return f"dial/current.{ending}" if language == DEFAULT_LANGUAGE else f"dial/current.{language}.{ending}"


_SENTENCE_END = re.compile(r"(?<=[。！？])|(?<=[.!?])\s+(?![a-z])|(?<=[a-z가-힣][.!?])(?=[A-Z가-힣])")

_ASKS: Mapping[str, re.Pattern[str]] = {
    "ja": re.compile("ください|下さい|行動を|ましょう"),
    "en": re.compile(r"\b(?:must|should|please|do not|evacuate|take|move|stay|leave|turn off|keep away)\b", re.I),
    "zh-Hans": re.compile("请"),
    "zh-Hant": re.compile("請"),
    "ko": re.compile("십시오|세요"),
    "tl": re.compile(r"\b(?:huwag|lumikas|sumilong|pumunta|manatili|iligtas|mag-ingat|patayin|umalis|lumayo)\b", re.I),
}
"""How a sentence that asks for something is known, in each language."""


_CLOSERS = "。.、,， "


def _closed(sentence: str, language: str) -> str:
    """With a full stop, at which a voice falls."""
    stop = "。" if lang_attribute(language) in ("ja", "zh-Hans", "zh-Hant") else "."
    return sentence if sentence[-1] in "。.！？!?" else sentence.rstrip(_CLOSERS) + stop


_PAUSE = re.compile(r"[、，,。 ](?=[^、，,。 ]*$)")


def _cut(text: str, most: int) -> str:
    """At most so many characters, up to the last pause: half a name would be another place."""
    if len(text) <= most:
        return text.rstrip(_CLOSERS)
    head = text[:most]
    pause = _PAUSE.search(head)
    return (head[: pause.start()] if pause else head).rstrip(_CLOSERS)


def _asks(sentences: Paragraph) -> list[int]:
    return [
        at for at, sentence in enumerate(sentences) if _ASKS[lang_attribute(sentence.language)].search(sentence.text)
    ]


@lru_cache(maxsize=2_000)
def _seconds(sentence: Sentence, characters_per_minute: float) -> float:
    return seconds(sentence.text, sentence.language, characters_per_minute)


def _plain(text: str) -> str:
    """For comparing: レベル４ and レベル4 are the same, and so are Level and level."""
    return unicodedata.normalize("NFKC", text).casefold()


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
