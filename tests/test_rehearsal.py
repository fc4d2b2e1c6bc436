"""The rehearsal page: what arrived is shown as it arrived, live and drill apart, and nothing that arrived can act."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from email.message import EmailMessage
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import aiosmtplib
import pytest

from broadcaster import boards
from broadcaster.channel import Board
from broadcaster.clock import FrozenClock, local
from broadcaster.delivery import Counts, State
from broadcaster.message import Mode
from broadcaster.rehearsal import received, smtp, town
from broadcaster.rehearsal.faults import Fault, Kind
from broadcaster.rehearsal.received import masked
from broadcaster.store import audit, subscribers
from broadcaster.web import street
from tests.makers import NOW, a_reader, a_sample, an_alert
from tests.test_page import Document
from tests.test_web import Site, a_site

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>&\"'"
HERE = {"Origin": "http://127.0.0.1:8000"}


@asynccontextmanager
async def a_street(folder: Path, **environment: str) -> AsyncIterator[Site]:
    """The site at a standing clock, so that seconds are exact."""
    async with a_site(folder, clock=FrozenClock(NOW), **environment) as site:
        yield site


class Page(Document):
    VOID = Document.VOID | {"input"}


def home(site: Site) -> Path:
    return site.app.settings.home


async def put_boards(site: Site) -> None:
    """What the sender does: every board's pages into the public folders."""
    now = site.app.clock.now()
    for mode in Mode:
        with site.app.database.read() as connection:
            messages = boards.in_force(connection, mode, now)
        for channel in site.app.pipeline.channels[mode].values():
            if isinstance(channel, Board):
                for page in boards.pages_of(channel, messages, now):
                    await channel.deliver(page)


async def mails_arrive(site: Site, *mails: EmailMessage) -> None:
    """Over the wire, at the relay that ships with the product."""
    folder, clock = town.mail_folder(home(site)), site.app.clock
    server = await smtp.start(folder, town.faults_of(home(site)), clock=clock, port=0)
    try:
        for mail in mails:
            await aiosmtplib.send(
                mail, sender="bounce@mail.city.shinagawa.example.jp", hostname="127.0.0.1", port=server.port
            )
    finally:
        await server.close()


def a_mail(
    *,
    subject: str = "避難指示（目黒川）",
    text: str = "全員避難してください。",
    html: str = "",
    to: str = "sakura.saku@docomo.example",
    sender: str = "shina-mail",
    language: str = "ja",
    id: str = "1",
) -> EmailMessage:
    mail = EmailMessage()
    mail["From"] = f"しなメール（品川区） <{sender}@mail.city.shinagawa.example.jp>"
    mail["To"] = to
    mail["Subject"] = subject
    mail["Date"] = format_datetime(local(NOW - timedelta(seconds=7)))
    mail["Message-ID"] = f"<{id}@mail.city.shinagawa.example.jp>"
    mail.set_content(text)
    if html:
        mail.add_alternative(html, subtype="html")
    mail["Content-Language"] = language
    return mail


def a_post(text: str = "避難指示（目黒川）", *, id: str = "1900000000000000001", **changes: Any) -> dict[str, Any]:
    """As broadcaster/rehearsal/x.py keeps it."""
    at = NOW.isoformat()
    return {"id": id, "text": text, "created_at": at, "reply_to": None, "media": [], "deleted_at": None, **changes}


def posts_stand(site: Site, *posts: dict[str, Any]) -> Path:
    file = town.x_folder(home(site)) / "posts.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(posts, ensure_ascii=False), encoding="utf-8")
    return file


def card(page: str, medium: str) -> str:
    found = re.search(rf'<section class="card c-{medium}".*?</section>', page, re.DOTALL)
    assert found, f"no card for {medium}"
    return found[0]


# What arrived


