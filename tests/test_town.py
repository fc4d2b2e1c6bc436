"""The main job for real: every sample through all five media, and an emergency ahead of a bulk send."""

from __future__ import annotations

import asyncio
import email
import email.policy
import json
import subprocess
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from broadcaster import manuscript
from broadcaster.message import Change, Mode
from broadcaster.rehearsal import smtp, town
from broadcaster.roles import Role
from broadcaster.store import tokens
from tests.makers import MEDIA, a_sample, sample_notices
from tests.test_crash import an_urgent
from tests.town import STAFF, Town, a_free_port, a_town

pytestmark = pytest.mark.timeout(240)


def broadcaster(here: Town, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "broadcaster", *arguments],
        env={**__import__("os").environ, **here.environment},
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )


def issued(process: subprocess.CompletedProcess[str]) -> list[str]:
    assert process.returncode == 0, process.stderr
    return [line.split("\t")[0] for line in process.stdout.splitlines()]


def tried_on(here: Town, identifier: str) -> set[str]:
    return {row["channel"] for row in here.report(identifier)["deliveries"] if row["first_attempt_at"]}  # type: ignore[union-attr]


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def alerted_by_api(here: Town, port: int, preset: str) -> str:
    """`POST /api/v1/alerts` as a duty officer's program would."""
    with here.app.database.write() as connection:
        token = tokens.create(connection, name="duty", role=Role.DUTY, mode=Mode.LIVE, now=here.app.clock.now())
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/v1/alerts",
        data=json.dumps({"preset": preset}).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(asked, timeout=20) as answer:
        return str(json.load(answer)["identifier"])


async def test_the_sixteen_notices_and_an_alert_reach_all_five_media(tmp_path: Path) -> None:
    with a_town(tmp_path) as here:
        here.readers(40)
        for role in ("rehearsal", "sender"):
            here.start(role, *(("work", "--lane", "all") if role == "sender" else (role,)))
        notices = here.app.settings.config / "rehearsal" / "notices.yaml"
        identifiers = issued(await asyncio.to_thread(broadcaster, here, "issue", str(notices), "--now"))
        assert len(identifiers) == 16
        identifiers += issued(await asyncio.to_thread(broadcaster, here, "alert", "E04", "--yes"))
        await here.until_settled(*identifiers, seconds=120)
        public = here.home / "public"
        feed = json.loads((public / "feeds" / "all.json").read_text(encoding="utf-8"))
        posts = json.loads((here.home / "rehearsal" / "x" / "posts.json").read_text(encoding="utf-8"))
        assert "避難" in (public / "dial" / "current.txt").read_text(encoding="utf-8")
        assert json.loads((public / "signage" / "S01.json").read_text(encoding="utf-8"))["takeover"]
        assert len(feed["items"]) == 17
        assert any("避難指示" in post["text"] for post in posts)
        assert any(post["media"] for post in posts), "pictures with their alternative text"
        for identifier in identifiers:
            report = here.report(identifier)
            rows = report["deliveries"]
            assert {row["state"] for row in rows} == {"delivered"}, report  # type: ignore[union-attr]
        mails = list(smtp.received(town.mail_folder(here.home)))
    assert len(mails) == 40 * 16, "fifteen of the notices are mailed, and the alert"
    for mail in mails[:50]:
        parsed = email.message_from_bytes(mail.path.read_bytes(), policy=email.policy.default)
        assert parsed.defects == []
        assert all(part.defects == [] for part in parsed.walk())


