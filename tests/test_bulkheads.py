"""One medium fails in every way there is: the others are complete, and it ends as it should.

The shipped channels over the stand-ins, real SMTP and HTTP; what the ledger says is held against what was received.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broadcaster.delivery import Lane, State
from broadcaster.mailroom import MOST_IN_HAND, UNRECORDED, Mailroom
from broadcaster.message import Change, Message, Mode
from broadcaster.rehearsal.faults import Fault, Kind
from channels import CHANNELS
from tests.house import STAFF, House, Rehearsal, a_rehearsal
from tests.makers import MEDIA, a_notice, an_alert

QUICK = {"email": {"timeout_s": 1.0, "lines": 4}, "x": {"timeout_s": 0.5}}
READERS = 40
BOARDS = {"dial": "dial", "signage": "signage", "rss": "feeds", "page": "emergency.html"}
"""What each board writes, by the first step of its path."""


def alert(house: House, id: str = "E08", **changes: Any) -> Message:
    return replace(an_alert(house.settings, id, now=house.clock.now()), sent_at=None, **changes)


def notice(house: House, **changes: Any) -> Message:
    return replace(a_notice(house.settings, now=house.clock.now(), channels=MEDIA), sent_at=None, **changes)


def all_districts(house: House) -> int:
    return house.settings.ward.all_district_bits


def others_are_complete(house: Rehearsal, identifier: str, faulty: str) -> bool:
    """Every delivery but those of the faulty medium, and what the public sees of it."""
    states = house.states(identifier)
    others = {key: state for key, state in states.items() if not key.startswith(f"{faulty}/")}
    return (
        len({key.partition("/")[0] for key in others}) == len(CHANNELS) - 1
        and set(others.values()) == {State.DELIVERED}
        and (faulty == "email" or len(house.mails_of(identifier)) == READERS)
        and (faulty == "x" or len(house.posts()) == 1)
        and all(house.public(path).exists() for board, path in BOARDS.items() if board != faulty)
    )


# Mail and X


FAULTS = [
    *(("email", Fault(kind=kind)) for kind in Kind if kind not in (Kind.DROP, Kind.DRIP)),
    ("email", Fault(kind=Kind.DROP, times=3)),
    ("email", Fault(kind=Kind.DRIP, seconds=0.05)),
    ("email", Fault(kind=Kind.HANG, stage="data")),
    ("email", Fault(kind=Kind.RESET, stage="rcpt")),
    *(("x", Fault(kind=kind)) for kind in Kind if kind is not Kind.DRIP),
    ("x", Fault(kind=Kind.DRIP, seconds=30)),
    ("x", Fault(kind=Kind.HANG, stage="any")),
    ("x", Fault(kind=Kind.TEMPORARY, stage="any")),
]


def name_of(value: object) -> str:
    return f"{value.kind}-{value.stage}" if isinstance(value, Fault) else str(value)


@pytest.mark.timeout(90)
@pytest.mark.parametrize(("medium", "fault"), FAULTS, ids=name_of)
async def test_a_medium_that_fails_holds_up_no_other_and_goes_on_when_the_fault_is_lifted(
    tmp_path: Path, medium: str, fault: Fault
) -> None:
    async with a_rehearsal(tmp_path, **QUICK) as house:
        house.readers(READERS, districts=all_districts(house))
        house.faults.set(medium, fault)
        kept = house.issues(alert(house))
        identifier = kept.message.identifier
        async with house.sender():
            await house.until(lambda: others_are_complete(house, identifier, medium))
            house.faults.set(medium, None)
            await house.until_settled(identifier)
        counts, mails = house.counts(identifier), house.mails_of(identifier)
        posts, states = house.posts(), house.states(identifier)
    assert counts.adds_up
    assert counts.total == READERS
    if (medium, fault.kind) == ("email", Kind.PERMANENT):
        assert counts.failed + counts.delivered == READERS, "a reader who is refused for good is no outage"
        assert counts.failed > 0
        assert len(mails) == counts.delivered
    else:
        assert counts.delivered == len(mails) == READERS
    repeats = sum(mails.values()) - len(mails)
    assert repeats == 0 if fault.kind is not Kind.DROP else repeats <= 3, "only what was taken without an answer"
    assert states["x/1"] is State.DELIVERED
    assert len(posts) == 1, "a post is looked for before it is repeated"


@pytest.mark.parametrize("stage", ["delete", "look"])
async def test_a_post_is_taken_back_however_often_x_fails(tmp_path: Path, stage: str) -> None:
    async with a_rehearsal(tmp_path, **QUICK) as house:
        kept = house.issues(alert(house, channels=("x",)))
        if stage == "look":  # the post's outcome is not known either
            house.faults.set("x", Fault(kind=Kind.DROP, times=1))
        async with house.sender():
            if stage == "delete":
                await house.until_settled(kept.message.identifier)
            else:
                await house.until(lambda: house.delivery(kept.message.identifier, "x").is_in_doubt)
            house.faults.set("x", Fault(kind=Kind.TEMPORARY, stage=stage, times=2))
            after = house.pipeline.change(kept.message.identifier, Change.CANCEL, STAFF)
            await house.until_settled(kept.message.identifier, after.message.identifier)
            await house.until(lambda: retractions(house, after.message.identifier) == [State.DELIVERED])
        [standing] = house.posts()
    assert "取消" in standing


def retractions(house: House, identifier: str) -> list[State]:
    return [state for key, state in house.states(identifier).items() if "/retract " in key]


# Boards


@pytest.mark.timeout(60)
@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("lane", list(Lane), ids=lambda lane: lane.name.lower())
async def test_a_board_that_cannot_be_filed_holds_up_no_other_and_is_filed_when_it_can(
    tmp_path: Path, board: str, lane: Lane
) -> None:
    async with a_rehearsal(tmp_path, **QUICK) as house:
        house.readers(READERS, districts=all_districts(house))
        place = house.public(BOARDS[board])
        place.parent.mkdir(parents=True)
        if place.suffix:
            (place / "in the way").mkdir(parents=True)  # the place of a file is taken by a folder
        else:
            place.write_bytes(b"")  # the place of a folder is taken by a file
        kept = house.issues((alert if lane is Lane.PRIORITY else notice)(house))
        identifier = kept.message.identifier
        async with house.sender():
            await house.until(lambda: others_are_complete(house, identifier, board))
            assert house.states(identifier)[f"{board}/board"] in (State.QUEUED, State.IN_FLIGHT)
            if place.suffix:
                (place / "in the way").rmdir()
                place.rmdir()
            else:
                place.unlink()
            await house.until_settled(identifier)
        assert house.states(identifier)[f"{board}/board"] is State.DELIVERED
        assert place.is_file() or any(place.iterdir())
        assert not list(place.parent.rglob(".*")), "no half a file is left behind"


async def test_a_full_disk_is_for_now_and_leaves_the_old_page_whole(tmp_path: Path) -> None:
    async with a_rehearsal(tmp_path, **QUICK) as house:
        first = house.issues(notice(house, channels=("rss",)))
        await house.sends(first.message.identifier)
        page = house.public("feeds/all.rss")
        before = page.read_bytes()
        half = page.with_name(f".{page.name}.{os.getpid()}")
        half.symlink_to("/dev/full")  # every byte that is written there finds the disk full
        second = house.issues(alert(house, channels=("rss",)))
        async with house.sender():
            await house.until(lambda: len(house.attempts(house.delivery(second.message.identifier, "rss"))) == 1)
            assert page.read_bytes() == before
            await house.until_settled(second.message.identifier)
        assert house.attempts(house.delivery(second.message.identifier, "rss")) == [State.QUEUED, State.DELIVERED]
        assert page.read_bytes() != before


async def test_a_page_that_another_process_wrote_or_removed_is_written_again(tmp_path: Path) -> None:
    """Two senders, one for each lane, share the folder: neither trusts that a file is as it left it."""
    async with a_rehearsal(tmp_path, **QUICK) as house:
        page = house.public("feeds/all.rss")
        board = house.channels[Mode.LIVE]["rss"]
        await house.pipeline.refresh(board)
        ours = page.read_bytes()
        for theirs in (b"an older page", None):
            if theirs is None:
                page.unlink()
            else:
                page.with_name("theirs").write_bytes(theirs)
                page.with_name("theirs").replace(page)
            await house.pipeline.refresh(board)
            assert page.read_bytes() == ours


# Mail domains


DOMAINS = [f"mail-{n}.example" for n in range(20)]


@pytest.mark.timeout(90)
@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind=Kind.HANG, domains=("mail-7.example",)),
        Fault(kind=Kind.HANG, stage="data", domains=("mail-7.example",)),
        Fault(kind=Kind.TEMPORARY, domains=("mail-7.example",)),
        Fault(kind=Kind.REFUSE, domains=("mail-7.example",)),
        Fault(kind=Kind.RESET, stage="rcpt", domains=("mail-7.example",)),
        Fault(kind=Kind.RATE, domains=("mail-7.example",)),
        Fault(kind=Kind.PERMANENT, domains=("mail-7.example",)),
    ],
    ids=name_of,
)
@pytest.mark.parametrize("lane", list(Lane), ids=lambda lane: lane.name.lower())
async def test_one_mail_domain_of_twenty_that_fails_changes_nothing_for_the_others(
    tmp_path: Path, fault: Fault, lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Okayama, July 2018: one carrier refused, and 64,000 readers waited for hours."""
    watch = Watch(monkeypatch)
    async with a_rehearsal(tmp_path, **QUICK) as house:
        for domain in DOMAINS:
            house.readers(60, districts=all_districts(house), domain=domain)
        house.faults.set("email", fault)
        kept = house.issues((alert if lane is Lane.PRIORITY else notice)(house))
        identifier = kept.message.identifier
        async with house.sender():
            await house.until(lambda: house.counts(identifier).delivered == 19 * 60)
            arrived = by_domain(house, identifier)
            house.pipeline.change(identifier, Change.CANCEL, STAFF)
            await house.until_settled(identifier)
        counts = house.counts(identifier)
    assert {domain: n for domain, n in arrived.items() if domain != "mail-7.example"} == {
        domain: 60 for domain in DOMAINS if domain != "mail-7.example"
    }
    assert arrived["mail-7.example"] == 0
    assert counts.adds_up
    assert counts.total == 1_200
    assert counts.delivered == 1_140
    assert watch.most_in_hand <= MOST_IN_HAND, "bounded, whatever hangs"
    assert watch.most_unrecorded <= UNRECORDED


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", [Kind.HANG, Kind.TEMPORARY], ids=str)
@pytest.mark.parametrize("lane", list(Lane), ids=lambda lane: lane.name.lower())
async def test_domains_that_fail_and_stand_first_in_the_list_do_not_keep_the_others_waiting(
    tmp_path: Path, kind: Kind, lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More letters than are ever in hand stand before the others', at more domains than there are lines."""
    watch = Watch(monkeypatch)
    bad = tuple(f"bad-{n}.example" for n in range(10))
    async with a_rehearsal(tmp_path, email={"timeout_s": 60.0, "lines": 8}) as house:
        for domain in (*bad, "fine.example", "well.example"):
            house.readers(300, districts=all_districts(house), domain=domain)
        house.faults.set("email", Fault(kind=kind, domains=bad))
        kept = house.issues((alert if lane is Lane.PRIORITY else notice)(house))
        identifier = kept.message.identifier
        async with house.sender():
            await house.until(lambda: house.counts(identifier).delivered == 600)
            arrived = by_domain(house, identifier)
        counts = house.counts(identifier)
    assert arrived == {"fine.example": 300, "well.example": 300}
    assert (counts.total, counts.delivered, counts.in_flight) == (3_600, 600, 0)
    assert counts.adds_up
    assert watch.most_in_hand <= MOST_IN_HAND


def by_domain(house: Rehearsal, identifier: str) -> Counter[str]:
    return Counter(recipient.rpartition("@")[2] for recipient in house.mails_of(identifier))


class Watch:
    """Looks at every mailroom whenever it takes a letter."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.most_in_hand = self.most_unrecorded = 0
        take = Mailroom._take

        def watched(room: Mailroom) -> object:
            letter = take(room)
            self.most_in_hand = max(self.most_in_hand, *(tray.size for tray in room._trays.values()))
            out = len(room._carried) + len(room._answered) + room._writing
            self.most_unrecorded = max(self.most_unrecorded, out - room.channel.lines)
            return letter

        monkeypatch.setattr(Mailroom, "_take", watched)
