"""The shared way to measure: rounds, ratios inside one round, medians with their range.

The machine is noisy, and its noise lasts longer than one contender's turn. So every contender runs once in each round,
one after another in the same minute, in an order that turns; a ratio is taken inside one round, and what is told is the
median of the rounds with the least and the most. A figure is always a ratio or CPU for one unit of work; seconds and
rates stand beside it to give a feeling only.

    results = rounds({"ours": ours, "nginx": nginx}, 5)           # ours() -> Sample
    spread = ratio(results, "ours", "nginx", lambda s: s.cpu_us)  # Spread(median, low, high)
    Figure(name="CPU per 304, nginx = 1", value=spread, unit="×", bar=at_most(3), against="nginx 7.1 µs")
"""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "benchmarks" / "peers"
ROUNDS, ROUNDS_QUICK = 5, 2


# What a contender gives


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One contender's turn: how much it did, in which time, with how much CPU and memory."""

    units: float
    seconds: float
    cpu_s: float = 0.0
    peak_mb: float = 0.0
    more: Mapping[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Units a second."""
        return self.units / self.seconds

    @property
    def cpu_us(self) -> float:
        """CPU microseconds for one unit."""
        return self.cpu_s / self.units * 1e6


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A median with the least and the most that stood around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        kept = sorted(values)
        return cls(median=statistics.median(kept), low=kept[0], high=kept[-1])

    def scaled(self, by: float) -> Spread:
        return Spread(median=self.median * by, low=self.low * by, high=self.high * by)

    def __str__(self) -> str:
        return f"{plain(self.median)} ({plain(self.low)}–{plain(self.high)})"


def plain(value: float) -> str:
    """Three figures that mean something, no exponents: 57,461 · 2.31 · 0.063."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 0.1 or size == 0 else f"{value:.3g}"


def rounds(contenders: Mapping[str, Callable[[], T]], number: int = ROUNDS) -> list[dict[str, T]]:
    """Each contender once a round, the order turning by one from round to round. Gives one table for each round."""
    names = list(contenders)
    results = []
    for turn in range(number):
        first = turn % len(names)
        order = names[first:] + names[:first]
        results.append({name: contenders[name]() for name in order})
    return results


def ratio(results: Sequence[Mapping[str, T]], of: str, to: str, value: Callable[[T], float]) -> Spread:
    """`of` divided by `to`, round by round."""
    return Spread.of(value(one[of]) / value(one[to]) for one in results)


def spread(results: Sequence[Mapping[str, T]], of: str, value: Callable[[T], float]) -> Spread:
    """One contender by itself: to give a feeling, never to be judged by."""
    return Spread.of(value(one[of]) for one in results)


# Figures


@dataclass(frozen=True, kw_only=True)
class Bar:
    limit: float
    is_upper: bool

    def holds(self, value: float) -> bool:
        return value <= self.limit if self.is_upper else value >= self.limit

    def __str__(self) -> str:
        return f"{'≤' if self.is_upper else '≥'} {plain(self.limit)}"


def at_most(limit: float) -> Bar:
    return Bar(limit=limit, is_upper=True)


def at_least(limit: float) -> Bar:
    return Bar(limit=limit, is_upper=False)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of a table. `value` None: it was not run, and `note` says what it needs. `bar` None: only reported."""

    name: str
    value: Spread | float | None
    unit: str = ""
    bar: Bar | None = None
    against: str = ""  # the limit or the peer in the same run
    note: str = ""

    @property
    def is_met(self) -> bool | None:
        """None: nothing to meet, or not run."""
        if self.bar is None or self.value is None:
            return None
        return self.bar.holds(self.value.median if isinstance(self.value, Spread) else self.value)

    @property
    def told(self) -> str:
        if self.value is None:
            return "not run"
        number = str(self.value) if isinstance(self.value, Spread) else plain(self.value)
        return f"{number} {self.unit}".rstrip()

    @property
    def verdict(self) -> str:
        return {True: "met", False: "**short**", None: "**not run**" if self.value is None else ""}[self.is_met]


def table(figures: Sequence[Figure]) -> str:
    """Markdown."""
    head = "| Figure | Must | Measured: median (min–max) | | Beside it, same run | Note |\n|---|---|---|---|---|---|"
    lines = [
        f"| {f.name} | {f'{f.bar} {f.unit}'.rstrip() if f.bar else ''} | {f.told} | {f.verdict} | {f.against} | {f.note} |"
        for f in figures
    ]
    return "\n".join([head, *lines])


def write_between(document: Path, key: str, text: str) -> None:
    """Put the text between `<!-- bench KEY -->` and `<!-- end KEY -->`. Raises ValueError where the marks are missing."""
    whole = document.read_text(encoding="utf-8")
    start, end = f"<!-- bench {key} -->", f"<!-- end {key} -->"
    before, found, rest = whole.partition(start)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise ValueError(f"{document.name} has no place for {key}: it needs the marks {start} and {end}")
    document.write_text(f"{before}{start}\n{text}\n{end}{after}", encoding="utf-8")


# What a bench needs


class Missing(RuntimeError):
    """A tool that is not here; the text is a sentence that says where it comes from."""


def tool(name: str, *, debian: str) -> str:
    """The path of a program, found as root's shell would find it. Raises Missing."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))
    if found is None:
        raise Missing(f"{name} is missing: apt-get install {debian}, or make bench.")
    return found


def npm_peer(package: str) -> Path:
    """The folder of an npm package of benchmarks/peers. Raises Missing."""
    tool("node", debian="nodejs npm")
    folder = PEERS / "node_modules" / package
    if not folder.is_dir():
        raise Missing(f"{package} is missing: npm ci in benchmarks/peers, or make bench.")
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    """Raises TimeoutError, which names what did not happen."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.01)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def pinned(cpu: int | None) -> Callable[[], None] | None:
    """For `preexec_fn`: keep a process on one of the processors (taken modulo those that there are)."""
    if cpu is None:
        return None
    mine = sorted(os.sched_getaffinity(0))
    return lambda: os.sched_setaffinity(0, {mine[cpu % len(mine)]})


@contextmanager
def running(
    arguments: Sequence[str | Path],
    *,
    log: Path,
    ready: Callable[[], object] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    cpu: int | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process for the length of a block; what it says goes into `log`. Ended by its own id, and waited for."""
    with log.open("ab") as said:
        process = subprocess.Popen(
            [str(part) for part in arguments],
            env={**os.environ, **(env or {})},
            cwd=cwd or ROOT,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            preexec_fn=pinned(cpu),
        )
    try:
        if ready is not None:
            until(lambda: ready() or process.poll() is not None, f"{arguments[0]} did not come up")
            if process.poll() is not None:
                raise RuntimeError(f"{arguments[0]} ended: {log.read_text(errors='replace')[-2000:]}")
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def finished(
    arguments: Sequence[str | Path], *, seconds: float = 300, cwd: Path | None = None, cpu: int | None = None
) -> tuple[str, float, float]:
    """Run to its end: what it said, the seconds, and the CPU seconds of it and of its children. Raises on failure."""
    before, began = _children_cpu_s(), time.perf_counter()
    done = subprocess.run(
        [str(part) for part in arguments],
        cwd=cwd or ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        preexec_fn=pinned(cpu),
        check=False,
    )
    took = time.perf_counter() - began
    if done.returncode != 0:
        raise RuntimeError(f"{arguments[0]} ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
    return done.stdout + done.stderr, took, _children_cpu_s() - before


def _children_cpu_s() -> float:
    spent = os.times()
    return spent.children_user + spent.children_system


# What a process has used

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def tree_of(pid: int) -> list[int]:
    """A process and everything below it that lives."""
    below: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            below.setdefault(int(fields[1]), []).append(int(entry.name))
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        waiting.extend(below.get(one, ()))
    return found


def cpu_s(pid: int) -> float:
    """CPU seconds that a process, its living descendants and those that it has waited for have used."""
    ticks = 0
    for one in tree_of(pid):
        if fields := _stat(one):
            ticks += sum(int(fields[at]) for at in (11, 12, 13, 14))  # utime stime cutime cstime
    return ticks / _TICKS_PER_S


def peak_mb(pid: int) -> float:
    """The most resident memory (VmHWM) of a process and its living descendants, each at its own peak, in MiB."""
    total = 0
    for one in tree_of(pid):
        try:
            status = Path(f"/proc/{one}/status").read_text(encoding="ascii", errors="replace")
        except OSError:
            continue  # it has just ended
        total += next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")), 0)
    return total / 1024


def _stat(pid: int) -> list[str]:
    """The fields of proc(5) stat after the name, from `state` on; empty for a process that has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def machine() -> str:
    """What a reader must know of this machine to judge a figure."""
    about = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    model = next((line.partition(":")[2].strip() for line in about if line.startswith("model name")), "unknown")
    version = ".".join(map(str, sys.version_info[:3]))
    processors = len(os.sched_getaffinity(0))
    load = f"load {os.getloadavg()[0]:.1f} before" if os.getloadavg()[0] > processors else "quiet before"
    return f"{processors} × {model}, Linux {os.uname().release}, CPython {version}, {load}"
