"""The clock. APScheduler is the only timer, the table of plans is the plan.

A job of APScheduler fires at the next due instant and on a slow tick besides; it carries nothing but "look". What is due
is read from the table, and whoever settles a row first carries it out in the same transaction: restart, clock jump and
two schedulers each give every run once, or a run marked *skipped, because …*. Nothing is sent after its expiry.

Seven in the morning is everybody's favourite hour. So notices are made ready in the minute before theirs, in memory and
bounded: words composed, rows written out. At the hour they are put `TOGETHER` at a time, a few statements and a few
milliseconds of the database's lock for each such bundle, and the lock is anybody's before the next: an emergency never
waits behind the morning's notices. What was made ready is worthless once its message has another version.

Why not a job for each notice: a job store of APScheduler pickles, must not be shared, and forgets what fell due while it
was down.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.date import DateTrigger
from apscheduler.triggers.interval import IntervalTrigger

from broadcaster import almanac, manuscript
from broadcaster.almanac import Almanac, Rule, Run
from broadcaster.clock import JST, local
from broadcaster.lifecycle import Move, MoveNotAllowed
from broadcaster.lifecycle import State as Life
from broadcaster.message import Message
from broadcaster.pipeline import Pipeline, Planned, Ready
from broadcaster.problems import Refused
from broadcaster.render import when
from broadcaster.settings import Settings
from broadcaster.signals import POLL_S, Wake
from broadcaster.slots import fill
from broadcaster.store import audit, messages, meta, plans, retention
from broadcaster.store.audit import Actor
from broadcaster.store.database import Connection, StoreError
from broadcaster.store.messages import ChangedMeanwhile, Kept
from broadcaster.store.plans import Plan

log = structlog.get_logger(__name__)

TICK_S = 0.25
"""After a jump of the clock the timer may sleep too long; it is looked at so often, without asking the database."""

LOOK = timedelta(seconds=POLL_S)
"""How long the table is trusted without looking. Whoever plans something rings; a process that died before it could
ring, or one on another machine without Redis, cannot: with the tick, what it planned is less than a second late."""

TOGETHER = 16
PAUSE_S = 0.004
"""Between two bundles. Whoever waits for SQLite's lock asks for it every millisecond."""

MOST_AT_ONCE = 1000
"""Read, and made ready, at a time: about 50 MB of composed notices at the most."""

READY_BEFORE = timedelta(minutes=1)
ON_TIME = timedelta(seconds=1)
"""A notice that goes out so shortly after its hour was sent at its hour."""

AHEAD = timedelta(days=8)
"""How far ahead the runs of the rules are written into the table, for people to see."""

HALF_A_DAY = timedelta(hours=12)
"""A notice that staff wrote for about this time stands for the rule's run."""

