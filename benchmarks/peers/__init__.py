"""What other people send mail with, each as its documentation says, as a process of its own.

    nodemailer("127.0.0.1", port, 20_000)       # Sample(units=20_000, seconds=…, cpu_s=…, peak_mb=…)
    django("127.0.0.1", port, 10_000)
    aiosmtplib_each("127.0.0.1", port, 5_000)

Every peer sends the same words (`words.json`: the product's own sample notice N14, 3 KB as a mail of text and HTML), multipart, to a
reader of its own each time, with a Message-ID and a leaving link of that reader's own, and nobody keeps a ledger. Seconds
and CPU count from the first connection attempt to the last answer: starting node or Python is not in them. On the
wire a mail has 3.4 (Django, 8bit) to 4.3 KB (the others, base64); the product's has 4.5.

nodemailer comes by `npm ci` in this folder, Django by `benchmarks/requirements.lock` into `benchmarks/.venv`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.rounds import PEERS, ROOT, Missing, Sample, finished, npm_peer, tool

CLIENT_CPU = 0
LONGEST_S = 600.0


def nodemailer(host: str, port: int, number: int, *, cpu: int | None = CLIENT_CPU) -> Sample:
    """The pool: 20 connections, no limit of messages for each. Raises Missing without node or the package."""
    npm_peer("nodemailer")
    return _sample([tool("node", debian="nodejs npm"), PEERS / "nodemailer_pool.mjs"], host, port, number, cpu)


def django(host: str, port: int, number: int, *, cpu: int | None = CLIENT_CPU) -> Sample:
    """`send_messages` over one open connection. Raises Missing without Django."""
    return _sample([_python_with("django"), PEERS / "django_send.py"], host, port, number, cpu)


def aiosmtplib_each(host: str, port: int, number: int, *, cpu: int | None = CLIENT_CPU) -> Sample:
    """An EmailMessage for each reader, over 20 open connections. With the product's own Python and library."""
    return _sample([sys.executable, PEERS / "aiosmtplib_each.py"], host, port, number, cpu)


def _sample(program: list[str | Path], host: str, port: int, number: int, cpu: int | None) -> Sample:
    said, _, _ = finished([*program, host, str(port), str(number)], seconds=LONGEST_S, cpu=cpu)
    told = json.loads(said.strip().splitlines()[-1])
    if told["sent"] != number:
        raise RuntimeError(f"{program[-1]}: {told['sent']} of {number} mails were taken")
    return Sample(units=number, seconds=told["seconds"], cpu_s=told["cpu_s"], peak_mb=told["peak_mb"])


def _python_with(package: str) -> Path:
    """The benchmarks' own Python. Raises Missing when it has no such package."""
    folder = ROOT / "benchmarks" / ".venv"
    if not any(folder.glob(f"lib/python3*/site-packages/{package}/__init__.py")):
        raise Missing(f"{package} is missing: make bench installs it (benchmarks/requirements.lock).")
    return folder / "bin" / "python"
