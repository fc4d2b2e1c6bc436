"""Screens, readers and apps ask for the same feed again and again; nearly always nothing has changed (304).

Measured: the CPU of the web process for one such answer, with `wrk` over 100 connections that stay open, a feed of about
20 KB, `If-None-Match` with its current tag. The process is the one that ships (`broadcaster web`, uvicorn with uvloop) with
a real database behind it. Beside it in the same round: nginx with the same bytes as a file; a FastAPI route on the same
server that returns the same bytes with the same 304; a FastAPI route that returns a dict (it knows no 304); and as the floor a
bare ASGI function. The server
under test has one processor, wrk the other.

    python -m benchmarks N9

What limits it: uvicorn's own work for a request (parsing, a task, two messages); the boards' part is a look into a table.
How it grows: with polls only, never with the number of messages, readers or screens. 100,000 screens that ask every 30 s
are 3,333 polls a second. In front of many more, nginx serves the same bytes from the public folder and Python sees none.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from benchmarks.rounds import (
    ROUNDS,
    ROUNDS_QUICK,
    Figure,
    Sample,
    at_least,
    at_most,
    cpu_s,
    finished,
    free_port,
    listens,
    peak_mb,
    plain,
    ratio,
    rounds,
    running,
    spread,
    tool,
)
from broadcaster import app as assembly
from broadcaster import settings as configuration
from broadcaster.message import Info, Message, Mode
from broadcaster.store.audit import Actor

TITLE = "Polls of a feed"
WHY = __doc__

PATH = "/feeds/all.json"
CONNECTIONS = 100
_SERVER, _CLIENT = 0, 1  # processors
_NOTICES = 12  # of about 1.6 KB each in the feed


@dataclass(frozen=True, kw_only=True)
class Served:
    """One way to the same bytes."""

    port: int
    pid: int
    path: str
    tag: str  # sent as If-None-Match; empty where there is no such thing

    def poll(self) -> tuple[int, bytes]:
        """One poll by hand: what wrk will get."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", self.path, headers={"If-None-Match": self.tag} if self.tag else {})
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, body

    def load(self, seconds: int) -> Sample:
        asked = ["-H", f"If-None-Match: {self.tag}"] if self.tag else []
        url = f"http://127.0.0.1:{self.port}{self.path}"
        before = cpu_s(self.pid)
        arguments = [
            tool("wrk", debian="wrk"),
            "-t1",
            f"-c{CONNECTIONS}",
            f"-d{seconds}s",
            "--timeout",
            "10s",
            *asked,
            url,
        ]
        said, took, _ = finished(arguments, cpu=_CLIENT)
        spent = cpu_s(self.pid) - before
        found = re.search(r"(\d+) requests in", said)
        if found is None or "Non-2xx" in said or "Socket errors" in said:
            raise RuntimeError(f"wrk was not answered well: {said}")
        return Sample(units=int(found[1]), seconds=took, cpu_s=spent, peak_mb=peak_mb(self.pid))


def run(quick: bool) -> list[Figure]:
    tool("wrk", debian="wrk")
    tool("nginx", debian="nginx-light")
    with tempfile.TemporaryDirectory(prefix="bench-feeds-") as temporary, ExitStack() as stack:
        folder = Path(temporary)
        ours = stack.enter_context(_product(folder))
        status, body = replace(ours, tag="").poll()
        assert status == 200
        (folder / "feed.json").write_bytes(body)
        nginx = stack.enter_context(_nginx(folder))
        ways = {"ours": ours, "nginx": nginx}
        for route in ("bytes", "dict", "typed", "bare"):
            ways[route] = stack.enter_context(_fastapi(folder, route))
        whole = {f"{name} 200": replace(way, tag="") for name, way in ways.items() if way.tag and name != "bare"}
        for name, way in ways.items():
            assert way.poll()[0] == (304 if way.tag else 200), name
        for name, way in whole.items():
            assert way.poll() == (200, body), name
        seconds = 1 if quick else 3
        turns: dict[str, Callable[[], Sample]] = {n: _turn(way, seconds) for n, way in {**ways, **whole}.items()}
        results = rounds(turns, ROUNDS_QUICK if quick else ROUNDS)
    cpu = {name: spread(results, name, _cpu) for name in turns}
    memory = {name: spread(results, name, lambda sample: sample.peak_mb).median for name in turns}
    rate = spread(results, "ours", lambda sample: sample.rate)
    size = f"{len(body) / 1024:.0f} KB"
    mine = f"ours {cpu['ours']} µs"
    return [
        Figure(
            name="N9 CPU per 304: ours, nginx with the file = 1",
            value=ratio(results, "ours", "nginx", _cpu),
            unit="×",
            bar=at_most(3),
            against=f"nginx {cpu['nginx']} µs; {mine}",
            note=f"feed of {size}, {plain(rate.median)} polls/s on one processor, {memory['ours']:.0f} MiB",
        ),
        Figure(
            name="N9 CPU per 304: ours, a bare ASGI function on the same server = 1",
            value=ratio(results, "ours", "bare", _cpu),
            unit="×",
            against=f"bare {cpu['bare']} µs, which is {ratio(results, 'bare', 'nginx', _cpu)} × nginx",
            note="the floor of uvicorn: what the product itself adds",
        ),
        Figure(
            name="N9 CPU per 304: a FastAPI route with the same bytes, ours = 1",
            value=ratio(results, "bytes", "ours", _cpu),
            unit="×",
            bar=at_least(3),
            against=f"FastAPI Response {cpu['bytes']} µs",
        ),
        Figure(
            name="N9 CPU per poll: a FastAPI route that returns a dict, ours = 1",
            value=ratio(results, "dict", "ours", _cpu),
            unit="×",
            bar=at_least(25),
            against=f"FastAPI dict {cpu['dict']} µs",
            note="it makes the JSON at each poll and knows no 304; "
            f"with a return type, which FastAPI serializes faster: {ratio(results, 'typed', 'ours', _cpu)} ×",
        ),
        Figure(
            name="N9 CPU per 200 with the body: ours, nginx = 1",
            value=ratio(results, "ours 200", "nginx 200", _cpu),
            unit="×",
            against=f"nginx {cpu['nginx 200']} µs; ours {cpu['ours 200']} µs; FastAPI Response {cpu['bytes 200']} µs",
        ),
    ]


