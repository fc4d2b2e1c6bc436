"""One's own page: where one is signed in, one's password, one's recovery codes."""

from __future__ import annotations

import hmac

from starlette.responses import Response

from broadcaster import credentials
from broadcaster.credentials import fingerprint
from broadcaster.problems import Problem
from broadcaster.roles import Right
from broadcaster.store import audit, passkeys, people, sessions
from broadcaster.web.desk.signin import SignIn, is_proved, prove
from broadcaster.web.desk.visit import PATH, Desk, NotThere, Visit

HERE = f"{PATH}/me"


def register(desk: Desk) -> None:
    me = Me(desk)
    desk.get("/me", Right.READ, me.show)
    desk.post("/me/sessions", Right.READ, me.end)
    desk.post("/me/password", Right.READ, me.change_password)
    desk.post("/me/codes", Right.READ, me.renew_codes)


class Me:
    def __init__(self, desk: Desk) -> None:
        self.app = desk.app
        self._signin = SignIn(desk)

    def show(self, visit: Visit) -> Response:
        return self._page(visit)

    def _page(self, visit: Visit, *, problem: Problem | None = None, codes: list[str] | None = None) -> Response:
        assert visit.session is not None
        with self.app.database.read() as connection:
            mine = sorted(sessions.of_person(connection, visit.person.id), key=lambda one: one[2], reverse=True)
            left = people.recovery_codes_left(connection, visit.person.id)
            keys = passkeys.of_person(connection, visit.person.id)
        return visit.page(
            "desk/me.html",
            status=422 if problem else 200,
            problems=[problem] if problem else [],
            sessions=[
                (fingerprint(hash), began, seen, agent, hash == visit.session.hash) for hash, began, seen, agent in mine
            ],
            left=left,
            keys=keys,
            needs_code=not is_proved(visit),
            codes=codes or [],
            is_changed=visit.query("changed") == "password",
        )

    def end(self, visit: Visit) -> Response:
        """A session is named by the hash of its hash: what the page shows opens nothing."""
        assert visit.session is not None
        with self.app.database.write() as connection:
            for hash, *_ in sessions.of_person(connection, visit.person.id):
                if hmac.compare_digest(fingerprint(hash).encode(), visit.field("which").encode()):
                    sessions.end(connection, hash)
                    audit.write(connection, visit.actor, "person.session_ended", visit.person.name, at=visit.now)
        return visit.go(HERE)

    def change_password(self, visit: Visit) -> Response:
        """The old one, a code of the moment and the new one; every other session ends."""
        person = visit.person
        assert visit.session is not None
        if person.is_sample:
            raise NotThere
        if found := credentials.password_problems(visit.field("password"), name=person.name):
            return self._page(visit, problem=found[0])
        if not self._signin.knows(visit, person, visit.field("old")):
            return self._page(visit, problem=visit.problem("old", "me.wrong"))
        hashed = credentials.hash_password(visit.field("password"))
        with self.app.database.write() as connection:
            people.set_password(connection, person.id, hashed)
            sessions.end_all_of(connection, person.id, but=visit.session.hash)
            audit.write(connection, visit.actor, "person.password_changed", person.name, at=visit.now)
        return visit.go(f"{HERE}?changed=password")

    def renew_codes(self, visit: Visit) -> Response:
        if visit.person.is_sample:
            raise NotThere
        if not prove(visit):
            return self._page(visit, problem=visit.problem("code", "me.code_wrong"))
        codes = credentials.new_recovery_codes()
        with self.app.database.write() as connection:
            people.put_recovery_codes(connection, visit.person.id, [fingerprint(code) for code in codes])
            audit.write(connection, visit.actor, "person.codes_renewed", visit.person.name, at=visit.now)
        return self._page(visit, codes=codes)
