"""The calendar: what goes out when. A month, a week, or a list, which is what a telephone and a page without scripts
show."""

from __future__ import annotations

from datetime import date

from starlette.responses import Response

from broadcaster import agenda
from broadcaster.clock import local
from broadcaster.dates import read_day
from broadcaster.roles import Right
from broadcaster.store import messages
from broadcaster.web.desk.visit import Desk, Visit

VIEWS = ("month", "week", "list")


def register(desk: Desk) -> None:
    desk.get("/calendar", Right.READ, Calendar(desk).show)


class Calendar:
    def __init__(self, desk: Desk) -> None:
        self.app = desk.app
        self.almanac = desk.almanac

    def show(self, visit: Visit) -> Response:
        view = visit.query("view") if visit.query("view") in VIEWS else "list"
        day = read_day(visit.query("day")) or local(visit.now).date()
        entries = self._entries(view, day, visit)
        days = agenda.week_of(day, entries, self.almanac) if view == "week" else []
        return visit.page(
            "desk/calendar.html",
            view=view,
            views=VIEWS,
            day=day,
            today=local(visit.now).date(),
            before=agenda.next_of(view, day, -1),
            after=agenda.next_of(view, day, 1),
            weeks=agenda.month_of(day, entries, self.almanac) if view == "month" else [],
            days=days,
            hours=agenda.hours_of(days),
            entries=entries,
        )

    def _entries(self, view: str, day: date, visit: Visit) -> list[agenda.Entry]:
        since, until = agenda.span_of(view, day)
        with self.app.database.read() as connection:
            kept = list(messages.between(connection, since, until))
        begin = max(since, visit.now)
        runs = (
            [run for rule in self.almanac.rules for run in self.almanac.runs(rule, begin, until)]
            if begin < until
            else []
        )
        return agenda.entries_of(kept, runs, visit.language, visit.now)
