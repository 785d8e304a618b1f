"""Stores that do not answer, answer nonsense or are damaged are refused in one line, soon and before any work."""

from __future__ import annotations

import logging
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any, ClassVar

import mlflow
import pytest
from filelock import FileLock

from pipelines.running import untouched_mlflow
from ports import free_port
from skdcgn_pipeline.io import store_check, tracking
from skdcgn_pipeline.io.mlflow_hook import TolerantMlflowHook
from skdcgn_pipeline.runtime.errors import SettingError


class Loader(dict[str, Any]):
    config_patterns: ClassVar = {"mlflow": []}


def connect(uri: str) -> TolerantMlflowHook:
    """Let the hook set MLflow up, as the beginning of a run does."""
    settings = {"server": {"mlflow_tracking_uri": uri}, "tracking": {"experiment": {"name": "any"}}}
    context = SimpleNamespace(
        config_loader=Loader(mlflow=settings), project_path=Path.cwd(), _get_config_credentials=dict
    )
    hook = TolerantMlflowHook()
    hook.after_context_created(context)
    return hook


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(store_check, "SECONDS_TO_ANSWER", 3.0)
    monkeypatch.setattr(store_check, "SECONDS_OF_A_LOCK", 0.2)
    with untouched_mlflow():
        yield


@contextmanager
def serving(status: int, body: bytes, drips: bool = False, is_healthy: bool = True) -> Iterator[str]:
    """A server that answers whatever it is asked; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            if is_healthy and self.path == "/health":
                self.send_response(200)
                self.end_headers()
                return
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            for byte in body if drips else ():
                time.sleep(0.2)
                self.wfile.write(bytes([byte]))
            if not drips:
                self.wfile.write(body)

        do_GET = do_POST = do_PATCH = answer  # noqa: N815  (names of the standard library)

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads, server.block_on_close = True, False
        server.handle_error = lambda *args: None  # type: ignore[method-assign]  # a client that went away
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def refusal(uri: str) -> str:
    start = time.monotonic()
    with pytest.raises(SettingError) as caught:
        connect(uri)
    assert time.monotonic() - start < 20
    message = str(caught.value)
    assert message.startswith("MLFLOW_TRACKING_URI: expected")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (401, b"who are you"),
        (403, b"no"),
        (404, b"not here"),
        (429, b"later"),
        (500, b"oh"),
        (503, b"soon"),
        (200, b"<html>Welcome</html>"),
        (200, b'{"experiment": '),
        (200, b"{}"),
        (200, b'{"experiment": [1]}'),
        (200, b"[1]"),
    ],
)
def test_server_that_is_ill_is_refused(status: int, body: bytes) -> None:
    with serving(status, body) as uri:
        assert uri in refusal(uri)


@pytest.mark.parametrize("is_healthy", [True, False])
def test_server_that_drips_is_refused_at_the_deadline(monkeypatch: pytest.MonkeyPatch, is_healthy: bool) -> None:
    monkeypatch.setattr(store_check, "SECONDS_TO_ANSWER", 0.5)
    with serving(200, b" " * 1000, drips=True, is_healthy=is_healthy) as uri:
        assert "no answer within 0.5 s" in refusal(uri)


def test_server_that_is_not_there_is_refused() -> None:
    port = free_port()

    assert f"http://127.0.0.1:{port}: ConnectionError" in refusal(f"http://127.0.0.1:{port}")
    assert "unset the variable" in refusal("http://no-such-host.invalid:5000")


@pytest.mark.parametrize(
    "uri",
    ["ftp://host/x", "file:///tmp/runs", "/tmp/runs", "mlruns", "HTTP://host", "SQLITE:///x.db", "postgres://h/x", ""],
)
def test_address_of_another_kind_is_refused(uri: str) -> None:
    assert "an address that begins with http://, https://, sqlite://" in refusal(uri)


def test_database_without_its_driver_is_refused() -> None:
    assert "No module named 'psycopg" in refusal("postgresql://user:secret@127.0.0.1:1/x")


# --- local databases ---


@pytest.fixture
def database(new_database: Callable[[Path], str], tmp_path: Path) -> Path:
    return Path(new_database(tmp_path / "mlflow").removeprefix("sqlite:///"))


def test_database_that_is_whole_is_taken(database: Path) -> None:
    assert connect(f"sqlite:///{database}").mlflow_config.tracking.experiment._experiment.name == "any"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096 : 4096 * 40] = bytes(4096 * 39)
    path.write_bytes(content)


def write_text(path: Path) -> None:
    path.write_text("notes " * 1000)


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE alembic_version SET version_num = 'from_the_future'")
        database.commit()


def leave_half_made(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("DELETE FROM alembic_version")
        database.commit()


def make_another(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE datasets (name TEXT)")
        database.commit()


@pytest.mark.parametrize("harm", [cut, spoil, write_text, make_folder, make_newer, leave_half_made, make_another])
def test_database_that_is_ill_is_refused(database: Path, harm: Callable[[Path], None]) -> None:
    harm(database)

    assert str(database) in refusal(f"sqlite:///{database}")


def test_database_that_somebody_holds_is_refused(database: Path) -> None:
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert "locked" in refusal(f"sqlite:///{database}")


def test_database_is_made_aside_and_by_one(tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "mlflow.db"

    class Client:
        """Takes its time over a database, as MLflow does."""

        def __init__(self, uri: str) -> None:
            self.path = Path(uri.removeprefix("sqlite:///"))
            assert self.path != path, "it would be seen half made"

        def search_experiments(self, max_results: int) -> None:
            made.append(self.path)
            assert not self.path.exists()
            self.path.write_bytes(b"half")
            time.sleep(0.3)
            shutil.copy(database, self.path)

    made: list[Path] = []
    monkeypatch.setattr(mlflow, "MlflowClient", Client)
    path.parent.mkdir()
    path.with_name("mlflow.db.new").write_bytes(b"left by a run that was stopped")
    threads = [Thread(target=store_check.make_database, args=(path,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(made) == 1
    assert path.read_bytes() == database.read_bytes()
    assert not path.with_name("mlflow.db.new").exists()
    with FileLock(f"{path}.lock", timeout=0):
        pass


# --- a server that falls ill while the run goes on ---


def test_server_that_dies_before_the_first_log_stops_nothing(
    database: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hook = connect(f"sqlite:///{database}")

    def fail(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("the server went away")

    monkeypatch.setattr(mlflow.MlflowClient, "create_run", fail)
    names = ("tags", "node_names", "from_nodes", "to_nodes", "from_inputs", "load_versions")
    params: dict[str, Any] = {**dict.fromkeys(names), "pipeline_names": ["any"]}
    pipeline = SimpleNamespace(nodes=[SimpleNamespace(tags=set())])

    hook.before_pipeline_run(params, pipeline, None)
    tracking.log_parameters({"seed": 0})
    hook.before_node_run(None, None, None, False)
    hook.after_pipeline_run(params, pipeline, {})

    assert [record.levelno for record in caplog.records if "MLflow did not take" in record.message] == [logging.WARNING]
    assert mlflow.active_run() is None


def test_server_that_drips_is_given_up_with_one_warning(
    database: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hook = connect(f"sqlite:///{database}")
    names = ("tags", "node_names", "from_nodes", "to_nodes", "from_inputs", "load_versions")
    params: dict[str, Any] = {**dict.fromkeys(names), "pipeline_names": ["any"]}
    pipeline = SimpleNamespace(nodes=[SimpleNamespace(tags=set())])
    hook.before_pipeline_run(params, pipeline, None)
    monkeypatch.setattr(tracking, "SECONDS_TO_LOG", 0.2)
    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", lambda *args, **kwargs: time.sleep(2))
    start = time.monotonic()

    for _ in range(3):
        tracking.log_metrics({"accuracy": 0.5})
    hook.after_pipeline_run(params, pipeline, {})

    assert time.monotonic() - start < 1.5
    assert caplog.text.count("did not take") == 1
    assert mlflow.active_run() is None
