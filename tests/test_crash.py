"""Killed with -9: nobody is left out, and hardly anybody gets it twice.

The plain case first, with the command as an operator starts it; then one seed of every step of the crash matrix on both
databases (`make chaos` runs more of them, docs/chaos.md tells which).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import insert, update

from broadcaster import boards
from broadcaster.boards import PublicFolder
from broadcaster.channel import Page
from broadcaster.delivery import State
from broadcaster.message import Mode
from broadcaster.rehearsal import town as standins
from broadcaster.store import tables
from tests.chaos import Outcome, Places, carry_out
from tests.chaos_checks import Watch
from tests.chaos_process import resolve
from tests.chaos_run import DATABASES, MOST_REPEATS, Run
from tests.chaos_steps import NAMED, STEPS
from tests.makers import a_sample, an_alert
from tests.town import STAFF, Town, a_town

pytestmark = pytest.mark.xdist_group("crash")

SEED = 1
AT_ONCE = 8
"""Towns at the same time: a killed sender's work lies still for some seconds, so most of them wait."""

READERS = 1_500


def a_bulk(town: Town) -> str:
    now = town.app.clock.now()
    notice = a_sample(town.app.settings, "N05", now=now)
    bulk = replace(notice, images=(), channels=("email", "rss"), sent_at=None, identifier=f"13109-bulk-{now:%H%M%S%f}")
    return town.app.pipeline.hand_in(bulk, STAFF).message.identifier


def an_urgent(town: Town) -> str:
    now = town.app.clock.now()
    alert = replace(
        an_alert(town.app.settings, "E08", now=now), sent_at=None, identifier=f"13109-urgent-{now:%H%M%S%f}"
    )
    return town.app.pipeline.hand_in(alert, STAFF).message.identifier


@pytest.mark.timeout(180)
async def test_a_sender_killed_in_an_alert_loses_nobody_on_any_medium(tmp_path: Path) -> None:
    with a_town(tmp_path) as town:
        town.readers(READERS)
        town.start("rehearsal")
        town.start("sender", "work", "--lane", "all")
        bulk = a_bulk(town)
        await town.until(lambda: town.arrived() > 50)
        urgent = an_urgent(town)
        await town.until(lambda: town.counts(urgent).delivered > 100)
        town.kill("sender")
        town.start("sender", "work", "--lane", "all")
        await town.until_settled(bulk, urgent)
        copies = town.received()
        report = town.report(urgent)
        posts = [row for row in report["deliveries"] if row["channel"] == "x"]  # type: ignore[union-attr]
        x_posts = (town.home / "rehearsal" / "x" / "posts.json").read_text(encoding="utf-8")
    assert town.counts(urgent).delivered == town.counts(bulk).delivered == READERS
    assert len(copies) == 2 * READERS
    assert sum(copies.values()) - 2 * READERS <= MOST_REPEATS
    assert all(row["state"] == "delivered" for row in posts)
    assert x_posts.count('"deleted_at"') == len(posts), "no post stands twice"


@pytest.fixture(scope="module")
def matrix(request: pytest.FixtureRequest) -> Iterator[Mapping[tuple[str, str], Future[Outcome]]]:
    """The runs that were asked for, begun."""
    wanted = [
        (item.callspec.params["step"], item.callspec.params["database"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.module is request.module and hasattr(item, "callspec")
    ]
    with Places(postgres=request.getfixturevalue("postgres_server")) as places:
        pool = ThreadPoolExecutor(AT_ONCE)
        try:
            yield {run: pool.submit(places.run, *run, SEED) for run in wanted}
        finally:
            pool.shutdown(cancel_futures=True)


@pytest.mark.timeout(900)  # the whole sample may be waited for in the first of them
@pytest.mark.parametrize("database", DATABASES)
@pytest.mark.parametrize("step", NAMED)
def test_nothing_is_lost_whoever_is_killed_at_whatever_step(
    matrix: Mapping[tuple[str, str], Future[Outcome]], step: str, database: str
) -> None:
    outcome = matrix[step, database].result()
    assert not outcome.faults, str(outcome)
    assert outcome.kills, "somebody was killed"


@pytest.mark.timeout(180)
def test_a_run_that_went_wrong_is_told_from_one_that_went_well(tmp_path: Path) -> None:
    def spoil(run: Run, watch: Watch) -> None:
        mails = sorted((standins.mail_folder(run.town.home) / "new").iterdir())
        mails[0].unlink()
        for n in range(MOST_REPEATS + 1):  # of a letter that another reader has
            shutil.copy(mails[1], mails[1].with_name(f"{mails[1].name}-{n}"))
        posts = standins.x_folder(run.town.home) / "posts.json"
        posts.write_text(json.dumps([*json.loads(posts.read_text()), *json.loads(posts.read_text())]))
        page = boards.public_folder(run.town.home, Mode.LIVE) / "feeds" / "all.rss"
        page.write_bytes(page.read_bytes()[:100])
        watch.look()
        with run.town.app.database.write() as connection:
            r = tables.recipients.c
            connection.execute(update(tables.recipients).where(r.subscriber_id == 7).values(state=int(State.STOPPED)))
            forged = dict.fromkeys(("actor", "via", "act", "object", "mode", "detail", "hash"), "x")
            connection.execute(insert(tables.audit).values(seq=99, at=run.town.app.clock.now(), **forged))

    outcome = carry_out("issue.told", "sqlite", SEED, tmp_path, {}, spoil=spoil)
    for sentence in (
        "1 letters count as delivered and never arrived",
        "1 readers have it and the ledger says stopped",
        f"{MOST_REPEATS + 1} repeats after 0 killed senders",
        "2 posts at X, 1 in the ledger",
        "1 public files are not what a fresh composition gives",
        "1 public files held something that no board ever was",
        "rows Counts(",
        "the audit chain breaks at",
    ):
        assert any(sentence in fault for fault in outcome.faults), (sentence, outcome.faults)


def test_half_a_page_that_a_killed_process_left_is_taken_away_and_one_on_its_way_is_not(tmp_path: Path) -> None:
    old, young, foreign = tmp_path / ".all.rss.4711", tmp_path / ".all.rss.4712", tmp_path / ".htaccess"
    for path in (old, young, foreign):
        path.write_bytes(b"<rss")
    for path in (old, foreign):
        os.utime(path, (0, 0))
    PublicFolder(tmp_path).put(Page(path="all.rss", content_type="application/rss+xml", body=b"<rss/>"))
    assert {path.name for path in tmp_path.iterdir()} == {young.name, foreign.name, "all.rss"}


def test_every_step_names_something_that_the_product_has() -> None:
    for step in STEPS:
        if step.at:
            resolve(step.at)
        for constant in step.settings:
            resolve(constant)
