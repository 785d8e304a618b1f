"""The tracking store is tried before any work, within a deadline; a local database is made under a lock, aside."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import closing
from pathlib import Path
from threading import Thread
from typing import TypeVar
from urllib.parse import quote

import mlflow
import requests  # a dependency of MLflow
import sqlalchemy
from filelock import FileLock
from mlflow.exceptions import MlflowException
from pydantic import ValidationError

from skdcgn_pipeline.runtime.errors import SettingError, told_in_one_line

SETTING = "MLFLOW_TRACKING_URI"
SECONDS_TO_ANSWER = 10.0
SECONDS_TO_MAKE = 120.0  # the tables of a new database, on a busy machine and in turns
SECONDS_OF_A_LOCK = 5.0
SERVERS, LOCAL = ("http", "https"), "sqlite"
SCHEMES = (*SERVERS, LOCAL, "postgresql", "mysql", "mssql")
DATABRICKS = ("databricks", "databricks-uc")
REMEDY = "Start the server, correct the address, or unset the variable to use the local store."
T = TypeVar("T")


def within(seconds: float, work: Callable[[], T]) -> T:
    """Do something in a thread of its own, which is left alone when the time is over.

    Raises:
        TimeoutError: When the time is over; anything that the work raises.
    """
    answer: Future[T] = Future()

    def keep() -> None:
        try:
            answer.set_result(work())
        except BaseException as error:  # noqa: BLE001  (raised again by who waits)
            answer.set_exception(error)

    Thread(target=keep, daemon=True).start()
    if not wait([answer], seconds).done:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return answer.result()


def open_store(uri: str, use: Callable[[], None]) -> None:
    """Try a tracking store by using it.

    Args:
        uri: Its address; a local database is made where there is none.
        use: What a run does first.

    Raises:
        SettingError: If the address leads nowhere, or what is there is ill.
    """
    scheme = uri.partition("://")[0].partition("+")[0] if "://" in uri else ""
    if uri not in DATABRICKS and scheme not in SCHEMES:
        expected = f"an address that begins with {', '.join(f'{one}://' for one in SCHEMES)}"
        remedy = "MLflow keeps runs in folders no more; unset the variable to use the local database."
        raise SettingError(SETTING, expected, f"'{uri}'", remedy)
    path = uri.removeprefix(f"{LOCAL}:///").partition("?")[0]
    if scheme == LOCAL and path and path != ":memory:":
        make_database(Path(path))
        check_database(Path(path))

    def try_it() -> None:
        if scheme not in (*SERVERS, LOCAL, ""):
            sqlalchemy.make_url(uri).get_dialect().import_dbapi()  # without its driver MLflow would try for minutes
        if scheme in SERVERS:
            requests.get(f"{uri.rstrip('/')}/health", timeout=SECONDS_TO_ANSWER)  # fails faster than what follows
        try:
            use()
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            use()  # another run made the experiment in between

    try:
        if scheme == LOCAL:  # looked at above; only the machine itself could be slow
            try_it()
        else:
            within(SECONDS_TO_ANSWER, try_it)
    except ValidationError:  # of mlflow.yml
        raise
    except Exception as error:  # of servers and databases there are many kinds
        reason = type(error).__name__ if isinstance(error, requests.RequestException) else told_in_one_line(error)
        raise SettingError(SETTING, "a tracking server that answers", f"{uri}: {reason}", REMEDY) from error


def make_database(path: Path) -> None:
    """Make a database where there is none: aside and under a lock, so that it is whole or not there.

    Raises:
        SettingError: If it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(f"the folder {path}")
        if path.exists() and path.stat().st_size:
            return
        with FileLock(f"{path}.lock", timeout=SECONDS_TO_MAKE):
            if not path.exists() or not path.stat().st_size:
                new = path.with_name(f"{path.name}.new")
                new.unlink(missing_ok=True)
                mlflow.MlflowClient(f"{LOCAL}:///{new}").search_experiments(max_results=1)
                new.replace(path)
    except (OSError, MlflowException, sqlalchemy.exc.SQLAlchemyError) as error:
        raise SettingError(SETTING, "a file that a database can be made of", told_in_one_line(error), REMEDY) from error


def check_database(path: Path) -> None:
    """Refuse with a `SettingError` a file that is no database of MLflow, is damaged, or that somebody else holds."""
    remedy = f"Close what uses it; or move {path.name} away, and MLflow makes a new one."
    try:
        address = f"file:{quote(str(path.absolute()))}?mode=rw"
        with closing(sqlite3.connect(address, uri=True, timeout=SECONDS_OF_A_LOCK, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            (health,) = database.execute("PRAGMA quick_check(1)").fetchone()
            whole = database.execute("SELECT version_num FROM alembic_version").fetchone()
            database.execute("ROLLBACK")
        reason = health if health != "ok" else "" if whole else "it was never finished"
    except sqlite3.Error as error:
        reason = told_in_one_line(error)
    if reason:
        raise SettingError(SETTING, "a database of MLflow that is whole and free", f"{path}: {reason}", remedy)
