"""A million readers: is the rate that of 60,000, and does the sender stay small?

    python -m benchmarks N5

One ward with a million readers, whose notice goes to all of them, beside one with 60,000, in the same rounds; the sender
of each is started for its round, so that its peak of memory is that of its own sending. The third size, 10,000, shows the
memory where nothing is large. Claims and marks beside 5,000,000 rows of history: `python -m benchmarks.ledger`.

What limits it: the interpreter and its libraries are most of the memory; the rest is SQLite's page cache (two connections
of 16 MB at most) and some hundred letters in hand. How it grows: not with the readers.
"""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks.mail import ours
from benchmarks.rounds import Figure, Sample, Spread, at_least, at_most, plain, ratio, rounds, spread
from benchmarks.sinks import smtp_sink
from benchmarks.ward import Ward, a_ward

TITLE = "Flat to a million readers"
WHY = __doc__

SMALL, MIDDLE, LARGE = 10_000, 60_000, 1_000_000
LARGE_QUICK = 150_000


def _sends(ward: Ward) -> Sample:
    ward.starts_sender()
    try:
        return ours(ward)
    finally:
        ward.stops_sender()


def run(quick: bool) -> list[Figure]:
    large = LARGE_QUICK if quick else LARGE
    with smtp_sink() as sink, ExitStack() as stack:
        wards = {number: stack.enter_context(a_ward(sink.port)) for number in (SMALL, MIDDLE, large)}
        for number, ward in wards.items():
            ward.readers(number)
        contenders = {str(number): (lambda ward=ward: _sends(ward)) for number, ward in wards.items()}
        results = rounds(contenders, 1 if quick else 2)
    memory = spread(results, str(large), lambda sample: sample.peak_mb)
    small = spread(results, str(SMALL), lambda sample: sample.peak_mb)
    return [
        Figure(
            name=f"N5 rate at {large:,} readers",
            value=ratio(results, str(large), str(MIDDLE), lambda sample: sample.rate),
            unit=f"× that at {MIDDLE:,}",
            bar=at_least(0.9),
            against=f"{MIDDLE:,}: {plain(spread(results, str(MIDDLE), lambda sample: sample.rate).median)}/s",
            note=f"{plain(spread(results, str(large), lambda sample: sample.seconds).median)} s for all",
        ),
        Figure(
            name=f"N5 the sender's peak of memory at {large:,}",
            value=memory,
            unit="MiB",
            bar=at_most(128),
            against=f"{SMALL:,}: {plain(small.median)} MiB",
        ),
        Figure(
            name=f"N5 memory at {large:,} over that at {SMALL:,}",
            value=Spread.of(one[str(large)].peak_mb - one[str(SMALL)].peak_mb for one in results),
            unit="MiB",
        ),
    ]


RUNS = {"N5": run}
