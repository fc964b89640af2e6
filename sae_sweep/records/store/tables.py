"""Tables of the store. The prefix keeps them apart from Optuna's, which owns `trials`."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

SCHEMA_VERSION = 2

MIGRATIONS = {1: "ALTER TABLE sweep_trial ADD COLUMN claim BIGINT NOT NULL DEFAULT 0"}
"""What makes the next schema of one; a store is brought up to date when it is opened for writing,
and read as it is."""

METADATA = MetaData()

META = Table(
    "sweep_meta",
    METADATA,
    Column("key", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)
"""`schema`: the version of these tables; `claim`: the number of the latest claim."""

RUN = Table(
    "sweep_run",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("name", String(200), nullable=False, index=True),
    Column("question", Text, nullable=False),
    Column("started", Double, nullable=False),
    Column("finished", Double),
    Column("heartbeat", Double, nullable=False),
    Column("owner", JSON, nullable=False),
    Column("config", JSON, nullable=False),
    Column("command", Text, nullable=False),
    Column("git", Text),
    Column("versions", JSON, nullable=False),
)

TRIAL = Table(
    "sweep_trial",
    METADATA,
    Column("pk", Integer, primary_key=True),
    Column("uid", String(12), nullable=False, unique=True),
    Column("label", Text, nullable=False),
    Column("status", String(16), nullable=False),
    Column("run", ForeignKey("sweep_run.id")),
    Column("claim", BigInteger, nullable=False, server_default="0"),
    Column("config", JSON, nullable=False),
    Column("final", JSON, nullable=False),
    Column("error", Text),
    Column("started", Double),
    Column("finished", Double),
    Column("seconds", Double),
    Column("host", Text),
    Column("device", Text),
    Column("threads", Integer),
    Column("git", Text),
    Column("versions", JSON, nullable=False),
    Column("always_on_ids", JSON, nullable=False),
)
"""`run` is the start of a sweep that holds the trial, NULL when none does; `claim` the number under
which it took it, kept after it has ended."""

MEMBER = Table(
    "sweep_member",
    METADATA,
    Column("run", ForeignKey("sweep_run.id"), primary_key=True),
    Column("trial", ForeignKey("sweep_trial.pk"), primary_key=True),
    Column("position", Integer, nullable=False),
    Column("assignment", JSON, nullable=False),
)

METRIC_NAME = Table(
    "sweep_metric_name",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
)

METRIC = Table(
    "sweep_metric",
    METADATA,
    Column("trial", ForeignKey("sweep_trial.pk"), primary_key=True),
    Column("name", ForeignKey("sweep_metric_name.id"), primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("value", Double),
    Column("flag", String(4)),
    sqlite_with_rowid=False,
)
"""`value` is NULL for nan, inf and -inf, which `flag` names: SQLite cannot hold NaN."""

EVENT = Table(
    "sweep_event",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("run", ForeignKey("sweep_run.id"), nullable=False),
    Column("trial", ForeignKey("sweep_trial.pk")),
    Column("time", Double, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("text", Text, nullable=False),
    Index("sweep_event_run", "run"),
)

STATE = Table(
    "sweep_state",
    METADATA,
    Column("run", ForeignKey("sweep_run.id"), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("value", JSON, nullable=False),
)
