"""Where studies are kept: a database that processes share, and that takes back the trials of those that died."""

from __future__ import annotations

import sqlite3
import warnings
from pathlib import Path

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine, make_url

from agents.errors import UserError
from agents.run_directory import file_name

# A trial whose process has not been heard of for so many seconds is taken over.
HEARTBEAT_SECONDS = 10
GRACE_SECONDS = 40


def default_storage(env: str, agent: str) -> str:
    """A SQLite file under `runs/tuning`, whose directory is made."""
    path = Path("runs") / "tuning" / file_name(env) / f"{agent}.db"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the directory {path.parent}: {error.strerror}") from error
    return f"sqlite:///{path}"


def open_storage(url: str) -> optuna.storages.RDBStorage:
    """The storage.

    Raises:
        UserError: It cannot be reached.
    """
    shown = url
    try:
        parsed = make_url(url)
        shown = parsed.render_as_string(hide_password=True)
        sqlite = parsed.get_backend_name() == "sqlite"
        if sqlite and parsed.database in (None, "", ":memory:"):
            raise UserError(f"--storage {shown} is in memory, where it can be neither shared nor resumed: name a file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            storage = optuna.storages.RDBStorage(
                url,
                # SQLite locks the file for each write; others drop connections that idled through a long trial.
                engine_kwargs={"connect_args": {"timeout": 60}} if sqlite else {"pool_pre_ping": True},
                heartbeat_interval=HEARTBEAT_SECONDS,
                grace_period=GRACE_SECONDS,
                heartbeat_stale_trial_callback=requeue,
            )
        if sqlite:
            _lock_before_reading(storage.engine)
        return storage
    except UserError:
        raise
    except Exception as error:  # each database driver has its own
        reason = str(error).splitlines()[0]
        raise UserError(f"--storage {shown} cannot be used, it must be a database URL: {reason}") from error


def _lock_before_reading(engine: Engine) -> None:
    """Have SQLite's transactions exclude one another from their beginnings on, as other databases' row locks do.

    Optuna reads whether a trial is waiting and then takes it. By default SQLite locks only for the second, and two
    processes can take the same trial. SQLAlchemy's documentation of the driver pysqlite has this recipe.
    """
    engine.dispose()  # of the connections that were opened without

    @event.listens_for(engine, "connect")
    def leave_transactions_alone(connection: sqlite3.Connection, record: object) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def requeue(study: optuna.Study, trial: FrozenTrial) -> None:
    """Enqueue once more a trial that was not finished through no fault of its settings."""
    kept = {key: value for key, value in trial.user_attrs.items() if key in ("design", "fixed", "of", "shipped")}
    study.enqueue_trial({**trial.system_attrs.get("fixed_params", {}), **trial.params}, user_attrs=kept)
