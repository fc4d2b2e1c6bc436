"""Puts it all together: configuration, database, signals, channels, pipeline. The only place that knows the channels.

Each role is a process of its own. Only the sender loads credentials; the web process and the scheduler compose and
plan with channels that hold none.
"""

from __future__ import annotations

import asyncio
import functools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from broadcaster import images, speech
from broadcaster.boards import PublicFolder, public_folder
from broadcaster.channel import Channel, Kit, Letter, Mailing
from broadcaster.clock import Clock, SystemClock
from broadcaster.delivery import Lane
from broadcaster.keyring import KeyRing
from broadcaster.mailroom import Relay
from broadcaster.manuscript import Fetch
from broadcaster.message import Mode
from broadcaster.pipeline import Pipeline
from broadcaster.problems import refuse
from broadcaster.render import Renderer, renderer
from broadcaster.resources import packaged
from broadcaster.settings import Settings
from broadcaster.signals import RedisSignals, Signals, SocketSignals
from broadcaster.store import deliveries
from broadcaster.store.database import Database
from broadcaster.worker import Sender
from channels import CHANNELS


@dataclass(frozen=True, kw_only=True)
class App:
    """The parts of one process."""

    settings: Settings
    database: Database
    clock: Clock
    keyring: KeyRing
    signals: Signals
    pipeline: Pipeline
    render: Renderer

    @property
    def media_folder(self) -> Path:
        return self.settings.home / "media"

    def pictures_from(self, folder: Path) -> Fetch:
        """Reads pictures that a notice in this folder names."""
        return images.read_from(folder, self.media_folder)

    def sender(self, lanes: list[Lane]) -> Sender:
        return Sender(self.pipeline, lanes, {mode: self._relay(mode) for mode in Mode})

    def _relay(self, mode: Mode) -> Relay:
        options = _options(self.settings, "email", mode, None)
        pace = float(options.get("relay_mails_per_s", 0))
        # A pace reckoned a little too high lets the relay's queue grow for as long as a mailing lasts.
        return Relay(math.ceil(pace * float(options.get("wait_in_relay_s", 1))), pace * 0.9)

    async def close(self) -> None:
        for channels in self.pipeline.channels.values():
            for channel in channels.values():
                await channel.close()
        await self.signals.close()
        self.pipeline.close()
        self.database.close()


def assemble(
    settings: Settings,
    *,
    credentials: bool = False,
    clock: Clock | None = None,
    table: Mapping[str, type[Channel]] = CHANNELS,
    templates: Path | None = None,
    standins: Mapping[str, int] | None = None,
) -> App:
    """The parts of a process. `credentials` is for the sender alone; `standins` are the ports of a rehearsal."""
    clock = clock or SystemClock()
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    database = Database(settings.database_url)
    signals = _signals(settings)
    keyring = KeyRing.open(settings.home / "keyring")
    if settings.is_rehearsal and standins is None:
        standins = standin_ports(settings.home)
    folders = [packaged("templates")] if templates is None else [templates, packaged("templates")]
    render = renderer(folders, settings.words)
    read_aloud = speech.load(settings.config).read_aloud
    channels: dict[Mode, dict[str, Channel]] = {}
    for mode in Mode:
        publish = PublicFolder(public_folder(settings.home, mode)).put
        channels[mode] = {
            name: _channel_class(table, name).built(
                Kit(
                    mode=mode,
                    ward=settings.ward,
                    words=settings.words,
                    render=render,
                    clock=clock,
                    options=_options(settings, name, mode, standins),
                    is_rehearsal=settings.is_rehearsal,
                    secret=_secrets(settings, mode) if credentials else _no_secret,
                    picture=functools.partial(_picture, settings.home / "media"),
                    leave_link=_leave_links(settings, keyring),
                    publish=publish,
                    read_aloud=read_aloud,
                    went_out=functools.partial(_went_out, database, name, mode),
                )
            )
            for name in _enabled(settings, table)
        }
    pipeline = Pipeline(
        database=database,
        clock=clock,
        ward=settings.ward,
        words=settings.words,
        channels=channels,
        signals=signals,
    )
    return App(
        settings=settings,
        database=database,
        clock=clock,
        keyring=keyring,
        signals=signals,
        pipeline=pipeline,
        render=render,
    )


