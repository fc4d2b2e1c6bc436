"""The store, on both databases: one contract."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Index, event, insert, text

from broadcaster import reports
from broadcaster.app import ports_file
from broadcaster.clock import SystemClock
from broadcaster.delivery import Lane, State, Tried
from broadcaster.message import Change, Mode, to_document
from broadcaster.problems import Refused
from broadcaster.roles import Role
from broadcaster.settings import Settings
from broadcaster.store import (
    audit,
    deliveries,
    issues,
    leases,
    messages,
    plans,
    recipients,
    requests,
    search,
    subscribers,
    tables,
    tokens,
    workers,
)
from broadcaster.store.audit import Actor
from broadcaster.store.database import Database, _alembic
from broadcaster.store.deliveries import Delivery
from broadcaster.store.tables import metadata, microseconds
from broadcaster.store.tables import recipients as recipient_rows
from tests import servers
from tests.house import House
from tests.makers import NOW, a_notice, a_reader

STAFF = Actor(name="staff", via="cli")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    database.upgrade()
    yield database
    database.close()


def readers(database: Database, number: int, *, email_of: str = "reader-{n}@mail.example", **columns: object) -> None:
    rows = [a_reader(n, **{"email": email_of.format(n=n), **columns}) for n in range(number)]
    with database.write() as connection:
        for batch in subscribers.batches(rows):
            subscribers.put(connection, batch)


AUDIENCE = {"language": "ja", "format": "text", "topic": 8, "districts": 1, "is_drill": False}


def a_mailing(database: Database, settings: Settings) -> int:
    with database.write() as connection:
        kept = messages.add(connection, a_notice(settings), by="staff", at=NOW)
        issue = issues.freeze(connection, a_notice(settings), message_id=kept.id, lane=Lane.ROUTINE)
        return deliveries.add(
            connection,
            issue_id=issue.id,
            key="13109-a-notice/email/ja.text",
            channel="email",
            part="ja.text",
            kind=deliveries.MAILING,
            mode=Mode.LIVE,
            lane=Lane.ROUTINE,
            due_at=NOW,
            expires_at=NOW + timedelta(days=1),
            audience=AUDIENCE,
        )


def test_the_migrations_make_exactly_these_tables(database: Database) -> None:
    assert database.is_current()
    with database.read() as connection:
        # The words to be found by are kept as each database does it: SQLite's FTS5 has tables of its own beside it.
        context = MigrationContext.configure(connection, opts={"include_name": is_described})
        assert compare_metadata(context, metadata) == []


def is_described(name: str | None, kind: str, _parents: object) -> bool:
    parts = ("", "_data", "_idx", "_content", "_docsize", "_config")
    return kind != "table" or name not in {search.TABLE + part for part in parts}


def test_a_second_upgrade_changes_nothing(database: Database, settings: Settings) -> None:
    readers(database, 3)
    id = a_mailing(database, settings)
    database.upgrade()
    assert database.is_current()
    with database.read() as connection:
        assert deliveries.get(connection, id).key == "13109-a-notice/email/ja.text"
        assert subscribers.count(connection) == 3


def test_what_an_older_version_kept_is_there_after_every_step(
    database_url: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first tables on, one version after the other; backwards too."""
    database = Database(database_url)
    steps = [script.revision for script in ScriptDirectory.from_config(_alembic()).walk_revisions()]
    with database.write() as connection:
        migrate(connection, "upgrade", steps[-1])
    assert not database.is_current()
    readers(database, 3)
    with monkeypatch.context() as older:  # which kept no words to be found by
        older.setattr(search, "put", lambda *_: None)
        id = a_mailing(database, settings)
    for revision in reversed(steps[:-1]):
        with database.write() as connection:
            migrate(connection, "upgrade", revision)
            assert deliveries.get(connection, id).key == "13109-a-notice/email/ja.text"
            assert subscribers.count(connection) == 3
    assert database.is_current()
    with database.read() as connection:
        assert search.newest(connection, search.Wanted(words=a_notice(settings).info.headline), now=NOW)
    with database.write() as connection:
        migrate(connection, "downgrade", steps[-1])
        assert deliveries.get(connection, id).audience == AUDIENCE
    database.upgrade()
    assert database.is_current()
    database.close()


