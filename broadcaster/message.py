"""The one model of what the ward says, in the words of CAP 1.2.

A `Message` is CAP's *alert*: a routine notice and an evacuation order are the same type, and differ in urgency. An
`Info` is one language of it, an `Area` one place. CAP repeats urgency, severity and certainty in every *info*; they are
facts about the event and not about a language, so they are held once here and repeated by whoever writes CAP.

Pure: no I/O, no library. Values of the enumerations are spelled as in the standard.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from broadcaster.clock import local, parse_instant, stamp

LANGUAGES = ("ja", "easy-ja", "en", "zh-Hans", "zh-Hant", "ko", "tl")
"""In the order in which they are shown. `easy-ja` is やさしい日本語; `lang_attribute` gives its BCP 47 form."""

WHOLE_WARD = "13109"
"""The ward's own code (JIS X 0402) as a geocode: everybody in it."""


class Mode(StrEnum):
    """A drill is a place, not a tick-box: stamped at creation, never changed."""

    LIVE = "live"
    DRILL = "drill"


class MessageType(StrEnum):
    ALERT = "Alert"
    UPDATE = "Update"
    CANCEL = "Cancel"


class Urgency(StrEnum):
    IMMEDIATE = "Immediate"
    EXPECTED = "Expected"
    FUTURE = "Future"
    PAST = "Past"
    UNKNOWN = "Unknown"


class Severity(StrEnum):
    EXTREME = "Extreme"
    SEVERE = "Severe"
    MODERATE = "Moderate"
    MINOR = "Minor"
    UNKNOWN = "Unknown"


class Certainty(StrEnum):
    OBSERVED = "Observed"
    LIKELY = "Likely"
    POSSIBLE = "Possible"
    UNLIKELY = "Unlikely"
    UNKNOWN = "Unknown"


class EventCategory(StrEnum):
    GEO = "Geo"
    MET = "Met"
    SAFETY = "Safety"
    SECURITY = "Security"
    RESCUE = "Rescue"
    FIRE = "Fire"
    HEALTH = "Health"
    ENV = "Env"
    TRANSPORT = "Transport"
    INFRA = "Infra"
    CBRNE = "CBRNE"
    OTHER = "Other"


class ResponseType(StrEnum):
    SHELTER = "Shelter"
    EVACUATE = "Evacuate"
    PREPARE = "Prepare"
    EXECUTE = "Execute"
    AVOID = "Avoid"
    MONITOR = "Monitor"
    ASSESS = "Assess"
    ALL_CLEAR = "AllClear"
    NONE = "None"


class Change(StrEnum):
    """What an update or a cancel means to a reader. CAP has only Update and Cancel; people need the four words."""

    UPDATE = "update"  # 続報: something new
    CORRECTION = "correction"  # 訂正: it was wrong, this is right
    CANCEL = "cancel"  # 取消: it should not have been sent
    ALL_CLEAR = "all_clear"  # 解除: the danger is over


@dataclass(frozen=True, kw_only=True)
class Info:
    """The words in one language. Lines of `description` are separated by `\\n`."""

    language: str
    headline: str
    description: str
    summary: str = ""
    spoken: str = ""
    display: tuple[str, ...] = ()  # the few lines of a screen in an emergency

    @property
    def lang_attribute(self) -> str:
        return lang_attribute(self.language)


