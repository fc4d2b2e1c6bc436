"""An emergency while a bulk send is under way; one that is cancelled; and readers whose domains hang.

    python -m benchmarks N6 P2 P4

* N6: the ward's list of 4,800 is warned while 150,000 routine mails are on their way, over all five media, on both
  databases. Beside it the same alert on an idle system, in the same round. The sink says when each mail came, on the
  clock of the machine; the other media are the ledger's own instants. Seconds count from the commit of the alert.
* P2: a bulk to forty domains of which twenty, with 5 % of the readers, refuse, hang or do neither, spread over the list or
  the first in it, and one with X hung: does it change anything for the others? (Okayama, July 2018: two hours' delay for
  all.) The sender has sent to the others' domains before, as in service, and never to these.
* P4: a bulk of 100,000 is cancelled in the middle: how many mails still come, and does the ledger add up?

What limits it: what is on the lines at the moment of the commit (twenty letters and the twenty behind them), the
transaction that the ledger is in, then Python's time for a mail. How it grows: not with the backlog.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from benchmarks.clocksink import ClockedSink, a_clocked_sink
from benchmarks.mail import a_postgresql
from benchmarks.rounds import ROUNDS, ROUNDS_QUICK, Figure, Spread, at_least, at_most, plain, ratio, rounds
from benchmarks.ward import BENCH, EMERGENCY, ROUTINE, Ward, a_ward
from broadcaster.message import Change

TITLE = "An emergency during a bulk send"
WHY = __doc__

ALERTED = 4_800
MEDIA = ("email", "x", "rss", "signage", "dial")
BOARDS = ("rss", "signage", "dial", "page")
_LONGEST_S = 600.0
_SLICES = 100
_KNOWN = 200
"""Readers of the alert by which a sender warms up: at every domain but the bad ones."""

_UNDER_WAY = 5_000
"""Routine mails that are out before the emergency comes."""


@dataclass(frozen=True, kw_only=True)
class Alert:
    """Seconds from the commit."""

    first_mail_s: float
    last_mail_s: float
    first_attempt_s: float  # of the slowest of the five media
    boards_s: float  # until the last board was switched


@contextmanager
def a_busy_ward(*, bulk: int, url: str | None) -> Iterator[tuple[Ward, ClockedSink]]:
    with a_clocked_sink() as sink, a_ward(sink.port, url=url) as ward:
        if bulk:
            ward.readers(bulk, topics=ROUTINE)
        ward.readers(ALERTED, topics=EMERGENCY, at="alerted")
        ward.starts_social()
        ward.starts_sender()
        ward.sent(
            ward.alert(channels=MEDIA), within_s=60
        )  # templates, plans and caches are warm, as they are in service
        yield ward, sink


def an_alert(*, bulk: int, url: str | None) -> Alert:
    """An alert while so many routine mails are under way, or on an idle system."""
    with a_busy_ward(bulk=bulk, url=url) as (ward, sink):
        identifier = ""
        if bulk:
            identifier = ward.bulk()
            ward.until(lambda: ward.report(identifier)["counts"]["delivered"] >= _UNDER_WAY, 120)
        urgent = ward.alert(channels=MEDIA)
        committed_at, committed = time.monotonic(), ward.app.clock.now()
        ward.sent(urgent, within_s=_LONGEST_S)
        if bulk and ward.report(identifier)["state"] == "delivered":
            raise RuntimeError("the bulk was over before the alert was: too few readers")
        instants = ward.instants(urgent, since=committed)
        ward.stops_sender()  # the rest of the bulk stays in the ledger
    came = [at - committed_at for at, reader in sink.arrivals if "@alerted-" in reader][ALERTED:]
    return Alert(
        first_mail_s=max(0.0, min(came)),
        last_mail_s=max(came),
        first_attempt_s=max(instants.first_attempts[medium] for medium in MEDIA),
        boards_s=max(instants.settled[board] for board in BOARDS),
    )


def overtaking(quick: bool) -> list[Figure]:
    bulk = 20_000 if quick else 150_000
    figures = []
    with ExitStack() as stack:
        for name, url in (("SQLite", None), ("PostgreSQL", stack.enter_context(a_postgresql()))):
            contenders = {
                "idle": lambda url=url: an_alert(bulk=0, url=_fresh(url)),
                "busy": lambda url=url: an_alert(bulk=bulk, url=_fresh(url)),
            }
            figures += _told(name, rounds(contenders, ROUNDS_QUICK if quick else ROUNDS))
    return figures


_FROM_THE_COMMIT: Sequence[tuple[str, float, Callable[[Alert], float]]] = (
    ("N6 first mail", 20, lambda alert: alert.first_mail_s),
    ("P3 first attempt on all five media", 200, lambda alert: alert.first_attempt_s),
    ("P3 every board switched", 200, lambda alert: alert.boards_s),
)


def _told(name: str, results: Sequence[Mapping[str, Alert]]) -> list[Figure]:
    def spread(of: str, value: Callable[[Alert], float]) -> Spread:
        return Spread.of(value(one[of]) * 1000 for one in results)

    return [
        Figure(
            name=f"N6 last of {ALERTED:,} mails, {name}",
            value=ratio(results, "busy", "idle", lambda alert: alert.last_mail_s),
            unit="× idle",
            bar=at_most(1.2),
            against=f"idle {spread('idle', lambda alert: alert.last_mail_s)} ms",
            note=f"busy {spread('busy', lambda alert: alert.last_mail_s)} ms",
        ),
        *(
            Figure(
                name=f"{what}, {name}",
                value=spread("busy", value),
                unit="ms",
                bar=at_most(limit),
                against=f"idle {spread('idle', value)} ms",
            )
            for what, limit, value in _FROM_THE_COMMIT
        ),
    ]


def _fresh(url: str | None) -> str | None:
    """Each turn begins with empty tables."""
    if url is not None:
        empty(url)
    return url


def empty(url: str) -> None:
    """Take everything out of a PostgreSQL database that belongs to a bench."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("DROP SCHEMA public CASCADE"))
        connection.execute(sqlalchemy.text("CREATE SCHEMA public"))
    engine.dispose()