def migrate(connection: Connection, way: str, revision: str) -> None:
    config = _alembic()
    config.attributes["connection"] = connection
    getattr(command, way)(config, revision)


def test_two_processes_that_upgrade_at_once_both_find_it_done(database_url: str) -> None:
    program = (
        "import sys\nfrom broadcaster.store.database import Database\n"
        f"database = Database({database_url!r})\nprint('up', flush=True)\nsys.stdin.readline()\n"
        "database.upgrade()\nassert database.is_current()\ndatabase.close()"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(3)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
        said = [process.communicate(b"go\n", timeout=60) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait(10)
    assert [process.returncode for process in processes] == [0, 0, 0], [error.decode()[-500:] for _, error in said]


@pytest.mark.parametrize("role", [["web", "--port", "0"], ["work", "--lane", "all"], ["schedule"]])
def test_a_role_refuses_tables_of_another_version_with_a_sentence(
    role: list[str], database_url: str, tmp_path: Path
) -> None:
    database = Database(database_url)
    with database.write() as connection:
        migrate(connection, "upgrade", "0001")
    database.close()
    ports = ports_file(tmp_path / "home")
    ports.parent.mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as town:  # a sender waits for the rehearsal's mail and X
        ports.write_text(json.dumps(dict.fromkeys(("email", "x"), town.getsockname()[1])))
        said = subprocess.run(
            [sys.executable, "-m", "broadcaster", *role],
            env={**os.environ, "BROADCASTER_HOME": str(tmp_path / "home"), "BROADCASTER_DATABASE_URL": database_url},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert said.returncode == 2
    assert "broadcaster db upgrade" in said.stderr
    assert "Traceback" not in said.stderr


def test_a_fan_out_goes_on_from_its_cursor(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipients, "CHUNK", 40)
    readers(database, 100)
    id = a_mailing(database, settings)
    chunks = []
    while True:
        with database.write() as connection:
            mailing = deliveries.get(connection, id)
            if mailing.fanned_to is None:
                break
            chunks.append(recipients.fan_out(connection, mailing, NOW))
    assert chunks == [40, 40, 20]
    with database.read() as connection:
        assert recipients.counted(connection, id).total == deliveries.get(connection, id).counts.total == 100


def test_only_those_who_chose_the_topic_and_live_there_are_meant(database: Database) -> None:
    readers(database, 3)
    readers(database, 2, topics=1, email="other-topic@mail.example")
    readers(database, 1, districts=2, email="elsewhere@mail.example")
    readers(database, 1, state="suspended", email="suspended@mail.example")
    with database.read() as connection:
        assert recipients.head_count(connection, AUDIENCE) == 3


def test_two_workers_never_hold_the_same_letter(database: Database, settings: Settings) -> None:
    readers(database, 50)
    id = a_mailing(database, settings)
    with database.write() as connection:
        recipients.fan_out(connection, deliveries.get(connection, id), NOW)
    taken = []
    for worker in (1, 2, 1, 2):
        with database.write() as connection:
            taken += recipients.claim(connection, id, worker=worker, now=NOW, limit=20).letters
    assert len({letter.subscriber_id for letter in taken}) == len(taken) == 50


def test_a_worker_that_was_given_up_cannot_overwrite_its_successor(database: Database, settings: Settings) -> None:
    readers(database, 4)
    id = a_mailing(database, settings)
    with database.write() as connection:
        recipients.fan_out(connection, deliveries.get(connection, id), NOW)
        held = recipients.claim(connection, id, worker=1, now=NOW, limit=4)
        leases.release(connection, [1], NOW)
        now_held = recipients.claim(connection, id, worker=2, now=NOW, limit=2)
        recipients.write_down(connection, delivered(id, held), NOW)
        counts = recipients.counted(connection, id)
        assert (counts.delivered, counts.in_flight, counts.queued) == (0, 2, 2)
        recipients.write_down(connection, delivered(id, now_held), NOW)
        assert deliveries.get(connection, id).counts.delivered == 2


def test_a_batch_of_one_s_own_letters_costs_three_statements(database: Database, settings: Settings) -> None:
    """To count the rows themselves, at every batch, would cost more with every reader."""
    readers(database, 4)
    id = a_mailing(database, settings)
    with database.write() as connection:
        recipients.fan_out(connection, deliveries.get(connection, id), NOW)
        held = recipients.claim(connection, id, worker=1, now=NOW, limit=2)
    sent = statements_of(database, lambda connection: recipients.write_down(connection, delivered(id, held), NOW))
    assert [statement.split()[:2] for statement, _ in sent] == [
        ["SELECT", "leases.id"],
        ["INSERT", "INTO"],
        ["UPDATE", "deliveries"],
    ]


def delivered(id: int, taken: recipients.Taken) -> recipients.Record:
    return recorded(id, taken.lease, [one.subscriber_id for one in taken.letters])


def recorded(id: int, lease: int, readers: Iterable[int]) -> recipients.Record:
    record = recipients.Record()
    for reader in readers:
        record.put(id, reader, lease, recipients.End(State.DELIVERED), "250")
    return record


def test_a_cancel_during_the_first_claim_does_not_wait_for_ever(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    """The sender has taken letters in hand and has not yet noted the first attempt of their mailing."""
    house = House(settings=settings, database=database, clock=SystemClock())
    house.readers(200)
    identifier = house.issues(a_notice(settings, now=house.clock.now(), channels=("carrier",))).message.identifier
    with database.read() as connection:
        (mailing,) = [
            one for one in deliveries.open_mailings(connection, "carrier", Mode.LIVE) if one.counts.total == 200
        ]
    with ThreadPoolExecutor(1) as office:
        with database.write() as connection:
            taken = recipients.claim(connection, mailing.id, worker=1, now=house.clock.now(), limit=50)
            assert len(taken.letters) == 50
            cancel = office.submit(house.pipeline.change, identifier, Change.CANCEL, STAFF)
            until_it_waits(database, cancel)
            deliveries.note_first_attempt(connection, mailing.id, house.clock.now())
        cancel.result(timeout=30)
    with database.read() as connection:
        counts = recipients.counted(connection, mailing.id)
        assert (counts.in_flight, counts.stopped) == (50, 150)
        assert deliveries.get(connection, mailing.id).is_stopping


def until_it_waits(database: Database, other: Future[Any]) -> None:
    """For the lock that we hold. On SQLite a whole transaction waits, and shows it to nobody."""
    until = time.monotonic() + 30
    while not database.is_sqlite and time.monotonic() < until and not other.done():
        with database.read() as connection:
            if connection.exec_driver_sql("SELECT count(*) FROM pg_locks WHERE NOT granted").scalar():
                return
        time.sleep(0.01)


def test_counts_always_add_up(database: Database, settings: Settings) -> None:
    readers(database, 10)
    id = a_mailing(database, settings)
    ends = [State.DELIVERED, State.FAILED, State.UNKNOWN, State.QUEUED]
    with database.write() as connection:
        recipients.fan_out(connection, deliveries.get(connection, id), NOW)
        held = recipients.claim(connection, id, worker=1, now=NOW, limit=8)
        record = recipients.Record()
        for n, one in enumerate(held.letters):
            record.put(id, one.subscriber_id, held.lease, recipients.End(ends[n % 4]), "said")
        recipients.write_down(connection, record, NOW)
        leases.end(connection, [held.lease])
        deliveries.stop_mailings(connection, [deliveries.get(connection, id).issue_id])
        assert recipients.stop_waiting(connection, [id], NOW) == 4
        deliveries.finish_mailings(connection, [id], NOW)
        mailing = deliveries.get(connection, id)
        rows = recipients.counted(connection, id)
    assert mailing.counts.adds_up
    assert rows.adds_up
    assert (rows.delivered, rows.failed, rows.unknown, rows.stopped) == (2, 2, 2, 4)
    assert mailing.state is State.STOPPED


# No full scan on a hot path: the planner is asked about every statement, as it is really sent


BIG = (
    "messages",
    "issues",
    "deliveries",
    "attempts",
    "subscribers",
    "recipients",
    "plans",
    "tokens",
    "audit",
    "requests",
)
"""Tables that grow for years. `workers` and `meta` hold a handful of rows: there a scan is the shortest way."""

MAILINGS, LETTERS = 100, 1_000
OPEN = 2
"""The mailing that is under way; the others are history."""

WORKER = 7
CANCEL: dict[str, object] = {"of": [5, 8]}


@pytest.fixture(scope="module", params=["sqlite", "sqlite with statistics", "postgresql"])
def years(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, settings: Settings
) -> Iterator[Database]:
    """A database after years: so many rows that reading a whole table would be the longest way.

    SQLite keeps no statistics until an operator makes them; PostgreSQL makes them by itself."""
    if request.param == "postgresql":
        with servers.a_database(request.getfixturevalue("postgres_server")) as url:
            yield from _after_years(url, settings, with_statistics=True)
    else:
        url = f"sqlite:///{tmp_path_factory.mktemp('years') / 'years.sqlite3'}"
        yield from _after_years(url, settings, with_statistics=request.param != "sqlite")


def _after_years(url: str, settings: Settings, *, with_statistics: bool) -> Iterator[Database]:
    database = Database(url)
    database.upgrade()
    readers(database, 4_500)
    for language in ("en", "ko", "zh-Hans", "zh-Hant", "tl"):
        readers(database, 100, language=language, email_of=f"{language}-{{n}}@mail.example")
    with database.write() as connection:
        _write_years(connection, settings)
    if with_statistics:
        with database.write() as connection:
            connection.execute(text("ANALYZE"))
    yield database
    database.close()


def _write_years(connection: Connection, settings: Settings) -> None:
    at, later, state = NOW - timedelta(days=400), NOW + timedelta(days=1), int(State.DELIVERED)
    document = json.dumps(to_document(a_notice(settings)), ensure_ascii=False)
    old = range(1, 4_001)
    common = {"mode": "live", "effective_at": at, "document": document}
    connection.execute(
        insert(tables.messages),
        [
            {
                **common,
                "identifier": f"m{n}",
                "category": f"c{n % 20}",
                "state": "expired",
                "expires_at": at,
                "content_hash": "",
                "created_at": at,
                "created_by": "staff",
            }
            for n in old
        ],
    )
    connection.execute(
        insert(tables.issues),
        [
            # What was not taken back ended by itself: `ended_at` stays empty, as it does in life.
            {**common, "message_id": n, "identifier": f"m{n}", "lane": 1, "sent_at": at, "expires_at": at if n > 20 else later}
            for n in old
        ],
    )  # fmt: skip
    kinds = (deliveries.PUSH, deliveries.BOARD, deliveries.MAILING)
    connection.execute(
        insert(tables.deliveries),
        [
            {
                "issue_id": n,
                "key": f"m{n}/x",
                "channel": ("x", "rss", "email")[n % 3],
                "part": "1",
                "kind": kinds[n % 3],
                "mode": "live",
                "lane": 1,
                # A few wait, a few are in hand, a few are to be decided: everything else is settled.
                "state": 0 if n <= 20 else 1 if n <= 25 else 3 if n <= 40 else state,
                "worker_id": WORKER if 20 < n <= 25 else None,
                "due_at": NOW if n <= 40 else at,
                "created_at": at,
                "settled_at": None if n <= 25 else at + timedelta(hours=n),
                "expires_at": later,
                "audience": json.dumps(AUDIENCE),
                "fanned_to": 0 if n == OPEN else None,
            }
            for n in old
        ],
    )
    connection.execute(
        insert(tables.attempts),
        [{"delivery_id": n, "number": 1, "began_at": at, "ended_at": at, "state": state} for n in old],
    )
    for mailing in range(1, MAILINGS + 1):
        connection.execute(
            insert(recipient_rows),
            [
                {
                    "delivery_id": mailing,
                    "subscriber_id": n,
                    "state": state if mailing != OPEN else 0 if n <= 100 else state,
                    "attempts": 1,
                    "due_at": microseconds(at),
                }
                for n in range(1, LETTERS + 1)
            ],
        )
    for worker, first, last in ((WORKER, 1, 50), (WORKER + 1, 51, 60)):
        leases.grant(connection, OPEN, worker, (microseconds(at), first), (microseconds(at), last))
    connection.execute(
        insert(tables.plans),
        [
            {
                "key": f"expire/m{n}",
                "kind": "expire",
                "due_at": NOW if n <= 20 else at,
                "message_id": n,
                "state": "planned" if n <= 20 else "done",
            }
            for n in old
        ],
    )
    for number in (WORKER, WORKER + 1):
        workers.enlist(connection, role="sender", pid=number, now=NOW, lasts=timedelta(seconds=6))
    for n in old:
        connection.execute(
            insert(tables.tokens),
            {"id": f"t{n}", "name": "", "role": "duty", "mode": "live", "hash": "", "created_at": at, "expires_at": at},
        )
        connection.execute(insert(tables.requests), {"key": f"k{n}", "body_hash": "", "identifier": f"m{n}", "at": at})
    audit.write_together(connection, STAFF, "message.issued", [(f"m{n}", Mode.LIVE, {}) for n in old], at=at)


def a_delivery(connection: Connection, id: int) -> Delivery:
    return replace(deliveries.get(connection, id), worker_id=WORKER)


def a_mailing_to(connection: Connection, audience: dict[str, object]) -> Delivery:
    return replace(deliveries.get(connection, 300), audience=audience, fanned_to=0)


LANE: dict[str, Any] = {"channel": "x", "mode": Mode.LIVE, "lane": Lane.ROUTINE}
DONE, NEVER = Tried(state=State.DELIVERED, evidence="1"), Tried(state=State.FAILED)
RECORD, OF_ANOTHER = (recorded(OPEN, lease, range(1, 51)) for lease in (1, 2))

HOT: dict[str, Callable[[Connection], object]] = {
    # The sender, all the time
    "next delivery": lambda c: deliveries.next_due_at(c, **LANE),
    "take deliveries": lambda c: deliveries.take_due(c, **LANE, worker=WORKER, now=NOW, limit=1),
    "settle a delivery": lambda c: deliveries.settle(c, a_delivery(c, 22), DONE, began_at=NOW, ended_at=NOW),
    "give up followers": lambda c: deliveries.settle(c, a_delivery(c, 22), NEVER, began_at=NOW, ended_at=NOW),
    "give back deliveries": lambda c: deliveries.give_back(c, **LANE, worker=WORKER),
    "what is due everywhere": lambda c: deliveries.next_due(c, [("email", Mode.LIVE, Lane.PRIORITY), ("x", Mode.LIVE, Lane.ROUTINE)]),
    "give back letters": lambda c: leases.give_back(c, "email", Mode.LIVE, worker=WORKER, kept=set()),
    "stop mailings that are over": lambda c: deliveries.stop(c, [OPEN]),
    "open mailings": lambda c: deliveries.open_mailings(c, "email", Mode.LIVE),
    "first attempt": lambda c: deliveries.note_first_attempt(c, OPEN, NOW),
    "claim letters": lambda c: recipients.claim(c, OPEN, worker=WORKER, now=NOW, limit=400),
    "mark letters": lambda c: recipients.write_down(c, RECORD, NOW),
    "mark letters of another": lambda c: recipients.write_down(c, OF_ANOTHER, NOW),
    "end leases": lambda c: leases.end(c, [1, 2]),
    "hold deliveries, and one's own": lambda c: (deliveries.hold(c, [OPEN, 5]), deliveries.get(c, OPEN, is_mine=True)),
    "who has how many in hand": lambda c: leases.in_hand(c, OPEN),
    "recall letters": lambda c: recipients.recall(c, [a_delivery(c, OPEN)], ["mail-1.example"], NOW),
    "fan out to an audience": lambda c: recipients.fan_out(c, a_mailing_to(c, AUDIENCE), NOW),
    "fan out to those who have it": lambda c: recipients.fan_out(c, a_mailing_to(c, CANCEL), NOW),
    "finish mailings": lambda c: deliveries.finish_mailings(c, [OPEN, 5], NOW),
    "the issue of a delivery": lambda c: issues.by_id(c, 5),
    # The lists of the desk
    "newest found messages": lambda c: search.newest(c, search.Wanted(), now=NOW),
    "messages by their words": lambda c: search.newest(c, search.Wanted(words="図書館"), now=NOW, before=90),
    "messages of a category": lambda c: search.newest(c, search.Wanted(category="event"), now=NOW),
    # The sweeper
    "beats": workers.beats,
    "beat": lambda c: workers.beat(c, 1, now=NOW, lasts=timedelta(seconds=6)),
    "give up": lambda c: workers.give_up(c, 1, NOW + timedelta(seconds=6)),
    "who was struck off": workers.struck_off,
    "release deliveries": lambda c: deliveries.release(c, [WORKER, WORKER + 1]),
    "release letters": lambda c: leases.release(c, [WORKER, WORKER + 1], NOW),
    # An issue, and what it stops
    "is there anybody": lambda c: recipients.has_readers(c, {**AUDIENCE, "language": "ko"}),
    "backlog": lambda c: deliveries.waiting(c, "x", Mode.LIVE, Lane.ROUTINE, 500),
    "find an issue": lambda c: issues.get(c, "m100"),
    "find a message": lambda c: messages.get(c, "m100"),
    "many messages": lambda c: messages.many(c, range(1, 17)),
    "hold an issue": lambda c: issues.held(c, 5),
    "end issues": lambda c: issues.end(c, ["m1", "m2"], by="m3", at=NOW),
    "stop deliveries": lambda c: deliveries.stop_waiting(c, [1, 2], at=NOW, detail=""),
    "unfinished mailings": lambda c: deliveries.unfinished_mailings(c, [1, 2]),
    "stop mailings": lambda c: deliveries.stop_mailings(c, [1, 2]),
    "stop letters": lambda c: recipients.stop_waiting(c, [OPEN], NOW),
    "write down an act": lambda c: audit.write(c, STAFF, "message.issued", "m1", at=NOW),
    "posts of the day": lambda c: deliveries.delivered_since(c, "x", Mode.LIVE, NOW),
    # The clock
    "due plans": lambda c: plans.due(c, NOW),
    "next plan": plans.next_due_at,
    "coming plans": lambda c: plans.issues_until(c, NOW, 1_000),
    "settle a plan": lambda c: plans.settle(c, plans.due(c, NOW)[0], at=NOW),
    "settle plans": lambda c: plans.settle_together(c, list(range(1, 17)), at=NOW),
    "plan it": lambda c: plans.add(c, key="expire/new", kind="expire", due_at=NOW),
    "written by staff": lambda c: messages.of_category(c, "c1", NOW, NOW + timedelta(days=1)),
    # The web process: boards, the API, leaving, reports
    "in force": lambda c: issues.in_force(c, Mode.LIVE, NOW),
    "newest issues": issues.newest,
    "newest issue": issues.newest_id,
    "newest messages": messages.newest,
    "to decide": deliveries.to_decide,
    "known request": lambda c: requests.find(c, "k0", b""),
    "token": lambda c: tokens.check(c, "bcast_live_t100_x", NOW),
    "reader": lambda c: subscribers.get(c, 100),
    "leave": lambda c: subscribers.leave(c, 100, 1),
    "report of a settled issue": lambda c: reports.of(c, "m100"),
    "report of a mailing under way": lambda c: reports.of(c, f"m{OPEN}"),
    "evidence": lambda c: recipients.evidence(c, OPEN),
    # The sent board, the report, decisions
    "what was done with a message": lambda c: audit.about(c, "m100"),
    "letters over time": lambda c: recipients.over_time(c, [5, 8, 11], NOW),
    "letters by domain": lambda c: recipients.by_domain(c, 5),
    "letters by district": lambda c: recipients.by_districts(c, [5, 8, 11]),
    "answers of mail servers": lambda c: recipients.answers(c, 5, State.FAILED),
    "letters again": lambda c: recipients.put_back(c, 5, [State.FAILED, State.UNKNOWN], NOW),
    "letters deemed delivered": lambda c: recipients.deem(c, 5, [State.UNKNOWN], State.DELIVERED, "", NOW),
    "as it was seen": lambda c: deliveries.holds(c, 30, State.FAILED, NOW),
    "a delivery again": lambda c: deliveries.put_back(c, 30, NOW, failed=1),
    "a decision": lambda c: deliveries.decide(c, 30, State.DELIVERED, at=NOW, detail="", moved={"failed": -1}),
    "attempts": lambda c: deliveries.attempts_of(c, 22),
}  # fmt: skip


@pytest.mark.parametrize("what", HOT)
def test_no_hot_path_reads_a_whole_table(years: Database, what: str) -> None:
    faults = scans_sqlite if years.is_sqlite else scans_postgresql
    for statement, parameters in statements_of(years, HOT[what]):
        with years.write() as connection:
            found = faults(connection, statement, parameters)
        assert not found, (statement, found)


def statements_of(database: Database, work: Callable[[Connection], object]) -> list[tuple[str, Any]]:
    """What is really sent to the database, with its values; nothing of it stays."""
    sent: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        if statement.split()[0] in ("SELECT", "UPDATE", "INSERT", "DELETE", "WITH") and "pg_advisory" not in statement:
            sent.append((statement, parameters[0] if many else parameters))

    with database.write() as connection:
        event.listen(connection, "before_cursor_execute", note)
        work(connection)
        event.remove(connection, "before_cursor_execute", note)
        connection.rollback()
    assert sent, "it asked nothing"
    return sent


def scans_sqlite(connection: Connection, statement: str, parameters: Any) -> list[str]:
    """Steps that go through the whole of a big table, or of an index that is not a partial one."""
    steps = [row[-1] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]
    if "LIMIT" in statement and "WHERE" not in statement and not any("TEMP B-TREE" in step for step in steps):
        return []  # the first few in the order of an index
    partial = {index.name for name in BIG for index in metadata.tables[name].indexes if is_partial(index, "sqlite")}
    return [
        step
        for step in steps
        if "AUTOMATIC" in step
        or (step.startswith("SCAN") and step.split()[1] in NAMES and not set(step.split()) & partial)
    ]


NAMES = (*BIG, "r", "before")
"""As they are called in statements."""


def is_partial(index: Index, dialect: str) -> bool:
    return index.dialect_options[dialect].get("where") is not None


def scans_postgresql(connection: Connection, statement: str, parameters: Any) -> list[str]:
    """The same, of the plan for these values and of the one for any values, which a prepared statement may get."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    with psycopg.ClientCursor(driver) as cursor:
        made = cursor.execute(f"EXPLAIN (FORMAT JSON) {statement}", parameters).fetchone()
        general = cursor.execute(f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {numbered(statement, parameters)}").fetchone()
    assert made is not None
    assert general is not None
    return [fault for plan in (made, general) for fault in whole_tables(plan[0][0]["Plan"])]


def numbered(statement: str, parameters: Any) -> str:
    """As PostgreSQL prepares it: the driver tells it the types of numbers and of lists."""
    for number, (name, value) in enumerate(parameters.items(), start=1):
        statement = statement.replace(f"%({name})s", f"${number}{TYPES.get(type(value), '')}")
    return statement.replace("%%", "%")


TYPES = {int: "::bigint", list: "::bigint[]"}


def whole_tables(node: dict[str, Any], *, is_bounded: bool = False) -> Iterator[str]:
    """`is_bounded`: only the first few are read, in the order of an index."""
    kind, table = node["Node Type"], node.get("Relation Name")
    if table in BIG:
        used = next((index for index in metadata.tables[table].indexes if index.name == node.get("Index Name")), None)
        along = "Index Cond" in node or (used is not None and is_partial(used, "postgresql"))
        in_order = is_bounded and kind.startswith("Index") and "Filter" not in node
        if kind == "Seq Scan" or (kind.startswith("Index") and not along and not in_order):
            yield f"{kind} {table} {node.get('Index Name', '')} {node.get('Filter', '')}"
    bounded = kind == "Limit" or (is_bounded and kind not in ("Sort", "Aggregate", "HashAggregate"))
    for below in node.get("Plans", ()):
        yield from whole_tables(below, is_bounded=bounded)


def test_a_plan_exists_once_and_is_settled_once(database: Database) -> None:
    with database.write() as connection:
        assert plans.add(connection, key="a", kind="routine", due_at=NOW)
        assert not plans.add(connection, key="a", kind="routine", due_at=NOW)
        plan = plans.due(connection, NOW)[0]
        assert plans.settle(connection, plan, at=NOW)
        assert not plans.settle(connection, plan, at=NOW)
        assert plans.due(connection, NOW) == []


def test_two_who_move_one_message_have_one_winner(database: Database, settings: Settings) -> None:
    from broadcaster.lifecycle import Move

    with database.write() as connection:
        kept = messages.add(connection, a_notice(settings), by="staff", at=NOW)
        messages.move(connection, kept, Move.SUBMIT)
        with pytest.raises(messages.ChangedMeanwhile):
            messages.move(connection, kept, Move.SUBMIT)


def test_the_record_is_chained_and_a_fault_is_named(database: Database) -> None:
    with database.write() as connection:
        for number in range(20):
            audit.write(connection, STAFF, "message.issued", f"m{number}", at=NOW, words="文")
    with database.read() as connection:
        assert audit.first_fault(connection) is None
    with pytest.raises(Exception, match=r"only added to|never changes"), database.write() as connection:
        connection.exec_driver_sql("UPDATE audit SET actor = 'nobody' WHERE seq = 7")
    with database.write() as connection:
        drop = "DROP TRIGGER audit_no_update" if database.is_sqlite else "DROP TRIGGER audit_is_only_added_to ON audit"
        connection.exec_driver_sql(drop)
        connection.exec_driver_sql("UPDATE audit SET actor = 'nobody' WHERE seq = 7")
    with database.read() as connection:
        assert audit.first_fault(connection) == 7


def test_a_token_is_shown_once_and_kept_as_a_hash(database: Database) -> None:
    with database.write() as connection:
        shown = tokens.create(connection, name="desk", role=Role.DUTY, mode=Mode.DRILL, now=NOW)
    assert shown.startswith("bcast_drill_")
    with database.write() as connection:
        token = tokens.check(connection, shown, NOW)
        assert token is not None
        assert (token.role, token.mode) == (Role.DUTY, Mode.DRILL)
        for wrong in (shown[:-1], shown + "x", shown.replace("drill", "live"), "", "bcast_drill_x_y", shown.swapcase()):
            assert tokens.check(connection, wrong, NOW) is None
        assert tokens.check(connection, shown, NOW + timedelta(days=366)) is None
        tokens.revoke(connection, token.id, NOW)
        assert tokens.check(connection, shown, NOW) is None
        rows = connection.exec_driver_sql("SELECT * FROM tokens").all()
    assert shown.split("_")[3] not in str(rows)


def test_a_reader_who_leaves_one_topic_keeps_the_others(database: Database) -> None:
    readers(database, 1, topics=0b11)
    with database.write() as connection:
        assert subscribers.leave(connection, 1, 0b01)
        assert not subscribers.leave(connection, 1, 0b01)
        reader = subscribers.get(connection, 1)
        assert reader is not None
        assert (reader.topics, reader.state) == (0b10, "active")
        subscribers.leave(connection, 1, 0b10)
        left = subscribers.get(connection, 1)
        assert left is not None
        assert left.state == "left"


def test_a_request_is_known_by_its_own_key(database: Database) -> None:
    key = requests.key_of("token", "key")
    with database.write() as connection:
        assert requests.find(connection, key, b"body") is None
        requests.keep(connection, key, b"body", "13109-x", NOW)
        assert requests.find(connection, key, b"body") == "13109-x"
        with pytest.raises(requests.KeyUsedForAnother):
            requests.find(connection, key, b"another body")


def test_a_silent_worker_is_given_up_and_told_so(database: Database) -> None:
    lasts = timedelta(seconds=6)
    with database.write() as connection:
        id = workers.enlist(connection, role="sender", pid=1, now=NOW, lasts=lasts)
        assert workers.beat(connection, id, now=NOW + lasts / 2, lasts=lasts)
        assert workers.beat(connection, id, now=NOW + lasts * 9, lasts=lasts), "late is not dead"
        assert not workers.give_up(connection, id, NOW + lasts * 2), "it has said something since"
        assert workers.give_up(connection, id, NOW + lasts * 10)
        assert not workers.beat(connection, id, now=NOW + lasts * 10, lasts=lasts)
        assert workers.beats(connection) == {}
        assert workers.enlist(connection, role="sender", pid=1, now=NOW, lasts=lasts) != id, "no number comes back"


@pytest.mark.parametrize("url", ["mysql://x/y", "nonsense", "sqlite:////proc/none/x.db"])
def test_a_wrong_database_url_gets_a_sentence(url: str) -> None:
    with pytest.raises(Refused) as refused:
        Database(url)
    assert refused.value.problems[0].ja.endswith("。")


def test_a_server_that_does_not_answer_gets_a_sentence_without_the_password() -> None:
    database = Database("postgresql://someone:geheim@127.0.0.1:1/none")
    with pytest.raises(Refused) as refused:
        database.upgrade()
    assert "geheim" not in str(refused.value)
