"""Letter after letter over one session: in order, at once, and each of them settled once, whatever the other side does."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import cast

import aiosmtplib
import pytest
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from broadcaster.channel import (
    ChannelClosed,
    DeliveryFailure,
    Letter,
    Outcome,
    OutcomeUnknown,
    PermanentFailure,
    TemporaryFailure,
)
from broadcaster.rehearsal import smtp
from broadcaster.rehearsal.faults import Fault, Faults, Kind
from broadcaster.smtp_session import MOST_REPLY, Mail, Session
from tests.makers import frozen_clock

SENDER = "shina-mail@shinagawa.example.jp"
SLOW, FAST = "slow.example", "fast.example"
SILENT_S, TIMEOUT_S = 0.05, 0.3
PATIENCE_S = 10  # a test that waits longer has found a fault


def a_letter(n: int, domain: str = FAST) -> Letter:
    return Letter(
        key=n,
        part="ja.text",
        address=f"Reader-{n}@{domain}",
        domain=domain,
        subscriber=n,
        epoch=1,
        issue=1,
        is_drill=False,
        category="notice",
    )


def written(letter: Letter) -> Mail:
    if letter.domain == "nowhere":
        raise PermanentFailure("メールに使えない宛先です。")
    head = (
        f"From: {SENDER}\r\nTo: {letter.address}\r\nDate: Tue, 01 Dec 2026 09:00:00 +0900\r\n"
        f"Message-ID: <{letter.key}@shinagawa.example.jp>\r\n\r\n"
    )
    return Mail(recipient=letter.address, content=f"{head}Flee.\r\n".encode())


class Pile:
    """Letters that wait, and what became of them. A letter that did not leave goes back on top."""

    def __init__(self, *letters: Letter) -> None:
        self.waiting = deque(letters)
        self.taken: list[Letter] = []
        self.settled: list[tuple[Letter, Outcome]] = []

    def take(self) -> Letter | None:
        if not self.waiting:
            return None
        self.taken.append(self.waiting.popleft())
        return self.taken[-1]

    def settle(self, letter: Letter, outcome: Outcome) -> None:
        self.settled.append((letter, outcome))
        if not outcome.was_tried:
            self.waiting.appendleft(letter)

    def outcomes(self, n: int) -> list[Outcome]:
        return [outcome for letter, outcome in self.settled if letter.key == n]

    def ends(self, n: int) -> tuple[str, str]:
        """What became of it in the end, and where that was said."""
        outcome = next(outcome for outcome in self.outcomes(n) if outcome.was_tried)
        return type(outcome.receipt or outcome.failure).__name__, outcome.stage

    def is_settled_once_each(self) -> bool:
        return Counter(letter.key for letter in self.taken) == Counter(letter.key for letter, _ in self.settled)


async def opened(port: int, *, pipelining: bool = True, silent_s: float = SILENT_S, **most_for: int) -> Session:
    client = aiosmtplib.SMTP(hostname="127.0.0.1", port=port, timeout=PATIENCE_S, start_tls=False)
    await client.connect()
    await client.ehlo()
    return Session(
        cast(asyncio.Transport, client.transport),
        sender=SENDER,
        write=written,
        pipelining=pipelining,
        timeout_s=TIMEOUT_S,
        silent_s=silent_s,
        most_for={name.replace("_", "."): most for name, most in most_for.items()},
    )


async def carried(pile: Pile, port: int, *, pipelining: bool = True, most_sessions: int = 6, **most_for: int) -> int:
    """Session after session until the pile is empty; how many it took."""
    async with asyncio.timeout(PATIENCE_S):
        for number in range(1, most_sessions + 1):
            session = await opened(port, pipelining=pipelining, **most_for)
            with suppress(DeliveryFailure):  # the next one goes on
                if await session.carry(pile.take, pile.settle):
                    session.close()
                    return number
            session.close()
    raise AssertionError("the pile is not empty")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "mail"


@pytest.fixture
def faults(tmp_path: Path) -> Faults:
    return Faults(tmp_path / "faults.json")


@pytest.fixture
async def relay(folder: Path, faults: Faults) -> AsyncIterator[smtp.Server]:
    running = await smtp.start(folder, faults, clock=frozen_clock())
    yield running
    await running.close()


# The plain case


@pytest.mark.parametrize("pipelining", [True, False], ids=["pipelined", "step by step"])
async def test_letters_go_in_order_over_one_session(relay: smtp.Server, folder: Path, pipelining: bool) -> None:
    letters = [a_letter(n) for n in range(50)]
    pile = Pile(*letters)
    assert await carried(pile, relay.port, pipelining=pipelining) == 1
    filed = list(smtp.received(folder))
    assert [letter for letter, _ in pile.settled] == letters
    assert [mail.recipient for mail in filed] == [letter.address for letter in letters]
    assert [outcome.receipt and outcome.receipt.evidence for _, outcome in pile.settled] == [
        f"250 2.0.0 Ok: queued as {mail.id}" for mail in filed
    ]


async def test_a_session_carries_again_when_there_is_more(relay: smtp.Server) -> None:
    session = await opened(relay.port)
    for n in range(3):
        pile = Pile(a_letter(n))
        assert await session.carry(pile.take, pile.settle)
        assert pile.ends(n) == ("Receipt", "DATA")
        assert session.is_open
    session.close()


async def test_without_letters_nothing_is_said(relay: smtp.Server, folder: Path) -> None:
    assert await carried(Pile(), relay.port) == 1
    assert list(smtp.received(folder)) == []


async def test_a_letter_that_cannot_be_written_is_settled_and_the_next_one_goes(relay: smtp.Server) -> None:
    pile = Pile(a_letter(1, "nowhere"), a_letter(2), a_letter(3, "nowhere"))
    await carried(pile, relay.port)
    assert [pile.ends(n)[0] for n in (1, 2, 3)] == ["PermanentFailure", "Receipt", "PermanentFailure"]


@pytest.mark.parametrize("pipelining", [True, False], ids=["pipelined", "step by step"])
async def test_a_session_ends_in_good_order_after_so_many_of_a_domain(relay: smtp.Server, pipelining: bool) -> None:
    pile = Pile(*(a_letter(n) for n in range(25)), *(a_letter(n, "other.example") for n in range(25, 40)))
    assert await carried(pile, relay.port, pipelining=pipelining, fast_example=10) == 3
    assert all(outcome.receipt for _, outcome in pile.settled)


# Faults


@pytest.mark.parametrize("pipelining", [True, False], ids=["pipelined", "step by step"])
@pytest.mark.parametrize(
    ("kind", "stage", "end"),
    [
        (Kind.TEMPORARY, "rcpt", ("TemporaryFailure", "RCPT")),
        (Kind.TEMPORARY, "data", ("TemporaryFailure", "DATA")),
        (Kind.PERMANENT, "rcpt", ("PermanentFailure", "RCPT")),
        (Kind.PERMANENT, "data", ("PermanentFailure", "DATA")),
        (Kind.RATE, "rcpt", ("TemporaryFailure", "RCPT")),
        (Kind.RATE, "data", ("TemporaryFailure", "DATA")),
        (Kind.HANG, "rcpt", ("TemporaryFailure", "RCPT")),
        (Kind.HANG, "data", ("OutcomeUnknown", "DATA")),
        (Kind.RESET, "rcpt", ("TemporaryFailure", "RCPT")),
        (Kind.RESET, "data", ("OutcomeUnknown", "DATA")),
        (Kind.DROP, "rcpt", ("TemporaryFailure", "RCPT")),
        (Kind.DROP, "data", ("OutcomeUnknown", "DATA")),
        (Kind.REFUSE, "rcpt", ("TemporaryFailure", "RCPT")),
        (Kind.REFUSE, "data", ("OutcomeUnknown", "DATA")),
        (Kind.DRIP, "rcpt", ("Receipt", "DATA")),
        (Kind.DRIP, "data", ("Receipt", "DATA")),
    ],
)
async def test_a_fault_of_one_domain_ends_as_it_should_and_the_letters_behind_arrive(
    relay: smtp.Server, faults: Faults, pipelining: bool, kind: Kind, stage: str, end: tuple[str, str]
) -> None:
    faults.set("email", Fault(kind=kind, stage=stage, domains=(SLOW,), seconds=2 * SILENT_S))
    pile = Pile(a_letter(1), a_letter(2, SLOW), a_letter(3), a_letter(4))
    await carried(pile, relay.port, pipelining=pipelining)
    assert pile.ends(2) == end
    assert [pile.ends(n) for n in (1, 3, 4)] == [("Receipt", "DATA")] * 3
    assert pile.is_settled_once_each()


async def test_a_mail_that_was_taken_without_an_answer_is_unknown_and_there(
    relay: smtp.Server, faults: Faults, folder: Path
) -> None:
    faults.set("email", Fault(kind=Kind.DROP, stage="data"))
    pile = Pile(a_letter(1))
    await carried(pile, relay.port)
    assert pile.ends(1) == ("OutcomeUnknown", "DATA")
    assert [mail.message_id for mail in smtp.received(folder)] == ["<1@shinagawa.example.jp>"]


@pytest.mark.parametrize("kind", [Kind.HANG, Kind.DRIP])
async def test_the_letter_behind_one_that_waits_is_given_back_before_that_one_is_settled(
    relay: smtp.Server, faults: Faults, folder: Path, kind: Kind
) -> None:
    faults.set("email", Fault(kind=kind, stage="data", domains=(SLOW,), seconds=3 * SILENT_S))
    pile = Pile(a_letter(1, SLOW), a_letter(2))
    await carried(pile, relay.port)
    assert [(letter.key, outcome.was_tried) for letter, outcome in pile.settled] == [(2, False), (1, True), (2, True)]
    assert [mail.recipient for mail in smtp.received(folder)].count("Reader-2@fast.example") == 1


async def test_who_is_not_to_blame_goes_again_without_an_attempt(relay: smtp.Server, faults: Faults) -> None:
    """A session that worked and is cut: the letter whose envelope was on the wire has not been tried."""
    faults.set("email", Fault(kind=Kind.RESET, stage="data", domains=(SLOW,)))
    pile = Pile(a_letter(1), a_letter(2, SLOW), a_letter(3))
    await carried(pile, relay.port)
    assert [outcome.was_tried for outcome in pile.outcomes(3)] == [False, True]


# Replies of a server that is none


Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def a_server(script: Script) -> AsyncIterator[int]:
    """Greets, and then does as the script says."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 odd.test ESMTP\r\n")
        await reader.readline()
        writer.write(b"250-odd.test\r\n250 PIPELINING\r\n")
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await script(reader, writer)
            await reader.read()
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1")
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()


