"""The ledger cannot be written: disk full, read-only, server stopped. Nothing leaves that nobody knows of, staff get a
sentence, and everything goes on by itself when the ledger is back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
import structlog
import structlog.testing
from sqlalchemy import event

from broadcaster import logs
from broadcaster.mailroom import UNRECORDED
from broadcaster.message import Message
from broadcaster.roles import Role
from broadcaster.store import tokens
from broadcaster.store.database import StoreError
from broadcaster.web import create
from tests import servers
from tests.house import STAFF, House, Rehearsal, a_rehearsal
from tests.makers import a_notice, an_alert
from tests.town import Town, a_town

READERS = 2_000
LINES = 4
ON_THE_WIRE = 2 * LINES


def a_mailing(house: House) -> Message:
    notice = a_notice(house.settings, now=house.clock.now(), channels=("email", "rss"), identifier="13109-bulk")
    return replace(notice, sent_at=None)


def an_urgent(house: House) -> Message:
    return replace(an_alert(house.settings, "E08", now=house.clock.now()), sent_at=None)


async def is_quiet(house: Rehearsal, entries: Sequence[Mapping[str, Any]]) -> int:
    """How many mails arrived, once the ledger has refused the same letters three times: nothing was settled between."""

    def refused() -> list[int]:
        return [entry["letters"] for entry in entries if entry["event"] == "mailroom.record_failed"]

    await house.until(lambda: len(refused()) >= 3 and len(set(refused()[-3:])) == 1)
    return len(house.mails())


# What staff are told


@asynccontextmanager
async def a_desk(house: Rehearsal) -> AsyncIterator[Callable[[], object]]:
    """Ask the API to send an alert; gives its answer."""
    with house.database.write() as connection:
        token = tokens.create(connection, name="test", role=Role.DUTY, mode="live", now=house.clock.now())  # type: ignore[arg-type]
    web = create(replace(house.app, database=house.database, pipeline=house.pipeline))
    transport = httpx2.ASGITransport(app=web, raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(transport=transport, base_url="http://town.test", headers=headers) as client:
        yield lambda: client.post("/api/v1/alerts", json={"preset": "E08"})


async def is_told_by_the_api(house: Rehearsal, ask: Callable[[], object]) -> None:
    answer = await ask()  # type: ignore[misc]
    assert answer.status_code == 503, answer.text
    [problem] = answer.json()["problems"]
    assert problem["ja"].endswith("。")
    assert "mail-" not in answer.text
    assert "SQL" not in answer.text


def is_told_by_the_command(home: Path, url: str, **options: object) -> None:
    environment = {
        **os.environ,
        "BROADCASTER_HOME": str(home),
        "BROADCASTER_DATABASE_URL": url,
        "BROADCASTER_LOG": "INFO",
    }
    ended = subprocess.run(
        [sys.executable, "-m", "broadcaster", "alert", "E08", "--yes"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        **options,  # type: ignore[call-overload]
    )
    assert ended.returncode == 2, ended.stderr
    assert "。" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


# Each way in which the ledger is away


class Switch:
    """SQLite's pragmas, set and lifted on every connection of this process before it is used."""

    def __init__(self, house: House, set_to: str, lifted: str) -> None:
        self.is_set = False
        self._set_to, self._lifted = set_to, lifted
        event.listen(house.database._writer, "checkout", self._is_taken)

    def _is_taken(self, connection: Any, _record: object, _proxy: object) -> None:
        connection.execute(f"PRAGMA {self._set_to if self.is_set else self._lifted}")


@asynccontextmanager
async def full(house: Rehearsal) -> AsyncIterator[None]:
    """SQLite's own SQLITE_FULL: the file may not grow by a page."""
    switch = Switch(house, "max_page_count=1", "max_page_count=1073741823")
    switch.is_set = True
    yield
    switch.is_set = False


@asynccontextmanager
async def read_only(house: Rehearsal) -> AsyncIterator[None]:
    if house.database.is_sqlite:
        switch = Switch(house, "query_only=ON", "query_only=OFF")
        switch.is_set = True
        yield
        switch.is_set = False
        return
    await asyncio.to_thread(_let_postgres_write, house, False)
    yield
    await asyncio.to_thread(_let_postgres_write, house, True)


def _let_postgres_write(house: Rehearsal, may: bool) -> None:
    """For every new session, and there are only new ones: those of the moment are cut off."""
    url = house.database.url.replace("+psycopg", "")
    name = url.partition("?")[0].rpartition("/")[2]
    with psycopg.connect(url.replace(f"/{name}?", "/postgres?"), autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = {'off' if may else 'on'}")
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])


async def stands_the_ledger_being_away(house: Rehearsal, away: Callable[[Rehearsal], object]) -> None:
    """A mailing under way, the ledger away and back."""
    house.readers(READERS, districts=house.settings.ward.all_district_bits)
    with structlog.testing.capture_logs() as entries:
        await _mails_through_it(house, away, entries)
    assert any(entry["event"] == "mailroom.record_failed" for entry in entries)
    assert not [entry for entry in entries if "mail-" in str({**entry, "exc_info": None})], "no address in the log"