@dataclass(frozen=True, kw_only=True)
class Area:
    """CAP's areaDesc, and the geocodes it stands for: the whole ward (`13109`) or districts (`D01` … `D13`)."""

    description: str
    geocodes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Image:
    """A picture by the SHA-256 of its stored bytes; the bytes themselves are kept beside the database."""

    digest: str
    alt: str
    media_type: str
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class Section:
    """Who answers questions: the ward's section with its telephone."""

    name: str
    phone: str
    fax: str | None = None


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The earlier message that an update or a cancel is about."""

    identifier: str
    sent_at: datetime


@dataclass(frozen=True, kw_only=True)
class Message:
    identifier: str
    mode: Mode
    category: str  # the ward's category by its id in ward.toml: `emergency`, `notice` …
    infos: tuple[Info, ...]  # the first is the language it was written in
    areas: tuple[Area, ...]
    channels: tuple[str, ...]
    effective_at: datetime
    expires_at: datetime
    message_type: MessageType = MessageType.ALERT
    change: Change | None = None
    references: tuple[Reference, ...] = ()
    event: str = ""
    event_category: EventCategory = EventCategory.OTHER
    urgency: Urgency = Urgency.UNKNOWN
    severity: Severity = Severity.UNKNOWN
    certainty: Certainty = Certainty.UNKNOWN
    response_type: ResponseType = ResponseType.NONE
    level: int | None = None  # 警戒レベル 1–5: flood, landslide and storm surge only, never earthquake or tsunami
    colour: str = ""  # of the takeover on screens: 黒 紫 赤 黄 白
    section: Section | None = None
    web: str | None = None
    images: tuple[Image, ...] = ()
    audience: tuple[str, ...] = ()
    hashtags: tuple[str, ...] = ()
    expires_text: str = ""
    preset: str | None = None
    slots: Mapping[str, str] = field(default_factory=dict)
    sent_at: datetime | None = None  # set once, at issue

    @property
    def is_alert(self) -> bool:
        """An alert says how urgent it is; a notice does not."""
        return self.urgency is not Urgency.UNKNOWN

    @property
    def is_drill(self) -> bool:
        return self.mode is Mode.DRILL

    @property
    def is_ended(self) -> bool:
        """Takes something back: a cancel or an all-clear."""
        return self.change in (Change.CANCEL, Change.ALL_CLEAR)

    @property
    def info(self) -> Info:
        return self.infos[0]

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(info.language for info in self.infos)

    @property
    def geocodes(self) -> tuple[str, ...]:
        """Every geocode of every area, once, in order."""
        return tuple(dict.fromkeys(code for area in self.areas for code in area.geocodes))

    @property
    def is_for_whole_ward(self) -> bool:
        return WHOLE_WARD in self.geocodes

    @property
    def area_text(self) -> str:
        return "、".join(area.description for area in self.areas)

    @property
    def untranslated(self) -> tuple[str, ...]:
        """Japanese that stands in every language as it was written: names of places, rivers, shelters, the section."""
        names = (*self.slots.values(), *(area.description for area in self.areas), self.area_text)
        section = (self.section.name,) if self.section else ()
        return tuple(name for name in (*names, *section) if len(name) > 1 and not name.isascii())

    def in_language(self, language: str) -> Info | None:
        """The words in this language, or None: a missing language is shown as missing, never guessed."""
        return next((info for info in self.infos if info.language == language), None)

    def in_language_or_first(self, language: str) -> Info:
        return self.in_language(language) or self.info

    @property
    def began_at(self) -> datetime:
        """When readers first could know: the moment of sending, or, before that, the planned one."""
        return self.sent_at or self.effective_at

    def sent(self, at: datetime) -> Message:
        """This message as it goes out. The moment never changes afterwards."""
        if self.sent_at is not None:
            return self
        return replace(self, sent_at=at, effective_at=min(self.effective_at, at))

    @property
    def gravity(self) -> tuple[int, int, float]:
        """Sorts gravest first, and among equals the newest first."""
        return (
            0 if self.is_alert else 1,
            _GRAVITY[self.severity] * 10 - (self.level or 0),
            -self.began_at.timestamp(),
        )


_GRAVITY = {severity: rank for rank, severity in enumerate(Severity)}


def by_gravity(messages: tuple[Message, ...] | list[Message]) -> list[Message]:
    return sorted(messages, key=lambda message: message.gravity)


def lang_attribute(language: str) -> str:
    """BCP 47 for `lang=` and for feeds. Easy Japanese is Japanese to a browser and to a speaking machine."""
    return "ja" if language == "easy-ja" else language


def new_identifier(at: datetime) -> str:
    """CAP identifiers hold no space, comma, `<` or `&`; this one can also be read over a telephone."""
    letters = "".join(secrets.choice("23456789abcdefghjkmnpqrstuvwxyz") for _ in range(6))
    return f"{WHOLE_WARD}-{local(at):%Y%m%d-%H%M%S}-{letters}"


def is_identifier(text: str) -> bool:
    """Whether this can be the identifier of a message: what comes from an address or a form is looked up only then."""
    return 0 < len(text) <= 64 and text.isascii() and text.isprintable()


# The message as a document: what the database freezes and what the API shows.


def to_document(message: Message) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for name in Message.__dataclass_fields__:
        document[name] = _plain(getattr(message, name))
    return document


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Info | Area | Image | Section | Reference):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return dict(value)
    return value


def from_document(document: Mapping[str, Any]) -> Message:
    """The inverse of `to_document`. Raises KeyError or ValueError when the document is none of ours."""
    known = {**document}
    return Message(
        identifier=known["identifier"],
        mode=Mode(known["mode"]),
        category=known["category"],
        infos=tuple(Info(**{**info, "display": tuple(info["display"])}) for info in known["infos"]),
        areas=tuple(Area(description=a["description"], geocodes=tuple(a["geocodes"])) for a in known["areas"]),
        channels=tuple(known["channels"]),
        effective_at=parse_instant(known["effective_at"]),
        expires_at=parse_instant(known["expires_at"]),
        message_type=MessageType(known["message_type"]),
        change=Change(known["change"]) if known["change"] else None,
        references=tuple(
            Reference(identifier=r["identifier"], sent_at=parse_instant(r["sent_at"])) for r in known["references"]
        ),
        event=known["event"],
        event_category=EventCategory(known["event_category"]),
        urgency=Urgency(known["urgency"]),
        severity=Severity(known["severity"]),
        certainty=Certainty(known["certainty"]),
        response_type=ResponseType(known["response_type"]),
        level=known["level"],
        colour=known["colour"],
        section=Section(**known["section"]) if known["section"] else None,
        web=known["web"],
        images=tuple(Image(**image) for image in known["images"]),
        audience=tuple(known["audience"]),
        hashtags=tuple(known["hashtags"]),
        expires_text=known["expires_text"],
        preset=known["preset"],
        slots=dict(known["slots"]),
        sent_at=parse_instant(known["sent_at"]) if known["sent_at"] else None,
    )


def content_hash(message: Message) -> str:
    """SHA-256 over everything that an approver saw. Any change of a word, a time or a medium changes it."""
    document = to_document(message)
    del document["sent_at"]
    canonical = json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


__all__ = [
    "LANGUAGES",
    "WHOLE_WARD",
    "Area",
    "Certainty",
    "Change",
    "EventCategory",
    "Image",
    "Info",
    "Message",
    "MessageType",
    "Mode",
    "Reference",
    "ResponseType",
    "Section",
    "Severity",
    "Urgency",
    "by_gravity",
    "content_hash",
    "from_document",
    "is_identifier",
    "lang_attribute",
    "new_identifier",
    "stamp",
    "to_document",
]
