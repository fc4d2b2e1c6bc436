"""`python -m benchmarks [N1 N9 …] [--quick] [--write]`: run, print the tables, and put them into docs/benchmarks.md."""

from __future__ import annotations

import argparse
import importlib
import logging
import pkgutil
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import structlog

import benchmarks
from benchmarks.rounds import ROOT, Figure, Missing, machine, table, write_between

DOCUMENT = ROOT / "docs" / "benchmarks.md"

Runs = Mapping[str, Callable[[bool], list[Figure]]]


def main() -> int:
    """0 when every figure was measured and meets its bar."""
    asked = _arguments()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    known = _benches()
    numbers = [name.upper() for name in asked.numbers] or sorted(known, key=_in_order)
    unknown = [name for name in numbers if name not in known]
    if unknown:
        print(f"There is no {', '.join(unknown)}; there are {', '.join(sorted(known, key=_in_order))}.")
        return 2
    all_figures: list[Figure] = []
    for number in numbers:
        title, run = known[number]
        began, here = time.monotonic(), machine()
        print(f"\n{number} {title} … ({here})", flush=True)
        figures = _measured(number, run, asked.quick)
        all_figures += figures
        print(table(figures))
        print(f"({time.monotonic() - began:.0f} s)", flush=True)
        if asked.write:
            how = " Shortened (`--quick`): no figure to quote." if asked.quick else ""
            try:
                write_between(DOCUMENT, number, f"{table(figures)}\n\n{here}; {_today()}.{how}")
            except ValueError as error:  # the other tables are written all the same
                print(error)
    short = [f for f in all_figures if f.is_met is False]
    not_run = [f for f in all_figures if f.value is None]
    print(f"\n{len(all_figures)} figures, {len(short)} short, {len(not_run)} not run.")
    for figure in (*short, *not_run):
        print(f"  {figure.name}: {figure.told}{f', must {figure.bar}' if figure.bar else ''} {figure.note}".rstrip())
    return 1 if short or not_run else 0


def _measured(number: str, run: Callable[[bool], list[Figure]], quick: bool) -> list[Figure]:
    """A bench that cannot run is a line in the table, and the others go on."""
    try:
        return run(quick)
    except Missing as missing:
        return [Figure(name=number, value=None, note=str(missing))]
    except Exception as error:
        traceback.print_exc()
        return [
            Figure(name=number, value=None, note=f"it broke off: {type(error).__name__}: {error}".replace("|", "/"))
        ]


def _benches() -> dict[str, tuple[str, Callable[[bool], list[Figure]]]]:
    """Every number with its title and what measures it. A bench whose library is missing stays in the list."""
    found: dict[str, tuple[str, Callable[[bool], list[Figure]]]] = {}
    for info in pkgutil.iter_modules(benchmarks.__path__):
        if info.name.startswith("__") or info.ispkg:
            continue
        try:
            module = importlib.import_module(f"benchmarks.{info.name}")
        except ImportError as error:
            if (error.name or "").startswith("benchmarks"):
                raise
            found[info.name.upper()] = (info.name, _lacking(f"{error.name} is missing: make bench installs it."))
            continue
        runs: Runs = getattr(module, "RUNS", {})
        found.update({number: (module.TITLE, run) for number, run in runs.items()})
    return found


def _lacking(why: str) -> Callable[[bool], list[Figure]]:
    def run(quick: bool) -> list[Figure]:
        raise Missing(why)

    return run


def _in_order(number: str) -> tuple[int, str]:
    digits = "".join(char for char in number if char.isdigit())
    return (int(digits) if digits else 99, number)


def _today() -> str:
    return datetime.now(UTC).date().isoformat()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("numbers", nargs="*", metavar="N", help="N1, N9 …; all of them by default")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds, to see that it works")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
