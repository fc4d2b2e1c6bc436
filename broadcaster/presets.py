"""Prepared emergency texts (文案): fill the open slots, and the message stands in seven languages.

A correction fills the same text again with the right values, so every language is corrected with it (`changes.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from broadcaster.clock import local
from broadcaster.manuscript import canonical_language, drill_problems, text_problems
from broadcaster.message import (
    LANGUAGES,
    Area,
    Certainty,
    EventCategory,
    Info,
    Message,
    Mode,
    ResponseType,
    Section,
    Severity,
    Urgency,
    new_identifier,
)
from broadcaster.problems import Problem, Refused, refuse
from broadcaster.render import full_width
from broadcaster.slots import fill, slots_in
from broadcaster.ward import UnknownArea, Ward

AUTOMATIC = ("time",)
"""Slots that the clock fills."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    id: str
    event: str
    to: str  # whom it reaches: `whole`, district codes, or a slot
    cap: Mapping[str, Any]
    fields: Mapping[str, str]
    title: str
    headline: str
    body: str
    sns: str
    speech: str
    display: tuple[str, ...]
    languages: Mapping[str, str]
    level: int | None = None
    colour: str = ""
    update: str = ""
    end: str = ""
    cautions: tuple[str, ...] = field(default_factory=tuple)

    @property
    def is_drill_only(self) -> bool:
        return self.cap.get("status") == "Exercise"

    @property
    def slots(self) -> tuple[str, ...]:
        """The slots of the alert itself, in the order of reading."""
        texts = (
            self.title,
            self.headline,
            self.body,
            self.sns,
            self.speech,
            *self.display,
            *self.languages.values(),
            self.to,
        )
        return tuple(dict.fromkeys(name for text in texts for name in slots_in(text)))


def from_yaml(entry: Mapping[str, Any]) -> Preset:
    """Raises Refused for an entry that lacks a language or a text."""
    languages = {canonical_language(name) or name: text for name, text in entry["languages"].items()}
    missing = [language for language in LANGUAGES[1:] if language not in languages]
    if missing:
        raise refuse(
            f"{entry['id']}.languages",
            ja=f"文案 {entry['id']} に {', '.join(missing)} の文がありません。",
            en=f"Preset {entry['id']} lacks {', '.join(missing)}.",
        )
    return Preset(
        id=entry["id"],
        event=entry["event"],
        to=entry["to"],
        cap=entry["cap"],
        fields={name: str(value) for name, value in (entry.get("fields") or {}).items()},
        title=entry["title"],
        headline=entry["headline"],
        body=entry["body"],
        sns=entry["sns"],
        speech=entry["speech"],
        display=tuple(entry["signage"]["lines"]),
        colour=entry["signage"]["colour"],
        languages=languages,
        level=entry.get("level"),
        update=entry.get("update", ""),
        end=entry.get("end", ""),
        cautions=tuple(entry.get("cautions", ())),
    )


def compose_alert(
    preset: Preset,
    *,
    ward: Ward,
    now: datetime,
    mode: Mode,
    channels: tuple[str, ...],
    values: Mapping[str, str],
    use_examples: bool,
    section: Section | None = None,
) -> Message:
    """The alert with its slots filled. `use_examples` takes the preset's own examples for what is left open: for
    rehearsals and drills only. Raises Refused: an unknown or open slot, an unknown area, a drill text in live mode."""
    problems = [*_unknown_slots(preset, values), *_wrong_place(preset, mode)]
    filled = {name: text for name, text in preset.fields.items() if use_examples}
    filled |= {name: spoken_time(now) for name in AUTOMATIC if name in preset.fields} | dict(values)
    for name in preset.slots:
        if name not in filled:
            example = preset.fields.get(name, "")
            problems.append(
                Problem(
                    where=name,
                    ja=f"「{name}」を埋めてください（例：{example}）。--set {name}=… で書きます。",
                    en=f"Fill {name!r} (for example {example}) with --set {name}=…",
                )
            )
    for name, text in values.items():
        problems.extend(text_problems(name, text, most=200, lines=1))
    areas = _areas(preset, filled, ward, problems)
    if problems:
        raise Refused(problems)
    message = Message(
        identifier=new_identifier(now),
        mode=mode,
        category=ward.emergency_category,
        infos=_infos(preset, filled),
        areas=areas,
        channels=channels,
        effective_at=now,
        expires_at=now + timedelta(hours=float(preset.cap["expires_hours"])),
        event=fill(preset.event, filled),
        event_category=EventCategory(preset.cap["category"]),
        urgency=Urgency(preset.cap["urgency"]),
        severity=Severity(preset.cap["severity"]),
        certainty=Certainty(preset.cap["certainty"]),
        response_type=ResponseType(preset.cap["responseType"]),
        level=preset.level,
        colour=preset.colour,
        section=section,
        preset=preset.id,
        slots=filled,
    )
    if wrong := [*drill_problems(message), *_leftover_problems(message)]:
        raise Refused(wrong)
    return message


