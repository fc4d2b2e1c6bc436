"""A personalised mail to each reader: the product's own sender against what others send with.

The product does all of its work: the issue is committed, the readers are written into the ledger, each letter is claimed,
3 KB of Japanese text and HTML are spliced with the reader's own address, Message-ID and leaving link, and a row of
evidence is kept for each (`synchronous=FULL` on SQLite, `fsync=on` on PostgreSQL). Its seconds run from the commit of the
issue to the last row of evidence. The sender is pinned to the first processor, the sink to the second, and so is every
peer in its turn.

* `smtp-source -d` (Postfix's own test client, in C) sends one fixed mail of the same size over twenty open connections.
  It neither pipelines nor personalises nor keeps a ledger, and a round trip it waits for is one it does not use.
* nodemailer (pool of 20), Django, and aiosmtplib with an `EmailMessage` for each reader personalise like the product.
* "no ledger" is the product's own mailroom and lines with a list in place of the database: the ceiling for N4.

    python -m benchmarks N1 N2 N3 N4 N12

What limits it: Python's own time for a mail (splice, session, lane), then the ledger, then the sink. How it grows:
linearly with the readers (N5 looks at a million).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from benchmarks import peers
from benchmarks.delay import a_way_to
from benchmarks.rounds import (
    ROUNDS,
    ROUNDS_QUICK,
    Bar,
    Figure,
    Sample,
    Spread,
    at_least,
    at_most,
    cpu_s,
    peak_mb,
    plain,
    ratio,
    rounds,
    spread,
)
from benchmarks.sinks import postfix, smtp_sink, smtp_source
from benchmarks.ward import Ward, a_ward
from benchmarks.wire import without_ledger
from tests.servers import a_database, postgres

TITLE = "A personalised mail to each reader"
WHY = __doc__

LOCAL = "127.0.0.1"
ROUND_TRIP_MS = 40.0
LINES = 20
_LONGEST_S = 900.0

Results = Sequence[Mapping[str, Sample]]


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """How many mails each contender sends in a round: enough for some seconds."""

    ours: int
    source: int
    nodemailer: int
    django: int
    aiosmtplib: int


LOOPBACK = Numbers(ours=60_000, source=40_000, nodemailer=5_000, django=2_500, aiosmtplib=1_500)
LOOPBACK_QUICK = Numbers(ours=20_000, source=10_000, nodemailer=1_500, django=800, aiosmtplib=400)


def ours(ward: Ward) -> Sample:
    """One bulk of the ward's readers by its sender."""
    assert ward.sender is not None
    before = cpu_s(ward.sender.pid)
    sent = ward.sent(ward.bulk(), within_s=_LONGEST_S)
    if sent.delivered != sent.readers:
        raise RuntimeError(f"{sent.delivered} of {sent.readers} mails were taken")
    pid = ward.sender.pid
    return Sample(units=sent.readers, seconds=sent.last_s, cpu_s=cpu_s(pid) - before, peak_mb=peak_mb(pid))


@contextmanager
def a_sender(port: int, readers: int, *, url: str | None = None) -> Iterator[Ward]:
    """A ward with so many readers and a sender that has warmed up on a first bulk."""
    with a_ward(port, url=url) as ward:
        ward.readers(readers)
        ward.starts_sender()
        ours(ward)
        yield ward


@contextmanager
def a_postgresql() -> Iterator[str]:
    """A server that keeps its word (fsync=on), with an empty database; gives its URL."""
    with postgres(fsync=True) as server, a_database(server) as url:
        yield url


# N1, N4: loopback


def loopback(quick: bool) -> list[Figure]:
    numbers = LOOPBACK_QUICK if quick else LOOPBACK
    with smtp_sink() as sink, a_sender(sink.port, numbers.ours) as ward:
        port = sink.port
        contenders: dict[str, Callable[[], Sample]] = {
            "ours": lambda: ours(ward),
            "smtp-source": lambda: smtp_source(LOCAL, port, messages=numbers.source),
            "nodemailer": lambda: peers.nodemailer(LOCAL, port, numbers.nodemailer),
            "django": lambda: peers.django(LOCAL, port, numbers.django),
            "aiosmtplib": lambda: peers.aiosmtplib_each(LOCAL, port, numbers.aiosmtplib),
        }
        results = rounds(contenders, ROUNDS_QUICK if quick else ROUNDS)
    return [
        _rate(results, "N1 mails a second", "smtp-source", at_least(1.2)),
        _rate(results, "N1 against nodemailer's pool", "nodemailer", at_least(15)),
        _rate(results, "N1 against Django", "django", at_least(25)),
        _rate(results, "N1 against aiosmtplib, an EmailMessage each", "aiosmtplib", None),
        _cpu(results, "smtp-source"),
    ]


# N4: the ledger


def ledger_cost(quick: bool) -> list[Figure]:
    number = (LOOPBACK_QUICK if quick else LOOPBACK).ours
    with smtp_sink() as sink, a_sender(sink.port, number) as ward:
        contenders = {"ours": lambda: ours(ward), "no ledger": lambda: without_ledger(sink.port, number)}
        results = rounds(contenders, ROUNDS_QUICK if quick else ROUNDS)
    return [
        Figure(
            name="N4 what the ledger costs, of the rate",
            value=_ledger_cost(results),
            unit="%",
            bar=at_most(20),
            against=f"no ledger {_per_s(results, 'no ledger')}",
            note=f"ours {_per_s(results, 'ours')}; CPU {spread(results, 'ours', lambda sample: sample.cpu_us)} µs a mail, "
            f"without {spread(results, 'no ledger', lambda sample: sample.cpu_us)}",
        )
    ]


