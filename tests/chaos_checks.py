"""What must be true when a run of the crash matrix is over. Each check gives sentences; none means that it holds."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import select

from broadcaster import boards
from broadcaster.channel import Board
from broadcaster.delivery import State
from broadcaster.message import Change, Mode
from broadcaster.rehearsal import smtp
from broadcaster.rehearsal import town as standins
from broadcaster.store import audit, deliveries, issues, plans, recipients, tables
from broadcaster.store.deliveries import BOARD, MAILING, PUSH, RETRACT, Delivery
from broadcaster.store.issues import Issue
from tests.chaos_run import MOST_REPEATS, TAKEN_UP, Run


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Everything that the database says at the end."""

    issues: Sequence[Issue]
    deliveries: Sequence[Delivery]
    letters: Mapping[int, Mapping[int, State]]  # by delivery, by subscriber
    settled_at: Mapping[tuple[int, int], datetime]

    @classmethod
    def of(cls, run: Run) -> Ledger:
        with run.town.app.database.read() as connection:
            ids = connection.execute(select(tables.issues.c.id).order_by(tables.issues.c.id)).scalars().all()
            found = [issues.by_id(connection, id) for id in ids]
            rows = [delivery for id in ids for delivery in deliveries.of_issue(connection, id)]
            r = tables.recipients.c
            letters: dict[int, dict[int, State]] = {row.id: {} for row in rows}
            settled: dict[tuple[int, int], datetime] = {}
            for letter in connection.execute(select(r.delivery_id, r.subscriber_id, r.state, r.settled_at)):
                letters[letter.delivery_id][letter.subscriber_id] = State(letter.state)
                settled[letter.delivery_id, letter.subscriber_id] = letter.settled_at
        return cls(issues=found, deliveries=rows, letters=letters, settled_at=settled)

    def mailings_of(self, issue: Issue) -> list[Delivery]:
        return [row for row in self.deliveries if row.issue_id == issue.id and row.kind == MAILING]

    def states(self, issue: Issue) -> dict[int, State]:
        """Each reader's letter of this issue."""
        return {s: state for row in self.mailings_of(issue) for s, state in self.letters[row.id].items()}


HAS_IT = (State.DELIVERED, State.UNKNOWN)


def wrong_with_the_ledger(run: Run, ledger: Ledger) -> Iterator[str]:
    if len(run.identifiers()) != run.issued:
        yield f"{run.issued} messages were handed in, {run.identifiers()} are known"
    if open_ones := run.unsettled():
        yield f"not settled: {open_ones}"
    with run.town.app.database.read() as connection:
        if (fault := audit.first_fault(connection)) is not None:
            yield f"the audit chain breaks at {fault}"
        for row in ledger.deliveries:
            if row.kind != MAILING:
                continue
            rows, counts = recipients.counted(connection, row.id), row.counts
            if counts != rows or not counts.adds_up or counts.settled != counts.total:
                yield f"{row.key}: counted {counts}, rows {rows}"
        p = tables.plans.c
        sent = Counter(
            connection.execute(select(p.message_id).where(p.kind == plans.ISSUE, p.state == "done")).scalars()
        )
        if any(times != 1 for times in sent.values()):
            yield f"a plan was carried out more than once: {sent}"


def wrong_with_the_mail(run: Run, ledger: Ledger) -> Iterator[str]:
    copies = copies_of(run)
    known: set[tuple[str, int]] = set()
    for issue in ledger.issues:
        states = ledger.states(issue)
        known |= {(issue.message.identifier, subscriber) for subscriber in states}
        arrived = {subscriber for identifier, subscriber in copies if identifier == issue.message.identifier}
        lost = {s for s, state in states.items() if state is State.DELIVERED} - arrived
        if lost:
            yield f"{issue.message.identifier}: {len(lost)} letters count as delivered and never arrived"
        untold = {s for s in arrived if states.get(s) not in HAS_IT}
        if untold:
            yield f"{issue.message.identifier}: {len(untold)} readers have it and the ledger says {_said_of(untold, states)}"
        yield from _wrong_with_the_readers(run, ledger, issue, states)
    if strangers := set(copies) - known:
        yield f"{len(strangers)} letters arrived that the ledger does not know"


def _said_of(readers: Collection[int], states: Mapping[int, State]) -> str:
    return ", ".join(sorted({states[s].name.lower() if s in states else "nothing" for s in readers}))


def _wrong_with_the_readers(run: Run, ledger: Ledger, issue: Issue, states: Mapping[int, State]) -> Iterator[str]:
    """Nobody left out, nobody told what does not concern them."""
    if not ledger.mailings_of(issue):
        return
    if not issue.message.references:
        if len(states) != run.readers:
            yield f"{issue.message.identifier}: {len(states)} of {run.readers} readers stand in the ledger"
        ends = set(states.values())
        if issue.ended_at is None and ends != {State.DELIVERED}:
            yield f"{issue.message.identifier}: not everybody got it, but {sorted(end.name.lower() for end in ends)}"
        return
    earlier = [i for i in ledger.issues if i.message.identifier in {r.identifier for r in issue.message.references}]
    having = {s for i in earlier for s, state in ledger.states(i).items() if state in HAS_IT}
    if having != set(states):
        yield f"{issue.message.identifier}: {len(having)} have what it takes back, {len(states)} are told"


def copies_of(run: Run) -> Counter[tuple[str, int]]:
    """How often each reader's letter of each issue arrived, by its Message-ID."""
    copies: Counter[tuple[str, int]] = Counter()
    for mail in smtp.received(standins.mail_folder(run.town.home)):
        identifier, _, subscriber = mail.message_id.strip("<>").partition("@")[0].rpartition(".")
        copies[identifier, int(subscriber, 16)] += 1
    return copies


