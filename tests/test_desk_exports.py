"""Exports: what was sent is open data, the log needs a reason, and no cell acts as a formula."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

from broadcaster.store import audit
from broadcaster.web.desk.exports import inert
from tests.desk import a_day, a_desk
from tests.house import STAFF
from tests.makers import a_notice


async def test_what_was_sent_is_written_out_in_both_forms(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        a_day(desk.app)
        now = desk.app.clock.now()
        formula = replace(a_notice(desk.app.settings, now=now, title='=HYPERLINK("http://evil.test")'), sent_at=None)
        desk.app.pipeline.hand_in(formula, STAFF)
        viewer = await desk.person("viewer")
        answer = await viewer.get("/desk/messages/export.csv")
        assert answer.headers["content-disposition"] == 'attachment; filename="messages.csv"'
        rows = list(csv.DictReader(io.StringIO(answer.text.removeprefix("\ufeff"))))
        found = {row["identifier"]: row for row in rows}
        assert found["13109-E04"]["level"] == "4"
        assert found["13109-a-notice"]["headline"].startswith("'=HYPERLINK")
        assert "13109-drill" not in found
        assert "13109-today-1" not in found  # nobody has sent it
        told = json.loads((await viewer.get("/desk/messages/export.json")).text)
        assert [row["identifier"] for row in told] == [row["identifier"] for row in rows]


async def test_the_log_is_written_out_with_a_reason_and_by_who_may(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        a_day(desk.app)
        admin, approver = await desk.person("admin"), await desk.person("approver")
        assert (await approver.post("/desk/records/export.csv", reason="知りたい")).status_code == 403
        assert (await admin.get("/desk/records/export.csv")).status_code in (404, 405)
        assert (await admin.post("/desk/records/export.csv")).status_code == 422
        answer = await admin.post("/desk/records/export.json", reason="監査のため")
        acts = json.loads(answer.text)
        assert acts[-1]["act"] == "records.exported"
        assert "監査のため" in acts[-1]["detail"]
        assert "@" not in answer.text
        with desk.app.database.read() as connection:
            assert audit.first_fault(connection) is None


def test_nothing_acts_as_a_formula() -> None:
    assert [inert(value) for value in ("=1", "+1", "-1", "@a", "\t=1", "plain", None, 4)] == [
        "'=1", "'+1", "'-1", "'@a", "'\t=1", "plain", "", "4",
    ]  # fmt: skip
