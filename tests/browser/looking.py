"""What the browser tests look at: pages, folders and servers of this machine."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Page

PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2}
# Far above what anything takes on an idle core.
DEADLINE_SECONDS = 240


@dataclass
class Visit:
    """A page and what went on in it.

    Attributes:
        page: Playwright's page.
        refused: Addresses beyond this machine that the page asked for; none was let through.
        errors: Uncaught exceptions of the page's scripts.
        logged: Errors in the browser's console.
    """

    page: Page
    refused: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)


def broken_rules(visit: Visit) -> list[tuple[str, list[str]]]:
    """Return the rules of axe that a page breaks, and where; its policy has to be bypassed for axe's script."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs the extra dev").Axe()
    found = axe.run(visit.page).response
    assert len(found["passes"]) > 10, "hardly any rule was tried"
    return [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found["violations"]]


def brightness(seen: Visit, writing: str = "body") -> list[float]:
    """Return that of the page and of some writing on it (a CSS selector), in 0 .. 255."""
    colours = seen.page.evaluate(
        "writing => [getComputedStyle(document.body).backgroundColor,"
        " getComputedStyle(document.querySelector(writing)).color]",
        writing,
    )
    return [sum(int(part) for part in colour[4:-1].split(",")) / 3 for colour in colours]


def keep_screenshot(page: Page, name: str) -> bytes:
    """Return a screenshot of at most 300 kB; kept as `<name>.png` where SKDCGN_PICTURES names a folder."""
    with Image.open(io.BytesIO(page.screenshot())) as image:
        reduced = image.convert("RGB").quantize(128)
    buffer = io.BytesIO()
    reduced.save(buffer, format="PNG", optimize=True)
    if folder := os.environ.get("SKDCGN_PICTURES"):
        (Path(folder) / f"{name}.png").write_bytes(buffer.getvalue())
    assert len(buffer.getvalue()) <= 300 * 1024
    return buffer.getvalue()


def low_port() -> int:
    """Return a port of this machine that nobody listens on, none above 49151, which Kedro-Viz would refuse."""
    ports = range(20_000, 49_000)
    for offset in range(len(ports)):
        port = ports[(os.getpid() + offset) % len(ports)]
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("every port is in use")


@contextmanager
def served_folder(folder: Path) -> Iterator[str]:
    """Serve the files of a folder; gives the address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def surroundings(**more: str) -> dict[str, str]:
    """Return environment variables for a command: none of this machine's settings, no telemetry."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "SKDCGN_", "KEDRO_", "GRADIO_"))}
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "OMP_NUM_THREADS": "1"}
    return kept | quiet | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | more


@contextmanager
def serving(command: list[str], address: str, log: Path, **options: Any) -> Iterator[str]:
    """Run `python -m command` as a server until left; gives its address as soon as it answers."""
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], stdout=output, stderr=subprocess.STDOUT, start_new_session=True, **options
        )
    try:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not _answers(address):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{' '.join(command)} does not answer:\n{log.read_text()[-4000:]}")
            time.sleep(0.2)
        yield address
    finally:
        _stop_group(process)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            return answer.status < 500
    except OSError:
        return False


def _stop_group(process: subprocess.Popen[bytes]) -> None:
    """Stop a server with the processes that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=20)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait()
