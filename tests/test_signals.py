"""Wake-ups: one contract in one process, between processes with no server, and through a real Redis.

Redis may die, be emptied or hang at any moment: nothing is lost, and nothing is later than a second.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from broadcaster import signals as bells
from broadcaster.delivery import State
from broadcaster.problems import Refused
from broadcaster.settings import Settings
from broadcaster.signals import CHANNEL, LocalSignals, RedisSignals, Signals, SocketSignals, Wake
from broadcaster.store import deliveries, issues
from tests import servers
from tests.house import OWN_MEDIA, House, a_house
from tests.makers import an_alert
from tests.servers import Valkey
from tests.town import STAFF, Town, a_free_port, a_town

LATEST = timedelta(seconds=1)
"""What is promised, by the instants of the ledger."""

NOISE = timedelta(seconds=6)
"""What a busy machine may add: a lost wake-up without its net would be late by for ever."""


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # a socket's path has at most 107 bytes
        yield Path(name)


@pytest.fixture
def server() -> Iterator[Valkey]:
    with servers.a_valkey() as server:
        yield server


# One contract


@pytest.fixture(params=["in one process", "on one machine", "between two machines"])
def ends(request: pytest.FixtureRequest, folder: Path) -> Iterator[tuple[Signals, Signals]]:
    """Two ends: what one rings, the other hears. In one process both are the same."""
    if request.param == "in one process":
        same = LocalSignals()
        yield same, same
    elif request.param == "on one machine":
        yield SocketSignals(folder), SocketSignals(folder)
    else:
        with servers.valkey() as url:
            yield RedisSignals(folder / "a", url), RedisSignals(folder / "b", url)


@asynccontextmanager
async def started(*ends: Signals) -> AsyncIterator[None]:
    """Each hears, also through Redis, and no ring is on its way any more."""
    first = [end.subscribe() for end in ends if isinstance(end, RedisSignals)]
    for end in ends:
        await end.start()
    try:
        for bell in first:
            assert await bell.wait(20), "a new connection rings once: something may have been missed"
        yield
    finally:
        for end in ends:
            await end.close()


async def test_whoever_waits_is_woken_here_and_at_the_other_end(ends: tuple[Signals, Signals]) -> None:
    here, there = ends
    async with started(*ends):
        bells_here, bells_there = [here.subscribe(), here.subscribe()], [there.subscribe(), there.subscribe()]
        here.notify()
        for bell in (*bells_here, *bells_there):
            assert await bell.wait(20)


async def test_whoever_already_waits_is_woken_too(ends: tuple[Signals, Signals]) -> None:
    here, there = ends
    async with started(*ends):
        waits = asyncio.create_task(there.subscribe().wait(20))
        await asyncio.sleep(0)
        here.notify()
        assert await waits


async def test_rings_from_another_thread_wake_both_ends(ends: tuple[Signals, Signals]) -> None:
    """The web process answers in threads, and the clock looks in one."""
    here, there = ends
    async with started(*ends):
        one, other = here.subscribe(), there.subscribe()
        waits = [asyncio.create_task(bell.wait(20)) for bell in (one, other)]
        await asyncio.sleep(0)
        await asyncio.to_thread(here.notify)
        assert await asyncio.gather(*waits) == [True, True]


async def test_rings_while_busy_count_as_one(ends: tuple[Signals, Signals]) -> None:
    here, _ = ends
    async with started(here):
        bell = here.subscribe()
        for _ in range(100):
            here.notify()
        assert await bell.wait(20)


async def test_without_a_ring_the_time_runs_out(ends: tuple[Signals, Signals]) -> None:
    here, there = ends
    async with started(*ends):
        assert not await here.subscribe().wait(0.01)
        assert not await there.subscribe().wait(0.01)


async def test_an_end_that_was_closed_rings_nobody_and_harms_nobody(ends: tuple[Signals, Signals]) -> None:
    here, there = ends
    async with started(here):
        bell = here.subscribe()
    here.notify()
    there.notify()
    assert not await bell.wait(0.01)
    await there.close()


# A bell


async def test_a_ring_in_the_moment_when_the_time_runs_out_is_kept() -> None:
    bell = Wake()
    waits = asyncio.create_task(bell.wait(0))
    await asyncio.sleep(0)
    bell.ring()
    if not await waits:
        assert await bell.wait(0.01), "it was not heard, so it must still be there"


async def test_no_ring_is_lost_between_a_thread_and_a_waiter() -> None:
    """A thousand times: the other thread rings once, and the waiter must hear of it without any time-out."""
    bell, heard = Wake(), threading.Semaphore(0)

    def rings() -> None:
        for _ in range(1_000):
            bell.ring()
            assert heard.acquire(timeout=20)

    ringer = asyncio.create_task(asyncio.to_thread(rings))
    for _ in range(1_000):
        assert await bell.wait(20)
        heard.release()
    await ringer


async def test_a_bell_whose_loop_is_over_may_still_be_rung() -> None:
    bell = Wake()
    await asyncio.to_thread(lambda: asyncio.run(bell.wait(0)))
    bell.ring()


# Between processes on one machine


def listening(kind: str, folder: Path, url: str = "") -> list[str]:
    """A program that says `up` once it hears, and `rang` at each ring."""
    made = f"RedisSignals(Path({str(folder)!r}), {url!r})" if url else f"{kind}(Path({str(folder)!r}))"
    first = "await bell.wait(20)" if url else "pass"
    return [
        sys.executable,
        "-c",
        "import asyncio\nfrom pathlib import Path\nfrom broadcaster.signals import *\n"
        f"async def main():\n    end = {made}\n    bell = end.subscribe()\n    await end.start()\n    {first}\n"
        "    print('up', flush=True)\n"
        "    while True:\n        if await bell.wait(60):\n            print('rang', flush=True)\n"
        "asyncio.run(main())",
    ]


@asynccontextmanager
async def a_process(arguments: list[str]) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE)
    try:
        await says(process, "up")
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def says(process: asyncio.subprocess.Process, word: str) -> None:
    assert process.stdout is not None
    async with asyncio.timeout(30):
        assert (await process.stdout.readline()).decode().strip() == word


async def test_a_real_process_hears_a_real_process(folder: Path) -> None:
    async with (
        a_process(listening("SocketSignals", folder)) as one,
        a_process(listening("SocketSignals", folder)) as two,
    ):
        here = f"from pathlib import Path\nfrom broadcaster.signals import *\nSocketSignals(Path({str(folder)!r})).notify()"
        await asyncio.to_thread(subprocess.run, [sys.executable, "-c", here], check=True)
        await says(one, "rang")
        await says(two, "rang")


async def test_a_killed_listener_is_forgotten_and_harms_nobody(folder: Path) -> None:
    async with a_process(listening("SocketSignals", folder)) as other:
        other.send_signal(signal.SIGKILL)
        await other.wait()
        here = SocketSignals(folder)
        async with started(here):
            bell = here.subscribe()
            here.notify()
            assert await bell.wait(20)
            assert len(list(folder.iterdir())) == 1
    assert not folder.exists()
    folder.mkdir()


async def test_a_listener_that_does_not_read_blocks_nobody(folder: Path) -> None:
    """Its queue is full after a few rings; it is awake already."""
    async with a_process(listening("SocketSignals", folder)) as other:
        other.send_signal(signal.SIGSTOP)
        ringer = SocketSignals(folder)
        for _ in range(2_000):
            ringer.notify()
        assert len(list(folder.glob("*.sock"))) == 1, "and it is not taken for dead"
        other.send_signal(signal.SIGCONT)
        await says(other, "rang")


async def test_without_a_free_file_a_ring_is_lost_and_nothing_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = SocketSignals(folder), SocketSignals(folder)

    def none_left(*_: object) -> socket.socket:
        raise OSError(24, "Too many open files")

    async with started(here, there):
        with monkeypatch.context() as patched:
            patched.setattr(bells.socket, "socket", none_left)
            here.notify()
        bell = there.subscribe()
        here.notify()
        assert await bell.wait(20)


# The folder of the sockets


@pytest.fixture
def long_home(tmp_path: Path) -> Iterator[Path]:
    """Too long for a socket's address: the folder lies among the temporary ones."""
    home = tmp_path / ("x" * 80) / "run"
    yield home
    assert not bells._short(home).exists(), "nothing is left behind"