def says(*replies: bytes) -> Script:
    """One after the other, each to a command; a text counts as one."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for reply in replies:
            await reader.readuntil(b"\r\n.\r\n" if b"queued" in reply or b"body" in reply else b"\r\n")
            writer.write(reply)
            await writer.drain()

    return script


def endless(chunk: bytes) -> Script:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        while True:
            writer.write(chunk)
            await writer.drain()

    return script


async def what_became(script: Script, *, pipelining: bool = True, letters: int = 2) -> tuple[Pile, DeliveryFailure]:
    """Of a session that is lost."""
    pile = Pile(*(a_letter(n) for n in range(1, letters + 1)))
    async with a_server(script) as port, asyncio.timeout(PATIENCE_S):
        session = await opened(port, pipelining=pipelining)
        with pytest.raises(DeliveryFailure) as caught:
            await session.carry(pile.take, pile.settle)
        assert not session.is_open
        session.close()
    assert pile.is_settled_once_each()
    return pile, caught.value


@pytest.mark.parametrize("pipelining", [True, False], ids=["pipelined", "step by step"])
@pytest.mark.parametrize(
    "script",
    [
        says(b"HTTP/1.1 400 Bad Request\r\n"),
        says(b"\r\n"),
        says(b"\xff\xfe\x00\r\n"),
        says(b"250 ok\r\n", b"what?\r\n"),
        endless(b"x" * 4096),
        endless(b"250-more\r\n" * 100),
    ],
    ids=["another protocol", "empty", "bytes", "later", "a line without an end", "a reply without an end"],
)
async def test_a_reply_that_is_none_ends_the_session_for_now(script: Script, pipelining: bool) -> None:
    pile, why = await what_became(script, pipelining=pipelining)
    assert isinstance(why, TemporaryFailure)
    assert "メールの中継かどうか" in str(why)
    assert pile.ends(1) == ("TemporaryFailure", "RCPT")


@pytest.mark.parametrize("pipelining", [True, False], ids=["pipelined", "step by step"])
async def test_a_sender_that_is_refused_closes_the_channel_and_no_letter_is_to_blame(pipelining: bool) -> None:
    pile, why = await what_became(says(b"553 5.7.1 Sender refused\r\n"), pipelining=pipelining)
    assert isinstance(why, ChannelClosed)
    assert "from を確かめてください" in str(why)
    assert [outcome.was_tried for _, outcome in pile.settled] == [False]


async def test_a_server_that_closes_after_a_text_has_answered_for_that_one_only() -> None:
    pile, why = await what_became(says(b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n", b"421 body: bye\r\n"))
    assert str(why) == "中継が接続を終えました（421）。"
    assert pile.ends(1) == ("TemporaryFailure", "DATA")
    assert [outcome.was_tried for outcome in pile.outcomes(2)] == [False]


async def test_a_recipient_that_is_refused_although_the_text_is_asked_for_gets_none(relay: smtp.Server) -> None:
    """RFC 2920 §3.1: DATA was on the wire already, so an empty text ends it."""
    replies = (b"250 ok\r\n", b"550 no\r\n", b"354 go\r\n")
    heard: list[bytes] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await says(*replies)(reader, writer)
        heard.append(await reader.readline())
        writer.write(b"554 no valid recipients\r\n")
        heard.append(await reader.readline())

    pile = Pile(a_letter(1), a_letter(2))
    async with a_server(script) as port:
        session = await opened(port)
        with pytest.raises(TemporaryFailure):
            await session.carry(pile.take, pile.settle)
    assert pile.ends(1) == ("PermanentFailure", "RCPT")
    assert heard == [b".\r\n", b"RSET\r\n"]


@pytest.mark.parametrize("stage", ["RCPT", "DATA", "body", "taken"])
async def test_a_reply_that_repeats_the_address_is_kept_without_it(stage: str) -> None:
    told = b"<Reader-1@fast.example> aka reader-1@fast.example\r\n"
    replies = {
        "RCPT": (b"250 ok\r\n", b"550 no " + told, b"503 no\r\n"),
        "DATA": (b"250 ok\r\n", b"250 ok\r\n", b"451 not " + told),
        "body": (b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n", b"554-body for\r\n554 " + told),
        "taken": (b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n", b"250 queued for " + told),
    }[stage]
    pile = Pile(a_letter(1))
    async with a_server(says(*replies)) as port:
        session = await opened(port)
        assert await session.carry(pile.take, pile.settle)
        session.close()
    [(_, outcome)] = pile.settled
    said = outcome.receipt.evidence if outcome.receipt else str(outcome.failure)
    assert said.endswith("<…> aka …")


async def test_a_line_that_is_given_up_in_the_middle_settles_what_it_holds(relay: smtp.Server, faults: Faults) -> None:
    faults.set("email", Fault(kind=Kind.HANG, stage="data"))
    pile = Pile(a_letter(1), a_letter(2))
    session = await opened(relay.port, silent_s=PATIENCE_S)
    carrying = asyncio.create_task(session.carry(pile.take, pile.settle))
    async with asyncio.timeout(PATIENCE_S):
        while len(pile.taken) < 2:
            await asyncio.sleep(0)
    carrying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await carrying
    assert pile.is_settled_once_each()
    assert isinstance(pile.outcomes(1)[0].failure, OutcomeUnknown)
    assert not pile.outcomes(2)[0].was_tried or isinstance(pile.outcomes(2)[0].failure, TemporaryFailure)


# Whatever the other side says


class Wire(asyncio.Transport):
    """A connection in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = b""
        self.is_closed = False
        self.protocol: Session | None = None

    def write(self, data: object) -> None:
        self.heard += bytes(cast(bytes, data))

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = cast(Session, protocol)

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True


