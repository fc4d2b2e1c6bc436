"""What stands in the calendar: notices that wait or have gone out, and the runs of the routine rules; and where two of
them collide. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time, timedelta
from itertools import pairwise
from typing import NamedTuple

from broadcaster.almanac import Almanac, Run, holiday_name
from broadcaster.clock import JST, local
from broadcaster.lifecycle import State
from broadcaster.message import Message
from broadcaster.proofreading import days_named
from broadcaster.store.messages import COMING, Kept

WEEK = timedelta(days=7)
LONG_AFTER = timedelta(days=60)
"""A notice that stays longer than this after it went out has probably outlived what it tells of."""

A_DAY_LONGER = timedelta(days=1)
"""A notice may stay so long after the last day that it names."""

OFFICE_HOURS = range(8, 19)
"""The hours that a week always shows."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the calendar."""

    key: str  # a message's identifier, or the key of a run
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

    def at(self, hour: int) -> list[Entry]:
        """What goes out in this hour, in order."""
        return sorted((entry for entry in self.entries if local(entry.at).hour == hour), key=lambda entry: entry.at)


def entries_of(kept: Sequence[Kept], runs: Iterable[Run], language: str, now: datetime) -> list[Entry]:
    """In order of their hour, with what collides marked."""
    runs = list(runs)
    found = _collisions(kept, runs)
    shown = [*(_notice(one, now) for one in kept), *(_run(run, language) for run in runs)]
    marked = [replace(entry, collides=tuple(dict.fromkeys(found.get(entry.key, ())))) for entry in shown]
    return sorted(marked, key=lambda entry: entry.at)


def _notice(kept: Kept, now: datetime) -> Entry:
    message = kept.message
    place = {State.SUBMITTED: "approvals", State.SCHEDULED: "messages"}.get(kept.state, "sent")
    return Entry(
        key=message.identifier,
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
        key=run.key,
        at=run.planned_at,
        title=run.rule.title,
        channels=run.rule.channels,
        is_run=True,
        is_skipped=run.skipped is not None,
        why=why.in_(language) if why else "",
    )


class _Going(NamedTuple):
    """What collisions are looked for among: notices that wait, and the runs that rules will make."""

    key: str
    at: datetime
    category: str
    posts: bool
    is_run: bool
    is_alert: bool = False


def _collisions(kept: Sequence[Kept], runs: Sequence[Run]) -> Mapping[str, Sequence[str]]:
    """By the key of an entry, what it collides with: keys of calendar.yaml."""
    waiting = [one.message for one in kept if one.state in COMING]
    going = [
        *(_Going(m.identifier, m.effective_at, m.category, "x" in m.channels, False, m.is_alert) for m in waiting),
        *(
            _Going(run.key, run.planned_at, run.rule.category, "x" in run.rule.channels, True)
            for run in runs
            if run.skipped is None and not run.rule.by_hand
        ),
    ]
    found: dict[str, list[str]] = {}
    posts = sorted((one for one in going if one.posts), key=lambda one: one.at)
    for one, other in pairwise(posts):
        if other.at - one.at < timedelta(minutes=1):  # the second hides the first
            found.setdefault(one.key, []).append("same_minute")
            found.setdefault(other.key, []).append("same_minute")
    of_a_day: dict[tuple[str, date], list[_Going]] = {}
    for one in going:
        if not one.is_alert:
            of_a_day.setdefault((one.category, local(one.at).date()), []).append(one)
    for together in of_a_day.values():
        # Rules that fall on one day were put so; a notice beside them may say what they will say.
        if len(together) > 1 and not all(one.is_run for one in together):
            for one in together:
                found.setdefault(one.key, []).append("same_category")
    for message in waiting:
        if stays := _stays(message):
            found.setdefault(message.identifier, []).append(stays)
    return found


def _stays(message: Message) -> str:
    """Whether it is still shown when what it tells of is over, as far as its words name a day; empty where it is not."""
    began = local(message.effective_at).date()
    text = f"{message.info.headline}\n{message.info.description}"
    last = max((day for day in days_named(text, began) if day >= began), default=None)
    if last is not None and local(message.expires_at) > _midnight(last + timedelta(days=1)) + A_DAY_LONGER:
        return "outlives"
    return "stays_long" if message.expires_at - message.effective_at > LONG_AFTER else ""


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


def hours_of(days: Sequence[Day]) -> list[int]:
    """The hours of a week as it is drawn: the office's, and those outside them in which something goes out."""
    used = {local(entry.at).hour for day in days for entry in day.entries}
    return sorted({*OFFICE_HOURS, *used})


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