# P2: one that hangs


@dataclass(frozen=True, kw_only=True)
class Bulk:
    first_s: float
    last_s: float


def a_bulk(readers: int, *, some: str = "fine", slices: int = _SLICES, is_x_hung: bool = False) -> Bulk:
    """A bulk to so many readers, and to 5 % more at other domains, which refuse, hang or are fine, and who stand at the
    head of each of so many slices of the list. The times are those of the former."""
    with a_clocked_sink() as sink, a_ward(sink.port) as ward:
        ward.readers(_KNOWN, topics=EMERGENCY)
        for _ in range(slices):
            ward.readers(readers // 20 // slices, topics=ROUTINE, at=some)
            ward.readers(readers // slices, topics=ROUTINE)
        social = ward.starts_social()
        ward.starts_sender()
        ward.sent(ward.alert(), within_s=60)
        if is_x_hung:
            social.send_signal(signal.SIGSTOP)
        try:
            identifier = ward.bulk(channels=("email", "x") if is_x_hung else ("email",))
            committed_at = time.monotonic()
            ward.until(lambda: ward.report(identifier)["counts"]["delivered"] >= readers, _LONGEST_S)
        finally:
            if is_x_hung:
                social.send_signal(signal.SIGCONT)
        ward.kills_sender()  # the bad ones would go on being tried
    came = [at - committed_at for at, reader in sink.arrivals if "@mail-" in reader][_KNOWN:]
    return Bulk(first_s=max(0.001, min(came)), last_s=max(came))


def isolation(quick: bool) -> list[Figure]:
    readers = 10_000 if quick else 40_000
    named = {
        "refuse": "5 % of mail at refusing domains",
        "hang": "5 % of mail at hanging domains",
        "refuse first": "refusing, the first in the list",
        "hang first": "hanging, the first in the list",
        "x": "X hung",
    }
    contenders = {
        "none": lambda: a_bulk(readers),
        "refuse": lambda: a_bulk(readers, some="refuse"),
        "hang": lambda: a_bulk(readers, some="hang"),
        "refuse first": lambda: a_bulk(readers, some="refuse", slices=1),
        "hang first": lambda: a_bulk(readers, some="hang", slices=1),
        "x": lambda: a_bulk(readers, is_x_hung=True),
    }
    results = rounds(contenders, ROUNDS_QUICK if quick else ROUNDS)
    figures = []
    for key, name in named.items():
        change = ratio(results, key, "none", lambda bulk: bulk.last_s)
        first = Spread.of((one[key].first_s - one["none"].first_s) * 1000 for one in results)
        figures.append(
            Figure(
                name=f"P2 the others' last mail, {name}",
                value=change,
                unit="× without",
                bar=at_most(1.1),
                against=f"without {plain(Spread.of(one['none'].last_s for one in results).median)} s",
                note=f"their first mail {first} ms later",
            )
        )
    return figures


# P4: cancelled in the middle


def a_cancel(bulk: int, url: str | None) -> tuple[int, float, bool]:
    """Mails that still came after the cancel's commit, until when, and whether the ledger adds up."""
    with a_clocked_sink() as sink, a_ward(sink.port, url=url) as ward:
        ward.readers(bulk, topics=ROUTINE)
        ward.starts_sender()
        identifier = ward.bulk()
        ward.until(lambda: ward.report(identifier)["counts"]["delivered"] >= _UNDER_WAY, 120)
        ward.app.pipeline.change(identifier, Change.CANCEL, BENCH)
        committed_at = time.monotonic()
        sent = ward.sent(identifier, within_s=_LONGEST_S)
        counts = ward.report(identifier)["counts"]
        ward.stops_sender()
    adds_up = counts["delivered"] + counts["stopped"] == bulk and sent.delivered < bulk
    first_copy: dict[str, float] = {}
    for at, reader in sink.arrivals:  # a reader's second mail is the word that it was cancelled
        first_copy.setdefault(reader, at)
    late = [at - committed_at for at in first_copy.values() if at > committed_at]
    return len(late), max(late, default=0.0), adds_up and len(first_copy) == counts["delivered"]


def cancelled(quick: bool) -> list[Figure]:
    bulk = 20_000 if quick else 100_000
    figures = []
    with ExitStack() as stack:
        for name, url in (("SQLite", None), ("PostgreSQL", stack.enter_context(a_postgresql()))):
            turns = [a_cancel(bulk, _fresh(url)) for _ in range(ROUNDS_QUICK if quick else ROUNDS)]
            figures += [
                Figure(
                    name=f"P4 mails of {bulk:,} that came after the cancel's commit, {name}",
                    value=Spread.of(float(late) for late, _, _ in turns),
                    against="on the wire: 20 bodies, 20 envelopes",
                    note=f"the last {Spread.of(until * 1000 for _, until, _ in turns)} ms after the commit",
                ),
                Figure(
                    name=f"P4 runs in which delivered + stopped = total, and delivered = arrived, {name}",
                    value=float(sum(adds_up for _, _, adds_up in turns)),
                    unit=f"of {len(turns)}",
                    bar=at_least(len(turns)),
                ),
            ]
    return figures


RUNS = {"N6": overtaking, "P2": isolation, "P4": cancelled}
