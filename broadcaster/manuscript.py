"""What PR staff hand in: one notice as a mapping (YAML or JSON), and what is wrong with it, all at once.

The shape is that of config/rehearsal/notices.yaml. Unknown keys, unknown areas, missing words, a past expiry, a stray
placeholder are refused with a sentence each; nothing is guessed, widened or dropped. Times may be written `24:00`, which
is the next midnight.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from broadcaster import text as characters
from broadcaster.channel import DRILL_MARK
from broadcaster.clock import JST, local
from broadcaster.message import (
    LANGUAGES,
    Area,
    Image,
    Info,
    Message,
    Mode,
    Section,
    new_identifier,
)
from broadcaster.problems import Problem, Refused
from broadcaster.render import when
from broadcaster.slots import leftovers
from broadcaster.ward import UnknownArea, Ward

KEYS = {
    "id", "title", "category", "audience", "area", "issued_at", "expires_at", "expires_text", "section", "summary",
    "body", "speech", "link", "image", "images", "languages", "language", "channels", "hashtags", "tests",
}  # fmt: skip
LANGUAGE_KEYS = {"title", "body", "summary", "speech"}
LONGEST = {"title": 100, "summary": 400, "body": 20_000, "speech": 4_000, "alt": 1_000}
_TWENTY_FOUR = re.compile(r"^(\d{4}-\d{2}-\d{2})[T ]24:00(?::00)?(.*)$")

Fetch = Callable[[str, str], Image]
"""Takes a picture's file name and its alternative text; raises Refused for a picture that cannot be used."""


def no_pictures(file: str, alt: str) -> Image:
    raise Refused(
        [
            Problem(
                where="image.file",
                ja="ここからは画像のファイルを読めません。先に画像を登録してください。",
                en="Pictures cannot be read from here; register the picture first.",
            )
        ]
    )


