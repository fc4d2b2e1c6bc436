"""What is not kept for ever: who got which mail goes after its time, how many stays; nothing else is touched."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from broadcaster.clock import FrozenClock
from broadcaster.scheduler import Scheduler
from broadcaster.store import audit, deliveries, drafts, retention
from broadcaster.store.database import Database
from broadcaster.store.tables import deliveries as deliveries_table
from broadcaster.store.tables import draft_versions, recipients
from tests.desk import an_app
from tests.house import STAFF
from tests.makers import NOW, a_notice

READERS = 30
RULES = retention.Rules(evidence=timedelta(days=90), discarded=timedelta(days=30), staff_mails=timedelta(days=90))


def rows(database: Database) -> int:
    with database.read() as connection:
        return connection.execute(select(func.count()).select_from(recipients)).scalar_one()


async def test_evidence_goes_after_its_time_and_the_counts_stay(tmp_path: Path, database_url: str) -> None:
    clock = FrozenClock(NOW)
    app = an_app(tmp_path, clock=clock, url=database_url)
    try:
        from tests.desk import DeskUnderTest

        DeskUnderTest(app=app).readers(READERS)
        for number in range(2):
            notice = replace(a_notice(app.settings, identifier=f"13109-{number}"), sent_at=None, channels=("email",))
            app.pipeline.hand_in(notice, STAFF)
        with app.database.write() as connection:  # the first was settled long ago, the second lately
            mailings = select(deliveries_table.c.id).where(deliveries_table.c.total == READERS)
            first, second = connection.execute(mailings.order_by(deliveries_table.c.id)).scalars()
            for id, days in ((first, 91), (second, 89)):
                settled = NOW - timedelta(days=days)
                values = {"settled_at": settled, "state": 2, "delivered": READERS}
                connection.execute(update(deliveries_table).where(deliveries_table.c.id == id).values(values))
            others = deliveries_table.c.id.notin_([first, second])
            connection.execute(update(deliveries_table).where(others).values(settled_at=NOW - timedelta(days=91)))
        assert rows(app.database) == 2 * READERS
        removed = Scheduler(app.pipeline, app.settings).tidy()
        assert removed.evidence == READERS
        assert rows(app.database) == READERS
        with app.database.read() as connection:
            assert deliveries.get(connection, first).counts.delivered == READERS
            assert audit.entries(connection)[-1].act == "retention.swept"
        assert Scheduler(app.pipeline, app.settings).tidy().is_nothing
        clock.move(timedelta(days=2))
        assert Scheduler(app.pipeline, app.settings).tidy().evidence == READERS
    finally:
        await app.close()


@pytest.mark.parametrize(("days", "is_kept"), [(29, True), (31, False)])
async def test_a_discarded_draft_goes_after_thirty_days(tmp_path: Path, days: int, is_kept: bool) -> None:
    app = an_app(tmp_path, clock=FrozenClock(NOW))
    try:
        with app.database.write() as connection:
            draft = drafts.add(connection, {"title": "下書き"}, by="writer", at=NOW - timedelta(days=40))
            kept = drafts.add(connection, {"title": "書きかけ"}, by="writer", at=NOW - timedelta(days=400))
            drafts.discard(connection, draft, NOW - timedelta(days=days))
        retention.sweep(app.database, RULES, NOW)
        with app.database.read() as connection:
            assert (drafts.get(connection, draft.id) is not None) is is_kept
            assert drafts.get(connection, kept.id) is not None  # nobody has put it away
            versions = connection.execute(select(func.count()).select_from(draft_versions)).scalar_one()
        assert versions == (2 if is_kept else 1)
    finally:
        await app.close()
