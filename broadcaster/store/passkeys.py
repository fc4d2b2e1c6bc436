"""Keys that people sign in with by a touch (WebAuthn): the public half, and how often it was used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select, update

from broadcaster.store.tables import passkeys


@dataclass(frozen=True, kw_only=True)
class Passkey:
    id: str  # of the credential, base64url
    person_id: int
    public_key: str  # base64url
    sign_count: int
    label: str
    created_at: datetime
    used_at: datetime | None


def add(
    connection: Connection, person_id: int, *, id: str, public_key: str, sign_count: int, label: str, at: datetime
) -> None:
    connection.execute(
        insert(passkeys).values(
            id=id, person_id=person_id, public_key=public_key, sign_count=sign_count, label=label, created_at=at
        )
    )


def get(connection: Connection, id: str) -> Passkey | None:
    row = connection.execute(select(passkeys).where(passkeys.c.id == id)).one_or_none()
    return Passkey(**row._mapping) if row else None


def of_person(connection: Connection, person_id: int) -> Sequence[Passkey]:
    rows = connection.execute(select(passkeys).where(passkeys.c.person_id == person_id).order_by(passkeys.c.created_at))
    return [Passkey(**row._mapping) for row in rows]


def used(connection: Connection, key: Passkey, sign_count: int, at: datetime) -> bool:
    """Written down once: False when the same count was seen meanwhile, as of a copy of the key."""
    k = passkeys.c
    done = connection.execute(
        update(passkeys).where(k.id == key.id, k.sign_count == key.sign_count).values(sign_count=sign_count, used_at=at)
    )
    return bool(done.rowcount)


def remove(connection: Connection, id: str, person_id: int) -> bool:
    k = passkeys.c
    return bool(connection.execute(delete(passkeys).where(k.id == id, k.person_id == person_id)).rowcount)
