"""The clock. APScheduler is the only timer, the table of plans is the plan.

A job of APScheduler fires at the next due instant and on a slow tick besides; it carries nothing but "look". What is due
is read from the table, and whoever settles a row first carries it out in the same transaction: restart, clock jump and
two schedulers each give every run once, or a run marked *skipped, because …*. Nothing is sent after its expiry.

Why not a job for each notice: a job store of APScheduler pickles, must not be shared, and forgets what fell due while it
was down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.date import DateTrigger
from apscheduler.triggers.interval import IntervalTrigger

from broadcaster import almanac, manuscript
from broadcaster.almanac import Almanac, Rule, Run
from broadcaster.clock import JST, local
from broadcaster.lifecycle import Move
from broadcaster.lifecycle import State as Life
from broadcaster.message import Message
from broadcaster.pipeline import Pipeline, Planned
from broadcaster.problems import Refused
from broadcaster.render import when
from broadcaster.settings import Settings
from broadcaster.signals import Wake
from broadcaster.slots import fill
from broadcaster.store import messages, meta, plans
from broadcaster.store.audit import Actor
from broadcaster.store.database import Connection, StoreError
from broadcaster.store.plans import Plan

log = structlog.get_logger(__name__)

TICK_S = 1.0
AHEAD = timedelta(days=8)
"""How far ahead the runs of the rules are written into the table, for people to see."""

HALF_A_DAY = timedelta(hours=12)
"""A notice that staff wrote for about this time stands for the rule's run."""

CLOCK = Actor(name="scheduler", via="rule")
_PLANNED_UNTIL = "routine_planned_until"


