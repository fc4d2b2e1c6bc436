"""A drill is a place: nothing that anybody does moves one to a live credential, and every output of one says 訓練."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sqlalchemy.exc import DBAPIError

from broadcaster import settings as configuration
from broadcaster.boards import DrillMarkMissing
from broadcaster.channel import DRILL_MARK, Payload
from broadcaster.delivery import Lane, State
from broadcaster.drill import watermarked
from broadcaster.message import Change, Message, Mode
from broadcaster.problems import Refused
from broadcaster.store import deliveries, issues, messages
from broadcaster.store.audit import Actor
from tests.house import STAFF, a_house
from tests.makers import a_notice, a_sample, an_alert, frozen_clock, sample_notices
from tests.strangers import Billboard

SETTINGS = configuration.load({"BROADCASTER_HOME": "unused"})
BOSS = Actor(name="boss", via="desk")


def unsent(message: Message) -> Message:
    return replace(message, sent_at=None)


def test_every_word_of_a_drill_is_marked_and_marking_twice_changes_nothing() -> None:
    drills = [an_alert(SETTINGS, id, mode=Mode.DRILL) for id in SETTINGS.presets]
    drills += [a_sample(SETTINGS, id, mode=Mode.DRILL) for id in sample_notices(SETTINGS)]
    for drill in drills:
        marked = watermarked(drill, SETTINGS.words)
        for info in marked.infos:
            for text in (info.headline, info.description, info.spoken, *info.display):
                assert DRILL_MARK in text, (drill.identifier, info.language)
        assert watermarked(marked, SETTINGS.words) == marked


def test_a_live_message_is_left_as_it_is() -> None:
    alert = an_alert(SETTINGS)
    assert watermarked(alert, SETTINGS.words) is alert


def test_a_process_with_credentials_in_the_wrong_place_does_not_start(tmp_path: Path) -> None:
    with a_house(SETTINGS, tmp_path) as house:
        house.channels[Mode.DRILL]["billboard"] = Billboard(mode=Mode.LIVE)
        with pytest.raises(ValueError, match="billboard"):
            house.another_pipeline()


def test_the_database_itself_refuses_to_change_a_mode(tmp_path: Path) -> None:
    with a_house(SETTINGS, tmp_path) as house:
        house.issues(unsent(an_alert(SETTINGS, mode=Mode.DRILL, channels=("billboard",), now=house.clock.now())))
        for table in ("messages", "issues", "deliveries"):
            with pytest.raises(DBAPIError), house.database.write() as connection:
                connection.exec_driver_sql(f"UPDATE {table} SET mode = 'live'")


def test_a_live_alert_that_speaks_of_a_drill_is_refused(tmp_path: Path) -> None:
    with a_house(SETTINGS, tmp_path) as house:
        alert = an_alert(SETTINGS, channels=("billboard",), now=house.clock.now())
        speaks = replace(alert, infos=tuple(replace(info, headline=f"訓練 {info.headline}") for info in alert.infos))
        with pytest.raises(Refused, match="speaks of a drill"):
            house.issues(unsent(speaks))


class Unmarked(Billboard):
    """A channel of somebody who forgot the words."""

    def compose(self, message: Message) -> Sequence[Payload]:
        return [replace(super().compose(message)[0], content={"text": "避難してください"})]


def test_a_channel_that_loses_the_mark_sends_nothing(tmp_path: Path) -> None:
    with a_house(SETTINGS, tmp_path) as house:
        house.channels[Mode.DRILL]["billboard"] = Unmarked(mode=Mode.DRILL)
        house.pipeline = house.another_pipeline()
        with pytest.raises(DrillMarkMissing):
            house.issues(unsent(an_alert(SETTINGS, mode=Mode.DRILL, channels=("billboard",), now=house.clock.now())))


MODES = strategies.sampled_from(list(Mode))
CHANGES = strategies.sampled_from(list(Change))
PRESETS = strategies.sampled_from([id for id, preset in SETTINGS.presets.items() if not preset.is_drill_only])
WHICH = strategies.integers(min_value=0, max_value=30)


class Town(RuleBasedStateMachine):
    """Everything that staff, the clock and a sender can do to messages of both places, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.house = self.stack.enter_context(a_house(SETTINGS, folder, clock=frozen_clock()))
        self.sent: list[str] = []
        self.waiting: list[str] = []

    def teardown(self) -> None:
        self.stack.close()

    def pick(self, names: list[str], which: int) -> str | None:
        return names[which % len(names)] if names else None

    @rule(mode=MODES, preset=PRESETS)
    def alerts(self, mode: Mode, preset: str) -> None:
        alert = an_alert(SETTINGS, preset, mode=mode, channels=("billboard", "noticeboard"))
        self.hand_in(replace(alert, identifier=f"13109-{len(self.sent)}-{preset}"))

    @rule(mode=MODES)
    def notices(self, mode: Mode) -> None:
        notice = a_notice(SETTINGS, mode=mode, channels=("billboard", "noticeboard"))
        self.hand_in(replace(notice, identifier=f"13109-{len(self.sent)}-notice"))

    def hand_in(self, message: Message) -> None:
        self.sent.append(self.house.issues(unsent(message)).message.identifier)

    @rule(mode=MODES)
    def proposes(self, mode: Mode) -> None:
        message = replace(
            an_alert(SETTINGS, mode=mode, channels=("billboard", "noticeboard")),
            identifier=f"13109-proposed-{len(self.sent)}-{len(self.waiting)}",
        )
        self.waiting.append(self.house.pipeline.propose(unsent(message), STAFF).message.identifier)

    @rule(which=WHICH)
    def approves(self, which: int) -> None:
        if identifier := self.pick(self.waiting, which):
            self.house.pipeline.approve(identifier, BOSS)
            self.waiting.remove(identifier)
            self.sent.append(identifier)

    @rule(which=WHICH, change=CHANGES, other=MODES)
    def changes(self, which: int, change: Change, other: Mode) -> None:
        """With new words of whichever mode: a drill cannot be renewed as the real thing."""
        if not (identifier := self.pick(self.sent, which)):
            return
        renewed = an_alert(SETTINGS, mode=other, channels=("billboard", "noticeboard"))
        with self.house.database.read() as connection:
            issue = issues.get(connection, identifier)
        assert issue is not None
        fits = issue.message.mode is other
        try:
            kept = self.house.pipeline.change(identifier, change, STAFF, renew=lambda _: renewed)
        except Refused:
            assert not fits or issue.ended_at is not None
            return
        assert fits
        self.sent.append(kept.message.identifier)

    @rule(which=WHICH)
    def expires(self, which: int) -> None:
        if identifier := self.pick(self.sent, which):
            with self.house.database.write() as connection:
                kept = messages.get(connection, identifier)
                assert kept is not None
                self.house.pipeline.expire(connection, kept, self.house.clock.now())

    @rule()
    def sends(self) -> None:
        asyncio.run(self.works())

    async def works(self) -> None:
        pipeline = self.house.pipeline
        for mode, named in self.house.channels.items():
            for name in named:
                for lane in Lane:
                    with self.house.database.write() as connection:
                        taken = deliveries.take_due(
                            connection, channel=name, mode=mode, lane=lane, worker=1, now=pipeline.clock.now(), limit=50
                        )
                    for delivery in taken:
                        tried = await pipeline.attempt(delivery)
                        assert tried.state in (State.DELIVERED, State.STOPPED)
                        with self.house.database.write() as connection:
                            pipeline.settle(connection, delivery, tried, pipeline.clock.now())

    @invariant()
    def each_place_holds_only_its_own(self) -> None:
        with self.house.database.read() as connection:
            for identifier in self.sent:
                issue = issues.get(connection, identifier)
                assert issue is not None
                for delivery in deliveries.of_issue(connection, issue.id):
                    assert delivery.mode is issue.message.mode
                    if issue.message.is_drill and delivery.payload is not None:
                        assert DRILL_MARK in json.dumps(dict(delivery.payload.content), ensure_ascii=False)
                for mode in Mode:
                    if mode is not issue.message.mode:
                        channels = self.house.channels[mode]
                        shown = (*channels["billboard"].shown, *channels["noticeboard"].pages.values())
                        assert not any(f"{identifier}/" in text or f"{identifier} " in text for text in shown)
        drill = self.house.channels[Mode.DRILL]["noticeboard"].pages
        assert all(DRILL_MARK in text for text in drill.values())
        live = self.house.channels[Mode.LIVE]["noticeboard"].pages
        assert not any(DRILL_MARK in text for text in live.values())


TestNoSequenceOfActsMovesADrill = Town.TestCase
TestNoSequenceOfActsMovesADrill.settings = settings(
    max_examples=40, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
