"""Letter after letter over one SMTP session that somebody else has opened.

The client library connects, encrypts and signs in; then this takes over its transport, because a library that awaits
every reply needs four round trips a mail. With PIPELINING (RFC 2920) the body of one letter and the envelope of the next
go out in one write, and a mail costs one round trip. A server without it is asked step by step.

    MAIL RCPT DATA →            ← 250 250 354
    body . MAIL RCPT DATA →     ← 250 (that letter is taken)  250 250 354
    body . MAIL RCPT DATA →     …

So at most two letters are in hand: one whose body is on the wire, and one whose envelope is. Only the first can have an
unknown outcome. When the server falls silent, the second is given back at once, so that a domain that hangs holds up
nobody else's letter.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from broadcaster.channel import (
    ChannelClosed,
    DeliveryFailure,
    Letter,
    Outcome,
    OutcomeUnknown,
    PermanentFailure,
    Receipt,
    TemporaryFailure,
)

NOT_TRIED = Outcome()

MOST_REPLY = 16_384
"""Bytes of one reply; more is no mail server."""


class Mail(NamedTuple):
    """A letter as it goes out: the envelope's recipient, and the bytes."""

    recipient: str
    content: bytes


class Reply(NamedTuple):
    code: int
    text: str

    @property
    def is_good(self) -> bool:
        return self.code // 100 == 2

    def failure(self) -> DeliveryFailure:
        if self.code // 100 == 5:
            return PermanentFailure(self.text)
        return TemporaryFailure(self.text)


@dataclass(slots=True, eq=False)
class _Job:
    letter: Letter
    mail: Mail
    refusal: Outcome | None = None
    body_left: bool = False


_Step = Callable[[_Job, Reply], None]


