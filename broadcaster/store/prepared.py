"""Statements that run for every few letters, put into a database's own words once.

SQLAlchemy looks up, binds and converts at each execution; for a statement that is run two hundred times a second that
costs more than the statement itself. Errors, events and rows are SQLAlchemy's still.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Connection,
    CursorResult,
    Text,
    any_,
    bindparam,
    func,
    select,
)
from sqlalchemy.sql.elements import CompilerElement


class Prepared:
    """Values are given as the driver takes them, and come back as it gives them."""

    def __init__(self, statement: Callable[[str], CompilerElement]) -> None:
        """`statement` by the name of the dialect: sqlite, postgresql."""
        self._statement = statement
        self._known: dict[str, tuple[str, Mapping[str, Any]]] = {}

    def run(self, connection: Connection, **values: Any) -> CursorResult[Any]:
        words, constants = self._known.get(connection.dialect.name) or self._put(connection)
        return connection.exec_driver_sql(words, {**constants, **values})

    def _put(self, connection: Connection) -> tuple[str, Mapping[str, Any]]:
        compiled = self._statement(connection.dialect.name).compile(connection)
        known = self._known[connection.dialect.name] = str(compiled), dict(compiled.params)
        return known


def one_of(dialect: str, column: ColumnElement[int], name: str) -> ColumnElement[bool]:
    """A column is among the numbers that `listed` puts into the value `name`: the words stay the same for any number of
    them."""
    if dialect == "sqlite":
        values = func.json_each(bindparam(name, type_=Text)).table_valued("value")
        return column.in_(select(values.c.value))
    return column == any_(bindparam(name, type_=ARRAY(BigInteger)))


def listed(connection: Connection, numbers: Collection[int]) -> Any:
    return json.dumps(list(numbers)) if connection.dialect.name == "sqlite" else list(numbers)
