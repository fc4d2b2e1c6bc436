"""What is wrong with something that was handed in: all of it at once, one sentence each, in two languages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Problem:
    """`where` names the field as the sender wrote it (`languages.en.title`); a sentence says what to do."""

    where: str
    ja: str
    en: str

    def in_(self, language: str) -> str:
        return self.ja if language == "ja" else self.en


class Refused(ValueError):
    """Handed-in work that cannot be taken. Nothing of it was kept, and nothing was sent."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{problem.where}: {problem.en}" for problem in self.problems))


def refuse(where: str, *, ja: str, en: str) -> Refused:
    return Refused([Problem(where=where, ja=ja, en=en)])