def _ledger_cost(results: Results) -> Spread:
    return Spread.of((1 - one["ours"].rate / one["no ledger"].rate) * 100 for one in results)


def _rate(results: Results, name: str, peer: str, bar: Bar | None) -> Figure:
    return Figure(
        name=name,
        value=ratio(results, "ours", peer, lambda sample: sample.rate),
        unit=f"× {peer}",
        bar=bar,
        against=f"{peer} {_per_s(results, peer)}",
        note=f"ours {_per_s(results, 'ours')}",
    )


def _cpu(results: Results, peer: str) -> Figure:
    return Figure(
        name="N1 CPU for one mail",
        value=spread(results, "ours", lambda sample: sample.cpu_us),
        unit="µs",
        against=f"{peer} {spread(results, peer, lambda sample: sample.cpu_us)} µs",
        note="splice, session, lanes and ledger",
    )


def _per_s(results: Results, name: str) -> str:
    return f"{plain(spread(results, name, lambda sample: sample.rate).median)}/s"


# N2: a round trip of 40 ms


def far_away(quick: bool) -> list[Figure]:
    number = 1_500 if quick else 4_000
    with smtp_sink() as sink, a_way_to(sink.port, round_trip_ms=ROUND_TRIP_MS) as port, a_sender(port, number) as ward:
        contenders: dict[str, Callable[[], Sample]] = {
            "ours": lambda: ours(ward),
            "smtp-source": lambda: smtp_source(LOCAL, port, messages=number // 4),
            "nodemailer": lambda: peers.nodemailer(LOCAL, port, number // 4),
        }
        results = rounds(contenders, ROUNDS_QUICK if quick else ROUNDS)
    ideal = LINES / (ROUND_TRIP_MS / 1000)
    return [
        _rate(results, "N2 over 40 ms", "smtp-source", at_least(3.5)),
        _rate(results, "N2 over 40 ms, against nodemailer", "nodemailer", at_least(2)),
        Figure(
            name="N2 of the ideal, connections / round trip",
            value=spread(results, "ours", lambda sample: sample.rate).scaled(1 / ideal),
            unit=f"× {plain(ideal)}/s",
            bar=at_least(0.85),
            note="one round trip for a letter is the floor without BDAT",
        ),
    ]


# N3: a real Postfix


def into_postfix(quick: bool) -> list[Figure]:
    number = 1_000 if quick else 4_000
    with postfix() as relay, a_sender(relay.port, number) as ward:

        def drained(run: Callable[[], Sample]) -> Callable[[], Sample]:
            def one() -> Sample:
                sample = run()
                relay.drained()
                return sample

            return one

        contenders = {
            "ours": drained(lambda: ours(ward)),
            "smtp-source": drained(lambda: smtp_source(LOCAL, relay.port, messages=number)),
            "nodemailer": drained(lambda: peers.nodemailer(LOCAL, relay.port, number)),
            "django": drained(lambda: peers.django(LOCAL, relay.port, number // 2)),
        }
        results = rounds(contenders, ROUNDS_QUICK if quick else ROUNDS)
    return [
        _rate(results, "N3 into a real Postfix", "smtp-source", at_least(0.85)),
        _rate(results, "N3 against nodemailer", "nodemailer", None),
        _rate(results, "N3 against Django", "django", None),
    ]


# N12: PostgreSQL beside SQLite


def on_postgresql(quick: bool) -> list[Figure]:
    number = 10_000 if quick else 40_000
    with smtp_sink() as sink, ExitStack() as stack:
        url = stack.enter_context(a_postgresql())
        sqlite = stack.enter_context(a_sender(sink.port, number))
        postgresql = stack.enter_context(a_sender(sink.port, number, url=url))
        contenders = {
            "sqlite": lambda: ours(sqlite),
            "postgresql": lambda: ours(postgresql),
            "smtp-source": lambda: smtp_source(LOCAL, sink.port, messages=number),
            "no ledger": lambda: without_ledger(sink.port, number),
        }
        results = rounds(contenders, ROUNDS_QUICK if quick else ROUNDS)
    return [
        Figure(
            name="N12 N1 on PostgreSQL",
            value=ratio(results, "postgresql", "smtp-source", lambda sample: sample.rate),
            unit="× smtp-source",
            bar=at_least(0.6),
            against=f"smtp-source {_per_s(results, 'smtp-source')}",
            note=f"{_per_s(results, 'postgresql')}; SQLite in the same rounds {_per_s(results, 'sqlite')}",
        ),
        Figure(
            name="N12 N4 on PostgreSQL",
            value=Spread.of((1 - one["postgresql"].rate / one["no ledger"].rate) * 100 for one in results),
            unit="%",
            against=f"no ledger {_per_s(results, 'no ledger')}",
            note="what the ledger costs; the server runs on the processors of sender and sink",
        ),
    ]


RUNS = {"N1": loopback, "N4": ledger_cost, "N2": far_away, "N3": into_postfix, "N12": on_postgresql}
