"""The product's mail lines with nobody keeping a ledger: the ceiling that the ledger is measured against.

    python -m benchmarks.wire PORT NUMBER

A process with the product's mailroom, lines and templates; where the database stands there is a list of letters, and what
became of them is only counted. It prints `{"sent": …, "seconds": …, "cpu_s": …, "peak_mb": …}`.
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import sys
import time
from collections.abc import Sequence
from typing import cast

import uvloop

from benchmarks.rounds import Sample, finished
from benchmarks.ward import DOMAINS, SENDER_CPU, a_ward
from broadcaster.delivery import Lane, State
from broadcaster.mailroom import Mailroom, Relay, Worker
from broadcaster.message import Mode
from broadcaster.signals import LocalSignals
from broadcaster.store import deliveries, issues
from broadcaster.store.database import Database
from broadcaster.store.deliveries import Delivery
from broadcaster.store.recipients import Claimed, Record, Taken
from channels.email import Email


def without_ledger(port: int, number: int, *, cpu: int | None = SENDER_CPU) -> Sample:
    """In a process of its own."""
    said, _, _ = finished([sys.executable, "-m", "benchmarks.wire", str(port), str(number)], cpu=cpu)
    told = json.loads(said.strip().splitlines()[-1])
    if told["sent"] != number:
        raise RuntimeError(f"{told['sent']} of {number} mails were taken")
    return Sample(units=number, seconds=told["seconds"], cpu_s=told["cpu_s"], peak_mb=told["peak_mb"])


class NoLedger:
    """Stands where the database stands: so many letters wait in it, and what becomes of them is only counted."""

    def __init__(self, mailing: Delivery, letters: list[Claimed]) -> None:
        self._mailing, self._letters, self._waiting = mailing, letters, list(letters)
        self.settled = self._leases = 0

    async def reads(self, work: object, *args: object) -> list[Delivery]:
        return [self._mailing]

    async def writes_next(
        self,
        work: object,
        record: Record,
        over: object,
        recalled: object,
        wanted: Sequence[tuple[Delivery, int]],
    ) -> list[Taken]:
        for by_end in record.by_mailing(record.leases).values():
            for end, said in by_end.items():
                self.settled += len(said) if end.state is State.DELIVERED else 0
                self._waiting += [self._letters[n] for n in said] if end.state is State.QUEUED else []
        claimed = []
        for _, most in wanted:
            self._leases += 1
            claimed.append(Taken(self._leases, self._waiting[-most:], is_all=len(self._waiting) <= most))
            del self._waiting[-most:]
        return claimed


async def _send(room: Mailroom, ledger: NoLedger, number: int) -> tuple[float, float]:
    """The seconds until the last letter is counted, and the CPU seconds."""
    gc.freeze()
    began, spent = time.perf_counter(), time.process_time()
    running = asyncio.create_task(room.run())
    while ledger.settled < number:
        await asyncio.sleep(0.005)
    took, spent = time.perf_counter() - began, time.process_time() - spent
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return took, spent


def main() -> None:
    port, number = int(sys.argv[1]), int(sys.argv[2])
    with a_ward(port) as ward:
        ward.readers(1)
        identifier = ward.bulk()
        database, email = ward.app.database, ward.app.pipeline.channels[Mode.LIVE]["email"]
        assert isinstance(email, Email)
        with database.read() as connection:
            issue = issues.get(connection, identifier)
            assert issue is not None
            rows = deliveries.of_issue(connection, issue.id)
        mailing = next(row for row in rows if row.part == "ja.html")
        letters = [
            Claimed(
                n,
                0,
                f"reader-{n}@mail-{n % DOMAINS}.example",
                f"mail-{n % DOMAINS}.example",
                0,
                is_in_doubt=False,
                due_at=0,
            )
            for n in range(number)
        ]
        ledger = NoLedger(mailing, letters)
        room = Mailroom(
            channel=email,
            database=cast(Database, ledger),
            clock=ward.app.clock,
            signals=LocalSignals(),
            worker=Worker(id=1, role="bench", pid=0),
            lanes=list(Lane),
            relay=Relay(0, 0),
        )
        with database.read() as connection:
            room._open[mailing.id] = room._opened(connection, mailing)  # what the first claim does
        seconds, cpu_s = uvloop.run(_send(room, ledger, number))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"sent": ledger.settled, "seconds": seconds, "cpu_s": cpu_s, "peak_mb": peak_mb}))


if __name__ == "__main__":
    main()
