"""The wheel alone, in an empty environment and an empty folder, is the whole service."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.town import a_free_port

ROOT = Path(__file__).resolve().parent.parent
CLEAN = {name: os.environ[name] for name in os.environ if not name.startswith(("BROADCASTER_", "PYTHON"))}

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("wheel")]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with what the lock names and the wheel; nothing of the checkout is in reach."""
    place = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(place), str(ROOT), cwd=place)
    run(sys.executable, "-m", "venv", str(place / "venv"), cwd=place)
    pip = str(place / "venv" / "bin" / "pip")
    run(pip, "install", "-q", "--require-hashes", "-r", str(ROOT / "requirements.lock"), cwd=place)
    (wheel,) = place.glob("*.whl")
    run(pip, "install", "-q", "--no-deps", str(wheel), cwd=place)
    return place / "venv" / "bin" / "broadcaster"


def run(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, env={**CLEAN, **environment}, capture_output=True, text=True, check=True, timeout=500
    )


@contextmanager
def serving(command: Path, folder: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [str(command), "serve", "--port", str(port)], cwd=folder, env=CLEAN, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


def until(url: str, text: str) -> str:
    for _ in range(300):
        if text in (body := get(url)):
            return body
        time.sleep(0.1)
    raise AssertionError(f"{text!r} did not come")


def test_the_wheel_serves_the_same_rehearsal_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    port = a_free_port()
    url = f"http://127.0.0.1:{port}"
    with serving(installed, tmp_path, port) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline(), process.stdout.readline()]
        assert "4,800" in lines[0]
        assert f"{url}/rehearsal" in lines[1]
        assert "var/rehearsal/token" in lines[1]
        identifier = run(str(installed), "alert", "E04", "--yes", cwd=tmp_path).stdout.strip()
        until(f"{url}/dial/current.txt", "避難")
        assert json.loads(until(f"{url}/signage/S01.json", identifier))["takeover"]
        assert "避難指示" in get(f"{url}/feeds/all.json")
        assert "避難指示" in get(f"{url}/emergency")
        assert "避難指示" in until(f"{url}/rehearsal", "避難指示")
        token = (tmp_path / "var" / "rehearsal" / "token").read_text().strip()
        asked = urllib.request.Request(
            f"{url}/api/v1/messages/{identifier}", headers={"Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(asked, timeout=10) as answer:
            assert {row["channel"] for row in json.load(answer)["deliveries"]} >= {
                "email",
                "x",
                "rss",
                "signage",
                "dial",
            }


def test_a_live_configuration_with_nothing_filled_in_is_told_what_each_channel_needs(
    installed: Path, tmp_path: Path
) -> None:
    said = subprocess.run(
        [str(installed), "check"],
        cwd=tmp_path,
        env={**CLEAN, "BROADCASTER_INSTALLATION": "live"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert said.returncode == 1
    assert "Traceback" not in said.stderr
    for sentence in (
        "email (live): channels.toml の [email.live] の host に、メールの中継の名前を書いてください。",
        "email (drill): channels.toml の [email.drill] の from に、差出人のアドレスを書いてください。",
        "x (live):",
        "x (drill):",
        "base_url: 本番では https:// で始めてください。",
    ):
        assert sentence in said.stdout, said.stdout