async def test_an_alert_is_seen_on_every_medium_in_one_street(tmp_path: Path) -> None:
    async with a_street(tmp_path) as site:
        alert = an_alert(site.app.settings, now=NOW)
        site.issues(alert)
        await put_boards(site)
        await mails_arrive(site, a_mail(subject=alert.info.headline))
        posts_stand(site, a_post(alert.info.summary))
        answer = await site.get("/rehearsal")
        assert answer.status_code == 200
        page = answer.text
        assert "これは練習です。外へは何も送られていません。" in page
        assert alert.info.headline in card(page, "email")
        assert alert.info.summary in card(page, "x")
        assert "避難指示（目黒川）" in card(page, "signage")
        assert "避難" in card(page, "dial")
        assert alert.info.headline in card(page, "rss")
        assert 'src="/rehearsal/page/shown"' in card(page, "page")
        order = [page.index(f'id="{medium}"') for medium in ("email", "x", "signage", "dial", "rss", "page")]
        assert order == sorted(order)


async def test_the_page_is_well_formed_and_says_where_one_is(tmp_path: Path) -> None:
    async with a_street(tmp_path) as site:
        for path in ("/rehearsal", "/rehearsal?lang=en", "/rehearsal?place=drill", "/rehearsal/x", "/rehearsal/issues"):
            page = Page((await site.get(path)).text)
            tags = [tag for tag, _ in page.elements]
            assert (tags.count("h1"), tags.count("main")) == (1, 1), path
            assert "script" not in tags
            assert not [attributes for _, attributes in page.elements if "style" in attributes]
            ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
            assert len(ids) == len(set(ids)), path
            assert not [
                a for _, a in page.elements if re.match(r"(?:https?:)?//", a.get("href", "") + a.get("src", ""))
            ]


async def test_a_mail_says_when_it_came_and_how_long_after_the_sending(tmp_path: Path) -> None:
    async with a_street(tmp_path) as site:
        await mails_arrive(site, a_mail())
        shown = card((await site.get("/rehearsal")).text, "email")
        assert "12月1日（火） 09:00:00 に届いた" in shown
        assert "出してから7秒" in shown
        assert "7 s after sending" in (await site.get("/rehearsal?lang=en")).text


async def test_mails_are_chosen_by_language(tmp_path: Path) -> None:
    async with a_street(tmp_path) as site:
        english = a_mail(subject="Evacuation Order", text="Leave now.", language="en", id="2")
        await mails_arrive(site, english, a_mail())
        shown = card((await site.get("/rehearsal?told=en")).text, "email")
        assert "Evacuation Order" in shown
        assert "全員避難" not in shown
        assert 'lang="en">Leave now.' in shown
        assert "このことばのメールはまだ届いていません" in (await site.get("/rehearsal?told=ko")).text
        assert (await site.get("/rehearsal?told=xx")).text == (await site.get("/rehearsal")).text


async def test_easy_japanese_is_told_from_japanese_by_what_the_reader_chose(tmp_path: Path) -> None:
    async with a_street(tmp_path) as site:
        chosen = {"email": "a@docomo.example", "domain": "docomo.example", "language": "easy-ja"}
        with site.app.database.write() as connection:
            subscribers.put(connection, [a_reader(email="b@docomo.example"), a_reader(**chosen)])
        await mails_arrive(site, a_mail(subject="逃げて ください", id="x.2"), a_mail(id="x.1"))
        easy = card((await site.get("/rehearsal?told=easy-ja")).text, "email")
        assert "逃げて ください" in easy
        assert "避難指示" not in easy
        plain = card((await site.get("/rehearsal?told=ja")).text, "email")
        assert "避難指示" in plain
        assert "逃げて ください" not in plain


async def test_the_pictures_of_a_post_are_shown_with_their_words(tmp_path: Path) -> None:
    async with a_street(tmp_path) as site:
        file = "ab" * 32 + ".png"
        posts_stand(site, a_post(media=[{"digest": "ab" * 32, "alt": "朝市の大根", "file": file}]))
        (town.x_folder(home(site)) / "media").mkdir()
        (town.x_folder(home(site)) / "media" / file).write_bytes(b"\x89PNG")
        shown = card((await site.get("/rehearsal")).text, "x")
        assert "画像の説明：朝市の大根" in shown
        assert (await site.get(f"/rehearsal/x/media/{file}")).content == b"\x89PNG"
        for strange in ("posts.json", "..%2Fposts.json", "%2e%2e/posts.json", "ab.png", "cd" * 32 + ".png"):
            assert (await site.get(f"/rehearsal/x/media/{strange}")).status_code == 404, strange


