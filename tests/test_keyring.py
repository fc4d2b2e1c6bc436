"""The key ring: links that only we can make, and that end when they should."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from broadcaster.keyring import TOKEN_LENGTH, KeyRing
from broadcaster.problems import Refused

RING = KeyRing(keys={"A": bytes(range(32))})
READER, EPOCH, TOPIC = 4711, 3, 5


def a_token(ring: KeyRing = RING) -> str:
    return ring.mint_leave(READER, EPOCH, TOPIC)


def everybody_at(epoch: int) -> Callable[[int], int]:
    return lambda subscriber: epoch


def test_a_token_says_who_leaves_what() -> None:
    assert RING.read_leave(a_token(), {READER: EPOCH}.get) == (READER, TOPIC)


def test_a_token_fits_a_link_and_survives_mail_programs() -> None:
    token = a_token()
    assert len(token) == TOKEN_LENGTH
    assert set(token) <= set(string.ascii_letters + string.digits + "-_")
    assert token[-1] in string.ascii_letters


@examples(max_examples=50)
@given(
    subscriber=st.integers(0, 2**48 - 1),
    epoch=st.integers(0, 2**63 - 1),
    topic=st.integers(0, 255),
    bit=st.integers(0, 8 * TOKEN_LENGTH - 1),
)
def test_a_token_is_read_as_it_was_minted_and_not_with_one_bit_changed(
    subscriber: int, epoch: int, topic: int, bit: int
) -> None:
    token = RING.mint_leave(subscriber, epoch, topic)
    assert RING.read_leave(token, everybody_at(epoch)) == (subscriber, topic)
    changed = bytearray(token.encode())
    changed[bit // 8] ^= 1 << bit % 8
    assert RING.read_leave(changed.decode("latin-1"), everybody_at(epoch)) is None


def test_every_changed_bit_of_a_token_is_found() -> None:
    ring = KeyRing(keys={letter: bytes([number]) * 32 for number, letter in enumerate(string.ascii_letters)})
    token = a_token(ring).encode()
    for bit in range(8 * len(token)):
        changed = bytearray(token)
        changed[bit // 8] ^= 1 << bit % 8
        assert ring.read_leave(changed.decode("latin-1"), everybody_at(EPOCH)) is None, bit


@examples(max_examples=50)
@given(st.text(max_size=40))
def test_whatever_a_stranger_types_is_no_token(text: str) -> None:
    assert RING.read_leave(text, everybody_at(EPOCH)) is None


def test_a_raised_epoch_voids_the_links_of_earlier_mails() -> None:
    assert RING.read_leave(a_token(), {READER: EPOCH + 1}.get) is None


def test_a_reader_who_is_gone_has_no_token() -> None:
    assert RING.read_leave(a_token(), {}.get) is None


def test_the_token_of_one_purpose_is_refused_for_another() -> None:
    token = RING.mint("preferences", READER, EPOCH, TOPIC)
    assert RING.read("preferences", token, everybody_at(EPOCH)) == (READER, TOPIC)
    assert RING.read_leave(token, everybody_at(EPOCH)) is None
    assert RING.read("preferences", a_token(), everybody_at(EPOCH)) is None


def test_a_new_key_mints_and_the_old_ones_are_still_accepted(tmp_path: Path) -> None:
    file = tmp_path / "keyring"
    before = KeyRing.open(file)
    with file.open("a") as ring:
        ring.write(f"B {'5a' * 32}\n")
    after = KeyRing.open(file)
    assert after.newest == "B"
    assert a_token(after).endswith("B")
    assert after.read_leave(a_token(before), everybody_at(EPOCH)) == (READER, TOPIC)
    assert before.read_leave(a_token(after), everybody_at(EPOCH)) is None


# The file


def test_the_first_use_makes_a_ring_that_only_its_owner_reads(tmp_path: Path) -> None:
    file = tmp_path / "keyring"
    ring = KeyRing.open(file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert KeyRing.open(file) == ring
    assert list(tmp_path.iterdir()) == [file]


def test_two_processes_that_begin_at_once_share_one_ring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keyring"
    first = KeyRing.open(file)
    exists = iter([False])  # as the second process saw it, just before the first one made it
    monkeypatch.setattr(Path, "exists", lambda self, **_: next(exists))
    assert KeyRing.open(file) == first


def test_a_ring_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "keyring"
    KeyRing.open(file)
    file.chmod(0o640)
    with pytest.raises(Refused, match="chmod 600"):
        KeyRing.open(file)


@pytest.mark.parametrize("text", ["", "A\n", "A 00ff\n", f"A {'00' * 32}\nA {'11' * 32}\n", f"1 {'00' * 32}\n"])
def test_a_damaged_ring_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keyring"
    file.touch(0o600)
    file.write_text(text)
    with pytest.raises(Refused, match="damaged"):
        KeyRing.open(file)


def test_keys_are_not_shown(tmp_path: Path) -> None:
    ring = KeyRing.open(tmp_path / "keyring")
    key = next(iter(ring.keys.values()))
    a_token(ring)
    assert key.hex() not in repr(ring)
    assert repr(key) not in repr(ring)
