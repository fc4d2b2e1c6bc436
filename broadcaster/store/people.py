"""The ward's people at the desk: who they are, by what they are let in, and what waits for a second administrator."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.engine import Row

from broadcaster.roles import Role
from broadcaster.store.tables import links, people, recovery_codes, role_changes, sessions

INVITED, ACTIVE, DISABLED = "invited", "active", "disabled"
INVITE, INVITE_LASTS = "invite", timedelta(hours=48)


@dataclass(frozen=True, kw_only=True)
class Person:
    id: int
    name: str
    display: str
    section: str
    email: str
    role: Role
    state: str
    password: str
    totp: str
    totp_step: int
    failures: int
    failed_at: datetime | None
    is_sample: bool

    @property
    def full_name(self) -> str:
        """当直（防災課）, as the pages write it."""
        return f"{self.display}（{self.section}）" if self.section else self.display


@dataclass(frozen=True, kw_only=True)
class RoleChange:
    id: int
    person: Person
    role: Role
    asked_by: str
    asked_at: datetime


class NameTaken(ValueError):
    """Somebody signs in by this name already."""


def add(
    connection: Connection,
    *,
    name: str,
    display: str,
    role: Role,
    at: datetime,
    section: str = "",
    email: str = "",
    state: str = INVITED,
    password: str = "",
    is_sample: bool = False,
) -> Person:
    """Raises NameTaken."""
    if by_name(connection, name) is not None:
        raise NameTaken(name)
    values = {
        "name": name,
        "display": display,
        "section": section,
        "email": email,
        "role": role,
        "state": state,
        "password": password,
        "is_sample": is_sample,
        "created_at": at,
    }
    return _person(connection.execute(insert(people).values(values).returning(*people.c)).one())


def by_name(connection: Connection, name: str) -> Person | None:
    row = connection.execute(select(people).where(people.c.name == name)).one_or_none()
    return _person(row) if row else None


def by_id(connection: Connection, id: int) -> Person | None:
    row = connection.execute(select(people).where(people.c.id == id)).one_or_none()
    return _person(row) if row else None


def everybody(connection: Connection) -> Sequence[Person]:
    return [_person(row) for row in connection.execute(select(people).order_by(people.c.role, people.c.name))]


def with_roles(connection: Connection, roles: Iterable[Role]) -> Sequence[Person]:
    """Those who are let in, by their roles."""
    wanted = select(people).where(people.c.role.in_(list(roles)), people.c.state == ACTIVE).order_by(people.c.name)
    return [_person(row) for row in connection.execute(wanted)]


def displays(connection: Connection, names: Iterable[str]) -> dict[str, str]:
    """How people are called, by the names that the log holds."""
    rows = connection.execute(select(people.c.name, people.c.display).where(people.c.name.in_(list(set(names)))))
    return {row.name: row.display for row in rows}


def set_password(connection: Connection, id: int, hashed: str) -> None:
    connection.execute(update(people).where(people.c.id == id).values(password=hashed, failures=0, failed_at=None))


def set_totp(connection: Connection, id: int, sealed: str) -> None:
    connection.execute(update(people).where(people.c.id == id).values(totp=sealed, totp_step=0))


def use_step(connection: Connection, id: int, step: int) -> bool:
    """Each code once: False when this step, or a later one, was used meanwhile."""
    done = connection.execute(update(people).where(people.c.id == id, people.c.totp_step < step).values(totp_step=step))
    return bool(done.rowcount)


def failed(connection: Connection, id: int, at: datetime) -> None:
    connection.execute(update(people).where(people.c.id == id).values(failures=people.c.failures + 1, failed_at=at))


def succeeded(connection: Connection, id: int) -> None:
    connection.execute(update(people).where(people.c.id == id).values(failures=0, failed_at=None))


def set_state(connection: Connection, id: int, state: str) -> None:
    """One who is disabled is signed out everywhere by the same transaction."""
    connection.execute(update(people).where(people.c.id == id).values(state=state))
    if state == DISABLED:
        connection.execute(delete(sessions).where(sessions.c.person_id == id))
        connection.execute(delete(links).where(links.c.person_id == id))


# Recovery codes


def put_recovery_codes(connection: Connection, id: int, hashes: Iterable[str]) -> None:
    connection.execute(delete(recovery_codes).where(recovery_codes.c.person_id == id))
    connection.execute(insert(recovery_codes), [{"hash": hash, "person_id": id} for hash in hashes])


def use_recovery_code(connection: Connection, id: int, hash: str) -> bool:
    one = recovery_codes.c.person_id == id, recovery_codes.c.hash == hash
    return bool(connection.execute(delete(recovery_codes).where(*one)).rowcount)


def recovery_codes_left(connection: Connection, id: int) -> int:
    rows = connection.execute(select(recovery_codes.c.hash).where(recovery_codes.c.person_id == id))
    return len(rows.all())


# Links that are shown once


def put_link(connection: Connection, id: int, hash: str, purpose: str, expires_at: datetime) -> None:
    """One at a time: a newer link makes the older one worthless."""
    connection.execute(delete(links).where(links.c.person_id == id, links.c.purpose == purpose))
    connection.execute(insert(links).values(hash=hash, person_id=id, purpose=purpose, expires_at=expires_at))


def of_link(connection: Connection, hash: str, purpose: str, now: datetime) -> Person | None:
    found = select(links.c.person_id).where(links.c.hash == hash, links.c.purpose == purpose, links.c.expires_at > now)
    row = connection.execute(select(people).where(people.c.id.in_(found))).one_or_none()
    return _person(row) if row else None


def use_link(connection: Connection, hash: str) -> bool:
    return bool(connection.execute(delete(links).where(links.c.hash == hash)).rowcount)


# Privileges: asked for by one administrator, confirmed by another


def ask_role(connection: Connection, person: Person, role: Role, *, by: str, at: datetime) -> None:
    connection.execute(
        delete(role_changes).where(role_changes.c.person_id == person.id, role_changes.c.state == "asked")
    )
    connection.execute(
        insert(role_changes).values(person_id=person.id, role=role, state="asked", asked_by=by, asked_at=at)
    )


def asked_roles(connection: Connection) -> Sequence[RoleChange]:
    c = role_changes.c
    rows = connection.execute(
        select(c.id.label("change_id"), c.role.label("wanted"), c.asked_by, c.asked_at, *people.c)
        .join(people, people.c.id == c.person_id)
        .where(c.state == "asked")
        .order_by(c.asked_at)
    )
    return [
        RoleChange(
            id=row.change_id,
            person=_person(row),
            role=Role(row.wanted),
            asked_by=row.asked_by,
            asked_at=row.asked_at,
        )
        for row in rows
    ]


def settle_role(connection: Connection, change: RoleChange, *, is_confirmed: bool, by: str, at: datetime) -> bool:
    """False when somebody settled it before, or asked for it and now confirms it."""
    c = role_changes.c
    may = [c.asked_by != by] if is_confirmed else []
    done = connection.execute(
        update(role_changes)
        .where(c.id == change.id, c.state == "asked", *may)
        .values(state="confirmed" if is_confirmed else "refused", settled_by=by, settled_at=at)
    ).rowcount
    if done and is_confirmed:
        state = ACTIVE if change.person.password else INVITED
        connection.execute(update(people).where(people.c.id == change.person.id).values(role=change.role, state=state))
        connection.execute(delete(sessions).where(sessions.c.person_id == change.person.id))
    return bool(done)


def has_anybody(connection: Connection) -> bool:
    return connection.execute(select(people.c.id).limit(1)).first() is not None


def pause_after(person: Person) -> timedelta:
    """How long this person's name is answered with "wait": a soft lock, for a hard one would silence the duty officer.
    Five tries are free; then 1, 2, 4 … at most 15 minutes."""
    if person.failures < 5:
        return timedelta(0)
    return timedelta(minutes=min(2 ** min(person.failures - 5, 4), 15))


def _person(row: Row[tuple[object, ...]]) -> Person:
    values = row._mapping
    return Person(
        id=values["id"],
        name=values["name"],
        display=values["display"],
        section=values["section"],
        email=values["email"],
        role=Role(values["role"]),
        state=values["state"],
        password=values["password"],
        totp=values["totp"],
        totp_step=values["totp_step"],
        failures=values["failures"],
        failed_at=values["failed_at"],
        is_sample=values["is_sample"],
    )
