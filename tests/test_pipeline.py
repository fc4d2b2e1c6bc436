"""The way of a message, with channels in memory and a real database."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from broadcaster.channel import ChannelClosed, Outcome, PermanentFailure, Receipt, TemporaryFailure
from broadcaster.delivery import State
from broadcaster.lifecycle import State as Life
from broadcaster.message import Change, Mode
from broadcaster.problems import Refused
from broadcaster.settings import Settings
from broadcaster.store import deliveries, issues, messages, recipients, workers
from broadcaster.worker import LOOKS, Sweeper
from tests.house import OWN_MEDIA, STAFF, House, a_house, alert, notice
from tests.makers import an_alert
from tests.strangers import refused


@pytest.fixture
def house(settings: Settings, tmp_path: Path, database_url: str) -> Iterator[House]:
    with a_house(settings, tmp_path, url=database_url) as house:
        yield house


async def test_a_notice_reaches_every_medium_and_every_reader_once(house: House) -> None:
    house.readers(30)
    kept = house.issues(notice(house))
    await house.sends(kept.message.identifier)
    assert kept.state is Life.ISSUED
    assert set(house.states(kept.message.identifier).values()) == {State.DELIVERED}
    assert len({letter.key for letter in house.carrier.landed}) == len(house.carrier.landed) == 30
    assert house.billboard.shown == [f"{kept.message.identifier}/billboard/1"]
    assert kept.message.info.headline in house.noticeboard.pages["noticeboard.txt"]
    assert house.counts(kept.message.identifier).adds_up


async def test_readers_get_the_words_of_their_language_and_format(house: House) -> None:
    house.readers(3, language="ko", format="html")
    kept = house.issues(alert(house))
    await house.sends(kept.message.identifier)
    assert {letter.part for letter in house.carrier.landed} == {"ko.html"}


async def test_a_district_reaches_its_readers_and_those_of_the_whole_ward_only(house: House) -> None:
    bit = next(d.bit for d in house.settings.ward.districts if d.code == "D03")
    other = next(d.bit for d in house.settings.ward.districts if d.code == "D13")
    house.readers(2, districts=1 << bit, domain="near.example")
    house.readers(3, districts=1 << other, domain="far.example")
    house.readers(4, districts=1, domain="whole.example")
    kept = house.issues(alert(house, "E04"))
    await house.sends(kept.message.identifier)
    assert house.counts(kept.message.identifier).total == 6


async def test_the_ledger_says_what_the_mail_server_answered(house: House) -> None:
    house.readers(5)
    house.carrier.outcome = lambda letter: (
        refused("550 user unknown")
        if letter.address.startswith("reader-3")
        else Outcome(receipt=Receipt(evidence="250 ok"))
    )
    kept = house.issues(notice(house))
    await house.sends(kept.message.identifier)
    with house.database.read() as connection:
        issue = issues.get(connection, kept.message.identifier)
        assert issue
        mailing = next(d for d in deliveries.of_issue(connection, issue.id) if d.part == "ja.text")
        rows = recipients.evidence(connection, mailing.id)
    failed = [row for row in rows if row.state is State.FAILED]
    assert [row.reply for row in failed] == ["RCPT: 550 user unknown"]
    assert all(row.settled_at for row in rows)


async def test_a_temporary_failure_is_tried_again(house: House) -> None:
    house.billboard.failures = [TemporaryFailure("not now")]
    kept = house.issues(alert(house))
    await house.sends(kept.message.identifier)
    assert house.states(kept.message.identifier)["billboard/1"] is State.DELIVERED
    with house.database.read() as connection:
        issue = issues.get(connection, kept.message.identifier)
        assert issue
        delivery = next(d for d in deliveries.of_issue(connection, issue.id) if d.channel == "billboard")
        tries = deliveries.attempts_of(connection, delivery.id)
    assert [attempt.state for attempt in tries] == [State.QUEUED, State.DELIVERED]


async def test_a_permanent_failure_is_not(house: House) -> None:
    house.billboard.failures = [PermanentFailure("never")]
    kept = house.issues(notice(house))
    await house.sends(kept.message.identifier)
    assert house.states(kept.message.identifier)["billboard/1"] is State.FAILED
    assert house.billboard.shown == []


async def test_a_post_whose_outcome_is_unknown_is_looked_up_and_never_repeated(house: House) -> None:
    house.billboard.drops = 1
    kept = house.issues(alert(house))
    await house.sends(kept.message.identifier)
    assert len(house.billboard.shown) == 1
    assert house.states(kept.message.identifier)["billboard/1"] is State.DELIVERED


async def test_one_hung_medium_holds_up_no_other(house: House) -> None:
    house.readers(10)
    house.billboard.gate = asyncio.Event()
    kept = house.issues(notice(house))
    async with house.sender():
        async with asyncio.timeout(10):
            while len(house.carrier.landed) < 10 or not house.noticeboard.pages:
                await asyncio.sleep(0.01)
        house.billboard.gate.set()
        await house.until_settled(kept.message.identifier)


async def test_a_hung_routine_post_does_not_hold_up_an_alert_on_the_same_medium(house: House) -> None:
    gate = asyncio.Event()
    house.billboard.gate = gate
    routine = house.issues(notice(house))
    async with house.sender():
        async with asyncio.timeout(10):
            while not house.billboard.at_gate:
                await asyncio.sleep(0.01)
        house.billboard.gate = None
        urgent = house.issues(alert(house))
        await house.until_settled(urgent.message.identifier)
        assert house.billboard.shown == [f"{urgent.message.identifier}/billboard/1"]
        gate.set()
        await house.until_settled(routine.message.identifier)


async def test_an_alert_overtakes_a_bulk_send_at_the_grain_of_one_letter(house: House) -> None:
    house.readers(2_000)
    house.carrier.gate = asyncio.Event()
    bulk = house.issues(notice(house))
    async with house.sender():
        async with asyncio.timeout(10):
            while house.carrier.at_gate < house.carrier.lines:
                await asyncio.sleep(0.01)
        urgent = house.issues(alert(house, "E08"))
        await asyncio.sleep(0.2)
        house.carrier.gate.set()
        await house.until_settled(bulk.message.identifier, urgent.message.identifier)
    with house.database.read() as connection:
        issue = issues.get(connection, urgent.message.identifier)
        assert issue
    order = [letter.issue == issue.id for letter in house.carrier.landed]
    last_urgent = len(order) - 1 - order[::-1].index(True)
    assert order[: last_urgent + 1].count(False) <= 2 * house.carrier.lines, "only what was on the wire went before"


async def test_a_cancel_in_flight_stops_the_unsent_remainder_exactly(house: House) -> None:
    house.readers(3_000)
    kept = house.issues(notice(house))
    async with house.sender():
        async with asyncio.timeout(10):
            while len(house.carrier.landed) < 500:
                await asyncio.sleep(0)
        cancelled = house.pipeline.change(kept.message.identifier, Change.CANCEL, STAFF)
        await house.until_settled(kept.message.identifier, cancelled.message.identifier)
    counts, after = house.counts(kept.message.identifier), house.counts(cancelled.message.identifier)
    assert counts.total == 3_000
    assert counts.adds_up
    assert counts.delivered + counts.stopped == 3_000
    assert counts.stopped > 0
    assert after.total == after.delivered == counts.delivered, "everyone who has it is told, and nobody else"
    assert kept.message.info.headline not in house.noticeboard.pages["noticeboard.txt"]
    assert house.billboard.retracted == ["wall 1"]


async def test_a_correction_goes_to_the_same_readers_and_takes_the_wrong_post_back(house: House) -> None:
    house.readers(20)
    kept = house.issues(alert(house, "E08"))
    await house.sends(kept.message.identifier)
    corrected = house.pipeline.change(kept.message.identifier, Change.CORRECTION, STAFF, line="時刻がちがいました。")
    await house.sends(corrected.message.identifier)
    assert corrected.message.references[-1].identifier == kept.message.identifier
    assert house.counts(corrected.message.identifier).delivered == 20
    assert house.billboard.retracted == ["wall 1"]
    assert "【訂正】" in house.noticeboard.pages["noticeboard.txt"]
    with house.database.read() as connection:
        first = messages.get(connection, kept.message.identifier)
    assert first is not None
    assert first.state is Life.UPDATED


async def test_what_was_replaced_cannot_be_changed_again(house: House) -> None:
    kept = house.issues(alert(house))
    house.pipeline.change(kept.message.identifier, Change.ALL_CLEAR, STAFF)
    with pytest.raises(Refused, match="replaced"):
        house.pipeline.change(kept.message.identifier, Change.CANCEL, STAFF)


async def test_an_alert_that_is_being_retried_does_not_leave_after_its_cancel(house: House) -> None:
    house.billboard.failures = [TemporaryFailure("not now")] * 2
    kept = house.issues(alert(house))
    async with house.sender():
        async with asyncio.timeout(10):
            while house.billboard.failures:
                await asyncio.sleep(0.01)
                if len(house.billboard.failures) == 1:
                    break
        cancelled = house.pipeline.change(kept.message.identifier, Change.CANCEL, STAFF)
        await house.until_settled(kept.message.identifier, cancelled.message.identifier)
    assert f"{kept.message.identifier}/billboard/1" not in house.billboard.shown
    assert house.states(kept.message.identifier)["billboard/1"] is State.STOPPED


async def test_a_drill_reaches_drill_channels_and_drill_readers_only(house: House) -> None:
    house.readers(5)
    house.readers(2, is_drill=True, domain="staff.example")
    drill = replace(an_alert(house.settings, mode=Mode.DRILL, now=house.clock.now(), channels=OWN_MEDIA), sent_at=None)
    kept = house.issues(drill)
    await house.sends(kept.message.identifier)
    assert house.carrier.landed == []
    assert house.billboard.shown == []
    assert house.noticeboard.pages == {}
    assert len(house.channels[Mode.DRILL]["carrier"].landed) == 2
    assert "訓練" in house.channels[Mode.DRILL]["noticeboard"].pages["noticeboard.txt"]


def test_a_process_whose_channels_are_mixed_up_does_not_start(house: House) -> None:
    house.channels[Mode.DRILL]["billboard"] = house.billboard  # a mistake in the wiring
    with pytest.raises(ValueError, match="live stands among those of drill"):
        house.another_pipeline()


async def test_a_channel_of_the_other_mode_is_refused_at_the_last_moment_too(house: House) -> None:
    drill = replace(an_alert(house.settings, mode=Mode.DRILL, now=house.clock.now(), channels=OWN_MEDIA), sent_at=None)
    kept = house.issues(drill)
    house.channels[Mode.DRILL]["billboard"] = house.billboard
    with house.database.read() as connection:
        issue = issues.get(connection, kept.message.identifier)
        assert issue
        delivery = next(d for d in deliveries.of_issue(connection, issue.id) if d.channel == "billboard")
    tried = await house.pipeline.attempt(delivery)
    assert tried.state is State.FAILED
    assert house.billboard.shown == []


async def test_work_of_a_dead_worker_is_taken_up_with_the_same_key(house: House) -> None:
    house.readers(10)
    kept = house.issues(notice(house))
    now = house.clock.now()
    with house.database.write() as connection:
        worker = workers.enlist(connection, role="sender", pid=1, now=now, lasts=timedelta(seconds=6))
        issue = issues.get(connection, kept.message.identifier)
        assert issue
        mailing = next(d for d in deliveries.of_issue(connection, issue.id) if d.part == "ja.text")
        assert len(recipients.claim(connection, mailing.id, worker=worker, now=now, limit=4).letters) == 4
        sweeper = Sweeper()
        assert [sweeper.sweep(connection, now) for _ in range(LOOKS + 1)] == [0] * LOOKS + [4]
    await house.sends(kept.message.identifier)
    assert len(house.carrier.landed) == 10


async def test_a_hanging_mail_domain_changes_nothing_for_the_others(house: House) -> None:
    house.readers(400)
    house.carrier.hung_domains = frozenset({"mail-1.example"})
    house.issues(notice(house))
    async with house.sender():
        async with asyncio.timeout(20):
            while len(house.carrier.landed) < 320:
                await asyncio.sleep(0.01)


async def test_a_notice_for_later_waits(house: House) -> None:
    later = house.clock.now() + timedelta(hours=1)
    kept = house.issues(notice(house, effective_at=later))
    assert kept.state is Life.SCHEDULED
    with house.database.read() as connection:
        assert issues.get(connection, kept.message.identifier) is None


def test_a_past_expiry_is_refused_and_nothing_is_kept(house: House) -> None:
    now = house.clock.now()
    with pytest.raises(Refused):
        house.issues(notice(house, effective_at=now - timedelta(days=2), expires_at=now - timedelta(days=1)))
    with house.database.read() as connection:
        assert not messages.newest(connection)


def test_two_approvals_have_one_winner(house: House) -> None:
    kept = house.pipeline.propose(notice(house), STAFF)
    house.pipeline.approve(kept.message.identifier, replace(STAFF, name="one"))
    with pytest.raises(Exception, match="approve"):
        house.pipeline.approve(kept.message.identifier, replace(STAFF, name="two"))


async def test_a_closed_channel_waits_for_a_person_and_then_goes_on(house: House) -> None:
    house.billboard.failures = [ChannelClosed("the key was refused")]
    kept = house.issues(alert(house))
    await house.sends(kept.message.identifier)
    assert house.states(kept.message.identifier)["billboard/1"] is State.DELIVERED


def test_the_database_itself_refuses_to_change_a_mode(house: House) -> None:
    house.issues(notice(house))
    with pytest.raises(Exception, match="never changes"), house.database.write() as connection:
        connection.exec_driver_sql("UPDATE messages SET mode = 'drill'")
