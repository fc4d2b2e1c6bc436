"""Configuration: config/*.toml, the environment, and secrets from files.

Every value that is wrong or unknown is refused with a sentence that says where it stands and what to write.
"""

from __future__ import annotations

import csv
import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from broadcaster import presets
from broadcaster.message import LANGUAGES
from broadcaster.presets import Preset
from broadcaster.problems import refuse
from broadcaster.resources import packaged
from broadcaster.ward import Category, District, Screen, Town, Ward
from broadcaster.words import Words

SECRET_NAMES = ("password", "secret", "token", "key")
_CHANNELS_TOP = {"installation", "enabled"}


class Installation(StrEnum):
    REHEARSAL = "rehearsal"  # nothing leaves this machine
    LIVE = "live"


@dataclass(frozen=True, kw_only=True)
class Settings:
    home: Path
    config: Path
    installation: Installation
    database_url: str
    redis_url: str | None
    ward: Ward
    words: Words
    presets: Mapping[str, Preset]
    enabled: tuple[str, ...]
    channel_options: Mapping[str, Mapping[str, Any]]
    schedule: Mapping[str, Any]
    sign_on: Mapping[str, Any]
    desk: Mapping[str, Any]
    environment: Mapping[str, str] = field(repr=False)

    @property
    def is_rehearsal(self) -> bool:
        return self.installation is Installation.REHEARSAL

    def secret(self, name: str) -> str | None:
        """The secret by this name, or None. Never logged; a file that others can read is refused in live."""
        path = self._secret_file(name)
        if path is None:
            return self.environment.get(f"BROADCASTER_{name.upper()}")
        try:
            mode = path.stat().st_mode
            text = path.read_text(encoding="utf-8").rstrip("\n")
        except (OSError, UnicodeDecodeError):
            raise refuse(
                name,
                ja=f"秘密「{name}」のファイルを読めません。",
                en=f"The file of the secret {name!r} cannot be read.",
            ) from None
        if not self.is_rehearsal and mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise refuse(
                name,
                ja=f"秘密「{name}」のファイルをほかの人も読めます。chmod 600 にしてください。",
                en=f"The file of the secret {name!r} can be read by others; chmod 600 it.",
            )
        return text

    def _secret_file(self, name: str) -> Path | None:
        if folder := self.environment.get("CREDENTIALS_DIRECTORY"):
            candidate = Path(folder) / name
            if candidate.is_file():
                return candidate
        named = self.environment.get(f"BROADCASTER_{name.upper()}_FILE")
        return Path(named) if named else None


def load(environment: Mapping[str, str] | None = None) -> Settings:
    """Read everything. Raises Refused with a sentence for the first file that is wrong."""
    env = dict(os.environ if environment is None else environment)
    home = Path(env.get("BROADCASTER_HOME") or "var").absolute()
    config = _config_folder(env)
    channels = _toml(config / "channels.toml")
    _refuse_literal_secrets(channels, "channels.toml")
    installation = _installation(env.get("BROADCASTER_INSTALLATION") or channels.get("installation", "rehearsal"))
    return Settings(
        home=home,
        config=config,
        installation=installation,
        database_url=env.get("BROADCASTER_DATABASE_URL") or f"sqlite:///{home / 'broadcaster.sqlite3'}",
        redis_url=env.get("BROADCASTER_REDIS_URL") or None,
        ward=_ward(config, _base_url(env, home, installation)),
        words=_words(config),
        presets=_presets(config),
        enabled=tuple(channels.get("enabled", ())),
        channel_options={name: value for name, value in channels.items() if name not in _CHANNELS_TOP},
        schedule=_toml(config / "schedule.toml"),
        sign_on=_toml(config / "sign_on.toml"),
        desk=_toml(config / "desk.toml"),
        environment=env,
    )


def _config_folder(env: Mapping[str, str]) -> Path:
    if named := env.get("BROADCASTER_CONFIG"):
        folder = Path(named).absolute()
        if not (folder / "ward.toml").is_file():
            raise refuse(
                "BROADCASTER_CONFIG",
                ja=f"{folder} に ward.toml がありません。設定の置き場を確かめてください。",
                en=f"There is no ward.toml in {folder}; check where the configuration lies.",
            )
        return folder
    return packaged("config")


def _installation(value: object) -> Installation:
    try:
        return Installation(str(value))
    except ValueError:
        raise refuse(
            "installation",
            ja=f"installation は rehearsal か live です（「{value}」ではありません）。",
            en=f"installation is rehearsal or live, not {value!r}.",
        ) from None


