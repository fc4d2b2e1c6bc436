"""Signing in by a touch, with the authenticator that Chromium plays: made, used, removed, and nothing that was replayed."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import Page

from broadcaster.store import audit, passkeys, people
from tests.browser import a_browser
from tests.desk import DeskUnderTest, Person, a_desk, a_desk_server

pytestmark = pytest.mark.timeout(120)


def localhost(desk: DeskUnderTest) -> str:
    return desk.url.replace("127.0.0.1", "localhost")


async def with_authenticator(page: Page, *, verifies: bool = True) -> None:
    session = await page.context.new_cdp_session(page)
    await session.send("WebAuthn.enable")
    options = {
        "protocol": "ctap2",
        "transport": "internal",
        "hasResidentKey": True,
        "hasUserVerification": True,
        "isUserVerified": verifies,
        "automaticPresenceSimulation": True,
    }
    await session.send("WebAuthn.addVirtualAuthenticator", {"options": options})


async def makes_one(page: Page, url: str) -> None:
    await page.goto(f"{url}/desk/sign-in")
    await page.click("button[value=duty]")
    await page.goto(f"{url}/desk/me")
    await page.fill("#label", "当直の電話機")
    await page.click("form[data-touch-new] button")
    await page.get_by_text("パスキーを作りました。").wait_for()


@pytest.mark.browser
async def test_one_touch_is_enough_and_a_removed_key_is_not(tmp_path: Path) -> None:
    async with a_desk_server(tmp_path) as desk, a_browser() as browser:
        page = await (await browser.new_context()).new_page()
        await with_authenticator(page)
        url = localhost(desk)
        await makes_one(page, url)
        await page.reload()
        assert await page.get_by_text("当直の電話機").count() == 1
        await page.get_by_role("button", name="サインアウト").click()
        await page.click("form[data-touch] button")
        await page.wait_for_url(f"{url}/desk")
        assert "当直（防災課）" in await page.content()
        with desk.app.database.read() as connection:
            person = people.by_name(connection, "duty")
            assert person is not None
            [key] = passkeys.of_person(connection, person.id)
            acts = [entry.act for entry in audit.entries(connection)]
        assert key.used_at is not None
        assert "person.passkey_added" in acts
        await page.goto(f"{url}/desk/me")
        await page.get_by_role("button", name="外す").click()
        await page.get_by_role("button", name="サインアウト").click()
        await page.click("form[data-touch] button")
        await page.get_by_text("名前かパスワードが違います。").first.wait_for()


@pytest.mark.browser
async def test_whoever_is_disabled_is_not_let_in_by_a_touch(tmp_path: Path) -> None:
    async with a_desk_server(tmp_path) as desk, a_browser() as browser:
        page = await (await browser.new_context()).new_page()
        await with_authenticator(page)
        await makes_one(page, localhost(desk))
        with desk.app.database.write() as connection:
            person = people.by_name(connection, "duty")
            assert person is not None
            people.set_state(connection, person.id, people.DISABLED)
        await page.goto(f"{localhost(desk)}/desk/sign-in")
        await page.click("form[data-touch] button")
        await page.get_by_text("名前かパスワードが違います。").first.wait_for()


async def test_what_was_made_up_or_asked_of_another_browser_shows_nothing(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        one, other = await desk.person(), await desk.person()
        for fields in (
            {},
            {"credential": "{}"},
            {"credential": "x" * 5_000},
            {"credential": '{"id": "AA", "rawId": "AA"}'},
        ):
            answer = await one.post("/desk/sign-in/touch", **fields)
            assert answer.status_code == 403, fields
        asked = await one.post("/desk/sign-in/touch/ask")
        assert asked.json()["userVerification"] == "required"
        assert asked.json()["challenge"]
        assert "desk-touch" in asked.headers["set-cookie"]
        assert "HttpOnly" in asked.headers["set-cookie"]
        assert (await other.post("/desk/sign-in/touch", credential="{}")).status_code == 403
        foreign = Person(one.client, origin="https://www.city.shinagawa.example.jp")
        assert (await foreign.post("/desk/sign-in/touch/ask")).status_code == 403
