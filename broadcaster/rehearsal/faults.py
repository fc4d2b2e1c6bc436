"""Faults that the stand-ins can be told to show, per medium, while they run.

Kept in one small file in the rehearsal folder, so that a test, a page and a stand-in in another process share them.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path


class Kind(StrEnum):
    REFUSE = "refuse"  # no connection is taken
    TEMPORARY = "4xx"  # SMTP 451; HTTP 503
    PERMANENT = "5xx"  # SMTP 550; HTTP 403
    RATE = "429"  # HTTP 429 with a reset time; SMTP 421
    HANG = "hang"  # the connection is taken and nothing is said
    RESET = "reset"  # the connection is cut in the middle
    DROP = "accept_then_drop"  # taken and done, but the answer never arrives: outcome unknown
    DRIP = "slow_drip"  # answers letter by letter, `seconds` for each answer


@dataclass(frozen=True, kw_only=True)
class Fault:
    kind: Kind
    share: float = 1.0  # of the requests that meet it
    stage: str = (
        ""  # "connection", "rcpt", "data" for mail; "posts", "media", "look", "delete", "any" for X; or the first
    )
    domains: tuple[str, ...] = ()  # only for readers at these mail domains
    seconds: float = 1.0
    times: int | None = None  # only the first so many; None: until it is lifted


class Faults:
    """Reads the file again only when it has changed."""

    def __init__(self, path: Path, *, seed: int = 0) -> None:
        self._path = path
        self._read_at: tuple[int, int] | None = None
        self._faults: dict[str, Fault] = {}
        self._met: dict[str, int] = {}
        self._dice = random.Random(seed)  # noqa: S311 - which request fails in a rehearsal is no secret

    def set(self, medium: str, fault: Fault | None) -> None:
        faults = self._load()
        if fault is None:
            faults.pop(medium, None)
        else:
            faults[medium] = fault
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".part")
        partial.write_text(json.dumps({name: asdict(value) for name, value in faults.items()}), encoding="utf-8")
        os.replace(partial, self._path)

    def all(self) -> Mapping[str, Fault]:
        return dict(self._load())

    def meet(self, medium: str, *, stage: str = "", domain: str = "") -> Fault | None:
        """The fault that this request meets, or None. Counts it."""
        fault = self._load().get(medium)
        if fault is None or (fault.stage and stage and fault.stage != stage):
            return None
        if fault.domains and domain not in fault.domains:
            return None
        met = self._met.get(medium, 0)
        if fault.times is not None and met >= fault.times:
            return None
        if fault.share < 1.0 and self._dice.random() >= fault.share:
            return None
        self._met[medium] = met + 1
        return fault

    def _load(self) -> dict[str, Fault]:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            self._faults, self._read_at = {}, None
            return self._faults
        read_at = (status.st_mtime_ns, status.st_ino)
        if read_at != self._read_at:
            documents = json.loads(self._path.read_text(encoding="utf-8"))
            self._faults = {name: _fault(document) for name, document in documents.items()}
            self._met = dict.fromkeys(self._faults, 0)
            self._read_at = read_at
        return self._faults


def _fault(document: Mapping[str, object]) -> Fault:
    values = {**document, "kind": Kind(str(document["kind"])), "domains": tuple(document.get("domains") or ())}  # type: ignore[arg-type]  # from our own file
    return Fault(**values)  # type: ignore[arg-type]  # from our own file
