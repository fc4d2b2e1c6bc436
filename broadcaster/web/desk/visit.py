"""One visit to the desk: who comes, by which page, with what in hand; and the one door through which all of them go.

Every page is registered with the right that it needs; a page without one does not exist. A visit is a plain function of
a `Visit`, run in a thread: it may ask the database as it likes. What the door does, once for all pages:

* who comes: the session of the cookie, while it lasts; without one, to the sign-in page and back;
* may they: the right of the page by the table in `roles.py`;
* is it from here: a change comes by POST, with an `Origin` that is the desk's own and the token of the session. The ward's
  other hosts are the same *site* to a browser, so SameSite alone would not keep them out;
* what was sent after the session's end is sealed for the same person and asked about after signing in: nothing that was
  typed is lost, and nothing is sent.
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, NoReturn
from urllib.parse import quote, urlsplit

import structlog
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from broadcaster import almanac
from broadcaster.app import App
from broadcaster.credentials import fingerprint, new_secret
from broadcaster.lifecycle import MoveNotAllowed
from broadcaster.message import is_identifier
from broadcaster.problems import Problem, Refused
from broadcaster.resources import packaged
from broadcaster.roles import Right, may, who_may
from broadcaster.staffmail import StaffMail
from broadcaster.store import messages, people, sessions
from broadcaster.store.audit import Actor
from broadcaster.store.database import StoreError
from broadcaster.store.messages import ChangedMeanwhile, Kept
from broadcaster.store.people import Person
from broadcaster.store.sessions import Session
from broadcaster.web.hosts import is_loopback
from broadcaster.web.static import Static

log = structlog.get_logger(__name__)

PATH = "/desk"
SIGN_IN = f"{PATH}/sign-in"
LANGUAGE_COOKIE = "desk-language"
NIGHT_COOKIE = "desk-night"

_HEADERS = {
    "cache-control": "no-store",
    "x-robots-tag": "noindex",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; media-src 'self'; "
        "connect-src 'self'; frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
}
_BACK = re.compile(r"/desk(?:/[A-Za-z0-9/._~-]*)?(?:\?[A-Za-z0-9=&%._~-]*)?", re.ASCII)


class NotThere(Exception):
    """No such page, or none that this person may know of."""


class Answered(Exception):
    """An answer that ends the visit, from wherever it is raised."""

    def __init__(self, response: Response) -> None:
        self.response = response


Act = Callable[["Visit"], Response]


@dataclass(frozen=True, kw_only=True)
class Place:
    """One page of the desk as it is registered."""

    method: str
    path: str
    right: Right | None  # None: for whoever comes, before signing in
    act: Act
    asks_again: bool = False  # after a session's end it is shown once more, never carried out


@dataclass(kw_only=True)
class Visit:
    desk: Desk
    request: Request
    form: FormData
    now: datetime
    session: Session | None

    @property
    def app(self) -> App:
        return self.desk.app

    @cached_property
    def language(self) -> str:
        asked = self.request.query_params.get("lang") or self.request.cookies.get(LANGUAGE_COOKIE)
        return "en" if asked == "en" else "ja"

    @property
    def person(self) -> Person:
        assert self.session is not None  # the door lets nobody else in
        return self.session.person

    @property
    def actor(self) -> Actor:
        return Actor(name=self.person.name, via="desk")

    def may(self, right: Right) -> bool:
        return self.session is not None and may(self.person.role, right)

    # What was sent along

    def path(self, name: str) -> str:
        return str(self.request.path_params[name])

    def query(self, name: str) -> str:
        return self.request.query_params.get(name, "")

    def field(self, name: str) -> str:
        """What stands in a field, its lines divided as ours are; empty where there is none."""
        value = self.form.get(name)
        return value.replace("\r\n", "\n").replace("\r", "\n") if isinstance(value, str) else ""

    def fields(self, name: str) -> list[str]:
        return [value for value in self.form.getlist(name) if isinstance(value, str)]

    def file(self, name: str) -> bytes | None:
        value = self.form.get(name)
        return value.file.read() if isinstance(value, UploadFile) and value.filename else None

    @property
    def is_resumed(self) -> bool:
        """Sent before the session's end and shown again: not to be carried out without being asked for."""
        return bool(self.field("resumed"))

    # Words

    def w(self, key: str, /, **slots: object) -> str:
        words = {name: str(value) for name, value in slots.items()}
        return self.app.settings.words.page(key, self.language, **words)

    def problem(self, where: str, key: str, /, **slots: object) -> Problem:
        """What is wrong with one field."""
        return self.app.settings.words.problem(where, key, **{name: str(value) for name, value in slots.items()})

    # What it is about

    def kept(self, identifier: str | None = None) -> Kept:
        """The message of this page, or another. Raises NotThere."""
        asked = self.path("identifier") if identifier is None else identifier
        with self.app.database.read() as connection:
            found = messages.get(connection, asked) if is_identifier(asked) else None
        if found is None:
            raise NotThere
        return found

    # Answers

    def page(self, template: str, *, status: int = 200, problems: Sequence[Problem] = (), **context: Any) -> Response:
        body = self.desk.app.render(
            template, language=self.language, visit=self, w=self.w, problems=list(problems), **context
        )
        response = HTMLResponse(body, status_code=status, headers=_HEADERS)
        self._remember_choices(response)
        return response

    def _remember_choices(self, response: Response) -> None:
        secure = self.desk.is_secure
        if "lang" in self.request.query_params:
            response.set_cookie(LANGUAGE_COOKIE, self.language, max_age=31_536_000, samesite="lax", secure=secure)
        if "night" in self.request.query_params:
            night = "on" if self.query("night") == "on" else "off"
            response.set_cookie(NIGHT_COOKIE, night, max_age=31_536_000, samesite="lax", secure=secure)

    @property
    def is_night(self) -> bool:
        return (self.query("night") or self.request.cookies.get(NIGHT_COOKIE)) == "on"

    def go(self, path: str) -> Response:
        """To another page: the back button then shows that one, and never the form that was sent."""
        return RedirectResponse(path, status_code=303, headers={"cache-control": "no-store"})

    @property
    def is_renewal(self) -> bool:
        """Asked for by a page that renews a part of itself."""
        return "hx-request" in self.request.headers

    def leave_for(self, path: str) -> Response:
        """To a page that renews a part of itself: it is over here, go on there."""
        return Response(headers={"hx-redirect": path, "cache-control": "no-store"})

    def here_in(self, language: str) -> str:
        """This page in the other language; a page that was sent is not sent again for it."""
        path = self.request.url.path if self.request.method == "GET" else PATH
        others = [(name, value) for name, value in self.request.query_params.items() if name != "lang"]
        return path + "?" + "&".join(f"{quote(name)}={quote(value)}" for name, value in [*others, ("lang", language)])

    def stop(self, template: str, *, status: int, **context: Any) -> NoReturn:
        raise Answered(self.page(template, status=status, **context))

    @cached_property
    def waiting(self) -> int:
        """How many wait for approval, for the number in the navigation."""
        with self.app.database.read() as connection:
            return messages.number_submitted(connection)

    @cached_property
    def called(self) -> Callable[[str], str]:
        """How a person is called, by the name in the log."""
        known: dict[str, str] = {}

        def display(name: str) -> str:
            if name not in known:
                with self.app.database.read() as connection:
                    known.update({name: name, **people.displays(connection, [name])})
            return known[name]

        return display


