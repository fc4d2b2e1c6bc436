"""Slots in prepared texts: `{area}`, filled by literal replacement.

Why not `str.format` or a template engine: `{x.__class__}` walks objects, and a prepared text is edited by people who
must not be able to run anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

SLOT = re.compile(r"\{([a-z_][a-z0-9_]*)\}")
_LEFTOVER = re.compile(r"\{[^{}\n]{0,60}\}|｛[^｛｝\n]{0,60}｝|[○〇●◯△×]{2,}|\{\{|\{%|要記入|ここに記入")


def fill(text: str, values: Mapping[str, str]) -> str:
    """The text with its known slots filled; unknown ones stay and are found by `leftovers`."""
    return SLOT.sub(lambda match: values.get(match[1], match[0]), text)


def slots_in(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(SLOT.findall(text)))


def leftovers(text: str) -> tuple[str, ...]:
    """What still looks like a blank to be filled: `{name}`, `○○`, 要記入."""
    return tuple(dict.fromkeys(match[0] for match in _LEFTOVER.finditer(text)))