async def test_a_home_with_a_long_path_is_heard_too_and_leaves_no_folder(long_home: Path) -> None:
    one, other = SocketSignals(long_home), SocketSignals(long_home)
    async with started(one):
        async with started(other):
            bell = other.subscribe()
            one.notify()
            assert await bell.wait(20)
        assert bells._short(long_home).is_dir(), "one is still there"
        one.notify()


async def test_the_folder_goes_with_the_last_who_was_not_killed(long_home: Path) -> None:
    async with a_process(listening("SocketSignals", long_home)) as other:
        other.send_signal(signal.SIGKILL)
        await other.wait()
    assert bells._short(long_home).is_dir()
    await SocketSignals(long_home).close()  # a command that only rang


async def test_who_comes_while_another_leaves_is_always_heard(long_home: Path) -> None:
    """The folder is taken away under whoever is just settling in, again and again."""

    def comes_and_goes() -> None:
        for _ in range(200):
            asyncio.run(one_visit())

    async def one_visit() -> None:
        end = SocketSignals(long_home)
        async with started(end):
            assert await asyncio.to_thread(lambda: end._own is not None and end._own.exists())

    await asyncio.gather(*(asyncio.to_thread(comes_and_goes) for _ in range(3)))


async def test_another_user_s_folder_is_refused_and_left_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
        dead.bind(str(folder / "dead.sock"))
    end = SocketSignals(folder)
    with monkeypatch.context() as patched:
        patched.setattr(bells.os, "geteuid", lambda: os.getuid() + 1)
        end.notify()
        with pytest.raises(Refused):
            await end.start()
        await end.close()
    assert (folder / "dead.sock").exists()
    end.notify()
    assert not (folder / "dead.sock").exists()


