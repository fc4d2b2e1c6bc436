"""How long a text is to X, and where it may be cut.

X counts with the configuration v3 of twitter-text: the text in NFC, letters of the light ranges 1, all others 2, a
link 23 whatever its length, an emoji 2 however many code points it is joined from; 280 is the limit. Both the channel
and its stand-in count here.

Why not a package: the one there is needs a setuptools that newer installations no longer have, and knows the emoji of
2019. Why not `len`, or "Japanese 2, link 23": both are wrong for more than a third of the published cases.

What this cannot know: X lists the joined emoji and the flags that exist; here every well-formed one counts 2.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from functools import cache
from itertools import takewhile

import regex
from tldextract import TLDExtract

LIMIT = 280
LINK = 23

_LIGHT = ((0, 4351), (8192, 8205), (8208, 8223), (8242, 8247))
_LONGEST_LINK = 4096
_LONGEST_LABEL = 63  # RFC 1035 §2.3.4, in the ASCII form

_NAME = r"[^\s\p{Cc}!-/:-@\[-`{-~\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff]"
_ACCENTED = "\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f"
_START = regex.compile(
    rf"(?<![A-Za-z0-9@＠$#＃\ufeff\ufffe\uffff])(?P<scheme>https?://)(?P<host>{_NAME}(?:[-_.]*{_NAME})*)"
    rf"|(?<![-_./A-Za-z0-9@＠$#＃\ufeff\ufffe\uffff{_ACCENTED}])(?P<bare>[a-z0-9{_ACCENTED}][-.a-z0-9{_ACCENTED}]*\.[a-z][-a-z0-9]*)",
    regex.IGNORECASE,
)
_IN_PATH = rf"[a-z\p{{Cyrillic}}0-9!*';:=+,.$/%#\[\]\-–_~@|&{_ACCENTED}]"
_AT_PATH_END = rf"[+\-a-z\p{{Cyrillic}}0-9=_#/{_ACCENTED}]"
_BRACKETS = rf"\((?:{_IN_PATH}+|{_IN_PATH}*\({_IN_PATH}+\){_IN_PATH}*)\)"
_TAIL = regex.compile(
    rf"(?::[0-9]+)?(?:/(?:(?:{_IN_PATH}|{_BRACKETS})*(?:{_AT_PATH_END}|{_BRACKETS}))?)?"
    r"(?:\?[a-z0-9!?*'@();:&=+$/%#\[\]\-_.,~|]*[a-z0-9\-_&=#/])?",
    regex.IGNORECASE,
)

_ONE_EMOJI = (
    r"(?:\p{Emoji_Modifier_Base}\p{Emoji_Modifier}|\p{Emoji_Presentation}(?!\ufe0e)\ufe0f?|[\p{Emoji}--[0-9#*]]\ufe0f)"
)
_EMOJI = regex.compile(
    r"\p{Regional_Indicator}{2}"
    r"|[0-9#*]\ufe0f?\u20e3"
    r"|\U0001f3f4[\U000e0020-\U000e007e]+\U000e007f"
    rf"|{_ONE_EMOJI}(?:\u200d(?:{_ONE_EMOJI}|\p{{Extended_Pictographic}}))*",
    regex.VERSION1,
)

_GRAPHEME = regex.compile(r"\X")
_WHOLE = (regex.compile(r"https?://[!-~]+", regex.IGNORECASE), regex.compile(r"[0-9A-Za-z０-９]{2,40}"))
"""Kept in one piece beside X's own links: any address, and a number or Latin word of common length."""
_SENTENCE_END = regex.compile(r"[。．！？!?]+[」』）)]*|\.(?=\s)|\n")
_PHRASE_END = regex.compile(r"[、，,;；・：\s]|[」』）)】]")
_LEAST_KEPT = 0.6
"""A nicer place to cut may not cost more than 40 % of what would fit."""


def weighted_length(text: str) -> int:
    text = unicodedata.normalize("NFC", text)
    length = at = 0
    for begin, end in links(text):
        length += _weight(text[at:begin]) + LINK
        at = end
    return length + _weight(text[at:])


def fits(text: str) -> bool:
    return weighted_length(text) <= LIMIT


