"""How each role starts: what it loads, what it waits for, how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
import urllib.request
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import structlog
from rich.console import Console

from broadcaster import app as assembly
from broadcaster import backup, settings
from broadcaster.clock import SystemClock
from broadcaster.credentials import fingerprint, new_secret
from broadcaster.delivery import Lane
from broadcaster.problems import refuse
from broadcaster.roles import Role
from broadcaster.serve import Supervisor
from broadcaster.settings import Settings
from broadcaster.store import audit, people
from broadcaster.store.audit import Actor
from broadcaster.store.database import StoreError

log = structlog.get_logger(__name__)


def serve(*, host: str, port: int, out: Console) -> None:
    """Prepare the database (and in rehearsal the town), then keep every role alive."""
    os.environ.setdefault("BROADCASTER_BASE_URL", f"http://{host}:{port}")
    configured = settings.load()
    _refuse_root_in_live(configured)
    parts = assembly.assemble(configured)
    parts.database.upgrade()
    if configured.is_rehearsal:
        from broadcaster.rehearsal import seed

        seed.settle_in(parts, out)
        settings.base_url_file(configured.home).write_text(configured.ward.base_url, encoding="utf-8")
    else:
        _refuse_sample_people(parts)
        invite_first(parts, sys.stdout)
    asyncio.run(parts.close())
    roles: list[tuple[str, list[str]]] = [
        ("web", ["web", "--host", host, "--port", str(port)]),
        ("sender", ["work", "--lane", "all"]),
        ("scheduler", ["schedule"]),
    ]
    if configured.is_rehearsal:
        roles.insert(0, ("rehearsal", ["rehearsal"]))
    asyncio.run(_supervise(configured, roles, f"http://{host}:{port}", out))


async def _supervise(configured: Settings, roles: list[tuple[str, list[str]]], url: str, out: Console) -> None:
    announcer = asyncio.create_task(_announce(configured, url, out))
    try:
        await Supervisor(roles).run()
    finally:
        announcer.cancel()
        await asyncio.gather(announcer, return_exceptions=True)


async def _announce(configured: Settings, url: str, out: Console) -> None:
    """The last line of the start: where it is and how to sign in, once it really answers."""
    while not await asyncio.to_thread(_is_ready, url):  # noqa: ASYNC110 - another process has no event to wait for
        await asyncio.sleep(0.1)
    if not configured.is_rehearsal:
        out.print(f"動いています：{url}/")
        return
    from broadcaster.rehearsal import seed

    out.print(
        f"広報デスク：{url}/desk （練習の人でサインイン）　練習の町：{url}/rehearsal　"
        f"（API の鍵は {seed.token_file(configured.home)}）",
        soft_wrap=True,
    )


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2) as answer:  # noqa: S310 - our own address
            return bool(answer.status == 200)
    except OSError:
        return False


def web(*, host: str, port: int) -> None:
    import uvicorn

    from broadcaster.web import create

    configured = settings.load()
    _refuse_root_in_live(configured)
    parts = assembly.assemble(configured)
    _refuse_other_tables(parts)
    _refuse_sample_people(parts)
    parts.render.load_all()
    uvicorn.run(
        create(parts),
        host=host,
        port=port,
        log_level="warning",
        access_log=False,  # an access line would hold the tokens that stand in addresses
        server_header=False,
        timeout_graceful_shutdown=3,
        timeout_keep_alive=75,
        proxy_headers=False,  # nobody asks for a reader's own address, and each poll would pay for it
        loop="uvloop",
    )


async def work(lanes: list[Lane]) -> None:
    """Send until told to stop. The credentials are loaded here and nowhere else."""
    configured = settings.load()
    _refuse_root_in_live(configured)
    ports = await assembly.wait_for_standins(configured.home) if configured.is_rehearsal else None
    parts = assembly.assemble(configured, credentials=True, standins=ports)
    _refuse_other_tables(parts)
    await parts.signals.start()
    await _wait_until_released(parts)
    parts.render.load_all()
    _tune_for_sending()
    await _until_told(parts, parts.sender(lanes).run)


def _tune_for_sending() -> None:
    """What is loaded by now stays, so no collection looks at it again; of a mail's few objects none forms a ring. And
    the threads of ledger and boards come to their turn after 1 ms: an alert's first letter waits for three such turns."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    sys.setswitchinterval(0.001)


