"""What a person shows to be let in: a password, a code of the moment, a recovery code. Pure but for the hashing.

Values from NIST SP 800-63B-4: at least 12 characters beside a second factor, no rules of composition, common and obvious
ones refused; argon2id 64 MiB. A code of the moment (RFC 6238) is good for its 30 seconds and the ones before and after,
and each only once.
"""

from __future__ import annotations

import hashlib
import io
import secrets
import threading
from datetime import datetime, timedelta

import pyotp
import segno
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from broadcaster.problems import Problem

SHORTEST, LONGEST = 12, 256
RECOVERY_CODES = 10

_HASHER = PasswordHash((Argon2Hasher(memory_cost=64 * 1024, time_cost=3, parallelism=4),))
_TURNS = threading.BoundedSemaphore(2)
"""So many hashes at once: 64 MiB each, and whoever tries a thousand passwords waits in this queue, not the others."""

_NOBODY = _HASHER.hash(secrets.token_urlsafe())
"""Checked where there is no such person, so that both answers take as long."""

# The most frequent ones of at least twelve characters in public lists, and what anybody here would think of first.
_OBVIOUS = (
    "shinagawa",
    "しながわ",
    "品川",
    "password",
    "passw0rd",
    "qwertyuiop",
    "1234567890",
    "abcdefghij",
    "letmein",
)
_CODE_LETTERS = "23456789ABCDEFGHJKMNPQRSTVWXYZ"


def password_problems(password: str, *, name: str) -> list[Problem]:
    if not SHORTEST <= len(password) <= LONGEST:
        return [
            Problem(
                where="password",
                ja=f"パスワードは{SHORTEST}字以上、{LONGEST}字までにしてください。",
                en=f"Use {SHORTEST} to {LONGEST} characters.",
            )
        ]
    bare = password.lower()
    if any(word in bare for word in (*_OBVIOUS, name.lower())) or len(set(password)) < 6:
        return [
            Problem(
                where="password",
                ja="思いつきやすいパスワードです。関係のない言葉をいくつか並べると、覚えやすく、当てられにくくなります。",
                en="Easy to guess. Several unrelated words are easier to remember and harder to guess.",
            )
        ]
    return []


def hash_password(password: str) -> str:
    with _TURNS:
        return _HASHER.hash(password)


def is_password(password: str, hashed: str) -> bool:
    """Takes as long for somebody who does not exist (`hashed` empty)."""
    with _TURNS:
        return _HASHER.verify(password, hashed or _NOBODY) and bool(hashed)


# Codes of the moment


def new_seed() -> str:
    return pyotp.random_base32()


def used_step(seed: str, code: str, now: datetime, *, after: int) -> int | None:
    """The 30-second step that this code belongs to, when it is a right one and later than the last that was used."""
    code = code.replace(" ", "").translate(_HALF)
    totp = pyotp.TOTP(seed)
    for shift in (0, -1, 1):
        at = now + timedelta(seconds=30 * shift)
        step = int(at.timestamp()) // 30
        if step > after and secrets.compare_digest(totp.at(at).encode(), code.encode()):
            return step
    return None


_HALF = str.maketrans("０１２３４５６７８９", "0123456789")


def seed_address(seed: str, *, name: str, issuer: str) -> str:
    """What a telephone's code program reads."""
    return pyotp.TOTP(seed).provisioning_uri(name=name, issuer_name=issuer)


def seed_picture(address: str) -> str:
    """The same as a picture to be photographed: SVG."""
    out = io.BytesIO()
    segno.make(address, error="m").save(out, kind="svg", scale=5, border=4, xmldecl=False, svgns=True, dark="#000")
    return out.getvalue().decode()


# Secrets that are shown once


def new_recovery_codes() -> list[str]:
    """50 bits each, written to be read from paper: no 0 and O, no 1 and I."""
    return [
        "-".join("".join(secrets.choice(_CODE_LETTERS) for _ in range(5)) for _ in range(2))
        for _ in range(RECOVERY_CODES)
    ]


def new_secret() -> str:
    """256 bits for a cookie, a link, a form."""
    return secrets.token_urlsafe(32)


def fingerprint(secret: str) -> str:
    """How a random secret is kept. A fast hash is right: nobody guesses 256 bits (SP 800-63B §3.1.2.2), and a recovery
    code of 50 bits stands behind the password."""
    return hashlib.sha256(secret.strip().upper().encode() if len(secret) < 20 else secret.encode()).hexdigest()
