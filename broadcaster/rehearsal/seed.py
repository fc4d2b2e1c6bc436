"""Settles the rehearsal town at the first start: its readers, the drill addresses, a key for the API."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

from rich.console import Console

from broadcaster import lists
from broadcaster.app import App
from broadcaster.message import Mode
from broadcaster.progress import progress_bar
from broadcaster.roles import Role
from broadcaster.store import meta, people, subscribers, tokens
from broadcaster.store.audit import Actor
from broadcaster.store.database import Connection

DRILL_READERS = 12

STAFF = (
    ("writer", "書く人", "所管課", Role.WRITER),
    ("writer2", "書く人その二", "所管課", Role.WRITER),
    ("approver", "承認する人", "広報広聴課", Role.APPROVER),
    ("approver2", "承認する人その二", "広報広聴課", Role.APPROVER),
    ("duty", "当直", "防災課", Role.DUTY),
    ("admin", "管理する人", "広報広聴課", Role.ADMIN),
    ("admin2", "管理する人その二", "情報推進課", Role.ADMIN),
    ("viewer", "見る人", "地域センター", Role.VIEWER),
)
"""Sample people of the desk, named by what they do. They have no password: a rehearsal lets them in by a button."""
_SETTLED = "town_settled"


def token_file(home: Path) -> Path:
    return home / "rehearsal" / "token"


def settle_in(app: App, out: Console) -> None:
    """Once for each home; a second start finds it done."""
    with app.database.read() as connection:
        if meta.get(connection, _SETTLED):
            return
    people = app.settings.config / "rehearsal" / "subscribers.csv"
    with progress_bar(out) as progress:
        written, _ = lists.bring_in(
            app, people, encoding="utf-8", is_drill=False, actor=Actor(name="rehearsal", via="rule"), progress=progress
        )
    with app.database.write() as connection:
        subscribers.put(connection, _drill_readers(app), is_drill=True)
        shown = tokens.create(connection, name="rehearsal", role=Role.ADMIN, mode=Mode.LIVE, now=app.clock.now())
        drill = tokens.create(connection, name="rehearsal drill", role=Role.ADMIN, mode=Mode.DRILL, now=app.clock.now())
        add_sample_staff(connection, app.clock.now())
        meta.put(connection, _SETTLED, app.clock.now().isoformat())
    _write_token(token_file(app.settings.home), shown)
    _write_token(token_file(app.settings.home).with_suffix(".drill"), drill)
    out.print(f"練習の町に {written:,}人が入りました。")


def add_sample_staff(connection: Connection, now: datetime) -> None:
    for name, display, section, role in STAFF:
        people.add(
            connection,
            name=name,
            display=display,
            section=section,
            role=role,
            email=f"{name}@city.shinagawa.example.jp",
            at=now,
            state=people.ACTIVE,
            is_sample=True,
        )


def _drill_readers(app: App) -> list[dict[str, object]]:
    """Staff addresses that a drill reaches; they get every topic of every district."""
    topics = sum(1 << category.bit for category in app.settings.ward.categories)
    return [
        {
            "email": f"kunren-{number:02}@city.shinagawa.example.jp",
            "domain": "city.shinagawa.example.jp",
            "language": "en" if number == DRILL_READERS else "ja",
            "format": "html" if number % 2 else "text",
            "topics": topics,
            "districts": app.settings.ward.all_district_bits,
            "frequency": "at_once",
            "registered_at": app.clock.now(),
            "method": "form",
            "state": "active",
        }
        for number in range(1, DRILL_READERS + 1)
    ]


def _write_token(path: Path, shown: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
        file.write(shown + "\n")
