"""What every test may ask for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broadcaster import settings as configuration
from broadcaster.settings import Settings
from tests import servers
from tests.makers import GOLDEN


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The shipped configuration, in rehearsal, with a home of its own."""
    return configuration.load({"BROADCASTER_HOME": str(tmp_path_factory.mktemp("home"))})


@pytest.fixture
def golden() -> Callable[[str, str | bytes], None]:
    """`golden("dial/E04.txt", text)`: what the public reads, kept as a file.

    A difference fails; `GOLDEN=write` writes the new words, to be read as an editor would.
    """

    def compare(name: str, said: str | bytes) -> None:
        path: Path = GOLDEN / name
        data = said.encode() if isinstance(said, str) else said
        if os.environ.get("GOLDEN") == "write":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        assert path.is_file(), f"{name} is not kept yet: run with GOLDEN=write and read it"
        assert path.read_bytes().decode() == data.decode()

    return compare


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    with servers.postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Each test that asks for it runs on both databases."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'broadcaster.sqlite3'}"
        return
    with servers.a_database(request.getfixturevalue("postgres_server")) as url:
        yield url
