"""Liveness, readiness and numbers for Prometheus. Labels come from closed lists: no address, no token, no screen."""

from __future__ import annotations

import ipaddress

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest

from broadcaster.app import App
from broadcaster.delivery import Lane
from broadcaster.message import Mode
from broadcaster.store import deliveries, issues, workers
from broadcaster.store.database import StoreError
from broadcaster.web.pages import Boards

_MOST = 10_000


def routes(app: App, pages: Boards) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get("/healthz")
    def healthz() -> PlainTextResponse:
        return PlainTextResponse("ok\n")

    @router.get("/readyz")
    def readyz() -> PlainTextResponse:
        try:
            is_current = app.database.is_current()
        except StoreError:
            is_current = False
        ready = is_current and pages.is_ready
        return PlainTextResponse("ok\n" if ready else "not ready\n", status_code=200 if ready else 503)

    @router.get("/metrics")
    def metrics(request: Request) -> Response:
        if not _is_local(request):
            return PlainTextResponse("not ok\n", status_code=403)
        return Response(_numbers(app), media_type=CONTENT_TYPE_LATEST)

    return router


def _is_local(request: Request) -> bool:
    host = request.client.host if request.client else ""
    try:
        return ipaddress.ip_address(host).is_loopback and "x-forwarded-for" not in request.headers
    except ValueError:
        return False


def _numbers(app: App) -> bytes:
    registry = CollectorRegistry()
    waiting = Gauge("broadcaster_waiting", "Deliveries that wait", ["channel", "mode", "lane"], registry=registry)
    in_force = Gauge("broadcaster_in_force", "Messages in force", ["mode"], registry=registry)
    alive = Gauge("broadcaster_workers", "Workers alive", registry=registry)
    to_decide = Gauge("broadcaster_to_decide", "Deliveries that failed or are unknown", registry=registry)
    now = app.clock.now()
    with app.database.read() as connection:
        for mode in Mode:
            in_force.labels(mode.value).set(len(issues.in_force(connection, mode, now)))
            for channel in app.pipeline.channels[mode]:
                for lane in Lane:
                    number = deliveries.waiting(connection, channel, mode, lane, _MOST)
                    waiting.labels(channel, mode.value, lane.name.lower()).set(number)
        alive.set(len(workers.alive(connection, now)))
        to_decide.set(len(deliveries.to_decide(connection)))
    return generate_latest(registry)
