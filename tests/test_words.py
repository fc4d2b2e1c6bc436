"""The words of the pages: both languages whole, the same blanks in both, and none of the words that readers stumble over."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from broadcaster.settings import Settings
from broadcaster.slots import slots_in

TEMPLATES = Path(__file__).resolve().parent.parent / "templates" / "desk"
_JAPANESE = re.compile(r"[ぁ-んァ-ヶ一-龠]")
_TEXT = re.compile(r"{#.*?#}|{%.*?%}|{{.*?}}|<[^>]*>", re.DOTALL)


def words_of(node: Any, path: str = "") -> Iterator[tuple[str, Mapping[str, str]]]:
    if isinstance(node, Mapping) and {"ja", "en"} <= set(node):
        yield path, node
    elif isinstance(node, Mapping):
        for name, inner in node.items():
            if name != "avoid":
                yield from words_of(inner, f"{path}.{name}" if path else str(name))


def test_every_word_stands_in_both_languages_with_the_same_blanks(settings: Settings) -> None:
    found = list(words_of(settings.words.pages))
    assert len(found) > 500
    for path, word in found:
        assert word["ja"], path
        assert word["en"], path
        assert set(slots_in(str(word["ja"]))) == set(slots_in(str(word["en"]))), path


def test_no_page_says_what_readers_stumble_over(settings: Settings) -> None:
    avoided = [word for entry in settings.words.pages["avoid"] for word in entry["word"]]
    for path, word in words_of(settings.words.pages):
        assert not [each for each in avoided if each in str(word["ja"])], path


def test_sentences_end_as_sentences_and_say_what_to_do(settings: Settings) -> None:
    for path, word in words_of(settings.words.pages["errors"], "errors"):
        if path not in ("errors.title_prefix", "errors.summary"):
            assert str(word["ja"])[-1] in "。？}", path


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.html")), ids=lambda path: path.name)
def test_templates_hold_no_words_of_their_own(path: Path) -> None:
    """But for the language's own name and the mark of a drill, which stands in Japanese in every language."""
    text = _TEXT.sub("", path.read_text(encoding="utf-8"))
    text = text.replace("日本語", "").replace("【訓練】", "")
    assert not _JAPANESE.findall(text), path.name
