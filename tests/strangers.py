"""Channels that a stranger might write: small, in memory, with the same contract as the real ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar, Self

from broadcaster.channel import (
    Kit,
    Letter,
    Outcome,
    OutcomeUnknown,
    Page,
    Payload,
    PermanentFailure,
    Receipt,
)
from broadcaster.message import LANGUAGES, Message, Mode


@dataclass(kw_only=True)
class Billboard:
    """A push: one line on a wall."""

    name: ClassVar[str] = "billboard"
    mode: Mode
    shown: list[str] = field(default_factory=list)
    retracted: list[str] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    fails: Exception | None = None  # until it is lifted
    drops: int = 0  # so many are shown without a word
    blind: Exception | None = None  # nobody can say what is shown
    looks: int = 0
    gate: asyncio.Event | None = None
    at_gate: int = 0  # posts that wait there

    @classmethod
    def built(cls, kit: Kit) -> Self:
        return cls(mode=kit.mode)

    def missing(self) -> Sequence[str]:
        return ()

    def compose(self, message: Message) -> Sequence[Payload]:
        return [Payload(part="1", content={"text": message.info.headline})]

    async def deliver(self, payload: Payload, *, key: str, previous: Receipt | None) -> Receipt:
        if self.gate is not None:
            self.at_gate += 1
            await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        if self.fails is not None:
            raise self.fails
        self.shown.append(key)
        if self.drops:
            self.drops -= 1
            raise OutcomeUnknown("the wall said nothing")
        return Receipt(evidence=f"wall {len(self.shown)}")

    async def find(self, payload: Payload, *, key: str, previous: Receipt | None) -> Receipt | None:
        self.looks += 1
        if self.blind is not None:
            raise self.blind
        return Receipt(evidence="found") if key in self.shown else None

    async def retract(self, receipt: Receipt) -> Receipt:
        self.retracted.append(receipt.evidence)
        return Receipt()

    async def close(self) -> None:
        return None


@dataclass(kw_only=True)
class Carrier:
    """A mailing whose letters land in a list; how each goes can be told."""

    name: ClassVar[str] = "carrier"
    mode: Mode
    lines: int = 4
    landed: list[Letter] = field(default_factory=list)
    outcome: Callable[[Letter], Outcome] = lambda letter: Outcome(receipt=Receipt(evidence="250 ok"))
    gate: asyncio.Event | None = None
    is_gated: Callable[[Letter], bool] = lambda letter: True
    hung_domains: frozenset[str] = frozenset()
    loaded: set[tuple[int, str]] = field(default_factory=set)
    opened: int = 0
    at_gate: int = 0  # letters that wait there

    @classmethod
    def built(cls, kit: Kit) -> Self:
        return cls(mode=kit.mode)

    def missing(self) -> Sequence[str]:
        return ()

    def compose(self, message: Message) -> Sequence[Payload]:
        return [
            Payload(part=f"{language}.{form}", content={"text": message.in_language_or_first(language).headline})
            for language in LANGUAGES
            for form in ("text", "html")
        ]

    def load(self, issue: int, payload: Payload) -> None:
        self.loaded.add((issue, payload.part))

    def unload(self, issue: int) -> None:
        self.loaded = {pair for pair in self.loaded if pair[0] != issue}

    async def open(self) -> CarrierLine:
        self.opened += 1
        return CarrierLine(self)

    async def close(self) -> None:
        return None


class CarrierLine:
    def __init__(self, carrier: Carrier) -> None:
        self.carrier = carrier

    async def carry(self, take: Callable[[], Letter | None], settle: Callable[[Letter, Outcome], None]) -> None:
        while (letter := take()) is not None:
            assert (letter.issue, letter.part) in self.carrier.loaded
            if letter.domain in self.carrier.hung_domains:
                await asyncio.Event().wait()
            if self.carrier.gate is not None and self.carrier.is_gated(letter):
                self.carrier.at_gate += 1
                await self.carrier.gate.wait()
            await asyncio.sleep(0)
            outcome = self.carrier.outcome(letter)
            if outcome.failure is None:
                self.carrier.landed.append(letter)
            settle(letter, outcome)

    async def close(self) -> None:
        return None


@dataclass(kw_only=True)
class Noticeboard:
    """A board: the headlines of everything in force."""

    name: ClassVar[str] = "noticeboard"
    shows_all: ClassVar[bool] = False
    mode: Mode
    pages: dict[str, str] = field(default_factory=dict)
    failures: list[Exception] = field(default_factory=list)
    fails: Exception | None = None  # until it is lifted

    @classmethod
    def built(cls, kit: Kit) -> Self:
        return cls(mode=kit.mode)

    def missing(self) -> Sequence[str]:
        return ()

    def compose(self, in_force: Sequence[Message], at: datetime) -> Sequence[Page]:
        lines = sorted(f"{message.identifier} {message.info.headline}" for message in in_force)
        if self.mode is Mode.DRILL:
            lines.insert(0, "訓練")
        return [Page(path="noticeboard.txt", content_type="text/plain", body="\n".join(lines).encode())]

    async def deliver(self, page: Page) -> Receipt:
        if self.failures:
            raise self.failures.pop(0)
        if self.fails is not None:
            raise self.fails
        self.pages[page.path] = page.body.decode()
        return Receipt(evidence=page.etag)

    async def close(self) -> None:
        return None


def refused(text: str = "550 no") -> Outcome:
    return Outcome(failure=PermanentFailure(text), stage="RCPT")
