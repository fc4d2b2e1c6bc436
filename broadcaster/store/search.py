"""Finding a message by its words, Japanese ones too, by the means that both databases bring along.

Japanese has no blanks between its words, so a text is kept as pairs of letters that stand side by side: 品川区 is 品川, 川区, 区.
A search asks for all pairs of what was typed. SQLite keeps them in an FTS5 table, PostgreSQL in a tsvector under a GIN
index. Compared are forms made equal (NFKC, small letters); the message itself stays as it was typed.

What it cannot do: a text that holds every pair, but not side by side, is found as well.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    Text,
    and_,
    cast,
    column,
    delete,
    func,
    insert,
    or_,
    select,
    table,
)
from sqlalchemy.dialects import postgresql

from broadcaster.lifecycle import State
from broadcaster.message import Mode
from broadcaster.store.tables import issues, messages

TABLE = "messages_search"
_VECTORS = table(TABLE, column("id", BigInteger), column("words", postgresql.TSVECTOR))
_FTS = table(TABLE, column("rowid", BigInteger), column("words", Text))
"""The same table as PostgreSQL and as SQLite have it; migration 0005 makes them."""

_PAIRED = "\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7af\U00020000-\U0003ffff"
_RUN = re.compile(rf"([{_PAIRED}]+)|([^\W_{_PAIRED}]+)")


def grams(words: str) -> list[str]:
    """What is kept of a text: pairs of kana and kanji, the last letter alone, other words whole."""
    return [gram for run, is_paired in _runs(words) for gram in ([*_pairs(run), run[-1]] if is_paired else [run])]


def asked(words: str) -> list[tuple[str, bool]]:
    """What is looked for, and whether it is only the beginning of what is kept: one letter alone."""
    found = [
        (gram, len(run) == 1 and is_paired)
        for run, is_paired in _runs(words)
        for gram in (_pairs(run) or [run] if is_paired else [run])
    ]
    return list(dict.fromkeys(found))[:64]


def _runs(words: str) -> list[tuple[str, bool]]:
    equal = unicodedata.normalize("NFKC", words).lower()
    return [(found[0], bool(found[1])) for found in _RUN.finditer(equal)]


def _pairs(run: str) -> list[str]:
    return [run[at : at + 2] for at in range(len(run) - 1)]


def grams_of(document: str) -> list[str]:
    """Of a message as it is kept: every text in every language."""
    kept = json.loads(document)
    texts = [value for info in kept["infos"] for value in info.values() if isinstance(value, str)]
    return grams("\n".join([*texts, *(area["description"] for area in kept["areas"])]))


def put(connection: Connection, id: int, document: str) -> None:
    """Keep the words of a message, in the transaction that keeps the message."""
    found = grams_of(document)
    if connection.dialect.name == "postgresql":
        vector = func.array_to_tsvector(cast(sorted(set(found)), postgresql.ARRAY(Text)))
        new = postgresql.insert(_VECTORS).values(id=id, words=vector)
        connection.execute(new.on_conflict_do_update(index_elements=["id"], set_={"words": new.excluded.words}))
        return
    connection.execute(delete(_FTS).where(_FTS.c.rowid == id))
    connection.execute(insert(_FTS).values(rowid=id, words=" ".join(dict.fromkeys(found))))


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a person looks for. `state` is a word of `states_message`, where time decides between in force and ended."""

    words: str = ""
    state: str = ""
    category: str = ""
    mode: str = ""
    since: datetime | None = None
    until: datetime | None = None


def newest(
    connection: Connection, wanted: Wanted, *, now: datetime, before: int | None = None, limit: int = 50
) -> Sequence[int]:
    """The numbers of the messages, newest first; `before` is the last number of the page before."""
    c = messages.c
    conditions: list[ColumnElement[bool]] = [c.id < before] if before is not None else []
    if wanted.category:
        conditions.append(c.category == wanted.category)
    if wanted.mode:
        conditions.append(c.mode == wanted.mode)
    if wanted.since is not None:
        conditions.append(c.effective_at >= wanted.since)
    if wanted.until is not None:
        conditions.append(c.effective_at < wanted.until)
    if wanted.state:
        conditions.append(_is_in(wanted.state, now))
    query = select(c.id).where(*conditions).order_by(c.id.desc()).limit(limit)
    grams_asked = asked(wanted.words)
    if wanted.words.strip() and not grams_asked:
        return []  # signs alone
    if grams_asked:
        query = query.where(c.id.in_(_matching(connection, grams_asked)))
    return connection.execute(query).scalars().all()


def _matching(connection: Connection, found: Sequence[tuple[str, bool]]) -> Select[tuple[int]]:
    if connection.dialect.name == "postgresql":
        query = cast(_tsquery(found), postgresql.TSQUERY)
        return select(_VECTORS.c.id).where(_VECTORS.c.words.bool_op("@@")(query))
    # FTS5 is asked through the column of the table's own name.
    return select(_FTS.c.rowid).where(column(TABLE).bool_op("MATCH")(_match(found)))


def _is_in(state: str, now: datetime) -> ColumnElement[bool]:
    c = messages.c
    if state == "in_force":
        shown = select(issues.c.message_id).where(
            issues.c.ended_at.is_(None), issues.c.mode.in_([mode.value for mode in Mode]), issues.c.expires_at > now
        )
        return and_(c.state == State.ISSUED, c.id.in_(shown))
    if state == "ended":
        return or_(c.state == State.EXPIRED, and_(c.state == State.ISSUED, c.expires_at <= now))
    return c.state == state


def _tsquery(found: Sequence[tuple[str, bool]]) -> str:
    return " & ".join(f"'{gram}'" + (":*" if is_beginning else "") for gram, is_beginning in found)


def _match(found: Sequence[tuple[str, bool]]) -> str:
    return " ".join(f'"{gram}"' + ("*" if is_beginning else "") for gram, is_beginning in found)


def fill(connection: Any) -> None:
    """The words of everything that is kept already, a thousand messages at a time."""
    last = 0
    while rows := connection.execute(
        select(messages.c.id, messages.c.document).where(messages.c.id > last).order_by(messages.c.id).limit(1000)
    ).all():
        for row in rows:
            put(connection, row.id, row.document)
        last = rows[-1].id
