"""The database, and the only home of SQL: one module per aggregate.

    database.py     the engine, transactions, migrations     tables.py       what is kept
    messages.py     drafted, approved, scheduled             issues.py       frozen copies of what was sent
    deliveries.py   per channel and part, with attempts      recipients.py   a row of evidence per reader and mail
    subscribers.py  the readers                              plans.py        what is due when
    workers.py      who is alive and holds work              tokens.py       who may use the API
    audit.py        who did what, chained by hash

Functions take a connection and never open a transaction of their own: where a transaction begins and ends is the
pipeline's decision, and stands there.
"""
