"""The key ring, and the tokens that it answers for: the links by which readers leave.

A token is not stored anywhere. It is 32 characters: 31 that hold the subscriber, the topic and a MAC, and the letter of
the key that made it.

    base64url( subscriber 6 B ‖ topic 1 B ‖ HMAC-SHA256, first 16 B ) + key letter

The MAC covers the subscriber's epoch too: raising that makes every earlier link of one person void. The file holds one
key a line, its letter and 32 bytes in hex. The last line mints, all are accepted; a key is taken out when the mails that
carry it are old enough.

Why the letter comes last: mail programs leave a trailing `-` or `_` out of a link. Why each purpose has a key of its
own (HKDF, RFC 5869): a token of one purpose is then worth nothing for another.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import functools
import hmac
import os
import re
import secrets
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from broadcaster.problems import refuse

EpochOf = Callable[[int], int | None]
"""The present epoch of a subscriber; None where there is none by that number."""

LEAVE = "leave"
TOKEN_LENGTH = 32

_KEY_BYTES = 32
_CLAIM_BYTES = 7
_MAC_BYTES = 16
_NONCE_BYTES = 12
_FIRST_LETTER = "A"
_LINE = re.compile(r"(?P<letter>[A-Za-z]) (?P<key>[0-9a-f]{64})")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{31}[A-Za-z]", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class KeyRing:
    keys: Mapping[str, bytes] = field(repr=False)  # by their letters, the oldest first
    _macs: dict[tuple[str, str], HMAC] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, path: Path) -> Self:
        """The ring in this file, made at the first use. Raises Refused when others may read it or it is damaged."""
        if not path.exists():
            _create(path)
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise refuse(
                "keyring",
                ja=f"{path} をほかの人も読めます。chmod 600 にしてください。",
                en=f"{path} can be read by others; chmod 600 it.",
            )
        return cls(keys=_keys_in(path))

    @functools.cached_property
    def newest(self) -> str:
        return list(self.keys)[-1]

    def mint_leave(self, subscriber: int, epoch: int, topic: int) -> str:
        """The token by which this reader leaves this topic."""
        return self.mint(LEAVE, subscriber, epoch, topic)

    def read_leave(self, token: str, epoch_of: EpochOf) -> tuple[int, int] | None:
        """The subscriber and the topic, or None: forged, void, foreign and damaged tokens look alike."""
        return self.read(LEAVE, token, epoch_of)

    def mint(self, purpose: str, subscriber: int, epoch: int, topic: int) -> str:
        """A token for one purpose. `subscriber` is below 2⁴⁸, `topic` below 2⁸, `epoch` below 2⁶⁴."""
        letter = self.newest
        claim = subscriber.to_bytes(6, "big") + topic.to_bytes(1, "big")
        return _encoded(claim + self._mac(letter, purpose, claim, epoch)) + letter

    def read(self, purpose: str, token: str, epoch_of: EpochOf) -> tuple[int, int] | None:
        """What a token of this purpose says, or None."""
        letter = token[-1:]
        sealed = _decoded(token)
        if sealed is None or letter not in self.keys:
            return None
        claim, mac = sealed[:_CLAIM_BYTES], sealed[_CLAIM_BYTES:]
        subscriber, topic = int.from_bytes(claim[:6], "big"), claim[6]
        epoch = epoch_of(subscriber)
        if epoch is None or not hmac.compare_digest(mac, self._mac(letter, purpose, claim, epoch)):
            return None
        return subscriber, topic

    # Sealed: secrets that must be read again, such as the seed of a one-time code

    def seal(self, purpose: str, secret: bytes) -> str:
        """AES-256-GCM under a key of this purpose; only the same ring and purpose open it."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = AESGCM(self._derived(self.newest, purpose)).encrypt(nonce, secret, purpose.encode())
        return self.newest + base64.urlsafe_b64encode(nonce + sealed).decode()

    def unseal(self, purpose: str, sealed: str) -> bytes | None:
        """What was sealed; None for anything else."""
        letter = sealed[:1]
        if letter not in self.keys:
            return None
        try:
            raw = base64.urlsafe_b64decode(sealed[1:])
            return AESGCM(self._derived(letter, purpose)).decrypt(
                raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], purpose.encode()
            )
        except (binascii.Error, ValueError, InvalidTag):
            return None

    def _derived(self, letter: str, purpose: str) -> bytes:
        return HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=purpose.encode()).derive(self.keys[letter])

    def _mac(self, letter: str, purpose: str, claim: bytes, epoch: int) -> bytes:
        known = self._macs.get((letter, purpose))
        if known is None:
            known = self._macs[letter, purpose] = HMAC(self._derived(letter, purpose), SHA256())
        mac = known.copy()  # the key is put into form once, and not for every mail
        mac.update(claim + epoch.to_bytes(8, "big") + purpose.encode())
        return mac.finalize()[:_MAC_BYTES]


def _encoded(sealed: bytes) -> str:
    return base64.urlsafe_b64encode(sealed)[: TOKEN_LENGTH - 1].decode()


def _decoded(token: str) -> bytes | None:
    """The bytes of a token in the one spelling that was minted: 31 characters have two bits to spare."""
    if len(token) != TOKEN_LENGTH or not _TOKEN.fullmatch(token):
        return None
    spelling = token[:-1]
    try:
        sealed = base64.b64decode(f"{spelling}=", altchars=b"-_", validate=True)
    except binascii.Error:
        return None
    return sealed if _encoded(sealed) == spelling else None


def _create(path: Path) -> None:
    """A ring with one key. Of several processes that begin at once, one makes it and all read that one, whole."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    with os.fdopen(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="ascii") as file:
        file.write(f"{_FIRST_LETTER} {secrets.token_hex(_KEY_BYTES)}\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        with contextlib.suppress(FileExistsError):  # another process was first; its ring is everybody's
            os.link(partial, path)
    finally:
        partial.unlink()


def _keys_in(path: Path) -> dict[str, bytes]:
    keys: dict[str, bytes] = {}
    for number, line in enumerate(path.read_text(encoding="ascii", errors="replace").splitlines(), start=1):
        found = _LINE.fullmatch(line.strip())
        if found is None or found["letter"] in keys:
            raise _damaged(path, f"{number} 行目", f"line {number}")
        keys[found["letter"]] = bytes.fromhex(found["key"])
    if not keys:
        raise _damaged(path, "空のファイル", "an empty file")
    return keys


def _damaged(path: Path, where: str, where_in_english: str) -> Exception:
    return refuse(
        "keyring",
        ja=f"{path} がこわれています（{where}）。控えから戻してください。",
        en=f"{path} is damaged ({where_in_english}); restore it from a backup.",
    )
