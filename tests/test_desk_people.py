"""The people of the desk: invited, disabled, in another role when two agree; and one's own page."""

from __future__ import annotations

import io
import re
import stat
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pyotp
import pytest

from broadcaster import app as assembly
from broadcaster import settings as configuration
from broadcaster import start
from broadcaster.app import App
from broadcaster.clock import FrozenClock
from broadcaster.credentials import fingerprint
from broadcaster.invitations import Invitation, invite
from broadcaster.problems import Refused
from broadcaster.rehearsal import seed
from broadcaster.roles import Role
from broadcaster.store import audit, people
from broadcaster.store.audit import Actor
from broadcaster.store.people import Person
from tests.desk import DeskUnderTest, a_desk
from tests.test_desk_signin import NOW, PASSWORD, a_real_person, enters


def known(desk: DeskUnderTest, name: str) -> Person:
    with desk.app.database.read() as connection:
        found = people.by_name(connection, name)
    assert found is not None
    return found


async def test_an_invitation_is_shown_once_and_lets_somebody_in(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        admin = await desk.person("admin")
        await admin.get("/desk/people")
        page = await admin.post("/desk/people", name="kikaku", display="企画の人", role="writer")
        found = re.search(r"(/desk/invite/[\w-]+)", page.text)
        assert found
        assert known(desk, "kikaku").state == people.INVITED
        assert (await (await desk.person()).get(found[1])).status_code == 200
        assert found[1] not in (await admin.get("/desk/people")).text
        again = await admin.post("/desk/people", name="kikaku", display="企画の人", role="writer")
        assert again.status_code == 422
        assert 'value="企画の人"' in again.text


async def test_whoever_is_disabled_is_out_with_the_next_request(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        admin, writer = await desk.person("admin"), await desk.person("writer")
        assert (await admin.post(f"/desk/people/{known(desk, 'writer').id}/disable")).status_code == 303
        assert (await writer.get("/desk")).status_code == 303
        mine = await admin.post(f"/desk/people/{known(desk, 'admin').id}/disable")
        assert mine.status_code == 422
        assert known(desk, "admin").state == people.ACTIVE


async def test_a_role_needs_two_administrators(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        admin, admin2 = await desk.person("admin"), await desk.person("admin2")
        await admin.post(f"/desk/people/{known(desk, 'writer').id}/role", role="approver")
        with desk.app.database.read() as connection:
            change = people.asked_roles(connection)[0]
        own = await admin.post(f"/desk/people/roles/{change.id}", how="confirm")
        assert own.status_code == 422
        assert known(desk, "writer").role is Role.WRITER
        assert (await admin2.post(f"/desk/people/roles/{change.id}", how="confirm")).status_code == 303
        assert known(desk, "writer").role is Role.APPROVER


async def test_nobody_confirms_their_own_new_role_though_another_asked_for_it(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        admin, admin2 = await desk.person("admin"), await desk.person("admin2")
        await admin.post(f"/desk/people/{known(desk, 'admin2').id}/role", role="duty")
        with desk.app.database.read() as connection:
            change = people.asked_roles(connection)[0]
        assert (await admin2.post(f"/desk/people/roles/{change.id}", how="confirm")).status_code == 422
        assert known(desk, "admin2").role is Role.ADMIN


async def test_a_new_administrator_waits_as_a_viewer(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        admin = await desk.person("admin")
        await admin.post("/desk/people", name="kikaku", display="企画の人", role="admin")
        assert known(desk, "kikaku").role is Role.VIEWER


async def test_the_password_changes_by_the_old_one_and_a_code_and_ends_other_sessions(tmp_path: Path) -> None:
    clock = FrozenClock(NOW)
    async with a_desk(tmp_path, clock=clock) as desk:
        secret, _ = await a_real_person(desk)
        here, there = await desk.person(), await desk.person()
        for one in (here, there):
            clock.move(timedelta(minutes=1))
            await enters(one, "suzuki", secret, clock.now())
            await one.get("/desk")
        clock.move(timedelta(minutes=1))
        new = "quite another long sentence"
        code = pyotp.TOTP(secret).at(clock.now())
        wrong = await here.post("/desk/me/password", old="not this one", password=new, code=code)
        assert wrong.status_code == 422
        assert (await there.get("/desk")).status_code == 200
        done = await here.post("/desk/me/password", old=PASSWORD, password=new, code=code)
        assert done.status_code == 303
        assert (await here.get("/desk/me")).status_code == 200
        assert (await there.get("/desk")).status_code == 303


async def test_a_session_elsewhere_is_ended_and_no_page_shows_what_opens_one(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        here, there = await desk.person("viewer"), await desk.person("viewer")
        page = await here.get("/desk/me")
        buttons = re.findall(r'name="which" value="(\w+)"', page.text)
        assert len(buttons) == 2
        for which in buttons:
            await here.post("/desk/me/sessions", which=which)
        assert (await there.get("/desk")).status_code == 303


def a_live_app(home: Path) -> App:
    values = {
        "BROADCASTER_HOME": str(home),
        "BROADCASTER_INSTALLATION": "live",
        "BROADCASTER_BASE_URL": "https://desk.city.example.jp",
    }
    app = assembly.assemble(configuration.load(values), clock=FrozenClock(NOW))
    app.database.upgrade()
    return app


async def test_the_first_administrator_comes_by_a_link_in_a_file_of_their_own_and_never_in_the_journal(
    tmp_path: Path,
) -> None:
    app, journal = a_live_app(tmp_path), io.StringIO()
    start.invite_first(app, journal)
    file = start.setup_link_file(tmp_path)
    link = file.read_text(encoding="utf-8").strip()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    token = link.rpartition("/")[2]
    assert link.startswith("https://desk.city.example.jp/desk/invite/")
    assert token not in journal.getvalue()
    start.invite_first(app, journal)  # not used yet: a new one, and the older one is worthless
    with app.database.write() as connection:
        assert people.of_link(connection, fingerprint(token), people.INVITE, NOW) is None
        people.set_state(connection, people.everybody(connection)[0].id, people.ACTIVE)
    file.unlink()
    start.invite_first(app, journal)
    assert not file.exists()
    await app.close()


async def test_on_the_command_line_an_administrator_waits_for_the_one_there_is_and_names_are_judged_as_at_the_desk(
    tmp_path: Path,
) -> None:
    async with a_desk(tmp_path) as desk:
        words, root = desk.app.settings.words, Actor(name="root", via="cli")
        wanted = Invitation(name="kikaku", display="企画の人", role=Role.ADMIN)
        with desk.app.database.write() as connection:
            made = invite(connection, wanted, by=root, words=words, now=desk.app.clock.now())
            [asked] = people.asked_roles(connection)
            for wrong in (replace(wanted, name="Kikaku!"), replace(wanted, name="other", display=""), wanted):
                with pytest.raises(Refused):
                    invite(connection, wrong, by=root, words=words, now=desk.app.clock.now())
        assert (made.waits, made.person.role, asked.role) == (True, Role.VIEWER, Role.ADMIN)
        admin = await desk.person("admin")
        await admin.get("/desk/people")
        assert (await admin.post(f"/desk/people/roles/{asked.id}", how="confirm")).status_code == 303
        assert known(desk, "kikaku").role is Role.ADMIN


async def test_where_no_administrator_is_left_the_command_line_makes_one_and_the_log_is_loud(tmp_path: Path) -> None:
    app = a_live_app(tmp_path)
    wanted, root = Invitation(name="kikaku", display="企画の人", role=Role.ADMIN), Actor(name="root", via="cli")
    with app.database.write() as connection:
        made = invite(connection, wanted, by=root, words=app.settings.words, now=NOW)
        acts = [entry.act for entry in audit.newest(connection, limit=10)]
    assert (made.waits, made.person.role) == (False, Role.ADMIN)
    assert acts == ["person.administrator_made_alone"]
    await app.close()


async def test_live_refuses_to_start_with_sample_people(tmp_path: Path) -> None:
    app = a_live_app(tmp_path)
    start._refuse_sample_people(app)
    with app.database.write() as connection:
        seed.add_sample_staff(connection, NOW)
    with pytest.raises(Refused, match="sample people"):
        start._refuse_sample_people(app)
    await app.close()