class Session(asyncio.Protocol):
    """One open session. `carry` may be called again and again until `is_open` is False."""

    def __init__(
        self,
        transport: asyncio.Transport,
        *,
        sender: str,
        write: Callable[[Letter], Mail],
        pipelining: bool,
        timeout_s: float,
        silent_s: float,
        most_for: Mapping[str, int],
    ) -> None:
        self._transport = transport
        self._mail = f"MAIL FROM:<{sender}>\r\n".encode()
        self._write = write
        self._pipelining = pipelining
        self._timeout_s, self._silent_s = timeout_s, silent_s
        self._most_for = most_for
        self._expected: deque[tuple[_Step, _Job]] = deque()
        self._turn: tuple[_Job, _Job] | None = None  # a body and the envelope behind it are all that is expected
        self._buffer = b""
        self._reply_lines: list[str] = []
        self._carried_for: dict[str, int] = {}
        self._has_carried = False
        self._needs_reset = False
        self._is_ending = False  # no further letter by this session
        self._heard_at = 0.0
        self._lost: DeliveryFailure | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._over: asyncio.Future[bool] | None = None
        self._loop = asyncio.get_running_loop()
        transport.set_protocol(self)

    @property
    def is_open(self) -> bool:
        return self._lost is None and not self._is_ending and not self._transport.is_closing()

    async def carry(self, take: Callable[[], Letter | None], settle: Callable[[Letter, Outcome], None]) -> bool:
        """Take letters and settle each. True when `take` gave none, False when another session should go on.

        Raises DeliveryFailure when the session is lost; every letter taken has been settled by then."""
        self._take, self._settle = take, settle
        self._over = self._loop.create_future()
        self._heard_at = self._loop.time()
        self._watch = self._loop.call_later(self._silent_s / 2, self._looks)
        try:
            self._begin()
            return await self._over
        finally:
            self._watch.cancel()
            self._over = None
            if self._expected:  # cancelled in the middle
                self._end(TemporaryFailure("送信を途中でやめました。"))

    def close(self) -> None:
        if self._lost is None and not self._transport.is_closing():
            self._transport.write(b"QUIT\r\n")
        self._transport.close()

    # Out

    def _begin(self) -> None:
        """Start on the next letter; with none, this round of carrying is over."""
        if not self._send(b""):
            self._finish(is_done=not self._is_ending)

    def _send(self, before: bytes) -> bool:
        """Write `before` and, behind it, the envelope of the next letter. False when there was no next letter."""
        job = None if self._is_ending else self._next_job()
        if job is None:
            if before:
                self._transport.write(before)
            return False
        if before and not self._needs_reset:
            self._turn = self._expected[-1][1], job
        if not self._expected:
            self._heard_at = self._loop.time()
        if self._needs_reset:
            before += b"RSET\r\n"
            self._expected.append((self._after_reset, job))
            self._needs_reset = False
        self._transport.write(before + self._envelope(job))
        return True

    def _next_job(self) -> _Job | None:
        while (letter := self._take()) is not None:
            try:
                return _Job(letter=letter, mail=self._write(letter))
            except DeliveryFailure as failure:
                self._settle(letter, Outcome(failure=failure))
        return None

    def _envelope(self, job: _Job) -> bytes:
        mail = self._mail
        self._expected.append((self._after_mail, job))
        if not self._pipelining:
            return mail
        self._expected.append((self._after_rcpt, job))
        self._expected.append((self._after_data, job))
        return mail + _rcpt(job) + b"DATA\r\n"

    # In

    def data_received(self, data: bytes) -> None:
        if self._turn is not None and not self._buffer and (taken := _all_well(data)) is not None:
            self._turned(*self._turn, taken)
            return
        self._turn = None
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        if len(self._buffer) > MOST_REPLY or len(self._reply_lines) > MOST_REPLY // 80:
            self._end(TemporaryFailure("中継の返事が長すぎます。メールの中継かどうか、設定を確かめてください。"))
            return
        for line in lines:
            if self._lost is not None:
                return
            self._line_received(line.rstrip(b"\r"))

    def _turned(self, taken: _Job, job: _Job, said: str) -> None:
        """The four replies that a letter costs came together and were good: no need to look at each."""
        self._turn = None
        self._heard_at = self._loop.time()
        self._has_carried = True
        self._expected.clear()
        if "@" in said:
            said = self._masked(taken, Reply(250, said)).text
        self._settle(taken.letter, Outcome(Receipt(said), None, "DATA"))
        self._send_body(job)

    def _line_received(self, line: bytes) -> None:
        if not line[:3].isdigit():
            self._end(TemporaryFailure("中継の返事を読めません。メールの中継かどうか、設定を確かめてください。"))
            return
        self._reply_lines.append(line.decode("utf-8", "replace"))
        if line[3:4] == b"-":
            return
        reply = Reply(int(line[:3]), " ".join(self._reply_lines))
        self._reply_lines = []
        self._heard_at = self._loop.time()  # a whole reply: a server that drips letters is silent
        if reply.code == 421:
            self._closed_by_server(reply)
        elif self._expected:
            step, job = self._expected.popleft()
            step(job, reply)

    def _after_reset(self, job: _Job, reply: Reply) -> None:
        """Whatever it says: the envelope that follows will show whether the session is of use."""

    def _after_mail(self, job: _Job, reply: Reply) -> None:
        if reply.code // 100 == 5:
            self._expected.appendleft((self._after_mail, job))  # in hand still, and to be settled with the others
            self._end(
                ChannelClosed(f"中継が差出人のアドレスを断りました（{reply.code}）。設定の from を確かめてください。")
            )
            return
        if not reply.is_good:
            job.refusal = Outcome(failure=reply.failure(), stage="MAIL")
        if not self._pipelining:
            self._ask(job, _rcpt(job), self._after_rcpt)

    def _after_rcpt(self, job: _Job, reply: Reply) -> None:
        if not reply.is_good and job.refusal is None:
            job.refusal = Outcome(failure=self._masked(job, reply).failure(), stage="RCPT")
        if not self._pipelining:
            self._ask(job, b"DATA\r\n", self._after_data)

    def _ask(self, job: _Job, command: bytes, then: _Step) -> None:
        """The next step of a server without PIPELINING; what was refused goes no further."""
        if job.refusal is not None:
            self._refused(job)
            return
        self._transport.write(command)
        self._expected.append((then, job))

    def _after_data(self, job: _Job, reply: Reply) -> None:
        if job.refusal is None and reply.code != 354:
            job.refusal = Outcome(failure=self._masked(job, reply).failure(), stage="DATA")
        if job.refusal is None:
            self._send_body(job)
        elif reply.code == 354:  # RFC 2920 §3.1: nobody to deliver to, but it waits for a text
            self._transport.write(b".\r\n")
            self._expected.append((self._after_nothing, job))
        else:
            self._refused(job)

    def _send_body(self, job: _Job) -> None:
        job.body_left = True
        self._expected.append((self._after_body, job))
        if self._most_for:
            self._count(job)
        body = job.mail.content + b".\r\n"
        if self._pipelining:
            self._send(body)
        else:
            self._transport.write(body)

    def _count(self, job: _Job) -> None:
        """Some domains take only so many letters in one session; then another one goes on."""
        most = self._most_for.get(job.letter.domain)
        if most is not None:
            carried = self._carried_for[job.letter.domain] = self._carried_for.get(job.letter.domain, 0) + 1
            self._is_ending = self._is_ending or carried >= most

    def _after_nothing(self, job: _Job, reply: Reply) -> None:
        self._refused(job)

    def _refused(self, job: _Job) -> None:
        assert job.refusal is not None
        self._needs_reset = True  # the half transaction would refuse the next MAIL
        self._settle(job.letter, job.refusal)
        self._begin()

    def _after_body(self, job: _Job, reply: Reply) -> None:
        reply = self._masked(job, reply)
        if reply.is_good:
            self._has_carried = True
            self._settle(job.letter, Outcome(receipt=Receipt(evidence=reply.text), stage="DATA"))
        else:
            self._settle(job.letter, Outcome(failure=reply.failure(), stage="DATA"))
        if not self._expected:
            self._begin()

    def _masked(self, job: _Job, reply: Reply) -> Reply:
        """Servers like to repeat the address, often in small letters; the record of a reader holds no address."""
        if "@" not in reply.text:
            return reply
        address = f"{re.escape(job.mail.recipient)}|{re.escape(job.letter.address)}"
        return Reply(reply.code, re.sub(address, "…", reply.text, flags=re.IGNORECASE))

    # Ends

    def _finish(self, *, is_done: bool) -> None:
        if self._is_ending:
            self.close()
        if self._over is not None and not self._over.done():
            self._over.set_result(is_done)

    def _closed_by_server(self, reply: Reply) -> None:
        self._end(TemporaryFailure(f"中継が接続を終えました（{reply.code}）。"), answered=True)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(TemporaryFailure("中継との接続が切れました。"))

    def _end(self, why: DeliveryFailure, *, answered: bool = False) -> None:
        """The session is over. Whose body had left and was not `answered` is unknown; of the others the first is to
        blame when this session never carried anything, else nobody: it goes again at once."""
        if self._lost is not None:
            return
        self._lost = why
        jobs = list(dict.fromkeys(job for _, job in self._expected))
        self._expected.clear()
        for place, job in enumerate(jobs):
            self._settle(job.letter, self._outcome_at_end(job, why, is_first=place == 0, answered=answered))
        self._transport.abort()
        if self._over is not None and not self._over.done():
            self._over.set_exception(why)

    def _outcome_at_end(self, job: _Job, why: DeliveryFailure, *, is_first: bool, answered: bool) -> Outcome:
        if job.body_left and not (answered and is_first):
            return Outcome(failure=OutcomeUnknown("本文を渡したあと、返事がありませんでした。"), stage="DATA")
        if job.body_left:
            return Outcome(failure=TemporaryFailure(str(why)), stage="DATA")
        if job.refusal is not None:
            return job.refusal
        if is_first and not self._has_carried and not isinstance(why, ChannelClosed):
            return Outcome(failure=TemporaryFailure(str(why)), stage="RCPT")
        return NOT_TRIED

    def _looks(self) -> None:
        """Every half a silence: is the server still there?"""
        self._watch = self._loop.call_later(self._silent_s / 2, self._looks)
        if not self._expected:
            return
        silent_for = self._loop.time() - self._heard_at
        if silent_for >= self._timeout_s:
            self._end(TemporaryFailure(f"中継が {self._timeout_s:.0f} 秒、返事をしませんでした。"))
        elif silent_for >= self._silent_s:
            self._give_back()

    def _give_back(self) -> None:
        """The letter behind the one that waits: its body has not left, so another line may carry it."""
        first = self._expected[0][1]
        behind = next((job for _, job in self._expected if job is not first), None)
        if behind is None:
            return
        self._is_ending = True  # its envelope is on the wire here: this session cannot go on
        self._turn = None
        self._expected = deque((step, job) for step, job in self._expected if job is not behind)
        self._settle(behind.letter, NOT_TRIED)


def _all_well(data: bytes) -> str | None:
    """What was said of the body, if these are its reply and those to MAIL, RCPT and DATA behind it, whole and good."""
    lines = data.split(b"\r\n")
    if len(lines) == 5 and not lines[4] and lines[3].startswith(b"354 "):
        body, mail, rcpt, _, _ = lines
        if body.startswith(b"250 ") and mail.startswith(b"250 ") and rcpt.startswith(b"250 "):
            return body.decode("utf-8", "replace")
    return None


def _rcpt(job: _Job) -> bytes:
    return f"RCPT TO:<{job.mail.recipient}>\r\n".encode()