async def test_a_post_that_was_taken_back_stays_and_says_so(tmp_path: Path) -> None:
    async with a_street(tmp_path) as site:
        posts_stand(site, a_post("まちがい", deleted_at=NOW.isoformat()))
        assert "取り消し済み" in card((await site.get("/rehearsal")).text, "x")


async def test_a_screen_shows_the_takeover_in_both_shapes_and_then_the_notices(tmp_path: Path) -> None:
    async with a_street(tmp_path) as site:
        site.issues(a_sample(site.app.settings, "N02", now=NOW))
        site.issues(an_alert(site.app.settings, now=NOW))
        await put_boards(site)
        shown = card((await site.get("/rehearsal")).text, "signage")
        assert shown.count('class="glass g4"') == 2
        assert "イベント" not in shown
        english = card((await site.get("/rehearsal?told=en")).text, "signage")
        assert "警戒レベル４" in english
        assert "Evacuation Order" in english
        site.app.clock.move(timedelta(hours=4))  # type: ignore[attr-defined]  # a frozen clock
        later = card((await site.get("/rehearsal")).text, "signage")
        assert "イベント" in later, "a takeover ends at its expiry, whatever the file says"
        assert "g4" not in later
        every_page = (await site.get("/rehearsal/signage?screen=S20")).text
        assert "S20" in every_page
        assert every_page.count('class="frame"') == 4


async def test_a_detail_page_has_fifty_at_most_and_the_rest_behind_a_link(tmp_path: Path) -> None:
    async with a_street(tmp_path) as site:
        posts_stand(site, *(a_post(f"お知らせ{n:03}", id=str(n)) for n in range(120)))
        first, second, third = [(await site.get(f"/rehearsal/x?page={n}")).text for n in (1, 2, 3)]
        assert [page.count('class="post"') for page in (first, second, third)] == [50, 50, 20]
        assert "お知らせ119" in first
        assert "お知らせ000" in third
        assert "/rehearsal/x?page=2" in first
        assert "page=4" not in third
        for strange in ("0", "-1", "x", "９", "9" * 5000):
            assert (await site.get(f"/rehearsal/x?page={strange}")).text == first.replace("page=1", "page=1")


# The source


async def test_the_source_of_a_mail_is_what_came_but_for_the_address(tmp_path: Path) -> None:
    async with a_street(tmp_path) as site:
        sent = a_mail(html="<p>全員避難</p>")
        sent.as_bytes()  # from here on it has its boundary
        await mails_arrive(site, sent)
        page = (await site.get("/rehearsal")).text
        link = re.search(r'href="(/rehearsal/email/[^"]+\.txt)"', page)
        assert link
        source = await site.get(link[1])
        assert source.headers["content-type"] == "text/plain; charset=utf-8"
        expected = sent.as_bytes().replace(b"\r\n", b"\n").replace(b"sakura.saku@", b"s***@")
        assert source.content.replace(b"\r\n", b"\n") == expected


async def test_no_address_is_shown_anywhere(tmp_path: Path) -> None:
    async with a_street(tmp_path) as site:
        to = "sakura.saku@docomo.example"
        await mails_arrive(site, a_mail(text=f"{to} さま", html=f"<p>{to.upper()} {to}</p>", to=to))
        page = (await site.get("/rehearsal")).text
        assert "s***@docomo.example" in page
        paths = ["/rehearsal", "/rehearsal/email", *re.findall(r'"(/rehearsal/email/[^"]+)"', page)]
        assert len(paths) == 4
        for path in paths:
            assert "sakura.saku" not in (await site.get(path)).text.lower(), path


@pytest.mark.parametrize(
    ("address", "shown"),
    [("sakura@docomo.example", "s***@docomo.example"), ('"a..b"@mail.example', "a***@mail.example"), ("none", "***")],
)
def test_an_address_is_masked_to_its_first_letter(address: str, shown: str) -> None:
    assert masked(address) == shown


async def test_the_source_of_a_post_is_its_json(tmp_path: Path) -> None:
    async with a_street(tmp_path) as site:
        posts_stand(site, a_post("全員避難"))
        answer = await site.get("/rehearsal/x/1900000000000000001.json")
        assert answer.json() == a_post("全員避難")
        assert (await site.get("/rehearsal/x/2.json")).status_code == 404


