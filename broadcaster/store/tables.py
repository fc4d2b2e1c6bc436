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
    Index("ix_messages_state", "state", "effective_at"),
    # Each list of messages, newest first
    Index("ix_messages_list_state", "state", "id"),
    Index("ix_messages_list_category", "category", "id"),
    Index("ix_messages_list_mode", "mode", "id"),
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
    sqlite_with_rowid=False,
)

leases = Table(
    "leases",
    metadata,
    Column("id", Key, primary_key=True),  # never given twice: what was claimed by it is written down by it
    Column("delivery_id", BigInteger, nullable=False),
    Column("worker_id", BigInteger, nullable=False),
    # The queued rows of `recipients` in this stretch of `ix_recipients_due`, both ends among them.
    Column("first_due_at", BigInteger, nullable=False),
    Column("first_subscriber_id", BigInteger, nullable=False),
    Column("last_due_at", BigInteger, nullable=False),
    Column("last_subscriber_id", BigInteger, nullable=False),
    Index("ix_leases_delivery", "delivery_id"),
    Index("ix_leases_worker", "worker_id"),
    sqlite_autoincrement=True,
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
    Index("ix_audit_object", "object", "seq"),
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

# The desk: its people, what they have open, and what they write before it is a message.

people = Table(
    "people",
    metadata,
    Column("id", Key, primary_key=True),
    Column("name", String(32), nullable=False, unique=True),  # by which one signs in; also the actor of the audit
    Column("display", String(64), nullable=False),
    Column("section", String(64), nullable=False, server_default=""),
    Column("email", String(254), nullable=False, server_default=""),
    Column("role", String(16), nullable=False),
    Column("state", String(12), nullable=False),  # invited, active, disabled
    Column("password", Text, nullable=False, server_default=""),  # argon2id
    Column("totp", Text, nullable=False, server_default=""),  # the seed, sealed by the key ring
    Column("totp_step", BigInteger, nullable=False, server_default="0"),  # the newest step that was used: each once
    Column("failures", Integer, nullable=False, server_default="0"),  # wrong tries in a row
    Column("failed_at", Instant),
    Column("is_sample", Boolean, nullable=False, server_default=text("false")),  # of a rehearsal; live refuses them
    Column("created_at", Instant, nullable=False),
)

sessions = Table(
    "sessions",
    metadata,
    Column("hash", String(64), primary_key=True),  # SHA-256 of the cookie's 256 bits
    Column("person_id", ForeignKey("people.id"), nullable=False, index=True),
    Column("csrf", String(64), nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("seen_at", Instant, nullable=False),
    Column("proved_at", Instant, nullable=False),  # when a second factor was last shown
    Column("agent", String(120), nullable=False, server_default=""),
)

recovery_codes = Table(
    "recovery_codes",
    metadata,
    Column("hash", String(64), primary_key=True),
    Column("person_id", ForeignKey("people.id"), nullable=False, index=True),
)

# A link that is shown once: an invitation, a reset. GET shows, POST acts.
links = Table(
    "links",
    metadata,
    Column("hash", String(64), primary_key=True),
    Column("person_id", ForeignKey("people.id"), nullable=False, index=True),
    Column("purpose", String(16), nullable=False),
    Column("expires_at", Instant, nullable=False),
)

# What was sent by somebody whose session had run out: sealed, for the same person, once.
tickets = Table(
    "tickets",
    metadata,
    Column("hash", String(64), primary_key=True),
    Column("name", String(32), nullable=False),
    Column("path", String(200), nullable=False),
    Column("fields", Text, nullable=False),
    Column("expires_at", Instant, nullable=False),
)

# A change of privileges waits for a second administrator.
role_changes = Table(
    "role_changes",
    metadata,
    Column("id", Key, primary_key=True),
    Column("person_id", ForeignKey("people.id"), nullable=False, index=True),
    Column("role", String(16), nullable=False),
    Column("state", String(12), nullable=False),
    Column("asked_by", String(64), nullable=False),
    Column("asked_at", Instant, nullable=False),
    Column("settled_by", String(64)),
    Column("settled_at", Instant),
)

# A notice while it is written: a manuscript with gaps. It becomes a message when approval is asked for.
drafts = Table(
    "drafts",
    metadata,
    Column("id", Key, primary_key=True),
    Column("mode", String(8), nullable=False),
    Column("title", String(200), nullable=False),
    Column("version", Integer, nullable=False, server_default="1"),
    Column("manuscript", Text, nullable=False),
    Column("identifier", String(64), unique=True),  # of the message that it has become
    Column("asked_version", Integer),  # the version for which approval was last asked
    Column("created_by", String(64), nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("saved_by", String(64), nullable=False),
    Column("saved_at", Instant, nullable=False),
    Column("discarded_at", Instant),
    Index(
        "ix_drafts_open",
        "saved_at",
        sqlite_where=text("identifier IS NULL AND discarded_at IS NULL"),
        postgresql_where=text("identifier IS NULL AND discarded_at IS NULL"),
    ),
)

draft_versions = Table(
    "draft_versions",
    metadata,
    Column("draft_id", ForeignKey("drafts.id"), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("manuscript", Text, nullable=False),
    Column("saved_by", String(64), nullable=False),
    Column("saved_at", Instant, nullable=False),
)

# Who has what open, for the line that says so. Nothing depends on it.
openings = Table(
    "openings",
    metadata,
    Column("object", String(80), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("seen_at", Instant, nullable=False),
)

# Keys that a person signs in with by a touch (WebAuthn).
passkeys = Table(
    "passkeys",
    metadata,
    Column("id", String(512), primary_key=True),  # the credential's id, base64url
    Column("person_id", ForeignKey("people.id"), nullable=False, index=True),
    Column("public_key", Text, nullable=False),
    Column("sign_count", BigInteger, nullable=False, server_default="0"),
    Column("label", String(64), nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("used_at", Instant),
)

# Mails to staff: somebody must act. Written with the act, sent by the sender.
staff_mails = Table(
    "staff_mails",
    metadata,
    Column("id", Key, primary_key=True),
    Column("person_id", ForeignKey("people.id"), nullable=False),
    Column("subject", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("is_urgent", Boolean, nullable=False, server_default=text("false")),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("due_at", Instant, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("settled_at", Instant),
    Column("detail", Text, nullable=False, server_default=""),
    Index(
        "ix_staff_mails_due",
        "due_at",
        sqlite_where=text("settled_at IS NULL"),
        postgresql_where=text("settled_at IS NULL"),
    ),
)

# What people say about a message: comments, reasons of a return, reasons and reviews of sending alone.
notes = Table(
    "notes",
    metadata,
    Column("id", Key, primary_key=True),
    Column("identifier", String(64), nullable=False, index=True),
    Column("kind", String(12), nullable=False),
    Column("text", Text, nullable=False),
    Column("by", String(64), nullable=False),
    Column("at", Instant, nullable=False),
)

# Somebody sent alone: open until another has written about it.
reviews = Table(
    "reviews",
    metadata,
    Column("identifier", String(64), primary_key=True),
    Column("opened_by", String(64), nullable=False),
    Column("opened_at", Instant, nullable=False),
    Column("reason", Text, nullable=False),
    Column("text", Text),
    Column("written_by", String(64)),
    Column("written_at", Instant),
    Index(
        "ix_reviews_open",
        "opened_at",
        sqlite_where=text("written_at IS NULL"),
        postgresql_where=text("written_at IS NULL"),
    ),
)

meta = Table(
    "meta",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("value", Text, nullable=False),
)
