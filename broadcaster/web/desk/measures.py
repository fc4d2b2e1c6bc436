"""What is measured of a message that went out: how its letters went over time, how long each medium took, where it
arrived. Counted from the ledger's own rows by one statement each, and kept until the counts have moved: a settled mailing
is counted once, however often its page is looked at.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Generic, TypeVar

from broadcaster.charts import Curve, Latency, Reached
from broadcaster.delivery import State
from broadcaster.message import Message
from broadcaster.store import recipients
from broadcaster.store.database import Connection
from broadcaster.store.deliveries import MAILING, Delivery
from broadcaster.store.issues import Issue
from broadcaster.store.recipients import Bucket, OfDomain
from broadcaster.ward import Ward
from broadcaster.web.desk.visit import Visit

MOST_KEPT = 64
AT_THE_ACT = timedelta(seconds=1)
"""Deliveries that were written with the act itself; later ones are renewals and repairs."""

T = TypeVar("T")


class Once(Generic[T]):
    """Counts of one kind, each kept under what it was counted from, the longest unasked given up first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[object, T] = OrderedDict()
        self._turn = threading.Lock()

    def counted(self, key: object, count: Callable[[], T]) -> T:
        with self._turn:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        counted = count()
        with self._turn:
            self._kept[key] = counted
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return counted


class Measures:
    def __init__(self) -> None:
        self._over_time = Once[list[Bucket]]()
        self._by_domain = Once[list[OfDomain]]()
        self._by_districts = Once[list[tuple[int, int, int]]]()

    def curve(self, connection: Connection, issue: Issue, found: Sequence[Delivery]) -> Curve | None:
        """How the letters went; None where there are none."""
        mailings = mailings_of(found)
        total = sum(mailing.counts.total for mailing in mailings)
        if not total:
            return None
        buckets = self._buckets(connection, issue, mailings)
        return Curve.of(total, [(tenth / 10, state.name.lower(), number) for tenth, state, number in buckets])

    def _buckets(self, connection: Connection, issue: Issue, mailings: Sequence[Delivery]) -> list[Bucket]:
        ids = [mailing.id for mailing in mailings]
        return self._over_time.counted(
            _as_counted(mailings), lambda: recipients.over_time(connection, ids, issue.sent_at)
        )

    def domains(self, connection: Connection, mailing: Delivery) -> list[OfDomain]:
        return self._by_domain.counted(_as_counted([mailing]), lambda: recipients.by_domain(connection, mailing.id))

    def reached(self, connection: Connection, message: Message, ward: Ward, found: Sequence[Delivery]) -> list[Reached]:
        """By district. Who chose two districts counts in both; who chose the whole ward stands in a row of its own."""
        mailings = mailings_of(found)
        ids = [mailing.id for mailing in mailings]
        by_bits = self._by_districts.counted(_as_counted(mailings), lambda: recipients.by_districts(connection, ids))
        shows = any(d.channel == "signage" and d.state is State.DELIVERED for d in found)
        places = [(ward.name, 0, None), *((district.name, district.bit, district.code) for district in ward.districts)]
        rows = []
        for name, bit, code in places:
            if code is not None and not (message.is_for_whole_ward or code in message.geocodes):
                continue
            total = sum(number for bits, number, _ in by_bits if bits >> bit & 1)
            delivered = sum(number for bits, _, number in by_bits if bits >> bit & 1)
            screens = sum(screen.district == code for screen in ward.screens) if shows else 0
            if total or screens:
                rows.append(Reached(name=name, total=total, delivered=delivered, screens=screens))
        return rows

    def latencies(
        self, connection: Connection, issue: Issue, found: Sequence[Delivery], name: Callable[[str], str]
    ) -> list[Latency]:
        """Each medium that has delivered something, in the order of its last."""
        by_channel: dict[str, list[tuple[float, int]]] = {}
        for delivery in found:
            if delivery.kind == MAILING or delivery.state is not State.DELIVERED or delivery.settled_at is None:
                continue
            if delivery.created_at - issue.sent_at <= AT_THE_ACT:
                took = (delivery.settled_at - issue.sent_at).total_seconds()
                by_channel.setdefault(delivery.channel, []).append((max(took, 0.0), 1))
        for channel in {mailing.channel for mailing in mailings_of(found)}:
            of_channel = [mailing for mailing in mailings_of(found) if mailing.channel == channel]
            letters = self._buckets(connection, issue, of_channel)
            sent = [(max(tenth, 0) / 10, number) for tenth, state, number in letters if state is State.DELIVERED]
            if sent:
                by_channel[channel] = sent
        rows = [_latency(name(channel), sorted(times)) for channel, times in by_channel.items()]
        return sorted(rows, key=lambda row: row.last_s)


def mailings_of(found: Iterable[Delivery]) -> list[Delivery]:
    """Those that have readers."""
    return [delivery for delivery in found if delivery.kind == MAILING and delivery.counts.total]


def _as_counted(mailings: Sequence[Delivery]) -> tuple[object, ...]:
    """Which letters, and how they stand: the same again as long as none of them has moved."""
    return tuple((mailing.id, mailing.counts, mailing.settled_at) for mailing in mailings)


def _latency(name: str, times: Sequence[tuple[float, int]]) -> Latency:
    total = sum(number for _, number in times)

    def after(share: float) -> float:
        wanted, so_far = max(1, -(-total * share // 1)), 0
        for at_s, number in times:
            so_far += number
            if so_far >= wanted:
                return at_s
        return times[-1][0]

    return Latency(name=name, first_s=times[0][0], half_s=after(0.5), most_s=after(0.99), last_s=times[-1][0])


def in_words(visit: Visit, seconds: float) -> str:
    """0.4秒, 40秒, 3分20秒, 2時間, 3日."""
    if seconds < 59.5:
        return visit.w("sent.seconds.short", s=f"{seconds:.1f}" if seconds < 9.95 and seconds % 1 else f"{seconds:.0f}")
    whole = round(seconds)
    if whole < 3600:
        m, s = divmod(whole, 60)
        return visit.w("sent.seconds.minutes", m=m, s=s) if s else visit.w("sent.seconds.whole_minutes", m=m)
    if whole < 2 * 86_400:
        h, m = divmod(whole // 60, 60)
        return visit.w("sent.seconds.hours", h=h, m=m) if m else visit.w("sent.seconds.whole_hours", h=h)
    return visit.w("sent.seconds.days", d=whole // 86_400)