async def test_an_emergency_overtakes_twenty_thousand_mails_and_is_corrected_and_cancelled(tmp_path: Path) -> None:
    with a_town(tmp_path) as here:
        here.readers(20_000)
        here.start("rehearsal")
        here.start("sender", "work", "--lane", "all")
        web = a_free_port()
        here.start("web", "web", "--port", str(web))
        await here.until(lambda: answers(web))
        now = here.app.clock.now()
        notice = a_sample(here.app.settings, "N05", now=now)
        bulk = here.app.pipeline.hand_in(
            replace(notice, images=(), channels=("email", "rss"), sent_at=None, identifier="13109-bulk"), STAFF
        ).message.identifier
        await here.until(lambda: here.arrived() > 500)
        (urgent,) = issued(await asyncio.to_thread(broadcaster, here, "alert", "E04", "--yes"))

        by_api = await asyncio.to_thread(alerted_by_api, here, web, "E08")

        def attempted() -> bool:
            return all(tried_on(here, identifier) >= set(MEDIA) for identifier in (urgent, by_api))

        await here.until(attempted)
        assert here.counts(bulk).delivered < 20_000, "the bulk is still under way"
        corrected = here.app.pipeline.change(urgent, Change.CORRECTION, STAFF, line="時刻がちがいました。")
        cancelled = here.app.pipeline.change(bulk, Change.CANCEL, STAFF)
        everything = (bulk, urgent, by_api, corrected.message.identifier, cancelled.message.identifier)
        await here.until_settled(*everything, seconds=200)
        counts = here.counts(bulk)
        told = here.counts(cancelled.message.identifier)
        first, second = here.counts(urgent), here.counts(corrected.message.identifier)
        third = here.counts(by_api)
    assert counts.total == 20_000
    assert counts.adds_up
    assert counts.delivered + counts.stopped == 20_000
    assert counts.stopped > 0
    assert told.delivered == counts.delivered
    assert first.adds_up
    assert third.delivered == third.total == 20_000
    assert second.delivered == second.total == 20_000


async def test_a_drill_leaves_no_trace_in_anything_live(tmp_path: Path) -> None:
    with a_town(tmp_path) as here:
        here.readers(20)
        here.start("rehearsal")
        here.start("sender", "work", "--lane", "all")
        (drill,) = issued(await asyncio.to_thread(broadcaster, here, "alert", "E04", "--drill", "--yes"))
        await here.until_settled(drill)
        await here.until(lambda: (here.home / "public-drill" / "dial" / "current.txt").exists())
        assert here.arrived() == 0, "there are no drill readers here"
        for path in (here.home / "public").rglob("*"):
            assert path.is_dir() or "訓練" not in path.read_text(encoding="utf-8")


async def test_a_refused_command_says_what_to_do_and_sends_nothing(tmp_path: Path) -> None:
    with a_town(tmp_path) as here:
        wrong = tmp_path / "wrong.yaml"
        wrong.write_text("title: a\nbody: {time}\n", encoding="utf-8")
        for arguments, says in (
            (("issue", str(wrong)), "どこへ出すか"),
            (("issue", str(tmp_path / "none.yaml")), "読めません"),
            (("alert", "E99", "--yes"), "文案「E99」はありません"),
            (("alert", "E04"), "--yes"),
            (("alert", "E04", "--yes", "--set", "colour=red"), "欄はありません"),
            (("alert", "E12", "--yes"), "訓練"),
            (("cancel", "13109-none", "--yes"), "出していません"),
            (("status", "13109-none"), "ありません"),
            (("subscribers", "import", str(tmp_path / "none.csv")), "読めません"),
            (("token", "revoke", "none"), "ありません"),
        ):
            said = await asyncio.to_thread(broadcaster, here, *arguments)
            assert said.returncode == 2, arguments
            assert says in said.stderr, (arguments, said.stderr)
            assert "Traceback" not in said.stderr
        with here.app.database.read() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM issues").scalar() == 0


def test_every_sample_is_previewed_on_every_medium_it_names(tmp_path: Path) -> None:
    with a_town(tmp_path) as here:
        for id, notice in sample_notices(here.app.settings).items():
            message = manuscript.read(
                manuscript.moved_manuscript(notice, here.app.clock.now()),
                ward=here.app.settings.ward,
                media=here.app.settings.enabled,
                now=here.app.clock.now(),
                mode=Mode.LIVE,
                fetch=here.app.pictures_from(here.app.settings.config / "rehearsal" / "images"),
            )
            shown = {preview.channel for preview in here.app.pipeline.preview(message)}
            assert shown >= set(notice["channels"]) & set(MEDIA), id


async def test_urgent_and_routine_lanes_can_be_processes_of_their_own(tmp_path: Path) -> None:
    with a_town(tmp_path) as here:
        here.readers(50)
        here.start("rehearsal")
        here.start("priority", "work", "--lane", "priority")
        here.start("routine", "work", "--lane", "routine")
        urgent = an_urgent(here)
        await here.until_settled(urgent)
        assert here.counts(urgent).delivered == 50
