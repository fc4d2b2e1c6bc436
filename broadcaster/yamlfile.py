"""YAML that somebody handed in: only plain data, bounded, no key twice.

A safe loader alone is not enough: a few lines of aliases unfold to gigabytes, and of two equal keys the first is lost in
silence.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from broadcaster.problems import refuse

LARGEST = 1 << 20
MOST_ALIASES = 50
DEEPEST = 20


class _Loader(yaml.SafeLoader):
    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.aliases = 0
        self.depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            self.aliases += 1
            if self.aliases > MOST_ALIASES:
                raise yaml.MarkedYAMLError(problem="too many aliases", problem_mark=self.get_mark())
        self.depth += 1
        if self.depth > DEEPEST:
            raise yaml.MarkedYAMLError(problem="nested too deep", problem_mark=self.get_mark())
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read(path: Path) -> Any:
    """The data in this file. Raises Refused with one sentence."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise refuse(
            str(path),
            ja=f"{path} を読めません（{error.strerror}）。場所を確かめてください。",
            en=f"{path} cannot be read ({error.strerror}).",
        ) from None
    if len(data) > LARGEST:
        raise refuse(
            str(path), ja=f"{path} は大きすぎます。1 MB までにしてください。", en=f"{path} is larger than 1 MiB."
        )
    return parse(data, str(path))


def parse(data: bytes, name: str) -> Any:
    try:
        return yaml.load(data.decode("utf-8-sig"), Loader=_Loader)  # noqa: S506 - a SafeLoader with narrower limits
    except UnicodeDecodeError:
        raise refuse(name, ja=f"{name} は UTF-8 で保存してください。", en=f"{name} is not UTF-8.") from None
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else "?"
        problem = getattr(error, "problem", None) or "not readable"
        raise refuse(
            name,
            ja=f"{name} の {line} 行目の書き方が違います（{problem}）。",
            en=f"{name}, line {line}: {problem}.",
        ) from None
