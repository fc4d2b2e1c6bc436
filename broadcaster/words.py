"""The words of the service: reviewed phrases in seven languages and the words of its pages in two.

They live in config/phrases.csv, config/words.yaml and config/words/, a file for each part of the desk. A page or a mail
never writes such a word itself, so the same thing has the same name everywhere, and a translator has one place to look.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from broadcaster.problems import Problem
from broadcaster.slots import fill


@dataclass(frozen=True, kw_only=True)
class Words:
    phrases: Mapping[str, Mapping[str, str]]  # id → language → text
    pages: Mapping[str, Any]  # words.yaml as it stands

    def phrase(self, id: str, language: str, /, **slots: str) -> str:
        """A reviewed phrase. Raises KeyError for an unknown id: a wrong word is a bug, not a fallback."""
        texts = self.phrases[id]
        return fill(readable(texts.get(language) or texts["ja"]), slots)

    def page(self, key: str, language: str = "ja", /, **slots: str) -> str:
        """A word of the pages by its place: `buttons.cancel` in words.yaml, `home.title` in words/home.yaml. English for all
        but Japanese."""
        node: Any = self.pages
        for step in key.split("."):
            node = node[step]
        return fill(node["ja" if language in ("ja", "easy-ja") else "en"], slots)

    def problem(self, where: str, key: str, /, **slots: str) -> Problem:
        """A word of the pages as what is wrong with one field, in both languages."""
        return Problem(where=where, ja=self.page(key, **slots), en=self.page(key, "en", **slots))


_RUBY = re.compile(r"｜([^《｜]+)《([^》]+)》")


def readable(text: str) -> str:
    """Furigana as every medium can show it: ｜避難《ひなん》 becomes 避難（ひなん）."""
    return _RUBY.sub(r"\1（\2）", text)


def spoken(text: str) -> str:
    """Furigana as a voice reads it: ｜避難《ひなん》 becomes ひなん."""
    return _RUBY.sub(r"\2", text)
