"""What stands in the calendar: notices that wait or have gone out, and the runs of the routine rules; and where two of
them collide. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from itertools import pairwise

from broadcaster.almanac import Almanac, Run, holiday_name
from broadcaster.clock import JST, local
from broadcaster.lifecycle import State
from broadcaster.store.messages import Kept

WEEK = timedelta(days=7)
LONG_AFTER = timedelta(days=60)
"""A notice that stays longer than this after it went out has probably outlived what it tells of."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the calendar."""

    at: datetime
    title: str
    channels: tuple[str, ...]
    link: str = ""
    state: str = ""  # a word of `states_message`; empty for a run of a rule
    is_run: bool = False
    is_skipped: bool = False
    why: str = ""  # why a run was moved or is left out
    collides: tuple[str, ...] = ()  # keys of calendar.yaml
    seen: str = ""  # the hash that moving it needs

    @property
    def day(self) -> date:
        return local(self.at).date()


@dataclass(frozen=True, kw_only=True)
class Day:
    date: date
    is_open: bool
    holiday: str
    is_in_month: bool = True
    entries: Sequence[Entry] = field(default_factory=tuple)


def entries_of(kept: Sequence[Kept], runs: Iterable[Run], language: str, now: datetime) -> list[Entry]:
    """In order of their hour, with what collides marked."""
    shown = _marked([_notice(one, now) for one in kept], kept)
    return sorted([*shown, *(_run(run, language) for run in runs)], key=lambda entry: entry.at)


def _notice(kept: Kept, now: datetime) -> Entry:
    message = kept.message
    place = {State.SUBMITTED: "approvals", State.SCHEDULED: "messages"}.get(kept.state, "sent")
    return Entry(
        at=message.began_at,
        title=message.info.headline,
        channels=message.channels,
        link=f"/desk/{place}/{message.identifier}",
        state=kept.standing(now),
        seen=kept.approved_hash or "" if kept.state is State.SCHEDULED else "",
    )


def _run(run: Run, language: str) -> Entry:
    why = run.skipped or run.shifted
    return Entry(
        at=run.planned_at,
        title=run.rule.title,
        channels=run.rule.channels,
        is_run=True,
        is_skipped=run.skipped is not None,
        why=why.in_(language) if why else "",
    )


def _marked(shown: Sequence[Entry], kept: Sequence[Kept]) -> list[Entry]:
    by_place = {entry.link.rpartition("/")[2]: entry for entry in shown}
    marks: dict[str, list[str]] = {name: [] for name in by_place}
    waiting = sorted(
        (one.message for one in kept if one.state in (State.SUBMITTED, State.SCHEDULED)),
        key=lambda message: message.effective_at,
    )
    posts = [message for message in waiting if "x" in message.channels]
    for one, other in pairwise(posts):
        if other.effective_at - one.effective_at < timedelta(minutes=1):  # the second hides the first
            marks[one.identifier].append("same_minute")
            marks[other.identifier].append("same_minute")
    of_a_day: dict[tuple[str, date], list[str]] = {}
    for message in waiting:
        if not message.is_alert:
            of_a_day.setdefault((message.category, local(message.effective_at).date()), []).append(message.identifier)
        if message.expires_at - message.effective_at > LONG_AFTER:
            marks[message.identifier].append("stays_long")
    for names in of_a_day.values():
        for name in names if len(names) > 1 else ():
            marks[name].append("same_category")
    return [Entry(**{**vars(entry), "collides": tuple(dict.fromkeys(marks[name]))}) for name, entry in by_place.items()]


def month_of(day: date, entries: Sequence[Entry], almanac: Almanac) -> list[list[Day]]:
    """Whole weeks, Monday first."""
    first = day.replace(day=1)
    start = first - timedelta(days=first.weekday())
    after = (first + timedelta(days=32)).replace(day=1)
    weeks = []
    while start < after:
        weeks.append([_day(start + timedelta(days=n), entries, almanac, month=day.month) for n in range(7)])
        start += WEEK
    return weeks


def week_of(day: date, entries: Sequence[Entry], almanac: Almanac) -> list[Day]:
    start = day - timedelta(days=day.weekday())
    return [_day(start + timedelta(days=n), entries, almanac) for n in range(7)]


def _day(day: date, entries: Sequence[Entry], almanac: Almanac, *, month: int = 0) -> Day:
    return Day(
        date=day,
        is_open=almanac.closed(day) is None,
        holiday=holiday_name(day) or "",
        is_in_month=not month or day.month == month,
        # What staff wrote first: the runs of every day would fill the few lines that a cell has.
        entries=tuple(sorted((e for e in entries if e.day == day), key=lambda entry: entry.is_run)),
    )


def span_of(view: str, day: date) -> tuple[datetime, datetime]:
    """From when until when a view looks, whole days of the ward."""
    if view == "week":
        first = day - timedelta(days=day.weekday())
        last = first + WEEK
    elif view == "month":
        begin = day.replace(day=1)
        first = begin - timedelta(days=begin.weekday())
        last = (begin + timedelta(days=32)).replace(day=1) + WEEK
    else:
        first, last = day, day + timedelta(days=31)
    return _midnight(first), _midnight(last)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), JST)


def next_of(view: str, day: date, step: int) -> date:
    """The day that the next or the last view begins with."""
    if view == "week":
        return day + WEEK * step
    if view == "month":
        month = day.month - 1 + step
        return date(day.year + month // 12, month % 12 + 1, 1)
    return day + timedelta(days=31) * step
