"""What is logged is kept: a field that the log does not know would be lost without a word."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from broadcaster.logs import FIELDS
from broadcaster.web.desk.records import Records
from tests.desk import a_desk
from tests.test_architecture import relative, sources


def fields_of(path: Path) -> Iterator[str]:
    """Every field of every `log.…(…)` in this file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="log")), keywords=keywords):
                yield from (keyword.arg for keyword in keywords if keyword.arg is not None)


@pytest.mark.parametrize("path", sources(), ids=relative)
def test_every_field_is_one_that_the_log_knows(path: Path) -> None:
    assert set(fields_of(path)) <= FIELDS | {"exc_info"}


async def test_the_number_that_somebody_is_told_stands_in_the_log_with_the_lines_of_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: object) -> None:
        raise ZeroDivisionError("reader-1@mail.example")

    monkeypatch.setattr(Records, "show_log", breaks)
    async with a_desk(tmp_path) as desk:
        viewer = await desk.person("viewer")
        with structlog.testing.capture_logs() as entries:
            answer = await viewer.get("/desk/records")
    assert answer.status_code == 500
    number = re.search(r"番号 ([0-9a-f]{6})", answer.text)
    assert number
    [entry] = [entry for entry in entries if entry["event"] == "desk.failed"]
    assert (entry["key"], entry["route"]) == (number[1], "/desk/records")
    assert isinstance(entry["exc_info"], ZeroDivisionError)
    assert "reader-1" not in answer.text
