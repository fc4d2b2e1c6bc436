"""Reading back: every message, found by its words and by what it is; and who did what, with the chain that shows it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, time, timedelta
from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response

from broadcaster.clock import JST
from broadcaster.dates import read_day
from broadcaster.problems import Problem
from broadcaster.roles import Right
from broadcaster.store import audit, messages, search
from broadcaster.store.search import Wanted
from broadcaster.web.desk.visit import PATH, Desk, Visit
from broadcaster.web.desk.wording import act_name, state_word

A_PAGE, AN_AUDIT_PAGE = 50, 100
HERE = f"{PATH}/messages"
RECORDS = f"{PATH}/records"
STATES = (
    "submitted",
    "scheduled",
    "in_force",
    "ended",
    "returned",
    "rejected",
    "withdrawn",
    "skipped",
    "updated",
    "cancelled",
)
_FILTERS = ("q", "state", "category", "mode", "from", "to")


def register(desk: Desk) -> None:
    records = Records(desk)
    desk.get("/messages", Right.READ, records.show_messages)
    desk.get("/records", Right.READ, records.show_log)
    desk.post("/records/check", Right.READ, records.check_all)


class Records:
    def __init__(self, desk: Desk) -> None:
        self.app = desk.app

    # Messages

    def show_messages(self, visit: Visit) -> Response:
        wanted, problems = _wanted(visit)
        with self.app.database.read() as connection:
            ids = search.newest(
                connection, wanted, now=visit.now, before=_number(visit.query("before")), limit=A_PAGE + 1
            )
            kept = messages.many(connection, ids[:A_PAGE])
        shown = [kept[id] for id in ids[:A_PAGE] if id in kept]
        return visit.page(
            "desk/messages.html",
            status=422 if problems else 200,
            problems=problems,
            shown=[(one, state_word(visit, one)) for one in shown],
            states=[(state, visit.w(f"states_message.{state}")) for state in STATES],
            categories=[(one.id, one.name) for one in self.app.settings.ward.categories],
            asked={name: visit.query(name) for name in _FILTERS},
            without=[(visit.query(name), _address(visit, but=name)) for name in _FILTERS if visit.query(name)],
            older=_address(visit, before=ids[A_PAGE - 1]) if len(ids) > A_PAGE else "",
        )

    # The log

    def show_log(self, visit: Visit, problems: Sequence[Problem] = ()) -> Response:
        return self._log(visit, wrong=problems)

    def check_all(self, visit: Visit) -> Response:
        with self.app.database.write() as connection:
            found = audit.check(connection, from_first=True)
        return self._log(visit, found)

    def _log(self, visit: Visit, found: audit.Checked | None = None, *, wrong: Sequence[Problem] = ()) -> Response:
        if found is None:
            with self.app.database.write() as connection:
                found = audit.check(connection)
        day, problems = _day(visit, "day")
        problems = [*problems, *wrong]
        with self.app.database.read() as connection:
            rows = audit.newest(
                connection,
                actor=visit.query("actor"),
                act=visit.query("act"),
                object=visit.query("object"),
                since=day,
                until=day + timedelta(days=1) if day else None,
                before=_number(visit.query("before")),
                limit=AN_AUDIT_PAGE + 1,
            )
        names = ("actor", "act", "object", "day")
        more = {name: visit.query(name) for name in names if visit.query(name)}
        acts = self.app.settings.words.pages["records"]["acts"]
        return visit.page(
            "desk/records.html",
            status=422 if problems else 200,
            problems=problems,
            shown=[(entry, act_name(visit, entry.act), _details(entry.detail)) for entry in rows[:AN_AUDIT_PAGE]],
            acts=[(name.replace("_", ".", 1), visit.w(f"records.acts.{name}")) for name in acts],
            asked={name: visit.query(name) for name in names},
            found=found,
            older=f"{RECORDS}?{urlencode({**more, 'before': rows[AN_AUDIT_PAGE - 1].seq})}"
            if len(rows) > AN_AUDIT_PAGE
            else "",
        )


def _details(detail: str) -> str:
    values: dict[str, Any] = json.loads(detail)
    return "　".join(f"{name}: {value}" for name, value in values.items())


def _wanted(visit: Visit) -> tuple[Wanted, list[Problem]]:
    since, wrong = _day(visit, "from")
    until, also_wrong = _day(visit, "to")
    state, mode = visit.query("state"), visit.query("mode")
    wanted = Wanted(
        words=visit.query("q")[:200],
        state=state if state in STATES else "",
        category=visit.query("category")[:32],
        mode=mode if mode in ("live", "drill") else "",
        since=since,
        until=until + timedelta(days=1) if until else None,
    )
    return wanted, [*wrong, *also_wrong]


def _day(visit: Visit, name: str) -> tuple[datetime | None, list[Problem]]:
    if not (typed := visit.query(name).strip()):
        return None, []
    if (day := read_day(typed)) is None:
        return None, [visit.problem(name, "records.wrong_day")]
    return datetime.combine(day, time(), JST), []


def _number(typed: str) -> int | None:
    return int(typed) if typed.isascii() and typed.isdecimal() and len(typed) <= 18 else None


def _address(visit: Visit, *, but: str = "", before: int | None = None) -> str:
    kept = {name: visit.query(name) for name in _FILTERS if visit.query(name) and name != but}
    if before is not None:
        kept["before"] = str(before)
    return f"{HERE}?{urlencode(kept)}" if kept else HERE
