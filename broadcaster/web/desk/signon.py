"""Signing in by the ward's own sign-on. It says who somebody is; whether they are let in, and what they may do, is ours.

What has to be remembered between going out and coming back is sealed in a cookie for ten minutes, so that only the
browser that went out can come back."""

from __future__ import annotations

import hmac
import json
from dataclasses import asdict

import structlog
from starlette.responses import RedirectResponse, Response

from broadcaster.app import App
from broadcaster.openid import Begun, SignOn, SignOnFailed
from broadcaster.store import people
from broadcaster.web.desk.signin import SignIn
from broadcaster.web.desk.visit import PATH, SIGN_IN, Desk, NotThere, Visit, back_to

log = structlog.get_logger(__name__)

COOKIE = "desk-sign-on"
LASTS_S = 600


def sign_on_of(app: App) -> SignOn | None:
    """As config/sign_on.toml says; None where the ward has none."""
    wanted = app.settings.sign_on
    if not wanted.get("issuer"):
        return None
    return SignOn(
        issuer=str(wanted["issuer"]).rstrip("/"),
        client_id=str(wanted["client_id"]),
        secret=app.settings.secret("sign_on_secret") or "",
        name_claim=str(wanted["name_claim"]),
        redirect=f"{app.settings.ward.base_url}{PATH}/sign-on/back",
    )


def register(desk: Desk) -> None:
    pages = Pages(desk)
    desk.get("/sign-on", None, pages.go_out)
    desk.get("/sign-on/back", None, pages.come_back)


class Pages:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.sign_on = sign_on_of(desk.app)
        self._enter = SignIn(desk)

    def _theirs(self) -> SignOn:
        if self.sign_on is None:
            raise NotThere
        return self.sign_on

    def go_out(self, visit: Visit) -> Response:
        begun = Begun.new()
        try:
            address = self._theirs().address(begun)
        except SignOnFailed as failed:
            return self._failed(visit, failed)
        kept = {**asdict(begun), "back": back_to(visit.query("back")), "ticket": visit.query("ticket")}
        response = RedirectResponse(address, status_code=303, headers={"cache-control": "no-store"})
        response.set_cookie(
            COOKIE,
            self.desk.app.keyring.seal("sign-on", json.dumps(kept).encode()),
            max_age=LASTS_S,
            secure=self.desk.is_secure,
            httponly=True,
            samesite="lax",
            path=f"{PATH}/sign-on",
        )
        return response

    def come_back(self, visit: Visit) -> Response:
        sign_on = self._theirs()
        opened = self.desk.app.keyring.unseal("sign-on", visit.request.cookies.get(COOKIE, ""))
        kept = json.loads(opened) if opened else {}
        begun = Begun(**{name: str(kept.get(name, "")) for name in ("state", "nonce", "verifier")})
        try:
            if not begun.state or not hmac.compare_digest(begun.state.encode(), visit.query("state").encode()):
                raise SignOnFailed("it came back to another browser, or too late")
            name = sign_on.name_of(visit.query("code"), begun, visit.now)
        except SignOnFailed as failed:
            return self._failed(visit, failed)
        with self.desk.app.database.read() as connection:
            person = people.by_name(connection, name.lower())
        if person is None or person.state != people.ACTIVE or person.is_sample:
            return self._failed(visit, SignOnFailed("nobody by this name has been invited"))
        return self._enter.begin(visit, person, back=str(kept.get("back", "")), ticket=str(kept.get("ticket", "")))

    def _failed(self, visit: Visit, failed: SignOnFailed) -> Response:
        log.warning("desk.sign_on_failed", why=str(failed))
        visit.session = None
        return visit.page("desk/says.html", status=403, what="sign_on", again=SIGN_IN)