async def test_boards_link_to_the_address_that_the_public_reads(tmp_path: Path) -> None:
    async with a_street(tmp_path) as site:
        site.issues(an_alert(site.app.settings, now=NOW))
        await put_boards(site)
        page = (await site.get("/rehearsal?told=en")).text
        for medium, path in (
            ("signage", "/signage/S01.json"),
            ("dial", "/dial/current.en.ssml"),
            ("rss", "/feeds/all.en.json"),
        ):
            assert f'href="{path}"' in card(page, medium)
            assert (await site.get(path)).status_code == 200


# Nothing that arrived can act


async def test_hostile_words_stay_words_on_every_medium(tmp_path: Path) -> None:
    async with a_street(tmp_path) as site:
        await mails_arrive(site, a_mail(subject=HOSTILE, text=HOSTILE, html=HOSTILE, language='"><script>'))
        posts_stand(site, a_post(HOSTILE, media=[{"digest": "", "alt": HOSTILE, "file": '"><script>'}]))
        item = {
            "title": HOSTILE,
            "summary": HOSTILE,
            "language": '"><script>',
            "date_published": NOW.isoformat(),
            "tags": [HOSTILE],
        }
        feed = {"language": "ja", "items": [item]}
        folder = boards.public_folder(home(site), Mode.LIVE)
        for name, body in (("feeds/all.json", json.dumps(feed)), ("dial/current.txt", HOSTILE)):
            (folder / name).parent.mkdir(parents=True)
            (folder / name).write_text(body, encoding="utf-8")
        for path in ("/rehearsal", "/rehearsal/email", "/rehearsal/x", "/rehearsal/rss", "/rehearsal/dial"):
            page = Page((await site.get(path)).text)
            assert not [tag for tag, _ in page.elements if tag == "script"], path
            assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")], path
            assert any("alert(1)" in text for _, _, text in page.texts), path


async def test_the_html_of_a_mail_stands_in_a_frame_without_scripts_and_without_an_origin(tmp_path: Path) -> None:
    async with a_street(tmp_path) as site:
        await mails_arrive(site, a_mail(html="<p>全員避難</p><script>alert(1)</script>"))
        page = (await site.get("/rehearsal")).text
        frame = re.search(r'<iframe class="letter" src="([^"]+)" sandbox=""', page)
        assert frame
        policy = (await site.get(frame[1])).headers["content-security-policy"]
        assert policy.startswith("sandbox; default-src 'none';")
        assert "script" not in policy
        assert "allow" not in policy
        assert "frame-ancestors 'self'" in policy


@pytest.mark.parametrize(
    "id", ["..%2F..%2Fcleared", "%2e%2e", ".", "%00", "x" * 5000, "..%5c..%5ckeyring", "＊"]
)  # fmt: skip
async def test_only_mails_are_read_from_the_folder_of_mails(tmp_path: Path, id: str) -> None:
    async with a_street(tmp_path) as site:
        await mails_arrive(site, a_mail())
        for ending in ("txt", "html"):
            assert (await site.get(f"/rehearsal/email/{id}.{ending}")).status_code == 404


async def test_the_policy_of_the_page_allows_its_own_style_and_nothing_else(tmp_path: Path) -> None:
    async with a_street(tmp_path) as site:
        answer = await site.get("/rehearsal")
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "script-src" not in policy
        assert answer.headers["cache-control"] == "no-store"
        style = re.search(r'<link rel="stylesheet" href="([^"]+)">', answer.text)
        assert style
        assert (await site.get(style[1])).headers["content-type"].startswith("text/css")


# Live and drill


