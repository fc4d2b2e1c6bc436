"""A copy while everything runs, and the way back: nothing of yesterday is sent again."""

from __future__ import annotations

import asyncio
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

from tests.makers import an_alert
from tests.test_town import broadcaster, issued
from tests.town import STAFF, Town, a_town


def says(process: subprocess.CompletedProcess[str], text: str) -> bool:
    assert "Traceback" not in process.stderr
    return process.returncode == 2 and text in process.stderr


def an_alert_is_sent(here: Town) -> str:
    alert = an_alert(here.app.settings, now=here.app.clock.now())
    return here.app.pipeline.hand_in(replace(alert, sent_at=None), STAFF).message.identifier


async def test_a_restored_copy_knows_everything_and_sends_nothing_before_a_person_says_so(tmp_path: Path) -> None:
    copy = tmp_path / "copy.sqlite3"
    with a_town(tmp_path / "old") as old:
        old.readers(30)
        identifier = an_alert_is_sent(old)  # no sender runs: all of it waits
        assert broadcaster(old, "backup", str(copy)).returncode == 0
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    with a_town(tmp_path / "new") as new:
        new.app.database.close()
        assert broadcaster(new, "restore", str(copy)).returncode == 0
        new.start("rehearsal")
        sender = new.start("sender", "work", "--lane", "all")
        waited = await asyncio.to_thread(broadcaster, new, "status", identifier, "--json")
        assert '"queued": 30' in waited.stdout
        await new.until(lambda: "installation.is_frozen" in (new.home / "sender.log").read_text(encoding="utf-8"))
        assert new.arrived() == 0
        assert (await asyncio.to_thread(broadcaster, new, "release")).returncode == 0
        await new.until(lambda: new.arrived() == 30)
        assert sender.poll() is None


def test_a_copy_is_refused_in_a_sentence_where_it_would_do_harm(tmp_path: Path) -> None:
    copy = tmp_path / "copy.sqlite3"
    with a_town(tmp_path) as here:
        assert broadcaster(here, "backup", str(copy)).returncode == 0
        assert says(broadcaster(here, "backup", str(copy)), "書けません"), "never over an older copy"
        assert says(broadcaster(here, "restore", str(tmp_path / "none")), "ありません")
        data = bytearray(copy.read_bytes())
        data[100:4_000] = bytes(3_900)
        copy.write_bytes(data)
        assert says(broadcaster(here, "restore", str(copy)), "写し")
        assert issued(broadcaster(here, "alert", "E04", "--yes")), "the running database was not touched"
