"""Waiting for something to become so. Tests wait for a condition and never for a length of time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def until(condition: Callable[[], T], seconds: float = 20, *, every: float = 0.02) -> T:
    """What the condition gives once it is true. `seconds` is when to give up, not how long it takes.

    Raises TimeoutError when it does not become true."""
    async with asyncio.timeout(seconds):
        while not (found := condition()):
            await asyncio.sleep(every)
    return found