async def test_live_and_drill_are_never_on_one_page(tmp_path: Path) -> None:
    async with a_street(tmp_path) as site:
        settings = site.app.settings
        site.issues(replace(an_alert(settings, now=NOW), identifier="13109-live"))
        site.issues(replace(an_alert(settings, now=NOW, mode=Mode.DRILL), identifier="13109-drill"))
        await put_boards(site)
        live, drill = a_mail(subject="本物"), a_mail(subject="【訓練】避難", sender="drill", id="2")
        await mails_arrive(site, live, drill)
        answer = a_post("二つ目", id="3", reply_to="2")
        posts_stand(site, a_post("防災訓練のお知らせ", id="1"), a_post("【訓練】これは訓練です。", id="2"), answer)
        there = (await site.get("/rehearsal")).text
        assert "本物" in there
        assert "防災訓練のお知らせ" in there, "a notice about a drill is no drill"
        assert "【訓練】" not in there
        assert "二つ目" not in there
        assert "13109-drill" not in there
        here = (await site.get("/rehearsal?place=drill")).text
        assert "【訓練】避難" in here
        assert "二つ目" in here, "an answer to a drill is a drill"
        assert "本物" not in here
        assert "防災訓練のお知らせ" not in here
        assert "13109-live" not in here
        assert '<body class="drill">' in here
        assert here.count('class="band"') == 2
        assert "【訓練】" in card(here, "rss")
        mail = re.search(r"/rehearsal/email/([^\"?]+)\.txt\?place=drill", here)
        assert mail
        assert (await site.get(f"/rehearsal/email/{mail[1]}.txt")).status_code == 404, "not in the live place"


async def test_the_phone_shows_one_mail_of_each_kind_and_the_detail_page_every_one(tmp_path: Path) -> None:
    async with a_street(tmp_path) as site:
        await mails_arrive(site, *(a_mail(id=f"one.{n:x}", to=f"{n}@docomo.example") for n in range(60)))
        await mails_arrive(site, *(a_mail(subject="休館", id=f"two.{n:x}") for n in range(3)))
        phone = card((await site.get("/rehearsal")).text, "email")
        assert phone.count("避難指示（目黒川）") + phone.count("休館") == 2
        assert "全部で63件" in phone
        pages = [(await site.get(f"/rehearsal/email?page={n}")).text for n in (1, 2, 3)]
        assert [page.count("<summary><span") for page in pages] == [50, 13, 0]


async def test_a_maildir_that_was_emptied_begins_anew(tmp_path: Path) -> None:
    async with a_street(tmp_path) as site:
        await mails_arrive(site, a_mail(subject="前のメール"), a_mail(subject="前のメール", id="2"))
        assert "前のメール" in (await site.get("/rehearsal")).text
        shutil.rmtree(town.mail_folder(home(site)))
        assert "メールはまだ届いていません" in (await site.get("/rehearsal")).text
        await mails_arrive(site, a_mail(subject="次のメール"))
        assert "次のメール" in (await site.get("/rehearsal")).text


async def test_a_drill_is_found_behind_thousands_of_live_mails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(received, "MOST_KEPT", 3)
    async with a_street(tmp_path) as site:
        drill = a_mail(subject="【訓練】避難", sender="drill", id="0")
        await mails_arrive(site, drill, *(a_mail(subject=f"本物{n}", id=str(n)) for n in range(1, 9)))
        assert "【訓練】避難" in (await site.get("/rehearsal?place=drill")).text
        live = (await site.get("/rehearsal/email")).text
        assert [f"本物{n}" in live for n in range(1, 9)] == [False] * 5 + [True] * 3


async def test_every_link_of_a_drill_stays_in_the_drill_but_for_the_door(tmp_path: Path) -> None:
    async with a_street(tmp_path) as site:
        await mails_arrive(site, a_mail(subject="【訓練】", html="<p>訓練</p>", sender="drill"))
        page = Page((await site.get("/rehearsal?place=drill&lang=en")).text)
        links = [a.get("href") or a.get("src") or a.get("action") for _, a in page.elements]
        outside = [link for link in links if link and link.startswith("/rehearsal") and "place=drill" not in link]
        assert [link.partition("?")[0] for link in outside] == ["/rehearsal/style.css", "/rehearsal"], (
            "and the live door"
        )


# When something is missing


async def test_an_empty_town_says_how_to_begin(tmp_path: Path) -> None:
    async with a_street(tmp_path) as site:
        page = (await site.get("/rehearsal")).text
        assert "メールはまだ届いていません" in page
        assert "broadcaster alert E04 --yes" in page
        assert "受け手が動いていません" in card(page, "email")
        for medium in ("email", "x", "signage", "dial", "rss", "page", "issues"):
            assert (await site.get(f"/rehearsal/{medium}")).status_code == 200
        assert (await site.get("/rehearsal/fax")).status_code == 404
        assert (await site.get("/rehearsal/page/shown")).status_code == 404


