"""`/rehearsal`: what residents received on every medium, and what happens when the other side misbehaves.

Server-made pages without scripts. Live and drill are two places with addresses of their own (`?place=drill`), and no
page shows both. There is no such page in a live installation: `site.py` then leaves this router out.

Why it is so:

* A mail's HTML stands in a frame of its own address, under a policy that forbids scripts and gives it no origin: what a
  sender wrote cannot become part of this page. Everything else is shown as text.
* The source is what was received, to the byte, but for the reader's address, which nobody needs to see here.
* What changes something asks whether the request came from this page (`Origin`); a form on a foreign page, or in the
  frame of a mail, gets 403. A token in the form would add nothing: nobody signs in here.
* One part that cannot be read says so in its place; the others go on.
"""

from __future__ import annotations

import hashlib
import re
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Any, TypeVar
from urllib.parse import urlencode, urlsplit

from fastapi import APIRouter, Form, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from broadcaster import reports
from broadcaster.app import App, standin_ports
from broadcaster.clock import local
from broadcaster.message import LANGUAGES, Mode, lang_attribute
from broadcaster.rehearsal.faults import Fault, Kind
from broadcaster.rehearsal.received import MOST_KEPT, Mail, Mailbox, Post, Town, Unreadable
from broadcaster.rehearsal.town import faults_of, folder_of
from broadcaster.render import day, renderer
from broadcaster.resources import packaged
from broadcaster.store import audit, issues, subscribers
from broadcaster.store.audit import Actor
from broadcaster.web import street
from broadcaster.web.hosts import is_loopback
from broadcaster.web.street import Sent

PATH = "/rehearsal"
MEDIA = ("email", "x", "signage", "dial", "rss", "page")
"""In the order in which they stand in the street."""

STANDINS = ("email", "x")
"""The media that have another side, which can misbehave."""

SECONDS = {Kind.RATE: 30.0, Kind.DRIP: 3.0}
"""How long a limit lasts, and how late a slow answer comes."""

A_PAGE = 50
NEWEST = 20
"""So many sendings are looked through for when something was sent."""

VISITOR = Actor(name="rehearsal", via="desk")

_HEADERS = {
    "cache-control": "no-store",
    "x-robots-tag": "noindex",
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; frame-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
}
_SHOWN = {
    "cache-control": "no-store",
    # A mail has its style in attributes, which no hash can name; without an origin and without scripts it harms nobody.
    "content-security-policy": (
        "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; form-action 'none'; "
        "base-uri 'none'; frame-ancestors 'self'"
    ),
}
_SOURCE = {"cache-control": "no-store", "content-security-policy": "sandbox; default-src 'none'"}

_PAGE = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a visitor wants to see; everything in the address, so that it can be kept and sent on."""

    mode: Mode = Mode.LIVE
    language: str = "ja"  # of the page
    told: str = ""  # of what was received; empty: whatever came
    screen: str = ""  # empty: the first
    open: str = ""  # the mail on the phone
    page: int = 1

    @classmethod
    def of(cls, request: Request, screens: Iterable[str]) -> Asked:
        """Anything strange is passed over: an address is typed by hand too."""
        query = request.query_params
        number = query.get("page", "")
        return cls(
            mode=Mode.DRILL if query.get("place") == "drill" else Mode.LIVE,
            language="en" if query.get("lang") == "en" else "ja",
            told=query["told"] if query.get("told") in LANGUAGES else "",
            screen=query["screen"] if query.get("screen") in list(screens) else "",
            open=query.get("open", ""),
            page=int(number) if _PAGE.fullmatch(number) else 1,
        )

    @property
    def is_drill(self) -> bool:
        return self.mode == Mode.DRILL  # in a template it is a word

    def link(self, path: str = PATH, /, **changes: Any) -> str:
        """The address of another page for the same visitor. `page` and `open` belong to one page only."""
        wanted = replace(self, **{"page": 1, "open": "", **changes})
        query = {
            "place": "drill" if wanted.is_drill else "",
            "lang": wanted.language if wanted.language != "ja" else "",
            "told": wanted.told,
            "screen": wanted.screen,
            "open": wanted.open,
            "page": str(wanted.page) if wanted.page > 1 else "",
        }
        text = urlencode({name: value for name, value in query.items() if value})
        return f"{path}?{text}" if text else path

    def public(self, path: str) -> str:
        """The address at which the public reads a board's page."""
        return f"/drill/{path}" if self.is_drill else f"/{path}"

    def in_told(self, path: str) -> str:
        """`dial/current.txt` in the chosen language."""
        stem, dot, ending = path.rpartition(".")
        return path if self.told in ("", "ja") else f"{stem}.{self.told}{dot}{ending}"