def _leftover_problems(message: Message) -> list[Problem]:
    return [
        problem
        for info in message.infos
        for where, text in (("title", info.headline), ("body", info.description), ("speech", info.spoken))
        for problem in text_problems(f"{info.language}.{where}", text, most=20_000)
    ]


def _unknown_slots(preset: Preset, values: Mapping[str, str]) -> list[Problem]:
    known = set(preset.slots) | set(preset.fields)
    names = ", ".join(sorted(known)) or "—"
    return [
        Problem(
            where=name,
            ja=f"文案 {preset.id} に「{name}」という欄はありません。あるのは {names} です。",
            en=f"Preset {preset.id} has no slot {name!r}; it has {names}.",
        )
        for name in values
        if name not in known
    ]


def _wrong_place(preset: Preset, mode: Mode) -> list[Problem]:
    if preset.is_drill_only and mode is Mode.LIVE:
        return [
            Problem(
                where="mode",
                ja=f"文案 {preset.id} は訓練の文です。訓練（--drill）で出してください。",
                en=f"Preset {preset.id} is a drill text; issue it as a drill (--drill).",
            )
        ]
    return []


def _areas(preset: Preset, filled: Mapping[str, str], ward: Ward, problems: list[Problem]) -> tuple[Area, ...]:
    """The words of the place, and the districts that they reach. Towns in the words decide; else the preset's own
    `to`. No area is an error, never the whole ward."""
    words = filled.get("area", "")
    reach = [name for name in re.split(r"[,，]\s*", fill(preset.to, filled)) if name]
    codes: list[str] = []
    for name in reach:
        try:
            codes.extend(ward.area(name).geocodes)
        except UnknownArea:
            problems.append(
                Problem(
                    where="area",
                    ja=f"「{name}」という地区・町丁目はありません。",
                    en=f"There is no district or town {name!r}.",
                )
            )
    if not codes:
        return ()
    description = words or "、".join(ward.area(name).description for name in reach)
    return (Area(description=description, geocodes=tuple(dict.fromkeys(codes))),)


def _infos(preset: Preset, filled: Mapping[str, str]) -> tuple[Info, ...]:
    japanese = Info(
        language="ja",
        headline=fill(preset.title, filled),
        summary=fill(preset.sns, filled).strip(),
        description=fill(preset.body, filled).strip("\n"),
        spoken=fill(preset.speech, filled),
        display=tuple(fill(line, filled) for line in preset.display),
    )
    others = [_translated(language, fill(preset.languages[language], filled)) for language in LANGUAGES[1:]]
    return (japanese, *others)


def _translated(language: str, text: str) -> Info:
    return Info(
        language=language, headline=first_sentence(text), summary=text, description=text, spoken=text, display=(text,)
    )


_SENTENCE = re.compile(r"^.+?(?:[。．！？]|[.!?](?=\s|$))", re.DOTALL)


def first_sentence(text: str) -> str:
    match = _SENTENCE.match(text)
    sentence = match[0] if match else text
    return sentence.rstrip("。.")[:100]


def spoken_time(now: datetime) -> str:
    """午後６時５５分, as the prepared texts write it."""
    at = local(now)
    half = "午前" if at.hour < 12 else "午後"
    minute = f"{at.minute}分" if at.minute else ""
    return full_width(f"{half}{at.hour % 12}時{minute}")
