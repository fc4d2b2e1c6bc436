"""What is kept.

Four layers, each with its own life: message (drafted, approved) → issue (frozen, from which every payload can be made
again) → delivery (per channel, part and act; a row of evidence per reader where there are readers) → attempts
(append-only). Instants are whole microseconds since 1970 in UTC: the same on both databases, half the size of text, and
free of the naive times that SQLite would hand back.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

# SQLite numbers rows by itself only when the key is INTEGER.
Key = BigInteger().with_variant(Integer, "sqlite")


class Instant(TypeDecorator[datetime]):
    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> int | None:
        return None if value is None else microseconds(value)

    def process_result_value(self, value: int | None, dialect: Any) -> datetime | None:
        return None if value is None else EPOCH + timedelta(microseconds=value)


def microseconds(at: datetime) -> int:
    return (at - EPOCH) // _MICROSECOND


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

messages = Table(
    "messages",
    metadata,
    Column("id", Key, primary_key=True),
    Column("identifier", String(64), nullable=False, unique=True),
    Column("mode", String(8), nullable=False),
    Column("category", String(32), nullable=False),
    Column("state", String(16), nullable=False),
    Column("version", Integer, nullable=False, server_default="1"),
    Column("effective_at", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False),
    Column("document", Text, nullable=False),
    Column("content_hash", String(64), nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("created_by", String(64), nullable=False),
    Column("approved_hash", String(64)),
    Column("approved_by", String(64)),
    Column("issued_as", BigInteger),  # its issue, once it has gone out
    Index("ix_messages_newest", "created_at"),
    Index("ix_messages_category", "category", "effective_at"),
)

issues = Table(
    "issues",
    metadata,
    Column("id", Key, primary_key=True),
    Column("message_id", ForeignKey("messages.id"), nullable=False, unique=True),
    Column("identifier", String(64), nullable=False, unique=True),
    Column("mode", String(8), nullable=False),
    Column("lane", SmallInteger, nullable=False),
    Column("sent_at", Instant, nullable=False),
    Column("effective_at", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False),
    Column("document", Text, nullable=False),
    Column("ended_at", Instant),  # when an update or a cancel took its place
    Column("ended_by", String(64)),
    Index(
        "ix_issues_in_force",
        "mode",
        "expires_at",
        sqlite_where=text("ended_at IS NULL"),
        postgresql_where=text("ended_at IS NULL"),
    ),
    Index("ix_issues_newest", "sent_at"),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Key, primary_key=True),
    Column("issue_id", ForeignKey("issues.id"), nullable=False, index=True),
    Column("key", String(200), nullable=False, unique=True),  # identifier/channel/part[/retract]
    Column("channel", String(32), nullable=False),
    Column("part", String(64), nullable=False),
    Column("kind", String(8), nullable=False),  # push, mailing, board, retract
    Column("mode", String(8), nullable=False),
    Column("lane", SmallInteger, nullable=False),
    Column("state", SmallInteger, nullable=False, server_default="0"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("due_at", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False),
    Column("payload", Text, nullable=False, server_default=""),
    Column("after_id", BigInteger),  # the part that must have been delivered before
    Column("worker_id", BigInteger),
    Column("is_in_doubt", Boolean, nullable=False, server_default=text("false")),  # look before trying again
    Column("evidence", Text, nullable=False, server_default=""),
    Column("detail", Text, nullable=False, server_default=""),
    Column("created_at", Instant, nullable=False),
    Column("first_attempt_at", Instant),
    Column("settled_at", Instant),
    # Of a mailing: who its readers are, how far the fan-out has come, and where the readers stand.
    Column("audience", Text, nullable=False, server_default=""),
    Column("fanned_to", BigInteger),  # the last subscriber written; NULL when the fan-out is complete
    Column("is_stopping", Boolean, nullable=False, server_default=text("false")),  # send nothing more of it
    Column("total", Integer, nullable=False, server_default="0"),
    Column("delivered", Integer, nullable=False, server_default="0"),
    Column("failed", Integer, nullable=False, server_default="0"),
    Column("unknown", Integer, nullable=False, server_default="0"),
    Column("stopped", Integer, nullable=False, server_default="0"),
    Index(
        "ix_deliveries_due",
        "channel",
        "mode",
        "lane",
        "due_at",
        "id",
        sqlite_where=text("state = 0"),
        postgresql_where=text("state = 0"),
    ),
    Index(
        "ix_deliveries_held",
        "worker_id",
        sqlite_where=text("state = 1"),
        postgresql_where=text("state = 1"),
    ),
    Index(
        "ix_deliveries_went_out",
        "channel",
        "mode",
        "settled_at",
        sqlite_where=text("kind = 'push' AND state = 2"),
        postgresql_where=text("kind = 'push' AND state = 2"),
    ),
    Index(
        "ix_deliveries_after",
        "after_id",
        sqlite_where=text("after_id IS NOT NULL"),
        postgresql_where=text("after_id IS NOT NULL"),
    ),
    Index(
        "ix_deliveries_to_decide",
        "id",
        sqlite_where=text("state IN (3, 4)"),
        postgresql_where=text("state IN (3, 4)"),
    ),
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", Key, primary_key=True),
    Column("delivery_id", ForeignKey("deliveries.id"), nullable=False, index=True),
    Column("number", Integer, nullable=False),
    Column("began_at", Instant, nullable=False),
    Column("ended_at", Instant, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("detail", Text, nullable=False, server_default=""),
    Column("evidence", Text, nullable=False, server_default=""),
)

subscribers = Table(
    "subscribers",
    metadata,
    Column("id", Key, primary_key=True),
    Column("email", String(254), nullable=False),
    Column("domain", String(254), nullable=False),
    Column("language", String(8), nullable=False),
    Column("format", String(4), nullable=False),
    Column("topics", Integer, nullable=False),  # a bit per category
    Column("districts", Integer, nullable=False),  # bit 0: the whole ward
    Column("frequency", String(8), nullable=False),
    Column("registered_at", Instant, nullable=False),
    Column("method", String(16), nullable=False),
    Column("state", String(12), nullable=False),
    Column("is_drill", Boolean, nullable=False, server_default=text("false")),  # a drill reaches only these
    Column("epoch", Integer, nullable=False, server_default="0"),  # raised to void every link mailed before
    UniqueConstraint("email", "is_drill"),
    # The fan-out reads this index alone, in the order of its cursor.
    Index("ix_subscribers_fanout", "is_drill", "state", "language", "format", "id", "topics", "districts"),
)

# Clustered by delivery: a reader stands in one delivery once, however often a fan-out is resumed.
recipients = Table(
    "recipients",
    metadata,
    Column("delivery_id", BigInteger, primary_key=True, autoincrement=False),
    Column("subscriber_id", BigInteger, primary_key=True, autoincrement=False),
    Column("state", SmallInteger, nullable=False),
    Column("attempts", SmallInteger, nullable=False, server_default="0"),
    Column("due_at", BigInteger, nullable=False),
    Column("worker_id", BigInteger),
    Column("settled_at", Instant),
    Column("reply", Text),  # the mail server's answer, without any address
    Column("is_in_doubt", Boolean, nullable=False, server_default=text("false")),  # queued, and may have gone out
    Index(
        "ix_recipients_due",
        "delivery_id",
        "due_at",
        "subscriber_id",
        sqlite_where=text("state = 0"),
        postgresql_where=text("state = 0"),
    ),
    Index(
        "ix_recipients_held",
        "worker_id",
        sqlite_where=text("state = 1"),
        postgresql_where=text("state = 1"),
    ),
    sqlite_with_rowid=False,
)

plans = Table(
    "plans",
    metadata,
    Column("id", Key, primary_key=True),
    Column("key", String(120), nullable=False, unique=True),  # what it is and for when: a run exists once
    Column("kind", String(16), nullable=False),  # issue, expire, routine
    Column("due_at", Instant, nullable=False),
    Column("message_id", BigInteger),
    Column("rule", String(64)),
    Column("state", String(8), nullable=False),  # planned, done, skipped
    Column("reason", Text, nullable=False, server_default=""),
    Column("settled_at", Instant),
    Index(
        "ix_plans_due",
        "due_at",
        "id",
        sqlite_where=text("state = 'planned'"),
        postgresql_where=text("state = 'planned'"),
    ),
)

workers = Table(
    "workers",
    metadata,
    Column("id", Key, primary_key=True),
    Column("role", String(16), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started_at", Instant, nullable=False),
    Column("alive_until", Instant, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", String(8), primary_key=True),
    Column("name", String(64), nullable=False),
    Column("role", String(16), nullable=False),
    Column("mode", String(8), nullable=False),
    Column("hash", String(64), nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False),
    Column("revoked_at", Instant),
    Column("last_used_at", Instant),
)

audit = Table(
    "audit",
    metadata,
    Column("seq", Key, primary_key=True, autoincrement=False),
    Column("at", Instant, nullable=False),
    Column("actor", String(64), nullable=False),
    Column("via", String(16), nullable=False),
    Column("act", String(32), nullable=False),
    Column("object", String(120), nullable=False),
    Column("mode", String(8), nullable=False),
    Column("detail", Text, nullable=False),
    Column("hash", String(64), nullable=False),
)

# What an API client asked for under its own key: the same key twice is one act.
requests = Table(
    "requests",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("body_hash", String(64), nullable=False),
    Column("identifier", String(64), nullable=False),
    Column("at", Instant, nullable=False),
)

meta = Table(
    "meta",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("value", Text, nullable=False),
)
