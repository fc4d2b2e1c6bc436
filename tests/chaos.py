"""The crash matrix: every step at which a process can die, on both databases, by seed.

    make chaos                                              the whole matrix
    make chaos CHAOS="--step mail.answered --seed 7"        one step, one seed, on both databases

A run is a small town of its own: real processes, real SMTP, the shipped channels. One process kills itself at the step
(`chaos_process.py`), is started again as the supervisor would do it, and the work goes on to its end. Then everything
is compared: the ledger with what the relay and X received, the public files with a fresh composition, the audit chain,
the plans. The seed chooses how many readers there are, at which call the blow falls, and whether a second one follows.

A run reports sentences; it has passed when there is none.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from broadcaster import boards
from broadcaster.message import Mode
from tests import servers
from tests.chaos_checks import Ledger, Watch, everything_wrong, repeats, taken_up_after
from tests.chaos_run import DATABASES, Broken, Run, Step
from tests.chaos_steps import NAMED
from tests.town import a_free_port, a_town


@dataclass(frozen=True, kw_only=True)
class Outcome:
    step: str
    database: str
    seed: int
    kills: int = 0
    mails: int = 0
    repeats: int = 0
    taken_up: timedelta = timedelta()
    seconds: float = 0.0
    faults: tuple[str, ...] = ()

    @property
    def again(self) -> str:
        """The command that repeats it."""
        return f'make chaos CHAOS="--step {self.step} --database {self.database} --seed {self.seed}"'

    def __str__(self) -> str:
        line = (
            f"{'FAULT' if self.faults else 'held '} {self.step:17} {self.database:10} seed {self.seed:<3} "
            f"kills {self.kills} mails {self.mails:5} repeats {self.repeats:3} "
            f"taken up {self.taken_up.total_seconds():4.1f} s  in {self.seconds:4.1f} s"
        )
        return "\n".join(
            [line, *(f"      {fault}" for fault in self.faults), *([f"      {self.again}"] * bool(self.faults))]
        )


Spoil = Callable[[Run, Watch], None]


def carry_out(
    step: str,
    database: str,
    seed: int,
    folder: Path,
    environment: Mapping[str, str],
    *,
    spoil: Spoil = lambda run, watch: None,
) -> Outcome:
    """One run, in this thread. `spoil` changes what was found before it is judged: the judge is judged so."""
    return asyncio.run(_carry_out(NAMED[step], database, seed, folder, environment, spoil))


async def _carry_out(
    step: Step, database: str, seed: int, folder: Path, environment: Mapping[str, str], spoil: Spoil
) -> Outcome:
    began = time.monotonic()
    dice = random.Random(f"{step.name} {database} {seed}")
    outcome = Outcome(step=step.name, database=database, seed=seed)
    with a_town(folder, **environment) as town, Watch(boards.public_folder(town.home, Mode.LIVE)) as watch:
        run = Run(town=town, dice=dice, step=step, port=a_free_port())
        town.readers(dice.randint(400, 700))
        run.start("rehearsal")
        faults: list[str] = []
        try:
            await step.scene(run)
            await run.settled()
            faults += run.ended_by_themselves()
        except Broken as broken:
            faults.append(str(broken))
        town.stop()
        watch.look()
        spoil(run, watch)
        ledger = Ledger.of(run)
        faults = faults or list(everything_wrong(run, ledger, watch))
        return replace(
            outcome,
            kills=run.kills.total(),
            mails=town.arrived(),
            repeats=repeats(run),
            taken_up=taken_up_after(run, ledger),
            seconds=time.monotonic() - began,
            faults=tuple(faults),
        )


class Places:
    """Where runs take place: a folder each, and a fresh database of one server for all of them."""

    def __init__(self, postgres: str | None = None) -> None:
        """`postgres`: the URL of a server that runs already."""
        self._postgres = postgres
        self._stack = ExitStack()
        self._urls: tuple[str, str] | None = None
        self._turn = threading.Lock()

    def __enter__(self) -> Places:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, step: str, database: str, seed: int) -> Outcome:
        with self._environment(database) as environment, tempfile.TemporaryDirectory(prefix="chaos") as folder:
            return carry_out(step, database, seed, Path(folder), environment)

    @contextmanager
    def _environment(self, database: str) -> Iterator[dict[str, str]]:
        if database == "sqlite":
            yield {}
            return
        with self._turn:
            if self._urls is None:
                self._urls = (
                    self._postgres or self._stack.enter_context(servers.postgres()),
                    self._stack.enter_context(servers.valkey()),
                )
        server, redis = self._urls
        with servers.a_database(server) as url:
            yield {"BROADCASTER_DATABASE_URL": url, "BROADCASTER_REDIS_URL": redis}


def table(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """In Markdown, as `docs/chaos.md` has it."""
    yield "| Step | Database | Runs | Kills | Mails | Repeats, most in a run | Taken up, longest | Faults |"
    yield "|---|---|--:|--:|--:|--:|--:|--:|"
    for step in [*dict.fromkeys(outcome.step for outcome in outcomes), "all"]:
        for database in DATABASES:
            mine = [o for o in outcomes if o.database == database and step in (o.step, "all")]
            if mine:
                yield (
                    f"| {step} | {database} | {len(mine)} | {sum(o.kills for o in mine)} | {sum(o.mails for o in mine)} "
                    f"| {max(o.repeats for o in mine)} | {max(o.taken_up for o in mine).total_seconds():.1f} s "
                    f"| {sum(bool(o.faults) for o in mine)} |"
                )


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description="The crash matrix: every step on both databases.")
    parser.add_argument("--step", choices=sorted(NAMED), action="append", help="only this step; may be given again")
    parser.add_argument("--database", choices=DATABASES, action="append")
    parser.add_argument("--seed", type=int, help="only this seed")
    parser.add_argument("--seeds", type=int, default=2, help="seeds from 1 to this one (2)")
    parser.add_argument("--at-once", type=int, default=3, help="towns at the same time (3)")
    wanted = parser.parse_args()
    seeds = [wanted.seed] if wanted.seed is not None else list(range(1, wanted.seeds + 1))
    runs = [(s, d, seed) for seed in seeds for s in wanted.step or NAMED for d in wanted.database or DATABASES]
    outcomes: list[Outcome] = []
    with Places() as places, ThreadPoolExecutor(wanted.at_once) as pool:
        for done in as_completed([pool.submit(places.run, *run) for run in runs]):
            outcomes.append(done.result())
            print(outcomes[-1], flush=True)
    outcomes.sort(key=lambda outcome: list(NAMED).index(outcome.step))
    print("", *table(outcomes), "", sep="\n")
    if failed := [outcome for outcome in outcomes if outcome.faults]:
        print("Faults. To repeat one:", *(outcome.again for outcome in failed), sep="\n")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