DAMAGED = [
    "",
    "[{",
    "{}",
    "[1]",
    '[{"id": "1"}]',
    '"x"',
    json.dumps([{**a_post(), "created_at": "yesterday"}]),
    "\xff",
]


@pytest.mark.parametrize("damaged", DAMAGED)
async def test_a_file_that_is_half_written_is_one_sentence_in_one_place(tmp_path: Path, damaged: str) -> None:
    async with a_street(tmp_path) as site:
        posts_stand(site).write_text(damaged, encoding="latin-1")
        folder = boards.public_folder(home(site), Mode.LIVE)
        for name in ("feeds/all.json", "signage/S01.json"):
            (folder / name).parent.mkdir(parents=True)
            (folder / name).write_text(damaged, encoding="latin-1")
        town.folder_of(home(site)).joinpath("faults.json").write_text(damaged, encoding="latin-1")
        await mails_arrive_without_faults(site, a_mail())
        answer = await site.get("/rehearsal")
        assert answer.status_code == 200
        assert "全員避難" in card(answer.text, "email"), "the others go on"
        assert "いまは読めません" in card(answer.text, "rss")
        assert "いまは読めません" in card(answer.text, "signage")
        if damaged != "{}":  # no posts, and no fault
            assert "いまは読めません" in card(answer.text, "x")


async def mails_arrive_without_faults(site: Site, mail: EmailMessage) -> None:
    folder = town.mail_folder(home(site))
    server = await smtp.start(folder, town.faults_of(home(site) / "elsewhere"), clock=site.app.clock, port=0)
    try:
        await aiosmtplib.send(mail, sender="a@city.example.jp", hostname="127.0.0.1", port=server.port)
    finally:
        await server.close()


async def test_a_mail_that_is_no_mail_does_not_stop_the_street(tmp_path: Path) -> None:
    async with a_street(tmp_path) as site:
        new = town.mail_folder(home(site)) / "new"
        new.mkdir(parents=True)
        (new / "0000000000.1.relay").write_bytes(b"\x00\xff no mail at all")
        (new / "0000000000.2.relay").write_bytes(b"Received: yesterday\r\nSubject: =?utf-8?b?x?=\r\n\r\n")
        await mails_arrive(site, a_mail())
        answer = await site.get("/rehearsal")
        assert answer.status_code == 200
        assert "全員避難" in card(answer.text, "email")
        assert (await site.get("/rehearsal/email")).status_code == 200


async def test_in_a_live_installation_there_is_no_such_page(tmp_path: Path) -> None:
    live = {"BROADCASTER_INSTALLATION": "live", "BROADCASTER_BASE_URL": "https://www.example.lg.jp"}
    async with a_site(tmp_path, **live) as site:
        for path in ("/rehearsal", "/rehearsal/x", "/rehearsal/style.css", "/rehearsal/page/shown"):
            assert (await site.get(path)).status_code == 404
        for path in ("/rehearsal/clear", "/rehearsal/faults/x"):
            answer = await site.client.post(path, headers={"Origin": "https://www.example.lg.jp"})
            assert answer.status_code == 404


# How far each sending has come


async def test_every_sending_says_medium_by_medium_how_far_it_has_come(tmp_path: Path) -> None:
    async with a_street(tmp_path) as site:
        identifier = site.issues(an_alert(site.app.settings, now=NOW))
        page = (await site.get("/rehearsal")).text
        sending = page[page.index('class="sending"') :]
        assert identifier in sending
        assert "◔ まだ" in sending
        assert "– 宛先なし" in sending, "nobody has registered yet"


def a_report(**rows: dict[str, Any]) -> street.Sent:
    row = {"kind": "push", "state": "queued", "attempts": 1, "settled_at": None, "evidence": "", "counts": {}}
    deliveries = [{**row, "channel": channel, **changes} for channel, changes in rows.items()]
    return street.Sent(report={"sent_at": NOW.isoformat(), "deliveries": deliveries})


