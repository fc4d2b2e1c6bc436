"""Logs: one JSON object a line, `noun.past_verb` with fields from a closed list.

Redaction is by an allow-list: a field that is not named here does not reach the log, so a new one cannot leak an
address or a secret by accident.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

FIELDS = {
    "event", "level", "timestamp", "exception", "logger",
    "act", "attempt", "channel", "code", "due_at", "email", "identifier", "key", "kind", "lane", "lanes", "letters",
    "method", "mode", "ms", "part", "pid", "reason", "role", "route", "rule", "state", "status", "total", "url", "why",
    "work", "worker", "workers", "x",
}  # fmt: skip


def configure(level: str = "INFO") -> None:
    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _only_known_fields,
            _one_line,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s", stream=sys.stderr)
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def _only_known_fields(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for field in [field for field in event if field not in FIELDS]:
        del event[field]
    return event


def _one_line(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """No value can begin a line of its own or speak to a terminal."""
    for field, value in event.items():
        if isinstance(value, str) and field != "exception":
            event[field] = value.replace("\r", "\\r").replace("\n", "\\n").replace("\x1b", "\\e")
    return event
