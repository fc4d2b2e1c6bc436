"""A real browser for the tests. Each call of it has an end: an answer that was lost on the way fails the test with the
page's address, in seconds, instead of keeping it until the whole test is cut off.

*Why here:* Playwright limits what waits for a page (a click, a navigation), but not what only asks (`evaluate`,
`content`, `title`, `count`). Such an answer has been lost on a busy machine.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from playwright import async_api
from playwright.async_api import Browser, async_playwright

ARTIFACTS = Path(__file__).parent / ".artifacts"
CHROMIUM = "/usr/bin/chromium"  # a browser that is missing fails these tests; it does not skip them
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
ANSWER_S = 45.0
"""Longer than Playwright's own limit of 30 s, which says more: it comes first wherever it applies."""

_ASKED = ("BrowserType", "Browser", "BrowserContext", "CDPSession", "Page", "Frame", "Locator", "Keyboard", "Mouse")


class NoAnswer(AssertionError):
    """The browser did not answer a call."""


@asynccontextmanager
async def a_browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield browser
        finally:
            await browser.close()


def _ends(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @wraps(call)
    async def asked(self: Any, *args: Any, **kwargs: Any) -> Any:
        ending = asyncio.timeout(ANSWER_S)
        try:
            async with ending:
                return await call(self, *args, **kwargs)
        except TimeoutError:
            if not ending.expired():
                raise
            raise NoAnswer(
                f"no answer to {call.__qualname__} within {ANSWER_S:.0f} s at {_address(self)}; a page that renews "
                "itself in the middle of a call, or a machine that is very busy, loses it"
            ) from None

    return asked


def _address(asked: Any) -> str:
    """The page to which the call went, as far as it has one."""
    page = getattr(asked, "page", asked)
    pages = getattr(page, "pages", [page])
    return ", ".join(str(url) for each in pages if (url := getattr(each, "url", ""))) or "no page"


for _name in _ASKED:
    _type = getattr(async_api, _name)
    for _call, _function in list(vars(_type).items()):
        if inspect.iscoroutinefunction(_function) and not _call.startswith("_"):
            setattr(_type, _call, _ends(_function))
