"""The house keeps its shape: imports run one way, and each library has one home."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

PURE = (
    "clock",
    "text",
    "problems",
    "slots",
    "message",
    "lifecycle",
    "delivery",
    "routing",
    "ward",
    "words",
    "channel",
    "drill",
)
"""No I/O and no library: a test of a month's schedule or of a wording needs nothing else."""

LIBRARIES = {
    "apscheduler": ["broadcaster/scheduler.py"],
    "sqlalchemy": ["broadcaster/store/", "broadcaster/backup.py"],
    "alembic": ["broadcaster/store/"],
    "redis": ["broadcaster/signals.py"],
    "jinja2": ["broadcaster/render.py"],
    "aiosmtplib": ["channels/email.py"],
    "tweepy": ["channels/x.py"],
    "feedgen": ["channels/rss.py"],
    "aiosmtpd": ["broadcaster/rehearsal/"],
    "fastapi": ["broadcaster/web/"],
    "starlette": ["broadcaster/web/"],
    "uvicorn": ["broadcaster/start.py"],
    "uvloop": ["broadcaster/cli.py"],
    "PIL": ["broadcaster/images.py"],
    "jpholiday": ["broadcaster/almanac.py"],
    "email_validator": ["broadcaster/readers.py"],
    "typer": ["broadcaster/cli.py"],
    "prometheus_client": ["broadcaster/web/metrics.py"],
    "budoux": ["channels/signage.py"],
    "tldextract": ["broadcaster/weighted.py"],
    "joserfc": ["broadcaster/openid.py"],
    "webauthn": ["broadcaster/passkeys.py"],
    "pwdlib": ["broadcaster/credentials.py"],
    "pyotp": ["broadcaster/credentials.py"],
    "segno": ["broadcaster/credentials.py"],
    "typst": ["broadcaster/paper.py"],
    "yaml": ["broadcaster/settings.py", "broadcaster/yamlfile.py", "broadcaster/speech.py"],
}

FORBIDDEN = {"pickle", "shelve", "marshal", "requests", "httpx", "smtplib", "urllib3"}
"""Unpickling runs what it reads; a second client of a protocol would escape the checks of the first."""

FORBIDDEN_BETWEEN = [
    # who must not know whom
    ("channels/", "broadcaster.store"),
    ("channels/", "broadcaster.pipeline"),
    ("channels/", "broadcaster.worker"),
    ("channels/", "broadcaster.web"),
    ("channels/", "broadcaster.settings"),
    ("channels/", "broadcaster.app"),
    ("channels/", "broadcaster.rehearsal"),
    ("broadcaster/pipeline.py", "broadcaster.worker"),
    ("broadcaster/pipeline.py", "broadcaster.web"),
    ("broadcaster/pipeline.py", "broadcaster.settings"),
    ("broadcaster/store/", "broadcaster.pipeline"),
    ("broadcaster/store/", "broadcaster.settings"),
    ("broadcaster/worker.py", "broadcaster.web"),
    ("broadcaster/mailroom.py", "broadcaster.pipeline"),
    ("broadcaster/scheduler.py", "broadcaster.web"),
    ("broadcaster/scheduler.py", "broadcaster.worker"),
]


def sources() -> list[Path]:
    found = [path for folder in ("broadcaster", "channels") for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in found if "migrations" not in path.parts]


@cache
def imports(path: Path) -> frozenset[str]:
    return frozenset(_imports(ast.parse(path.read_text(encoding="utf-8"))))


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("name", PURE)
def test_the_core_is_pure(name: str) -> None:
    allowed = {f"broadcaster.{module}" for module in PURE}
    for module in imports(ROOT / "broadcaster" / f"{name}.py"):
        top = module.split(".")[0]
        if top == "broadcaster":
            assert ".".join(module.split(".")[:2]) in allowed, f"{name} imports {module}"
        else:
            assert top in {
                "__future__", "collections", "contextlib", "dataclasses", "datetime", "enum", "hashlib", "itertools", "json", "math", "random",
                "re", "secrets", "typing", "unicodedata", "zoneinfo",
            }, f"{name} imports {module}"  # fmt: skip


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_has_one_home(library: str) -> None:
    for path in sources():
        if any(module.split(".")[0] == library for module in imports(path)):
            assert any(relative(path).startswith(home) for home in LIBRARIES[library]), f"{relative(path)}: {library}"


def test_nothing_unpickles_and_nothing_dials_on_its_own() -> None:
    for path in sources():
        found = {module.split(".")[0] for module in imports(path)} & FORBIDDEN
        assert not found, f"{relative(path)} imports {found}"


@pytest.mark.parametrize(("where", "what"), FORBIDDEN_BETWEEN)
def test_imports_run_one_way(where: str, what: str) -> None:
    for path in sources():
        if relative(path).startswith(where):
            known = [module for module in imports(path) if module == what or module.startswith(f"{what}.")]
            assert not known, f"{relative(path)} imports {known}"


def test_no_channel_knows_another_and_the_core_names_no_medium() -> None:
    media = {path.stem for path in (ROOT / "channels").glob("*.py") if path.stem != "__init__"}
    for path in sources():
        for module in imports(path):
            if module.startswith("channels"):
                assert relative(path) in ("broadcaster/app.py", "channels/__init__.py"), f"{relative(path)}: {module}"
    for name in ("pipeline", "worker", "mailroom", "channel", "delivery", "routing", "boards"):
        tree = ast.parse((ROOT / "broadcaster" / f"{name}.py").read_text(encoding="utf-8"))
        strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        assert not strings & (media - {"signage"}), f"{name} names {strings & media}"


def test_time_comes_from_the_clock() -> None:
    for path in sources():
        if path.name == "clock.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Attribute)
                and node.attr in ("now", "utcnow", "today")
                and isinstance(node.value, ast.Name)
            ):
                assert node.value.id not in ("datetime", "date"), f"{relative(path)}:{node.lineno}"


def test_the_lock_names_every_package_with_its_hash_and_no_address() -> None:
    for name in ("requirements.lock", "requirements-test.lock"):
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        assert not [line for line in lines if "://" in line]
        assert sum("--hash=sha256:" in line for line in lines) > 100
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    locked = (ROOT / "requirements.lock").read_text(encoding="utf-8").lower()
    for requirement in wanted:
        name = requirement.split("[")[0].split(">")[0].split("=")[0].split("<")[0].strip().lower()
        assert f"\n{name}==" in f"\n{locked}" or f"\n{name}[" in f"\n{locked}", name