class Desk:
    """The table of pages, and the door."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.static = Static(packaged("templates") / "static", f"{PATH}/static")
        self.staffmail = StaffMail(base_url=app.settings.ward.base_url, words=app.settings.words)
        self.almanac = almanac.load(app.settings.schedule)
        self.places: list[Place] = []
        url = urlsplit(app.settings.ward.base_url)
        self._origin = f"{url.scheme}://{url.netloc}"
        self.is_secure = url.scheme == "https"
        self.cookie = "__Host-desk" if self.is_secure else "desk"
        """`__Host-` keeps the ward's other hosts from setting it; a browser takes it over https only."""

    def get(self, path: str, right: Right | None, act: Act) -> None:
        self.places.append(Place(method="GET", path=PATH + path, right=right, act=act))

    def post(self, path: str, right: Right | None, act: Act, *, asks_again: bool = False) -> None:
        self.places.append(Place(method="POST", path=PATH + path, right=right, act=act, asks_again=asks_again))

    def application(self, *more: Route) -> Starlette:
        routes = [Route(place.path, self._door(place), methods=[place.method]) for place in self.places]
        return Starlette(
            routes=[*self.static.routes(), *routes, *more],
            exception_handlers={HTTPException: self._not_there},
        )

    # The door

    def _door(self, place: Place) -> Callable[[Request], Any]:
        async def enter(request: Request) -> Response:
            form = FormData()
            if place.method == "POST":
                form = await request.form(max_files=20, max_fields=500, max_part_size=1 << 20)
            return await run_in_threadpool(self._answer, place, request, form)

        return enter

    def _answer(self, place: Place, request: Request, form: FormData) -> Response:
        visit = Visit(desk=self, request=request, form=form, now=self.app.clock.now(), session=None)
        try:
            visit.session = self.session_of(request)
            self._refuse_foreign(place, visit)
            if place.right is not None:
                self._let_in(place, visit)
            return place.act(visit)
        except Answered as answered:
            return answered.response
        except NotThere:
            return visit.page("desk/says.html", status=404, what="not_found")
        except Refused as refused:
            return visit.page("desk/says.html", status=422, what="refused", problems=refused.problems)
        except (ChangedMeanwhile, MoveNotAllowed):
            return visit.page("desk/says.html", status=409, what="changed")
        except StoreError as error:
            log.error("store.unavailable", why=type(error).__name__)
            return visit.page("desk/says.html", status=503, what="unavailable")
        except Exception as error:  # a sentence for the person, the place for the log
            number = secrets.token_hex(3)
            log.error("desk.failed", key=number, route=place.path, exc_info=error)
            return visit.page("desk/says.html", status=500, what="failed", slots={"id": number})

    def session_of(self, request: Request) -> Session | None:
        cookie = request.cookies.get(self.cookie)
        if not cookie:
            return None
        with self.app.database.read() as connection:
            return sessions.get(connection, fingerprint(cookie))

    def _refuse_foreign(self, place: Place, visit: Visit) -> None:
        if place.method != "GET" and not self.is_ours(visit.request):
            visit.session = None
            visit.stop("desk/says.html", status=403, what="foreign")

    def is_ours(self, request: Request) -> bool:
        """Whether a page of the desk itself sends this. No Origin: only where the browser says so in another way."""
        origin = request.headers.get("origin")
        if origin is None:
            return request.headers.get("sec-fetch-site") == "same-origin"
        if origin == self._origin:
            return True
        host = request.headers.get("host", "")
        is_local = self.app.settings.is_rehearsal and is_loopback(host)
        return is_local and origin == f"http://{host}"

    def _let_in(self, place: Place, visit: Visit) -> None:
        session = visit.session
        if session is None or session.ends_at <= visit.now:
            visit.session = None
            raise Answered(self._to_sign_in(place, visit, session))
        if place.method != "GET" and not hmac.compare_digest(visit.field("csrf").encode(), session.csrf.encode()):
            visit.stop("desk/says.html", status=403, what="foreign")
        assert place.right is not None
        if not may(session.person.role, place.right):
            names = [visit.w(f"roles.{role}") for role in who_may(place.right)]
            visit.stop("desk/says.html", status=403, what="no_right", slots={"role": "、".join(names)})
        asked_by_itself = place.method == "GET" and visit.is_renewal  # nobody may be there
        if visit.now - session.seen_at > sessions.SEEN_EVERY and not asked_by_itself:
            with self.app.database.write() as connection:
                sessions.seen(connection, session.hash, visit.now)

    def _to_sign_in(self, place: Place, visit: Visit, over: Session | None) -> Response:
        """And back. What was sent is kept for the person whose session it was."""
        request = visit.request
        if place.method == "GET":
            back = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            return visit.go(f"{SIGN_IN}?back={quote(back)}")
        if over is None or any(isinstance(value, UploadFile) for _, value in visit.form.multi_items()):
            return visit.go(f"{SIGN_IN}?over=1")
        sent = [(name, value) for name, value in visit.form.multi_items() if name not in ("csrf", "password", "code")]
        sealed = self.app.keyring.seal("ticket", json.dumps(sent, ensure_ascii=False).encode())
        ticket = new_secret()
        with self.app.database.write() as connection:
            sessions.put_ticket(
                connection,
                hash=fingerprint(ticket),
                name=over.person.name,
                path=request.url.path,
                fields=sealed,
                now=visit.now,
            )
        return visit.go(f"{SIGN_IN}?over=1&ticket={ticket}")

    def fields_of(self, sealed: str) -> list[tuple[str, str]]:
        opened = self.app.keyring.unseal("ticket", sealed)
        return [(str(name), str(value)) for name, value in json.loads(opened)] if opened else []

    async def _not_there(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return await run_in_threadpool(self._says_not_there, request, error.status_code)

    def _says_not_there(self, request: Request, status: int) -> Response:
        visit = Visit(
            desk=self, request=request, form=FormData(), now=self.app.clock.now(), session=self.session_of(request)
        )
        if visit.session is not None and visit.session.ends_at <= visit.now:
            visit.session = None
        what = "not_found" if status in (404, 405) else "unreadable"
        return visit.page("desk/says.html", status=status, what=what)


def back_to(asked: str) -> str:
    """Where to go after signing in: a page of the desk and nowhere else."""
    return asked if _BACK.fullmatch(asked) and not asked.startswith(SIGN_IN) else PATH
