"""The tables: what each one contains, and why. The migrations build the same tables; a test compares them.

A column whose name in the database is unclear has a second name in Python (its `key`).
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    func,
    literal_column,
    text,
)
from sqlalchemy.sql import ColumnElement

metadata = MetaData()

# Literals, not parameters: a database uses a partial index only for a statement with the index's literal condition.
IS_ACTIVE = text("watches.state = 'active'")
IS_UNSETTLED = text("watches.state <> 'settled'")
IS_DEAD = text("deliveries.state = 'dead'")
IS_NUMBERED = text("number IS NOT NULL")
# For the index of all apps. The second condition is always true, but queries of one app do not have it. So PostgreSQL
# cannot read this index for one app. It would do so if its statistics show that most events are of that app.
IS_NUMBERED_OF_ALL = text("number IS NOT NULL AND watch_id <> ''")


# SQLite has one writer, so it needs fewer indexes in random order. Each registration and each settlement writes to such
# an index, and beside a million watches to another page each time. So the watches of a task id, and the active watch
# with an endpoint, are found by the ids of their tasks, which are in the order of time. In these expressions a closed
# task and an ended watch have NULL, which is not equal to another NULL.
OPEN_CREDENTIAL = literal_column("CASE WHEN closed_at IS NULL THEN credential END", Text)
ACTIVE_ENDPOINT = literal_column("CASE WHEN state = 'active' THEN endpoint END", Text)


def unindexed(column: ColumnElement[str]) -> ColumnElement[str]:
    """Returns a text column in a form that no index has, for a condition that many rows meet.

    SQLite has no statistics here. Of two indexes it might use the one that finds more rows.
    """
    return func.coalesce(column, "")


# A row is open while (credential, task_id) has an active watch. It closes with its last watch; a later watch opens
# another row.
tasks = Table(
    "tasks",
    metadata,
    Column("id", Text, primary_key=True),
    Column("key", Text, nullable=False),  # a hash of credential and task_id: one narrow unique index on PostgreSQL
    Column("task_id", Text, nullable=False),
    Column("credential", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("queued_at", Double),  # this and the next: when the status was first seen, for the timeline of a watch
    Column("in_progress_at", Double),
    Column("progress", Integer),
    Column("url", Text),
    Column("format", Text),
    Column("metadata", Text),  # JSON, like `error` and `poll_error`
    Column("error", Text),
    Column("polls", Integer, nullable=False),
    Column("last_polled_at", Double),
    Column("next_poll_at", Double),
    Column("poll_error", Text),
    Column("owner", Text),  # the replica that polls it; null: any may take it
    # Another replica changed the task or its watches, so the owner must load the row again.
    Column("news", Boolean, nullable=False, key="changed_elsewhere"),
    Column("wants_status", Boolean, nullable=False),  # some watch asked for status events
    Column("opened_at", Double, nullable=False),
    Column("closed_at", Double),
    Column("task_model", Text),  # this and the next two: from amux's record
    Column("submitted_at", Double),
    Column("finished_at", Double),
    Column("seen_at", Double),  # the time of the answer that had the task's end
    Column("task_class", Text),  # tasks of one class take similarly long: see core/task_class.py
    Index("ux_tasks_open", "key", unique=True, postgresql_where=text("closed_at IS NULL")).ddl_if("postgresql"),
    Index("ux_tasks_task_id", "task_id", OPEN_CREDENTIAL, unique=True).ddl_if("sqlite"),
    Index(  # an SQLite file has one owner, so its queries need only the tasks without an owner
        "ix_tasks_owner",
        "owner",
        sqlite_where=text("closed_at IS NULL AND owner IS NULL"),
        postgresql_where=text("closed_at IS NULL"),
    ),
    Index("ix_tasks_news", "owner", sqlite_where=text("news = 1"), postgresql_where=text("news")),
)

watches = Table(
    "watches",
    metadata,
    Column("id", Text, primary_key=True),  # begins with the time, so the newest are at one end of the index
    Column("app", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("task_id", Text, nullable=False),
    Column("callback_url", Text, nullable=False),
    Column("host", Text, nullable=False),  # host and port of the callback, which identify the receiver
    Column("endpoint", Text, nullable=False),  # a hash of app, task_id and callback_url, which have one active watch
    Column("events", Text, nullable=False),  # types, comma-separated, sorted
    Column("context", LargeBinary, nullable=False),
    Column("options", LargeBinary, nullable=False),  # keyed fingerprint of what makes two registrations equal
    Column("state", Text, nullable=False),
    Column("outcome", Text),
    Column("created_at", Double, nullable=False),
    Column("deadline_at", Double, nullable=False),
    Column("timeout_seconds", Double, nullable=False),
    Column("ended_at", Double),
    Column("header_names", Text, nullable=False),
    Column("headers", LargeBinary),  # encrypted, like the next two; deleted with the row
    Column("secret", LargeBinary),
    Column("api_key", LargeBinary),
    Column("model", Text),  # from the app
    Column("body", LargeBinary),  # the template of the body that is sent instead of the event, as compact JSON
    Column("traceparent", Text),
    Column("tracestate", Text),
    Index("ux_watches_active", "endpoint", unique=True, postgresql_where=text("state = 'active'")).ddl_if("postgresql"),
    Index("ux_watches_task", "task", ACTIVE_ENDPOINT, unique=True).ddl_if("sqlite"),
    Index(  # with the second column, a query finds the watches near their deadline without reading their rows
        "ix_watches_deadline",
        "deadline_at",
        "timeout_seconds",
        sqlite_where=text("state = 'active'"),
        postgresql_where=text("state = 'active'"),
    ),
    Index(  # for lists of active and of cancelled watches, which are few beside the settled ones
        "ix_watches_unsettled",
        "state",
        "id",
        sqlite_where=text("state <> 'settled'"),
        postgresql_where=text("state <> 'settled'"),
    ),
    Index("ix_watches_task", "task").ddl_if("postgresql"),
    Index("ix_watches_task_id", "task_id").ddl_if("postgresql"),
    Index("ix_watches_app", "app", "id"),
    Index(
        "ix_watches_ended",
        "ended_at",
        sqlite_where=text("ended_at IS NOT NULL"),
        postgresql_where=text("ended_at IS NOT NULL"),
    ),
    Index(
        "ix_watches_outcome",
        "outcome",
        "id",
        sqlite_where=text("outcome IS NOT NULL"),
        postgresql_where=text("outcome IS NOT NULL"),
    ),
)

# The unique index guarantees one terminal event for each watch. An event's id is made from watch_id and type.
events = Table(
    "events",
    metadata,
    Column("watch_id", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("terminal", Boolean, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("body", LargeBinary),  # the bytes that are sent instead of the payload, if the watch has its own body
    # The place in the event feed: see event_feed.py. On PostgreSQL `number` is null until the event is numbered, and so
    # is `app` if a replica of an older version wrote the event.
    Column("app", Text),
    Column("number", BigInteger),
    PrimaryKeyConstraint("watch_id", "type", name="pk_events"),
    Index(
        "ux_events_terminal", "watch_id", unique=True, sqlite_where=text("terminal"), postgresql_where=text("terminal")
    ),
    Index(
        "ux_events_number",
        "number",
        unique=True,
        sqlite_where=IS_NUMBERED_OF_ALL,
        postgresql_where=IS_NUMBERED_OF_ALL,
    ),
    Index("ix_events_app", "app", "number", "type", sqlite_where=IS_NUMBERED, postgresql_where=IS_NUMBERED),
    Index(
        "ix_events_unnumbered",
        "created_at",
        sqlite_where=text("number IS NULL"),
        postgresql_where=text("number IS NULL"),
    ),
)

# The largest number that each removal of retention has removed of an app's events. An older row with a smaller number
# is not needed and is deleted, so there are few rows.
removed_events = Table(
    "removed_events",
    metadata,
    Column("app", Text, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("removal", BigInteger, nullable=False),  # grows with each removal
    PrimaryKeyConstraint("app", "number", name="pk_removed_events"),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Text, primary_key=True),  # the event's id, which is `webhook-id`
    Column("watch_id", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("round_attempts", Integer, nullable=False),  # since the last requested retry
    Column("created_at", Double, nullable=False),
    Column("next_attempt_at", Double),
    Column("delivered_at", Double),
    Column("dead_at", Double),
    Column("error", Text),
    Index("ix_deliveries_watch", "watch_id"),
    Index(
        "ix_deliveries_dead", "dead_at", sqlite_where=text("state = 'dead'"), postgresql_where=text("state = 'dead'")
    ),
)

# The pending deliveries, in a narrow table, so that a claim costs the same for any number of rows. A claim moves
# `due_at` to the end of its lease. So every due row can be claimed, also after the holder of a claim has died.
outbox = Table(
    "outbox",
    metadata,
    Column("id", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("due_at", Double, nullable=False),
    # When due_at was written, to notice that the clock was set back. Negative: a retry was requested during the claim.
    Column("set_at", Double, nullable=False),
    Column("lease", Text),
    Column("holder", Text),
    Index("ix_outbox_host", "host", "due_at"),
    sqlite_with_rowid=False,  # one index less: each delivery is inserted here and deleted again
)

attempts = Table(
    "attempts",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("delivery_id", Text, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("duration_seconds", Double, nullable=False),
    Column("status_code", Integer),
    Column("error", Text),
    Column("body", Text),
    Index("ix_attempts_delivery", "delivery_id"),
)

# Hosts whose last attempts got no answer, or 429, 502, 503 or 504. A host that answers again has no row.
hosts = Table(
    "hosts",
    metadata,
    Column("host", Text, primary_key=True),
    Column("failures", Integer, nullable=False),
    Column("at", Double, nullable=False),
)

# Receivers (host and port) that an operator paused: nothing is sent to them. After a resume the row stays until all
# deliveries have new due times; `spread` of the `waiting` deliveries have one.
pauses = Table(
    "pauses",
    metadata,
    Column("host", Text, primary_key=True),
    Column("paused_at", Double, nullable=False),
    Column("paused_by", Text, nullable=False),
    Column("resumed_at", Double),
    Column("waiting", Integer, nullable=False),
    Column("spread", Integer, nullable=False),
)

# Who cancelled a watch, resent a delivery, paused or resumed a receiver. Entries are deleted with old watches.
audit = Table(
    "audit",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("at", Double, nullable=False),
    Column("action", Text, nullable=False),
    Column("actor", Text, nullable=False),  # the name of a token
    Column("role", Text, nullable=False),
    Column("watch_id", Text),
    Column("delivery_id", Text),
    Column("receiver", Text),
    Index(
        "ix_audit_watch",
        "watch_id",
        sqlite_where=text("watch_id IS NOT NULL"),
        postgresql_where=text("watch_id IS NOT NULL"),
    ),
    Index(
        "ix_audit_receiver",
        "receiver",
        "at",
        sqlite_where=text("receiver IS NOT NULL"),
        postgresql_where=text("receiver IS NOT NULL"),
    ),
)

# Notices for operators. Their deliveries have no watch. The payload is final, like the payload of an event.
notices = Table(
    "notices",
    metadata,
    Column("id", Text, primary_key=True),  # `webhook-id`, and the id of its row in `deliveries`
    Column("type", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("callback_url", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Index("ix_notices_created", "created_at"),
)

# States with a notice: failing receivers, refused keys. For dead deliveries: the last notice about a receiver.
conditions = Table(
    "conditions",
    metadata,
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("since", Double, nullable=False),
    PrimaryKeyConstraint("kind", "name", name="pk_conditions"),
)

# Dead deliveries that no notice has named yet. Only written when notices are configured.
dead_reports = Table(
    "dead_reports",
    metadata,
    Column("delivery_id", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("dead_at", Double, nullable=False),
    Index("ix_dead_reports_host", "host"),
)

# The figures of the attempts at each receiver, by the hour. Each process writes its own rows, so no process waits for
# another one. It writes totals, so a repeated write changes nothing.
receiver_figures = Table(
    "receiver_figures",
    metadata,
    Column("host", Text, nullable=False),
    Column("hour", Integer, nullable=False),  # Unix seconds / 3,600
    Column("process", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("delivered", Integer, nullable=False),
    Column("durations", Text, nullable=False),  # JSON: the number of attempts in each bin of durations
    Column("last_at", Double, nullable=False),
    Column("last_status", Integer),
    Column("last_error", Text),
    PrimaryKeyConstraint("host", "hour", "process", name="pk_receiver_figures"),
    Index("ix_receiver_figures_hour", "hour"),
)

# How long the tasks of each class took: a histogram, and the other numbers of `core/learned_schedule.py`.
class_histories = Table(
    "class_histories",
    metadata,
    Column("name", Text, primary_key=True),
    Column("weights", Text, nullable=False),  # JSON, a number for each bin
    Column("ends", Integer, nullable=False),
    Column("extra_polls", Double, nullable=False),
    Column("polls", Double, nullable=False),
    Column("last_end_at", Double, nullable=False),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("app", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("status", Integer, nullable=False),
    Column("watch_id", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    PrimaryKeyConstraint("app", "key", name="pk_idempotency"),
    Index("ix_idempotency_created", "created_at"),
)

# The replicas. A replica owns its tasks while its epoch is unchanged. A replica that takes them over raises the epoch
# first.
replicas = Table(
    "replicas",
    metadata,
    Column("id", Text, primary_key=True),
    Column("epoch", Integer, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("owned_tasks", Integer, nullable=False),
    Column("probed", Integer, nullable=False),
)

# The database's own secrets, encrypted: the root key, and the signing secret that is used if the settings have none.
# The root key also shows whether the encryption key is the right one.
secrets = Table(
    "secrets",
    metadata,
    Column("name", Text, primary_key=True),
    Column("sealed", LargeBinary, nullable=False, key="encrypted"),
)
