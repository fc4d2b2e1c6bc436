"""The way of a message, top to bottom.

    preview   what every medium would say, and what it leaves out
    accept    keep it: as a draft, approved, or planned for its hour
    plan      one delivery for each channel and part            (pure)
    put       state, frozen issue and every delivery, in one transaction with nothing external in between
    attempt   one try of one delivery, the only step that touches the world
    settle    what became of it, written down once

A change (続報 訂正 取消 解除) walks the same way, ahead of all other traffic, and stops what it replaces. Everything is
stored before anything leaves. A drill takes the same road as the real thing and always carries its mark.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypedDict

from broadcaster import boards, routing
from broadcaster.changes import changed
from broadcaster.channel import (
    Board,
    Channel,
    ChannelClosed,
    DeliveryFailure,
    Mailing,
    OutcomeUnknown,
    Page,
    Payload,
    PermanentFailure,
    Push,
    Receipt,
    TemporaryFailure,
)
from broadcaster.clock import Clock
from broadcaster.delivery import MOST_TOLD_WAIT, RETRY, RETRY_BOARD, Lane, State, Tried
from broadcaster.drill import carries_mark, watermarked
from broadcaster.lifecycle import Move
from broadcaster.lifecycle import State as Life
from broadcaster.manuscript import drill_problems, text_problems
from broadcaster.message import Change, Message, Mode, content_hash
from broadcaster.problems import Problem, Refused, refuse
from broadcaster.render import when
from broadcaster.signals import Signals
from broadcaster.store import audit, deliveries, issues, messages, notes, plans, recipients
from broadcaster.store.audit import Actor
from broadcaster.store.database import Connection, Database
from broadcaster.store.deliveries import BOARD, MAILING, PUSH, RETRACT, Delivery, Written
from broadcaster.store.issues import Issue
from broadcaster.store.messages import Kept
from broadcaster.ward import Ward
from broadcaster.words import Words

Channels = Mapping[Mode, Mapping[str, Channel]]

Also = Callable[[Connection, str], None]
"""Something small that must happen in the transaction of an act, given the new message's identifier."""

MOST_WAITING = 500
"""Routine posts that may wait for one medium. More would go out hours late: the next one is refused with a sentence."""

BOARD_LASTS = timedelta(days=3650)
"""A board's refresh is due until it has been done: it shows whatever is in force then."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One delivery to be."""

    channel: str
    part: str
    kind: str
    payload: Payload | None = None
    audience: Mapping[str, object] | None = None
    evidence: str = ""


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A notice made ready before its hour: whatever is written when it comes, as rows that lack only their numbers."""

    kept: Kept  # as it was read; when it has changed since, this is worth nothing
    sent_at: datetime
    issue: Mapping[str, object]
    deliveries: Sequence[Written]
    audiences: Sequence[Mapping[str, object] | None]  # of each delivery


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What one part of one medium would say."""

    channel: str
    part: str
    content: Mapping[str, object]
    omitted: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Reach:
    """Whom a message would reach, counted and not guessed. What cannot be counted is not in it."""

    mails: int
    screens: int