@dataclass(kw_only=True)
class _Reading:
    """One pass over a manuscript, gathering problems."""

    source: Mapping[str, Any]
    ward: Ward
    now: datetime
    mode: Mode
    media: frozenset[str]
    fetch: Fetch
    problems: list[Problem] = field(default_factory=list)

    def wrong(self, where: str, ja: str, en: str) -> None:
        self.problems.append(Problem(where=where, ja=ja, en=en))

    def message(self) -> Message | None:
        self._unknown_keys()
        language = self._language()
        infos = self._infos(language)
        category = self._category()
        areas = self._areas()
        effective_at, expires_at = self._validity()
        channels = self._channels()
        section = self._section()
        web = self._web()
        images = self._images()
        audience = self._strings("audience")
        hashtags = self._strings("hashtags")
        if self.problems or category is None or effective_at is None or expires_at is None:
            return None
        return Message(
            identifier=new_identifier(self.now),
            mode=self.mode,
            category=category,
            infos=infos,
            areas=areas,
            channels=channels,
            effective_at=effective_at,
            expires_at=expires_at,
            section=section,
            web=web,
            images=images,
            audience=audience,
            hashtags=hashtags,
            expires_text=str(self.source.get("expires_text") or ""),
        )

    def _unknown_keys(self) -> None:
        for key in self.source:
            if key not in KEYS:
                self.wrong(str(key), f"「{key}」という欄はありません。", f"There is no field {key!r}.")

    def _language(self) -> str:
        language = canonical_language(str(self.source.get("language", "ja")))
        if language is None:
            self.wrong(
                "language",
                f"「{self.source['language']}」という言葉は扱っていません。使えるのは {', '.join(LANGUAGES)} です。",
                f"Language {self.source['language']!r} is unknown; use one of {', '.join(LANGUAGES)}.",
            )
        return language or "ja"

    def _infos(self, first: str) -> tuple[Info, ...]:
        infos = [self._info(first, self.source, "")]
        others = self.source.get("languages") or {}
        if not isinstance(others, Mapping):
            self.wrong(
                "languages", "言葉ごとに題と本文を書いてください。", "Give a title and a body for each language."
            )
            others = {}
        for name, words in others.items():
            language = canonical_language(str(name))
            if language is None or language == first:
                self.wrong(
                    f"languages.{name}", f"「{name}」は使えない言葉です。", f"Language {name!r} cannot be used here."
                )
            elif not isinstance(words, Mapping):
                self.wrong(f"languages.{name}", "題と本文を書いてください。", "Give a title and a body.")
            else:
                for key in words:
                    if key not in LANGUAGE_KEYS:
                        self.wrong(
                            f"languages.{name}.{key}", f"「{key}」という欄はありません。", f"There is no field {key!r}."
                        )
                infos.append(self._info(language, words, f"languages.{name}."))
        return tuple(sorted(infos, key=lambda info: (info.language != first, LANGUAGES.index(info.language))))

    def _info(self, language: str, words: Mapping[str, Any], prefix: str) -> Info:
        title = self._words(words, prefix, "title", needed=True)
        if "\n" in title:
            self.wrong(f"{prefix}title", "題は一行で書いてください。", "The title must be one line.")
        return Info(
            language=language,
            headline=title.strip(),
            description=self._words(words, prefix, "body", needed=True),
            summary=characters.one_line(self._words(words, prefix, "summary", needed=not prefix)),
            spoken=self._words(words, prefix, "speech"),
        )

    def _words(self, words: Mapping[str, Any], prefix: str, key: str, *, needed: bool = False) -> str:
        where = prefix + key
        value = words.get(key)
        if value is None or value == "":
            if needed:
                self.wrong(where, f"「{key}」を書いてください。", f"{key!r} is missing.")
            return ""
        if not isinstance(value, str):
            self.wrong(where, "文字で書いてください。", "This must be text.")
            return ""
        self.problems.extend(text_problems(where, value, most=LONGEST[key]))
        return value.strip("\n")

    def _category(self) -> str | None:
        name = self.source.get("category")
        category = self.ward.category(str(name)) if name else None
        if category is None:
            choices = "、".join(c.name for c in self.ward.categories)
            self.wrong(
                "category",
                f"区分を次から選んでください：{choices}",
                f"Choose a category: {', '.join(c.id for c in self.ward.categories)}.",
            )
            return None
        return category.id

    def _areas(self) -> tuple[Area, ...]:
        value = self.source.get("area")
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list) or not names:
            self.wrong(
                "area",
                "どこへ出すかを選んでください。選ばないと出せません。",
                "Choose an area. It cannot be sent without one.",
            )
            return ()
        return tuple(area for name in names if (area := self._area(str(name))))

    def _area(self, name: str) -> Area | None:
        try:
            return self.ward.area(name)
        except UnknownArea:
            self.wrong("area", f"「{name}」という地区・町丁目はありません。", f"There is no district or town {name!r}.")
            return None

    def _validity(self) -> tuple[datetime | None, datetime | None]:
        effective_at = self._instant("issued_at") if self.source.get("issued_at") else self.now
        expires_at = self._instant("expires_at")
        if effective_at and expires_at:
            if expires_at <= effective_at:
                start = when(effective_at)
                self.wrong(
                    "expires_at",
                    f"終わりの日時は、始まり（{start}）より後にしてください。",
                    f"The end must be after the start ({when(effective_at, 'en')}).",
                )
            elif expires_at <= self.now:
                self.wrong(
                    "expires_at",
                    f"{when(expires_at)}は過ぎています。これからの日時にしてください。",
                    f"{when(expires_at, 'en')} is in the past. Choose a later time.",
                )
        return effective_at, expires_at

    def _instant(self, key: str) -> datetime | None:
        value = self.source.get(key)
        if value is None:
            self.wrong(key, "日時を書いてください。", f"{key!r} is missing.")
            return None
        instant = read_instant(value)
        if instant is None:
            self.wrong(
                key,
                f"「{value}」は日時として読めません。2026-12-05T09:00:00+09:00 のように書いてください。",
                f"{value!r} is no date and time; write 2026-12-05T09:00:00+09:00.",
            )
        return instant

    def _channels(self) -> tuple[str, ...]:
        names = self._strings("channels")
        if not names:
            self.wrong("channels", "どの媒体に出すかを選んでください。", "Choose at least one medium.")
        for name in names:
            if name not in self.media and name not in self.ward.by_hand:
                self.wrong("channels", f"「{name}」という媒体はありません。", f"There is no medium {name!r}.")
        return names

    def _section(self) -> Section | None:
        value = self.source.get("section")
        if value is None:
            return None
        if (
            not isinstance(value, Mapping)
            or not {"name", "phone"} <= set(value)
            or set(value) - {"name", "phone", "fax"}
        ):
            self.wrong("section", "担当課と電話を書いてください。", "Give the section's name and telephone.")
            return None
        for key, part in value.items():
            self.problems.extend(text_problems(f"section.{key}", str(part), most=100, lines=1))
        fax = value.get("fax")
        return Section(name=str(value["name"]), phone=str(value["phone"]), fax=str(fax) if fax else None)

    def _web(self) -> str | None:
        value = self.source.get("link")
        if not value:
            return None
        problem = link_problem(str(value), self.ward.link_hosts)
        if problem:
            self.problems.append(problem)
            return None
        return str(value)

    def _images(self) -> tuple[Image, ...]:
        listed = self.source.get("images") or ([self.source["image"]] if self.source.get("image") else [])
        images: list[Image] = []
        for entry in listed if isinstance(listed, list) else [listed]:
            if not isinstance(entry, Mapping) or set(entry) - {"file", "alt"} or not entry.get("file"):
                self.wrong(
                    "image",
                    "画像のファイル名（file）と説明（alt）を書いてください。",
                    "Give the picture's file and alt.",
                )
                continue
            alt = str(entry.get("alt") or "").strip()
            if not alt:
                self.wrong(
                    "image.alt",
                    "画像が見えない人のために、画像の説明を書いてください。",
                    "Describe the picture for people who cannot see it.",
                )
                continue
            self.problems.extend(text_problems("image.alt", alt, most=LONGEST["alt"]))
            try:
                images.append(self.fetch(str(entry["file"]), alt))
            except Refused as refused:
                self.problems.extend(refused.problems)
        return tuple(images)

    def _strings(self, key: str) -> tuple[str, ...]:
        value = self.source.get(key) or []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.wrong(key, "一覧で書いてください。", f"{key!r} must be a list.")
            return ()
        for item in value:
            self.problems.extend(text_problems(key, item, most=100, lines=1))
        return tuple(dict.fromkeys(value))


