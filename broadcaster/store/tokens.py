"""API tokens: 256 random bits, kept as a SHA-256. Role and mode stand inside, shown once at creation.

A fast hash is right here: nobody guesses 256 bits (NIST SP 800-63B §3.1.2.2 asks for slow hashes below 112).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, insert, select, update

from broadcaster.message import Mode
from broadcaster.roles import Role
from broadcaster.store.tables import tokens

LONGEST = timedelta(days=365)


@dataclass(frozen=True, kw_only=True)
class Token:
    id: str
    name: str
    role: Role
    mode: Mode


def create(
    connection: Connection, *, name: str, role: Role, mode: Mode, now: datetime, lasts: timedelta = LONGEST
) -> str:
    """A new token as it is shown once: `bcast_live_<id>_<secret>`; the prefix is for secret scanners."""
    id = "".join(secrets.choice("abcdefghijkmnpqrstuvwxyz23456789") for _ in range(8))
    shown = f"bcast_{mode}_{id}_{secrets.token_urlsafe(32)}"
    connection.execute(
        insert(tokens).values(
            id=id,
            name=name,
            role=role,
            mode=mode,
            hash=_hash(shown),
            created_at=now,
            expires_at=now + min(lasts, LONGEST),
        )
    )
    return shown


def check(connection: Connection, shown: str, now: datetime) -> Token | None:
    """Whose token this is; None when it is unknown, revoked or over."""
    parts = shown.split("_", 3)
    if len(parts) != 4 or parts[0] != "bcast":
        return None
    row = connection.execute(select(tokens).where(tokens.c.id == parts[2])).one_or_none()
    if row is None or not hmac.compare_digest(row.hash, _hash(shown)):
        return None
    if row.revoked_at is not None or row.expires_at <= now:
        return None
    return Token(id=row.id, name=row.name, role=Role(row.role), mode=Mode(row.mode))


def revoke(connection: Connection, id: str, now: datetime) -> bool:
    return bool(connection.execute(update(tokens).where(tokens.c.id == id).values(revoked_at=now)).rowcount)


def all_of(connection: Connection) -> Sequence[Token]:
    rows = connection.execute(select(tokens).where(tokens.c.revoked_at.is_(None)).order_by(tokens.c.created_at))
    return [Token(id=row.id, name=row.name, role=Role(row.role), mode=Mode(row.mode)) for row in rows]


def _hash(shown: str) -> str:
    return hashlib.sha256(shown.encode()).hexdigest()
