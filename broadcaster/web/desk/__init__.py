"""`/desk`: where staff write, approve, schedule, and press the one button. `visit.py` is the door of all its pages."""

from __future__ import annotations

from starlette.applications import Starlette

from broadcaster.app import App
from broadcaster.web.desk import (
    afteraction,
    approvals,
    calendar,
    changing,
    compose,
    decisions,
    emergency,
    exports,
    home,
    me,
    people,
    records,
    sent,
    signin,
    signon,
    touch,
)
from broadcaster.web.desk.visit import PATH, Desk

__all__ = ["PATH", "Desk", "application", "desk_of"]


def desk_of(app: App) -> Desk:
    """Every page with its right."""
    desk = Desk(app)
    for part in (
        signin,
        signon,
        touch,
        home,
        emergency,
        sent,
        changing,
        decisions,
        afteraction,
        compose,
        exports,
        approvals,
        calendar,
        records,
        people,
        me,
    ):
        part.register(desk)
    return desk


def application(app: App) -> Starlette:
    desk = desk_of(app)
    return desk.application(home.events(desk))
