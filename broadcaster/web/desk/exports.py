"""Export: messages as open data, and the log of acts for whoever has to look into something, with a reason that is
written down. Streamed, so that a million rows need no memory."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from starlette.responses import Response, StreamingResponse

from broadcaster.app import App
from broadcaster.clock import stamp
from broadcaster.roles import Right
from broadcaster.store import audit, issues
from broadcaster.web.desk.records import Records
from broadcaster.web.desk.visit import PATH, Desk, Visit

BATCH = 500
_ACTIVE = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet would take for a formula."""

Row = Mapping[str, Any]


def register(desk: Desk) -> None:
    exports = Exports(desk)
    desk.get("/messages/export.csv", Right.READ, partial(exports.messages, as_csv))
    desk.get("/messages/export.json", Right.READ, partial(exports.messages, as_json))
    desk.post("/records/export.csv", Right.EXPORT, partial(exports.records, as_csv))
    desk.post("/records/export.json", Right.EXPORT, partial(exports.records, as_json))


Written = Callable[[Iterable[Row]], Iterator[str]]


class Exports:
    def __init__(self, desk: Desk) -> None:
        self.app = desk.app
        self._records = Records(desk)

    def messages(self, written: Written, visit: Visit) -> Response:
        """What was sent: it is public, and holds no reader."""
        return as_file(written, _sent(self.app), "messages")

    def records(self, written: Written, visit: Visit) -> Response:
        reason = visit.field("reason").strip()
        if not reason:
            return self._records.show_log(visit, [visit.problem("reason", "records.export_reason_missing")])
        with self.app.database.write() as connection:
            audit.write(connection, visit.actor, "records.exported", PATH, at=visit.now, reason=reason[:500])
        return as_file(written, _acts(self.app), "records")


def as_file(written: Written, rows: Iterable[Row], name: str) -> Response:
    """To be kept under this name."""
    ending, media_type = ("csv", "text/csv; charset=utf-8") if written is as_csv else ("json", "application/json")
    headers = {"content-disposition": f'attachment; filename="{name}.{ending}"', "cache-control": "no-store"}
    return StreamingResponse(written(rows), media_type=media_type, headers=headers)


def as_csv(rows: Iterable[Row]) -> Iterator[str]:
    """With a mark at the head by which spreadsheets know the letters; nothing in it acts as a formula."""
    yield "\ufeff"
    for number, row in enumerate(rows):
        out = io.StringIO()
        writer = csv.writer(out)
        if not number:
            writer.writerow(row)
        writer.writerow([inert(value) for value in row.values()])
        yield out.getvalue()


def inert(value: Any) -> str:
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(_ACTIVE) else text


def as_json(rows: Iterable[Row]) -> Iterator[str]:
    """One array, a row a line."""
    yield "[\n"
    for number, row in enumerate(rows):
        yield (",\n" if number else "") + json.dumps(dict(row), ensure_ascii=False)
    yield "\n]\n"


def _sent(app: App) -> Iterator[Row]:
    """Every live message that went out, newest first, in batches of a transaction each."""
    before = None
    while True:
        with app.database.read() as connection:
            batch = issues.live_before(connection, before, BATCH)
        if not batch:
            return
        for issue in batch:
            message = issue.message
            yield {
                "identifier": message.identifier,
                "sent_at": stamp(issue.sent_at),
                "expires_at": stamp(message.expires_at),
                "category": message.category,
                "is_alert": message.is_alert,
                "level": message.level,
                "headline": message.info.headline,
                "text": message.info.description,
                "area": message.area_text,
                "media": " ".join(message.channels),
                "languages": " ".join(message.languages),
                "change": message.change.value if message.change else "",
                "references": " ".join(reference.identifier for reference in message.references),
            }
        before = batch[-1].id


def _acts(app: App) -> Iterator[Row]:
    after = 0
    while True:
        with app.database.read() as connection:
            batch = audit.entries(connection, after=after, limit=BATCH)
        if not batch:
            return
        for entry in batch:
            yield {
                "seq": entry.seq,
                "at": stamp(entry.at),
                "actor": entry.actor,
                "via": entry.via,
                "act": entry.act,
                "object": entry.object,
                "mode": entry.mode,
                "detail": entry.detail,
                "hash": entry.hash,
            }
        after = batch[-1].seq
