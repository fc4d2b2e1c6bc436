"""The browser of the tests: an answer that never comes is told with its page."""

from __future__ import annotations

import pytest

from tests import browser
from tests.browser import NoAnswer, a_browser

pytestmark = pytest.mark.browser


async def test_an_answer_that_never_comes_names_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_browser() as chromium:
        page = await chromium.new_page()
        assert await page.evaluate("1 + 1") == 2
        await page.goto("data:text/html,<title>here</title>")
        monkeypatch.setattr(browser, "ANSWER_S", 0.5)
        with pytest.raises(NoAnswer, match=r"Page\.evaluate within .* at data:text/html"):
            await page.evaluate("new Promise(() => {})")
        monkeypatch.undo()
        assert await page.title() == "here", "the browser goes on"