async def schedule() -> None:
    from broadcaster.scheduler import Scheduler

    configured = settings.load()
    _refuse_root_in_live(configured)
    parts = assembly.assemble(configured)
    _refuse_other_tables(parts)
    await parts.signals.start()
    await _wait_until_released(parts)
    await _until_told(parts, Scheduler(parts.pipeline, configured).run)


async def rehearsal() -> None:
    from broadcaster.rehearsal import town

    configured = settings.load()
    if not configured.is_rehearsal:
        raise refuse("installation", ja="本番では練習の町は動きません。", en="There is no rehearsal town in live.")
    file = assembly.ports_file(configured.home)
    await _cancelled_by_signal(town.run(configured.home, SystemClock(), ports_file=file))


def _refuse_other_tables(parts: assembly.App) -> None:
    """A role never changes the tables by itself: on another machine the version before may still be at work."""
    try:
        is_current = parts.database.is_current()
    except StoreError:
        log.warning("database.not_reached")  # it may come back: each role knows how to wait for it
        return
    if not is_current:
        raise refuse(
            "database",
            ja="データベースの表がこの版のものではありません。broadcaster db upgrade を実行してから始めてください。",
            en="The tables are not those of this version; run broadcaster db upgrade first.",
        )


async def _wait_until_released(parts: assembly.App) -> None:
    """A restored copy sends nothing before a person says so."""
    while await parts.database.reads(backup.is_frozen):
        log.warning("installation.is_frozen", why="restored from a copy; run broadcaster release")
        await asyncio.sleep(1)


async def _until_told(parts: assembly.App, run: Callable[[], Awaitable[None]]) -> None:
    try:
        await _cancelled_by_signal(run())
    finally:
        await parts.close()


async def _cancelled_by_signal(work: Awaitable[None]) -> None:
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):
            loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _refuse_root_in_live(configured: Settings) -> None:
    if not configured.is_rehearsal and os.geteuid() == 0:
        raise refuse(
            "process",
            ja="本番は root で動かせません。専用の利用者で動かしてください。",
            en="Live refuses to run as root.",
        )
    if not configured.is_rehearsal and not configured.ward.base_url.startswith("https://"):
        raise refuse(
            "base_url",
            ja="本番の base_url は https:// で始めてください（config/ward.toml）。",
            en="In live, base_url must begin with https:// (config/ward.toml).",
        )


def _refuse_sample_people(parts: assembly.App) -> None:
    """They come in without a password."""
    if parts.settings.is_rehearsal:
        return
    try:
        with parts.database.read() as connection:
            samples = [person.name for person in people.everybody(connection) if person.is_sample]
    except StoreError:
        log.warning("database.not_reached")
        return
    if samples:
        raise refuse(
            "people",
            ja=f"本番に練習の人がいます（{'、'.join(samples)}）。練習のデータベースを本番に使わないでください。",
            en=f"There are sample people in live ({', '.join(samples)}); do not use a rehearsal's database in live.",
        )


FIRST = "admin"


def setup_link_file(home: Path) -> Path:
    return home / "setup-link"


def invite_first(parts: assembly.App, out: TextIO) -> None:
    """The first administrator comes by a link that is shown once: on a terminal, or else in a file for this user alone; a
    journal would keep it for everybody who reads journals. Until it is used, each start makes a new one."""
    now, token = parts.clock.now(), new_secret()
    with parts.database.write() as connection:
        everybody = people.everybody(connection)
        if any(person.state != people.INVITED or person.name != FIRST for person in everybody):
            return
        first = (
            everybody[0]
            if everybody
            else people.add(connection, name=FIRST, display="管理する人", role=Role.ADMIN, at=now)
        )
        people.put_link(connection, first.id, fingerprint(token), people.INVITE, now + people.INVITE_LASTS)
        audit.write(connection, Actor(name="setup", via="cli"), "person.invited", FIRST, at=now, role=Role.ADMIN.value)
    link = f"{parts.settings.ward.base_url}/desk/invite/{token}"
    if out.isatty():
        print(f"最初の管理する人の招き（48時間、一度だけ）：{link}", file=out)
        return
    file = setup_link_file(parts.settings.home)
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as written:
        written.write(link + "\n")
    print(f"最初の管理する人の招きのリンクは {file} にあります（48時間、一度だけ）。", file=out)