TIDY_H = 1
"""How often is looked at what is not kept any longer."""

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
        self._looked_at = self._look_at = pipeline.clock.now()
        self._trusted = LOOK
        self._ready: dict[int, Ready] = {}
        kept = settings.desk["retention"]
        self._kept_for = retention.Rules(
            evidence=timedelta(days=kept["evidence_days"]),
            discarded=timedelta(days=kept["discarded_drafts_days"]),
            staff_mails=timedelta(days=kept["staff_mails_days"]),
        )

    async def run(self) -> None:
        """Until cancelled."""
        wake = self.pipeline.signals.subscribe()
        self._timer.add_job(self._tick, IntervalTrigger(seconds=TICK_S), id="tick", misfire_grace_time=None)
        self._timer.add_job(self._tidies, IntervalTrigger(hours=TIDY_H), id="tidy", misfire_grace_time=None)
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

    async def _tidies(self) -> None:
        """What is not kept for ever goes, in steps so short that nobody waits for them."""
        try:
            await asyncio.to_thread(self.tidy)
        except StoreError as error:
            log.error("retention.failed", why=type(error).__name__)

    def tidy(self) -> retention.Removed:
        now = self.pipeline.clock.now()
        removed = retention.sweep(self.pipeline.database, self._kept_for, now)
        if not removed.is_nothing:
            with self.pipeline.database.write() as connection:
                audit.write(connection, CLOCK, "retention.swept", "retention", at=now, **vars(removed))
        return removed

    async def _listens(self, wake: Wake) -> None:
        while True:
            await wake.wait(3600)
            self._look.set()

    def _tick(self) -> None:
        now = self.pipeline.clock.now()
        if not self._looked_at <= now < self._look_at:  # a clock that was put back counts as well
            self._look.set()

    async def _looks(self) -> None:
        now = self.pipeline.clock.now()
        self._looked_at, self._look_at = now, now + self._trusted
        try:
            await asyncio.to_thread(self.carry_out)
            due_at = await self.pipeline.database.reads(plans.next_due_at)
            if due_at is not None:
                self._wakes_at(due_at)
            await asyncio.to_thread(self.make_ready)
        except StoreError as error:
            log.error("scheduler.failed", why=type(error).__name__)
            self._look_at = self._looked_at  # again with the next tick

    def _wakes_at(self, due_at: datetime) -> None:
        self._look_at = min(self._look_at, due_at)
        trigger = DateTrigger(max(due_at, self.pipeline.clock.now()))
        self._timer.add_job(self._look.set, trigger, id="due", replace_existing=True, misfire_grace_time=None)

    def carry_out(self) -> int:
        """Write ahead what the rules ask for, and do everything that is due; gives how much was settled."""
        self.write_ahead()
        settled = 0
        while batch := self._due():
            settled += self._carry_out_all(batch)
        if settled:
            self.pipeline.signals.notify()
        return settled

    def _due(self) -> Sequence[Plan]:
        with self.pipeline.database.read() as connection:
            return plans.due(connection, self.pipeline.clock.now(), MOST_AT_ONCE)

    def _carry_out_all(self, due: Sequence[Plan]) -> int:
        """In the order of their hours, but an alert before everything else."""
        sendings = [plan for plan in due if plan.kind == plans.ISSUE]
        if len(sendings) < 2:
            return sum(map(self._carry_out, due))
        known = self._known(sendings)
        together = [plan for plan in sendings if _is_plain(known.get(plan.message_id or 0))]
        ids = {plan.id for plan in together}
        settled = sum(self._carry_out(plan) for plan in sendings if plan.id not in ids)
        for first in range(0, len(together), TOGETHER):
            settled += self._put_together(together[first : first + TOGETHER], known)
        return settled + sum(self._carry_out(plan) for plan in due if plan.kind != plans.ISSUE)

    # Many at one hour

    def make_ready(self) -> int:
        """Compose what falls due within a minute; gives how much is ready. Breaks off for what is due now."""
        now = self.pipeline.clock.now()
        with self.pipeline.database.read() as connection:
            coming = plans.issues_until(connection, now + READY_BEFORE, MOST_AT_ONCE)
        wanted = {plan.message_id for plan in coming}
        self._ready = {id: ready for id, ready in self._ready.items() if id in wanted}
        if len(coming) < 2:
            return 0  # one alone is composed in its own time
        known, composed = self._known(coming), 0
        for plan in coming:
            if coming[0].due_at <= self.pipeline.clock.now() or (self._look.is_set() and composed >= TOGETHER):
                break  # something is due, or something rang; under steady ringing it still comes forward
            kept = known.get(plan.message_id or 0)
            if kept is not None and kept.id not in self._ready and (made := self._made(kept, plan.due_at)):
                self._ready[kept.id] = made
                composed += 1
        return len(self._ready)

    def _known(self, sendings: Sequence[Plan]) -> Mapping[int, Kept]:
        """Their messages; what is ready is not read again, for when it is put its version is compared."""
        ids = [plan.message_id for plan in sendings if plan.message_id is not None]
        ready = {id: self._ready[id].kept for id in ids if id in self._ready}
        with self.pipeline.database.read() as connection:
            return {**ready, **messages.many(connection, [id for id in ids if id not in ready])}

    def _made(self, kept: Kept, at: datetime) -> Ready | None:
        """None for what must be looked at by itself, when it is due: that also says why."""
        if kept.state is not Life.SCHEDULED or kept.message.expires_at <= at:
            return None
        try:
            return self.pipeline.make_ready(kept, at)
        except Refused:
            return None

    def _put_together(self, due: Sequence[Plan], known: Mapping[int, Kept]) -> int:
        """A bundle in one transaction. What does not go together goes alone."""
        now = self.pipeline.clock.now()
        notices: dict[int, Ready] = {}
        for plan in due:
            kept = known[plan.message_id or 0]
            at = plan.due_at if now - plan.due_at <= ON_TIME else now
            ready = self._ready.pop(kept.id, None)
            if ready is None or ready.sent_at != at or kept.message.expires_at <= now:
                ready = self._made(kept, at)
            if ready is not None:
                notices[plan.id] = ready
        try:
            with self.pipeline.database.write() as connection:
                mine = plans.settle_together(connection, list(notices), at=now)
                if mine:
                    self.pipeline.put_together(connection, [notices[id] for id in notices if id in mine], CLOCK)
        except (Refused, ChangedMeanwhile, MoveNotAllowed) as why:
            log.info("plans.not_together", total=len(notices), why=type(why).__name__)
            return sum(map(self._carry_out, due))
        self.pipeline.signals.notify()
        log.info("plans.done", keys=[plan.key for plan in due if plan.id in mine])
        time.sleep(PAUSE_S)
        return len(mine) + sum(self._carry_out(plan) for plan in due if plan.id not in notices)

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


def _is_plain(kept: Kept | None) -> bool:
    """A notice among others; an alert, and what changes something that was sent, goes by itself."""
    return kept is not None and not kept.message.is_alert and not kept.message.references
