"""What people, screens and programs get from the web process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.types import ASGIApp

from broadcaster import app as assembly
from broadcaster import settings as configuration
from broadcaster.app import App
from broadcaster.clock import FrozenClock, SystemClock
from broadcaster.message import Change, Message, Mode
from broadcaster.roles import Role
from broadcaster.store import subscribers, tokens
from broadcaster.web import create
from tests.house import STAFF
from tests.makers import NOW, a_notice, a_reader, a_sample, an_alert


@dataclass(kw_only=True)
class Site:
    app: App
    web: ASGIApp
    client: httpx2.AsyncClient

    async def get(self, path: str, **headers: str) -> httpx2.Response:
        return await self.client.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    async def until(self, path: str, condition: Any) -> httpx2.Response:
        async with asyncio.timeout(10):
            while not condition(answer := await self.get(path)):
                await asyncio.sleep(0.02)
        return answer

    def issues(self, message: Message) -> str:
        return self.app.pipeline.hand_in(replace(message, sent_at=None), STAFF).message.identifier

    def token(self, role: Role, mode: Mode = Mode.LIVE) -> dict[str, str]:
        with self.app.database.write() as connection:
            shown = tokens.create(connection, name="test", role=role, mode=mode, now=self.app.clock.now())
        return {"Authorization": f"Bearer {shown}"}


@asynccontextmanager
async def a_site(folder: Path, *, clock: Any = None, **environment: str) -> AsyncIterator[Site]:
    settings = configuration.load({"BROADCASTER_HOME": str(folder / "home"), **environment})
    app = assembly.assemble(settings, clock=clock or SystemClock(), standins={"email": 1, "x": 1})
    app.database.upgrade()
    web = create(app)
    started, over = asyncio.Event(), asyncio.Event()

    async def lifespan() -> None:
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if not sent:
                return {"type": "lifespan.startup"}
            await over.wait()
            return {"type": "lifespan.shutdown"}

        async def send(message: Any) -> None:
            sent.append(message)
            started.set()

        await web({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)

    task = asyncio.create_task(lifespan())
    await asyncio.wait_for(started.wait(), 20)
    transport = httpx2.ASGITransport(web, client=("127.0.0.1", 5000), raise_app_exceptions=False)
    try:
        base_url = "http://127.0.0.1:8000" if settings.is_rehearsal else settings.ward.base_url
        async with httpx2.AsyncClient(transport=transport, base_url=base_url) as client:
            site = Site(app=app, web=web, client=client)
            await site.until("/readyz", lambda answer: answer.status_code == 200)
            yield site
    finally:
        over.set()
        await task


# Boards


async def test_an_alert_stands_on_every_board_and_a_cancel_takes_it_off(tmp_path: Path) -> None:
    async with a_site(tmp_path) as site:
        now = site.app.clock.now()
        alert = an_alert(site.app.settings, now=now)
        identifier = site.issues(alert)
        headline = alert.info.headline
        await site.until("/feeds/all.rss", lambda answer: headline in answer.text)
        page = (await site.get("/emergency")).text
        assert "警戒レベル４" in page
        assert "避難指示（目黒川）" in page
        assert headline in (await site.get("/feeds/emergency.json")).json()["items"][0]["title"]
        assert "避難" in (await site.get("/dial/current.txt")).text
        assert (await site.get("/signage/S01.json")).json()["takeover"] is not None
        site.app.pipeline.change(identifier, Change.CANCEL, STAFF)
        await site.until(
            "/feeds/all.json", lambda answer: not any(identifier in item["id"] for item in answer.json()["items"])
        )
        assert "取消" in (await site.get("/emergency")).text


async def test_a_board_is_asked_for_only_when_it_has_changed(tmp_path: Path) -> None:
    async with a_site(tmp_path) as site:
        site.issues(a_sample(site.app.settings, "N02", now=site.app.clock.now()))
        first = await site.until("/signage/S01.json", lambda answer: "イベント" in answer.text)
        again = await site.get("/signage/S01.json", If_None_Match=first.headers["etag"])
        assert again.status_code == 304
        assert again.content == b""
        head = await site.client.head("/signage/S01.json")
        assert head.headers["content-length"] == str(len(first.content))
        assert first.headers["access-control-allow-origin"] == "*"
        assert not first.headers["etag"].startswith("W/")
        wire = (
            sum(len(name) + len(value) + 4 for name, value in again.headers.raw)
            + len(b"HTTP/1.1 304 Not Modified\r\n\r\n")
            + 60
        )
        assert wire < 400, "with the server's date line"


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (["{tag}"], 304),
        (["W/{tag}"], 304),
        (['"other", {tag}'], 304),
        (['W/"other",W/{tag} , "third"'], 304),
        (['"other"', "{tag}"], 304),
        (["*"], 304),
        ([" * "], 304),
        (['"other"'], 200),
        (['"*"'], 200),
        (["{bare}"], 200),
        ([""], 200),
        ([], 200),
    ],
)
async def test_a_tag_is_known_alone_weak_in_a_list_or_on_a_line_of_its_own(
    tmp_path: Path, asked: list[str], status: int
) -> None:
    async with a_site(tmp_path) as site:
        whole = await site.get("/feeds/all.json")
        tag = whole.headers["etag"]
        headers = [("If-None-Match", line.format(tag=tag, bare=tag.strip('"')[:-1])) for line in asked]
        for method in ("GET", "HEAD"):
            answer = await site.client.request(method, "/feeds/all.json", headers=headers)
            assert answer.status_code == status
            assert answer.headers["etag"] == tag
            assert answer.content == (whole.content if (method, status) == ("GET", 200) else b"")


async def test_the_hundredth_poll_gets_what_the_first_one_got(tmp_path: Path) -> None:
    """The messages to the server are shared by all polls: nobody on the way may have added to them."""
    async with a_site(tmp_path) as site:
        first = await site.get("/signage/S01.json", Accept_Encoding="gzip, br")
        known = await site.get("/signage/S01.json", If_None_Match=first.headers["etag"])
        for _ in range(98):
            await site.get("/signage/S01.json", If_None_Match=first.headers["etag"])
        last = await site.get("/signage/S01.json", Accept_Encoding="gzip, br")
        again = await site.get("/signage/S01.json", If_None_Match=first.headers["etag"])
        assert (last.headers.raw, last.content) == (first.headers.raw, first.content)
        assert again.headers.raw == known.headers.raw
        assert "content-encoding" not in last.headers, "as it stands, for every screen: nginx may pack it"


async def test_a_board_can_only_be_read(tmp_path: Path) -> None:
    async with a_site(tmp_path) as site:
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            assert (await site.client.request(method, "/signage/S01.json")).status_code in (404, 405), method


async def test_a_page_s_short_name_is_the_page_in_every_language_and_for_drills(tmp_path: Path) -> None:
    async with a_site(tmp_path) as site:
        site.issues(an_alert(site.app.settings, now=site.app.clock.now()))
        await site.until("/emergency?lang=en", lambda answer: "Evacuation Order" in answer.text)
        for short, long in (("/", "/index.html"), ("/emergency", "/emergency.html")):
            for folder in ("", "/drill"):
                one, other = await site.get(folder + short), await site.get(folder + long)
                assert one.status_code == 200
                assert one.content == other.content
            named = await site.get(f"{long.removesuffix('.html')}.en.html")
            assert named.status_code == 200
            for query in ("lang=en", "a=b&lang=en", "lang=%65n", "lang=en&lang=ko"):
                assert (await site.get(f"{short}?{query}")).content == named.content, query
        plain = await site.get("/emergency")
        for query in ("lang=", "lang=xx", "lang=en.html", "lang=../en", "lang", "x=1", "lang=%ff", "=" * 500):
            assert (await site.get(f"/emergency?{query}")).content == plain.content, query
        assert (await site.get("/drill/drill/")).status_code == 404


async def test_an_alert_leaves_every_board_at_its_end_with_no_sender_and_no_scheduler(tmp_path: Path) -> None:
    clock = FrozenClock(NOW)
    async with a_site(tmp_path, clock=clock) as site:
        alert = an_alert(site.app.settings, now=NOW)
        site.issues(alert)
        await site.until("/dial/current.txt", lambda answer: "避難" in answer.text)
        clock.move_to(alert.expires_at - timedelta(seconds=1))
        assert "避難" in (await site.get("/dial/current.txt")).text
        clock.move(timedelta(seconds=1))
        await site.until("/dial/current.txt", lambda answer: "緊急のお知らせはありません" in answer.text)
        await site.until("/signage/S01.json", lambda answer: answer.json()["takeover"] is None)


async def test_a_drill_is_on_its_own_boards_only(tmp_path: Path) -> None:
    async with a_site(tmp_path) as site:
        site.issues(an_alert(site.app.settings, now=site.app.clock.now(), mode=Mode.DRILL))
        await site.until("/drill/dial/current.txt", lambda answer: "避難" in answer.text)
        for path in ("/dial/current.txt", "/feeds/all.rss", "/emergency", "/", "/signage/S01.json"):
            assert "訓練" not in (await site.get(path)).text, path
        for path in ("/drill/feeds/all.rss", "/drill/emergency", "/drill/signage/S01.json", "/drill/dial/current.ssml"):
            assert "訓練" in (await site.get(path)).text, path


async def test_languages_are_asked_for_by_name(tmp_path: Path) -> None:
    async with a_site(tmp_path) as site:
        site.issues(an_alert(site.app.settings, now=site.app.clock.now()))
        await site.until("/emergency?lang=en", lambda answer: "Evacuation Order" in answer.text)
        assert "피난" in (await site.get("/dial/current.txt?lang=ko")).text
        strange = await site.get("/dial/current.txt?lang=../../etc/passwd")
        assert strange.text == (await site.get("/dial/current.txt")).text


@pytest.mark.parametrize(
    "path",
    [
        "/signage/../../etc/passwd",
        "/signage/%00.json",
        "/signage/" + "x" * 10_000,
        "/signage/Ｓ０１.json",
        "/media/../keyring",
        "/media/" + "0" * 64 + ".jpg",
        "/nothing",
    ],
)
async def test_what_is_not_there_is_not_there(tmp_path: Path, path: str) -> None:
    async with a_site(tmp_path) as site:
        answer = await site.get(path)
        assert answer.status_code == 404
        assert "Traceback" not in answer.text


async def test_the_careful_headers_are_on_every_answer(tmp_path: Path) -> None:
    async with a_site(tmp_path) as site:
        for path in (
            "/",
            "/emergency",
            "/feeds/all.rss",
            "/signage/S01.json",
            "/dial/current.txt",
            "/nothing",
            "/api/openapi.json",
        ):
            answer = await site.get(path)
            assert answer.headers["x-content-type-options"] == "nosniff", path
            assert "server" not in answer.headers
        for path in ("/", "/emergency"):
            policy = (await site.get(path)).headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy


async def test_hostile_text_stays_text(tmp_path: Path) -> None:
    async with a_site(tmp_path) as site:
        hostile = "<script>alert(1)</script>&\"' ]]> ﾃｽﾄ ①㈱髙𠮷 שלום 👨‍👩‍👧"
        site.issues(a_notice(site.app.settings, title=hostile[:90], body=hostile, now=site.app.clock.now()))
        await site.until("/feeds/all.json", lambda answer: "alert(1)" in answer.text)
        for path in ("/", "/feeds/all.rss", "/feeds/all.atom"):
            assert "<script>" not in (await site.get(path)).text
        assert json.loads((await site.get("/feeds/all.json")).text)["items"][0]["title"] == hostile[:90]


# Leaving


async def test_a_link_shows_when_opened_and_acts_when_posted(tmp_path: Path) -> None:
    async with a_site(tmp_path) as site:
        with site.app.database.write() as connection:
            subscribers.put(connection, [a_reader(1), a_reader(2)])
        token = site.app.keyring.mint_leave(1, 0, 3)
        for _ in range(3):
            shown = await site.get(f"/u/{token}")
            assert "配信をやめますか" in shown.text
        assert shown.headers["cache-control"] == "no-store"
        assert _topics(site, 1) == 63, "opening changes nothing: scanners open every link"
        done = await site.client.post(f"/u/{token}", data={"List-Unsubscribe": "One-Click"})
        assert done.status_code == 200
        assert _topics(site, 1) == 63 & ~8
        assert _topics(site, 2) == 63
        again = await site.client.post(f"/u/{token}", data={"List-Unsubscribe": "One-Click"})
        assert again.text == done.text


async def test_a_wrong_link_looks_like_an_unknown_one(tmp_path: Path) -> None:
    async with a_site(tmp_path) as site:
        with site.app.database.write() as connection:
            subscribers.put(connection, [a_reader()])
        token = site.app.keyring.mint_leave(1, 0, 3)
        unknown = await site.get(f"/u/{site.app.keyring.mint_leave(99, 0, 3)}")
        for place in range(0, len(token), 3):
            flipped = token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
            answer = await site.client.post(f"/u/{flipped}")
            assert (answer.status_code, answer.text) == (404, unknown.text)
        assert _topics(site, 1) == 63


def _topics(site: Site, id: int) -> int:
    with site.app.database.read() as connection:
        reader = subscribers.get(connection, id)
    assert reader is not None
    return reader.topics


# API

ALERT = {"preset": "E04", "slots": {"river": "立会川", "area": "東大井一丁目"}}
NOTICE = {
    "title": "図書館の休館",
    "category": "notice",
    "area": "whole",
    "expires_at": "2099-12-03T17:00:00+09:00",
    "summary": "休館します。",
    "body": "12月3日は休館します。",
    "channels": ["email", "rss"],
}


async def test_an_alert_by_the_api_goes_out_and_is_taken_back(tmp_path: Path) -> None:
    async with a_site(tmp_path) as site:
        duty = site.token(Role.DUTY)
        made = await site.client.post("/api/v1/alerts", json=ALERT, headers=duty)
        assert made.status_code == 201
        identifier = made.json()["identifier"]
        assert made.json()["state"] == "issued"
        shown = (await site.client.get(f"/api/v1/messages/{identifier}", headers=duty)).json()
        assert {row["channel"] for row in shown["deliveries"]} >= {"email", "x", "rss", "signage", "dial"}
        corrected = await site.client.post(
            f"/api/v1/messages/{identifier}/changes",
            json={"change": "correction", "slots": {"area": "東大井二丁目"}},
            headers=duty,
        )
        assert corrected.status_code == 201
        late = await site.client.post(f"/api/v1/messages/{identifier}/changes", json={"change": "cancel"}, headers=duty)
        assert late.status_code == 422
        assert "替わって" in late.json()["problems"][0]["ja"]


async def test_the_same_key_twice_is_one_act(tmp_path: Path) -> None:
    async with a_site(tmp_path) as site:
        headers = {**site.token(Role.DUTY), "Idempotency-Key": "night-1"}
        one, two = await asyncio.gather(
            *(site.client.post("/api/v1/alerts", json=ALERT, headers=headers) for _ in range(2))
        )
        assert one.json() == two.json()
        other = await site.client.post("/api/v1/alerts", json={**ALERT, "preset": "E08", "slots": {}}, headers=headers)
        assert other.status_code == 409
        listed = (await site.client.get("/api/v1/messages", headers=headers)).json()
        assert len(listed) == 1


async def test_a_writer_proposes_and_an_approver_sends(tmp_path: Path) -> None:
    async with a_site(tmp_path) as site:
        writer, approver = site.token(Role.WRITER), site.token(Role.APPROVER)
        made = await site.client.post("/api/v1/messages", json=NOTICE, headers=writer)
        assert made.json()["state"] == "submitted"
        identifier = made.json()["identifier"]
        assert (await site.client.post("/api/v1/alerts", json=ALERT, headers=writer)).status_code == 403
        assert (await site.client.post(f"/api/v1/messages/{identifier}/approval", headers=writer)).status_code == 403
        done = await site.client.post(f"/api/v1/messages/{identifier}/approval", headers=approver)
        assert done.json()["state"] == "issued"
        again = await site.client.post(f"/api/v1/messages/{identifier}/approval", headers=approver)
        assert again.status_code == 409


async def test_a_drill_token_cannot_name_anything_live(tmp_path: Path) -> None:
    async with a_site(tmp_path) as site:
        live = (await site.client.post("/api/v1/alerts", json=ALERT, headers=site.token(Role.DUTY))).json()[
            "identifier"
        ]
        drill = site.token(Role.ADMIN, Mode.DRILL)
        assert (await site.client.get(f"/api/v1/messages/{live}", headers=drill)).status_code == 404
        cancel = await site.client.post(f"/api/v1/messages/{live}/changes", json={"change": "cancel"}, headers=drill)
        assert cancel.status_code == 404
        made = await site.client.post("/api/v1/alerts", json=ALERT, headers=drill)
        assert made.json()["mode"] == "drill"


async def test_in_a_live_installation_an_alert_by_the_api_is_a_proposal(tmp_path: Path) -> None:
    live = {"BROADCASTER_INSTALLATION": "live", "BROADCASTER_BASE_URL": "https://www.example.lg.jp"}
    async with a_site(tmp_path, **live) as site:
        slots = {"river": "立会川", "area": "東大井一丁目", "shelters": "立会小学校"}
        made = await site.client.post(
            "/api/v1/alerts", json={"preset": "E04", "slots": slots}, headers=site.token(Role.DUTY)
        )
        assert made.json()["state"] == "submitted"
        assert (await site.get("/rehearsal")).status_code == 404


async def test_a_live_installation_answers_to_its_own_names_only(tmp_path: Path) -> None:
    live = {"BROADCASTER_INSTALLATION": "live", "BROADCASTER_BASE_URL": "https://www.example.lg.jp"}
    async with a_site(tmp_path, **live) as site:
        for path in ("/desk/sign-in", "/api/openapi.json", "/u/x", "/healthz"):
            assert (await site.get(path)).status_code != 421, path
            for host in ("evil.test", "www.example.lg.jp.evil.test", "", "[", "10.0.0.5"):
                refused = await site.get(path, Host=host)
                assert (refused.status_code, "evil" in refused.text) == (421, False), (path, host)
        for path, status in (("/healthz", 200), ("/metrics", 200), ("/desk/sign-in", 421)):
            assert (await site.get(path, Host="127.0.0.1:8000")).status_code == status, path
        assert (await site.get("/desk/sign-in", Host="WWW.example.lg.jp:443")).status_code == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"{", 422),
        (b"[]", 422),
        (b'{"title": NaN}', 422),
        (b'{"title": "a", "title": "b"}', 422),
        (b"[" * 10_000, 422),
        (b'{"titel": "a"}', 422),
        (b"\xff\xfe", 422),
        (b" " * (1 << 20) + b"{}", 413),
    ],
)
async def test_a_body_that_is_no_notice_gets_sentences(tmp_path: Path, body: bytes, status: int) -> None:
    async with a_site(tmp_path) as site:
        answer = await site.client.post("/api/v1/messages", content=body, headers=site.token(Role.APPROVER))
        assert answer.status_code == status
        assert all(problem["ja"] and problem["en"] for problem in answer.json()["problems"])


@pytest.mark.parametrize(
    "shown", ["", "Bearer", "Bearer x", "Basic eDp5", "Bearer bcast_live_aaaaaaaa_" + "x" * 43, "Bearer \u3042"]
)
async def test_without_a_token_nothing_is_said(tmp_path: Path, shown: str) -> None:
    async with a_site(tmp_path) as site:
        answer = await site.client.get("/api/v1/messages", headers={"Authorization": shown.encode()})
        assert answer.status_code == 401
        assert "token create" in answer.json()["problems"][0]["ja"]


async def test_health_says_only_ok_and_numbers_stay_at_home(tmp_path: Path) -> None:
    async with a_site(tmp_path) as site:
        assert (await site.get("/healthz")).text == "ok\n"
        numbers = (await site.get("/metrics")).text
        assert "broadcaster_waiting" in numbers
        assert "@" not in numbers
        assert (await site.get("/metrics", X_Forwarded_For="203.0.113.9")).status_code == 403
