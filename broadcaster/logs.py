"""Logs: one JSON object a line, `noun.past_verb` with fields from a closed list.

Redaction is by an allow-list: a field that is not named here does not reach the log, so a new one cannot leak an
address or a secret by accident. Of an exception its kind and the lines of code are told and never its words: a database
repeats the row that it could not take. A disk too full for a line loses that line and stops nobody's work.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO, cast

import structlog

FIELDS = {
    "event", "level", "timestamp", "exception", "logger",
    "act", "attempt", "channel", "code", "due_at", "email", "id", "identifier", "key", "keys", "kind", "lane", "lanes", "letters",
    "method", "mode", "ms", "part", "pid", "reason", "role", "route", "rule", "state", "status", "total", "url", "why",
    "work", "worker", "workers", "x",
}  # fmt: skip


def configure(level: str = "INFO") -> None:
    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _where_it_broke,
            _only_known_fields,
            _one_line,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        logger_factory=structlog.PrintLoggerFactory(file=cast(TextIO, _Spared(sys.stderr))),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s", stream=sys.stderr)
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.WARNING)


class _Spared:
    """A stream that cannot fail who writes to it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


def where(error: BaseException) -> str:
    """The kind of error and the lines of code, the innermost last."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    lines, trace = [], error.__traceback__
    while trace is not None:
        lines.append(f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"{type(error).__name__} at {' > '.join(lines[-8:])}"


def _where_it_broke(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    told = event.pop("exc_info", None)
    error = sys.exc_info()[1] if told is True else told[1] if isinstance(told, tuple) else told
    if isinstance(error, BaseException):
        event["exception"] = where(error)
    return event


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