def _cpu(sample: Sample) -> float:
    return sample.cpu_us


def _turn(way: Served, seconds: int) -> Callable[[], Sample]:
    return lambda: way.load(seconds)


# The four ways


@contextmanager
def _product(folder: Path) -> Iterator[Served]:
    """The web process of a rehearsal in which a dozen notices are in force."""
    home = folder / "home"
    environment = {"BROADCASTER_HOME": str(home), "BROADCASTER_LOG": "WARNING"}
    app = assembly.assemble(configuration.load(environment), standins={"email": 1, "x": 1})
    app.database.upgrade()
    for number in range(_NOTICES):
        app.pipeline.hand_in(_notice(app, number), Actor(name="bench", via="cli"))
    asyncio.run(app.close())
    port = free_port()
    arguments = [sys.executable, "-m", "broadcaster", "web", "--port", str(port)]
    ready = f"http://127.0.0.1:{port}/readyz"
    with running(
        arguments, log=folder / "web.log", env=environment, cpu=_SERVER, ready=lambda: _answers(ready)
    ) as process:
        yield Served(port=port, pid=process.pid, path=PATH, tag=_tag(port, PATH))


def _notice(app: assembly.App, number: int) -> Message:
    now = app.clock.now()
    body = "設備の点検のため休館します。図書の返却は入口の返却口へお願いします。" * 12
    title = f"図書館の休館のお知らせ（その{number}）"
    return Message(
        identifier=f"13109-bench-{number}",
        mode=Mode.LIVE,
        category="notice",
        infos=(Info(language="ja", headline=title, summary=title, description=body, spoken=body),),
        areas=(app.settings.ward.whole(),),
        channels=("rss", "signage"),
        effective_at=now,
        expires_at=now + timedelta(days=2),
    )


@contextmanager
def _nginx(folder: Path) -> Iterator[Served]:
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(
        f"""
        daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx-error.log;
        {"user root;" if os.geteuid() == 0 else ""}
        events {{ worker_connections 1024; }}
        http {{
            access_log off; sendfile on; tcp_nopush on; etag on; open_file_cache max=10;
            keepalive_timeout 75; keepalive_requests 1000000000; types {{ application/feed+json json; }}
            client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
            uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
            server {{ listen 127.0.0.1:{port}; root {folder}; }}
        }}
        """,
        encoding="utf-8",
    )
    arguments = [tool("nginx", debian="nginx-light"), "-c", str(config), "-p", str(folder)]
    with running(arguments, log=folder / "nginx.log", cpu=_SERVER, ready=lambda: listens(port)) as process:
        yield Served(port=port, pid=process.pid, path="/feed.json", tag=_tag(port, "/feed.json"))


@contextmanager
def _fastapi(folder: Path, way: str) -> Iterator[Served]:
    port = free_port()
    arguments = [sys.executable, "-m", "benchmarks.fastapi_site", str(port), str(folder / "feed.json")]
    arguments += ["bare"] if way == "bare" else []
    with running(arguments, log=folder / f"{way}.log", cpu=_SERVER, ready=lambda: listens(port)) as process:
        tag = _tag(port, f"/{way}") if way in ("bytes", "bare") else ""
        yield Served(port=port, pid=process.pid, path=f"/{way}", tag=tag)


# Questions by hand


def _tag(port: int, path: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    tag = answer.getheader("etag")
    if answer.status != 200 or not tag:
        raise RuntimeError(f"{path} was answered with {answer.status} and the tag {tag}")
    return tag


def _answers(url: str) -> bool:
    host, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=2)
    try:
        connection.request("GET", f"/{path}")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


RUNS = {"N9": run}
