"""Text as it is read aloud: by the voice of a telephone exchange, or by a person into a microphone.

`config/speech/rules.yaml` says what is written otherwise for an ear (a telephone number digit by digit, no web address,
no brackets), `config/speech/readings.csv` how the ward's names are said where a voice would guess wrong. Neither is
about meaning: the words stay those that were approved.

`seconds` says how long a text takes, so that a channel can say what fits.

Why it is so:

* Rules stand in a file because every wrong reading is found by somebody who listens, not by somebody who programs. A
  rule that cannot work is refused when the service starts and not found when the telephone rings.
* Names are replaced last and in one pass, the longest first: 第二延山小学校 is not 第二 and 延山小学校.
* Lengths are counted in beats (モーラ) and not in letters: a kanji takes nearly as long as two kana and a pause as
  long as four, so plain Japanese is faster by the letter and a telephone number slower. Against the sound of an engine
  the count is off by 5 % on average.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broadcaster import yamlfile
from broadcaster.message import LANGUAGES
from broadcaster.problems import Refused, refuse

JAPANESE = ("ja", "easy-ja")
CHINESE = ("zh-Hans", "zh-Hant")

Rewrite = Callable[[re.Match[str], str], str]


@dataclass(frozen=True, kw_only=True)
class Rule:
    id: str
    pattern: re.Pattern[str]
    languages: tuple[str, ...]
    rewrite: Rewrite  # what was found, and the language of the text

    def applied(self, text: str, language: str) -> str:
        if language not in self.languages:
            return text
        return self.pattern.sub(lambda found: self.rewrite(found, language), text)


@dataclass(frozen=True, kw_only=True)
class Speech:
    rules: tuple[Rule, ...]
    readings: Mapping[str, str]

    def read_aloud(self, text: str, language: str) -> str:
        """The text on one line, as a voice of this language should be given it. Twice is the same as once."""
        said = _one_line(text, language)
        for rule in self.rules:
            said = rule.applied(said, language)
        if language in JAPANESE:
            said = self._names_said(said)
        return _tidy(said, language)

    def _names_said(self, text: str) -> str:
        if not self.readings:
            return text
        longest_first = sorted(self.readings, key=lambda name: (-len(name), name))
        return re.sub("|".join(map(re.escape, longest_first)), lambda found: self.readings[found[0]], text)


def load(config: Path) -> Speech:
    """The rules and the readings of this configuration. Raises Refused with what to do about the first fault."""
    folder = config / "speech"
    rules = folder / "rules.yaml"
    entries = (yamlfile.read(rules) or {}).get("before_reading") or []
    return Speech(
        rules=tuple(_rule(entry, number, rules) for number, entry in enumerate(entries, start=1)),
        readings=_readings(folder / "readings.csv"),
    )


# Rules


def _rule(entry: Any, number: int, file: Path) -> Rule:
    if not isinstance(entry, Mapping) or not entry.get("id"):
        raise _wrong(file, f"{number}", "id を書いてください", "give it an id")
    id = str(entry["id"])
    try:
        pattern = re.compile(str(entry["pattern"]))
    except KeyError:
        raise _wrong(file, id, "pattern を書いてください", "give it a pattern") from None
    except re.error as error:
        raise _wrong(file, id, f"pattern を直してください（{error}）", f"mend its pattern ({error})") from None
    languages = _languages(entry, file, id)
    return Rule(id=id, pattern=pattern, languages=languages, rewrite=_rewrite(entry, pattern, languages, file, id))


def _languages(entry: Mapping[str, Any], file: Path, id: str) -> tuple[str, ...]:
    named = entry.get("languages", list(JAPANESE))
    if named == "all":
        return LANGUAGES
    if not isinstance(named, list) or not set(named) <= set(LANGUAGES):
        known = ", ".join(LANGUAGES)
        raise _wrong(
            file, id, f"languages には {known} を並べるか、all と書いてください", f"languages are all, or of {known}"
        )
    return tuple(named)


def _rewrite(
    entry: Mapping[str, Any], pattern: re.Pattern[str], languages: tuple[str, ...], file: Path, id: str
) -> Rewrite:
    if "handler" in entry:
        handler = HANDLERS.get(str(entry["handler"]))
        if handler is None:
            known = ", ".join(HANDLERS)
            raise _wrong(file, id, f"handler は {known} のどれかにしてください", f"its handler must be one of {known}")
        return handler
    replace = entry.get("replace")
    named = replace if isinstance(replace, Mapping) else dict.fromkeys(LANGUAGES, replace)
    texts = {language: text for language, text in named.items() if isinstance(text, str)}
    if lacking := [language for language in languages if language not in texts]:
        names = ", ".join(lacking)
        raise _wrong(file, id, f"replace に {names} の文を書いてください", f"its replace lacks a text for {names}")
    for text in texts.values():
        try:
            pattern.sub(text, "")  # reads the whole template, though there is nothing to replace
        except (re.error, IndexError) as error:
            raise _wrong(file, id, f"replace を直してください（{error}）", f"mend its replace ({error})") from None
    return lambda found, language: found.expand(texts[language])


def _wrong(file: Path, id: str, ja: str, en: str) -> Refused:
    return refuse(str(file), ja=f"{file} の規則「{id}」の {ja}。", en=f"{file}, rule {id!r}: {en}.")


# What a regular expression cannot write

_DIGITS = ("ゼロ", "イチ", "ニー", "サン", "ヨン", "ゴー", "ロク", "ナナ", "ハチ", "キュー")


def _digits(found: re.Match[str], language: str) -> str:
    """A telephone number digit by digit, and all of it twice: who listens has to find a pen first."""
    groups = re.findall(r"\d+", unicodedata.normalize("NFKC", found[0]))
    if language in JAPANESE:
        once = "の、".join("、".join(_DIGITS[int(digit)] for digit in group) for group in groups)
        return f"、{once}、くり返します、{once}、"
    once = ", ".join(" ".join(group) for group in groups)
    return f"{once}, {once}"


def _sharp_digits(found: re.Match[str], language: str) -> str:
    """#7119: the sharp and its digits, once."""
    digits = unicodedata.normalize("NFKC", found[1])
    if language in JAPANESE:
        return "シャープ、" + "、".join(_DIGITS[int(digit)] for digit in digits)
    return " ".join(("#", *digits))