def counts(**numbers: int) -> dict[str, Any]:
    return {"kind": "mailing", "counts": {name: numbers.get(name, 0) for name in Counts.__dataclass_fields__}}


@pytest.mark.parametrize(
    ("row", "marks"),
    [
        ({}, {"pending": 1}),
        ({"attempts": 3}, {"retrying": 3}),
        ({"state": "unknown"}, {"unknown": 1}),
        ({"state": "stopped"}, {"stopped": 1}),
        ({"kind": "retract", "state": "delivered"}, {"retracted": 1}),
        (counts(total=9, delivered=5, in_flight=1, stopped=3), {"accepted": 5, "pending": 1, "stopped": 3}),
        (counts(), {"counting": 1}),
        ({**counts(), "settled_at": NOW.isoformat()}, {"no_readers": 1}),
    ],
)
def test_four_ends_and_what_is_under_way_have_words_of_their_own(row: dict[str, Any], marks: dict[str, int]) -> None:
    standing = a_report(x=row).standings[0]
    assert {mark.state: mark.n for mark in standing.marks} == marks


def test_every_state_has_its_word(settings: Any) -> None:
    for state in State:
        told = a_report(x={"state": state.name.lower()}).standings[0].marks[0].state
        assert settings.words.page(f"states_delivery.{told}")
    for kind in Kind:
        assert settings.words.page(f"rehearsal.kinds.{kind}", "en")


def test_the_seconds_run_to_the_last_part() -> None:
    late = (NOW + timedelta(seconds=2.4)).isoformat()
    standing = a_report(x={"state": "delivered", "settled_at": late}).standings[0]
    assert standing.seconds == pytest.approx(2.4)


# Faults, clearing, seeing again


async def test_a_fault_is_set_and_lifted_by_a_form(tmp_path: Path) -> None:
    async with a_street(tmp_path) as site:
        faults = town.faults_of(home(site))
        done = await site.client.post("/rehearsal/faults/email", data={"kind": "429"}, headers=HERE)
        assert (done.status_code, done.headers["location"]) == (303, "/rehearsal#faults")
        assert faults.all() == {"email": Fault(kind=Kind.RATE, seconds=30.0)}
        assert "▲ いまの故障：制限" in (await site.get("/rehearsal")).text
        await site.client.post("/rehearsal/faults/x", data={"kind": "hang"}, headers=HERE)
        await site.client.post("/rehearsal/faults/email", data={"kind": ""}, headers=HERE)
        assert list(faults.all()) == ["x"]
        with site.app.database.read() as connection:
            acts = [(entry.act, entry.object) for entry in audit.entries(connection)]
        assert acts == [("fault.set", "email"), ("fault.set", "x"), ("fault.lifted", "email")]


@pytest.mark.parametrize(
    ("medium", "kind"), [("email", "burn"), ("email", "x" * 5000), ("rss", "hang"), ("fax", "hang")]
)
async def test_a_fault_that_does_not_exist_is_refused_with_a_sentence(tmp_path: Path, medium: str, kind: str) -> None:
    async with a_street(tmp_path) as site:
        answer = await site.client.post(f"/rehearsal/faults/{medium}", data={"kind": kind}, headers=HERE)
        assert answer.status_code == 422
        assert "一覧から選んでください" in answer.text
        assert not town.faults_of(home(site)).all()


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (None, "127.0.0.1:8000"),
        ("null", "127.0.0.1:8000"),
        ("https://attacker.test", "127.0.0.1:8000"),
        ("http://127.0.0.1:8001", "127.0.0.1:8000"),
        ("https://127.0.0.1:8000", "127.0.0.1:8000"),
        ("http://127.0.0.1:8000.attacker.test", "127.0.0.1:8000"),
        ("http://attacker.test", "attacker.test"),
        ("http://127.0.0.1.attacker.test", "127.0.0.1.attacker.test"),
    ],
)
@pytest.mark.parametrize("path", ["/rehearsal/faults/x", "/rehearsal/clear"])
async def test_a_form_on_another_page_changes_nothing(tmp_path: Path, path: str, origin: str | None, host: str) -> None:
    async with a_street(tmp_path) as site:
        posts_stand(site, a_post("のこる"))
        headers = {"Host": host, **({"Origin": origin} if origin else {})}
        answer = await site.client.post(path, data={"kind": "hang"}, headers=headers)
        assert answer.status_code == 403
        assert "練習の町のページからだけ" in answer.text
        assert not town.faults_of(home(site)).all()
        assert "のこる" in (await site.get("/rehearsal")).text


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:8000", "[::1]:8000", "127.0.0.1"])
async def test_on_the_loopback_every_name_of_it_is_ours(tmp_path: Path, host: str) -> None:
    async with a_street(tmp_path) as site:
        headers = {"Host": host, "Origin": f"http://{host}"}
        answer = await site.client.post("/rehearsal/faults/x", data={"kind": "hang"}, headers=headers)
        assert answer.status_code == 303


