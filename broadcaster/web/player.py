"""The player of a signage screen: a page for any browser in kiosk mode, its scripts, its fonts and its service worker.

    GET /signage/S01            the screen S01          GET /drill/signage/S01      the same for drills
    GET /signage                a screen that is not paired yet: it shows a code

The page is empty but for its frame: what to show comes from the screen's document (docs/signage-feed.md), which the
scripts ask for, verify, keep and show. How they do it stands in templates/signage/; nothing of it is decided here.

Why it is so:

* Live and drill are two places with addresses, workers and stores of their own. A page shows one of them and refuses
  the other's document.
* The policy allows neither inline scripts nor inline styles. Words go along in an attribute, which runs nothing.
* A worker is compared by the browser to the byte. It begins with the list of the files that belong together, so a change
  in any of them brings the new worker, and with it all of them at once.
* A kiosk has nobody who presses Reload: a page that only says a sentence comes again by itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, HTTPException
from fastapi.responses import HTMLResponse, Response

from broadcaster.app import App
from broadcaster.message import LANGUAGES, Mode
from broadcaster.render import renderer
from broadcaster.resources import packaged
from broadcaster.web.pages import Boards
from broadcaster.web.static import Static

PATH = "/signage"
PREFIX: Mapping[Mode, str] = {Mode.LIVE: "", Mode.DRILL: "/drill"}
_SCREEN = re.compile(r"[A-Za-z0-9_-]{1,40}", re.ASCII)
_APART = ("player.html", "says.html", "worker.js", "lean-qr.LICENSE")
"""In the folder of the player, but with an address of their own, or none."""

_SHOWN = ("more", "page", "updated", "nothing", "pairing")
_OWN = ("no_code", "paired", "say_alert", "say_drill", "say_again", "say_end")

_PAGE = {
    "cache-control": "no-cache",
    "x-robots-tag": "noindex",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; worker-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'self'"
    ),
}
_WORKER_POLICY = "default-src 'none'; connect-src 'self'"
_SAYS_AGAIN_S = {404: 60, 503: 3}


def routes(app: App, pages: Boards) -> APIRouter:
    player = Player(app, pages)
    router = APIRouter(include_in_schema=False, routes=[*player.files.routes(), *player.fonts.routes()])

    @router.get(PATH)
    def a_screen_without_a_name() -> Response:
        return player.page(Mode.LIVE, "")

    @router.get(f"{PATH}/worker.js")
    def worker() -> Response:
        return player.worker(Mode.LIVE)

    @router.get(f"/drill{PATH}/worker.js")
    def worker_of_drills() -> Response:
        return player.worker(Mode.DRILL)

    @router.get(PATH + "/{screen}")
    def one_screen(screen: str) -> Response:
        return player.screen(Mode.LIVE, screen)

    @router.get(f"/drill{PATH}" + "/{screen}")
    def one_screen_of_drills(screen: str) -> Response:
        return player.screen(Mode.DRILL, screen)

    return router


class Player:
    def __init__(self, app: App, pages: Boards) -> None:
        folder = packaged("templates") / "signage"
        self.files = Static(folder, f"{PATH}/player", as_one=True, leaving_out=_APART)
        self.fonts = Static(folder / "fonts", f"{PATH}/fonts", as_one=True, leaving_out=("OFL.txt",))
        self._pages = pages
        self._words = app.settings.words
        self._ward = app.settings.ward
        self._render = renderer(packaged("templates"), app.settings.words)
        self._worker = (folder / "worker.js").read_text(encoding="utf-8")

    def screen(self, mode: Mode, screen: str) -> Response:
        """The page of a screen that has a document. Raises HTTPException for what cannot be the name of one."""
        if not _SCREEN.fullmatch(screen):
            raise HTTPException(404)
        if not self._pages.is_ready:
            return self._says(503, "getting_ready")
        if self._pages.get(f"{PREFIX[mode]}{PATH}/{screen}.json") is None:
            return self._says(404, "unknown", screen=screen)
        return self.page(mode, screen)

    def page(self, mode: Mode, screen: str) -> Response:
        """The frame of a screen; without a name, of one that shows its code."""
        body = self._render(
            "signage/player.html",
            mode=mode.value,
            screen=screen,
            base=f"{PREFIX[mode]}{PATH}",
            emergency=f"{PREFIX[mode]}/emergency",
            title=self._words.page("player.title", ward=self._ward.name),
            words=json.dumps(self._said(), ensure_ascii=False),
            drill=self._drill(mode),
            files=self.files,
            fonts=self.fonts,
        )
        return HTMLResponse(body, headers=_PAGE)

    def worker(self, mode: Mode) -> Response:
        """The service worker of one mode, which begins with what it has to keep."""
        base = f"{PREFIX[mode]}{PATH}"
        shell = [*self.files.addresses(), *self.fonts.addresses()]
        first = f"const MODE = {json.dumps(mode.value)}, SHELL = {json.dumps(shell)};\n"
        headers = {
            "cache-control": "no-cache",
            "service-worker-allowed": base,
            "content-security-policy": _WORKER_POLICY,
        }
        return Response(first + self._worker, media_type="text/javascript", headers=headers)

    def _said(self) -> dict[str, Any]:
        """The words that the scripts put on the screen."""
        keys = {**{key: f"signage.{key}" for key in _SHOWN}, **{key: f"player.{key}" for key in _OWN}}
        wards = {"ja": self._ward.name, "en": self._ward.english_name}
        words = {
            language: {key: self._words.page(place, language, ward=ward) for key, place in keys.items()}
            for language, ward in wards.items()
        }
        names = {language: self._words.page(f"player.names.{language}") for language in LANGUAGES}
        return {"ward": self._ward.name, "names": names, **words}

    def _drill(self, mode: Mode) -> Mapping[str, str]:
        """A drill is framed before its first document has come; a live page has no word of it."""
        said = {
            "band": self._words.page("signage.drill_band"),
            "band_other": self._words.page("signage.drill_band", "en"),
            "foot": self._words.page("signage.drill_foot"),
        }
        return said if mode is Mode.DRILL else dict.fromkeys(said, "")

    def _says(self, status: int, key: str, /, **slots: str) -> Response:
        body = self._render(
            "signage/says.html",
            sentence=self._words.page(f"player.{key}", "ja", **slots),
            sentence_en=self._words.page(f"player.{key}", "en", **slots),
            again_s=_SAYS_AGAIN_S[status],
            files=self.files,
            fonts=self.fonts,
        )
        return HTMLResponse(body, status_code=status, headers={**_PAGE, "retry-after": str(_SAYS_AGAIN_S[status])})
