"""What a channel is: the contract between the path of a message and a medium.

A *push* tells one message once: it is composed at issue, frozen, and delivered part by part. A *mailing* is a push with
readers of its own: its parts are words, and a line (one warm connection) carries them to one reader after another. A
*board* shows everything in force and is composed afresh each time, so a late attempt can never hide a newer alert.

`compose` is pure: the same messages give the same words, so they can be previewed and kept as golden files. The rest
touches the world, and ends in a `Receipt` or in one of the failures below. Waiting, trying again, order, logging and the
record belong to the pipeline.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, NamedTuple, Protocol, Self, runtime_checkable

from broadcaster.clock import Clock
from broadcaster.message import Image, Message, Mode
from broadcaster.ward import Ward
from broadcaster.words import Words

DRILL_MARK = "訓練"
"""Stands in every output of every drill, in every medium and language."""


class DeliveryFailure(Exception):
    """Its text is for staff: it names neither a secret nor a resident's address."""


class TemporaryFailure(DeliveryFailure):
    """Not now. `retry_at` when the medium said when."""

    def __init__(self, detail: str, *, retry_at: datetime | None = None) -> None:
        super().__init__(detail)
        self.retry_at = retry_at


class PermanentFailure(DeliveryFailure):
    """Never, for this one."""


class ChannelClosed(DeliveryFailure):
    """Nothing will go out here until a person acts: a credential refused, a quota used up."""


class OutcomeUnknown(DeliveryFailure):
    """It may have gone out. Look before repeating."""


@dataclass(frozen=True, kw_only=True)
class Payload:
    """One part of what a push says. `content` holds JSON values only and is frozen with the issue."""

    part: str
    content: Mapping[str, Any]
    omitted: tuple[str, ...] = ()  # what the medium could not carry, in words for staff
    after: str | None = None  # the part that must have been delivered before this one


@dataclass(frozen=True, kw_only=True)
class Page:
    """What a board shows at one address, as the bytes that will be served."""

    path: str  # below the public root: `feeds/all.rss`, `signage/S01.json`, `dial/current.txt`
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def etag(self) -> str:
        """Strong (RFC 9110 §8.8.1): equal bytes, equal tag, in every process."""
        return f'"{hashlib.sha256(self.body).hexdigest()[:32]}"'


class Receipt(NamedTuple):
    """Proof that something was taken: the medium's own id or answer."""

    evidence: str = ""
    detail: str = ""


class Letter(NamedTuple):
    """One reader's copy: `key` is the ledger row, and the same key gives the same Message-ID.

    A tuple, as the other values of which there is one for each mail: it is made ten times as fast as a frozen class."""

    key: int
    part: str
    address: str
    domain: str
    subscriber: int
    epoch: int
    issue: int
    is_drill: bool
    category: str


class Outcome(NamedTuple):
    """What became of one letter. `stage` is where it was said: MAIL, RCPT, DATA. With neither a receipt nor a failure it
    did not leave: it may go again at once, and that was no attempt."""

    receipt: Receipt | None = None
    failure: DeliveryFailure | None = None
    stage: str = ""

    @property
    def was_tried(self) -> bool:
        return self.receipt is not None or self.failure is not None


@dataclass(frozen=True, kw_only=True)
class Kit:
    """What `app.py` hands to a channel when it is built: everything it may know of the rest of the service.

    `options` is the channel's table in channels.toml with the table of its own mode merged in; in rehearsal the
    addresses of the stand-ins replace those of the world.
    """

    mode: Mode
    ward: Ward
    words: Words
    render: Callable[..., str]
    clock: Clock
    options: Mapping[str, Any]
    is_rehearsal: bool
    secret: Callable[[str], str | None]  # a secret by its name, that of the mode it is asked in
    picture: Callable[[str], bytes]  # the stored bytes of an image by its digest
    leave_link: Callable[[Letter], str]  # the address at which this reader leaves this category
    publish: Callable[[Page], None]  # put a board's page where the public reads it, atomically
    read_aloud: Callable[[str, str], str]  # a text and its language, as a voice should be given it
    went_out: Callable[[datetime], int]  # parts of this push delivered since an instant, by every sender; it blocks

    def address(self, path: str) -> str:
        """The public address of a page. Drills have a place of their own below `/drill/`."""
        place = "/drill" if self.mode is Mode.DRILL else ""
        return f"{self.ward.base_url}{place}/{path}"

    def picture_address(self, image: Image) -> str:
        ending = "png" if image.media_type == "image/png" else "jpg"
        return f"{self.ward.base_url}/media/{image.digest}.{ending}"


