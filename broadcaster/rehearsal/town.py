"""The rehearsal town as one process: the mail relay and X, and where what they received lies."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path

import structlog

from broadcaster.clock import Clock
from broadcaster.rehearsal import smtp, x
from broadcaster.rehearsal.faults import Faults

log = structlog.get_logger(__name__)


def folder_of(home: Path) -> Path:
    return home / "rehearsal"


def mail_folder(home: Path) -> Path:
    return folder_of(home) / "mail"


def x_folder(home: Path) -> Path:
    return folder_of(home) / "x"


def faults_of(home: Path) -> Faults:
    return Faults(folder_of(home) / "faults.json")


async def run(home: Path, clock: Clock, *, ports_file: Path) -> None:
    """Until cancelled. Takes the same ports as last time, so that a sender finds the stand-ins again after a restart."""
    faults = faults_of(home)
    before = _ports(ports_file)
    mail = await _on(smtp.start, mail_folder(home), faults, clock, before.get("email", 0))
    social = await _on(x.start, x_folder(home), faults, clock, before.get("x", 0))
    ports_file.parent.mkdir(parents=True, exist_ok=True)
    partial = ports_file.with_suffix(".part")
    partial.write_text(json.dumps({"email": mail.port, "x": social.port}), encoding="utf-8")
    os.replace(partial, ports_file)
    log.info("rehearsal.started", email=mail.port, x=social.port)
    try:
        await asyncio.Event().wait()
    finally:
        await mail.close()
        await social.close()


async def _on(start, folder: Path, faults: Faults, clock: Clock, port: int):  # type: ignore[no-untyped-def]  # either stand-in
    try:
        return await start(folder, faults, clock=clock, port=port)
    except OSError:
        return await start(folder, faults, clock=clock, port=0)  # somebody else has last time's port


def _ports(path: Path) -> Mapping[str, int]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
