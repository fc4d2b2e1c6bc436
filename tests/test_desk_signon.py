"""The ward's own sign-on says who somebody is, over its real protocol; whom it may let in is decided at the desk."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from joserfc.jwk import OctKey, RSAKey

from broadcaster import app as assembly
from broadcaster import settings as configuration
from broadcaster.clock import SystemClock
from broadcaster.roles import Role
from broadcaster.store import people
from tests.desk import DeskUnderTest, Person, a_desk, a_desk_of
from tests.idp import Provider, a_provider

BASE_URL = "http://127.0.0.1:8000"


@asynccontextmanager
async def a_desk_with(provider: Provider, folder: Path) -> AsyncIterator[DeskUnderTest]:
    shipped = configuration.load(
        {
            "BROADCASTER_HOME": str(folder / "home"),
            "BROADCASTER_BASE_URL": BASE_URL,
            "BROADCASTER_SIGN_ON_SECRET": provider.client_secret,
        }
    )
    table = {**shipped.sign_on, "issuer": provider.url, "client_id": provider.client_id}
    app = assembly.assemble(replace(shipped, sign_on=table), clock=SystemClock(), standins={"email": 1, "x": 1})
    app.database.upgrade()
    with app.database.write() as connection:
        people.add(
            connection,
            name="kikaku",
            display="企画の人",
            role=Role.WRITER,
            at=app.clock.now(),
            state=people.ACTIVE,
        )
    async with a_desk_of(app) as desk:
        yield desk


async def goes_out(person: Person, provider: Provider, back: str = "") -> str:
    """Through the sign-on, as a browser goes; gives the address at which it comes back."""
    answer = await person.client.get(f"/desk/sign-on?back={back}")
    assert answer.status_code == 303, answer.text
    asked = {name: values[0] for name, values in parse_qs(urlsplit(answer.headers["location"]).query).items()}
    return provider.authorize(asked).removeprefix(BASE_URL)


async def test_whoever_was_invited_is_let_in_and_goes_where_they_wanted(tmp_path: Path) -> None:
    with a_provider() as provider:
        async with a_desk_with(provider, tmp_path) as desk:
            person = await desk.person()
            assert "/desk/sign-on" in (await person.get("/desk/sign-in")).text
            answer = await person.client.get(await goes_out(person, provider, back="/desk/messages"))
            assert (answer.status_code, answer.headers["location"]) == (303, "/desk/messages")
            assert "企画の人" in (await person.get("/desk")).text


async def test_without_a_sign_on_there_is_no_such_page(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        person = await desk.person()
        assert "/desk/sign-on" not in (await person.get("/desk/sign-in")).text
        assert (await person.get("/desk/sign-on")).status_code == 404


@pytest.mark.parametrize("who", ["nobody", "duty", "", 7])
async def test_whoever_was_not_invited_is_not_let_in(tmp_path: Path, who: object) -> None:
    with a_provider() as provider:
        provider.claims = {"preferred_username": who}
        async with a_desk_with(provider, tmp_path) as desk:
            person = await desk.person()
            answer = await person.client.get(await goes_out(person, provider))
            assert answer.status_code == 403
            assert (await person.get("/desk")).status_code == 303


async def test_a_name_that_was_disabled_is_not_let_in(tmp_path: Path) -> None:
    with a_provider() as provider:
        async with a_desk_with(provider, tmp_path) as desk:
            with desk.app.database.write() as connection:
                known = people.by_name(connection, "kikaku")
                assert known is not None
                people.set_state(connection, known.id, people.DISABLED)
            person = await desk.person()
            assert (await person.client.get(await goes_out(person, provider))).status_code == 403


def _says(**claims: Any) -> Callable[[Provider], None]:
    return lambda provider: provider.claims.update(claims)


def _signed_by_another(provider: Provider) -> None:
    provider.signing = RSAKey.generate_key(2048, parameters={"kid": "1"})


def _signed_with_a_shared_secret(provider: Provider) -> None:
    """An algorithm that was never agreed upon."""
    provider.alg, provider.signing = "HS256", OctKey.import_key(provider.client_secret * 3)


def _leads_elsewhere(provider: Provider) -> None:
    provider.discovery["token_endpoint"] = "http://127.0.0.1:9/token"


def _is_another(provider: Provider) -> None:
    provider.discovery["issuer"] = "https://sso.example.com"


@pytest.mark.parametrize(
    "lie",
    [
        _says(nonce="of another time"),
        _says(aud="another client"),
        _says(iss="https://sso.example.com"),
        _says(exp=1_000_000),
        _says(azp="another client"),
        _signed_by_another,
        _signed_with_a_shared_secret,
        _leads_elsewhere,
        _is_another,
    ],
)
async def test_what_does_not_hold_lets_nobody_in(tmp_path: Path, lie: Callable[[Provider], None]) -> None:
    with a_provider() as provider:
        async with a_desk_with(provider, tmp_path) as desk:
            person = await desk.person()
            address = await goes_out(person, provider)
            lie(provider)
            assert (await person.client.get(address)).status_code == 403
            assert (await person.get("/desk")).status_code == 303


async def test_an_answer_is_good_for_the_browser_that_went_out_and_once(tmp_path: Path) -> None:
    with a_provider() as provider:
        async with a_desk_with(provider, tmp_path) as desk:
            person, other = await desk.person(), await desk.person()
            address = await goes_out(person, provider)
            assert (await other.client.get(address)).status_code == 403
            assert (await person.client.get(address)).status_code == 303
            again = await desk.person()
            again.client.cookies = person.client.cookies
            assert (await again.client.get(address)).status_code == 403


async def test_a_sign_on_that_is_down_says_so_and_the_password_goes_on(tmp_path: Path) -> None:
    with a_provider() as provider:
        url = provider.url
    async with a_desk_with(replace_url(provider, url), tmp_path) as desk:
        person = await desk.person()
        answer = await person.client.get("/desk/sign-on")
        assert answer.status_code == 403
        assert "名前とパスワード" in answer.text
        assert (await person.get("/desk/sign-in")).status_code == 200


def replace_url(provider: Provider, url: str) -> Provider:
    provider.url = url
    return provider
