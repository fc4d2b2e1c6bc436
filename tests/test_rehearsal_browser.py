"""The rehearsal page in a real browser: it looks right on a desk and on a phone, and everybody can use it."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import BrowserContext, Frame, Page

from broadcaster import app as assembly
from broadcaster import manuscript
from broadcaster import settings as configuration
from broadcaster.app import App
from broadcaster.clock import FrozenClock
from broadcaster.message import Message, Mode
from broadcaster.rehearsal import town
from broadcaster.web import create
from tests.browser import ARTIFACTS, a_browser
from tests.house import STAFF
from tests.makers import MEDIA, NOW, an_alert, sample_notices
from tests.servers import served
from tests.test_rehearsal import a_mail, a_post, mails_arrive, posts_stand, put_boards
from tests.waiting import until

pytestmark = pytest.mark.browser

WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
PAGES = (
    "/rehearsal",
    "/rehearsal?lang=en&told=en",
    "/rehearsal?place=drill",
    "/rehearsal/email",
    "/rehearsal/x",
    "/rehearsal/signage?told=ko",
    "/rehearsal/dial",
    "/rehearsal/rss",
    "/rehearsal/page",
    "/rehearsal/issues",
    "/rehearsal/fax",
)


@dataclass(kw_only=True)
class Running:
    """Enough of a site for the makers of the other tests."""

    app: App
    url: str


@asynccontextmanager
async def a_running_site(folder: Path) -> AsyncIterator[Running]:
    settings = configuration.load({"BROADCASTER_HOME": str(folder / "home")})
    app = assembly.assemble(settings, clock=FrozenClock(NOW), standins={"email": 1, "x": 1})
    app.database.upgrade()
    async with served(create(app)) as url:
        yield Running(app=app, url=url)


async def a_frame(page: Page, part: str) -> Frame:
    """The frame whose address holds this, once it is there and has been loaded."""
    frame = (await until(lambda: [frame for frame in page.frames if part in frame.url]))[0]
    await frame.wait_for_load_state("networkidle")
    return frame


async def a_day_passes(site: Any) -> None:
    """A notice with a picture, an evacuation order, a post that was taken back, and a drill."""
    settings = site.app.settings
    source = manuscript.moved_manuscript(sample_notices(settings)["N02"], NOW)
    fetch = site.app.pictures_from(settings.config / "rehearsal" / "images")
    notice = manuscript.read(source, ward=settings.ward, media=MEDIA, now=NOW, mode=Mode.LIVE, fetch=fetch)
    alert, drill = an_alert(settings, now=NOW), an_alert(settings, "E02", now=NOW, mode=Mode.DRILL)
    for message in (notice, alert, drill):
        site.app.pipeline.hand_in(message.__class__(**{**vars(message), "sent_at": None}), STAFF)
    await put_boards(site)
    number = iter(range(1, 100))
    mails = [
        a_mail(
            subject=info.headline,
            text=info.description,
            html="" if plain else _as_html(info.headline, info.description),
            language=info.language,
            sender="drill" if message.is_drill else "shina-mail",
            id=str(next(number)),
        )
        for message in (notice, alert, _watermarked(site.app, drill))
        for plain, info in enumerate(message.infos)
    ]
    await mails_arrive(site, *mails)
    posts = [a_post("きょうの午後のお知らせに、まちがいがありました。", id="1", deleted_at=NOW.isoformat())]
    for at, message in enumerate((notice, alert, _watermarked(site.app, drill)), 2):
        texts = [part.content["text"] for part in site.app.pipeline.channels[message.mode]["x"].compose(message)]
        posts += [a_post(text, id=f"{at}{part}") for part, text in enumerate(texts)]
    image = notice.images[0]
    posts[1]["media"] = [{"digest": image.digest, "alt": image.alt, "file": f"{image.digest}.jpg"}]
    posts_stand(site, *posts)
    media = town.x_folder(settings.home) / "media"
    media.mkdir(exist_ok=True)
    stored = next(site.app.media_folder.rglob(f"{image.digest}*"))
    shutil.copy(stored, media / f"{image.digest}.jpg")


def _watermarked(app: App, message: Message) -> Message:
    from broadcaster.drill import watermarked

    return watermarked(message, app.settings.words)


def _as_html(headline: str, text: str) -> str:
    body = "".join(f"<p>{escape(line)}</p>" for line in text.split("\n") if line)
    return f'<html lang="ja"><body style="font:18px/1.7 sans-serif"><h1>{escape(headline)}</h1>{body}<script>document.title="ran"</script></body></html>'


async def visit(context: BrowserContext, url: str) -> Page:
    page = await context.new_page()
    await page.goto(url, wait_until="networkidle")
    return page


@pytest.mark.parametrize(("name", "size"), [("1280", WIDE), ("390", NARROW)])
async def test_the_street_fits_a_desk_and_a_phone(tmp_path: Path, name: str, size: Any) -> None:
    ARTIFACTS.mkdir(exist_ok=True)
    async with a_running_site(tmp_path) as site, a_browser() as browser:
        await a_day_passes(site)
        context = await browser.new_context(viewport=size)
        for path in PAGES:
            page = await visit(context, site.url + path)
            file = path.strip("/").translate(str.maketrans("/?=&", "----"))
            for frame in await page.locator("iframe:visible, img:visible").all():
                await frame.scroll_into_view_if_needed()  # what is loaded late is loaded now
            await page.wait_for_load_state("networkidle")
            await page.screenshot(path=ARTIFACTS / f"{file}-{name}.png", full_page=True)
            across = await page.evaluate("document.documentElement.scrollWidth")
            assert across <= size["width"], f"{path} is {across} wide"
            await page.close()
        empty = await visit(context, site.url + "/rehearsal/email?told=tl&place=drill")
        assert await empty.locator("h1").count() == 1


async def test_nothing_is_asked_of_another_host_and_no_rule_of_the_policy_is_broken(tmp_path: Path) -> None:
    async with a_running_site(tmp_path) as site, a_browser() as browser:
        await a_day_passes(site)
        context = await browser.new_context(viewport=WIDE)
        asked, complaints = [], []
        context.on("request", lambda request: asked.append(request.url))
        context.on("console", lambda message: complaints.append((message.location["url"], message.text)))
        page = await visit(context, site.url + "/rehearsal")
        assert [url for url in asked if not url.startswith(site.url)] == []
        await page.locator("#email summary").click()
        await page.locator("iframe.letter").scroll_into_view_if_needed()
        letter = await a_frame(page, ".html")  # a quiet network alone does not say that it has begun
        assert await letter.title() != "ran", "a script in a mail does not run"
        of_the_page = [
            (url, text) for url, text in complaints if url != letter.url and not url.endswith("/favicon.ico")
        ]
        assert of_the_page == [], "the page itself breaks no rule of its policy"


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing(tmp_path: Path, scheme: Any) -> None:
    async with a_running_site(tmp_path) as site, a_browser() as browser:
        await a_day_passes(site)
        # The policy would keep axe out too; it is checked by the test above.
        context = await browser.new_context(viewport=NARROW, bypass_csp=True, color_scheme=scheme)
        for path in PAGES:
            page = await visit(context, site.url + path)
            results = await Axe().run(page, options={"resultTypes": ["violations"], "iframes": False})
            assert results.violations_count == 0, f"{path}\n{results.generate_report()}"
            await page.close()


async def test_a_fault_is_set_lifted_and_what_arrived_cleared_by_keyboard_alone(tmp_path: Path) -> None:
    async with a_running_site(tmp_path) as site, a_browser() as browser:
        await a_day_passes(site)
        context = await browser.new_context(viewport=WIDE, java_script_enabled=False)
        page = await visit(context, site.url + "/rehearsal")
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        assert page.url.endswith("#main"), "the first stop skips to the content"

        async def press(text: str) -> None:
            button = page.get_by_role("button", name=text).first
            await button.focus()
            async with page.expect_navigation():
                await page.keyboard.press("Enter")

        await page.get_by_label("故障の種類").first.select_option("hang")
        await press("故障を起こす")
        assert await page.get_by_text("いまの故障：無言").count() == 1
        assert list(town.faults_of(site.app.settings.home).all()) == ["email"]
        await press("故障を直す")
        assert await page.get_by_text("いまの故障").count() == 0
        await press("届いたものを片づける")
        assert await page.get_by_text("メールはまだ届いていません").count() == 1
        await press("もう一度見る")
        assert await page.get_by_text("メールはまだ届いていません").count() == 0


async def test_a_form_in_a_frame_or_on_a_foreign_page_does_nothing(tmp_path: Path) -> None:
    async with a_running_site(tmp_path) as site, a_browser() as browser:
        form = f'<form method="post" action="{site.url}/rehearsal/faults/x"><input name="kind" value="hang"><button>go</button></form>'
        await mails_arrive(site, a_mail(html=form))
        context = await browser.new_context(viewport=WIDE)
        page = await visit(context, site.url + "/rehearsal")
        await page.locator("#email summary").click()
        await page.frame_locator("iframe.letter").get_by_text("go").click()
        foreign = await context.new_page()
        await foreign.set_content(form)
        async with foreign.expect_navigation():
            await foreign.get_by_text("go").click()
        assert "練習の町のページからだけ" in await foreign.content()
        assert not town.faults_of(site.app.settings.home).all()


async def test_everything_can_be_read_at_twice_the_size(tmp_path: Path) -> None:
    async with a_running_site(tmp_path) as site, a_browser() as browser:
        await a_day_passes(site)
        context = await browser.new_context(viewport={"width": 320, "height": 600})  # 640 at 200 %: WCAG 1.4.10
        page = await visit(context, site.url + "/rehearsal")
        assert await page.evaluate("document.documentElement.scrollWidth") <= 320
        small = await page.evaluate(
            """[...document.querySelectorAll("main a, main button, main select, main summary")]
               .filter(e => e.checkVisibility() && e.getBoundingClientRect().height < 40)
               .map(e => e.outerHTML.slice(0, 120))"""
        )
        assert small == [], "each can be met by a finger"
