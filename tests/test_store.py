"""The store, on both databases: one contract."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import insert, text

from broadcaster.delivery import Lane, State
from broadcaster.message import Mode
from broadcaster.problems import Refused
from broadcaster.settings import Settings
from broadcaster.store import (
    audit,
    deliveries,
    issues,
    messages,
    plans,
    recipients,
    requests,
    subscribers,
    tokens,
    workers,
)
from broadcaster.store.audit import Actor
from broadcaster.store.database import Database
from broadcaster.store.tables import metadata, microseconds
from broadcaster.store.tables import recipients as recipient_rows
from tests.makers import NOW, a_notice

STAFF = Actor(name="staff", via="cli")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    database.upgrade()
    yield database
    database.close()


def readers(database: Database, number: int, **columns: object) -> None:
    rows = [
        {
            "email": f"reader-{n}@mail.example",
            "domain": "mail.example",
            "language": "ja",
            "format": "text",
            "topics": 63,
            "districts": 1,
            "frequency": "at_once",
            "registered_at": NOW,
            "method": "form",
            "state": "active",
            **columns,
        }
        for n in range(number)
    ]
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
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_a_second_upgrade_changes_nothing(database: Database) -> None:
    database.upgrade()
    assert database.is_current()


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
            taken += recipients.claim(connection, id, worker=worker, now=NOW, limit=20)
    assert len({letter.subscriber_id for letter in taken}) == len(taken) == 50


def test_a_worker_that_was_given_up_cannot_overwrite_its_successor(database: Database, settings: Settings) -> None:
    readers(database, 4)
    id = a_mailing(database, settings)
    with database.write() as connection:
        recipients.fan_out(connection, deliveries.get(connection, id), NOW)
        held = recipients.claim(connection, id, worker=1, now=NOW, limit=4)
        recipients.release(connection, [1], NOW)
        recipients.claim(connection, id, worker=2, now=NOW, limit=2)
        marks = [recipients.Mark(id, one.subscriber_id, State.DELIVERED, "250", NOW) for one in held]
        recipients.mark(connection, marks, worker=1, now=NOW)
        counts = recipients.counted(connection, id)
        assert (counts.delivered, counts.in_flight, counts.queued) == (0, 2, 2)
        recipients.mark(connection, marks[:2], worker=2, now=NOW)
        assert deliveries.get(connection, id).counts.delivered == 2


def test_counts_always_add_up(database: Database, settings: Settings) -> None:
    readers(database, 10)
    id = a_mailing(database, settings)
    ends = [State.DELIVERED, State.FAILED, State.UNKNOWN, State.QUEUED]
    with database.write() as connection:
        recipients.fan_out(connection, deliveries.get(connection, id), NOW)
        held = recipients.claim(connection, id, worker=1, now=NOW, limit=8)
        marks = [recipients.Mark(id, one.subscriber_id, ends[n % 4], "said", NOW) for n, one in enumerate(held)]
        recipients.mark(connection, marks, worker=1, now=NOW)
        deliveries.stop_mailings(connection, [deliveries.get(connection, id).issue_id])
        assert recipients.stop_waiting(connection, [id], NOW) == 4
        deliveries.finish_mailings(connection, [id], NOW)
        mailing = deliveries.get(connection, id)
        rows = recipients.counted(connection, id)
    assert mailing.counts.adds_up
    assert rows.adds_up
    assert (rows.delivered, rows.failed, rows.unknown, rows.stopped) == (2, 2, 2, 4)
    assert mailing.state is State.STOPPED


def test_no_hot_path_reads_a_whole_table(database: Database, settings: Settings) -> None:
    """The planner is asked, with enough rows that it has a choice."""
    readers(database, 2_000)
    id = a_mailing(database, settings)
    with database.write() as connection:
        recipients.fan_out(connection, deliveries.get(connection, id), NOW)
        history = [
            {
                "delivery_id": 10_000 + n // 500,
                "subscriber_id": n,
                "state": 2,
                "attempts": 1,
                "due_at": microseconds(NOW),
            }
            for n in range(20_000)
        ]
        connection.execute(insert(recipient_rows), history)
        for number in range(500):
            old = replace(a_notice(settings), identifier=f"13109-old-{number}")
            kept = messages.add(connection, old, by="staff", at=NOW)
            issues.freeze(connection, old, message_id=kept.id, lane=Lane.ROUTINE)
            issues.end(connection, [old.identifier], by="13109-new", at=NOW)
        connection.execute(text("ANALYZE"))
    with database.read() as connection:
        plans_of = {
            "claim letters": database.explain(connection, recipients.due_query(id, NOW, 400)),
            "take deliveries": database.explain(
                connection, deliveries.due_query("x", Mode.LIVE, Lane.PRIORITY, NOW, 1)
            ),
            "due plans": database.explain(connection, plans.due_query(NOW, 100)),
            "in force": database.explain(connection, issues.in_force_query(Mode.LIVE, NOW)),
            "who has it": database.explain(connection, recipients.reached_query({"of": [id]}, 0, 1_000)),
        }
        if database.is_sqlite:
            plans_of["audience"] = database.explain(connection, recipients.audience_query(AUDIENCE, 0, 1_000))
    for what, plan in plans_of.items():
        whole = [line for line in plan.splitlines() if line.strip().startswith("SCAN") and "USING" not in line]
        big = [line for line in plan.splitlines() if "Seq Scan on recipients" in line]
        assert not whole, (what, plan)
        assert not big, (what, plan)


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
        shown = tokens.create(connection, name="desk", role=tokens.Role.DUTY, mode=Mode.DRILL, now=NOW)
    assert shown.startswith("bcast_drill_")
    with database.write() as connection:
        token = tokens.check(connection, shown, NOW)
        assert token is not None
        assert (token.role, token.mode) == (tokens.Role.DUTY, Mode.DRILL)
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
        assert workers.dead(connection, NOW + lasts * 2) == [id]
        assert not workers.beat(connection, id, now=NOW + lasts * 2, lasts=lasts)
        workers.bury(connection, [id])
        assert workers.dead(connection, NOW + lasts * 2) == []


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
