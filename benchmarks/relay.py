"""An emergency behind 3,000 routine mails, where the relay passes only 20 a second: a full queue undoes all overtaking.

Measured: from the act of issuing an emergency to the instant at which the relay's next hop has taken its last mail (20
readers: one second's worth). The relay is a real Postfix (`qmgr_message_active_limit = 2000`), the next hop takes 20
mails a second in all and files when each arrived. The product knows its relay's pace (`relay_mails_per_s = 20`) and
keeps the routine mails in its own ledger, where an emergency overtakes them. In the same minutes, each with a Postfix and
a next hop of its own:

* the same 3,000 mails handed to the relay by a plain sender (smtp-source), the emergency after them;
* the product as it is shipped, which knows no pace and so hands over all that the relay accepts.

    python -m benchmarks N7

What limits it: the mails that the product lets wait in the relay, and those on its lines, come out before the emergency;
and an emergency of n readers itself takes n / 20 seconds. How it grows: not with the backlog in the ledger; the others
wait for the whole of it, a second for every 20 mails.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from benchmarks.rounds import ROOT, ROUNDS, ROUNDS_QUICK, Figure, Spread, at_most, free_port, plain, until
from benchmarks.sinks import Postfix, postfix, smtp_source
from benchmarks.ward import EMERGENCY, ROUTINE, Ward, a_ward

TITLE = "An emergency behind a slow relay"
WHY = __doc__

PER_S = 20
WAITING, WAITING_QUICK = 3_000, 400
READERS_OF_ALERTS = 20
BETWEEN = 5 * PER_S
"""Routine mails that go on between two emergencies: the relay has as many waiting as the product lets it."""


_LONGEST_S = 300.0
_ALERTED = "alerted@mail-0.example"


class NextHop:
    """Takes `PER_S` mails a second in all, over as many sessions as there are, and remembers when it took each."""

    def __init__(self) -> None:
        self._taken: list[tuple[str, float]] = []  # the recipient, and the instant as time.monotonic() gives it
        self._next = 0.0

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        now = time.monotonic()
        self._next = max(self._next, now) + 1 / PER_S
        await asyncio.sleep(self._next - now)
        self._taken += [(recipient, time.monotonic()) for recipient in envelope.rcpt_tos]
        return "250 2.0.0 passed on"

    @property
    def taken(self) -> int:
        return len(self._taken)

    def arrivals(self, is_meant: Callable[[str], bool], since: float) -> list[float]:
        """Seconds after `since` at which mails to these recipients were taken."""
        return [at - since for recipient, at in list(self._taken) if at >= since and is_meant(recipient)]


@contextmanager
def a_slow_relay() -> Iterator[tuple[Postfix, NextHop]]:
    hop = NextHop()
    port = free_port()
    controller = Controller(hop, hostname="127.0.0.1", port=port, ready_timeout=30)
    controller.start()
    try:
        way = {"default_transport": "smtp", "relayhost": f"[127.0.0.1]:{port}"}
        with postfix(cpu=None, qmgr_message_active_limit="2000", **way) as relay:
            yield relay, hop
    finally:
        controller.stop()


def run(quick: bool) -> list[Figure]:
    number, waiting = (ROUNDS_QUICK, WAITING_QUICK) if quick else (ROUNDS, WAITING)
    # They mostly wait, so none takes processor time from another. Processes, for one holds only one assembled product.
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as others:
        behind = others.submit(plain_sender, waiting)
        unbounded = others.submit(product, waiting, 1, per_s=0)
        bounded = product(waiting + number * 2 * BETWEEN, number, per_s=PER_S)
    lasts, firsts = Spread.of(last for _, last in bounded), Spread.of(first for first, _ in bounded)
    beside = f"plain sender {plain(behind.result()[1])} s; product without the pace {plain(unbounded.result()[0][1])} s"
    name = f"emergency delivered, {waiting:,} routine mails waiting, {PER_S} mails/s"
    note = f"the last of {READERS_OF_ALERTS}; its first after {firsts} s"
    return [Figure(name=name, value=lasts, unit="s", bar=at_most(3), against=beside, note=note)]


def plain_sender(waiting: int) -> tuple[float, float]:
    """First and last arrival of an emergency that is handed over after the routine mails, in seconds."""
    with a_slow_relay() as (relay, hop):
        smtp_source("127.0.0.1", relay.port, messages=waiting, cpu=None, seconds=_LONGEST_S)
        since = time.monotonic()
        smtp_source("127.0.0.1", relay.port, messages=READERS_OF_ALERTS, sessions=1, cpu=None, recipient=_ALERTED)
        return _first_and_last(hop, _ALERTED.__eq__, since)


def product(waiting: int, number: int, *, per_s: int) -> list[tuple[float, float]]:
    """So many emergencies, one after another, while routine mails wait: first and last arrival of each."""
    with (
        a_slow_relay() as (relay, hop),
        a_configuration(per_s) as config,
        a_ward(relay.port, BROADCASTER_CONFIG=str(config)) as ward,
    ):
        ward.readers(waiting, topics=ROUTINE)
        ward.readers(READERS_OF_ALERTS, topics=EMERGENCY)
        ward.starts_sender(cpu=None)
        bulk = ward.bulk()
        if not per_s:  # the worst of it: as soon as the relay has them all
            ward.sent(bulk, within_s=_LONGEST_S)
            return [_an_emergency(ward, hop, waiting)]
        emergencies = []
        for _ in range(number):
            before = hop.taken
            until(lambda before=before: hop.taken >= before + BETWEEN, "the routine mails do not go on", 60)
            emergencies.append(_an_emergency(ward, hop, waiting))
        return emergencies


def _an_emergency(ward: Ward, hop: NextHop, waiting: int) -> tuple[float, float]:
    since = time.monotonic()
    ward.alert()
    return _first_and_last(hop, lambda recipient: _number_of(recipient) >= waiting, since)


def _number_of(recipient: str) -> int:
    found = re.match(r"reader-(\d+)@", recipient)
    assert found is not None
    return int(found[1])


def _first_and_last(hop: NextHop, is_meant: Callable[[str], bool], since: float) -> tuple[float, float]:
    until(lambda: len(hop.arrivals(is_meant, since)) >= READERS_OF_ALERTS, "the emergency is not delivered", _LONGEST_S)
    arrivals = hop.arrivals(is_meant, since)
    return min(arrivals), max(arrivals)


@contextmanager
def a_configuration(per_s: int) -> Iterator[Path]:
    """The shipped one, but for the relay's pace."""
    with tempfile.TemporaryDirectory(prefix="config", dir="/var/tmp") as folder:
        config = Path(folder) / "config"
        shutil.copytree(ROOT / "config", config)
        file = config / "channels.toml"
        shipped = file.read_text(encoding="utf-8")
        changed = re.sub(r"(?m)^relay_mails_per_s = 0\b", f"relay_mails_per_s = {per_s}", shipped)
        assert per_s == 0 or changed != shipped
        file.write_text(changed, encoding="utf-8")
        yield config


RUNS = {"N7": run}