def read(
    source: Mapping[str, Any],
    *,
    ward: Ward,
    media: Iterable[str],
    now: datetime,
    mode: Mode = Mode.LIVE,
    fetch: Fetch = no_pictures,
) -> Message:
    """The message that this manuscript describes. Raises Refused with every problem at once."""
    reading = _Reading(source=source, ward=ward, now=now, mode=mode, media=frozenset(media), fetch=fetch)
    message = reading.message()
    if message is None:
        raise Refused(reading.problems)
    return message


def moved_to(message: Message, now: datetime) -> Message:
    """The message as if written for this moment: its validity keeps its length. For rehearsals."""
    by = now - message.effective_at
    return replace(message, effective_at=now, expires_at=message.expires_at + by)


def moved_manuscript(source: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """A sample manuscript with its validity moved to begin now, so that it is not refused as past."""
    begins, ends = read_instant(source.get("issued_at")), read_instant(source.get("expires_at"))
    if begins is None or ends is None:
        return dict(source)
    return {
        **source,
        "issued_at": local(now).isoformat(),
        "expires_at": local(now + (ends - begins)).isoformat(),
    }


def canonical_language(name: str) -> str | None:
    """`zh_hans`, `zh-Hans` and `ZH-hans` are one language."""
    wanted = name.replace("_", "-").lower()
    return next((language for language in LANGUAGES if language.lower() == wanted), None)


def read_instant(value: object) -> datetime | None:
    """An aware instant; without a zone it is the ward's. `24:00` is the next day's midnight."""
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=JST)
    if not isinstance(value, str):
        return None
    midnight = _TWENTY_FOUR.match(value.strip())
    try:
        if midnight:
            return _with_zone(f"{midnight[1]}T00:00:00{midnight[2]}") + timedelta(days=1)
        return _with_zone(value.strip())
    except (ValueError, OverflowError):
        return None


def _with_zone(value: str) -> datetime:
    instant = datetime.fromisoformat(value)
    return instant if instant.tzinfo else instant.replace(tzinfo=JST)


def text_problems(where: str, value: str, *, most: int, lines: int | None = None) -> list[Problem]:
    """What this text may not hold: forbidden characters, unfilled blanks, too much."""
    problems = [
        Problem(
            where=where,
            ja=f"使えない文字（{characters.REASONS[kind][0]}、{number}）が入っています。消してください。",
            en=f"Holds {characters.REASONS[kind][1]} ({number}). Remove it.",
        )
        for number, kind in characters.faults(value)
    ]
    if lines == 1 and "\n" in value:
        problems.append(Problem(where=where, ja="一行で書いてください。", en="This must be one line."))
    if len(value) > most:
        problems.append(
            Problem(
                where=where,
                ja=f"{len(value) - most}字多いです。{most}字までにしてください。",
                en=f"At most {most} characters.",
            )
        )
    problems.extend(
        Problem(where=where, ja=f"埋めていない欄「{blank}」が残っています。", en=f"The blank {blank!r} is not filled.")
        for blank in leftovers(value)
    )
    return problems


def link_problem(value: str, hosts: Iterable[str]) -> Problem | None:
    try:
        link = urlsplit(value)
        host = (link.hostname or "").lower()
    except ValueError:
        link, host = urlsplit(""), ""
    ok = (
        link.scheme == "https"
        and host
        and len(value) <= 2000
        and "@" not in link.netloc
        and value.isascii()
        and not any(ord(char) <= 0x20 or char in "\"'<>\\^`{|}" for char in value)
        and any(host == known.lstrip(".") or (known.startswith(".") and host.endswith(known)) for known in hosts)
    )
    if ok:
        return None
    return Problem(
        where="link",
        ja="リンクは https:// で始まる、区の決めたサイトのものにしてください。",
        en="A link must begin with https:// and lead to one of the ward's listed sites.",
    )


def drill_problems(message: Message) -> list[Problem]:
    """A live alert may not speak of a drill."""
    if message.is_drill or not message.is_alert:
        return []
    spoken = [text for info in message.infos for text in (info.headline, info.description, info.spoken, *info.display)]
    if any(DRILL_MARK in text for text in spoken):
        return [
            Problem(
                where="body",
                ja="本番の文に「訓練」が入っています。訓練として作り直してください。",
                en="A live alert speaks of a drill.",
            )
        ]
    return []