async def test_behind_a_proxy_the_configured_address_is_ours(tmp_path: Path) -> None:
    async with a_street(tmp_path, BROADCASTER_BASE_URL="https://rehearsal.example.jp/koho") as site:
        headers = {"Host": "10.0.0.5", "Origin": "https://rehearsal.example.jp"}
        assert (await site.client.post("/rehearsal/clear", headers=headers)).status_code == 303


async def test_what_arrived_is_cleared_and_seen_again(tmp_path: Path) -> None:
    async with a_street(tmp_path) as site:
        await mails_arrive(site, a_mail(subject="前のメール"), a_mail(subject="【訓練】前", sender="drill", id="2"))
        posts_stand(site, a_post("前の投稿"))
        cleared = await site.client.post("/rehearsal/clear", data={"what": "clear"}, headers=HERE)
        assert cleared.status_code == 303
        page = (await site.get("/rehearsal")).text
        assert "前のメール" not in page
        assert "前の投稿" not in page
        assert "09:00:00 より前に届いたものを片づけてあります" in page
        assert "【訓練】前" in (await site.get("/rehearsal?place=drill")).text, "the other place keeps its own"
        site.app.clock.move(timedelta(seconds=5))  # type: ignore[attr-defined]  # a frozen clock
        await mails_arrive(site, a_mail(subject="次のメール", id="3"))
        page = (await site.get("/rehearsal")).text
        assert "次のメール" in page
        assert "前のメール" not in page
        await site.client.post("/rehearsal/clear", data={"what": "again"}, headers=HERE)
        page = (await site.get("/rehearsal")).text
        assert "前のメール" in page
        assert "前の投稿" in page


# Looks


def _declared(style: str, selector: str) -> dict[str, str]:
    found = re.search(rf"(?:^|[}}{{\n]){re.escape(selector)}\{{([^}}]*)\}}", style)
    assert found, selector
    return dict(rule.split(":", 1) for rule in found[1].split(";") if rule)


def _contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        digits = colour.removeprefix("#")
        digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
        parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.fixture(scope="session")
def style() -> str:
    from broadcaster.resources import packaged

    return (packaged("templates") / "web" / "rehearsal.css").read_text(encoding="utf-8")


@pytest.mark.parametrize("by_night", [False, True])
def test_every_colour_of_words_can_be_read_by_day_and_by_night(style: str, by_night: bool) -> None:
    tokens = _declared(style, ":root")
    if by_night:
        tokens |= _declared(style[style.index("prefers-color-scheme:dark") :], ":root")
    pairs = [(ink, ground) for ink in ("ink", "quiet", "link", "done") for ground in ("ground", "card")]
    pairs += [(name, f"{name}-ground") for name in ("caution", "unknown", "failed")]
    for ink, ground in pairs:
        assert _contrast(tokens[f"--{ink}"], tokens[f"--{ground}"]) >= 4.5, (ink, ground)
    for ground in ("ground", "card"):
        assert _contrast(tokens["--line"], tokens[f"--{ground}"]) >= 3, ground


def test_the_strip_is_the_blue_of_a_rehearsal(style: str) -> None:
    strip = _declared(style, ".strip")
    assert (strip["background"], strip["color"]) == ("#00428c", "#fff")
    assert "dotted" in strip["border-bottom"]


def test_the_street_is_small(golden: Callable[..., None]) -> None:
    from broadcaster.resources import packaged

    assert len((packaged("templates") / "web" / "rehearsal-street.svg").read_bytes()) <= 20_000
