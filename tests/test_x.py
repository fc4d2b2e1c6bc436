"""X: one notice, one post; a long alert, a thread; and never twice, whatever becomes of the connection."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import regex
import yaml
from aiohttp import web
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from broadcaster import app as assembly
from broadcaster import changes, weighted
from broadcaster import settings as configuration
from broadcaster.app import App
from broadcaster.channel import (
    ChannelClosed,
    DeliveryFailure,
    Kit,
    OutcomeUnknown,
    PermanentFailure,
    Push,
    Receipt,
    TemporaryFailure,
)
from broadcaster.clock import FrozenClock, minutes
from broadcaster.delivery import Lane, State
from broadcaster.drill import watermarked
from broadcaster.message import Change, Image, Info, Message, Mode, Urgency
from broadcaster.rehearsal import x as standin
from broadcaster.rehearsal.faults import Fault, Faults, Kind
from broadcaster.settings import Settings
from broadcaster.store import deliveries, issues
from broadcaster.weighted import LIMIT, links, weighted_length
from channels.x import MOST_ALT, X
from tests.house import STAFF
from tests.makers import NOW, a_kit, a_notice, a_sample, an_alert, frozen_clock, sample_notices

PICTURE = b"\xff\xd8 not much of a picture"
ADDRESS = "https://www.city.shinagawa.example.jp"


@pytest.fixture
def clock() -> FrozenClock:
    return frozen_clock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "x"


@pytest.fixture
def faults(tmp_path: Path) -> Faults:
    return Faults(tmp_path / "faults.json")


@pytest.fixture
async def server(folder: Path, faults: Faults, clock: FrozenClock) -> AsyncIterator[standin.Server]:
    running = await standin.start(folder, faults, clock=clock)
    yield running
    await running.close()


def kit(settings: Settings, *, mode: Mode = Mode.LIVE, clock: FrozenClock | None = None, **options: Any) -> Kit:
    """As in a live installation whose X is the stand-in."""
    return a_kit(
        settings,
        mode=mode,
        ward=replace(settings.ward, base_url=ADDRESS),
        clock=clock or frozen_clock(),
        options={**settings.channel_options["x"], "account": standin.ACCOUNT, **options},
        secret=standin.REHEARSAL_KEYS.get,
        picture=lambda digest: PICTURE,
    )


@pytest.fixture
async def x(settings: Settings, server: standin.Server, clock: FrozenClock) -> AsyncIterator[X]:
    async with a_channel(settings, server.port, clock) as channel:
        yield channel


@asynccontextmanager
async def a_channel(
    settings: Settings, port: int, clock: FrozenClock, *, mode: Mode = Mode.LIVE, **options: Any
) -> AsyncIterator[X]:
    channel = X.built(kit(settings, mode=mode, clock=clock, base_url=f"http://127.0.0.1:{port}", **options))
    yield channel
    await channel.close()


def posted(folder: Path) -> list[dict[str, Any]]:
    """What residents see, oldest first."""
    file = folder / "posts.json"
    posts = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    return [post for post in posts if post["deleted_at"] is None]


async def tell(channel: X, message: Message) -> list[Receipt]:
    """Every part, each after the one before."""
    receipts: list[Receipt] = []
    for payload in channel.compose(message):
        previous = receipts[-1] if payload.after else None
        receipts.append(await channel.deliver(payload, key=f"{message.identifier}/x/{payload.part}", previous=previous))
    return receipts


async def try_once(channel: X, message: Message) -> Receipt:
    return await channel.deliver(channel.compose(message)[0], key="key", previous=None)


def a_long_alert(settings: Settings, *, sentences: int = 12, mode: Mode = Mode.LIVE) -> Message:
    alert = an_alert(settings, "E04", mode=mode)
    text = "【避難指示】" + "".join(
        f"{n}番目の区域の人は、川から離れた高い所へ避難してください。" for n in range(1, sentences + 1)
    )
    return replace(alert, infos=(replace(alert.info, summary=text),))


def texts(payloads: Any) -> list[str]:
    return [payload.content["text"] for payload in payloads]


# The plain case


async def test_a_notice_is_one_post_with_its_link(x: X, settings: Settings, folder: Path) -> None:
    [receipt] = await tell(x, a_sample(settings, "N02"))
    [post] = posted(folder)
    assert post["id"] == receipt.evidence
    assert post["text"].endswith("https://www.example.lg.jp/event/20261205\n#しながわ #週末イベント")


def test_it_is_a_push(settings: Settings) -> None:
    assert isinstance(X.built(kit(settings)), Push)


async def test_pictures_go_with_the_words_for_those_who_cannot_see_them(x: X, settings: Settings, folder: Path) -> None:
    await tell(x, a_sample(settings, "N01"))
    [post] = posted(folder)
    [picture] = post["media"]
    assert picture["alt"].startswith("広報しながわ12月1日号の表紙")
    assert (folder / "media" / picture["file"]).read_bytes() == PICTURE


async def test_a_long_alert_is_a_thread_and_each_post_answers_the_one_before(
    x: X, settings: Settings, folder: Path
) -> None:
    await tell(x, a_long_alert(settings))
    first, second, *_ = posts = posted(folder)
    assert [post["reply_to"] for post in posts] == [None, *(post["id"] for post in posts[:-1])]
    assert first["text"].endswith(f"(1/{len(posts)})")
    assert second["text"].split("\n")[0].endswith("避難してください。")
    assert posts[-1]["text"].endswith(f"{ADDRESS}/emergency")


async def test_every_post_of_a_drill_carries_the_mark(settings: Settings) -> None:
    drill = watermarked(a_long_alert(settings, mode=Mode.DRILL), settings.words)
    said = texts(X.built(kit(settings, mode=Mode.DRILL)).compose(drill))
    assert len(said) > 1
    assert all(text.startswith("【訓練】") and text.count("【訓練】") == 1 for text in said)


# What it says


@pytest.mark.parametrize("name", ["notices", "alerts", "drills"])
def test_what_residents_will_read(settings: Settings, golden: Callable[[str, str], None], name: str) -> None:
    mode = Mode.DRILL if name == "drills" else Mode.LIVE
    channel = X.built(kit(settings, mode=mode))
    messages = [
        watermarked(message, settings.words)
        for message in (
            [a_sample(settings, id) for id in sample_notices(settings)]
            if name == "notices"
            else [an_alert(settings, id, mode=mode) for id in settings.presets if mode is Mode.DRILL or id != "E12"]
        )
    ]
    golden(f"x/{name}.txt", "\n".join(as_an_editor_reads(message, channel.compose(message)) for message in messages))


def as_an_editor_reads(message: Message, payloads: Any) -> str:
    lines = []
    for payload in payloads:
        content = payload.content
        assert content["weighted_length"] == weighted_length(content["text"]) <= LIMIT
        lines.append(
            f"== {message.identifier} {payload.part}  {content['weighted_length']}/280  {content['cost_yen']}円"
        )
        lines.append(content["text"])
        lines.extend(f"（画像）{image['alt']}" for image in content["images"])
        lines.extend(f"（載らないもの）{sentence}" for sentence in payload.omitted)
    return "\n".join(lines) + "\n"


def test_an_urgent_alert_has_a_tag_even_where_its_words_have_none(settings: Settings) -> None:
    words = Info(language="ja", headline="大雨", summary="川があふれそうです。", description="")
    alert = a_notice(settings, infos=(words,), urgency=Urgency.IMMEDIATE)
    channel = X.built(kit(settings))
    assert texts(channel.compose(alert))[0].startswith("【緊急】川があふれそうです。")
    drill = watermarked(replace(alert, mode=Mode.DRILL), settings.words)
    assert texts(channel.compose(drill))[0].startswith("【訓練】これは訓練です。【緊急】川があふれそうです。")


def test_an_update_tells_its_time_so_that_two_are_never_the_same(settings: Settings) -> None:
    channel = X.built(kit(settings))
    first, second = (
        changes.changed(an_alert(settings), Change.UPDATE, words=settings.words, now=now).sent(now)
        for now in (NOW, NOW + minutes(10))
    )
    assert "午前9時 発表" in texts(channel.compose(first))[0]
    assert "午前9時10分 発表" in texts(channel.compose(second))[0]


def test_a_notice_that_is_too_long_ends_with_a_sentence_and_keeps_its_link(settings: Settings) -> None:
    summary = "図書館は、設備の点検のため休館します。" * 12
    notice = a_notice(settings, title=summary, web="https://www.example.lg.jp/toshokan")
    [payload] = X.built(kit(settings)).compose(notice)
    text, link = payload.content["text"].split("\n")
    assert text.endswith("休館します。…")
    assert link == "https://www.example.lg.jp/toshokan"
    assert payload.omitted[0].startswith("長いので、終わりを省きました：「図書館は")


def test_what_was_cut_and_what_stayed_is_the_whole_text(settings: Settings) -> None:
    summary = "あ" * 300
    [payload] = X.built(kit(settings)).compose(a_notice(settings, title=summary, body=summary))
    kept = payload.content["text"].removesuffix("…")
    [remark] = [sentence for sentence in payload.omitted if "省きました" in sentence]
    assert kept + remark.split("「")[1].rstrip("」") == summary


def test_an_alert_longer_than_its_thread_says_what_is_left_out(settings: Settings) -> None:
    payloads = X.built(kit(settings, thread_parts=2)).compose(a_long_alert(settings, sentences=20))
    assert len(payloads) == 2
    assert payloads[0].omitted == ()
    assert "20番目の区域" in payloads[1].omitted[0]
    assert payloads[1].content["text"].endswith(f"{ADDRESS}/emergency")


@pytest.mark.parametrize("sentences", range(1, 24, 2))
def test_no_sentence_of_a_long_alert_is_lost_or_said_twice(settings: Settings, sentences: int) -> None:
    payloads = X.built(kit(settings)).compose(a_long_alert(settings, sentences=sentences))
    said = "".join([*texts(payloads), *(remark for payload in payloads for remark in payload.omitted)])
    assert [said.count(f"{n}番目の区域の人は") for n in range(10, sentences + 1)] == [1] * max(sentences - 9, 0)
    assert all(f"{n}番目の区域の人は" in said for n in range(1, sentences + 1))


def test_a_link_to_the_emergency_page_gives_way_to_the_words(settings: Settings) -> None:
    alert = an_alert(settings)
    alert = replace(alert, infos=(replace(alert.info, summary="【避難指示】" + "あ" * 118),))
    [payload] = X.built(kit(settings)).compose(alert)
    assert "emergency" not in payload.content["text"]
    assert "緊急のページへのリンクは入りきりません。" in payload.omitted


def test_hashtags_that_do_not_fit_are_named(settings: Settings) -> None:
    notice = a_notice(settings, title="あ" * 134, hashtags=("品川", "とても長いハッシュタグ"))
    [payload] = X.built(kit(settings)).compose(notice)
    assert payload.content["text"].endswith("\n#品川")
    assert "ハッシュタグが入りきりません：#とても長いハッシュタグ" in payload.omitted


def test_a_fifth_picture_and_too_long_a_description_are_named(settings: Settings) -> None:
    pictures = tuple(
        Image(digest=f"{n}" * 64, alt="説" * 1200 if n == 1 else f"{n}枚目", media_type="image/png", width=9, height=9)
        for n in range(1, 6)
    )
    [payload] = X.built(kit(settings)).compose(a_notice(settings, images=pictures))
    assert len(payload.content["images"]) == 4
    assert len(payload.content["images"][0]["alt"]) == MOST_ALT
    assert payload.omitted[0] == "画像は4枚までなので載りません：5枚目"
    assert payload.omitted[1].startswith("画像の説明は1000字まで")


def test_a_post_with_a_link_costs_more(settings: Settings) -> None:
    channel = X.built(kit(settings, yen_per_post=2.3, yen_per_post_with_link=31.0))
    costs = [channel.compose(a_notice(settings, web=web))[0].content["cost_yen"] for web in (None, "https://a.lg.jp/")]
    assert costs == [2.3, 31.0]


# When the connection fails


async def test_an_answer_that_never_came_is_looked_for_and_nothing_is_posted_twice(
    x: X, settings: Settings, folder: Path, faults: Faults
) -> None:
    [payload] = x.compose(a_sample(settings, "N01"))
    faults.set("x", Fault(kind=Kind.DROP, times=1))
    with pytest.raises(OutcomeUnknown):
        await x.deliver(payload, key="key", previous=None)
    found = await x.find(payload, key="key", previous=None)
    [post] = posted(folder)
    assert found is not None
    assert found.evidence == post["id"]


async def test_a_post_is_found_although_x_tells_it_otherwise(x: X, settings: Settings) -> None:
    """X escapes `&` and `<`, shortens links and adds one for the pictures."""
    notice = replace(a_sample(settings, "N01"), infos=(Info(language="ja", headline="A&B <親子>", description=""),))
    [payload] = x.compose(notice)
    receipt = await x.deliver(payload, key="key", previous=None)
    found = await x.find(payload, key="key", previous=None)
    assert found is not None
    assert found.evidence == receipt.evidence


async def test_repeating_it_without_looking_finds_it_too(
    x: X, settings: Settings, folder: Path, faults: Faults
) -> None:
    [payload] = x.compose(an_alert(settings))
    faults.set("x", Fault(kind=Kind.DROP, times=1))
    with pytest.raises(OutcomeUnknown):
        await x.deliver(payload, key="key", previous=None)
    receipt = await x.deliver(payload, key="key", previous=None)
    assert [post["id"] for post in posted(folder)] == [receipt.evidence]


@pytest.mark.parametrize(
    ("kind", "failure"),
    [
        (Kind.REFUSE, OutcomeUnknown),
        (Kind.TEMPORARY, OutcomeUnknown),
        (Kind.PERMANENT, ChannelClosed),
        (Kind.RATE, TemporaryFailure),
        (Kind.RESET, OutcomeUnknown),
    ],
)
async def test_a_fault_has_its_name_and_the_next_attempt_arrives(
    x: X, settings: Settings, folder: Path, faults: Faults, kind: Kind, failure: type[DeliveryFailure]
) -> None:
    [payload] = x.compose(an_alert(settings))
    faults.set("x", Fault(kind=kind))
    with pytest.raises(failure):
        await x.deliver(payload, key="key", previous=None)
    faults.set("x", None)
    assert await x.find(payload, key="key", previous=None) is None
    await x.deliver(payload, key="key", previous=None)
    assert len(posted(folder)) == 1


@pytest.mark.parametrize(("kind", "arrived"), [(Kind.HANG, False), (Kind.DRIP, True)])
async def test_an_x_that_does_not_answer_is_cut_off(
    settings: Settings, server: standin.Server, clock: FrozenClock, faults: Faults, kind: Kind, arrived: bool
) -> None:
    async with a_channel(settings, server.port, clock, timeout_s=0.5) as impatient:
        await impatient.find(impatient.compose(an_alert(settings))[0], key="key", previous=None)
        faults.set("x", Fault(kind=kind, seconds=30))
        with pytest.raises(OutcomeUnknown):
            await try_once(impatient, an_alert(settings))
    async with a_channel(settings, server.port, clock) as patient:
        found = await patient.find(patient.compose(an_alert(settings))[0], key="key", previous=None)
        assert (found is not None) is arrived


async def test_no_connection_at_all_is_only_temporary(settings: Settings, tmp_path: Path, clock: FrozenClock) -> None:
    gone = await standin.start(tmp_path / "gone", Faults(tmp_path / "none.json"), clock=clock)
    await gone.close()
    async with a_channel(settings, gone.port, clock) as channel:
        with pytest.raises(TemporaryFailure, match="つながりません"):
            await try_once(channel, an_alert(settings))
        with pytest.raises(OutcomeUnknown, match="確かめられません"):
            await channel.find(channel.compose(an_alert(settings))[0], key="key", previous=None)


async def test_too_many_posts_wait_until_x_takes_them_again(
    settings: Settings, tmp_path: Path, faults: Faults, clock: FrozenClock
) -> None:
    limits = standin.Limits(quarter=1, day=50)
    server = await standin.start(tmp_path / "x", faults, clock=clock, limits=limits)
    async with a_channel(settings, server.port, clock) as channel:
        await try_once(channel, an_alert(settings, "E01"))
        with pytest.raises(TemporaryFailure) as failure:
            await try_once(channel, an_alert(settings, "E04"))
        assert failure.value.retry_at == NOW + minutes(15)
        clock.move(minutes(15))
        await try_once(channel, an_alert(settings, "E04"))
    await server.close()


async def test_an_alert_goes_out_without_a_picture_that_cannot_be_uploaded(
    x: X, settings: Settings, folder: Path, faults: Faults
) -> None:
    faults.set("x", Fault(kind=Kind.TEMPORARY, stage="media"))
    picture = Image(digest="ab" * 32, alt="通れない道の地図", media_type="image/png", width=9, height=9)
    receipt = await try_once(x, replace(an_alert(settings), images=(picture,)))
    assert receipt.detail.startswith("画像を付けずに投稿しました")
    assert posted(folder)[0]["media"] == []
    with pytest.raises(TemporaryFailure):
        await try_once(x, a_sample(settings, "N01"))


async def test_a_picture_that_was_uploaded_is_not_uploaded_again(
    x: X, settings: Settings, folder: Path, faults: Faults
) -> None:
    faults.set("x", Fault(kind=Kind.RATE, times=1))
    with pytest.raises(TemporaryFailure):
        await try_once(x, a_sample(settings, "N01"))
    await try_once(x, a_sample(settings, "N01"))
    assert len(json.loads((folder / "media.json").read_text(encoding="utf-8"))) == 1


# When X refuses


async def test_the_same_words_from_another_day_are_refused_for_good(
    x: X, settings: Settings, folder: Path, clock: FrozenClock
) -> None:
    await try_once(x, a_notice(settings))
    clock.move(timedelta(hours=1))
    with pytest.raises(PermanentFailure, match="前と同じ文"):
        await try_once(x, a_notice(settings, sent_at=clock.now()))
    assert len(posted(folder)) == 1


async def test_keys_of_another_account_say_nothing(
    settings: Settings, server: standin.Server, clock: FrozenClock, folder: Path
) -> None:
    async with a_channel(settings, server.port, clock, mode=Mode.DRILL, account="shinagawa_drill") as drill:
        with pytest.raises(ChannelClosed, match="@shinagawa_rehearsal のもので、設定の @shinagawa_drill と違います"):
            await try_once(drill, watermarked(an_alert(settings, mode=Mode.DRILL), settings.words))
    assert posted(folder) == []


@pytest.mark.parametrize("name", ["x_consumer_secret", "x_access_token", "x_access_token_secret"])
async def test_a_wrong_key_closes_the_channel_and_is_not_told_to_anybody(
    settings: Settings, server: standin.Server, folder: Path, name: str
) -> None:
    wrong = {**standin.REHEARSAL_KEYS, name: "s3cr3t"}
    channel = X(replace(kit(settings, base_url=f"http://127.0.0.1:{server.port}"), secret=wrong.get))
    with pytest.raises(ChannelClosed, match="キーを受け付けません") as failure:
        await try_once(channel, an_alert(settings))
    await channel.close()
    assert "s3cr3t" not in str(failure.value)
    assert posted(folder) == []


def test_what_is_missing_is_named(settings: Settings) -> None:
    bare = replace(kit(settings, mode=Mode.DRILL, account=""), secret=lambda name: None)
    sentences = X.built(bare).missing()
    assert len(sentences) == 5
    assert sentences[0] == "XのAPIキーがありません。秘密 drill_x_consumer_key を置いてください。"
    assert sentences[-1].endswith("[x.drill] に account を書いてください。")
    assert X.built(kit(settings)).missing() == []


async def test_without_keys_nothing_is_tried(settings: Settings) -> None:
    channel = X.built(replace(kit(settings), secret=lambda name: None))
    with pytest.raises(ChannelClosed, match="APIキーがありません"):
        await try_once(channel, an_alert(settings))


@pytest.mark.parametrize("base_url", ["http://127.0.0.1:0", "nonsense", "http://[x", "ftp://127.0.0.1"])
async def test_a_wrong_address_closes_the_channel(settings: Settings, base_url: str) -> None:
    channel = X.built(replace(kit(settings, base_url=base_url), is_rehearsal=True))
    with pytest.raises(ChannelClosed, match="base_url"):
        await try_once(channel, an_alert(settings))
    await channel.close()


@asynccontextmanager
async def an_x_that_says(status: int, body: str, content_type: str) -> AsyncIterator[int]:
    """The port of something that answers every post alike."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=status, text=body, content_type=content_type)

    application = web.Application()
    application.router.add_post("/{path:.*}", answer)
    application.router.add_delete("/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield runner.addresses[0][1]
    await runner.cleanup()


@pytest.mark.parametrize(
    ("status", "body", "content_type", "failure", "sentence"),
    [
        (502, "<h1>Bad Gateway</h1>", "text/html", OutcomeUnknown, "502"),
        (201, "<h1>Welcome</h1>", "text/html", OutcomeUnknown, "読めません"),
        (201, '{"data": {"id": "1', "application/json", OutcomeUnknown, "読めません"),
        (201, '{"data": {}}', "application/json", OutcomeUnknown, "番号がありません"),
        (402, '{"title": "CreditsDepleted"}', "application/json", ChannelClosed, "契約の枠を使い切りました"),
        (403, '{"detail": "suspended"}', "application/json", ChannelClosed, "認めません"),
        (307, "", "text/plain", ChannelClosed, "場所が変わった"),
        (400, '{"detail": "text is too long"}', "application/json", PermanentFailure, "text is too long"),
        (422, "<h1>?</h1>", "text/html", PermanentFailure, "422"),
        (429, "<h1>?</h1>", "text/html", TemporaryFailure, "限度"),
    ],
)
async def test_every_answer_is_one_of_the_four_failures(
    settings: Settings,
    status: int,
    body: str,
    content_type: str,
    failure: type[DeliveryFailure],
    sentence: str,
) -> None:
    async with an_x_that_says(status, body, content_type) as port:
        channel = X.built(replace(kit(settings, base_url=f"http://127.0.0.1:{port}"), is_rehearsal=True))
        with pytest.raises(failure, match=sentence):
            await try_once(channel, an_alert(settings))
        await channel.close()


# The day's posts


@pytest.mark.parametrize("reset", ["99999999999", "9" * 40, "-1", "soon"])
async def test_a_reset_that_is_no_time_of_this_world_is_none(settings: Settings, reset: str) -> None:
    async def answer(_request: web.Request) -> web.Response:
        named = ("x-rate-limit-reset", "x-user-limit-24hour-limit", "x-user-limit-24hour-reset")
        return web.Response(status=429, headers={**dict.fromkeys(named, reset), "x-user-limit-24hour-remaining": "0"})

    application = web.Application()
    application.router.add_post("/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    channel = X.built(kit(settings, base_url=f"http://127.0.0.1:{runner.addresses[0][1]}"))
    with pytest.raises(TemporaryFailure, match="限度") as failure:
        await try_once(channel, an_alert(settings))
    assert failure.value.retry_at is None
    await channel.close()
    await runner.cleanup()


async def test_a_share_of_the_day_is_kept_for_emergencies(
    settings: Settings, server: standin.Server, clock: FrozenClock, folder: Path
) -> None:
    sent_at: list[datetime] = []  # the ledger, as it counts what all senders sent
    counted = replace(
        kit(settings, clock=clock, base_url=f"http://127.0.0.1:{server.port}", posts_per_day=5),
        went_out=lambda since: sum(at >= since for at in sent_at),
    )
    channel = X.built(counted)
    for n in range(4):
        await try_once(channel, a_notice(settings, title=f"お知らせ{n}"))
        sent_at.append(clock.now())
    with pytest.raises(TemporaryFailure, match="残りは緊急のため") as failure:
        await try_once(channel, a_notice(settings, title="お知らせ5"))
    await try_once(channel, an_alert(settings))
    assert failure.value.retry_at == NOW + timedelta(hours=15)  # midnight
    clock.move(timedelta(hours=15))
    await try_once(channel, a_notice(settings, title="お知らせ5"))
    await channel.close()
    assert len(posted(folder)) == 6


async def test_two_senders_share_the_posts_of_a_day(
    settings: Settings, server: standin.Server, database_url: str, tmp_path: Path, folder: Path
) -> None:
    """Each on a machine of its own, one after the other: the second counts what the first has posted."""
    shared = {"BROADCASTER_DATABASE_URL": database_url}
    clock = FrozenClock(NOW)
    for machine, expected in (("a", [State.DELIVERED] * 3), ("b", [State.DELIVERED, State.QUEUED, State.QUEUED])):
        configured = configuration.load({"BROADCASTER_HOME": str(tmp_path / machine), **shared})
        options = {"x": {**configured.channel_options["x"], "posts_per_day": 5}}
        app = assembly.assemble(
            replace(configured, enabled=("x",), channel_options=options),
            credentials=True,
            clock=clock,
            standins={"x": server.port, "email": 1},
        )
        app.database.upgrade()
        notices = [
            a_notice(settings, title=f"お知らせ{machine}{n}", identifier=f"13109-{machine}{n}", channels=("x",))
            for n in range(3)
        ]
        for notice in notices:
            app.pipeline.hand_in(replace(notice, sent_at=None), STAFF)
        sends = asyncio.create_task(app.sender([Lane.ROUTINE]).run())
        try:
            async with asyncio.timeout(30):
                while None in (tried := [posts_of(app, notice.identifier) for notice in notices]):
                    await asyncio.sleep(0.01)
        finally:
            sends.cancel()
            await asyncio.gather(sends, return_exceptions=True)
            await app.close()
        assert tried == expected
    assert len(posted(folder)) == 4, "the fifth is kept for an emergency"


def posts_of(app: App, identifier: str) -> State | None:
    """How the post stands; None while nobody has tried it to its end."""
    with app.database.read() as connection:
        issue = issues.get(connection, identifier)
        assert issue is not None
        (post,) = deliveries.of_issue(connection, issue.id)
        return post.state if deliveries.attempts_of(connection, post.id) else None


async def test_a_sender_that_just_started_learns_of_the_day_from_x(
    settings: Settings, tmp_path: Path, faults: Faults, clock: FrozenClock
) -> None:
    server = await standin.start(tmp_path / "x", faults, clock=clock, limits=standin.Limits(day=5))
    for n in range(3):
        async with a_channel(settings, server.port, clock) as channel:
            await try_once(channel, a_notice(settings, title=f"お知らせ{n}"))
    async with a_channel(settings, server.port, clock) as channel:
        await try_once(channel, a_notice(settings, title="お知らせ4"))
        with pytest.raises(TemporaryFailure, match="きょうの投稿が4件（上限5件）"):
            await try_once(channel, a_notice(settings, title="お知らせ5"))
    await server.close()


# Taking it back


async def test_a_post_is_taken_back_and_twice_is_no_error(x: X, settings: Settings, folder: Path) -> None:
    receipt = await try_once(x, an_alert(settings))
    assert (await x.retract(receipt)).detail == "投稿を消しました。"
    assert posted(folder) == []
    assert (await x.retract(receipt)).detail == "もう消えていました。"


async def test_a_post_without_a_number_is_taken_back_by_hand(x: X) -> None:
    with pytest.raises(PermanentFailure, match="Xの画面で消してください"):
        await x.retract(Receipt())


async def test_what_was_deleted_is_not_found(x: X, settings: Settings) -> None:
    [payload] = x.compose(an_alert(settings))
    await x.retract(await x.deliver(payload, key="key", previous=None))
    assert await x.find(payload, key="key", previous=None) is None


# The stand-in


async def test_the_stand_in_keeps_its_posts_over_a_restart(
    settings: Settings, folder: Path, faults: Faults, clock: FrozenClock
) -> None:
    server = await standin.start(folder, faults, clock=clock)
    async with a_channel(settings, server.port, clock) as channel:
        await try_once(channel, a_sample(settings, "N01"))
        await server.close()
        server = await standin.start(folder, faults, clock=clock, port=server.port)
        found = await channel.find(channel.compose(a_sample(settings, "N01"))[0], key="key", previous=None)
    await server.close()
    assert found is not None


@pytest.mark.parametrize(
    ("post", "said"),
    [
        ({"text": "あ" * 141}, "too long"),
        ({"text": ""}, "required"),
        ({"text": "返事", "in_reply_to_tweet_id": "1"}, "reply"),
        ({"text": "画像", "media_ids": ["1"]}, "media IDs"),
        ({"text": "画像", "media_ids": ["1"] * 5}, "at most 4"),
    ],
)
async def test_the_stand_in_refuses_what_x_refuses(x: X, post: dict[str, Any], said: str, folder: Path) -> None:
    with pytest.raises(PermanentFailure, match=said):
        await x._api.create_tweet(**post)
    assert posted(folder) == []


async def test_the_stand_in_refuses_a_description_of_1001_letters(x: X) -> None:
    picture = await x._api.upload(PICTURE, "image/jpeg", NOW)
    with pytest.raises(PermanentFailure, match="longer than 1000"):
        await x._api.describe(picture.id, "字" * 1001)


async def test_the_stand_in_refuses_an_authorization_that_it_has_seen(x: X, server: standin.Server) -> None:
    address, headers = x._api._signed("GET", "/2/users/me", {})
    pool = x._api._open_pool()
    statuses = [(await pool.get(address, headers=headers)).status for _ in range(2)]
    statuses.append((await pool.get(address)).status)
    assert statuses == [200, 401, 401]


# Counting and cutting


VECTORS = yaml.safe_load((Path(__file__).parent / "data" / "weighted.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["note"] for vector in VECTORS])
def test_a_text_is_as_long_as_x_counts_it(vector: dict[str, Any]) -> None:
    assert weighted_length(vector["text"]) == vector["length"]


def test_140_japanese_letters_fit_and_128_beside_a_link(settings: Settings) -> None:
    assert weighted.fits("あ" * 140)
    assert not weighted.fits("あ" * 141)
    assert weighted.fits("あ" * 128 + "https://www.example.lg.jp/koho/20261201")
    assert not weighted.fits("あ" * 129 + "https://www.example.lg.jp/koho/20261201")


LINKS = ("https://www.example.lg.jp/koho/20261201", "https://example.com/a?b=1", "http://127.0.0.1:8000/emergency")
SNIPPETS = st.one_of(
    st.text(max_size=60),
    st.sampled_from(["避難してください。", "第一日野小学校、", "👨‍👩‍👧‍👦", "🇯🇵", "が", "か\u3099", "12345円", "\n"]),
    st.sampled_from([*LINKS, *(f" {link} " for link in LINKS), "test.com", "(", ")", "/", "."]),
)
WORDS = st.lists(SNIPPETS, min_size=12, max_size=60).map("".join).filter(lambda text: text.strip() != "")
FEW = examples(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FEW
@given(text=WORDS, is_alert=st.booleans(), is_drill=st.booleans(), web=st.sampled_from([None, *LINKS]))
def test_whatever_is_written_no_post_is_too_long_and_no_link_or_letter_is_broken(
    settings: Settings, text: str, is_alert: bool, is_drill: bool, web: str | None
) -> None:
    mode = Mode.DRILL if is_drill else Mode.LIVE
    message = a_notice(
        settings, title=text, mode=mode, web=web, urgency=Urgency.EXPECTED if is_alert else Urgency.UNKNOWN
    )
    payloads = X.built(kit(settings, mode=mode)).compose(watermarked(message, settings.words))
    assert 1 <= len(payloads) <= 4
    for said in texts(payloads):
        assert weighted_length(said) <= LIMIT
        assert "訓練" in said or not is_drill
    if web is not None:
        assert payloads[-1].content["text"].endswith(web)


@FEW
@given(text=WORDS, most=st.integers(min_value=0, max_value=LIMIT))
def test_a_cut_never_divides_a_letter_or_a_link(text: str, most: int) -> None:
    end = weighted.head(text, most)
    assert weighted_length(text[:end]) <= most
    ends = [match.end() for match in regex.finditer(r"\X", text)]
    assert end == 0 or end in ends
    assert not any(begin < end < finish for begin, finish in links(text))
    for match in regex.finditer(r"https?://[!-~]+", text):
        assert not match.start() < end < match.end()
