"""What the product reaches, measured beside a limit or a peer in the same run.

    python -m benchmarks                 everything
    python -m benchmarks N9 N11 --quick  these, shorter
    python -m benchmarks --write         and put the tables into docs/benchmarks.md

A bench is a module with a `TITLE`, a docstring as `WHY` (what is measured, with which command, beside what, what limits
it, how it grows), and `RUNS`: each number that it answers for with the function that measures it, given whether to be
quick:

    TITLE = "Polls of a feed"
    WHY = __doc__
    RUNS = {"N9": run}          # def run(quick: bool) -> list[Figure]

A module without `RUNS` is a helper. The shared way to measure stands in `rounds.py`.
"""
