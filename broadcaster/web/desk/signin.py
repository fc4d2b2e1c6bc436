"""Signing in and out, the first time by an invitation, and showing a second factor again.

The same words and the same work for somebody who does not exist and for a wrong password. Wrong tries cost pauses, by
name and by address, asked for before anything is hashed; they never lock for good: that would be a way to silence the
duty officer.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from datetime import timedelta

import structlog
from starlette.responses import Response

from broadcaster import credentials
from broadcaster.credentials import fingerprint, new_secret
from broadcaster.problems import Problem
from broadcaster.roles import Right
from broadcaster.store import audit, people, sessions
from broadcaster.store.audit import Actor
from broadcaster.store.people import Person
from broadcaster.web.desk.visit import PATH, SIGN_IN, Desk, NotThere, Visit, back_to

log = structlog.get_logger(__name__)

PROOF_LASTS = timedelta(minutes=5)
"""So long a second factor that was shown is good for what needs one."""

LONGEST_PROOF_PAUSE = timedelta(seconds=30)
"""After wrong codes in an open session: whoever guesses gets nowhere, and an officer who mistyped still sends."""

MOST_FROM_ONE_ADDRESS = 20
PER_S = 60.0
"""The ward office is one address for all of its rooms."""

INVITE, INVITE_LASTS = people.INVITE, people.INVITE_LASTS


def register(desk: Desk) -> None:
    pages = SignIn(desk)
    desk.get("/sign-in", None, pages.show)
    desk.post("/sign-in", None, pages.enter)
    desk.post("/sign-in/as", None, pages.enter_as_sample)
    desk.get("/invite/{token}", None, pages.show_invitation)
    desk.post("/invite/{token}", None, pages.accept_invitation)
    desk.post("/sign-out", Right.READ, pages.leave)
    desk.get("/resume", Right.READ, pages.resume)


class SignIn:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.app = desk.app
        self._tries = Tries(MOST_FROM_ONE_ADDRESS, PER_S)

    def show(self, visit: Visit) -> Response:
        if visit.session is not None and visit.session.ends_at > visit.now:
            return visit.go(back_to(visit.query("back")))
        return self._form(visit)

    def _form(self, visit: Visit, *, status: int = 200, problems: tuple[Problem, ...] = ()) -> Response:
        visit.session = None  # a session that is over shows no navigation
        return visit.page(
            "desk/sign-in.html",
            status=status,
            problems=problems,
            back=visit.field("back") or visit.query("back"),
            ticket=visit.field("ticket") or visit.query("ticket"),
            is_over=bool(visit.query("over")),
            name=visit.field("name"),
            samples=self._samples(),
            sign_on=self.app.settings.sign_on,
        )

    def _samples(self) -> list[Person]:
        if not self.app.settings.is_rehearsal:
            return []
        with self.app.database.read() as connection:
            everybody = sorted(people.everybody(connection), key=lambda person: person.id)
            return [person for person in everybody if person.is_sample and person.state == people.ACTIVE]

    def enter(self, visit: Visit) -> Response:
        if (wait_s := self._tries.wait_s(_address(visit))) > 0:
            return self._wait(visit, wait_s)
        name = visit.field("name").strip().lower()
        with self.app.database.read() as connection:
            person = people.by_name(connection, name) if name.isprintable() and len(name) <= 32 else None
        if person is not None and person.failed_at is not None:
            pause = person.failed_at + people.pause_after(person) - visit.now
            if pause > timedelta(0):
                return self._wait(visit, pause.total_seconds())
        if not self._is_let_in(visit, person):
            self._failed(visit, person)
            return self.refuse(visit)
        assert person is not None
        return self.begin(visit, person)

    def refuse(self, visit: Visit) -> Response:
        """The same words whatever was wrong."""
        return self._form(visit, status=403, problems=(visit.problem("name", "errors.sign_in_failed"),))

    def _wait(self, visit: Visit, wait_s: float) -> Response:
        problem = visit.problem("name", "errors.slow_down", s=int(wait_s) + 1)
        return self._form(visit, status=429, problems=(problem,))

    def _is_let_in(self, visit: Visit, person: Person | None) -> bool:
        hashed = person.password if person is not None and person.state == people.ACTIVE else ""
        is_right = credentials.is_password(visit.field("password"), hashed)
        return is_right and person is not None and self.proves(person, visit)

    def knows(self, visit: Visit, person: Person, password: str) -> bool:
        """The same for somebody who is in already; wrong tries cost the same pauses."""
        pause = people.pause_after(person)
        if person.failed_at is not None and person.failed_at + pause > visit.now:
            return False
        if credentials.is_password(password, person.password) and self.proves(person, visit):
            return True
        self._failed(visit, person)
        return False

    def proves(self, person: Person, visit: Visit) -> bool:
        """Whether the code that was sent is this person's: of the moment, or one to recover by. Each is good once."""
        code = visit.field("code").strip()
        opened = self.app.keyring.unseal("totp", person.totp)
        if opened is None or not code:
            return False
        with self.app.database.write() as connection:
            if "-" in code:
                return people.use_recovery_code(connection, person.id, fingerprint(code))
            step = credentials.used_step(opened.decode(), code, visit.now, after=person.totp_step)
            return step is not None and people.use_step(connection, person.id, step)

    def _failed(self, visit: Visit, person: Person | None) -> None:
        self._tries.count(_address(visit))
        log.warning("desk.sign_in_failed", kind="known" if person is not None else "unknown")
        if person is not None:
            with self.app.database.write() as connection:
                people.failed(connection, person.id, visit.now)

    def begin(self, visit: Visit, person: Person, *, back: str = "", ticket: str = "") -> Response:
        """A session for somebody who has shown who they are, by whatever way; then to where they wanted to go."""
        cookie = new_secret()
        with self.app.database.write() as connection:
            people.succeeded(connection, person.id)
            sessions.sweep(connection, visit.now)
            sessions.begin(
                connection,
                person,
                hash=fingerprint(cookie),
                csrf=new_secret(),
                now=visit.now,
                agent=visit.request.headers.get("user-agent", ""),
            )
            audit.write(connection, Actor(name=person.name, via="desk"), "person.signed_in", person.name, at=visit.now)
        ticket = ticket or visit.field("ticket")
        goes_on = ticket.isascii() and ticket.replace("-", "").replace("_", "").isalnum()
        response = visit.go(f"{PATH}/resume?ticket={ticket}" if goes_on else back_to(back or visit.field("back")))
        response.set_cookie(
            self.desk.cookie, cookie, secure=self.desk.is_secure, httponly=True, samesite="lax", path="/"
        )
        return response

    def enter_as_sample(self, visit: Visit) -> Response:
        """In a rehearsal nobody needs a password to try it; a live installation refuses its sample people."""
        if not self.app.settings.is_rehearsal:
            raise NotThere
        person = next((one for one in self._samples() if one.name == visit.field("name")), None)
        if person is None:
            raise NotThere
        return self.begin(visit, person)

    def leave(self, visit: Visit) -> Response:
        assert visit.session is not None
        with self.app.database.write() as connection:
            sessions.end(connection, visit.session.hash)
        response = visit.go(SIGN_IN)
        response.delete_cookie(self.desk.cookie, path="/", secure=self.desk.is_secure, httponly=True, samesite="lax")
        return response

    # What was sent after the end

    def resume(self, visit: Visit) -> Response:
        """Shows what was sent when the session was over, and asks; nothing has been carried out."""
        with self.app.database.write() as connection:
            ticket = sessions.take_ticket(connection, fingerprint(visit.query("ticket")), visit.person.name, visit.now)
        if ticket is None:
            return visit.go(PATH)
        return visit.page("desk/resume.html", path=ticket.path, fields=self.desk.fields_of(ticket.fields))

    # The first time

    def show_invitation(self, visit: Visit) -> Response:
        return self._invitation(visit, self._invited(visit), seed=credentials.new_seed())

    def _invited(self, visit: Visit) -> Person:
        with self.app.database.read() as connection:
            person = people.of_link(connection, fingerprint(visit.path("token")), INVITE, visit.now)
        if person is None:
            visit.session = None
            visit.stop("desk/says.html", status=404, what="old_link")
        return person

    def _invitation(self, visit: Visit, person: Person, *, seed: str, problems: tuple[Problem, ...] = ()) -> Response:
        visit.session = None
        address = credentials.seed_address(seed, name=person.name, issuer=self.app.settings.ward.name)
        return visit.page(
            "desk/invite.html",
            status=422 if problems else 200,
            problems=problems,
            invited=person,
            seed=seed,
            sealed=self.app.keyring.seal("seed", seed.encode()),
            picture=credentials.seed_picture(address),
        )

    def accept_invitation(self, visit: Visit) -> Response:
        person = self._invited(visit)
        opened = self.app.keyring.unseal("seed", visit.field("seed"))
        seed = opened.decode() if opened else credentials.new_seed()
        problems = list(credentials.password_problems(visit.field("password"), name=person.name))
        step = credentials.used_step(seed, visit.field("code"), visit.now, after=0)
        if step is None:
            problems.append(visit.problem("code", "sign_in.code_wrong"))
        if problems:
            return self._invitation(visit, person, seed=seed, problems=tuple(problems))
        codes = credentials.new_recovery_codes()
        hashed = credentials.hash_password(visit.field("password"))
        with self.app.database.write() as connection:
            if not people.use_link(connection, fingerprint(visit.path("token"))):
                visit.stop("desk/says.html", status=404, what="old_link")
            people.set_password(connection, person.id, hashed)
            people.set_totp(connection, person.id, self.app.keyring.seal("totp", seed.encode()))
            people.use_step(connection, person.id, step or 0)
            people.put_recovery_codes(connection, person.id, [fingerprint(code) for code in codes])
            people.set_state(connection, person.id, people.ACTIVE)
            sessions.end_all_of(connection, person.id)
            audit.write(connection, Actor(name=person.name, via="desk"), "person.accepted", person.name, at=visit.now)
        visit.session = None
        return visit.page("desk/invited.html", codes=codes)


