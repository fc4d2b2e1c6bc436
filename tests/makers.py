"""Small makers: they name what matters in a test and default the rest."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from broadcaster import manuscript, presets, speech
from broadcaster.channel import Kit
from broadcaster.clock import FrozenClock
from broadcaster.message import Image, Info, Message, Mode
from broadcaster.render import renderer
from broadcaster.resources import packaged
from broadcaster.settings import Settings

NOW = datetime(2026, 12, 1, 0, 0, tzinfo=UTC)  # 午前9時, a Tuesday
MEDIA = ("dial", "signage", "email", "x", "rss")
GOLDEN = Path(__file__).parent / "golden"


def frozen_clock() -> FrozenClock:
    return FrozenClock(NOW)


def a_reader(n: int = 0, **columns: Any) -> dict[str, Any]:
    """A row of the readers' list, as the store takes it: in Japanese, at once, every topic, one district."""
    domain = columns.get("domain", "mail.example")
    return {
        "email": f"reader-{n}@{domain}",
        "domain": domain,
        "language": "ja",
        "format": "text",
        "topics": 63,
        "districts": 1,
        "frequency": "at_once",
        "registered_at": NOW,
        "method": "form",
        "state": "active",
        **columns,
    }


def a_picture(file: str = "weekend.jpg", alt: str = "朝市の店先に並ぶ大根") -> Image:
    return Image(digest="ab" * 32, alt=alt, media_type="image/jpeg", width=1600, height=900)


def sample_notices(settings: Settings) -> dict[str, dict[str, Any]]:
    text = (settings.config / "rehearsal" / "notices.yaml").read_text(encoding="utf-8")
    return {notice["id"]: notice for notice in yaml.safe_load(text)["notices"]}


def a_sample(settings: Settings, id: str, *, now: datetime = NOW, mode: Mode = Mode.LIVE) -> Message:
    """One of the sixteen sample notices, as if issued at `now`, with a fixed identifier."""
    source = manuscript.moved_manuscript(sample_notices(settings)[id], now)
    message = manuscript.read(
        source, ward=settings.ward, media=MEDIA, now=now, mode=mode, fetch=lambda file, alt: a_picture(file, alt)
    )
    return replace(message, identifier=f"13109-{id}").sent(now)


def an_alert(
    settings: Settings,
    id: str = "E04",
    *,
    now: datetime = NOW,
    mode: Mode = Mode.LIVE,
    channels: tuple[str, ...] = MEDIA,
    **values: str,
) -> Message:
    """A prepared alert with its examples filled in, already sent, with a fixed identifier."""
    message = presets.compose_alert(
        settings.presets[id],
        ward=settings.ward,
        now=now,
        mode=mode,
        channels=channels,
        values=values,
        use_examples=True,
    )
    return replace(message, identifier=f"13109-{id}").sent(now)


def a_notice(
    settings: Settings,
    *,
    title: str = "図書館の休館のお知らせ",
    body: str = "12月3日は、設備の点検のため休館します。",
    identifier: str = "13109-a-notice",
    mode: Mode = Mode.LIVE,
    channels: tuple[str, ...] = MEDIA,
    now: datetime = NOW,
    lasts: timedelta = timedelta(days=2),
    **changes: Any,
) -> Message:
    message = Message(
        identifier=identifier,
        mode=mode,
        category="notice",
        infos=(Info(language="ja", headline=title, summary=title, description=body, spoken=body),),
        areas=(settings.ward.whole(),),
        channels=channels,
        effective_at=now,
        expires_at=now + lasts,
        sent_at=now,
    )
    return replace(message, **changes)


def a_kit(settings: Settings, *, mode: Mode = Mode.LIVE, **changes: Any) -> Kit:
    """What a channel is built with, as in a live installation that has neither secrets nor readers."""
    kit = Kit(
        mode=mode,
        ward=settings.ward,
        words=settings.words,
        render=renderer(packaged("templates"), settings.words),
        clock=frozen_clock(),
        options={},
        is_rehearsal=False,
        secret=lambda name: None,
        picture=lambda digest: b"",
        leave_link=lambda letter: "https://www.example.jp/u/x",
        publish=lambda page: None,
        read_aloud=speech.load(settings.config).read_aloud,
        went_out=lambda since: 0,
    )
    return replace(kit, **changes)
