"""The door of the desk: who comes in, who does not, and what every registered page refuses."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyotp
import pytest

from broadcaster.clock import FrozenClock
from broadcaster.credentials import fingerprint, new_secret
from broadcaster.roles import RIGHTS, Role
from broadcaster.store import audit, people
from broadcaster.web.desk import desk_of
from broadcaster.web.desk.signin import INVITE, INVITE_LASTS
from broadcaster.web.desk.visit import Place
from tests.desk import DeskUnderTest, Person, a_desk

NOW = datetime(2026, 12, 4, 3, 0, tzinfo=UTC)
PASSWORD = "a long sentence for the night"
SAMPLES = {
    Role.VIEWER: "viewer",
    Role.WRITER: "writer",
    Role.APPROVER: "approver",
    Role.DUTY: "duty",
    Role.ADMIN: "admin",
}


async def a_real_person(desk: DeskUnderTest, name: str = "suzuki", role: Role = Role.DUTY) -> tuple[str, list[str]]:
    """Comes by an invitation; returns the seed of the codes and the recovery codes."""
    token, now = new_secret(), desk.app.clock.now()
    with desk.app.database.write() as connection:
        person = people.add(connection, name=name, display=name, role=role, at=now)
        people.put_link(connection, person.id, fingerprint(token), INVITE, now + INVITE_LASTS)
    guest = await desk.person()
    page = await guest.get(f"/desk/invite/{token}")
    found = re.search(r'class="seed"[^>]*>\s*(?:<[^>]+>)?([A-Z2-7 ]{16,})', page.text)
    assert found, page.text
    seed = found[1].replace(" ", "")
    fields = {"seed": guest.hidden(page, "seed"), "password": PASSWORD, "code": pyotp.TOTP(seed).at(now)}
    done = await guest.post(f"/desk/invite/{token}", **fields)
    assert done.status_code == 200, done.text
    assert (await guest.get(f"/desk/invite/{token}")).status_code == 404  # it was good once
    return seed, re.findall(r">([0-9A-Z]{5}-[0-9A-Z]{5})<", done.text)


async def enters(person: Person, name: str, seed: str, at: datetime, password: str = PASSWORD, **more: str) -> Any:
    return await person.post("/desk/sign-in", name=name, password=password, **{"code": pyotp.TOTP(seed).at(at), **more})


async def test_somebody_invited_signs_in_with_password_and_code_and_each_code_is_good_once(tmp_path: Path) -> None:
    clock = FrozenClock(NOW)
    async with a_desk(tmp_path, clock=clock) as desk:
        seed, codes = await a_real_person(desk)
        assert len(codes) >= 8
        clock.move(timedelta(minutes=1))
        guest = await desk.person()
        answer = await enters(guest, "suzuki", seed, clock.now())
        assert (answer.status_code, answer.headers["location"]) == (303, "/desk")
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=lax" in cookie
        again = await enters(await desk.person(), "suzuki", seed, clock.now())
        assert again.status_code == 403
        recovery = await enters(await desk.person(), "suzuki", seed, clock.now(), code=codes[0])
        assert recovery.status_code == 303
        assert (await enters(await desk.person(), "suzuki", seed, clock.now(), code=codes[0])).status_code == 403


async def test_a_wrong_password_and_an_unknown_name_get_the_same_answer(tmp_path: Path) -> None:
    clock = FrozenClock(NOW)
    async with a_desk(tmp_path, clock=clock) as desk:
        seed, _ = await a_real_person(desk)
        wrong = await enters(await desk.person(), "suzuki", seed, clock.now(), password="another long sentence")
        unknown = await enters(await desk.person(), "sasaki", seed, clock.now())
        assert wrong.status_code == unknown.status_code == 403
        assert wrong.text.replace("suzuki", "NAME") == unknown.text.replace("sasaki", "NAME")


async def test_five_tries_are_free_and_then_a_name_waits_but_is_never_locked(tmp_path: Path) -> None:
    clock = FrozenClock(NOW)
    async with a_desk(tmp_path, clock=clock) as desk:
        seed, _ = await a_real_person(desk)
        for _ in range(5):
            assert (await enters(await desk.person(), "suzuki", seed, clock.now(), password="wrong")).status_code == 403
        assert (await enters(await desk.person(), "suzuki", seed, clock.now())).status_code == 429
        clock.move(timedelta(minutes=2))
        assert (await enters(await desk.person(), "suzuki", seed, clock.now())).status_code == 303


async def test_twenty_wrong_tries_from_one_address_make_it_wait(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        guest = await desk.person()
        answers = [await guest.post("/desk/sign-in", name=f"nobody{n}", password="x", code="1") for n in range(21)]
        assert [answer.status_code for answer in answers] == [403] * 20 + [429]


@pytest.mark.parametrize(("moves", "ends"), [([59] * 3, False), ([61], True), ([59] * 13, True), ([-30, 59], False)])
async def test_a_session_ends_by_idleness_and_by_age_even_with_a_jumpy_clock(
    tmp_path: Path, moves: list[int], ends: bool
) -> None:
    clock = FrozenClock(NOW)
    async with a_desk(tmp_path, clock=clock) as desk:
        person = await desk.person("viewer")
        for minutes in moves:
            clock.move(timedelta(minutes=minutes))
            answer = await person.get("/desk")
        assert (answer.status_code == 303) is ends


async def test_what_was_sent_too_late_is_shown_to_the_same_person_once_and_to_nobody_else(tmp_path: Path) -> None:
    clock = FrozenClock(NOW)
    async with a_desk(tmp_path, clock=clock) as desk:
        person, other = await desk.person("admin"), None
        clock.move(timedelta(hours=2))
        late = await person.post("/desk/people", name="kikaku", display="企画の人", role="viewer")
        assert late.status_code == 303
        found = re.search(r"ticket=([\w-]+)", late.headers["location"])
        assert found
        other = await desk.person("admin2")
        assert (await other.get(f"/desk/resume?ticket={found[1]}")).status_code == 303
        await person.sign_in("admin")
        shown = await person.get(f"/desk/resume?ticket={found[1]}")
        assert shown.status_code == 200
        assert "企画の人" in shown.text
        assert (await person.get(f"/desk/resume?ticket={found[1]}")).status_code == 303
        with desk.app.database.read() as connection:
            assert people.by_name(connection, "kikaku") is None


async def test_leaving_ends_the_session(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        person = await desk.person("viewer")
        assert (await person.post("/desk/sign-out")).status_code == 303
        assert (await person.get("/desk")).status_code == 303


def a_path(place: Place) -> str:
    """Some address of this page; what it names need not be there."""
    return re.sub(r"\{[^}]+\}", "1", place.path)


async def test_every_role_is_refused_exactly_where_the_table_says_so(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        places = [place for place in desk_of(desk.app).places if place.right and not place.path.endswith("/sign-out")]
        assert len(places) > 20
        for role, name in SAMPLES.items():
            person = await desk.person(name)
            for place in places:
                answer = await (person.get if place.method == "GET" else person.post)(a_path(place))
                assert answer.status_code < 500, (name, place)
                assert (answer.status_code == 403) is (place.right not in RIGHTS[role]), (name, place)


@pytest.mark.parametrize("origin", [None, "https://evil.test", "https://www.city.shinagawa.tokyo.jp", "null"])
async def test_no_change_comes_from_elsewhere(tmp_path: Path, origin: str | None) -> None:
    async with a_desk(tmp_path) as desk:
        person = await desk.person("admin")
        with desk.app.database.read() as connection:
            before = audit.newest(connection, limit=1)
        headers = {"origin": origin} if origin else {}
        for place in desk_of(desk.app).places:
            if place.method == "POST":
                data = {"csrf": person.csrf, "name": "admin2", "display": "x", "role": "viewer"}
                answer = await person.client.post(a_path(place), data=data, headers=headers)
                assert answer.status_code == 403, place
        with desk.app.database.read() as connection:
            assert audit.newest(connection, limit=1) == before


async def test_no_change_comes_without_the_token_of_the_session(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        person = await desk.person("admin")
        for place in desk_of(desk.app).places:
            if place.method == "POST" and place.right is not None:
                assert (await person.post(a_path(place), csrf="another")).status_code == 403, place


async def test_every_page_brings_a_strict_policy_and_is_kept_nowhere(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        person = await desk.person("admin")
        for place in desk_of(desk.app).places:
            if place.method == "GET":
                answer = await person.get(a_path(place))
                assert answer.headers["cache-control"] == "no-store", place
                if answer.headers.get("content-type", "").startswith("text/html"):
                    policy = answer.headers["content-security-policy"]
                    assert "default-src 'none'" in policy, place
                    assert "unsafe-eval" not in policy, place
                    assert "script-src 'unsafe-inline'" not in policy, place