class Channel(Protocol):
    """Every channel."""

    name: ClassVar[str]

    @property
    def mode(self) -> Mode:
        """The place its credentials belong to; the pipeline refuses any other."""
        ...

    @classmethod
    def built(cls, kit: Kit) -> Self:
        """The channel as configured. Never fails for a lack of configuration: `missing` says what is lacking."""
        ...

    def missing(self) -> Sequence[str]:
        """Sentences, in Japanese, that say what the configuration still lacks. Empty means ready."""
        ...

    async def close(self) -> None:
        """Let go of what was opened."""
        ...


@runtime_checkable
class Push(Channel, Protocol):
    def compose(self, message: Message) -> Sequence[Payload]:
        """What this medium will say. Raises nothing for a valid message: what does not fit is `omitted`."""
        ...

    async def deliver(self, payload: Payload, *, key: str, previous: Receipt | None) -> Receipt:
        """Send one part. `key` recognises a second attempt; `previous` is the receipt of `payload.after`."""
        ...

    async def find(self, payload: Payload, *, key: str, previous: Receipt | None) -> Receipt | None:
        """Look whether it went out after all. Raises OutcomeUnknown where the medium cannot be asked."""
        ...

    async def retract(self, receipt: Receipt) -> Receipt:
        """Take it back. Raises PermanentFailure where the medium cannot."""
        ...


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """How much of a day's posts is used up, and how many of them are kept for emergencies."""

    used: int
    most: int
    kept: int

    @property
    def for_routine(self) -> int:
        """How many routine ones may still go today."""
        return max(self.most - self.kept - self.used, 0)

    @property
    def is_low(self) -> bool:
        """A tenth of the day or less is left for what is routine: somebody should think of what still has to go."""
        return self.for_routine * 10 <= self.most


@runtime_checkable
class Rationed(Protocol):
    """A channel that may send only so much a day."""

    def allowance(self, now: datetime) -> Allowance | None:
        """Of the day of this instant, as the ledger counts it; None where no limit is agreed. It blocks."""
        ...


class Line(Protocol):
    """One warm connection. It asks for the next letter only when it can carry it at once."""

    async def carry(self, take: Callable[[], Letter | None], settle: Callable[[Letter, Outcome], None]) -> None:
        """Take letters and settle each, until `take` gives None. Raises only when the line itself is lost;
        every letter taken has been settled by then."""
        ...

    async def close(self) -> None: ...


@runtime_checkable
class Mailing(Channel, Protocol):
    """A push with readers. `compose` gives one part for each kind of reader: `ja.text`, `en.html` …"""

    lines: int

    def compose(self, message: Message) -> Sequence[Payload]: ...

    def load(self, issue: int, payload: Payload) -> None:
        """Make the words of one part ready to be spliced for each reader."""
        ...

    def unload(self, issue: int) -> None: ...

    async def open(self) -> Line:
        """A warm line. Raises TemporaryFailure or ChannelClosed."""
        ...


@runtime_checkable
class Tells(Channel, Protocol):
    """A channel that can also tell one person of the staff something, beside everything that goes to the public."""

    async def tell(self, to: str, subject: str, body: str, *, key: str) -> None:
        """One plain mail; `key` makes its Message-ID, so that a repeat is known as one. Raises TemporaryFailure,
        ChannelClosed or PermanentFailure."""
        ...


@runtime_checkable
class Board(Channel, Protocol):
    shows_all: ClassVar[bool]  # shows every message in force, whether or not it names this channel

    def compose(self, in_force: Sequence[Message], at: datetime) -> Sequence[Page]:
        """Everything this board shows at that instant. The order of `in_force` does not matter, and messages that
        name other channels or are no longer in force are passed over by the caller."""
        ...

    async def deliver(self, page: Page) -> Receipt:
        """Put one page where the public reads it. The receipt's evidence is the page's tag."""
        ...


@dataclass(frozen=True, kw_only=True)
class Remark:
    """Something staff should see before sending."""

    channel: str
    part: str
    sentence: str


def omissions(channel: str, payloads: Sequence[Payload]) -> list[Remark]:
    return [
        Remark(channel=channel, part=payload.part, sentence=sentence)
        for payload in payloads
        for sentence in payload.omitted
    ]