@dataclass(frozen=True, kw_only=True)
class Card:
    """One medium in the street. Without content it says `trouble`, a key of words.yaml."""

    medium: str
    content: Any = None
    trouble: str = ""
    at: datetime | None = None
    seconds: float | None = None
    source: str = ""
    total: int = 0
    is_away: bool = False  # the other side does not answer


@dataclass(frozen=True, kw_only=True)
class Inbox:
    """A phone: one mail of each kind in one language."""

    opened: Mail  # the one that was asked for, or the newest
    mails: Sequence[Mail]

    @property
    def others(self) -> Sequence[Mail]:
        """One of each sending, for the same words come in two forms."""
        subjects = {(mail.sent_at, mail.subject): mail for mail in reversed(self.mails)}
        subjects.pop((self.opened.sent_at, self.opened.subject), None)
        return list(reversed(subjects.values()))


def routes(app: App) -> APIRouter:
    router = APIRouter(prefix=PATH, include_in_schema=False)
    view = View(app)

    def asked(request: Request) -> Asked:
        return Asked.of(request, (screen.id for screen in app.settings.ward.screens))

    @router.get("")
    def the_street(request: Request) -> HTMLResponse:
        return view.street(asked(request))

    @router.get("/style.css")
    def style() -> Response:
        headers = {"cache-control": "public, max-age=31536000, immutable"}
        return Response(view.style, media_type="text/css", headers=headers)

    @router.get("/{medium}")
    def one_medium(request: Request, medium: str) -> HTMLResponse:
        if medium not in (*MEDIA, "issues"):
            return view.says(asked(request), "not_there", 404)
        return view.medium(asked(request), medium)

    @router.get("/email/{id}.txt")
    def mail_source(request: Request, id: str) -> Response:
        mail = view.town(asked(request)).mail(id)
        if mail is None:
            return view.says(asked(request), "not_there", 404)
        return Response(mail.source, media_type="text/plain; charset=utf-8", headers=_SOURCE)

    @router.get("/email/{id}.html")
    def mail_as_html(request: Request, id: str) -> Response:
        mail = view.town(asked(request)).mail(id)
        if mail is None or not mail.html:
            return view.says(asked(request), "not_there", 404)
        return HTMLResponse(mail.html.encode("utf-8", "replace"), headers=_SHOWN)

    @router.get("/x/{id}.json")
    def post_source(request: Request, id: str) -> Response:
        post = calmly(lambda: view.town(asked(request)).post(id))
        if not isinstance(post, Post):
            return view.says(asked(request), "not_there", 404)
        return Response(post.source, media_type="application/json", headers=_SOURCE)

    @router.get("/x/media/{file}")
    def picture(request: Request, file: str) -> Response:
        path = view.town(asked(request)).picture(file)
        return FileResponse(path, headers=_SOURCE) if path else view.says(asked(request), "not_there", 404)

    @router.get("/page/shown")
    def emergency_page(request: Request) -> Response:
        here = asked(request)
        body = view.town(here).board(here.in_told("emergency.html"))
        return HTMLResponse(body, headers=_SHOWN) if body else view.says(here, "not_there", 404)

    @router.post("/faults/{medium}")
    def set_fault(request: Request, medium: str, kind: Annotated[str, Form()] = "") -> Response:
        here = asked(request)
        if not comes_from_here(request, app.settings.ward.base_url):
            return view.says(here, "foreign", 403)
        if medium not in STANDINS or kind not in ("", *Kind):
            return view.says(here, "fault_unknown", 422)
        fault = Fault(kind=Kind(kind), seconds=SECONDS.get(Kind(kind), 1.0)) if kind else None
        with app.database.write() as connection:
            act = "fault.set" if fault else "fault.lifted"
            audit.write(connection, VISITOR, act, medium, at=app.clock.now(), mode=here.mode, kind=kind)
        view.set_fault(medium, fault)
        return RedirectResponse(here.link() + "#faults", status_code=303)

    @router.post("/clear")
    def clear(request: Request, what: Annotated[str, Form()] = "clear") -> Response:
        here = asked(request)
        if not comes_from_here(request, app.settings.ward.base_url):
            return view.says(here, "foreign", 403)
        now = app.clock.now()
        with app.database.write() as connection:
            act = "town.shown_again" if what == "again" else "town.cleared"
            audit.write(connection, VISITOR, act, "rehearsal", at=now, mode=here.mode)
        view.town(here).clear(None if what == "again" else now)
        return RedirectResponse(here.link() + "#main", status_code=303)

    return router


