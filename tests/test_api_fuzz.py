"""Whatever is asked of the API, it answers as its description says, and never with a failure of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from broadcaster import app as assembly
from broadcaster import settings as configuration
from broadcaster.message import Mode
from broadcaster.roles import Role
from broadcaster.store import tokens
from broadcaster.web import create

AUTHORIZATION: dict[str, str] = {}


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    home = tmp_path_factory.mktemp("fuzzed")
    parts = assembly.assemble(configuration.load({"BROADCASTER_HOME": str(home)}), standins={"email": 1, "x": 1})
    parts.database.upgrade()
    with parts.database.write() as connection:
        shown = tokens.create(connection, name="fuzz", role=Role.ADMIN, mode=Mode.LIVE, now=parts.clock.now())
    AUTHORIZATION["Authorization"] = f"Bearer {shown}"
    yield schemathesis.openapi.from_asgi("/api/openapi.json", create(parts))
    parts.database.close()


CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


def each_operation(described: Any, examples: int, judge: Callable[[Any], None]) -> list[str]:
    """Ask every operation in many ways; gives what was asked."""
    asked = []
    for found in described.get_all_operations():
        operation = found.ok()
        asked.append(operation.label)

        @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            judge(case)

        ask()
    return asked


def test_every_answer_is_one_that_the_description_names(described: Any) -> None:
    def judge(case: Any) -> None:
        case.validate_response(case.call(headers=AUTHORIZATION), checks=CHECKS)

    asked = each_operation(described, 30, judge)
    assert {"POST /api/v1/alerts", "POST /api/v1/messages", "GET /api/v1/messages/{identifier}"} <= set(asked)


def test_without_a_key_nothing_is_told(described: Any) -> None:
    def judge(case: Any) -> None:
        if case.path.startswith("/api/"):
            case.headers = {}
            answer = case.call()
            assert answer.status_code in (400, 401, 404, 405, 413, 422), answer.text
            assert "bcast_" not in answer.text

    each_operation(described, 5, judge)