class Pipeline:
    def __init__(
        self, *, database: Database, clock: Clock, ward: Ward, words: Words, channels: Channels, signals: Signals
    ) -> None:
        """Raises ValueError when a channel belongs to the other mode: such a process must not start."""
        for mode, named in channels.items():
            for name, channel in named.items():
                if channel.mode is not mode:
                    raise ValueError(f"the {name} of {channel.mode} stands among those of {mode}")
        self.database = database
        self.clock = clock
        self.ward = ward
        self.words = words
        self.channels = channels
        self.signals = signals
        self._turns: defaultdict[tuple[Mode, str], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._composer = ThreadPoolExecutor(1, thread_name_prefix="compose")

    def close(self) -> None:
        self._composer.shutdown()

    # Preview

    def preview(self, message: Message) -> list[Preview]:
        """Every part of every push, and every page of every board that would show it alone."""
        marked = watermarked(message, self.words).sent(self.clock.now())
        previews: list[Preview] = []
        for name in self._route(marked):
            channel = self.channels[marked.mode][name]
            if isinstance(channel, Board):
                previews.extend(
                    Preview(channel=name, part=page.path, content={"text": page.body.decode()}, omitted=())
                    for page in boards.pages_of(channel, [marked], self.clock.now())
                )
            else:
                assert isinstance(channel, Push | Mailing)
                previews.extend(
                    Preview(channel=name, part=payload.part, content=payload.content, omitted=payload.omitted)
                    for payload in channel.compose(marked)
                )
        return previews

    def reach(self, message: Message) -> Reach:
        """The head-count of this message's audience, from the readers as they are now."""
        with self.database.read() as connection:
            mails = sum(
                recipients.head_count(connection, planned.audience)
                for planned in self.plan(message)
                if planned.audience is not None
            )
        codes = set(message.geocodes)
        shows = "signage" in message.channels and not message.is_drill
        screens = sum(message.is_for_whole_ward or s.district in codes or not s.district for s in self.ward.screens)
        return Reach(mails=mails, screens=screens if shows else 0)

    # Accept

    def propose(self, message: Message, actor: Actor, *, also: Also | None = None) -> Kept:
        """Keep it and ask for approval. Nothing is planned and nothing leaves."""
        with self.database.write() as connection:
            kept = messages.add(connection, message, by=actor.name, at=self.clock.now())
            kept = messages.move(connection, kept, Move.SUBMIT)
            self._note(connection, actor, "message.submitted", message)
            if also is not None:
                also(connection, message.identifier)
            return kept

    def approve(
        self, identifier: str, actor: Actor, *, seen: str | None = None, wait: timedelta = timedelta(0)
    ) -> Kept:
        """Approve the words that were seen, and send them at their hour: now, when it has come, or after `wait`, in
        which it can still be withdrawn."""
        now = self.clock.now()
        with self.database.write() as connection:
            kept = _known(connection, identifier)
            if actor.via != "cli" and actor.name in self.authors_of(connection, kept):
                raise refuse("id", ja="自分の書いたものは承認できません。", en="You cannot approve your own text.")
            kept = messages.approve(connection, kept, by=actor.name, seen=seen or content_hash(kept.message))
            self._note(connection, actor, "message.approved", kept.message, hash=kept.approved_hash)
            at = max(kept.message.effective_at, now + wait)
            if at > now:
                kept = self._schedule(connection, kept, actor, at=at)
            else:
                self.put(connection, kept, actor, self.plan(kept.message))
                kept = messages.by_id(connection, kept.id)
        self.signals.notify()
        return kept

    def authors_of(self, connection: Connection, kept: Kept) -> frozenset[str]:
        """Everybody whose words stand in it: who wrote it first, and who handed it in again with other ones."""
        acts = audit.about(connection, kept.message.identifier)
        return frozenset({kept.created_by, *(entry.actor for entry in acts if entry.act == "message.submitted")})

    def approve_alone(self, identifier: str, actor: Actor, *, reason: str, also: Also | None = None) -> Kept:
        """Somebody sends an alert without a second person. Only a prepared one; it leaves a review open that another
        must write. Raises Refused, or ChangedMeanwhile when somebody was faster."""
        now = self.clock.now()
        with self.database.write() as connection:
            kept = _known(connection, identifier)
            if not kept.message.is_alert or kept.message.preset is None:
                raise refuse(
                    "id", ja="文案から作った緊急のお知らせだけです。", en="Only an alert from a prepared text."
                )
            if kept.message.expires_at <= now:
                raise refuse("id", ja="もう終わりの日時を過ぎています。", en="Its time is over.")
            if kept.state is not Life.SUBMITTED:
                raise messages.ChangedMeanwhile(identifier)
            kept = messages.approve(connection, kept, by=actor.name, seen=content_hash(kept.message))
            notes.open_review(connection, identifier, by=actor.name, at=now, reason=reason)
            notes.add(connection, identifier, notes.ALONE, reason, by=actor.name, at=now)
            self._note(connection, actor, "message.sent_alone", kept.message, hash=kept.approved_hash, reason=reason)
            self.put(connection, kept, actor, self.plan(kept.message))
            if also is not None:
                also(connection, identifier)
            kept = messages.by_id(connection, kept.id)
        self.signals.notify()
        return kept

    def propose_again(self, identifier: str, message: Message, actor: Actor, *, also: Also | None = None) -> Kept:
        """Other words for what was returned, or for what still waits: it asks for approval anew."""
        self._refuse_unready(message)
        with self.database.write() as connection:
            kept = _known(connection, identifier)
            message = replace(message, identifier=identifier)
            if kept.state is Life.SUBMITTED:
                kept = messages.move(connection, kept, Move.RETURN)
            kept = messages.rewrite(connection, kept, message, Move.EDIT)
            kept = messages.move(connection, kept, Move.SUBMIT)
            self._note(connection, actor, "message.submitted", message, again=True)
            if also is not None:
                also(connection, identifier)
            return kept

    def send_back(self, identifier: str, actor: Actor, reason: str, *, also: Also | None = None) -> Kept:
        """Return what waits for approval to whoever wrote it. A reason is needed."""
        if problems := text_problems("reason", reason, most=2_000):
            raise Refused(problems)
        if not reason.strip():
            raise refuse("reason", ja="差し戻す理由を書いてください。", en="Say why it is returned.")
        with self.database.write() as connection:
            kept = messages.move(connection, _known(connection, identifier), Move.RETURN)
            notes.add(connection, identifier, notes.RETURNED, reason, by=actor.name, at=self.clock.now())
            self._note(connection, actor, "message.returned", kept.message)
            if also is not None:
                also(connection, identifier)
            return kept

    def withdraw(self, identifier: str, actor: Actor, *, also: Also | None = None) -> Kept:
        """It will not go out: what waits for approval, was returned, or is planned for its hour."""
        with self.database.write() as connection:
            kept = messages.move(connection, _known(connection, identifier), Move.WITHDRAW)
            plans.drop(connection, f"issue/{identifier}", at=self.clock.now(), reason="取り下げました。")
            self._note(connection, actor, "message.withdrawn", kept.message)
            if also is not None:
                also(connection, identifier)
        self.signals.notify()
        return kept

    def move_to(self, identifier: str, effective_at: datetime, actor: Actor, *, seen: str) -> Kept:
        """Another hour for what is approved and planned. Whoever may approve decides it, so the approval stands for the
        new hour; `seen` is the hash of what was on the page."""
        with self.database.write() as connection:
            kept = _known(connection, identifier)
            if kept.approved_hash != seen:
                raise messages.ChangedMeanwhile(identifier)
            lasts = kept.message.expires_at - kept.message.effective_at
            message = replace(kept.message, effective_at=effective_at, expires_at=effective_at + lasts)
            if effective_at <= self.clock.now():
                raise refuse("at", ja="これからの日時にしてください。", en="Choose a later time.")
            kept = messages.reschedule(connection, kept, message, by=actor.name)
            plans.drop(connection, f"issue/{identifier}", at=self.clock.now(), reason="日時を変えました。")
            plans.add_again(connection, key=f"issue/{identifier}", due_at=effective_at)
            self._note(connection, actor, "message.moved", message, to=effective_at.isoformat())
        self.signals.notify()
        return kept

    def hand_in(self, message: Message, actor: Actor, *, also: Also | None = None) -> Kept:
        """Accept with the approval of whoever hands it in: sent now, or planned for its hour. `also` is done in the
        same transaction."""
        self._refuse_unready(message)
        planned = self.plan(message)
        with self.database.write() as connection:
            kept = self.hand_in_planned(connection, message, actor, planned)
            if also is not None:
                also(connection, message.identifier)
        self.signals.notify()
        return kept

    def hand_in_planned(
        self, connection: Connection, message: Message, actor: Actor, planned: Sequence[Planned]
    ) -> Kept:
        """The same inside a transaction that is already open; the caller notifies."""
        now = self.clock.now()
        kept = messages.add(connection, message, by=actor.name, at=now, state=Life.SUBMITTED)
        kept = messages.approve(connection, kept, by=actor.name, seen=content_hash(message))
        self._note(connection, actor, "message.approved", message, hash=kept.approved_hash)
        if message.effective_at > now:
            return self._schedule(connection, kept, actor)
        self.put(connection, kept, actor, planned)
        return messages.by_id(connection, kept.id)

    def _schedule(self, connection: Connection, kept: Kept, actor: Actor, *, at: datetime | None = None) -> Kept:
        kept = messages.move(connection, kept, Move.SCHEDULE)
        plans.add(
            connection,
            key=f"issue/{kept.message.identifier}",
            kind=plans.ISSUE,
            due_at=at or kept.message.effective_at,
            message_id=kept.id,
        )
        self._note(connection, actor, "message.scheduled", kept.message)
        return kept

    def _refuse_unready(self, message: Message) -> None:
        problems = [*drill_problems(message), *self._unserved(message)]
        if message.expires_at <= self.clock.now():
            problems.append(
                Problem(
                    where="expires_at",
                    ja=f"{when(message.expires_at)}は過ぎています。これからの日時にしてください。",
                    en=f"{when(message.expires_at, 'en')} is in the past. Choose a later time.",
                )
            )
        if problems:
            raise Refused(problems)

    def _unserved(self, message: Message) -> list[Problem]:
        route = routing.route(message.channels, self.channels[message.mode], self.ward.by_hand)
        return [
            Problem(where="channels", ja=f"「{name}」という媒体はありません。", en=f"There is no medium {name!r}.")
            for name in route.unknown
        ]

    # Plan

    def plan(self, message: Message, *, at: datetime | None = None) -> list[Planned]:
        """One delivery for each channel and part; pure. `at` is the instant of sending when it is not now.
        Raises DrillMarkMissing for an unmarked drill."""
        marked = watermarked(message, self.words).sent(at or self.clock.now())
        planned = [delivery for name in self._route(marked) for delivery in self._plan_channel(name, marked)]
        if marked.is_drill:
            for delivery in planned:
                words = json.dumps(dict(delivery.payload.content), ensure_ascii=False) if delivery.payload else None
                if words is not None and not carries_mark(words):
                    raise boards.DrillMarkMissing(f"{delivery.channel}: {delivery.part}")
        return planned

    def _route(self, message: Message) -> Sequence[str]:
        """The channels that the message names, and the boards that show everything."""
        available = self.channels[message.mode]
        named = routing.route(message.channels, available, self.ward.by_hand).channels
        everything = [name for name, c in available.items() if isinstance(c, Board) and c.shows_all]
        return [name for name in available if name in named or name in everything]

    def _plan_channel(self, name: str, message: Message) -> Sequence[Planned]:
        channel = self.channels[message.mode][name]
        if isinstance(channel, Board):
            return [Planned(channel=name, part="board", kind=BOARD)]
        if isinstance(channel, Mailing):
            return [
                Planned(
                    channel=name,
                    part=payload.part,
                    kind=MAILING,
                    payload=payload,
                    audience=self._audience(message, payload.part),
                )
                for payload in channel.compose(message)
            ]
        assert isinstance(channel, Push)
        if message.is_ended and not message.is_alert:
            return []  # a notice that is taken back is deleted, not answered with another post
        return [
            Planned(channel=name, part=payload.part, kind=PUSH, payload=payload) for payload in channel.compose(message)
        ]

    def _audience(self, message: Message, part: str) -> Mapping[str, object]:
        """The readers of one part, named `language.format`."""
        language, _, form = part.partition(".")
        return {
            "language": language,
            "format": form,
            "topic": self.ward.topic_bit(message.category),
            "districts": self.ward.district_bits(message.geocodes),
            "is_drill": message.is_drill,
        }

    # Put

    def put(self, connection: Connection, kept: Kept, actor: Actor, planned: Sequence[Planned]) -> Issue:
        """State, frozen issue, deliveries and the first readers: all of it or nothing. The caller notifies."""
        if not kept.is_approved_as_it_stands:
            raise refuse(
                "id", ja="承認の後に文が変わりました。もう一度承認してください。", en="The text changed after approval."
            )
        now = self.clock.now()
        lane = routing.lane_of(kept.message)
        self._refuse_backlog(connection, kept.message.mode, lane, planned)
        message = watermarked(kept.message, self.words).sent(now)
        issue = issues.freeze(connection, message, message_id=kept.id, lane=lane)
        messages.move(connection, kept, Move.ISSUE, issued_as=issue.id)
        self._stop_replaced(connection, message, issue, now)
        self._add_deliveries(connection, issue, [*self._retractions(connection, message), *planned], now)
        plans.add(connection, **_end_of(kept))
        self._note(connection, actor, "message.issued", message, lane=lane.name.lower())
        return issue

    # Put together: many notices of one hour

    def make_ready(self, kept: Kept, at: datetime) -> Ready | None:
        """Everything about a scheduled notice that can be known before its hour; pure. None for what must go by
        itself: an alert goes first, and a change has more to do. Raises Refused."""
        lane = routing.lane_of(kept.message)
        if lane is Lane.PRIORITY or kept.message.references or not kept.is_approved_as_it_stands:
            return None
        message = watermarked(kept.message, self.words).sent(at)
        planned = self.plan(kept.message, at=at)
        return Ready(
            kept=kept,
            sent_at=at,
            issue=issues.frozen(message, message_id=kept.id, lane=lane),
            deliveries=[_written(message, lane, p, at) for p in planned],
            audiences=[p.audience for p in planned],
        )

    def put_together(self, connection: Connection, notices: Sequence[Ready], actor: Actor) -> None:
        """The same as `put` for each, in a few statements for all of them. Their readers are left to the sender, which
        continues any fan-out from its cursor; a part without readers is finished here. The caller notifies.
        Raises ChangedMeanwhile, or Refused when too much waits for a medium: then none of it has happened."""
        now = self.clock.now()
        for mode, lane, channel, more in _posts_of(notices):
            self._refuse_more_than(connection, mode, lane, channel, MOST_WAITING - more)
        ids = issues.freeze_together(connection, [ready.issue for ready in notices])
        messages.move_together(connection, {ready.kept.id: ready.kept for ready in notices}, Move.ISSUE)
        has_readers = self._has_readers(connection, notices)
        rows = [
            (ids[ready.kept.id], row, has_readers.get(row.audience, False))
            for ready in notices
            for row in ready.deliveries
        ]
        deliveries.add_together(connection, rows)
        plans.add_together(connection, [_end_of(ready.kept) for ready in notices])
        audit.write_together(
            connection,
            actor,
            "message.issued",
            [(r.kept.message.identifier, r.kept.message.mode, {"lane": Lane.ROUTINE.name.lower()}) for r in notices],
            at=now,
        )

    def _has_readers(self, connection: Connection, notices: Sequence[Ready]) -> Mapping[str, bool]:
        """Whether anybody is in each audience, by the audience as it is written."""
        audiences = {
            row.audience: audience
            for ready in notices
            for row, audience in zip(ready.deliveries, ready.audiences, strict=True)
            if audience is not None
        }
        return {written: recipients.has_readers(connection, audience) for written, audience in audiences.items()}

    def _refuse_backlog(self, connection: Connection, mode: Mode, lane: Lane, planned: Sequence[Planned]) -> None:
        if lane is Lane.PRIORITY:
            return
        for channel in {p.channel for p in planned if p.kind == PUSH}:
            self._refuse_more_than(connection, mode, lane, channel, MOST_WAITING - 1)

    def _refuse_more_than(self, connection: Connection, mode: Mode, lane: Lane, channel: str, waiting: int) -> None:
        if deliveries.waiting(connection, channel, mode, lane, MOST_WAITING) > waiting:
            raise refuse(
                "channels",
                ja=f"{channel} に {MOST_WAITING} 件が待っています。減るまで、この媒体を外してください。",
                en=f"{MOST_WAITING} posts wait for {channel}; leave it out until they are fewer.",
            )

    def _add_deliveries(self, connection: Connection, issue: Issue, planned: Sequence[Planned], now: datetime) -> None:
        message = issue.message
        ids: dict[tuple[str, str], int] = {}
        for p in planned:
            after = ids.get((p.channel, p.payload.after)) if p.payload and p.payload.after else None
            id = deliveries.add(
                connection,
                issue_id=issue.id,
                key=f"{message.identifier}/{p.channel}/{p.part}",
                channel=p.channel,
                part=p.part,
                kind=p.kind,
                mode=message.mode,
                lane=issue.lane,
                due_at=now,
                expires_at=message.expires_at if p.kind in (PUSH, MAILING) else now + BOARD_LASTS,
                payload=p.payload,
                after_id=after,
                audience=self._audience_now(connection, message, p),
                evidence=p.evidence,
            )
            ids[p.channel, p.part] = id
            if p.kind == MAILING and not message.references:
                self._first_readers(connection, id, now)

    def _first_readers(self, connection: Connection, id: int, now: datetime) -> None:
        """The first chunk stands in the issue's own transaction; a longer list is continued by the sender, from a
        cursor that was written here."""
        recipients.fan_out(connection, deliveries.get(connection, id), now)
        deliveries.finish_mailings(connection, [id], now)

    def _audience_now(self, connection: Connection, message: Message, p: Planned) -> Mapping[str, object] | None:
        """Who gets it. What takes something back goes to everyone who has it; what renews it, to everyone who was
        meant before or is meant now."""
        if p.audience is None or not message.references:
            return p.audience
        earlier = [
            delivery
            for reference in message.references
            if (issue := issues.get(connection, reference.identifier))
            for delivery in deliveries.of_issue(connection, issue.id)
            if delivery.kind == MAILING and delivery.channel == p.channel and delivery.part == p.part
        ]
        if message.is_ended:
            return {"of": [delivery.id for delivery in earlier]}
        before = [int(d.audience["districts"]) for d in earlier if "districts" in d.audience]
        districts = int(str(p.audience["districts"]))
        for bits in before:
            districts |= bits
        return {**p.audience, "districts": districts}

    # Change: the same way, ahead of everything, stopping what it replaces

    def change(
        self,
        identifier: str,
        change: Change,
        actor: Actor,
        *,
        renew: Callable[[Message], Message] | None = None,
        line: str = "",
        also: Also | None = None,
    ) -> Kept:
        """Issue an update, a correction, a cancel or an all-clear of something that was sent.

        No second person is asked: to be able to take a wrong word back at once is the lesson of every false alert."""
        with self.database.read() as connection:
            issue = issues.get(connection, identifier)
        if issue is None or issue.ended_at is not None:
            raise _was_replaced(issue, identifier)
        message = changed(
            issue.message,
            change,
            words=self.words,
            now=self.clock.now(),
            renewed=renew(issue.message) if renew else None,
            line=line,
        )
        return self.hand_in(message, actor, also=also)

    def _stop_replaced(self, connection: Connection, message: Message, issue: Issue, now: datetime) -> None:
        if not message.references:
            return
        replaced = [reference.identifier for reference in message.references]
        ended = issues.end(connection, replaced, by=message.identifier, at=now)
        if replaced[-1] not in {old.message.identifier for old in ended}:
            # Somebody else changed it between our look and this transaction: theirs stands, and stays in force.
            raise _was_replaced(issues.get(connection, replaced[-1]), replaced[-1])
        for old in ended:
            kept = messages.by_id(connection, old.message_id)
            if kept.state is Life.ISSUED:
                messages.move(connection, kept, Move.CANCEL if message.is_ended else Move.UPDATE)
        self._stop(connection, [old.id for old in ended], now, f"{message.identifier} が替わりました。")

    def _stop(self, connection: Connection, issue_ids: Sequence[int], now: datetime, why: str) -> None:
        """Stop everything of these issues that nobody has in hand; the sender stops what it holds."""
        if not issue_ids:
            return
        deliveries.stop_waiting(connection, issue_ids, at=now, detail=why)
        mailings = deliveries.unfinished_mailings(connection, issue_ids)
        # The letters before their mailing, as the sender's first claim has it: the other way round the two could wait
        # for each other, and PostgreSQL would break off one of them.
        recipients.stop_waiting(connection, mailings, now)
        deliveries.stop_mailings(connection, issue_ids)
        deliveries.finish_mailings(connection, mailings, now)

    def _retractions(self, connection: Connection, message: Message) -> Sequence[Planned]:
        """Posts that can be taken back, newest part first: of what was cancelled, and of what was wrong."""
        if message.change not in (Change.CANCEL, Change.CORRECTION):
            return []
        return [
            _retraction(delivery)
            for reference in message.references
            if (issue := issues.get(connection, reference.identifier))
            for delivery in reversed(deliveries.of_issue(connection, issue.id))
            if delivery.kind == PUSH and delivery.state is State.DELIVERED
        ]

    def expire(self, connection: Connection, kept: Kept, now: datetime) -> None:
        """Its time is over: it leaves the boards, and what was not sent is not sent any more."""
        if kept.state is not Life.ISSUED or kept.issued_as is None:
            return
        messages.move(connection, kept, Move.EXPIRE)
        self._stop(connection, [kept.issued_as], now, "掲載の終わりが来ました。")
        self.add_board_refresh(connection, issues.by_id(connection, kept.issued_as), "expired", now)

    def add_board_refresh(self, connection: Connection, issue: Issue, why: str, now: datetime) -> None:
        """Have every board of this issue composed again."""
        for name in self._route(issue.message):
            if isinstance(self.channels[issue.message.mode][name], Board):
                deliveries.add(
                    connection,
                    issue_id=issue.id,
                    key=f"{issue.message.identifier}/{name}/{why}",
                    channel=name,
                    part=why,
                    kind=BOARD,
                    mode=issue.message.mode,
                    lane=issue.lane,
                    due_at=now,
                    expires_at=now + BOARD_LASTS,
                )

    # Again, or not: what failed or is unknown, by a person's decision

    def resend_failed(self, identifier: str, actor: Actor, *, also: Also | None = None) -> int:
        """Send once more what could not be delivered, and nothing else: letters that failed, pushes that failed. Gives
        how many. Raises Refused for what is over or was replaced."""
        now = self.clock.now()
        with self.database.write() as connection:
            issue = self._still_goes_out(connection, identifier)
            number = sum(
                self._put_back(connection, delivery, (State.FAILED,), now)
                for delivery in deliveries.of_issue(connection, issue.id)
                if delivery.kind == MAILING or (delivery.kind == PUSH and self._leads(connection, delivery))
            )
            self._note(connection, actor, "delivery.resent", issue.message, number=number)
            if also is not None:
                also(connection, identifier)
        self.signals.notify()
        return number

    def _still_goes_out(self, connection: Connection, identifier: str) -> Issue:
        """The issue, and nobody replaces it before this transaction is over."""
        found = issues.get(connection, identifier)
        issue = issues.held(connection, found.id) if found else None
        if issue is None or issue.ended_at is not None:
            raise _was_replaced(issue, identifier)
        if issue.expires_at <= self.clock.now():
            raise refuse(
                "id", ja="掲載の終わりが来ました。もう送りません。", en="Its time is over; nothing more is sent."
            )
        return issue

    @staticmethod
    def _leads(connection: Connection, delivery: Delivery) -> bool:
        """Not a later part of a thread: that one goes again with the part before it."""
        before = delivery.after_id
        return before is None or deliveries.get(connection, before).state is State.DELIVERED

    @staticmethod
    def _put_back(connection: Connection, delivery: Delivery, states: Sequence[State], now: datetime) -> int:
        if delivery.kind != MAILING:
            if delivery.state not in states:
                return 0
            deliveries.put_back(connection, delivery.id, now)
            return 1
        # The letters before their mailing, as everywhere: two who do it the other way round could wait for each other.
        moved = recipients.put_back(connection, delivery.id, states, now)
        if number := sum(moved.values()):
            fewer = {state.name.lower(): fewer for state, fewer in moved.items() if fewer}
            deliveries.put_back(connection, delivery.id, now, **fewer)
        return number

    def send_again(self, seen: Delivery, actor: Actor) -> None:
        """Once more, because a person decided so: what failed, and what is unknown. A push in doubt is looked for first;
        letters in doubt go with the same Message-ID. Raises ChangedMeanwhile when it is not as it was seen, Refused for
        what is over."""
        now = self.clock.now()
        with self.database.write() as connection:
            issue = issues.by_id(connection, seen.issue_id)
            if seen.kind in (PUSH, MAILING):
                issue = self._still_goes_out(connection, issue.message.identifier)
            if seen.kind != MAILING:
                self._refuse_changed(connection, seen, issue)
            number = self._put_back(connection, seen, (State.FAILED, State.UNKNOWN), now)
            if not number:
                raise messages.ChangedMeanwhile(issue.message.identifier)
            self._note_decision(connection, actor, "again", issue, seen)
        self.signals.notify()

    def deem_delivered(self, seen: Delivery, actor: Actor, *, evidence: str = "") -> None:
        """It did arrive: a person has seen it. `evidence` is what the medium would have told, the number of a post.
        Raises ChangedMeanwhile."""
        if problems := text_problems("evidence", evidence, most=64, lines=1):
            raise Refused(problems)
        now, said = self.clock.now(), f"{actor.name} が届いたとみなしました。"
        with self.database.write() as connection:
            issue = issues.held(connection, seen.issue_id)
            moved: dict[str, int] = {}
            if seen.kind == MAILING:
                number = recipients.deem(connection, seen.id, [State.UNKNOWN], State.DELIVERED, said, now)
                moved = {"unknown": -number, "delivered": number}
            self._refuse_changed(connection, seen, issue)
            deliveries.decide(connection, seen.id, State.DELIVERED, at=now, detail=said, evidence=evidence, moved=moved)
            self._note_decision(connection, actor, "delivered", issue, seen)
            if seen.kind == PUSH:
                self._take_back_late(connection, replace(seen, evidence=evidence or seen.evidence), issue, now)
        self.signals.notify()

    def leave_unsent(self, seen: Delivery, actor: Actor) -> None:
        """It will not be tried any more. Raises ChangedMeanwhile."""
        with self.database.write() as connection:
            issue = issues.by_id(connection, seen.issue_id)
            self._refuse_changed(connection, seen, issue)
            said = f"{actor.name} が送らないことにしました。"
            deliveries.decide(connection, seen.id, State.STOPPED, at=self.clock.now(), detail=said, moved={})
            self._note_decision(connection, actor, "left", issue, seen)
        self.signals.notify()

    @staticmethod
    def _refuse_changed(connection: Connection, seen: Delivery, issue: Issue) -> None:
        if not deliveries.holds(connection, seen.id, seen.state, seen.settled_at):
            raise messages.ChangedMeanwhile(issue.message.identifier)

    def _note_decision(self, connection: Connection, actor: Actor, how: str, issue: Issue, seen: Delivery) -> None:
        self._note(
            connection,
            actor,
            "delivery.decided",
            issue.message,
            how=how,
            channel=seen.channel,
            part=seen.part,
            id=seen.id,
        )

    # Attempt

    async def attempt(self, delivery: Delivery) -> Tried:
        """One try. Ends in what is to be written down; never raises for anything the world does."""
        channel = self.channels[delivery.mode].get(delivery.channel)
        if channel is None:
            return Tried(state=State.FAILED, detail=f"媒体「{delivery.channel}」は設定にありません。")
        if channel.mode is not delivery.mode:
            return Tried(state=State.FAILED, detail="本番と訓練の設定が食い違っています。送りませんでした。")
        try:
            if delivery.is_in_doubt and (found := await self._look(channel, delivery)) is not None:
                return _delivered(found)
            if over := await self._is_over(delivery):
                return Tried(state=State.STOPPED, detail=over)
            return _delivered(await self._deliver(channel, delivery))
        except DeliveryFailure as failure:
            return self.after_failure(delivery, failure)

    async def _look(self, channel: Channel, delivery: Delivery) -> Receipt | None:
        """Whether an earlier attempt arrived after all, also when it is over by now: it would have to be taken back.
        Raises OutcomeUnknown while nobody can say."""
        if not isinstance(channel, Push) or delivery.kind != PUSH:
            return None  # a board or a retraction is simply done again
        assert delivery.payload is not None
        previous = await self._receipt_of(delivery.after_id)
        try:
            return await channel.find(delivery.payload, key=delivery.key, previous=previous)
        except OutcomeUnknown:
            raise
        except DeliveryFailure as failure:
            raise OutcomeUnknown(str(failure)) from failure

    async def _is_over(self, delivery: Delivery) -> str:
        """Why this must not go out any more; empty when it may."""
        if delivery.kind != PUSH:
            return ""
        issue = await self.database.reads(issues.by_id, delivery.issue_id)
        if issue.ended_at is not None:
            return f"{issue.ended_by} が替わりました。"
        return "掲載の終わりが来ました。" if delivery.expires_at <= self.clock.now() else ""

    async def _deliver(self, channel: Channel, delivery: Delivery) -> Receipt:
        if isinstance(channel, Board):
            return await self.refresh(channel)
        assert isinstance(channel, Push)
        if delivery.kind == RETRACT:
            return await channel.retract(Receipt(evidence=delivery.evidence))
        assert delivery.payload is not None
        previous = await self._receipt_of(delivery.after_id)
        return await channel.deliver(delivery.payload, key=delivery.key, previous=previous)

    async def _receipt_of(self, delivery_id: int | None) -> Receipt | None:
        if delivery_id is None:
            return None
        return Receipt(evidence=(await self.database.reads(deliveries.get, delivery_id)).evidence)

    async def refresh(self, board: Board) -> Receipt:
        """Compose one board from everything in force and put it where the public reads it.

        Looked at again afterwards: another process may have put a newer one there meanwhile, and an old board must
        never hide a newer alert."""
        async with self._turns[board.mode, board.name]:
            while True:
                now = self.clock.now()
                shown = await self.database.reads(boards.in_force, board.mode, now)
                pages = await self._composed(board, shown, now)
                for number, page in enumerate(pages, start=1):
                    await board.deliver(page)
                    if number % 10 == 0:
                        await asyncio.sleep(0)  # a hundred files: whoever has a letter to send is not kept waiting
                if shown == await self.database.reads(boards.in_force, board.mode, self.clock.now()):
                    return Receipt(evidence=f"{len(pages)} pages, {pages[0].etag}" if pages else "")

    async def _composed(self, board: Board, shown: Sequence[Message], now: datetime) -> Sequence[Page]:
        """One board at a time: composing is all Python, and several threads of it would keep an alert's first letter
        waiting for several turns of the interpreter instead of one."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._composer, boards.pages_of, board, shown, now)

    def after_failure(self, delivery: Delivery, failure: DeliveryFailure) -> Tried:
        """Again later, never, or a person decides."""
        detail, now = str(failure), self.clock.now()
        is_board = delivery.kind == BOARD
        if isinstance(failure, PermanentFailure) and not is_board:
            return Tried(state=State.FAILED, detail=detail)
        in_doubt = isinstance(failure, OutcomeUnknown)
        policy = (RETRY_BOARD if is_board else RETRY)[delivery.lane]
        is_spent = policy.is_spent(delivery.attempts) and not isinstance(failure, ChannelClosed)
        if is_spent or (delivery.kind == PUSH and in_doubt and delivery.expires_at <= now):
            return Tried(state=State.UNKNOWN if in_doubt else State.FAILED, detail=detail, is_in_doubt=in_doubt)
        retry_at = now + policy.wait_after(delivery.attempts)
        if isinstance(failure, TemporaryFailure) and failure.retry_at is not None:
            retry_at = max(retry_at, min(failure.retry_at, now + MOST_TOLD_WAIT[delivery.lane]))
        return Tried(state=State.QUEUED, detail=detail, retry_at=retry_at, is_in_doubt=in_doubt)

    # Settle

    def settle(self, connection: Connection, delivery: Delivery, tried: Tried, began_at: datetime) -> None:
        """Write it down. A post that arrived after something had taken its place is taken back, whatever that was: an
        old text must not stand above a newer one."""
        now = self.clock.now()
        if not deliveries.settle(connection, delivery, tried, began_at=began_at, ended_at=now):
            return
        if delivery.kind == PUSH and tried.state is State.DELIVERED:
            issue = issues.held(connection, delivery.issue_id)  # or a change at this instant would not see the post
            self._take_back_late(connection, replace(delivery, evidence=tried.evidence), issue, now)

    def _take_back_late(self, connection: Connection, delivery: Delivery, issue: Issue, now: datetime) -> None:
        after = issues.get(connection, issue.ended_by) if issue.ended_by else None
        if after is not None:
            self._add_deliveries(connection, after, [_retraction(delivery)], now)

    def _note(self, connection: Connection, actor: Actor, act: str, message: Message, **detail: object) -> None:
        audit.write(connection, actor, act, message.identifier, at=self.clock.now(), mode=message.mode, **detail)


def _was_replaced(issue: Issue | None, identifier: str) -> Refused:
    if issue is None:
        return refuse(
            "id",
            ja=f"「{identifier}」は出していません。番号を確かめてください。",
            en=f"{identifier!r} was not sent.",
        )
    return refuse(
        "id",
        ja=f"「{identifier}」は {issue.ended_by} に替わっています。そちらを直してください。",
        en=f"{identifier!r} was replaced by {issue.ended_by}; change that one.",
    )


def _known(connection: Connection, identifier: str) -> Kept:
    kept = messages.get(connection, identifier)
    if kept is None:
        raise refuse(
            "id", ja=f"「{identifier}」というお知らせはありません。", en=f"There is no message {identifier!r}."
        )
    return kept


class _End(TypedDict):
    key: str
    kind: str
    due_at: datetime
    message_id: int


def _end_of(kept: Kept) -> _End:
    """The plan of a message's end."""
    message = kept.message
    return _End(key=f"expire/{message.identifier}", kind=plans.EXPIRE, due_at=message.expires_at, message_id=kept.id)


def _written(message: Message, lane: Lane, p: Planned, at: datetime) -> Written:
    after = p.payload.after if p.payload else None
    return Written.of(
        key=f"{message.identifier}/{p.channel}/{p.part}",
        channel=p.channel,
        part=p.part,
        kind=p.kind,
        mode=message.mode,
        lane=lane,
        due_at=at,
        expires_at=message.expires_at if p.kind in (PUSH, MAILING) else at + BOARD_LASTS,
        payload=p.payload,
        audience=p.audience,
        after_key=f"{message.identifier}/{p.channel}/{after}" if after else None,
    )


def _posts_of(notices: Sequence[Ready]) -> Iterator[tuple[Mode, Lane, str, int]]:
    """How many more deliveries each push would get."""
    more = Counter(
        (ready.kept.message.mode, row.channel) for ready in notices for row in ready.deliveries if row.kind == PUSH
    )
    for (mode, channel), number in more.items():
        yield mode, Lane.ROUTINE, channel, number


def _delivered(receipt: Receipt) -> Tried:
    return Tried(state=State.DELIVERED, evidence=receipt.evidence, detail=receipt.detail)


def _retraction(delivery: Delivery) -> Planned:
    return Planned(
        channel=delivery.channel,
        part=f"retract {delivery.id}",
        kind=RETRACT,
        evidence=delivery.evidence,
    )
