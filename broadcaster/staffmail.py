"""Mails to staff: somebody must act. Written in the transaction of the act that asks for it, sent by the sender.

A mail never acts by itself: it holds one link, to a page that asks who comes. It names no reader and holds no secret."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from broadcaster.message import Message
from broadcaster.render import at_desk
from broadcaster.roles import Right, Role, who_may
from broadcaster.store import people, staffmails
from broadcaster.store.database import Connection
from broadcaster.store.people import Person
from broadcaster.words import Words

APPROVERS: tuple[Role, ...] = who_may(Right.APPROVE)


def ask_approval(
    connection: Connection, message: Message, *, asked_by: Person, base_url: str, words: Words, now: datetime
) -> None:
    """To everybody who may approve it, but for whoever asks."""
    title = message.info.headline
    key = "subject_urgent" if message.is_alert else "subject_approve"
    subject = words.page(f"staff_mail.{key}", title=title, when=at_desk(message.effective_at))
    asked = words.page("staff_mail.body_approve", name=asked_by.display, when=at_desk(message.effective_at))
    link = f"{base_url}/desk/approvals/{message.identifier}"
    body = _body(words, [asked, title], link)
    _to(connection, _others(people.with_roles(connection, APPROVERS), asked_by), subject, body, message.is_alert, now)


def tell_returned(
    connection: Connection,
    message: Message,
    *,
    to: str,
    by: Person,
    reason: str,
    base_url: str,
    words: Words,
    now: datetime,
) -> None:
    person = people.by_name(connection, to)
    if person is None:
        return
    said = words.page("staff_mail.returned", name=by.display, reason=reason)
    subject = words.page("staff_mail.subject_returned", title=message.info.headline)
    body = _body(words, [said], f"{base_url}/desk/messages/{message.identifier}")
    _to(connection, [person], subject, body, False, now)


def tell_alone(
    connection: Connection,
    message: Message,
    *,
    sent_by: Person,
    reason: str,
    base_url: str,
    words: Words,
    now: datetime,
) -> None:
    """Loudly, to everybody who could have been asked."""
    subject = words.page("staff_mail.subject_alone", name=sent_by.display, title=message.info.headline)
    said = words.page("staff_mail.body_alone", name=sent_by.display, when=at_desk(now), reason=reason)
    body = _body(words, [said], f"{base_url}/desk/sent/{message.identifier}/report")
    everybody = people.with_roles(connection, APPROVERS)
    _to(connection, _others(everybody, sent_by), subject, body, True, now)


def _body(words: Words, lines: Iterable[str], link: str) -> str:
    return "\n\n".join([*lines, link, words.page("staff_mail.body_link")]) + "\n"


def _others(everybody: Iterable[Person], me: Person) -> list[Person]:
    return [person for person in everybody if person.id != me.id and person.email]


def _to(
    connection: Connection, whom: Iterable[Person], subject: str, body: str, is_urgent: bool, now: datetime
) -> None:
    for person in whom:
        staffmails.add(connection, person.id, subject=subject, body=body, is_urgent=is_urgent, at=now)