def comes_from_here(request: Request, base_url: str) -> bool:
    """Its `Origin` is ours: that of the configured address, or on the loopback that of the address asked for.

    A name is not believed because it was asked for (DNS rebinding), and a browser that hides where a form stood sends
    `null`: neither is enough.
    """
    origins = request.headers.getlist("origin")
    host = request.headers.get("host", "")
    ours = {_origin(base_url)}
    if is_loopback(host):
        ours.add(f"{request.url.scheme}://{host}")
    return len(origins) == 1 and origins[0] in ours


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def calmly(read: Callable[[], T]) -> T | Unreadable:
    try:
        return read()
    except Unreadable as unreadable:
        return unreadable


class View:
    """Reads what is asked for and makes the page of it."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._render = renderer(packaged("templates"), app.settings.words)
        settings = app.settings
        self._mailbox = Mailbox(settings.home, drill_sender=f"drill@{settings.ward.mail_domain}")
        self.style = self._render("web/rehearsal.css")
        self._style_address = f"{PATH}/style.css?{hashlib.sha256(self.style.encode()).hexdigest()[:12]}"

    def town(self, asked: Asked) -> Town:
        return Town(home=self._app.settings.home, mode=asked.mode, mailbox=self._mailbox)

    # Pages

    def street(self, asked: Asked) -> HTMLResponse:
        sent = self._sent(asked.mode, NEWEST)
        town = self.town(asked)
        cleared_at = calmly(lambda: town.cleared_at)
        return self._page(
            asked,
            "rehearsal",
            cards=[self._card(medium, asked, sent) for medium in MEDIA],
            sent=sent[:3],
            sent_total=len(sent),
            faults=self._faults(),
            cleared_at=None if isinstance(cleared_at, Unreadable) else cleared_at,
        )

    def medium(self, asked: Asked, medium: str) -> HTMLResponse:
        sent = self._sent(asked.mode, NEWEST if medium != "issues" else asked.page * A_PAGE + 1)
        card = Card(medium=medium, content=sent, total=len(sent)) if medium == "issues" else None
        card = card or self._card(medium, asked, sent)
        return self._page(asked, "rehearsal-medium", card=card, **self._paged(asked, card))

    def says(self, asked: Asked, key: str, status: int) -> HTMLResponse:
        return self._page(asked, "rehearsal-says", status=status, sentence=f"rehearsal.{key}")

    def _page(self, asked: Asked, name: str, *, status: int = 200, **context: Any) -> HTMLResponse:
        body = self._render(
            f"web/{name}.html",
            language=asked.language,
            asked=asked,
            now=self._app.clock.now(),
            style_address=self._style_address,
            languages=LANGUAGES,
            screens=self._app.settings.ward.screens,
            ward=self._app.settings.ward,
            moment=_moment,
            media=(*MEDIA, "issues"),
            standins=STANDINS,
            kinds=list(Kind),
            a_page=A_PAGE,
            most=MOST_KEPT,
            **context,
        )
        return HTMLResponse(body.encode("utf-8", "replace"), status_code=status, headers=_HEADERS)

    def _paged(self, asked: Asked, card: Card) -> dict[str, Any]:
        begin = (asked.page - 1) * A_PAGE
        if isinstance(card.content, Inbox) and not asked.told:  # every single mail
            shown = self.town(asked).mails(begin, begin + A_PAGE)
            return {"shown": shown, "has_older": card.total > begin + A_PAGE}
        match card.content:
            case Inbox(mails=everything) | street.Screen(pictures=everything):
                pass
            case list(everything):
                pass
            case _:
                everything = ()
        return {"shown": everything[begin : begin + A_PAGE], "has_older": len(everything) > begin + A_PAGE}

    # Cards

    def _card(self, medium: str, asked: Asked, sent: Sequence[Sent]) -> Card:
        make: Mapping[str, Callable[[Asked, Sequence[Sent]], Card]] = {
            "email": self._mails,
            "x": self._posts,
            "signage": self._screen,
            "dial": self._telephone,
            "rss": self._feed,
            "page": self._public_page,
        }
        card = calmly(lambda: make[medium](asked, sent))
        if isinstance(card, Unreadable):
            return Card(medium=medium, trouble="unreadable")
        if not card.content and not card.trouble:
            card = replace(card, trouble=f"empty.{medium}")
        return replace(card, is_away=self._is_away(medium))

    def _mails(self, asked: Asked, _: Sequence[Sent]) -> Card:
        town = self.town(asked)
        kinds = town.kinds()
        mails = self._in_language(kinds, asked.told or LANGUAGES[0])
        if not mails and not asked.told:
            mails = kinds
        if not mails:
            return Card(medium="email", trouble="empty.email_language" if kinds else "")
        opened = town.mail(asked.open) or mails[0]
        return Card(
            medium="email",
            content=Inbox(opened=opened, mails=mails),
            at=opened.received_at,
            seconds=opened.seconds,
            source=asked.link(f"{PATH}/email/{opened.id}.txt"),
            total=town.mail_count(),
        )

    def _in_language(self, mails: Sequence[Mail], language: str) -> list[Mail]:
        """Easy Japanese is Japanese to a mail program: only the reader's own choice tells the two apart."""
        alike = [mail for mail in mails if mail.language == lang_attribute(language)]
        if lang_attribute(language) != LANGUAGES[0]:
            return alike
        with self._app.database.read() as connection:
            readers = [subscribers.get(connection, mail.subscriber or 0) for mail in alike]
        chosen = [reader.language if reader else mail.language for mail, reader in zip(alike, readers, strict=True)]
        return [mail for mail, choice in zip(alike, chosen, strict=True) if choice == language]

    def _posts(self, asked: Asked, sent: Sequence[Sent]) -> Card:
        posts = self.town(asked).posts()
        if not posts:
            return Card(medium="x")
        newest = posts[0]
        origin = next((one for one in sent if newest.id in one.evidence("x")), None)
        return Card(
            medium="x",
            content=posts,
            at=newest.created_at,
            seconds=origin.seconds_to(newest.created_at) if origin else None,
            source=asked.link(f"{PATH}/x/{newest.id}.json"),
            total=len(posts),
        )

    def _screen(self, asked: Asked, sent: Sequence[Sent]) -> Card:
        path = f"signage/{asked.screen or self._app.settings.ward.screens[0].id}.json"
        document = self.town(asked).board_document(path)
        if document is None:
            return Card(medium="signage")
        screen = street.screen(document, self._app.clock.now(), asked.told or "ja")
        return self._board(asked, sent, "signage", screen, path, len(screen.pictures))

    def _telephone(self, asked: Asked, sent: Sequence[Sent]) -> Card:
        text = self.town(asked).board_text(asked.in_told("dial/current.txt"))
        if not text:
            return Card(medium="dial")
        lang = lang_attribute(asked.told or "ja")
        content = {"text": text, "lang": lang, "seconds": street.seconds_aloud(text, lang)}
        return self._board(asked, sent, "dial", content, asked.in_told("dial/current.ssml"))

    def _feed(self, asked: Asked, sent: Sequence[Sent]) -> Card:
        path = asked.in_told("feeds/all.json")
        document = self.town(asked).board_document(path)
        entries = street.entries(document) if document is not None else []
        return self._board(asked, sent, "rss", entries, path, len(entries))

    def _public_page(self, asked: Asked, sent: Sequence[Sent]) -> Card:
        path = asked.in_told("emergency.html")
        is_there = self.town(asked).board(path) is not None
        return self._board(asked, sent, "page", is_there, path)

    def _board(self, asked: Asked, sent: Sequence[Sent], medium: str, content: Any, path: str, total: int = 0) -> Card:
        last = next((one for one in sent if one.settled_at(medium)), None)
        at = last.settled_at(medium) if last else None
        return Card(
            medium=medium,
            content=content,
            at=at,
            seconds=last.seconds_to(at) if last and at else None,
            source=asked.public(path),
            total=total,
        )

    # Sendings, the other side, its faults

    def _sent(self, mode: Mode, most: int) -> list[Sent]:
        """Newest first."""
        with self._app.database.read() as connection:
            newest = [issue for issue in issues.newest(connection, most * 10) if issue.message.mode is mode][:most]
            return [Sent(report=reports.of(connection, issue.message.identifier)) for issue in newest]

    def _is_away(self, medium: str) -> bool:
        """A stand-in that shows a fault is not asked: the question would count as a request that met it."""
        if medium not in STANDINS or medium in (self._faults() or {}):
            return False
        port = standin_ports(self._app.settings.home).get(medium)
        try:
            if port:
                socket.create_connection(("127.0.0.1", port), timeout=0.5).close()
        except OSError:
            return True
        return not port

    def _faults(self) -> Mapping[str, Fault] | None:
        """None when the file cannot be read."""
        try:
            return faults_of(self._app.settings.home).all()
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def set_fault(self, medium: str, fault: Fault | None) -> None:
        """A file that cannot be read is begun anew: whoever presses the button wants a state that is known."""
        faults = faults_of(self._app.settings.home)
        if self._faults() is None:
            (folder_of(self._app.settings.home) / "faults.json").unlink(missing_ok=True)
        faults.set(medium, fault)


def _moment(at: datetime, language: str) -> str:
    """To the second and by 24 hours, as staff read it: 12月4日（金）12:00:03."""
    return f"{day(at, language)} {local(at):%H:%M:%S}"