def _enabled(settings: Settings, table: Mapping[str, type[Channel]]) -> list[str]:
    """As configured, and whatever a table of one's own adds."""
    return [*settings.enabled, *(name for name in table if name not in CHANNELS)]


def _channel_class(table: Mapping[str, type[Channel]], name: str) -> type[Channel]:
    try:
        return table[name]
    except KeyError:
        raise refuse(
            "channels.toml",
            ja=f"媒体「{name}」はありません。あるのは {', '.join(table)} です。",
            en=f"There is no channel {name!r}; there are {', '.join(table)}.",
        ) from None


def _options(settings: Settings, name: str, mode: Mode, standins: Mapping[str, int] | None) -> Mapping[str, Any]:
    """The channel's table with that of its mode merged in. In rehearsal the stand-ins take the world's place."""
    shared = settings.channel_options.get(name, {})
    options = {key: value for key, value in shared.items() if key not in ("live", "drill")}
    if not settings.is_rehearsal:
        return {**options, **shared.get(mode.value, {})}
    ports = standins or {}
    rehearsal: dict[str, dict[str, Any]] = {
        "email": {
            "host": "127.0.0.1",
            "port": ports.get("email", 0),
            "tls": "none",
            "user": "",
            "from": f"{'drill' if mode is Mode.DRILL else 'shina-mail'}@{settings.ward.mail_domain}",
            "list_id": f"shina-mail.{settings.ward.mail_domain}",
        },
        "x": {
            "base_url": f"http://127.0.0.1:{ports.get('x', 0)}",
            "account": "shinagawa_drill" if mode is Mode.DRILL else "shinagawa_rehearsal",
        },
    }
    return {**options, **rehearsal.get(name, {})}


def _secrets(settings: Settings, mode: Mode) -> Callable[[str], str | None]:
    """Live and drill have sets of their own, by other names; in rehearsal the stand-ins' keys are nobody's secret."""
    if settings.is_rehearsal:
        from broadcaster.rehearsal.x import REHEARSAL_KEYS

        return lambda name: REHEARSAL_KEYS.get(name)
    prefix = "drill_" if mode is Mode.DRILL else ""
    return lambda name: settings.secret(prefix + name)


def _no_secret(_name: str) -> None:
    return None


def _went_out(database: Database, channel: str, mode: Mode, since: datetime) -> int:
    with database.read() as connection:
        return deliveries.delivered_since(connection, channel, mode, since)


def _picture(folder: Path, digest: str) -> bytes:
    return images.path_of(folder, digest).read_bytes()


def _leave_links(settings: Settings, keyring: KeyRing) -> Callable[[Letter], str]:
    place = f"{settings.ward.base_url}/u/"
    topics = {category.id: category.bit for category in settings.ward.categories}

    def leave_link(letter: Letter) -> str:
        return place + keyring.mint_leave(letter.subscriber, letter.epoch, topics[letter.category])

    return leave_link


def _signals(settings: Settings) -> Signals:
    folder = settings.home / "run"
    return RedisSignals(folder, settings.redis_url) if settings.redis_url else SocketSignals(folder)


# Rehearsal: where the stand-ins listen


def ports_file(home: Path) -> Path:
    return home / "rehearsal" / "ports.json"


def standin_ports(home: Path) -> dict[str, int]:
    """The stand-ins' ports as they last wrote them; empty when they have never run."""
    try:
        return dict(json.loads(ports_file(home).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}


async def wait_for_standins(home: Path, timeout_s: float = 20.0) -> dict[str, int]:
    """Their ports, once both answer. Raises Refused when they do not come up."""
    until = asyncio.get_running_loop().time() + timeout_s
    while asyncio.get_running_loop().time() < until:
        ports = standin_ports(home)
        if ports and all([await _answers(port) for port in ports.values()]):
            return ports
        await asyncio.sleep(0.05)
    raise refuse(
        "rehearsal",
        ja="練習の町が動いていません。broadcaster serve で始めてください。",
        en="The rehearsal town does not answer; start it with broadcaster serve.",
    )


async def _answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def mailings_of(app: App) -> list[Mailing]:
    return [c for channels in app.pipeline.channels.values() for c in channels.values() if isinstance(c, Mailing)]
