"""`broadcaster check`: what is missing or wrong, a sentence each. Names and ages only, never a secret."""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import dataclass

from broadcaster.app import App
from broadcaster.backup import is_frozen
from broadcaster.message import Mode
from broadcaster.store import audit, subscribers, workers

LEAST_FREE = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Finding:
    where: str
    ja: str
    en: str
    is_wrong: bool = False


async def all_of(app: App) -> list[Finding]:
    findings = [_installation(app), *_channels(app), *_database(app), *_home(app)]
    if not app.settings.is_rehearsal:
        findings.extend(_live(app))
    return findings


def _installation(app: App) -> Finding:
    if app.settings.is_rehearsal:
        return Finding(where="installation", ja="練習環境です。外へは何も出ません。", en="A rehearsal: nothing leaves.")
    return Finding(where="installation", ja="本番です。", en="Live.")


def _channels(app: App) -> list[Finding]:
    findings: list[Finding] = []
    for mode in Mode:
        for name, channel in app.pipeline.channels[mode].items():
            where = f"{name} ({mode.value})"
            missing = channel.missing()
            if not missing:
                findings.append(Finding(where=where, ja="使えます。", en="Ready."))
            findings.extend(Finding(where=where, ja=sentence, en=sentence, is_wrong=True) for sentence in missing)
    if not app.settings.is_rehearsal and not app.settings.channel_options.get("email", {}).get("relay_mails_per_s"):
        findings.append(
            Finding(
                where="email relay_mails_per_s",
                ja="中継サーバーの速さが書かれていません。警報が中継の中でお知らせのうしろに並ぶことがあります。",
                en="The relay's pace is not known: an alert may queue behind notices inside the relay.",
            )
        )
    return findings


def _database(app: App) -> list[Finding]:
    with app.database.read() as connection:
        fault = audit.first_fault(connection)
        readers = subscribers.count(connection)
        alive = workers.alive(connection, app.clock.now())
        frozen = is_frozen(connection)
    findings = [
        Finding(where="database", ja=f"この版の形です。登録者 {readers:,}人。", en=f"Current; {readers:,} readers."),
        Finding(where="audit", ja="記録のつながりは正しいです。", en="The chain of the record holds.")
        if fault is None
        else Finding(
            where="audit",
            ja=f"記録の {fault} 番目から、書いたままではありません。",
            en=f"The record is not as written from entry {fault} on.",
            is_wrong=True,
        ),
    ]
    if frozen:
        findings.append(
            Finding(
                where="restore",
                ja="写しから戻したままです。broadcaster release まで何も送りません。",
                en="Restored and frozen: nothing is sent before broadcaster release.",
                is_wrong=True,
            )
        )
    roles = ", ".join(role for _, role, _ in alive)
    findings.append(Finding(where="workers", ja=f"動いている役：{roles or 'なし'}", en=f"Alive: {roles or 'none'}"))
    return findings


def _home(app: App) -> list[Finding]:
    home = app.settings.home
    findings = []
    free = shutil.disk_usage(home).free
    if free < LEAST_FREE:
        findings.append(
            Finding(where=str(home), ja="空きが 1 GB を切りました。", en="Less than 1 GiB is free.", is_wrong=True)
        )
    if home.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        findings.append(
            Finding(
                where=str(home), ja="ほかの人も入れます。chmod 700 にしてください。", en="chmod 700 it.", is_wrong=True
            )
        )
    return findings


def _live(app: App) -> list[Finding]:
    findings = []
    if not app.settings.ward.base_url.startswith("https://"):
        findings.append(
            Finding(
                where="ward.toml base_url",
                ja="本番では https:// で始めてください。",
                en="Must begin with https:// in live.",
                is_wrong=True,
            )
        )
    if os.geteuid() == 0:
        findings.append(
            Finding(where="process", ja="root で動かさないでください。", en="Do not run as root.", is_wrong=True)
        )
    return findings
