"""Killed with -9: nobody is left out, and hardly anybody gets it twice.

Real processes, real SMTP, the shipped channels. The seeds choose when the blow falls.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from pathlib import Path

import pytest

from broadcaster.mailroom import UNRECORDED
from tests.makers import a_sample, an_alert
from tests.town import STAFF, Town, a_town

READERS = 1_500
LINES = 20


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
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_a_sender_killed_in_a_bulk_send_loses_nobody(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    with a_town(tmp_path) as town:
        town.readers(READERS)
        town.start("rehearsal")
        town.start("sender", "work", "--lane", "all")
        identifier = a_bulk(town)
        kills = 0
        for _ in range(2):
            enough = town.arrived() + dice.randrange(1, READERS // 3)
            await town.until(lambda enough=enough: town.arrived() >= min(enough, READERS))
            town.kill("sender")
            kills += 1
            town.start("sender", "work", "--lane", "all")
        await town.until_settled(identifier)
        counts, copies = town.counts(identifier), town.received()
    assert counts.delivered == READERS
    assert counts.adds_up
    assert len(copies) == READERS, "every reader's own Message-ID arrived"
    repeats = sum(copies.values()) - READERS
    assert repeats <= kills * (LINES + UNRECORDED), f"{repeats} repeats after {kills} kills"


@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", [4, 5])
async def test_a_sender_killed_in_an_alert_loses_nobody_on_any_medium(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    with a_town(tmp_path) as town:
        town.readers(READERS)
        town.start("rehearsal")
        town.start("sender", "work", "--lane", "all")
        bulk = a_bulk(town)
        await town.until(lambda: town.arrived() > 50)
        urgent = an_urgent(town)
        await asyncio.sleep(dice.random() * 0.3)
        town.kill("sender")
        town.start("sender", "work", "--lane", "all")
        await town.until_settled(bulk, urgent)
        copies = town.received()
        report = town.report(urgent)
        posts = [row for row in report["deliveries"] if row["channel"] == "x"]  # type: ignore[union-attr]
        x_posts = (town.home / "rehearsal" / "x" / "posts.json").read_text(encoding="utf-8")
    assert town.counts(urgent).delivered == town.counts(bulk).delivered == READERS
    assert len(copies) == 2 * READERS
    assert sum(copies.values()) - 2 * READERS <= LINES + UNRECORDED
    assert all(row["state"] == "delivered" for row in posts)
    assert x_posts.count('"deleted_at"') == len(posts), "no post stands twice"


@pytest.mark.timeout(120)
async def test_a_web_process_or_scheduler_that_dies_stops_no_send(tmp_path: Path) -> None:
    with a_town(tmp_path) as town:
        town.readers(300)
        town.start("rehearsal")
        town.start("sender", "work", "--lane", "all")
        town.start("scheduler", "schedule")
        town.start("web", "web", "--port", "0")
        identifier = a_bulk(town)
        town.kill("web")
        town.kill("scheduler")
        await town.until_settled(identifier)
    assert town.counts(identifier).delivered == 300
