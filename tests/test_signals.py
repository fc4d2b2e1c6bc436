"""Wake-ups: one contract in process, between processes, and through a real Redis that may die."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from broadcaster.signals import LocalSignals, RedisSignals, Signals, SocketSignals
from tests import servers


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # a socket's path has at most 107 bytes
        yield Path(name)


@pytest.fixture(params=["local", "socket", "redis"])
def signals(request: pytest.FixtureRequest, folder: Path) -> Iterator[Signals]:
    if request.param == "local":
        yield LocalSignals()
    elif request.param == "socket":
        yield SocketSignals(folder)
    else:
        with servers.valkey() as url:
            yield RedisSignals(folder, url)


async def test_whoever_waits_is_woken(signals: Signals) -> None:
    await signals.start()
    one, two = signals.subscribe(), signals.subscribe()
    signals.notify()
    assert await one.wait(5)
    assert await two.wait(5)
    await signals.close()


async def test_rings_while_busy_count_as_one(signals: Signals) -> None:
    await signals.start()
    wake = signals.subscribe()
    for _ in range(100):
        signals.notify()
    assert await wake.wait(5)
    await signals.close()


async def test_without_a_ring_the_time_runs_out(signals: Signals) -> None:
    await signals.start()
    wake = signals.subscribe()
    await wake.wait(1)  # a new connection to Redis rings once: something may have been missed before it
    assert not await wake.wait(0.01)
    await signals.close()


async def test_another_process_is_woken(folder: Path) -> None:
    here = SocketSignals(folder)
    await here.start()
    wake = here.subscribe()
    program = f"from pathlib import Path; from broadcaster.signals import SocketSignals; SocketSignals(Path({str(folder)!r})).notify()"
    subprocess.run([sys.executable, "-c", program], check=True)
    assert await wake.wait(5)
    await here.close()


async def test_a_dead_listener_is_forgotten_and_harms_nobody(folder: Path) -> None:
    program = (
        "import asyncio, os\nfrom pathlib import Path\nfrom broadcaster.signals import SocketSignals\n"
        f"async def main():\n    await SocketSignals(Path({str(folder)!r})).start()\n    print('up', flush=True)\n    await asyncio.sleep(60)\n"
        "asyncio.run(main())"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    here = SocketSignals(folder)
    await here.start()
    wake = here.subscribe()
    here.notify()
    assert await wake.wait(5)
    assert len(list(folder.glob("*.sock"))) == 1
    await here.close()
    assert list(folder.glob("*.sock")) == []


async def test_between_two_machines_redis_carries_the_ring(folder: Path) -> None:
    with servers.valkey() as url:
        one, two = RedisSignals(folder / "a", url), RedisSignals(folder / "b", url)
        await one.start()
        await two.start()
        wake = two.subscribe()
        async with asyncio.timeout(10):
            while not await wake.wait(0.2):
                one.notify()
        await one.close()
        await two.close()


async def test_a_dead_redis_holds_up_nobody(folder: Path) -> None:
    with servers.valkey() as url:
        signals = RedisSignals(folder, url)
        await signals.start()
    wake = signals.subscribe()
    for _ in range(50):
        signals.notify()
    assert await wake.wait(5)
    await signals.close()


async def test_a_hung_redis_holds_up_nobody(folder: Path) -> None:
    hung = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = hung.sockets[0].getsockname()[1]
    signals = RedisSignals(folder, f"redis://127.0.0.1:{port}/0")
    await signals.start()
    wake = signals.subscribe()
    signals.notify()
    assert await wake.wait(5)
    await signals.close()
    hung.close()


async def test_what_a_stranger_publishes_is_only_a_ring(folder: Path) -> None:
    import redis

    with servers.valkey() as url:
        signals = RedisSignals(folder, url)
        await signals.start()
        wake = signals.subscribe()
        stranger = redis.Redis.from_url(url)
        async with asyncio.timeout(10):
            while not await wake.wait(0.2):
                stranger.publish("broadcaster:wake", os.urandom(100_000))
        stranger.close()
        await signals.close()


async def test_a_home_with_a_long_path_is_heard_too(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 80) / "run"
    one, other = SocketSignals(folder), SocketSignals(folder)
    await one.start()
    await other.start()
    try:
        bell = other.subscribe()
        one.notify()
        assert await bell.wait(5)
    finally:
        await one.close()
        await other.close()
