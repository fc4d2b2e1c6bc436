"""The player's page and files, as they are served: one page a screen and mode, under a policy without inline anything."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2 as httpx
import pytest
import yaml
from fastapi import FastAPI

from broadcaster.settings import Settings
from broadcaster.web import player
from tests.desk import a_desk

FONTS = Path(__file__).resolve().parent.parent / "templates" / "signage" / "fonts"


@asynccontextmanager
async def a_site(settings: Settings, *documents: str, is_ready: bool = True) -> AsyncIterator[httpx.AsyncClient]:
    site = FastAPI(openapi_url=None)
    pages: Any = SimpleNamespace(is_ready=is_ready, get=lambda path: object() if path in documents else None)
    app: Any = SimpleNamespace(settings=settings)
    site.include_router(player.routes(app, pages))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=site), base_url="http://127.0.0.1") as client:
        yield client


# The plain case


async def test_the_page_names_its_mode_and_its_screen_and_says_nothing_of_its_own(settings: Settings) -> None:
    async with a_site(settings, "/signage/S01.json", "/drill/signage/S01.json") as client:
        live = await client.get("/signage/S01")
        drill = await client.get("/drill/signage/S01")
        assert 'data-mode="live" data-screen="S01" data-base="/signage"' in live.text
        assert 'data-mode="drill" data-screen="S01" data-base="/drill/signage"' in drill.text
        unpaired = await client.get("/signage")
        assert 'data-mode="live" data-screen="" data-base="/signage"' in unpaired.text
        assert len(live.content) < 10_000


async def test_nothing_in_the_page_is_inline_and_nothing_comes_from_elsewhere(settings: Settings) -> None:
    async with a_site(settings, "/signage/S01.json") as client:
        page = await client.get("/signage/S01")
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self';" in policy
        assert "unsafe" not in policy
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)", page.text)
        assert not re.search(r"(?:src|href)=\"(?:https?:)?//", page.text)
        for address in re.findall(r'(?:src|href)="(/[^"]+)"', page.text):
            assert (await client.get(address)).status_code == 200, address


async def test_files_are_kept_for_good_and_share_one_name(settings: Settings) -> None:
    """A module calls the others by name: an old one must never be mixed with a new one."""
    async with a_site(settings) as client:
        worker = await client.get("/signage/worker.js")
        assert worker.headers["service-worker-allowed"] == "/signage"
        assert worker.headers["cache-control"] == "no-cache"
        shell = json.loads(re.search(r"SHELL = (\[.*?\]);", worker.text)[1])  # type: ignore[index]
        assert len({address.split("/")[3] for address in shell if "/player/" in address}) == 1
        sizes = {"js": 0, "css": 0, "woff2": 0}
        for address in shell:
            answer = await client.get(address, headers={"accept-encoding": "identity"})
            assert "immutable" in answer.headers["cache-control"]
            packed = await client.get(address, headers={"accept-encoding": "gzip"})
            sizes[address.rpartition(".")[2]] += int(packed.headers["content-length"])
        assert sizes["js"] <= 25 * 1024
        assert sizes["css"] < 8_000 + 17_000, "the style, and the list of the letters that each font has"
        assert sizes["woff2"] < 2_000_000
        assert (await client.get("/signage/player/0123456789abcdef/player.js")).status_code == 404


async def test_each_mode_has_a_worker_of_its_own(settings: Settings) -> None:
    async with a_site(settings) as client:
        drill = await client.get("/drill/signage/worker.js")
        assert drill.text.startswith('const MODE = "drill"')
        assert drill.headers["service-worker-allowed"] == "/drill/signage"


# What is not there


async def test_before_the_boards_are_composed_a_screen_waits_and_asks_again(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        client = (await desk.person()).client
        waiting = await client.get("/signage/S01")
        assert (waiting.status_code, waiting.headers["retry-after"]) == (503, "3"), "nothing is composed yet"
        assert 'http-equiv="refresh"' in waiting.text, "nobody stands there to reload it"


@pytest.mark.parametrize("path", ["/signage/S99", "/drill/signage/S01"])
async def test_a_screen_that_is_not_registered_is_told_so_and_asks_again(settings: Settings, path: str) -> None:
    async with a_site(settings, "/signage/S01.json") as client:
        answer = await client.get(path)
        assert answer.status_code == 404
        assert "は登録されていません" in answer.text
        assert 'http-equiv="refresh" content="60"' in answer.text


@pytest.mark.parametrize("name", ["S01.json", "..%2F..%2Fetc", "<script>", "S" * 41, "Ｓ０１", "%00"])
async def test_what_cannot_be_a_screen_is_not_repeated(settings: Settings, name: str) -> None:
    async with a_site(settings, f"/signage/{name}.json") as client:
        answer = await client.get(f"/signage/{name}")
        assert answer.status_code == 404
        assert name not in answer.text


# The fonts


def letters_of(family: str) -> set[int]:
    """What the shipped fonts of this family draw, by their own list."""
    found: set[int] = set()
    for rule in (FONTS / "fonts.css").read_text(encoding="utf-8").splitlines():
        if f'font-family:"{family}"' in rule:
            for first, last in re.findall(r"U\+([0-9A-F]+)(?:-([0-9A-F]+))?", rule):
                found.update(range(int(first, 16), int(last or first, 16) + 1))
    return found


def unseen(text: str, *families: str) -> set[str]:
    known = set().union(*map(letters_of, families))
    return {letter for letter in text if letter.isprintable() and ord(letter) not in known}


def test_every_letter_of_the_places_the_words_and_the_prepared_texts_is_shipped(settings: Settings) -> None:
    config = settings.config
    texts = [path.read_text(encoding="utf-8-sig") for path in (config / "places").glob("*.csv")]
    texts += [(config / name).read_text(encoding="utf-8") for name in ("words/player.yaml", "presets.yaml")]
    assert unseen("".join(texts), "Signage", "Signage KR", "Signage SC", "Signage TC") == set()


@pytest.mark.parametrize(
    ("language", "families"),
    [
        ("ja", ("Signage",)),
        ("easy-ja", ("Signage",)),
        ("en", ("Signage",)),
        ("tl", ("Signage",)),
        ("ko", ("Signage KR", "Signage")),
        ("zh-Hans", ("Signage SC", "Signage")),
        ("zh-Hant", ("Signage TC", "Signage")),
    ],
)
def test_every_letter_of_a_phrase_is_in_the_font_of_its_language(
    settings: Settings, language: str, families: tuple[str, ...]
) -> None:
    said = "".join(phrase.get(language, "") for phrase in settings.words.phrases.values())
    presets = yaml.safe_load((settings.config / "presets.yaml").read_text(encoding="utf-8"))["presets"]
    said += "".join(preset["languages"].get(language.replace("-", "_").lower(), "") for preset in presets)
    assert unseen(said, *families) == set()


def test_the_licence_stands_beside_the_fonts() -> None:
    licence = (FONTS / "OFL.txt").read_text(encoding="utf-8")
    assert "SIL OPEN FONT LICENSE Version 1.1" in licence
    for name in ("BIZ UDPGothic", "Noto Sans CJK"):
        assert name in licence
