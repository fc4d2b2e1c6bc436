"""Who is signed in, and what was typed by those whose time had run out.

A session is 256 random bits in a cookie, kept as their SHA-256. It ends after an hour without use, after twelve in any
case, and with the person's being disabled. What is sent after its end is sealed for the same person, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, insert, select, update

from broadcaster.store.people import ACTIVE, Person, by_id
from broadcaster.store.tables import people, sessions, tickets

IDLE = timedelta(minutes=60)
LONGEST = timedelta(hours=12)
MOST_OF_ONE = 5
SEEN_EVERY = timedelta(seconds=60)
"""So often at most is it written down that a session is in use: a page that is looked at costs no write."""

TICKET_LASTS = timedelta(minutes=15)


@dataclass(frozen=True, kw_only=True)
class Session:
    hash: str
    person: Person
    csrf: str
    created_at: datetime
    seen_at: datetime
    proved_at: datetime

    @property
    def ends_at(self) -> datetime:
        return min(self.seen_at + IDLE, self.created_at + LONGEST)


@dataclass(frozen=True, kw_only=True)
class Ticket:
    path: str
    fields: str  # sealed


def begin(connection: Connection, person: Person, *, hash: str, csrf: str, now: datetime, agent: str = "") -> None:
    """A new one; the oldest of this person go when there are too many."""
    c = sessions.c
    connection.execute(
        insert(sessions).values(
            hash=hash, person_id=person.id, csrf=csrf, created_at=now, seen_at=now, proved_at=now, agent=agent[:120]
        )
    )
    mine = connection.execute(
        select(c.hash).where(c.person_id == person.id).order_by(c.seen_at.desc(), c.hash)
    ).scalars()
    if too_many := list(mine)[MOST_OF_ONE:]:
        connection.execute(delete(sessions).where(c.hash.in_(too_many)))


def get(connection: Connection, hash: str) -> Session | None:
    """The session of this cookie while its person is let in; it may be over, as `ends_at` tells."""
    row = connection.execute(
        select(sessions)
        .join(people, people.c.id == sessions.c.person_id)
        .where(sessions.c.hash == hash, people.c.state == ACTIVE)
    ).one_or_none()
    if row is None:
        return None
    person = by_id(connection, row.person_id)
    assert person is not None
    return Session(
        hash=row.hash,
        person=person,
        csrf=row.csrf,
        created_at=row.created_at,
        seen_at=row.seen_at,
        proved_at=row.proved_at,
    )


def seen(connection: Connection, hash: str, now: datetime) -> None:
    connection.execute(update(sessions).where(sessions.c.hash == hash).values(seen_at=now))


def proved(connection: Connection, hash: str, now: datetime) -> None:
    """A second factor was shown again."""
    connection.execute(update(sessions).where(sessions.c.hash == hash).values(proved_at=now, seen_at=now))


def end(connection: Connection, hash: str) -> None:
    connection.execute(delete(sessions).where(sessions.c.hash == hash))


def end_all_of(connection: Connection, person_id: int, *, but: str = "") -> None:
    connection.execute(delete(sessions).where(sessions.c.person_id == person_id, sessions.c.hash != but))


def of_person(connection: Connection, person_id: int) -> Sequence[tuple[str, datetime, datetime, str]]:
    """Hash, beginning, last use and browser of each."""
    c = sessions.c
    rows = connection.execute(select(c.hash, c.created_at, c.seen_at, c.agent).where(c.person_id == person_id))
    return [(row.hash, row.created_at, row.seen_at, row.agent) for row in rows]


KNOWN_AFTERWARDS = timedelta(hours=12)
"""So long after its end it is still known whose session it was: what is sent then is kept for that person."""


def sweep(connection: Connection, now: datetime) -> None:
    c = sessions.c
    connection.execute(delete(sessions).where(c.seen_at < now - IDLE - KNOWN_AFTERWARDS))
    connection.execute(delete(tickets).where(tickets.c.expires_at < now))


# What was sent too late


def put_ticket(connection: Connection, *, hash: str, name: str, path: str, fields: str, now: datetime) -> None:
    connection.execute(
        insert(tickets).values(hash=hash, name=name, path=path, fields=fields, expires_at=now + TICKET_LASTS)
    )


def take_ticket(connection: Connection, hash: str, name: str, now: datetime) -> Ticket | None:
    """Once, and only for the person who sent it."""
    t = tickets.c
    row = connection.execute(
        delete(tickets).where(t.hash == hash, t.name == name, t.expires_at > now).returning(t.path, t.fields)
    ).one_or_none()
    return Ticket(path=row.path, fields=row.fields) if row else None
