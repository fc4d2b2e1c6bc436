"""The canary: marked readers and a marked token, faults of the relay, then a search in all that was written."""

from __future__ import annotations

from pathlib import Path

import pytest

from broadcaster.message import Mode
from broadcaster.rehearsal import town
from broadcaster.rehearsal.faults import Fault, Kind
from broadcaster.roles import Role
from broadcaster.store import subscribers, tokens
from tests.makers import a_reader
from tests.test_crash import a_bulk
from tests.town import a_town


@pytest.mark.timeout(120)
async def test_no_address_and_no_secret_reaches_a_log_or_a_public_byte(tmp_path: Path) -> None:
    with a_town(tmp_path, BROADCASTER_LOG="DEBUG") as here:
        wide = here.app.settings.ward.all_district_bits
        people = [a_reader(email=f"canary-{n}@bird.example", domain="bird.example", districts=wide) for n in range(50)]
        with here.app.database.write() as connection:
            subscribers.put(connection, people)
            token = tokens.create(connection, name="bird", role=Role.ADMIN, mode=Mode.LIVE, now=here.app.clock.now())
        here.start("rehearsal")
        here.start("sender", "work", "--lane", "all")
        faults = town.faults_of(here.home)
        for kind, stage in ((Kind.PERMANENT, "rcpt"), (Kind.TEMPORARY, "data"), (Kind.RESET, "data")):
            faults.set("email", Fault(kind=kind, stage=stage, times=2))
            identifier = a_bulk(here)
            await here.until(lambda identifier=identifier: here.counts(identifier).settled >= 30)
        faults.set("email", None)
        here.stop()  # nothing is written any more while it is read
        written = [path for path in here.home.rglob("*") if path.is_file() and "rehearsal/mail" not in path.as_posix()]
        searched = [path for path in written if ".sqlite3" not in path.name]
        assert any(path.name == "sender.log" and path.stat().st_size for path in searched)
        for path in searched:
            content = path.read_bytes()
            for canary in (b"canary-", b"@bird.example", token.encode()):
                assert canary not in content, path.name
        assert not any(token.encode() in path.read_bytes() for path in written), "kept as a hash only"
