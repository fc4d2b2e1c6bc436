"""A channel of somebody else: one file, its templates and one line in the table, and everything works with it.

The loudspeakers on poles (防災行政無線) as a stranger might add them: `Loudspeaker` is the file, `LOUDSPEAKER` its template,
and `{**CHANNELS, "loudspeaker": Loudspeaker}` the line.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Self

from broadcaster import app as assembly
from broadcaster import checks, manuscript, reports
from broadcaster import settings as configuration
from broadcaster.app import App
from broadcaster.channel import Kit, Payload, PermanentFailure, Push, Receipt, TemporaryFailure
from broadcaster.delivery import Lane
from broadcaster.message import Change, Message, Mode
from channels import CHANNELS
from tests.makers import a_notice, an_alert
from tests.town import STAFF

LOUDSPEAKER = "{{ phrase('tag_emergency', language) if is_alert }}{{ text }}"


@dataclass(kw_only=True)
class Loudspeaker:
    name: ClassVar[str] = "loudspeaker"
    mode: Mode
    kit: Kit
    said: list[str] = field(default_factory=list)
    busy: int = 1  # so often the poles are busy first

    @classmethod
    def built(cls, kit: Kit) -> Self:
        return cls(mode=kit.mode, kit=kit)

    def missing(self) -> Sequence[str]:
        return ["channels.toml の [loudspeaker] の poles に、柱の数を書いてください。"] if not self.kit.options else []

    def compose(self, message: Message) -> Sequence[Payload]:
        spoken = self.kit.read_aloud(message.info.spoken or message.info.headline, "ja")
        text = self.kit.render("loudspeaker/notice.txt", text=spoken, is_alert=message.is_alert)
        return [
            Payload(part="ja", content={"text": text}, omitted=("リンクは読み上げません。",) if message.web else ())
        ]

    async def deliver(self, payload: Payload, *, key: str, previous: Receipt | None) -> Receipt:
        if self.busy:
            self.busy -= 1
            raise TemporaryFailure("柱が放送中です。")
        self.said.append(payload.content["text"])
        return Receipt(evidence=f"柱 {len(self.said)}")

    async def find(self, payload: Payload, *, key: str, previous: Receipt | None) -> Receipt | None:
        return Receipt(evidence="found") if payload.content["text"] in self.said else None

    async def retract(self, receipt: Receipt) -> Receipt:
        raise PermanentFailure("放送したものは取り消せません。")

    async def close(self) -> None:
        return None


def a_ward(folder: Path) -> App:
    templates = folder / "templates" / "loudspeaker"
    templates.mkdir(parents=True)
    (templates / "notice.txt").write_text(LOUDSPEAKER, encoding="utf-8")
    configured = configuration.load({"BROADCASTER_HOME": str(folder / "home")})
    parts = assembly.assemble(
        configured,
        credentials=True,
        table={**CHANNELS, "loudspeaker": Loudspeaker},
        templates=templates.parent,
        standins={"email": 1, "x": 1},
    )
    parts.database.upgrade()
    return parts


def speaker(parts: App, mode: Mode = Mode.LIVE) -> Loudspeaker:
    channel = parts.pipeline.channels[mode]["loudspeaker"]
    assert isinstance(channel, Loudspeaker)
    return channel


async def until_settled(parts: App, *identifiers: str) -> None:
    sender = asyncio.create_task(parts.sender(list(Lane)).run())
    try:
        async with asyncio.timeout(20):
            while not all(row["state"] not in ("queued", "in_flight") for id in identifiers for row in rows(parts, id)):
                await asyncio.sleep(0.02)
    finally:
        sender.cancel()
        await asyncio.gather(sender, return_exceptions=True)


def rows(parts: App, identifier: str) -> list[dict[str, object]]:
    with parts.database.read() as connection:
        report = reports.of(connection, identifier)
    return [row for row in report["deliveries"] if row["channel"] == "loudspeaker"]


async def test_it_is_previewed_sent_tried_again_and_followed_by_a_cancel(tmp_path: Path) -> None:
    parts = a_ward(tmp_path)
    assert isinstance(speaker(parts), Push)
    alert = replace(
        an_alert(parts.settings, now=parts.clock.now(), channels=("loudspeaker",)), sent_at=None, web="https://x.lg.jp/"
    )
    shown = [preview for preview in parts.pipeline.preview(alert) if preview.channel == "loudspeaker"]
    assert shown[0].omitted == ("リンクは読み上げません。",)
    kept = parts.pipeline.hand_in(alert, STAFF)
    await until_settled(parts, kept.message.identifier)
    (row,) = rows(parts, kept.message.identifier)
    assert (row["state"], row["attempts"], row["evidence"]) == ("delivered", 2, "柱 1")
    assert speaker(parts).said[0].startswith("【緊急】")
    cancel = parts.pipeline.change(kept.message.identifier, Change.CANCEL, STAFF)
    await until_settled(parts, cancel.message.identifier)
    retraction = next(row for row in rows(parts, cancel.message.identifier) if row["kind"] == "retract")
    assert (retraction["state"], retraction["detail"]) == ("failed", "放送したものは取り消せません。")
    assert len(speaker(parts).said) == 2, "the cancel itself is told"
    await parts.close()


async def test_its_drill_says_so_although_it_knows_nothing_of_drills(tmp_path: Path) -> None:
    parts = a_ward(tmp_path)
    alert = an_alert(parts.settings, now=parts.clock.now(), mode=Mode.DRILL, channels=("loudspeaker",))
    kept = parts.pipeline.hand_in(replace(alert, sent_at=None), STAFF)
    await until_settled(parts, kept.message.identifier)
    assert speaker(parts).said == []
    assert "訓練" in speaker(parts, Mode.DRILL).said[0]
    await parts.close()


async def test_it_is_checked_and_can_be_named_in_a_manuscript(tmp_path: Path) -> None:
    parts = a_ward(tmp_path)
    found = [finding for finding in await checks.all_of(parts) if finding.where.startswith("loudspeaker")]
    assert {finding.ja for finding in found} == {"channels.toml の [loudspeaker] の poles に、柱の数を書いてください。"}
    message = manuscript.read(
        {
            "title": "防災訓練",
            "summary": "防災訓練",
            "body": "10時から",
            "category": "notice",
            "area": "whole",
            "channels": ["loudspeaker"],
            "expires_at": "2099-01-01T00:00:00+09:00",
        },
        ward=parts.settings.ward,
        media=[*parts.settings.enabled, "loudspeaker"],
        now=parts.clock.now(),
    )
    assert message.channels == ("loudspeaker",)
    await parts.close()


def test_an_alert_and_a_notice_say_that_they_are_different(tmp_path: Path) -> None:
    parts = a_ward(tmp_path)
    notice = a_notice(parts.settings, channels=("loudspeaker",))
    (payload,) = speaker(parts).compose(notice)
    assert not payload.content["text"].startswith("【緊急】")
    asyncio.run(parts.close())