# Between machines: Redis


async def test_a_real_process_on_another_machine_is_woken(folder: Path, server: Valkey) -> None:
    async with a_process(listening("RedisSignals", folder / "b", server.url)) as other:
        here = RedisSignals(folder / "a", server.url)
        here.notify()
        await says(other, "rang")
        await here.close()


async def test_a_command_that_rings_and_ends_is_heard(folder: Path, server: Valkey) -> None:
    """`close` lets the last ring out."""
    end = RedisSignals(folder / "b", server.url)
    async with started(end):
        bell = end.subscribe()
        waits = asyncio.create_task(bell.wait(20))
        program = (
            "import asyncio\nfrom pathlib import Path\nfrom broadcaster.signals import *\n"
            f"end = RedisSignals(Path({str(folder / 'a')!r}), {server.url!r})\nend.notify()\nasyncio.run(end.close())"
        )
        await asyncio.to_thread(subprocess.run, [sys.executable, "-c", program], check=True)
        assert await waits


async def test_notify_never_waits_for_a_hung_redis(folder: Path, server: Valkey) -> None:
    end = RedisSignals(folder, server.url)
    async with started(end):
        bell = end.subscribe()
        server.hang()
        end.notify()
        thread = end._publisher._thread
        assert thread is not None
        async with asyncio.timeout(20):
            while not is_in(thread, "publish"):
                await asyncio.sleep(0.001)
        for _ in range(1_000):
            end.notify()  # back at once, while the one thread that talks to Redis is held up by it
        assert thread.is_alive()
        assert end._publisher._thread is thread
        assert await bell.wait(20), "who is here hears it all the same"
        server.go_on()


def is_in(thread: threading.Thread, function: str) -> bool:
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        if frame.f_code.co_name == function:
            return True
        frame = frame.f_back
    return False


async def test_after_redis_died_and_came_back_a_ring_is_heard_again(folder: Path, server: Valkey) -> None:
    one, two = RedisSignals(folder / "a", server.url), RedisSignals(folder / "b", server.url)
    async with started(one, two):
        bell = two.subscribe()
        server.kill()
        one.notify()
        server.start()
        assert await bell.wait(20), "connected again: something may have been missed"
        one.notify()
        assert await bell.wait(20)


async def test_an_emptied_redis_has_lost_nothing(folder: Path, server: Valkey) -> None:
    one, two = RedisSignals(folder / "a", server.url), RedisSignals(folder / "b", server.url)
    async with started(one, two):
        bell = two.subscribe()
        with redis.Redis.from_url(server.url) as operator:
            assert operator.dbsize() == 0, "there is nothing in it to lose"
            operator.flushall()
        one.notify()
        assert await bell.wait(20)