async def _mails_through_it(
    house: Rehearsal, away: Callable[[Rehearsal], object], entries: Sequence[Mapping[str, Any]]
) -> None:
    async with a_desk(house) as ask, house.sender():
        kept = house.issues(a_mailing(house))
        identifier = kept.message.identifier
        await house.until(lambda: len(house.mails()) >= 300)
        async with away(house):  # type: ignore[attr-defined]
            arrived = await is_quiet(house, entries)
            await is_told_by_the_api(house, ask)
            with pytest.raises(StoreError):
                await asyncio.to_thread(house.pipeline.hand_in, an_urgent(house), STAFF)
            assert len(house.mails()) == arrived, "nothing leaves that cannot be written down"
        await house.until(lambda: house.is_settled(identifier))
        urgent = house.pipeline.hand_in(an_urgent(house), STAFF)
        await house.until_settled(urgent.message.identifier)
    counts, mails = house.counts(identifier), house.mails_of(identifier)
    assert (counts.delivered, counts.total) == (READERS, READERS)
    assert counts.adds_up
    assert len(mails) == READERS
    repeats = sum(mails.values()) - READERS
    assert repeats <= UNRECORDED + ON_THE_WIRE, f"{repeats} repeats, {arrived} had arrived"
    assert house.counts(urgent.message.identifier).delivered == READERS


QUICK = {"email": {"timeout_s": 5.0, "lines": LINES}}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("away", [full, read_only])
async def test_a_full_or_read_only_file_stops_the_sending_and_it_goes_on_by_itself(
    tmp_path: Path, away: Callable[[Rehearsal], object]
) -> None:
    async with a_rehearsal(tmp_path, **QUICK) as house:
        await stands_the_ledger_being_away(house, away)


@pytest.mark.timeout(120)
async def test_a_read_only_server_stops_the_sending_and_it_goes_on_by_itself(
    tmp_path: Path, postgres_server: str
) -> None:
    with servers.a_database(postgres_server) as url:
        async with a_rehearsal(tmp_path, url=url, **QUICK) as house:
            await stands_the_ledger_being_away(house, read_only)


@pytest.mark.timeout(180)
async def test_a_server_that_is_stopped_and_started_again_stops_the_sending_and_it_goes_on_by_itself(
    tmp_path: Path,
) -> None:
    with servers.a_postgres() as server:

        @asynccontextmanager
        async def stopped(house: Rehearsal) -> AsyncIterator[None]:
            await asyncio.to_thread(server.stop)
            await asyncio.to_thread(is_told_by_the_command, house.settings.home, server.url)
            yield
            await asyncio.to_thread(server.start)

        async with a_rehearsal(tmp_path, url=server.url, **QUICK) as house:
            await stands_the_ledger_being_away(house, stopped)


# A disk that is really full, for the processes


def let_files_grow_to(process: int, size: int | None) -> None:
    """What the kernel then says to every write is what a full disk says; `None` frees it again."""
    _, most = resource.prlimit(process, resource.RLIMIT_FSIZE)
    resource.prlimit(process, resource.RLIMIT_FSIZE, (most if size is None else size, most))


def a_bulk(town: Town) -> str:
    now = town.app.clock.now()
    notice = a_notice(town.app.settings, now=now, channels=("email", "rss"), identifier="13109-bulk")
    return town.app.pipeline.hand_in(replace(notice, sent_at=None), STAFF).message.identifier


@pytest.mark.timeout(180)
async def test_a_sender_on_a_full_disk_stops_sending_lives_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    with a_town(tmp_path) as town:
        town.readers(3_000)
        town.start("rehearsal")
        sender = town.start("sender", "work", "--lane", "all")
        identifier = a_bulk(town)
        await town.until(lambda: town.arrived() >= 300)
        let_files_grow_to(sender.pid, 4_096)
        arrived = -1
        while arrived != (arrived := town.arrived()):
            await asyncio.sleep(1.2)  # a look that comes too early finds less to complain of, never more
        assert arrived < 3_000, "the disk was full in the middle"
        unrecorded = arrived - town.counts(identifier).delivered
        assert unrecorded <= UNRECORDED + 2 * 20, "so many had left, and no more did"
        let_files_grow_to(sender.pid, None)
        await town.until_settled(identifier, seconds=90)
        assert sender.poll() is None, "it was never started anew"
        counts, copies = town.counts(identifier), town.received()
        log = (town.home / "sender.log").read_text(encoding="utf-8")
    assert (counts.delivered, counts.total) == (3_000, 3_000)
    assert len(copies) == 3_000
    assert sum(copies.values()) == 3_000, "what had left was written down, not sent again"
    assert "mail-" not in log
    assert "Traceback" not in log


def test_a_command_on_a_full_disk_ends_with_a_sentence_and_keeps_nothing(tmp_path: Path) -> None:
    with a_town(tmp_path) as town:
        is_told_by_the_command(
            town.home,
            town.app.settings.database_url,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512)),
        )
        with town.app.database.read() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM messages").scalar() == 0


def test_a_command_in_a_place_where_nothing_can_be_written_ends_with_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "a file"
    file.write_bytes(b"")
    is_told_by_the_command(file / "home", f"sqlite:///{tmp_path}/x.sqlite3")


# Logs


def test_a_log_on_a_full_disk_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    full_disk = Path("/dev/full").open("w", encoding="utf-8", buffering=1)  # noqa: SIM115 - closing it would fail
    with pytest.raises(OSError, match="space"):
        full_disk.write("it is full\n")
    monkeypatch.setattr(sys, "stderr", full_disk)
    try:
        logs.configure()
        structlog.get_logger("test").error("delivery.not_recorded", key="13109-x")
    finally:
        structlog.reset_defaults()
        monkeypatch.undo()
        os.close(full_disk.fileno())
        with contextlib.suppress(OSError):
            full_disk.close()


def test_an_exception_in_the_log_is_its_kind_and_its_place(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure()
    try:
        try:
            raise ValueError("DETAIL: Key (email)=(reader-1@mail-1.example) exists")
        except ValueError:
            structlog.get_logger("test").exception("lane.failed", channel="x")
    finally:
        structlog.reset_defaults()
        logging.getLogger().handlers.clear()
    [line] = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert told["exception"].startswith("ValueError at test_an_exception_in_the_log")
    assert "mail-1" not in line
