"""Reading back at the desk: messages found again, the log of acts and its chain."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

import pytest

from broadcaster.settings import Settings
from broadcaster.store import audit
from broadcaster.store.audit import Actor
from tests.desk import DeskUnderTest, a_day, a_desk


async def test_messages_are_found_by_words_and_filters_that_stand_in_the_address(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        a_day(desk.app)
        viewer = await desk.person("viewer")
        everything = await viewer.get("/desk/messages")
        assert everything.status_code == 200
        assert "13109-today-1" in everything.text
        assert "13109-drill" in everything.text
        drills = await viewer.get("/desk/messages?mode=drill")
        assert "13109-drill" in drills.text
        assert "13109-today-1" not in drills.text
        waiting = await viewer.get("/desk/messages?state=submitted")
        assert "13109-today-1" in waiting.text
        assert "13109-E04" not in waiting.text
        title = desk.kept("13109-today-1").message.info.headline
        found = await viewer.get(
            "/desk/messages",
        )
        found = await viewer.client.get("/desk/messages", params={"q": title})
        assert "13109-today-1" in found.text
        assert "13109-E08" not in found.text


async def test_no_hit_says_which_filter_to_drop(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        a_day(desk.app)
        viewer = await desk.person("viewer")
        page = await viewer.get("/desk/messages?q=競馬場の花火&mode=drill")
        assert "「競馬場の花火」を外す" in page.text
        assert 'href="/desk/messages?mode=drill"' in page.text
        wrong = await viewer.get("/desk/messages?from=きのう")
        assert wrong.status_code == 422
        assert 'value="きのう"' in wrong.text


def acts(desk: DeskUnderTest, number: int) -> None:
    with desk.app.database.write() as connection:
        for n in range(number):
            actor = Actor(name="admin", via="desk")
            audit.write(connection, actor, "person.invited", f"person{n}", at=desk.app.clock.now())


async def test_the_log_is_paged_filtered_in_words_and_says_that_its_chain_holds(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        viewer = await desk.person("viewer")
        acts(desk, 150)
        page = await viewer.get("/desk/records")
        assert "記録のつながりを確かめました（151件" in page.text
        assert "人を招きました" in page.text
        assert len(re.findall("<tr><td>", page.text)) == 100
        older = re.search(r'rel="next" href="([^"]+)"', page.text)
        assert older
        assert len(re.findall("<tr><td>", (await viewer.get(older[1])).text)) == 51
        one = await viewer.get("/desk/records?object=person7&act=person.invited")
        assert len(re.findall("<tr><td>", one.text)) == 1


@pytest.mark.parametrize(
    "harm",
    [
        "UPDATE audit SET actor = 'nobody' WHERE seq = 5",
        "DELETE FROM audit WHERE seq = 5",
        "UPDATE audit SET seq = CASE seq WHEN 5 THEN -6 ELSE 5 END WHERE seq IN (5, 6); UPDATE audit SET seq = 6 WHERE seq = -6",
    ],
)
async def test_the_first_number_that_is_not_as_it_was_written_is_named(tmp_path: Path, harm: str) -> None:
    async with a_desk(tmp_path) as desk:
        viewer = await desk.person("viewer")
        acts(desk, 10)
        await viewer.get("/desk/records")
        file = sqlite3.connect(desk.app.database.url.removeprefix("sqlite:///"))
        for (name,) in file.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'audit'"
        ).fetchall():
            file.execute(f"DROP TRIGGER {name}")
        if "CASE" in harm:
            for statement in (
                "UPDATE audit SET seq = -6 WHERE seq = 5",
                "UPDATE audit SET seq = 5 WHERE seq = 6",
                "UPDATE audit SET seq = 6 WHERE seq = -6",
            ):
                file.execute(statement)
        else:
            file.execute(harm)
        file.commit()
        file.close()
        page = await viewer.post("/desk/records/check")
        assert "5番で切れています" in page.text


async def test_a_log_that_was_cut_off_or_written_anew_is_found_by_either_check(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        a_day(desk.app)
        with desk.app.database.write() as connection:
            assert audit.check(connection).fault is None
            number = audit.check(connection).number
        path = desk.app.settings.home / "broadcaster.sqlite3"
        with sqlite3.connect(path) as raw:
            raw.execute("DROP TRIGGER audit_no_delete")
            raw.execute("DELETE FROM audit WHERE seq > ?", (number - 2,))
        with desk.app.database.write() as connection:
            assert audit.first_fault(connection) is None  # a chain that holds in itself
            assert audit.check(connection).fault == number - 1
            assert audit.check(connection, from_first=True).fault == number - 1
            assert audit.check(connection).fault == number - 1  # and it is not forgotten


def test_every_act_that_is_written_down_has_words(settings: Settings) -> None:
    root = Path(__file__).resolve().parent.parent / "broadcaster"
    acts = set()
    for path in root.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        acts |= set(re.findall(r'(?:audit\.write(?:_together)?|_note)\(\s*[^()"]*?"([a-z]+\.[a-z_]+)"', text))
    words = settings.words.pages["records"]["acts"]
    assert len(acts) > 15
    assert sorted(act for act in acts if act.replace(".", "_", 1) not in words) == []
