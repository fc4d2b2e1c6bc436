"""Mails to staff: somebody must act. Written in the transaction of the act that asks for it, sent by the sender.

A mail never acts by itself: it holds one link, to a page that asks who comes. It names no reader and holds no secret."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from broadcaster.message import Message
from broadcaster.render import at_desk
from broadcaster.roles import Right, Role, who_may
from broadcaster.store import people, staffmails
from broadcaster.store.database import Connection
from broadcaster.store.people import Person
from broadcaster.words import Words

APPROVERS: tuple[Role, ...] = who_may(Right.APPROVE)


@dataclass(frozen=True, kw_only=True)
class StaffMail:
    """Writes mails to staff, each in the transaction of the act that it tells of."""

    base_url: str
    words: Words

    def ask_approval(self, connection: Connection, message: Message, *, asked_by: Person, now: datetime) -> None:
        """To everybody who may approve it, but for whoever asks."""
        title, when = message.info.headline, at_desk(message.effective_at)
        key = "subject_urgent" if message.is_alert else "subject_approve"
        asked = self.words.page("staff_mail.body_approve", name=asked_by.display, when=when)
        mail = Mail(
            subject=self.words.page(f"staff_mail.{key}", title=title, when=when),
            body=self._body([asked, title], f"approvals/{message.identifier}"),
            is_urgent=message.is_alert,
        )
        mail.put(connection, _others(people.with_roles(connection, APPROVERS), asked_by), now)

    def tell_returned(
        self, connection: Connection, message: Message, *, to: str, by: Person, reason: str, now: datetime
    ) -> None:
        person = people.by_name(connection, to)
        if person is None:
            return
        said = self.words.page("staff_mail.returned", name=by.display, reason=reason)
        mail = Mail(
            subject=self.words.page("staff_mail.subject_returned", title=message.info.headline),
            body=self._body([said], f"messages/{message.identifier}"),
        )
        mail.put(connection, [person], now)

    def tell_alone(
        self, connection: Connection, message: Message, *, sent_by: Person, reason: str, now: datetime
    ) -> None:
        """Loudly, to everybody who could have been asked."""
        name = sent_by.display
        said = self.words.page("staff_mail.body_alone", name=name, when=at_desk(now), reason=reason)
        mail = Mail(
            subject=self.words.page("staff_mail.subject_alone", name=name, title=message.info.headline),
            body=self._body([said], f"sent/{message.identifier}/report"),
            is_urgent=True,
        )
        mail.put(connection, _others(people.with_roles(connection, APPROVERS), sent_by), now)

    def _body(self, lines: Iterable[str], page: str) -> str:
        link = f"{self.base_url}/desk/{page}"
        return "\n\n".join([*lines, link, self.words.page("staff_mail.body_link")]) + "\n"


@dataclass(frozen=True, kw_only=True)
class Mail:
    """One mail, the same for everybody who gets it."""

    subject: str
    body: str
    is_urgent: bool = False

    def put(self, connection: Connection, whom: Iterable[Person], now: datetime) -> None:
        for person in whom:
            staffmails.add(
                connection, person.id, subject=self.subject, body=self.body, is_urgent=self.is_urgent, at=now
            )


def _others(everybody: Iterable[Person], me: Person) -> list[Person]:
    return [person for person in everybody if person.id != me.id and person.email]
