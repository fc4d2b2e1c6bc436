"""What is different between two versions of a notice, field by field and line by line, or
as one running text; pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SAME, REMOVED, ADDED = "same", "removed", "added"

MOST_BY_CHARACTER = 6_000
"""Characters that are compared one by one; longer texts are compared by lines."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One field: its lines, each with what became of it."""

    field: str
    lines: tuple[tuple[str, str], ...]


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Sequence[Difference]:
    """Only fields that differ, in the order of the newer version."""
    names = list(dict.fromkeys([*after, *before]))
    return [
        Difference(field=name, lines=_lines(_text(before.get(name)), _text(after.get(name))))
        for name in names
        if _text(before.get(name)) != _text(after.get(name))
    ]


def _lines(before: str, after: str) -> tuple[tuple[str, str], ...]:
    old, new = before.split("\n"), after.split("\n")
    found: list[tuple[str, str]] = []
    for act, i1, i2, j1, j2 in difflib.SequenceMatcher(a=old, b=new, autojunk=False).get_opcodes():
        if act == "equal":
            found += [(SAME, line) for line in old[i1:i2]]
        else:
            found += [(REMOVED, line) for line in old[i1:i2] if line]
            found += [(ADDED, line) for line in new[j1:j2] if line]
    return tuple(found)


def _text(value: Any) -> str:
    """As a person reads it: lists a line each, tables a line for each of their entries."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return "\n".join(f"{name}: {_text(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return "\n".join(_text(each) for each in value)
    return str(value)


def runs(before: str, after: str) -> list[tuple[str, str]]:
    """Runs of text, each with what became of it. By characters, because Japanese has no blanks between its words; by
    lines where the texts are long."""
    if len(before) + len(after) <= MOST_BY_CHARACTER:
        a: Sequence[str] = before
        b: Sequence[str] = after
    else:
        a, b = before.splitlines(keepends=True), after.splitlines(keepends=True)
    found: list[tuple[str, str]] = []
    for how, i, j, k, n in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if how == "equal":
            found.append((SAME, "".join(a[i:j])))
            continue
        found.extend((kind, "".join(part)) for kind, part in ((REMOVED, a[i:j]), (ADDED, b[k:n])) if part)
    return found