class Tries:
    """How many wrong tries came from one address of late. In this process only: a limit that fails lets people in."""

    def __init__(self, most: int, per_s: float) -> None:
        self._most, self._per_s = most, per_s
        self._at: dict[str, deque[float]] = {}
        self._turn = threading.Lock()

    def wait_s(self, address: str) -> float:
        with self._turn:
            tries = self._recent(address)
            return tries[0] + self._per_s - time.monotonic() if len(tries) >= self._most else 0.0

    def count(self, address: str) -> None:
        with self._turn:
            self._recent(address).append(time.monotonic())
            if len(self._at) > 10_000:
                self._at = {name: tries for name, tries in self._at.items() if self._recent(name)}

    def _recent(self, address: str) -> deque[float]:
        tries = self._at.setdefault(address, deque())
        while tries and tries[0] <= time.monotonic() - self._per_s:
            tries.popleft()
        return tries


def _address(visit: Visit) -> str:
    return visit.request.client.host if visit.request.client else ""


def is_proved(visit: Visit) -> bool:
    """Whether a second factor was shown within the last minutes. The sample people of a rehearsal have none."""
    assert visit.session is not None
    return visit.person.is_sample or visit.now - visit.session.proved_at <= PROOF_LASTS


def prove(visit: Visit) -> bool:
    """The same, by the code that was sent with this form."""
    assert visit.session is not None
    if is_proved(visit):
        return True
    person = visit.person
    pause = min(people.pause_after(person), LONGEST_PROOF_PAUSE)
    if person.failed_at is not None and person.failed_at + pause > visit.now:
        return False
    is_right = SignIn(visit.desk).proves(person, visit)
    with visit.app.database.write() as connection:
        if is_right:
            people.succeeded(connection, person.id)
            sessions.proved(connection, visit.session.hash, visit.now)
        else:
            people.failed(connection, person.id, visit.now)
    return is_right
