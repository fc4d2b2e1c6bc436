"""Signing in by a touch, and the keys for it on one's own page. The challenge is sealed in a cookie for five minutes and
given up with its answer: only the browser that asked can answer, once."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from urllib.parse import urlsplit

import structlog
from starlette.responses import JSONResponse, Response

from broadcaster import passkeys
from broadcaster.clock import parse_instant
from broadcaster.passkeys import NotProven, Place
from broadcaster.roles import Right
from broadcaster.store import audit, people
from broadcaster.store import passkeys as kept_keys
from broadcaster.web.desk.signin import SignIn, prove
from broadcaster.web.desk.visit import PATH, Desk, Visit
from broadcaster.web.hosts import name_of

log = structlog.get_logger(__name__)

COOKIE = "desk-touch"
LASTS = timedelta(minutes=5)
MOST_OF_ONE = 10


def register(desk: Desk) -> None:
    touch = Touch(desk)
    desk.post("/sign-in/touch/ask", None, touch.ask)
    desk.post("/sign-in/touch", None, touch.enter)
    desk.post("/me/passkeys/ask", Right.READ, touch.ask_new)
    desk.post("/me/passkeys", Right.READ, touch.add)
    desk.post("/me/passkeys/remove", Right.READ, touch.remove)


class Touch:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.app = desk.app
        self._signin = SignIn(desk)

    # Signing in

    def ask(self, visit: Visit) -> Response:
        options, challenge = passkeys.ask(self._place(visit))
        return self._asked(visit, options, challenge)

    def enter(self, visit: Visit) -> Response:
        try:
            person = self._person(visit)
        except NotProven as why:
            log.warning("desk.touch_failed", why=str(why))
            return self._signin.refuse(visit)
        return self._signin.begin(visit, person)

    def _person(self, visit: Visit) -> people.Person:
        """Raises NotProven."""
        answer, challenge = visit.field("credential"), self._challenge(visit)
        with self.app.database.write() as connection:
            key = kept_keys.get(connection, passkeys.id_of(answer))
            person = people.by_id(connection, key.person_id) if key else None
            if key is None or person is None or person.state != people.ACTIVE:
                raise NotProven("no such key")
            count = passkeys.read(
                self._place(visit), answer, challenge, public_key=key.public_key, sign_count=key.sign_count
            )
            if not kept_keys.used(connection, key, count, visit.now):
                raise NotProven("used at the same moment")
        return person

    # One's own keys

    def ask_new(self, visit: Visit) -> Response:
        with self.app.database.read() as connection:
            known = [key.id for key in kept_keys.of_person(connection, visit.person.id)]
        person = visit.person
        options, challenge = passkeys.ask_new(
            self._place(visit), person=person.name, display=person.display, number=person.id, known=known
        )
        return self._asked(visit, options, challenge)

    def add(self, visit: Visit) -> Response:
        """A second factor again: whoever finds an open session must not leave with a key of their own."""
        if not prove(visit):
            return JSONResponse({"said": visit.w("emergency.alone_code_wrong")}, status_code=422)
        try:
            found = passkeys.read_new(self._place(visit), visit.field("credential"), self._challenge(visit))
        except NotProven as why:
            log.warning("desk.passkey_not_added", why=str(why))
            return JSONResponse({"said": visit.w("me.passkey_failed")}, status_code=422)
        label = visit.field("label").strip()[:64] or visit.w("me.passkey_unnamed")
        with self.app.database.write() as connection:
            mine = kept_keys.of_person(connection, visit.person.id)
            if len(mine) >= MOST_OF_ONE or kept_keys.get(connection, found.id):
                return JSONResponse({"said": visit.w("me.passkey_failed")}, status_code=422)
            kept_keys.add(
                connection,
                visit.person.id,
                id=found.id,
                public_key=found.public_key,
                sign_count=found.sign_count,
                label=label,
                at=visit.now,
            )
            audit.write(connection, visit.actor, "person.passkey_added", visit.person.name, at=visit.now)
        return JSONResponse({"said": visit.w("me.passkey_added")})

    def remove(self, visit: Visit) -> Response:
        with self.app.database.write() as connection:
            if kept_keys.remove(connection, visit.field("id"), visit.person.id):
                audit.write(connection, visit.actor, "person.passkey_removed", visit.person.name, at=visit.now)
        return visit.go(f"{PATH}/me")

    # The challenge

    def _asked(self, visit: Visit, options: str, challenge: bytes) -> Response:
        kept = {"challenge": base64.b64encode(challenge).decode(), "at": visit.now.isoformat()}
        response = Response(options, media_type="application/json", headers={"cache-control": "no-store"})
        response.set_cookie(
            COOKIE,
            self.app.keyring.seal("touch", json.dumps(kept).encode()),
            max_age=int(LASTS.total_seconds()),
            secure=self.desk.is_secure,
            httponly=True,
            samesite="strict",
            path=PATH,
        )
        return response

    def _challenge(self, visit: Visit) -> bytes:
        """Raises NotProven."""
        opened = self.app.keyring.unseal("touch", visit.request.cookies.get(COOKIE, ""))
        if opened is None:
            raise NotProven("nothing was asked of this browser")
        kept = json.loads(opened)
        if visit.now - parse_instant(kept["at"]) > LASTS:
            raise NotProven("too late")
        return base64.b64decode(kept["challenge"])

    def _place(self, visit: Visit) -> Place:
        """The desk's own host. A rehearsal answers at addresses of this machine too; a browser takes `localhost` only."""
        base = urlsplit(self.app.settings.ward.base_url)
        host = visit.request.headers.get("host", "")
        if self.app.settings.is_rehearsal and name_of(host) == "localhost":
            base = urlsplit(f"http://{host}")
        return Place(
            host=base.hostname or "", origin=f"{base.scheme}://{base.netloc}", name=self.app.settings.ward.name
        )
