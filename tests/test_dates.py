"""Dates as people type them: read one way, or not at all."""

from __future__ import annotations

import pytest

from broadcaster.dates import read_typed, typed
from tests.makers import NOW


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("12/5 9:00", "2026-12-05 9:00"),
        ("１２／５　９：００", "2026-12-05 9:00"),
        ("12月5日 午後3時半", "2026-12-05 15:30"),
        ("12月5日（土）9時5分", None),
        ("12月5日（土）9時05分", "2026-12-05 9:05"),
        ("2026-12-05 9:00", "2026-12-05 9:00"),
        ("2026-12-05T09:00", "2026-12-05 9:00"),
        ("令和8年12月5日 9:00", "2026-12-05 9:00"),
        ("令和元年5月1日 9:00", "2019-05-01 9:00"),
        ("12/31 24:00", "2027-01-01 0:00"),
        ("12/5 正午", "2026-12-05 12:00"),
        ("12/5 午前0時", "2026-12-05 0:00"),
        ("1/5 9:00", "2027-01-05 9:00"),  # the next one to come
        ("11/20 9:00", "2026-11-20 9:00"),  # just past: said, and not taken for next year
        ("2028-02-29 9:00", "2028-02-29 9:00"),
        ("2/29 9:00", None),
        ("12/5", None),
        ("12/5 25:00", None),
        ("12/5 9:60", None),
        ("13/5 9:00", None),
        ("あした 9:00", None),
        ("", None),
        ("99999-1-1 9:00", None),
    ],
)
def test_what_is_typed_is_read_for_certain_or_not_at_all(text: str, means: str | None) -> None:
    found = read_typed(text, NOW)
    assert (typed(found) if found else None) == means


def test_what_a_field_shows_is_read_back_the_same() -> None:
    assert read_typed(typed(NOW), NOW) == NOW
