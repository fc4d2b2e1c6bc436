"""A cancel in the middle of a large send, over real SMTP: what is not on the wire stays, and the counts add up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from broadcaster.message import Change
from tests.house import STAFF, a_rehearsal
from tests.makers import a_notice

READERS = 20_000
LINES = 10
ON_THE_WIRE = 2 * LINES
"""A line has one letter whose text is under way, and one whose envelope is."""


@pytest.mark.timeout(180)
@pytest.mark.parametrize("change", [Change.CANCEL, Change.UPDATE], ids=str)
async def test_after_the_stop_nothing_leaves_but_what_was_on_the_wire(
    tmp_path: Path, database_url: str, change: Change
) -> None:
    async with a_rehearsal(tmp_path, url=database_url, email={"lines": LINES}) as house:
        house.readers(READERS, districts=house.settings.ward.all_district_bits)
        bulk = a_notice(house.settings, now=house.clock.now(), channels=("email",), identifier="13109-bulk")
        kept = house.issues(replace(bulk, sent_at=None))
        async with house.sender():
            await house.until(lambda: house.arrived() >= 1_500)
            after = house.pipeline.change(kept.message.identifier, change, STAFF)
            at_the_stop = len(house.mails_of(kept.message.identifier))
            await house.until(lambda: house.is_settled(kept.message.identifier))
            if change is Change.CANCEL:
                await house.until_settled(after.message.identifier)
        mails, counts = house.mails_of(kept.message.identifier), house.counts(kept.message.identifier)
        told = house.mails_of(after.message.identifier)
        order = [m.message_id.startswith("<13109-bulk.") for m in house.mails()]
        cancelled = house.counts(after.message.identifier)
    assert counts.total == READERS
    assert counts.adds_up
    assert counts.delivered + counts.stopped + counts.failed + counts.unknown == READERS
    assert counts.delivered == len(mails) == sum(mails.values()), "the ledger says what was received"
    assert counts.stopped >= READERS / 2, "it came in the middle"
    late = len(mails) - at_the_stop
    assert late <= ON_THE_WIRE, f"{late} left after the stop"
    if change is Change.CANCEL:
        assert set(told) == set(mails), "whoever has it is told, and nobody else"
        assert cancelled.delivered == len(told)
        assert not any(order[order.index(False) :]), "and nobody is told before the last has left"
