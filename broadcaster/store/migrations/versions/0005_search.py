"""The words of messages, to be found by; lists of messages by state, category and mode."""

from alembic import op

from broadcaster.store import search

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_LISTS = (
    ("ix_messages_list_state", "state"),
    ("ix_messages_list_category", "category"),
    ("ix_messages_list_mode", "mode"),
)


def upgrade() -> None:
    for name, column in _LISTS:
        op.create_index(name, "messages", [column, "id"])
    if op.get_context().dialect.name == "postgresql":
        op.execute(
            f"CREATE TABLE {search.TABLE} (id BIGINT PRIMARY KEY REFERENCES messages (id) ON DELETE CASCADE, "
            "words tsvector NOT NULL)"
        )
        op.execute(f"CREATE INDEX ix_{search.TABLE}_words ON {search.TABLE} USING gin (words)")
    else:
        op.execute(
            f"CREATE VIRTUAL TABLE {search.TABLE} USING fts5(words, detail=none, tokenize='unicode61 remove_diacritics 0')"
        )
    search.fill(op.get_bind())


def downgrade() -> None:
    op.execute(f"DROP TABLE {search.TABLE}")
    for name, _column in _LISTS:
        op.drop_index(name, table_name="messages")
