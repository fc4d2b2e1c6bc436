"""Mails to staff arrive over the relay, one reader each, and never act by themselves."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from broadcaster.delivery import Lane
from broadcaster.rehearsal.faults import Fault, Faults, Kind
from broadcaster.staffmail import StaffMail
from broadcaster.store import people
from broadcaster.store.audit import Actor
from broadcaster.store.database import Connection
from broadcaster.store.tables import staff_mails
from broadcaster.worker import StaffPost
from tests.desk import DeskUnderTest, a_desk_with_relay
from tests.makers import a_notice, an_alert
from tests.waiting import until


def asks(desk: DeskUnderTest, *, is_alert: bool = False) -> str:
    app = desk.app
    make = an_alert if is_alert else a_notice
    message = replace(make(app.settings, now=app.clock.now()), sent_at=None)
    with app.database.read() as connection:
        writer = people.by_name(connection, "writer")
    assert writer is not None

    def also(connection: Connection, _: str) -> None:
        mails = StaffMail(base_url="https://desk.example.jp", words=app.settings.words)
        mails.ask_approval(connection, message, asked_by=writer, now=app.clock.now())

    return app.pipeline.propose(message, Actor(name="writer", via="desk"), also=also).message.identifier


async def test_those_who_may_approve_are_asked_each_by_a_mail_of_their_own(tmp_path: Path) -> None:
    async with a_desk_with_relay(tmp_path) as desk:
        identifier = asks(desk)
        sender = asyncio.create_task(desk.app.sender(list(Lane)).run())
        try:
            await until(lambda: len(desk.mails()) == 4)
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
        mails = desk.mails()
        names = ("admin", "admin2", "approver", "approver2")
        assert sorted(mail.recipient for mail in mails) == sorted(f"{name}@city.shinagawa.example.jp" for name in names)
        read = mails[0].parsed()
        assert read["Subject"].startswith("[要承認]")
        assert read["To"] == mails[0].recipient
        text = read.get_body().get_content()  # type: ignore[union-attr]
        assert f"https://desk.example.jp/desk/approvals/{identifier}" in text
        assert "このメールだけでは何も送られません" in text


async def test_a_relay_that_is_away_is_tried_again_and_no_address_is_told(tmp_path: Path) -> None:
    async with a_desk_with_relay(tmp_path) as desk:
        asks(desk, is_alert=True)
        Faults(tmp_path / "faults.json").set("email", Fault(kind=Kind.TEMPORARY))
        channel = desk.app.pipeline.channels[next(iter(desk.app.pipeline.channels))]["email"]
        post = StaffPost(desk.app.pipeline, channel)  # type: ignore[arg-type]
        task = asyncio.create_task(post.carries())

        def rows() -> list[object]:
            with desk.app.database.read() as connection:
                return list(connection.execute(staff_mails.select()).all())

        try:
            await until(lambda: all(row.attempts == 1 for row in rows()))  # type: ignore[attr-defined]
            assert all(row.settled_at is None and "@" not in row.detail for row in rows())  # type: ignore[attr-defined]
            Faults(tmp_path / "faults.json").set("email", None)
            with desk.app.database.write() as connection:
                connection.execute(staff_mails.update().values(due_at=desk.app.clock.now() - timedelta(seconds=1)))
            desk.app.signals.notify()
            await until(lambda: len(desk.mails()) == 4)
            await until(lambda: all(row.settled_at is not None for row in rows()))  # type: ignore[attr-defined]
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert all("緊急・要承認" in str(mail.parsed()["Subject"]) for mail in desk.mails())