def _half_width(found: re.Match[str], language: str) -> str:
    return unicodedata.normalize("NFKC", found[0])


def _circled_number(found: re.Match[str], language: str) -> str:
    return f"{unicodedata.normalize('NFKC', found[0])}、"


HANDLERS: Mapping[str, Rewrite] = {
    "digits": _digits,
    "sharp_digits": _sharp_digits,
    "halfwidth": _half_width,
    "circled_number": _circled_number,
}


# Readings


def _readings(file: Path) -> dict[str, str]:
    """How names are said; a reading that is not confirmed (`apply: no`) is kept in the file and not used."""
    try:
        rows = list(csv.DictReader(file.read_text(encoding="utf-8-sig").splitlines()))
    except OSError as error:
        raise refuse(
            str(file),
            ja=f"{file} を読めません（{error.strerror}）。場所を確かめてください。",
            en=f"{file} cannot be read ({error.strerror}).",
        ) from None
    for number, row in enumerate(rows, start=2):
        if not row.get("surface") or not row.get("pronunciation") or row.get("apply") not in ("yes", "no"):
            raise refuse(
                str(file),
                ja=f"{file} の {number} 行目に、surface・pronunciation・apply（yes か no）を書いてください。",
                en=f"{file}, line {number}: write surface, pronunciation and apply (yes or no).",
            )
    return {row["surface"]: row["pronunciation"] for row in rows if row["apply"] == "yes"}


# Before and after the rules

_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_SILENT = {"So", "Sk", *_INVISIBLE}
_STOPS = "。．.！？!?"