def repeats(run: Run) -> int:
    return sum(n - 1 for n in copies_of(run).values())


def wrong_with_the_posts(run: Run, ledger: Ledger) -> Iterator[str]:
    file = standins.x_folder(run.town.home) / "posts.json"
    posts = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    pushes = [row for row in ledger.deliveries if row.kind == PUSH]
    delivered = [row for row in pushes if row.state is State.DELIVERED]
    if len(posts) != len(delivered) or {post["id"] for post in posts} != {row.evidence for row in delivered}:
        yield f"{len(posts)} posts at X, {len(delivered)} in the ledger"
    cancelled = {
        reference.identifier
        for issue in ledger.issues
        if issue.message.change is Change.CANCEL
        for reference in issue.message.references
    }
    by_id = {issue.id: issue for issue in ledger.issues}
    standing = {post["id"] for post in posts if post["deleted_at"] is None}
    for row in pushes:
        is_cancelled = by_id[row.issue_id].message.identifier in cancelled
        if is_cancelled and row.evidence in standing:
            yield f"{row.key} was cancelled, and its post stands"
        if not is_cancelled and row.state is not State.DELIVERED:
            yield f"{row.key} ended as {row.state.name.lower()}: {row.detail}"
    for row in ledger.deliveries:
        if row.kind == RETRACT and row.state is not State.DELIVERED:
            yield f"{row.key} ended as {row.state.name.lower()}: {row.detail}"


class Watch:
    """Somebody who reads the public files all the time, as nginx does for its readers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[Path, tuple[int, int, int]] = {}
        self.seen: dict[str, set[bytes]] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._reads)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _reads(self) -> None:
        while not self._over.wait(0.1):
            self.look()

    def look(self) -> None:
        for path in self._folder.rglob("*"):
            try:
                status = path.stat()
                version = (status.st_ino, status.st_mtime_ns, status.st_size)
                if path.name.startswith(".") or not path.is_file() or self._known.get(path) == version:
                    continue
                body = path.read_bytes()
            except FileNotFoundError:
                continue  # a new file on its way to its place
            self._known[path] = version
            self.seen.setdefault(path.relative_to(self._folder).as_posix(), set()).add(body)


def wrong_with_the_boards(run: Run, ledger: Ledger, watch: Watch) -> Iterator[str]:
    folder = boards.public_folder(run.town.home, Mode.LIVE)
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("[!.]*") if path.is_file()}
    asked_for = {row.channel for row in ledger.deliveries if row.kind == BOARD}
    final = _composed(run, ledger.issues, asked_for)
    stale = sorted(path for path in written if (folder / path).read_bytes() != final.get(path))
    if stale:
        yield f"{len(stale)} public files are not what a fresh composition gives: {stale[:3]}"
    if missing := sorted(set(final) - written):
        yield f"{len(missing)} pages are missing: {missing[:3]}"
    moments = [_composed(run, ledger.issues[:n], asked_for) for n in range(len(ledger.issues) + 1)]
    torn = sorted(
        path for path, bodies in watch.seen.items() if bodies - {moment[path] for moment in moments if path in moment}
    )
    if torn:
        yield f"{len(torn)} public files held something that no board ever was: {torn[:3]}"


def _composed(run: Run, issued: Sequence[Issue], named: Collection[str]) -> dict[str, bytes]:
    """Every page of these boards when so much had been issued."""
    replaced = {reference.identifier for issue in issued for reference in issue.message.references}
    in_force = [issue.message for issue in issued if issue.message.identifier not in replaced]
    channels = run.town.app.pipeline.channels[Mode.LIVE]
    now = run.town.app.clock.now()
    return {
        page.path: page.body
        for board in map(channels.__getitem__, named)
        if isinstance(board, Board)
        for page in boards.pages_of(board, in_force, now)
    }


def taken_up_after(run: Run, ledger: Ledger) -> timedelta:
    """The longest time from a dead sender's last sign of life until its successor had its work, by the ledger's times:
    a delivery's next attempt began, the first of the letters it held was settled."""
    longest = timedelta()
    for place, death in enumerate(run.deaths):
        later = {letter for other in run.deaths[place + 1 :] for letter in other.letters}
        instants = [_next_attempt_at(run, id, death.last_sign_at) for id in death.deliveries]
        if first := [at for at in map(ledger.settled_at.get, set(death.letters) - later) if at is not None]:
            instants.append(min(first))
        longest = max([longest, *(at - death.last_sign_at for at in instants if at is not None)])
    return longest


def _next_attempt_at(run: Run, delivery_id: int, since: datetime) -> datetime | None:
    with run.town.app.database.read() as connection:
        began = (attempt.began_at for attempt in deliveries.attempts_of(connection, delivery_id))
        return min((at for at in began if at > since), default=None)


def everything_wrong(run: Run, ledger: Ledger, watch: Watch) -> Iterator[str]:
    yield from wrong_with_the_ledger(run, ledger)
    yield from wrong_with_the_mail(run, ledger)
    yield from wrong_with_the_posts(run, ledger)
    yield from wrong_with_the_boards(run, ledger, watch)
    if (again := repeats(run)) > run.kills["sender"] * MOST_REPEATS:
        yield f"{again} repeats after {run.kills['sender']} killed senders"
    if run.must_be_taken_up and not timedelta() < (after := taken_up_after(run, ledger)) <= TAKEN_UP:
        yield f"taken up after {after}"