class Scheduler:
    def __init__(self, pipeline: Pipeline, settings: Settings) -> None:
        """Raises Refused for a rule that cannot be kept."""
        self.pipeline = pipeline
        self.settings = settings
        self.almanac: Almanac = almanac.load(settings.schedule)
        self._timer = AsyncIOScheduler(timezone=JST)
        self._look = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        wake = self.pipeline.signals.subscribe()
        self._timer.add_job(self._look.set, IntervalTrigger(seconds=TICK_S), id="tick", misfire_grace_time=None)
        self._timer.start()
        log.info("scheduler.started")
        listener = asyncio.create_task(self._listens(wake))
        try:
            while True:
                self._look.clear()
                await self._looks()
                await self._look.wait()
        finally:
            listener.cancel()
            self._timer.shutdown(wait=False)

    async def _listens(self, wake: Wake) -> None:
        while True:
            await wake.wait(3600)
            self._look.set()

    async def _looks(self) -> None:
        try:
            await asyncio.to_thread(self.carry_out)
            due_at = await self.pipeline.database.reads(plans.next_due_at)
        except StoreError:
            log.exception("scheduler.failed")
            return
        if due_at is not None:
            trigger = DateTrigger(max(due_at, self.pipeline.clock.now()))
            self._timer.add_job(self._look.set, trigger, id="due", replace_existing=True, misfire_grace_time=None)

    def carry_out(self) -> int:
        """Write ahead what the rules ask for, and do everything that is due; gives how much was settled."""
        self.write_ahead()
        settled = 0
        while batch := self._due():
            for plan in batch:
                settled += self._carry_out(plan)
        if settled:
            self.pipeline.signals.notify()
        return settled

    def _due(self) -> Sequence[Plan]:
        with self.pipeline.database.read() as connection:
            return plans.due(connection, self.pipeline.clock.now())

    # Rules

    def write_ahead(self) -> None:
        """Every run of every rule up to now and a week on, once. What fell due while nobody was there is among them."""
        now = self.pipeline.clock.now()
        until = now + AHEAD
        with self.pipeline.database.read() as connection:
            known = meta.get(connection, _PLANNED_UNTIL)
        since = datetime.fromisoformat(known) if known else now
        if until - since < AHEAD / 8:
            return
        with self.pipeline.database.write() as connection:
            for rule in self.almanac.rules:
                if not rule.by_hand:
                    for run in self.almanac.runs(rule, since, until):
                        self._write_run(connection, rule, run, now)
            meta.put(connection, _PLANNED_UNTIL, until.isoformat())

    def _write_run(self, connection: Connection, rule: Rule, run: Run, now: datetime) -> None:
        plans.add(
            connection,
            key=run.key,
            kind=plans.ROUTINE,
            due_at=run.planned_at,
            rule=rule.id,
            skipped=run.skipped.ja if run.skipped else "",
            reason=run.shifted.ja if run.shifted else "",
            at=now,
        )

    # What is due

    def _carry_out(self, plan: Plan) -> bool:
        """Settle one plan. False when another scheduler was faster."""
        try:
            if plan.kind == plans.ISSUE:
                return self._issue(plan)
            if plan.kind == plans.EXPIRE:
                return self._expire(plan)
            return self._routine(plan)
        except Refused as refused:
            reason = "；".join(problem.ja for problem in refused.problems)
            return self._skip(plan, reason)

    def _skip(self, plan: Plan, reason: str) -> bool:
        now = self.pipeline.clock.now()
        with self.pipeline.database.write() as connection:
            if not plans.settle(connection, plan, at=now, skipped=f"{plan.reason}{reason}"):
                return False
            if plan.message_id is not None:
                kept = messages.by_id(connection, plan.message_id)
                if kept.state is Life.SCHEDULED:
                    messages.move(connection, kept, Move.SKIP)
        log.warning("plan.skipped", key=plan.key, reason=reason)
        return True

    def _issue(self, plan: Plan) -> bool:
        assert plan.message_id is not None
        with self.pipeline.database.read() as connection:
            kept = messages.by_id(connection, plan.message_id)
        now = self.pipeline.clock.now()
        if kept.state is not Life.SCHEDULED:
            return self._skip(plan, f"予約ではなくなっていました（{kept.state}）。")
        if kept.message.expires_at <= now:
            return self._skip(plan, f"{when(kept.message.expires_at)}を過ぎたため、出しませんでした。")
        planned = self.pipeline.plan(kept.message)
        with self.pipeline.database.write() as connection:
            if not plans.settle(connection, plan, at=now):
                return False
            self.pipeline.put(connection, messages.by_id(connection, plan.message_id), CLOCK, planned)
        log.info("plan.done", key=plan.key)
        return True

    def _expire(self, plan: Plan) -> bool:
        assert plan.message_id is not None
        now = self.pipeline.clock.now()
        with self.pipeline.database.write() as connection:
            if not plans.settle(connection, plan, at=now):
                return False
            self.pipeline.expire(connection, messages.by_id(connection, plan.message_id), now)
        return True

    def _routine(self, plan: Plan) -> bool:
        rule = next((rule for rule in self.almanac.rules if rule.id == plan.rule), None)
        if rule is None:
            return self._skip(plan, "この決まりは設定からなくなりました。")
        now = self.pipeline.clock.now()
        if now > plan.due_at + timedelta(minutes=rule.late_minutes):
            return self._skip(plan, f"{when(plan.due_at)}に動いていなかったため、出しませんでした。")
        message = self._message_of(rule, plan)
        if message is None:
            return self._leave_to_staff(rule, plan)
        planned: Sequence[Planned] = self.pipeline.plan(message)
        with self.pipeline.database.write() as connection:
            if not plans.settle(connection, plan, at=now, reason=plan.reason):
                return False
            self.pipeline.hand_in_planned(connection, message, CLOCK, planned)
        log.info("plan.done", key=plan.key, rule=rule.id)
        return True

    def _leave_to_staff(self, rule: Rule, plan: Plan) -> bool:
        """A rule without words of its own: staff write the notice each time. Without one the run says so."""
        with self.pipeline.database.read() as connection:
            written = messages.of_category(
                connection, rule.category, plan.due_at - HALF_A_DAY, plan.due_at + HALF_A_DAY
            )
        if not written:
            return self._skip(plan, "出す文が用意されていません。")
        reason = f"{plan.reason}職員の原稿 {written[0].message.identifier} で出します。"
        with self.pipeline.database.write() as connection:
            return plans.settle(connection, plan, at=self.pipeline.clock.now(), reason=reason)

    def _message_of(self, rule: Rule, plan: Plan) -> Message | None:
        """The notice that this rule's prepared text makes for this day; None when it has none. Raises Refused."""
        if not rule.text:
            return None
        at, now = local(plan.due_at), self.pipeline.clock.now()
        nominal = datetime.fromisoformat(plan.key.rpartition("/")[2])
        slots = {"month": str(nominal.month), "day": str(nominal.day), "year": str(nominal.year)}
        source = {
            **{name: fill(text, slots) for name, text in rule.text.items()},
            "category": rule.category,
            "area": "whole",
            "channels": list(rule.channels),
            "language": rule.language,
            "issued_at": now.isoformat(),
            "expires_at": (at + timedelta(hours=rule.lasts_hours)).isoformat(),
        }
        return manuscript.read(source, ward=self.settings.ward, media=self.settings.enabled, now=now)
