"""Jinja2, and the only user of it.

Templates lie in `templates/<channel>/<kind>.<ending>`; a language has a file of its own only where the layout differs,
`alert.en.txt` before `alert.txt`. Words come from `words.py`, not from templates.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template, select_autoescape

from broadcaster.clock import local, stamp
from broadcaster.message import lang_attribute
from broadcaster.text import blocks, runs
from broadcaster.words import Words

_KINDS = ("html", "txt", "xml", "ssml", "svg")


class Renderer:
    """`render("email/alert.txt", language="en", **context)`; the context may hold anything the template names."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._chosen: dict[tuple[str, str], Template] = {}

    def __call__(self, name: str, /, *, language: str = "ja", **context: Any) -> str:
        return self._template(name, language).render(language=language, **context)

    def _template(self, name: str, language: str) -> Template:
        """Once for each: a language that has no file of its own is not looked for again."""
        chosen = self._chosen.get((name, language))
        if chosen is None:
            stem, dot, ending = name.rpartition(".")
            chosen = self._environment.select_template([f"{stem}.{language}{dot}{ending}", name])
            self._chosen[name, language] = chosen
        return chosen

    def load_all(self) -> None:
        """Compile every template now: the first alert after a start does not wait for it (some 150 ms)."""
        for name in self._environment.list_templates(extensions=_KINDS):
            self._environment.get_template(name)


def renderer(folders: Path | Sequence[Path], words: Words) -> Renderer:
    """Markup is escaped in .html, .xml and .ssml; plain text is not. A name the context lacks is an error."""
    environment = Environment(
        auto_reload=False,  # a template that is changed counts from the next start
        loader=FileSystemLoader([folders] if isinstance(folders, Path) else list(folders)),
        undefined=StrictUndefined,
        autoescape=select_autoescape(("html", "xml", "ssml", "svg"), default_for_string=False),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )
    environment.filters.update(
        without_level=without_level,
        when=when,
        day=day,
        at_desk=at_desk,
        time_at_desk=time_at_desk,
        clock=clock_time,
        stamp=stamp,
        lang=lang_attribute,
        full_width=full_width,
    )
    environment.filters.update(blocks=blocks, runs=runs)
    environment.globals.update(phrase=words.phrase, word=words.page)
    return Renderer(environment)


WEEKDAYS = "月火水木金土日"
_ENGLISH_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_ENGLISH_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def day(instant: datetime, language: str = "ja") -> str:
    """12月4日（金）, or `Fri, 4 Dec`."""
    at = local(instant)
    if language in ("ja", "easy-ja"):
        return f"{at.month}月{at.day}日（{WEEKDAYS[at.weekday()]}）"
    return f"{_ENGLISH_DAYS[at.weekday()]}, {at.day} {_ENGLISH_MONTHS[at.month - 1]}"


def clock_time(instant: datetime, language: str = "ja") -> str:
    """午前7時5分 for the public, `07:05` in other languages. Noon is 正午: 午後0時 is read two ways."""
    at = local(instant)
    if language not in ("ja", "easy-ja"):
        return f"{at:%H:%M}"
    if (at.hour, at.minute) == (12, 0):
        return "正午"
    half = "午前" if at.hour < 12 else "午後"
    minute = f"{at.minute}分" if at.minute else ""
    return f"{half}{at.hour % 12}時{minute}"


def when(instant: datetime, language: str = "ja") -> str:
    between = "" if language in ("ja", "easy-ja") else " "
    return f"{day(instant, language)}{between}{clock_time(instant, language)}"


def at_desk(instant: datetime, language: str = "ja") -> str:
    """12月4日（金）12:00: staff read 24 hours."""
    at = local(instant)
    return f"{day(instant, language)}{'' if language == 'ja' else ' '}{at.hour}:{at:%M}"


def time_at_desk(instant: datetime) -> str:
    return f"{local(instant):%H:%M:%S}"


_LEVEL = re.compile(r"警戒レベル[１-５1-5]\s*")


def without_level(headline: str) -> str:
    """For where the level stands beside it, as a sign of its own."""
    return _LEVEL.sub("", headline, count=1)


_FULL = str.maketrans("0123456789", "０１２３４５６７８９")


def full_width(number: object) -> str:
    """警戒レベル４ is written with a full-width numeral."""
    return str(number).translate(_FULL)