def _weight(text: str) -> int:
    rest: str
    rest, emoji = _EMOJI.subn("", text)
    return 2 * int(emoji) + sum(1 if _is_light(ord(letter)) else 2 for letter in rest)


def _is_light(code: int) -> bool:
    return any(first <= code <= last for first, last in _LIGHT)


def links(text: str) -> list[tuple[int, int]]:
    """Begin and end of everything that X takes for a link, a bare `shinagawa.jp` too; one without a public top-level
    domain (`http://127.0.0.1/`) is plain letters to it."""
    return list(_links(text))


def _links(text: str) -> Iterator[tuple[int, int]]:
    at = 0
    while found := _START.search(text, at):
        end = _link_end(text, found)
        if end is None:
            at = found.end()
            continue
        yield found.start(), end
        at = end


def _link_end(text: str, found: regex.Match[str]) -> int | None:
    group = "host" if found["scheme"] else "bare"
    size = _domain_size(found[group])
    if size is None:
        return None
    domain_end: int = found.start(group) + size
    if text.startswith(("@", "+"), domain_end):
        return None  # `name.al+list@example.com` is an address
    tail = _TAIL.match(text, domain_end)
    assert tail is not None  # it may be empty, so it always matches
    end: int = tail.end()
    return end if end - found.start() <= _LONGEST_LINK else None


def _domain_size(host: str) -> int | None:
    """How much of what stands after `://` is a domain: up to its last label that begins with a top-level domain."""
    labels = host.split(".")
    while len(labels) > 1:
        last = labels.pop()
        size = _top_level_size(last)
        if size and _is_name(labels):
            return len(".".join(labels)) + 1 + size
    return None


def _top_level_size(label: str) -> int:
    """In `jpへ` the domain ends after `jp`; `jpx` is none."""
    latin = "".join(takewhile(str.isascii, label)).lower()
    if latin:
        return len(latin) if latin in _top_level_domains() or latin.startswith("xn--") else 0
    return next((size for size in range(len(label), 0, -1) if label[:size] in _top_level_domains()), 0)


def _is_name(labels: list[str]) -> bool:
    """Labels that a name server could hold; `_` is allowed below the registered name only."""
    return (
        all(label and label[0] not in "-_" and label[-1] not in "-_" for label in labels)
        and "_" not in labels[-1]
        and all(_ascii_size(label) <= _LONGEST_LABEL for label in labels)
    )


def _ascii_size(label: str) -> int:
    return len(label) if label.isascii() else len("xn--") + len(label.encode("punycode"))


@cache
def _top_level_domains() -> frozenset[str]:
    """From the public suffix list that the library ships; nothing is fetched."""
    suffixes = TLDExtract(suffix_list_urls=(), cache_dir=None).tlds
    return frozenset(suffix.rpartition(".")[2] for suffix in suffixes)


def breaks(text: str) -> list[int]:
    """Where the text may be cut, ascending, its end included: never inside a link, a number, a Latin word or what
    readers take for one letter."""
    whole = [*links(text), *(match.span() for pattern in _WHOLE for match in pattern.finditer(text))]
    inside = {at for begin, end in whole for at in range(begin + 1, end)}
    return [match.end() for match in _GRAPHEME.finditer(text) if match.end() not in inside]


def head(text: str, most: int) -> int:
    """How much of the text to keep within `most`: to the end of a sentence, else of a phrase, else to any break; the
    whole text when it fits, 0 when nothing does."""
    if weighted_length(text) <= most:
        return len(text)
    fitting = _fitting(text, most)
    if not fitting:
        return 0
    least = fitting[-1] * _LEAST_KEPT
    for ends in (_SENTENCE_END, _PHRASE_END):
        good = {match.end() for match in ends.finditer(text)}
        if best := max((at for at in fitting if at in good and at >= least), default=0):
            return best
    return fitting[-1]


def _fitting(text: str, most: int) -> list[int]:
    places = [at for at in breaks(text) if at < len(text)]
    count = bisect_right(places, most, key=lambda at: weighted_length(text[:at]))
    # Letters are not always more than fewer of them: `example.com` is a link, `example.comx` is not.
    while count and weighted_length(text[: places[count - 1]]) > most:
        count -= 1
    return places[:count]