REPLIES = st.lists(
    st.sampled_from(
        [b"250 ok\r\n"] * 4
        + [b"354 go\r\n"] * 3
        + [
            b"250-a\r\n250 b\r\n",
            b"451 later\r\n",
            b"550 no\r\n",
            b"421 bye\r\n",
            b"503 what\r\n",
            b"250",
            b"\r\n",
            b"99\r\n",
        ]
        + [
            b"what?\r\n",
            b"250 ok\n250 ok\n354 go\n",
            b"250 ok\r\n250 ok\r\n354 go\r\n250 ok\r\n",
            b"x" * (MOST_REPLY + 1),
        ]
    )
    | st.binary(max_size=6),
    max_size=30,
)


@examples(max_examples=400, deadline=None)
@given(replies=REPLIES, pipelining=st.booleans(), most=st.integers(1, 4), is_cut=st.booleans())
@example(replies=[b"550 no\r\n"], pipelining=False, most=4, is_cut=True)
@example(replies=[b"250 ok\r\n", b"421 bye\r\n"], pipelining=False, most=4, is_cut=True)
def test_every_letter_that_was_taken_is_settled_once_whatever_the_other_side_says(
    replies: list[bytes], pipelining: bool, most: int, is_cut: bool
) -> None:
    pile = Pile(*(a_letter(n) for n in range(6)))
    asyncio.run(converse(pile, replies, pipelining=pipelining, most=most, is_cut=is_cut))
    assert pile.is_settled_once_each()
    assert all(not (outcome.receipt and outcome.failure) for _, outcome in pile.settled)


async def converse(pile: Pile, replies: list[bytes], *, pipelining: bool, most: int, is_cut: bool) -> None:
    wire = Wire()
    session = Session(
        wire,
        sender=SENDER,
        write=written,
        pipelining=pipelining,
        timeout_s=PATIENCE_S,
        silent_s=PATIENCE_S,
        most_for={FAST: most},
    )
    carrying = asyncio.create_task(session.carry(pile.take, pile.settle))
    await asyncio.sleep(0)
    for reply in replies:
        if carrying.done() or wire.is_closed:
            break
        session.data_received(reply)
        assert len(pile.taken) - len(pile.settled) <= 2
        await asyncio.sleep(0)
    if is_cut:
        session.connection_lost(None)
    else:
        carrying.cancel()
    with suppress(DeliveryFailure, asyncio.CancelledError):
        await carrying
