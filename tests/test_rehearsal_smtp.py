"""The town's mail relay: what it takes it files to the byte, what a strict relay refuses it refuses, and nothing a
caller does stops it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import ipaddress
import logging
import logging.config
import mailbox
import smtplib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from email.message import EmailMessage
from email.policy import SMTP as CRLF_POLICY
from pathlib import Path
from typing import Any

import aiosmtplib
import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from broadcaster.clock import FrozenClock, minutes
from broadcaster.rehearsal import smtp
from broadcaster.rehearsal.faults import Fault, Faults, Kind
from broadcaster.rehearsal.smtp import MOST_BYTES, MOST_MISTAKES, Server, latest, received
from tests.makers import NOW, frozen_clock

READER = "reader@mail-1.example"
SENDER = "b+1@shinagawa.example.jp"
USERS = {"ward": "pass-word-1"}
LINGER_NOT = (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # the end is a reset
PATIENCE_S = 5  # a test that waits longer has found a fault


@pytest.fixture
def clock() -> FrozenClock:
    return frozen_clock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "mail"


@pytest.fixture
def faults(tmp_path: Path) -> Faults:
    return Faults(tmp_path / "faults.json")


@pytest.fixture
async def relay(folder: Path, faults: Faults, clock: FrozenClock) -> AsyncIterator[Server]:
    running = await smtp.start(folder, faults, clock=clock)
    yield running
    await running.close()


def a_mail(
    n: int = 1,
    *,
    to: str = READER,
    subject: str = "避難指示が出ました",
    body: str = "大井町の人は避難してください。\n",
) -> bytes:
    mail = EmailMessage(policy=CRLF_POLICY)
    mail["From"] = "品川区 <shinamail@shinagawa.example.jp>"
    mail["To"] = to
    mail["Subject"] = subject
    mail["Date"] = NOW + minutes(n)
    mail["Message-ID"] = f"<{n}@shinagawa.example.jp>"
    mail.set_content(body, cte="base64")
    return mail.as_bytes()


def a_plain_mail(body: bytes = b"Flee.\r\n", *, to: bytes = READER.encode(), **more: bytes) -> bytes:
    """Made by hand, for what the library would not write."""
    fields = {
        b"From": b"shinamail@shinagawa.example.jp",
        b"To": to,
        b"Date": b"Tue, 01 Dec 2026 09:00:00 +0900",
        b"Message-ID": b"<1@shinagawa.example.jp>",
        **{name.replace("_", "-").encode(): value for name, value in more.items()},
    }
    return b"".join(b"%s: %s\r\n" % field for field in fields.items()) + b"\r\n" + body


def envelope(to: str = READER, sender: str = SENDER) -> bytes:
    return f"MAIL FROM:<{sender}>\r\nRCPT TO:<{to}>\r\nDATA\r\n".encode()


def stuffed(mail: bytes) -> bytes:
    return (b"\r\n" + mail).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n"


class Caller:
    """The other side, to the byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def at(cls, server: Server) -> Caller:
        return cls(*await asyncio.open_connection("127.0.0.1", server.port))

    @classmethod
    async def greeted(cls, server: Server) -> Caller:
        caller = await cls.at(server)
        assert await caller.hears() == "220 relay.rehearsal.test ESMTP"
        assert (await caller.asks(b"EHLO ward.example.jp\r\n")).startswith("250-relay.rehearsal.test")
        return caller

    async def says(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def hears(self) -> str:
        """One reply, of one line or more; empty at the end."""
        reply = b""
        async with asyncio.timeout(PATIENCE_S):
            while line := await self.reader.readline():
                reply += line
                if line[3:4] == b" ":
                    break
        return reply.decode().removesuffix("\r\n")

    async def asks(self, data: bytes) -> str:
        await self.says(data)
        return await self.hears()

    async def sends(self, mail: bytes, *, to: str = READER) -> str:
        """The last reply."""
        reply = ""
        for step in (*envelope(to).splitlines(keepends=True), stuffed(mail)):
            reply = await self.asks(step)
            if reply[:1] not in ("2", "3"):
                break
        return reply

    async def hears_the_rest(self) -> bytes:
        """Until the relay closes, and then leaves. A connection that is reset raises."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await self.reader.read()
        finally:
            await self.leaves()

    async def leaves(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


def ids(folder: Path) -> list[str]:
    return [mail.message_id for mail in received(folder)]


def recipients(folder: Path) -> list[str]:
    return [mail.recipient for mail in received(folder)]


# The plain case


async def test_a_mail_is_filed_to_the_byte_and_the_reply_names_its_file(relay: Server, folder: Path) -> None:
    mail = a_mail()
    async with aiosmtplib.SMTP(hostname="127.0.0.1", port=relay.port) as client:
        refused, said = await client.sendmail(SENDER, [READER], mail)
    [filed] = received(folder)
    assert refused == {}
    assert said == f"2.0.0 Ok: queued as {filed.id}"
    assert filed.path == folder / "new" / filed.id
    assert filed.raw() == mail
    assert list((folder / "tmp").iterdir()) == []


async def test_what_a_mail_says_of_itself(relay: Server, folder: Path, clock: FrozenClock) -> None:
    clock.move(timedelta(minutes=3))
    caller = await Caller.greeted(relay)
    await caller.sends(a_mail(7, subject="【緊急】避難指示が大井町・南大井・勝島に出ました。命を守ってください 🏃"))
    [mail] = received(folder)
    assert mail.message_id == "<7@shinagawa.example.jp>"
    assert (mail.sender, mail.recipient) == (SENDER, READER)
    assert mail.subject == "【緊急】避難指示が大井町・南大井・勝島に出ました。命を守ってください 🏃"
    assert mail.received_at == NOW + timedelta(minutes=3)
    assert mail.parsed().get_content().splitlines() == ["大井町の人は避難してください。"]
    await caller.leaves()


async def test_a_relay_puts_its_fields_on_top(relay: Server, folder: Path) -> None:
    caller = await Caller.greeted(relay)
    await caller.sends(a_plain_mail())
    [mail] = received(folder)
    assert mail.path.read_bytes() == (
        b"Return-Path: <b+1@shinagawa.example.jp>\r\n"
        b"Delivered-To: reader@mail-1.example\r\n"
        b"Received: from ward.example.jp\r\n"
        b"\tby relay.rehearsal.test with ESMTP id " + mail.id.encode() + b"\r\n"
        b"\tfor <reader@mail-1.example>; Tue, 01 Dec 2026 09:00:00 +0900\r\n" + a_plain_mail()
    )
    assert mail.parsed().defects == []
    await caller.leaves()


async def test_an_old_client_is_served_and_another_program_reads_the_maildir(relay: Server, folder: Path) -> None:
    def send() -> None:
        with smtplib.SMTP("127.0.0.1", relay.port, timeout=PATIENCE_S) as client:
            for n in range(1, 4):
                assert client.sendmail(SENDER, [READER], a_mail(n)) == {}

    await asyncio.to_thread(send)
    judge = mailbox.Maildir(folder, create=False)
    assert sorted(mail["Message-ID"] for mail in judge) == [f"<{n}@shinagawa.example.jp>" for n in (1, 2, 3)]
    assert [judge[id].get_subdir() for id in judge.keys()] == ["new"] * 3  # noqa: SIM118 - a mailbox is no mapping


async def test_mails_are_read_in_order_of_arrival_also_after_a_restart(
    folder: Path, faults: Faults, clock: FrozenClock
) -> None:
    for first in (1, 7):
        server = await smtp.start(folder, faults, clock=clock)
        caller = await Caller.greeted(server)
        for n in range(first, first + 6):
            await caller.sends(a_mail(n))
        await caller.leaves()
        await server.close()
        clock.move(timedelta(hours=-1))
    assert ids(folder) == [f"<{n}@shinagawa.example.jp>" for n in range(1, 13)]
    assert [mail.message_id for mail in latest(folder, 2)] == ["<12@shinagawa.example.jp>", "<11@shinagawa.example.jp>"]


def test_before_the_first_mail_there_is_none(folder: Path) -> None:
    assert list(received(folder)) == []
    assert latest(folder, 10) == []


async def test_a_mail_that_is_put_away_meanwhile_is_passed_over(relay: Server, folder: Path) -> None:
    caller = await Caller.greeted(relay)
    for n in (1, 2):
        await caller.sends(a_mail(n))
    mails = received(folder)
    first = next(mails)
    [second] = [path for path in (folder / "new").iterdir() if path != first.path]
    second.rename(folder / "cur" / second.name)
    assert list(mails) == []
    await caller.leaves()


async def test_a_head_of_any_length_is_read_whole(relay: Server, folder: Path) -> None:
    caller = await Caller.greeted(relay)
    mail = b"".join(b"X-Filler-%d: %s\r\n" % (n, b"x" * 900) for n in range(40)) + a_plain_mail()
    assert (await caller.sends(mail)).startswith("250 ")
    assert ids(folder) == ["<1@shinagawa.example.jp>"]
    await caller.leaves()


async def test_a_mail_that_wants_no_answer_has_no_sender(relay: Server, folder: Path) -> None:
    caller = await Caller.greeted(relay)
    assert (await caller.asks(b"MAIL FROM:<> BODY=8BITMIME\r\n")).startswith("250 ")
    await caller.says(b"RCPT TO:<reader@mail-1.example>\r\nDATA\r\n" + stuffed(a_plain_mail()))
    assert [(await caller.hears())[:3] for _ in range(3)] == ["250", "354", "250"]
    [mail] = received(folder)
    assert mail.sender == ""
    await caller.leaves()


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("a..b@docomo.example", "<a..b@docomo.example>"),
        ("abc.@ezweb.example", "abc.@ezweb.example"),
        ('"a..b"@docomo.example', '<"a..b"@docomo.example>'),
        ('"a..b"@docomo.example', "<a..b@docomo.example>"),
        ("a..b@docomo.example", '"a..b"@docomo.example'),
    ],
)
async def test_old_carrier_addresses_are_served(relay: Server, folder: Path, address: str, told: str) -> None:
    caller = await Caller.greeted(relay)
    assert (await caller.sends(a_plain_mail(to=told.encode()), to=address)).startswith("250 ")
    assert recipients(folder) == [address]
    await caller.leaves()


# Pipelining


async def test_it_says_what_it_can_do(relay: Server) -> None:
    caller = await Caller.at(relay)
    await caller.hears()
    offers = await caller.asks(b"EHLO ward.example.jp\r\n")
    assert offers.split("\r\n")[1:] == ["250-PIPELINING", "250-SIZE 1048576", "250-8BITMIME", "250 ENHANCEDSTATUSCODES"]
    await caller.leaves()


async def test_three_mails_in_one_write(relay: Server, folder: Path) -> None:
    caller = await Caller.greeted(relay)
    await caller.says(b"".join(envelope() + stuffed(a_mail(n)) for n in (1, 2, 3)) + b"QUIT\r\n")
    replies = (await caller.hears_the_rest()).decode().split("\r\n")
    assert [reply[:3] for reply in replies if reply] == ["250", "250", "354", "250"] * 3 + ["221"]
    queued = [reply.removeprefix("250 2.0.0 Ok: queued as ") for reply in replies if "queued" in reply]
    assert queued == [mail.id for mail in received(folder)]
    assert ids(folder) == [f"<{n}@shinagawa.example.jp>" for n in (1, 2, 3)]


async def test_the_next_mail_begins_right_after_the_dot(relay: Server, folder: Path) -> None:
    caller = await Caller.greeted(relay)
    await caller.says(envelope())
    for n in range(1, 6):
        assert [(await caller.hears())[:3] for _ in range(3)] == ["250", "250", "354"]
        await caller.says(stuffed(a_mail(n)) + envelope())
        assert (await caller.hears()).startswith("250 2.0.0 Ok: queued as ")
    assert len(ids(folder)) == 5
    await caller.leaves()


async def test_one_byte_at_a_time(relay: Server, folder: Path) -> None:
    caller = await Caller.greeted(relay)
    for byte in envelope() + stuffed(a_plain_mail(b".\r\n")):
        await caller.says(bytes([byte]))
    assert [(await caller.hears())[:3] for _ in range(4)] == ["250", "250", "354", "250"]
    [mail] = received(folder)
    assert mail.raw() == a_plain_mail(b".\r\n")
    await caller.leaves()


async def test_what_a_caller_sent_before_it_ended_is_not_lost(relay: Server, folder: Path) -> None:
    caller = await Caller.greeted(relay)
    await caller.says(b"".join(envelope() + stuffed(a_mail(n)) for n in range(20)) + envelope() + b"Half of a")
    caller.writer.write_eof()
    assert (await caller.hears_the_rest()).count(b"queued as") == 20
    assert len(ids(folder)) == 20


async def test_a_long_pipeline_lets_others_have_their_turn(relay: Server, folder: Path) -> None:
    long, short = await Caller.greeted(relay), await Caller.greeted(relay)
    long.writer.write(b"".join(envelope() + stuffed(a_mail(n)) for n in range(1, 41)) + b"QUIT\r\n")
    short.writer.write(envelope() + stuffed(a_mail(0)) + b"QUIT\r\n")
    await asyncio.gather(long.hears_the_rest(), short.hears_the_rest())
    assert len(ids(folder)) == 41
    assert ids(folder).index("<0@shinagawa.example.jp>") < 20


async def test_a_refused_recipient_in_a_pipeline_takes_only_its_own_mail_with_it(
    relay: Server, folder: Path, faults: Faults
) -> None:
    faults.set("email", Fault(kind=Kind.PERMANENT, domains=("gone.example",)))
    caller = await Caller.greeted(relay)
    await caller.says(
        envelope()
        + stuffed(a_mail(1))
        + envelope("nobody@gone.example")
        + b"RSET\r\n"
        + envelope()
        + stuffed(a_mail(3))
        + b"QUIT\r\n"
    )
    replies = (await caller.hears_the_rest()).decode().split("\r\n")
    taken, refused = ["250", "250", "354", "250"], ["250", "550", "503", "250"]
    assert [reply[:3] for reply in replies if reply] == [*taken, *refused, *taken, "221"]
    assert ids(folder) == ["<1@shinagawa.example.jp>", "<3@shinagawa.example.jp>"]


# What it refuses


@pytest.mark.parametrize(
    ("mail", "said"),
    [
        (a_plain_mail(b"one\ntwo\r\n"), "550 5.6.11 A CR or LF stands alone"),
        (a_plain_mail(b"one\rtwo\r\n"), "550 5.6.11 A CR or LF stands alone"),
        (a_plain_mail(b"one\r\r\n"), "550 5.6.11 A CR or LF stands alone"),
        (a_plain_mail(b"null\0\r\n"), "550 5.6.0 Holds a null byte"),
        (a_plain_mail(b"x" * 999 + b"\r\n"), "550 5.6.0 A line is longer than 998 bytes"),
        (a_plain_mail(Subject="避難".encode()), "550 5.6.9 A header is not in ASCII"),
        (b"no header at all\r\n", "550 5.6.0 A line of the header is not a field"),
        (b" folded: from nothing\r\n" + a_plain_mail(), "550 5.6.0 A line of the header is not a field"),
        (b"Sub ject: a\r\n" + a_plain_mail(), "550 5.6.0 A line of the header is not a field"),
        (b"\r\n" + a_plain_mail(), "550 5.6.0 A line of the header is not a field"),
        (b"", "550 5.6.0 A line of the header is not a field"),
        *(
            (a_plain_mail().replace(f"{name}: ".encode(), b"X-Was: "), f"550 5.7.1 No {name}")
            for name in ("From", "Date", "Message-ID")
        ),
        *(
            (f"{name}: {value}\r\n".encode() + a_plain_mail(), f"550 5.7.1 More than one {name.title()[:7]}")
            for name, value in (("from", "a@shinagawa.example.jp"), ("To", READER), ("DATE", "a date"))
        ),
        (b"Message-Id: <2@x>\r\n" + a_plain_mail(), "550 5.7.1 More than one Message-ID"),
        (b"Subject: 1\r\nsubject : 2\r\n" + a_plain_mail(), "550 5.7.1 More than one Subject"),
        (a_plain_mail(to=b"another@mail-1.example"), "550 5.7.1 The recipient is not in To"),
        (a_plain_mail(to=b"<reader@mail-1.example.evil.example>"), "550 5.7.1 The recipient is not in To"),
        (a_plain_mail().replace(b"To: ", b"Cc: "), "550 5.7.1 The recipient is not in To"),
    ],
)
async def test_what_a_strict_relay_refuses(relay: Server, folder: Path, mail: bytes, said: str) -> None:
    caller = await Caller.greeted(relay)
    assert await caller.sends(mail) == said
    assert list(received(folder)) == []
    assert (await caller.sends(a_plain_mail())).startswith("250 "), "the session goes on"
    await caller.leaves()


@pytest.mark.parametrize(
    "mail",
    [
        a_plain_mail(b"x" * 998 + b"\r\n"),
        a_plain_mail(b"." * 998 + b"\r\n"),
        a_plain_mail(b".\r\n..\r\n. \r\n.a\r\n"),
        a_plain_mail("避難してください。\r\n".encode()),
        a_plain_mail(to=b"=?utf-8?b?6Kqt6ICF?= <Reader@mail-1.example>, reader@MAIL-1.EXAMPLE"),
        a_plain_mail(b"")[:-2],
        a_plain_mail(Subject=b"one\r\n two\r\n\tthree"),
    ],
)
async def test_what_is_unusual_and_right_is_taken_as_it_is(relay: Server, folder: Path, mail: bytes) -> None:
    caller = await Caller.greeted(relay)
    assert (await caller.sends(mail)).startswith("250 2.0.0 ")
    [filed] = received(folder)
    assert filed.raw() == mail
    await caller.leaves()


@pytest.mark.parametrize("end", [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r\n.\r", b"\r\n\0.\r\n"])
async def test_nothing_but_crlf_dot_crlf_ends_a_mail(relay: Server, folder: Path, end: bytes) -> None:
    """Otherwise a second mail could be smuggled in under the first."""
    caller = await Caller.greeted(relay)
    smuggled = a_plain_mail(b"first" + end + envelope() + a_plain_mail())
    assert (await caller.sends(smuggled)).startswith("550 5.6.")
    assert (await caller.asks(b"NOOP\r\n")).startswith("250 ")
    assert list(received(folder)) == []
    await caller.leaves()


async def test_a_mebibyte_is_taken_and_a_byte_more_is_not(relay: Server, folder: Path) -> None:
    caller = await Caller.greeted(relay)
    room = MOST_BYTES - len(a_plain_mail(b""))
    lines, rest = divmod(room, 900)
    most = a_plain_mail((b"." * 898 + b"\r\n") * lines + b"x" * (rest - 2) + b"\r\n")
    assert len(most) == MOST_BYTES
    assert (await caller.sends(most)).startswith("250 ")
    assert await caller.sends(most + b"\r\n") == "552 5.3.4 Larger than 1048576 bytes"
    assert [mail.raw() == most for mail in received(folder)] == [True]
    await caller.leaves()


@pytest.mark.parametrize("chunk", [b"x" * 65536, b"x" * 76 + b"\r\n", b".\r\n", b"a.\r\n" * 9, b"\r\n"])
async def test_of_a_mail_without_measure_nothing_is_kept_and_the_session_goes_on(
    relay: Server, folder: Path, chunk: bytes
) -> None:
    caller = await Caller.greeted(relay)
    endless = chunk * (3 * MOST_BYTES // len(chunk))
    assert (await caller.sends(a_plain_mail(endless + b"\r\n"))).startswith("552 5.3.4 ")
    assert (await caller.sends(a_plain_mail())).startswith("250 ")
    assert len(ids(folder)) == 1
    await caller.leaves()


async def test_a_size_that_is_told_beforehand_is_refused_beforehand(relay: Server) -> None:
    caller = await Caller.greeted(relay)
    assert (await caller.asks(b"MAIL FROM:<b@shinagawa.example.jp> SIZE=1048577\r\n")).startswith("552 5.3.4 ")
    assert (await caller.asks(b"MAIL FROM:<b@shinagawa.example.jp> SIZE=1048576\r\n")).startswith("250 ")
    await caller.leaves()


async def test_one_envelope_a_person(relay: Server, folder: Path) -> None:
    caller = await Caller.greeted(relay)
    two = f"{READER}, second@mail-2.example"
    await caller.says(
        b"MAIL FROM:<b@shinagawa.example.jp>\r\nRCPT TO:<reader@mail-1.example>\r\nRCPT TO:<second@mail-2.example>\r\n"
    )
    replies = [await caller.hears() for _ in range(3)]
    assert replies[2] == "550 5.5.3 One envelope a person: this mail has its recipient"
    assert (await caller.asks(b"DATA\r\n")).startswith("503 5.5.1 "), "neither of them gets it"
    assert (await caller.sends(a_plain_mail(to=two.encode()))).startswith("250 ")
    assert recipients(folder) == [READER]
    await caller.leaves()


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (b"MAIL FROM:reader@mail-1.example", "553 5.1.3"),
        (b"MAIL FROM:<reader>", "553 5.1.3"),
        (b"MAIL FROM:<a@b.example> <c@d.example>", "501 5.5.4"),
        (b"MAIL FROM:<a\x00@b.example>", "553 5.1.3"),
        ("MAIL FROM:<避難@b.example>".encode(), "501 5.6.7"),
        (b"MAIL FROM:<" + b"a" * 65 + b"@b.example>", "553 5.1.3"),
        (b"MAIL FROM:<a@b.example> SMTPUTF8", "501 5.5.4"),
        (b"MAIL FROM:<a@b.example> BODY=BINARYMIME", "501 5.5.4"),
        (b"RCPT TO:<reader@mail-1.example>", "503 5.5.1"),
        (b"DATA", "503 5.5.1"),
        (b"BDAT 10 LAST", "500 5.5.2"),
        (b"AUTH PLAIN AHdhcmQAcGFzcw==", "535 5.7.8"),
        (b"STARTTLS", "454 4.7.0"),
        (b"NOOP " + b"x" * 3000, "500 5.5.6"),
        (b"NOOP\n", "500 5.5.2"),
        (b"", "500 5.5.2"),
        (b"_reset", "500 5.5.2"),
        ("ＮＯＯＰ".encode(), "500 5.5.2"),
    ],
)
async def test_a_wrong_command_is_refused_with_its_code(relay: Server, command: bytes, code: str) -> None:
    caller = await Caller.greeted(relay)
    line = command if command.endswith(b"\n") else command + b"\r\n"
    assert (await caller.asks(line)).startswith(f"{code} ")
    assert (await caller.sends(a_plain_mail())).startswith("250 ")
    await caller.leaves()


async def test_a_null_recipient_is_none(relay: Server) -> None:
    caller = await Caller.greeted(relay)
    await caller.asks(b"MAIL FROM:<a@b.example>\r\n")
    assert (await caller.asks(b"RCPT TO:<>\r\n")).startswith("550 5.1.3 ")
    await caller.leaves()


async def test_nothing_is_taken_before_a_greeting(relay: Server) -> None:
    caller = await Caller.at(relay)
    await caller.hears()
    assert (await caller.asks(b"MAIL FROM:<a@b.example>\r\n")).startswith("503 ")
    assert (await caller.asks(b"DATA\r\n")).startswith("503 ")
    assert await caller.asks(b"HELO old.example\r\n") == "250 relay.rehearsal.test"
    assert (await caller.sends(a_plain_mail())).startswith("250 2.0.0 Ok: queued as ")
    await caller.leaves()


async def test_who_does_not_speak_smtp_is_shown_the_door(relay: Server) -> None:
    caller = await Caller.at(relay)
    await caller.says(b"GET / HTTP/1.1\r\nHost: relay.example\r\n\r\n" * MOST_MISTAKES)
    said = await caller.hears_the_rest()
    assert said.endswith(b"421 4.7.0 Too many errors\r\n")
    assert said.count(b"\r\n") == 1 + MOST_MISTAKES


async def test_a_command_without_an_end_is_not_read_for_ever(relay: Server) -> None:
    caller = await Caller.greeted(relay)
    with contextlib.suppress(ConnectionError):
        await caller.says(b"NOOP " + b"x" * 3 * MOST_BYTES)
    assert (await caller.hears()).startswith("500 5.5.6 ")
    await caller.leaves()


async def test_a_session_ends_after_so_many_recipients(folder: Path, faults: Faults, clock: FrozenClock) -> None:
    server = await smtp.start(folder, faults, clock=clock, most_recipients=3)
    caller = await Caller.greeted(server)
    for n in (1, 2, 3):
        assert (await caller.sends(a_mail(n))).startswith("250 ")
    assert await caller.sends(a_mail(4)) == "421 4.7.0 Too many recipients in one session"
    assert await caller.hears_the_rest() == b""
    second = await Caller.greeted(server)
    assert (await second.sends(a_mail(4))).startswith("250 ")
    await second.leaves()
    assert len(ids(folder)) == 4
    await server.close()


async def test_a_full_disk_is_for_now(relay: Server, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    caller = await Caller.greeted(relay)
    (folder / "tmp").rename(folder / "away")
    assert await caller.sends(a_mail(1)) == "452 4.3.1 Cannot be stored"
    (folder / "away").rename(folder / "tmp")
    assert (await caller.sends(a_mail(2))).startswith("250 ")
    assert ids(folder) == ["<2@shinagawa.example.jp>"]
    said = capsys.readouterr().out
    assert "rehearsal.mail_not_filed" in said
    assert f"code={errno.ENOENT}" in said
    await caller.leaves()


# TLS and who may send


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For 127.0.0.1, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "relay.rehearsal.test")])
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signed = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=3650))
        .not_valid_after(NOW + timedelta(days=3650))
        .add_extension(address, critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "relay.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return file


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture
def trust(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate))


@pytest.fixture
async def guarded(folder: Path, faults: Faults, clock: FrozenClock, tls: ssl.SSLContext) -> AsyncIterator[Server]:
    running = await smtp.start(folder, faults, clock=clock, tls=tls, users=USERS)
    yield running
    await running.close()


async def test_starttls_and_then_auth(guarded: Server, folder: Path, trust: ssl.SSLContext) -> None:
    client = aiosmtplib.SMTP(hostname="127.0.0.1", port=guarded.port, start_tls=True, tls_context=trust)
    async with client:
        await client.login("ward", USERS["ward"])
        for n in range(1, 4):
            await client.sendmail(SENDER, [READER], a_mail(n))
    assert ids(folder) == [f"<{n}@shinagawa.example.jp>" for n in (1, 2, 3)]
    assert all(b"with ESMTPSA id" in mail.head for mail in received(folder))


@pytest.mark.parametrize("way", ["auth_plain", "auth_login"])
async def test_both_ways_to_say_the_password(guarded: Server, trust: ssl.SSLContext, way: str) -> None:
    client = aiosmtplib.SMTP(hostname="127.0.0.1", port=guarded.port, start_tls=True, tls_context=trust)
    async with client:
        await client.ehlo()
        with pytest.raises(aiosmtplib.SMTPAuthenticationError) as refusal:
            await getattr(client, way)("ward", "pass-word-2")
        assert refusal.value.code == 535
        with pytest.raises(aiosmtplib.SMTPAuthenticationError):
            await getattr(client, way)("nobody", USERS["ward"])
        assert (await getattr(client, way)("ward", USERS["ward"])).code == 235


async def test_without_tls_no_password_and_without_a_password_no_mail(guarded: Server, folder: Path) -> None:
    caller = await Caller.at(guarded)
    await caller.hears()
    offers = await caller.asks(b"EHLO ward.example.jp\r\n")
    assert "STARTTLS" in offers
    assert "AUTH" not in offers
    secret = base64.b64encode(b"\0ward\0" + USERS["ward"].encode())
    assert (await caller.asks(b"AUTH PLAIN " + secret + b"\r\n")).startswith("538 5.7.11 ")
    assert await caller.sends(a_mail()) == "530 5.7.0 Authentication required"
    assert await caller.asks(b"DATA\r\n") == "530 5.7.0 Authentication required"
    assert list(received(folder)) == []
    await caller.leaves()


async def test_users_without_tls_for_a_relay_on_this_machine(
    folder: Path, faults: Faults, clock: FrozenClock, recwarn: pytest.WarningsRecorder
) -> None:
    server = await smtp.start(folder, faults, clock=clock, users=USERS)
    client = aiosmtplib.SMTP(hostname="127.0.0.1", port=server.port, start_tls=False)
    async with client:
        await client.login("ward", USERS["ward"])
        await client.sendmail(SENDER, [READER], a_mail())
    await server.close()
    assert len(ids(folder)) == 1
    assert list(recwarn) == []


@pytest.mark.parametrize("password", ["*", "====", "あ", "x" * 3 * MOST_BYTES, ""])
async def test_a_password_that_is_none_opens_nothing(
    folder: Path, faults: Faults, clock: FrozenClock, password: str
) -> None:
    server = await smtp.start(folder, faults, clock=clock, users=USERS)
    caller = await Caller.greeted(server)
    assert (await caller.asks(b"AUTH LOGIN " + base64.b64encode(b"ward") + b"\r\n")).startswith("334 ")
    with contextlib.suppress(ConnectionError):
        await caller.says(password.encode() + b"\r\n")
    assert (await caller.hears())[:5] in ("501 5", "500 5", "535 5")
    await caller.leaves()
    await server.close()


async def test_what_was_said_before_tls_counts_for_nothing(
    folder: Path,
    faults: Faults,
    clock: FrozenClock,
    tls: ssl.SSLContext,
    trust: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Somebody in between could have put it there."""
    server = await smtp.start(folder, faults, clock=clock, tls=tls)
    caller = await Caller.greeted(server)
    assert (await caller.asks(b"STARTTLS\r\n" + envelope())).startswith("220 ")
    await caller.writer.start_tls(trust, server_hostname="127.0.0.1")
    assert (await caller.asks(b"DATA\r\n")).startswith("503 "), "also who greeted is forgotten"
    offers = await caller.asks(b"EHLO ward.example.jp\r\n")
    assert "STARTTLS" not in offers
    assert (await caller.asks(b"DATA\r\n")).startswith("503 ")
    assert (await caller.sends(a_mail())).startswith("250 ")
    assert ids(folder) == ["<1@shinagawa.example.jp>"]
    await caller.leaves()
    await server.close()
    assert caplog.records == []


async def test_a_handshake_that_is_none_ends_only_that_session(guarded: Server, trust: ssl.SSLContext) -> None:
    caller = await Caller.greeted(guarded)
    await caller.asks(b"STARTTLS\r\n")
    await caller.says(b"This is not TLS.\r\n")
    with contextlib.suppress(ConnectionError):
        await caller.hears_the_rest()
    assert guarded._relay.sessions == set()
    client = aiosmtplib.SMTP(hostname="127.0.0.1", port=guarded.port, start_tls=True, tls_context=trust)
    async with client:
        assert client.is_connected


# Faults


async def test_a_refused_connection_is_closed_without_a_word(relay: Server, faults: Faults) -> None:
    faults.set("email", Fault(kind=Kind.REFUSE))
    assert await (await Caller.at(relay)).hears_the_rest() == b""
    with pytest.raises(aiosmtplib.SMTPException):
        await aiosmtplib.SMTP(hostname="127.0.0.1", port=relay.port, timeout=PATIENCE_S).connect()
    faults.set("email", None)
    await (await Caller.greeted(relay)).leaves()


async def test_a_relay_that_has_enough_says_so_and_closes(relay: Server, faults: Faults) -> None:
    faults.set("email", Fault(kind=Kind.RATE, times=1))
    said = await (await Caller.at(relay)).hears_the_rest()
    assert said == b"421 4.7.0 Too much at once, try again later\r\n"
    await (await Caller.greeted(relay)).leaves()


async def test_a_hanging_relay_takes_the_call_and_says_nothing(relay: Server, faults: Faults) -> None:
    faults.set("email", Fault(kind=Kind.HANG, times=1))
    hanging = await Caller.at(relay)
    await hanging.says(b"EHLO ward.example.jp\r\n")
    other = await Caller.greeted(relay)
    assert (await other.sends(a_mail())).startswith("250 ")
    await other.leaves()
    await relay.close()
    assert await hanging.hears_the_rest() == b""


@pytest.mark.parametrize(
    ("kind", "says"),
    [(Kind.REFUSE, b""), (Kind.RATE, b"421 4.7.0 Too much at once, try again later\r\n"), (Kind.HANG, b"")],
)
async def test_a_relay_that_fails_as_a_whole_also_fails_a_warm_line(
    relay: Server, folder: Path, faults: Faults, kind: Kind, says: bytes
) -> None:
    warm = await Caller.greeted(relay)
    assert (await warm.sends(a_mail(1))).startswith("250 ")
    faults.set("email", Fault(kind=kind))
    await warm.says(envelope() + stuffed(a_mail(2)))
    warm.writer.write_eof()  # gives up on what hangs
    assert await warm.hears_the_rest() == says
    assert ids(folder) == ["<1@shinagawa.example.jp>"]


@pytest.mark.parametrize(
    ("kind", "stage", "says"),
    [
        (Kind.TEMPORARY, "", "451 4.7.1 Try again later"),
        (Kind.TEMPORARY, "rcpt", "451 4.7.1 Try again later"),
        (Kind.TEMPORARY, "data", "451 4.7.1 Try again later"),
        (Kind.PERMANENT, "", "550 5.1.1 No such user here"),
        (Kind.PERMANENT, "rcpt", "550 5.1.1 No such user here"),
        (Kind.PERMANENT, "data", "550 5.1.1 No such user here"),
    ],
)
async def test_a_refusal_for_now_or_for_ever_and_the_session_goes_on(
    relay: Server, folder: Path, faults: Faults, kind: Kind, stage: str, says: str
) -> None:
    caller = await Caller.greeted(relay)
    faults.set("email", Fault(kind=kind, stage=stage, times=1))
    await caller.asks(b"MAIL FROM:<b@shinagawa.example.jp>\r\n")
    at_rcpt = await caller.asks(b"RCPT TO:<reader@mail-1.example>\r\n")
    if stage == "data":
        assert at_rcpt == "250 2.1.5 Ok"
        assert (await caller.asks(b"DATA\r\n")).startswith("354 ")
        assert await caller.asks(stuffed(a_mail(1))) == says
    else:
        assert at_rcpt == says
    await caller.asks(b"RSET\r\n")
    assert (await caller.sends(a_mail(2))).startswith("250 "), "the fault was to be met once"
    assert ids(folder) == ["<2@shinagawa.example.jp>"]
    await caller.leaves()


@pytest.mark.parametrize(
    ("kind", "stage", "before", "filed"),
    [
        (Kind.REFUSE, "rcpt", ["250"], 0),
        (Kind.REFUSE, "data", ["250", "250", "354"], 0),
        (Kind.RATE, "rcpt", ["250", "421"], 0),
        (Kind.RATE, "data", ["250", "250", "354", "421"], 0),
        (Kind.DROP, "rcpt", ["250"], 0),
        (Kind.DROP, "data", ["250", "250", "354"], 1),
        (Kind.DROP, "", ["250", "250", "354"], 1),
        (Kind.HANG, "rcpt", ["250"], 0),
        (Kind.HANG, "data", ["250", "250", "354"], 0),
    ],
)
async def test_a_session_that_breaks_off(
    relay: Server, folder: Path, faults: Faults, kind: Kind, stage: str, before: list[str], filed: int
) -> None:
    caller = await Caller.greeted(relay)
    faults.set("email", Fault(kind=kind, stage=stage))
    await caller.says(envelope() + stuffed(a_mail(1)) + envelope() + stuffed(a_mail(2)))
    caller.writer.write_eof()  # gives up on what hangs
    said = (await caller.hears_the_rest()).decode().splitlines()
    assert [reply[:3] for reply in said] == before
    assert len(ids(folder)) == filed


async def test_a_mail_that_was_taken_and_not_answered_arrives_a_second_time(
    relay: Server, folder: Path, faults: Faults
) -> None:
    faults.set("email", Fault(kind=Kind.DROP, times=1))
    for _ in range(2):
        with contextlib.suppress(aiosmtplib.SMTPServerDisconnected):
            async with aiosmtplib.SMTP(hostname="127.0.0.1", port=relay.port) as client:
                await client.sendmail(SENDER, [READER], a_mail(1))
    assert ids(folder) == ["<1@shinagawa.example.jp>"] * 2


@pytest.mark.parametrize("stage", ["", "rcpt", "data"])
async def test_a_connection_is_reset_in_the_middle(relay: Server, folder: Path, faults: Faults, stage: str) -> None:
    caller = await Caller.greeted(relay)
    faults.set("email", Fault(kind=Kind.RESET, stage=stage))
    await caller.says(envelope())
    if stage != "rcpt":
        assert [(await caller.hears())[:3] for _ in range(3)] == ["250", "250", "354"]
        await caller.says(a_mail()[:100])
    with pytest.raises(ConnectionResetError):
        await caller.hears_the_rest()
    assert list(received(folder)) == []


@pytest.mark.parametrize("stage", ["", "rcpt", "data"])
async def test_a_slow_relay_answers_late_and_in_order(relay: Server, folder: Path, faults: Faults, stage: str) -> None:
    caller = await Caller.greeted(relay)
    faults.set("email", Fault(kind=Kind.DRIP, seconds=0.05, stage=stage))
    loop = asyncio.get_running_loop()
    began = loop.time()
    await caller.says(b"".join(envelope() + stuffed(a_mail(n)) for n in (1, 2)) + b"QUIT\r\n")
    said = (await caller.hears_the_rest()).decode().splitlines()
    assert [reply[:3] for reply in said] == ["250", "250", "354", "250"] * 2 + ["221"]
    assert loop.time() - began >= 0.1
    assert ids(folder) == ["<1@shinagawa.example.jp>", "<2@shinagawa.example.jp>"]


async def test_a_hanging_domain_holds_up_nobody_elses_mail(relay: Server, folder: Path, faults: Faults) -> None:
    faults.set("email", Fault(kind=Kind.HANG, domains=("stuck.example",)))
    stuck, free = await Caller.greeted(relay), await Caller.greeted(relay)
    await stuck.says(envelope("reader@Stuck.example"))
    assert (await stuck.hears()).startswith("250 ")  # MAIL; and then no more
    for n in range(5):
        assert (await free.sends(a_mail(n))).startswith("250 ")
    await free.leaves()
    await relay.close()
    assert await stuck.hears_the_rest() == b""
    assert recipients(folder) == [READER] * 5


@pytest.mark.parametrize("kind", [Kind.TEMPORARY, Kind.RATE, Kind.REFUSE])
async def test_a_fault_of_one_domain_meets_only_its_readers(
    relay: Server, folder: Path, faults: Faults, kind: Kind
) -> None:
    faults.set("email", Fault(kind=kind, domains=("bad.example",)))
    caller = await Caller.greeted(relay)
    assert (await caller.sends(a_mail(1))).startswith("250 ")
    assert not (await caller.sends(a_mail(2), to="reader@bad.example")).startswith("250 ")
    assert recipients(folder) == [READER]
    await caller.leaves()


async def test_a_share_of_the_mails_meets_the_fault(relay: Server, folder: Path, faults: Faults) -> None:
    faults.set("email", Fault(kind=Kind.PERMANENT, stage="data", share=0.25))
    caller = await Caller.greeted(relay)
    replies = [await caller.sends(a_mail(n)) for n in range(200)]
    refused = sum(reply.startswith("550") for reply in replies)
    assert 25 < refused < 80
    assert len(ids(folder)) == 200 - refused
    await caller.leaves()


async def test_a_refusal_reaches_a_client_as_what_it_is(relay: Server, faults: Faults) -> None:
    async with aiosmtplib.SMTP(hostname="127.0.0.1", port=relay.port) as client:
        faults.set("email", Fault(kind=Kind.PERMANENT, times=1))
        with pytest.raises(aiosmtplib.SMTPRecipientsRefused) as refusal:
            await client.sendmail(SENDER, [READER], a_mail())
        assert [(inner.code, inner.message) for inner in refusal.value.recipients] == [(550, "5.1.1 No such user here")]
        faults.set("email", Fault(kind=Kind.TEMPORARY, stage="data", times=1))
        with pytest.raises(aiosmtplib.SMTPDataError) as not_now:
            await client.sendmail(SENDER, [READER], a_mail())
        assert not_now.value.code == 451


# The end


async def test_closing_waits_for_nobody(
    folder: Path, faults: Faults, clock: FrozenClock, tls: ssl.SSLContext, trust: ssl.SSLContext
) -> None:
    server = await smtp.start(folder, faults, clock=clock, tls=tls)
    callers = [await Caller.greeted(server) for _ in range(5)]
    quiet, in_data, in_handshake, encrypted, slow = callers
    await in_data.says(envelope() + b"Half of a")
    assert [(await in_data.hears())[:3] for _ in range(3)] == ["250", "250", "354"]
    assert (await in_handshake.asks(b"STARTTLS\r\n")).startswith("220 ")
    assert (await encrypted.asks(b"STARTTLS\r\n")).startswith("220 ")
    await encrypted.writer.start_tls(trust, server_hostname="127.0.0.1")
    faults.set("email", Fault(kind=Kind.DRIP, seconds=3600))
    await slow.says(envelope())
    assert (await slow.hears()).startswith("250 ")
    arriving = await Caller.at(server)
    async with asyncio.timeout(PATIENCE_S):
        await server.close()
    for caller in (quiet, in_data, in_handshake, encrypted, slow, arriving):
        with contextlib.suppress(ConnectionError):
            await caller.hears_the_rest()
        assert caller.reader.at_eof() or caller.reader.exception()
    assert list(received(folder)) == []


async def test_a_relay_takes_its_old_port_again_and_nobody_elses(
    folder: Path, faults: Faults, clock: FrozenClock
) -> None:
    first = await smtp.start(folder, faults, clock=clock)
    caller = await Caller.greeted(first)
    with pytest.raises(OSError, match="in use"):
        await smtp.start(folder, faults, clock=clock, port=first.port)
    await first.close()
    second = await smtp.start(folder, faults, clock=clock, port=first.port)
    assert second.port == first.port
    await caller.leaves()
    await second.close()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_it_is_the_same_on_every_event_loop(
    run: Callable[[Any], None],
    folder: Path,
    faults: Faults,
    clock: FrozenClock,
    tls: ssl.SSLContext,
    trust: ssl.SSLContext,
) -> None:
    async def story() -> None:
        server = await smtp.start(folder, faults, clock=clock, tls=tls, users=USERS)
        client = aiosmtplib.SMTP(hostname="127.0.0.1", port=server.port, start_tls=True, tls_context=trust)
        async with client:
            await client.login("ward", USERS["ward"])
            await client.sendmail(SENDER, [READER], a_mail(1))
            faults.set("email", Fault(kind=Kind.RESET, stage="rcpt", times=1))
            with pytest.raises(aiosmtplib.SMTPException):
                await client.sendmail(SENDER, [READER], a_mail(2))
        faults.set("email", Fault(kind=Kind.HANG))
        hanging = await Caller.at(server)
        async with asyncio.timeout(PATIENCE_S):
            await server.close()
        assert await hanging.hears_the_rest() == b""
        again = await smtp.start(folder, faults, clock=clock, port=server.port)
        await again.close()

    run(story())
    assert ids(folder) == ["<1@shinagawa.example.jp>"]


# Garbage


COMMANDS = b"EHLO,HELO x,MAIL FROM:,RCPT TO:,DATA,RSET,NOOP,VRFY,HELP,EXPN,AUTH,AUTH LOGIN,AUTH PLAIN,QUIT,STARTTLS"
PIECES = b'<a@b.example>,<>,<,>,",\\,(,@, ,\r\n,\r\n,\n,\r,.,\r\n.\r\n,*,=,SIZE=,BODY=,From: ,To: ,Date: x\r\n,Message-ID: <1@x>\r\n,:'
WORDS = st.sampled_from([*COMMANDS.split(b","), *PIECES.split(b","), envelope(), stuffed(a_mail()), b"x" * 1100])
GARBAGE = st.lists(st.one_of(st.binary(max_size=40), WORDS), max_size=25).map(b"".join)
MANY = examples(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@MANY
@given(garbage=GARBAGE, is_greeted=st.booleans(), is_rude=st.booleans())
async def test_whatever_a_caller_sends_the_next_one_is_served(
    relay: Server, garbage: bytes, is_greeted: bool, is_rude: bool
) -> None:
    with every_exception() as exceptions:
        caller = await (Caller.greeted(relay) if is_greeted else Caller.at(relay))
        await caller.says(garbage)
        if is_rude:
            caller.writer.get_extra_info("socket").setsockopt(*LINGER_NOT)
            caller.writer.transport.abort()
        else:
            caller.writer.write_eof()
            with contextlib.suppress(ConnectionError):
                await caller.hears_the_rest()
            await caller.leaves()
        following = await Caller.greeted(relay)
        assert (await following.sends(a_mail())).startswith("250 2.0.0 Ok: queued as ")
        await following.leaves()
    assert exceptions == []


@MANY
@given(head=st.lists(st.one_of(st.binary(max_size=40), WORDS), max_size=12).map(b"".join))
async def test_whatever_a_mail_holds_it_is_filed_or_refused(relay: Server, folder: Path, head: bytes) -> None:
    with every_exception() as exceptions:
        caller = await Caller.greeted(relay)
        mail = head.replace(b"\0", b"") + a_plain_mail()
        reply = await caller.sends(mail)
        assert reply[:3] in ("250", "550"), reply
        if reply.startswith("250"):
            [newest] = latest(folder, 1)
            assert newest.raw() == mail
            assert newest.recipient == READER
            assert newest.message_id
            assert isinstance(newest.subject, str)
        await caller.leaves()
    assert exceptions == []


@contextlib.contextmanager
def every_exception() -> Any:
    """What nobody caught."""
    loop, found = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _loop, context: found.append(context))
    yield found
    loop.set_exception_handler(None)


# What is not written down


async def test_no_address_and_no_password_is_ever_logged(
    guarded: Server,
    folder: Path,
    faults: Faults,
    trust: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})  # as some servers do at their start
    logging.getLogger("mail.log").setLevel(logging.DEBUG)
    client = aiosmtplib.SMTP(hostname="127.0.0.1", port=guarded.port, start_tls=True, tls_context=trust)
    async with client:
        await client.login("ward", USERS["ward"])
        await client.sendmail(SENDER, [READER], a_mail())
        (folder / "tmp").rename(folder / "away")
        with pytest.raises(aiosmtplib.SMTPDataError):
            await client.sendmail(SENDER, [READER], a_mail())
    caller = await Caller.greeted(guarded)
    await caller.says(f"{READER}\r\nAUTH LOGIN {USERS['ward']}\r\nVRFY {READER}\r\n<{READER}>\r\nQUIT\r\n".encode())
    await caller.hears_the_rest()
    printed = capfd.readouterr()
    written = caplog.text + printed.out + printed.err
    assert "rehearsal.mail_not_filed" in written
    assert "reader" not in written
    assert "shinagawa.example" not in written
    assert USERS["ward"] not in written
