"""The product's mail lines with nobody keeping a ledger: the ceiling that the ledger is measured against.

    python -m benchmarks.wire PORT NUMBER

A process that splices and sends so many mails over twenty lines and writes nothing down; it prints
`{"sent": …, "seconds": …, "cpu_s": …, "peak_mb": …}`. The lines, the template and the reader's own link are the
product's; the letters come from a list, and what became of them is only counted.
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import sys
import time
from typing import cast

import uvloop

from benchmarks.rounds import Sample, finished
from benchmarks.ward import DOMAINS, SENDER_CPU, a_ward, the_notice
from broadcaster.channel import Letter, Outcome
from broadcaster.message import Mode
from channels.email import Email

_ISSUE = 1


def without_ledger(port: int, number: int, *, cpu: int | None = SENDER_CPU) -> Sample:
    """In a process of its own."""
    said, _, _ = finished([sys.executable, "-m", "benchmarks.wire", str(port), str(number)], cpu=cpu)
    told = json.loads(said.strip().splitlines()[-1])
    if told["sent"] != number:
        raise RuntimeError(f"{told['sent']} of {number} mails were taken")
    return Sample(units=number, seconds=told["seconds"], cpu_s=told["cpu_s"], peak_mb=told["peak_mb"])


async def _send(email: Email, letters: list[Letter]) -> tuple[int, float, float]:
    """How many were taken, the seconds from the first letter to the last answer, and the CPU seconds."""
    taken = 0

    def settle(letter: Letter, outcome: Outcome) -> None:
        nonlocal taken
        taken += outcome.receipt is not None

    lines = await asyncio.gather(*(email.open() for _ in range(email.lines)))
    gc.freeze()
    began, spent = time.perf_counter(), time.process_time()
    await asyncio.gather(*(line.carry(lambda: letters.pop() if letters else None, settle) for line in lines))
    took, spent = time.perf_counter() - began, time.process_time() - spent
    await asyncio.gather(*(line.close() for line in lines))
    return taken, took, spent


def main() -> None:
    port, number = int(sys.argv[1]), int(sys.argv[2])
    with a_ward(port) as ward:
        email = cast(Email, ward.app.pipeline.channels[Mode.LIVE]["email"])
        notice = the_notice(ward.app, ward.app.clock.now())
        payload = next(payload for payload in email.compose(notice) if payload.part == "ja.html")
        email.load(_ISSUE, payload)
        letters = [
            Letter(
                key=n,
                part=payload.part,
                address=f"reader-{n}@mail-{n % DOMAINS}.example",
                domain=f"mail-{n % DOMAINS}.example",
                subscriber=n,
                epoch=0,
                issue=_ISSUE,
                is_drill=False,
                category=notice.category,
            )
            for n in range(number)
        ]
        sent, seconds, cpu_s = uvloop.run(_send(email, letters))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"sent": sent, "seconds": seconds, "cpu_s": cpu_s, "peak_mb": peak_mb}))


if __name__ == "__main__":
    main()
