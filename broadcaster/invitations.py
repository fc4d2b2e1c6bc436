"""Inviting somebody to the desk, from its own page and from the command line by the same rules.

Nobody becomes an administrator by one other person alone: whoever is invited as one waits as a viewer until a second
administrator confirms it at the desk. Where no administrator is left who could, the command line makes one at once, and
the log says so in an act of its own: whoever may write to the database could do it anyway, and not be heard.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from broadcaster.credentials import fingerprint, new_secret
from broadcaster.problems import Problem, Refused
from broadcaster.roles import Role
from broadcaster.store import audit, people
from broadcaster.store.audit import Actor
from broadcaster.store.database import Connection
from broadcaster.store.people import INVITE, INVITE_LASTS, NameTaken, Person
from broadcaster.words import Words

_NAME = re.compile(r"[a-z][a-z0-9]{1,31}", re.ASCII)
_LONGEST_DISPLAY = 64


@dataclass(frozen=True, kw_only=True)
class Invitation:
    """Whom to invite, as it was typed."""

    name: str
    display: str
    role: Role
    section: str = ""
    email: str = ""

    def problems(self, words: Words) -> list[Problem]:
        found = []
        if not _NAME.fullmatch(self.name):
            found.append(words.problem("name", "people.name_wrong"))
        if not self.display or not self.display.isprintable() or len(self.display) > _LONGEST_DISPLAY:
            found.append(words.problem("display", "people.display_missing"))
        return found


@dataclass(frozen=True, kw_only=True)
class Invited:
    person: Person
    secret: str  # of the link: shown once, kept as a hash
    waits: bool  # for a second administrator, as a viewer until then


def invite(connection: Connection, wanted: Invitation, *, by: Actor, words: Words, now: datetime) -> Invited:
    """Raises Refused."""
    if problems := wanted.problems(words):
        raise Refused(problems)
    is_alone = wanted.role is Role.ADMIN and by.via == "cli" and not people.with_roles(connection, [Role.ADMIN])
    waits = wanted.role is Role.ADMIN and not is_alone
    try:
        person = people.add(
            connection,
            name=wanted.name,
            display=wanted.display,
            role=Role.VIEWER if waits else wanted.role,
            at=now,
            section=wanted.section[:64],
            email=wanted.email[:254],
        )
    except NameTaken:
        raise Refused([words.problem("name", "people.name_taken")]) from None
    secret = new_secret()
    people.put_link(connection, person.id, fingerprint(secret), INVITE, now + INVITE_LASTS)
    act = "person.administrator_made_alone" if is_alone else "person.invited"
    audit.write(connection, by, act, wanted.name, at=now, role=person.role.value)
    if waits:
        ask_role(connection, person, Role.ADMIN, by=by, now=now)
    return Invited(person=person, secret=secret, waits=waits)


def ask_role(connection: Connection, person: Person, role: Role, *, by: Actor, now: datetime) -> None:
    """From now on it waits for an administrator who is not the one that asks."""
    people.ask_role(connection, person, role, by=by.name, at=now)
    audit.write(connection, by, "role.asked", person.name, at=now, role=role.value)