async def test_a_listener_notices_a_redis_that_says_nothing_any_more(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that hung and whose machine then vanished closes no connection. The listener asks, and dials again."""
    monkeypatch.setattr(bells, "SILENT_S", 0.05)
    monkeypatch.setattr(bells, "_AGAIN_S", 0.01)
    dialled = asyncio.Queue[str]()

    async def mute_after_a_while(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers what a client says on arriving, then is silent; the first caller is not answered at all."""
        first = dialled.empty() and not was_called
        was_called.append(True)
        said = b""
        while (more := await reader.read(4096)) and not first:
            said += more
            if b"PING" in said:
                await dialled.put("asked")
                break
            if b"SUBSCRIBE" in said:
                await dialled.put("subscribed")
                writer.write(b"*3\r\n$9\r\nsubscribe\r\n$16\r\nbroadcaster:wake\r\n:1\r\n")
                said = b""
            else:
                writer.write(b"+OK\r\n" * more.count(b"CLIENT") or b"-ERR unknown command 'HELLO'\r\n")

    was_called: list[bool] = []
    mute = await asyncio.start_server(mute_after_a_while, "127.0.0.1", 0)
    end = RedisSignals(folder, f"redis://127.0.0.1:{mute.sockets[0].getsockname()[1]}/0?protocol=2")
    await end.start()
    async with asyncio.timeout(30):
        for _ in range(2):
            assert await dialled.get() == "subscribed"
            assert await dialled.get() == "asked"
    await end.close()
    mute.close()


async def test_a_quiet_redis_is_asked_and_kept(folder: Path, server: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """No ring for a long time is no silence: the answer to the question counts, and nobody is woken by it."""
    monkeypatch.setattr(bells, "SILENT_S", 0.2)
    end = RedisSignals(folder, server.url)
    async with started(end):
        with redis.Redis.from_url(server.url) as operator:
            before = [client["id"] for client in operator.client_list() if client["sub"] == "1"]
            bell = end.subscribe()
            assert not await bell.wait(1.5)
            assert [client["id"] for client in operator.client_list() if client["sub"] == "1"] == before


async def test_what_a_stranger_publishes_is_only_a_ring(folder: Path, server: Valkey) -> None:
    end = RedisSignals(folder, server.url)
    async with started(end):
        bell = end.subscribe()
        with redis.Redis.from_url(server.url) as stranger:
            stranger.publish(CHANNEL, os.urandom(100_000))
        assert await bell.wait(20)


@pytest.mark.parametrize("url", ["memcached://127.0.0.1", "redis://127.0.0.1:many/0", "127.0.0.1:6379"])
def test_a_wrong_redis_url_gets_a_sentence(folder: Path, url: str) -> None:
    with pytest.raises(Refused) as refused:
        RedisSignals(folder, url)
    assert refused.value.problems[0].ja.endswith("。")


# The whole way, with Redis in trouble


def emptied(server: Valkey) -> None:
    with redis.Redis.from_url(server.url) as operator:
        operator.flushall()


def died_and_came_back(server: Valkey) -> None:
    server.kill()
    server.start()


TROUBLES: dict[str, Callable[[Valkey], None]] = {
    "well": lambda _: None,
    "emptied": emptied,
    "dead": Valkey.kill,
    "hung": Valkey.hang,
    "new on the same port": died_and_came_back,
}


@pytest.fixture
def two_machines(
    settings: Settings, tmp_path: Path, folder: Path, database_url: str, server: Valkey
) -> Iterator[tuple[House, House]]:
    """An office that issues and a machine that sends; a database and Redis between them and nothing else."""
    with a_house(settings, tmp_path, url=database_url) as house:
        office = replace(house, signals=RedisSignals(folder / "office", server.url))
        yield office, replace(house, signals=RedisSignals(folder / "machine", server.url))


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_whatever_redis_does_an_alert_goes_out_within_a_second(
    two_machines: tuple[House, House], server: Valkey, trouble: str
) -> None:
    office, machine = two_machines
    machine.readers(20)
    async with started(office.signals, machine.signals), machine.sender():
        TROUBLES[trouble](server)
        identifier = await asyncio.to_thread(issue, office)
        await machine.until_settled(identifier)
    assert machine.counts(identifier).delivered == 20
    assert set(machine.states(identifier).values()) == {State.DELIVERED}
    assert slowest(first_tries(machine, identifier)) <= LATEST + NOISE


def issue(house: House) -> str:
    now = house.clock.now()
    alert = replace(
        an_alert(house.settings, now=now, channels=OWN_MEDIA), identifier=f"13109-{now:%H%M%S%f}", sent_at=None
    )
    return house.issues(alert).message.identifier


def first_tries(house: House | Any, identifier: str) -> dict[str, timedelta]:
    """By the ledger: how long after its issue each medium was first tried."""
    with house.database.read() as connection:
        found = issues.get(connection, identifier)
        assert found is not None
        rows = deliveries.of_issue(connection, found.id)
    waits = {row.key: row.first_attempt_at - row.created_at for row in rows if row.first_attempt_at is not None}
    assert waits
    return waits


def slowest(waits: dict[str, timedelta]) -> timedelta:
    return max(waits.values())


async def test_redis_dying_and_hanging_during_many_issues_loses_none(
    two_machines: tuple[House, House], server: Valkey
) -> None:
    office, machine = two_machines
    async with started(office.signals, machine.signals), machine.sender():
        identifiers = []
        for trouble in (Valkey.kill, Valkey.start, emptied, Valkey.hang, Valkey.go_on, Valkey.kill, Valkey.start) * 2:
            identifiers.append(await asyncio.to_thread(issue, office))
            trouble(server)
            identifiers.append(await asyncio.to_thread(issue, office))
        await machine.until_settled(*identifiers)
    for identifier in identifiers:
        assert set(machine.states(identifier).values()) == {State.DELIVERED}
        assert slowest(first_tries(machine, identifier)) <= LATEST + NOISE


# The same between real processes, with the shipped channels


@pytest.fixture
def two_towns(tmp_path: Path, database_url: str, server: Valkey) -> Iterator[tuple[Town, Town]]:
    """Two machines: homes of their own, one database, one Redis."""
    shared = {"BROADCASTER_REDIS_URL": server.url, "BROADCASTER_BASE_URL": "http://ward.example.jp"}
    with (
        a_town(tmp_path / "a", url=database_url, **shared) as one,
        a_town(tmp_path / "b", url=database_url, **shared) as other,
    ):
        yield one, other


@pytest.mark.timeout(240)
async def test_a_sender_on_another_machine_sends_whatever_redis_does(
    two_towns: tuple[Town, Town], server: Valkey
) -> None:
    office, machine = two_towns
    machine.readers(10)
    machine.start("rehearsal")
    machine.start("sender", "work", "--lane", "all")
    await machine.until_settled(alerted(office), seconds=60)  # the first finds the sender starting
    for trouble, recovers in (
        (emptied, None),
        (Valkey.hang, Valkey.go_on),
        (Valkey.kill, Valkey.start),
        (died_and_came_back, None),
    ):
        trouble(server)
        identifier = await asyncio.to_thread(alerted, office)
        await machine.until_settled(identifier, seconds=60)
        assert machine.counts(identifier).delivered == 10
        assert slowest(first_tries(machine.app, identifier)) <= LATEST + NOISE
        if recovers is not None:
            recovers(server)


def alerted(town: Town) -> str:
    now = town.app.clock.now()
    alert = replace(an_alert(town.app.settings, now=now), identifier=f"13109-{now:%H%M%S%f}", sent_at=None)
    return town.app.pipeline.hand_in(alert, STAFF).message.identifier


BOARDS = ("emergency", "feeds/all.rss", "feeds/all.json", "signage/S01.json", "dial/current.txt")


@pytest.mark.timeout(240)
async def test_the_boards_of_every_web_process_switch_within_a_second_and_are_equal(
    two_towns: tuple[Town, Town], server: Valkey
) -> None:
    """With Redis, without it, and with one that hangs: same bytes, same tags, on both machines."""
    ports = [a_free_port(), a_free_port()]
    for town, port in zip(two_towns, ports, strict=True):
        town.start("web", "web", "--port", str(port))
    await two_towns[0].until(lambda: all(answers(port) for port in ports))
    for trouble in (lambda _: None, Valkey.hang, Valkey.kill):
        before = {name: tag(ports[0], name) for name in BOARDS}
        trouble(server)
        identifier = await asyncio.to_thread(alerted, two_towns[0])
        seen_at = {port: await asyncio.to_thread(switched, two_towns[0], port, before) for port in ports}
        with two_towns[0].app.database.read() as connection:
            found = issues.get(connection, identifier)
        assert found is not None
        for at in seen_at.values():
            assert at - found.sent_at <= LATEST + NOISE
        for name in BOARDS:
            assert page(ports[0], name) == page(ports[1], name), name


def switched(town: Town, port: int, before: dict[str, str]) -> Any:
    """When every board of this web process had changed."""
    until = town.app.clock.now() + timedelta(seconds=30)
    while any(tag(port, name) == old for name, old in before.items()):
        assert town.app.clock.now() < until, "the boards did not switch"
    return town.app.clock.now()


def page(port: int, name: str) -> tuple[str, bytes]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{name}", timeout=10) as answer:
        return answer.headers["etag"], answer.read()


def answers(port: int) -> bool:
    try:
        return all(page(port, name)[0] for name in BOARDS)
    except OSError:  # not up, or its boards are not composed yet
        return False


def tag(port: int, name: str) -> str:
    return page(port, name)[0]