def _toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError:
        raise refuse(path.name, ja=f"{path} を読めません。", en=f"{path} cannot be read.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise refuse(
            path.name, ja=f"{path} の書き方が違います：{error}", en=f"{path} is not valid TOML: {error}"
        ) from None


def _yaml(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    except OSError:
        raise refuse(path.name, ja=f"{path} を読めません。", en=f"{path} cannot be read.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = where.line + 1 if where else "?"
        raise refuse(
            path.name, ja=f"{path} の {line} 行目の書き方が違います。", en=f"{path}, line {line}: not valid YAML."
        ) from None


def _csv(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(csv.DictReader(file))
    except OSError:
        raise refuse(path.name, ja=f"{path} を読めません。", en=f"{path} cannot be read.") from None


def _refuse_literal_secrets(table: Mapping[str, Any], where: str) -> None:
    for name, value in table.items():
        if isinstance(value, Mapping):
            _refuse_literal_secrets(value, f"{where}: [{name}]")
        elif isinstance(value, str) and value and any(name.endswith(secret) for secret in SECRET_NAMES):
            raise refuse(
                where,
                ja=f"{where} の {name} に秘密を書かないでください。ファイルに置き、環境変数で場所を示します。",
                en=f"{where}: do not write the secret {name} here; keep it in a file of its own.",
            )


def base_url_file(home: Path) -> Path:
    """Where a running rehearsal says at which address it answers, so that commands beside it make the same links."""
    return home / "rehearsal" / "base_url"


def _base_url(env: Mapping[str, str], home: Path, installation: Installation) -> str | None:
    if (named := env.get("BROADCASTER_BASE_URL")) or installation is not Installation.REHEARSAL:
        return named
    try:
        return base_url_file(home).read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _ward(config: Path, base_url: str | None) -> Ward:
    table = _toml(config / "ward.toml")
    places = config / "places"
    districts = tuple(
        District(code=row["district_code"], name=row["district"], bit=int(row["district_code"].removeprefix("D")))
        for row in _csv(places / "districts.csv")
    )
    codes = {district.name: district.code for district in districts}
    homes = {row["display_id"]: row["district_code"] for row in _csv(places / "districts.csv")}
    try:
        return Ward(
            name=table["name"],
            english_name=table["english_name"],
            sender=table["sender"],
            base_url=(base_url or table["base_url"]).rstrip("/"),
            hosts=tuple(name.lower() for name in table.get("hosts", ())),
            mail_name=table["mail_name"],
            mail_name_english=table["mail_name_english"],
            mail_domain=table["mail_domain"],
            dial_number=table["dial_number"],
            categories=tuple(
                Category(**{**entry, "aliases": tuple(entry.get("aliases", ()))}) for entry in table["categories"]
            ),
            districts=districts,
            towns=tuple(
                Town(
                    name=row["town_full"],
                    kana=row["town_kana"],
                    district=codes[row["district_estimated"]],
                    latitude=float(row.get("lat") or 0),
                    longitude=float(row.get("lng") or 0),
                )
                for row in _csv(places / "towns.csv")
            ),
            screens=tuple(
                Screen(
                    id=row["display_id"],
                    site=row["site"],
                    place=row["place"],
                    district=homes.get(row["display_id"]),
                    orientation=row.get("orientation") or "landscape",
                )
                for row in _csv(places / "signage_displays.csv")
            ),
            link_hosts=tuple(table["link_hosts"]),
            by_hand=tuple(table["by_hand"]),
        )
    except KeyError as error:
        raise refuse(
            "ward.toml", ja=f"設定に {error} がありません。", en=f"The ward's configuration lacks {error}."
        ) from None
    except TypeError as error:
        raise refuse("ward.toml", ja=f"ward.toml に知らない欄があります：{error}", en=f"ward.toml: {error}") from None


def _words(config: Path) -> Words:
    phrases: dict[str, dict[str, str]] = {}
    for row in _csv(config / "phrases.csv"):
        phrases[row["id"]] = {language: row[column] for language in LANGUAGES if row.get(column := _column(language))}
    pages = _yaml(config / "words.yaml")
    for path in sorted((config / "words").glob("*.yaml")):
        pages[path.stem] = _yaml(path)
    return Words(phrases=phrases, pages=pages)


def _column(language: str) -> str:
    return language.lower().replace("-", "_") if language != "easy-ja" else "easy_ja"


def _presets(config: Path) -> dict[str, Preset]:
    entries = _yaml(config / "presets.yaml")["presets"]
    return {entry["id"]: presets.from_yaml(entry) for entry in entries}


__all__ = ["Installation", "Settings", "load"]
