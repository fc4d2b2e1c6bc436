"""D1: how long the desk's pages take, with 100,000 messages and 10,000,000 rows of evidence in the store.

Every page that can be opened without sending anything, as its person opens it: through the door, the database, the
templates, to the last byte, in this process and without a network. Taken from the middle of the day: three alerts and
some notices in force, others waiting and planned.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import httpx2 as httpx
from sqlalchemy import text

from benchmarks.rounds import Figure, Spread, at_most
from broadcaster.app import App
from broadcaster.message import to_document
from broadcaster.store import search
from broadcaster.store.tables import microseconds
from broadcaster.web import create
from tests.desk import Person, a_day, an_app, pages
from tests.makers import a_notice

TITLE = "The desk's pages, after years"
MESSAGES, ROWS, A_MAILING = 100_000, 10_000_000, 4_800
MOST_MS = 50.0
PREVIEW_MS = 150.0


def run_d1(quick: bool) -> list[Figure]:
    logging.disable(logging.WARNING)
    messages, rows, times = (2_000, 100_000, 20) if quick else (MESSAGES, ROWS, 100)
    with a_desk_after_years(messages, rows) as app:
        return asyncio.run(_figures(app, times))


@contextmanager
def a_desk_after_years(messages: int, rows: int) -> Iterator[App]:
    with tempfile.TemporaryDirectory(prefix="desk", dir="/var/tmp") as folder:
        app = an_app(Path(folder))
        _fill(app, messages, rows)
        a_day(app)
        yield app
        asyncio.run(app.close())


def _fill(app: App, messages: int, rows: int) -> None:
    """In the database's own words: through the model it would take a day."""
    now = app.clock.now()
    begin, step = microseconds(now - timedelta(days=3_650)), 3_600_000_000 * 24 * 3_650 // 24 // messages
    document = json.dumps(to_document(a_notice(app.settings)), ensure_ascii=False)
    values = {"begin": begin, "step": step, "document": document, "messages": messages}
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :messages) "
    with app.database.write() as connection:
        for statement in (
            "INSERT INTO messages (id, identifier, mode, category, state, effective_at, expires_at, document, content_hash, "
            f"created_at, created_by, issued_as) {numbers} SELECT i, 'old-' || i, 'live', 'notice', 'expired', "
            ":begin + i * :step, :begin + i * :step + 86400000000, :document, '', :begin + i * :step, 'writer', i FROM n",
            "INSERT INTO issues (id, message_id, identifier, mode, lane, sent_at, effective_at, expires_at, document) "
            "SELECT id, id, identifier, mode, 1, effective_at, effective_at, expires_at, document FROM messages",
            "INSERT INTO deliveries (id, issue_id, key, channel, part, kind, mode, lane, state, due_at, created_at, "
            "expires_at, settled_at, first_attempt_at, total, delivered) "
            "SELECT id, id, identifier || '/email/ja.text', 'email', 'ja.text', 'mailing', mode, 1, 2, sent_at, sent_at, "
            f"expires_at, sent_at, sent_at, {A_MAILING}, {A_MAILING} FROM issues",
            "INSERT INTO deliveries (issue_id, key, channel, part, kind, mode, lane, state, due_at, created_at, expires_at, "
            "settled_at, first_attempt_at) SELECT id, identifier || '/x/1', 'x', '1', 'push', mode, 1, 2, sent_at, sent_at, "
            "expires_at, sent_at, sent_at FROM issues",
        ):
            wanted = {name: value for name, value in values.items() if f":{name}" in statement}
            connection.execute(text(statement), wanted)
        for id in range(1, messages + 1):
            search.put(connection, id, document)
    readers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :most) "
    with app.database.write() as connection:
        connection.execute(
            text(
                f"INSERT INTO recipients (delivery_id, subscriber_id, state, attempts, due_at, settled_at, reply) {readers}"
                "SELECT d.id, n.i, 2, 1, d.due_at, d.due_at + n.i * 8000, '250 2.0.0 Ok' FROM deliveries d, n "
                "WHERE d.id BETWEEN :first AND :last"
            ),
            {"most": A_MAILING, "first": messages - rows // A_MAILING + 1, "last": messages},
        )


def _newest(app: App) -> int:
    with app.database.read() as connection:
        return int(connection.execute(text("SELECT max(id) FROM messages WHERE identifier LIKE 'old-%'")).scalar_one())


async def _figures(app: App, times: int) -> list[Figure]:
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app=create(app)), base_url="http://127.0.0.1")
    person = await Person(client).sign_in("admin")
    old = f"/desk/sent/old-{_newest(app)}"
    found = [(path, await _measured(person, path, times)) for path in (*pages(app)[:-1], old, f"{old}/report")]
    previews = await _previewed(person, times)
    await client.aclose()
    return [*(_figure(path, took, MOST_MS) for path, took in found), _figure("/desk/previews", previews, PREVIEW_MS)]


def _figure(path: str, took: list[float], most: float) -> Figure:
    name = re.sub(r"&?day=[0-9-]+", "", path)
    return Figure(
        name=f"D1 `{name}`, 95 of 100 within",
        value=Spread(median=took[int(len(took) * 0.95)], low=took[0], high=took[-1]),
        unit="ms",
        bar=at_most(most),
        note=f"half within {took[len(took) // 2]:.1f} ms",
    )


async def _previewed(person: Person, times: int) -> list[float]:
    """What every pause of a writer costs: all media of a long notice, composed by their channels."""
    fields = {"title": "荒川の清掃のお知らせ", "body": "清掃のため、通行止めになります。\n" * 40, "where": "whole"}
    took = []
    for number in range(times + 2):
        began = time.perf_counter()
        answer = await person.post(
            "/desk/previews", **fields, channels=["email", "x", "rss", "signage", "dial", "page"]
        )
        if number > 1:
            took.append((time.perf_counter() - began) * 1_000)
        assert answer.status_code == 200
    return sorted(took)


async def _measured(person: Person, path: str, times: int) -> list[float]:
    """Milliseconds, in order. The first two are not counted: a page that was never opened is compiled."""
    took = []
    for number in range(times + 2):
        began = time.perf_counter()
        answer = await person.client.get(path)
        if number > 1:
            took.append((time.perf_counter() - began) * 1_000)
        assert answer.status_code == 200, f"{path}: {answer.status_code}"
    return sorted(took)


RUNS = {"D1": run_d1}