def _one_line(text: str, language: str) -> str:
    """Lines become sentences. What cannot be seen cannot be heard, and goes first, before it hides something."""
    spaced = re.sub(r"[^\S\n\u3000]", " ", re.sub(r"\r\n?|[\u2028\u2029]", "\n", text))
    seen = "".join(char for char in spaced if char == "\n" or unicodedata.category(char) not in _INVISIBLE)
    *others, last = [line for line in (line.strip() for line in seen.split("\n")) if line] or [""]
    return "".join(map(_sentence_in(language), others)) + last


def _sentence_in(language: str) -> Callable[[str], str]:
    stop, between = ("。", "") if language in (*JAPANESE, *CHINESE) else (".", " ")
    return lambda line: f"{line if line[-1] in _STOPS else line + stop}{between}"


_PAUSES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\s*([、，])(?:\s*[、，,])*\s*"), r"\1"),  # one pause is enough
    (re.compile(r"\s*,(?:\s*[、，,])+\s*"), ", "),
    (re.compile(r"\s+,"), ","),
    (re.compile(r"[、，,]\s*(?=[。．.！？!?])"), ""),  # and none beside a stop
    (re.compile(r"(?<=[。！？])[\s、，,]+|(?<=[.!?])(?:\s*[、，,])+"), ""),
    (re.compile(r"。{2,}"), "。"),
    (re.compile(r"^[\s、，,。]+|[\s、，,]+$"), ""),
)


def _tidy(text: str, language: str) -> str:
    """Pauses where rules have met: `、、` and `、。` come from brackets and blanks that stood side by side."""
    said = "".join(" " if unicodedata.category(char) in _SILENT else char for char in text)
    said = re.sub(r"\s+", " ", re.sub(r"\s*\u3000\s*", "、" if language in JAPANESE else " ", said))
    before = ""
    while said != before:  # each step only shortens, so this ends
        before = said
        for pattern, replacement in _PAUSES:
            said = pattern.sub(replacement, said)
    return said


# How long it takes

CHARACTERS_PER_MINUTE = 235
"""Written Japanese at 0.9 of the engine's pace, which suits a telephone."""

BEATS_PER_CHARACTER = 1.85
"""In prepared texts, pauses included; so that whole calls are counted right or a little too long."""

_SMALL_KANA = frozenset("ゃゅょャュョぁぃぅぇぉァィゥェォ")
_PAUSE_MARKS = frozenset("、，,：:；;")


def seconds(text: str, language: str, characters_per_minute: float = CHARACTERS_PER_MINUTE) -> float:
    """How long a voice takes for a text that `read_aloud` has written.

    Beats by script, fitted to the sound of the prepared texts: Japanese by pyopenjtalk-plus 0.4.1 at speed 0.9, English,
    Chinese and Korean by espeak-ng 1.51 at 0.9 of its usual pace (147 English words a minute). Tagalog, for which there
    is no voice, is counted like English. A slower pace slows all of them alike.
    """
    beats = sum(_beats(char, language) for char in text)
    return beats * 60 / (characters_per_minute * BEATS_PER_CHARACTER)


def _beats(char: str, language: str) -> float:
    is_japanese = language in JAPANESE
    if char in _SMALL_KANA or char.isspace() or unicodedata.combining(char):
        return 0
    if char in _PAUSE_MARKS:
        return 4 if is_japanese else 1.5
    if char in _STOPS:
        return 4 if is_japanese else 3
    if char.isdecimal():
        return 1.75 if is_japanese else 3.5
    return _beats_of_letter(ord(char), language)


def _beats_of_letter(code: int, language: str) -> float:
    if 0x3040 <= code <= 0x30FF:  # kana and ー
        return 1
    if 0x3005 <= code <= 0x3007 or 0x3400 <= code <= 0x9FFF or 0xF900 <= code <= 0xFAFF or code >= 0x20000:  # kanji
        return 3 if language in CHINESE else 1.75
    if 0xAC00 <= code <= 0xD7A3:  # Hangul
        return 1.5
    return 2.5 if language in JAPANESE else 0.5  # a Latin letter is spelled out among Japanese ones
