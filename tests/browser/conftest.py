"""Headless Chromium for the tests. Without a browser they skip and say why."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from browser.looking import DEADLINE_SECONDS, Visit

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Route

NAMES = ("chromium", "chromium-browser", "google-chrome")
# No screen, no GPU, nothing that calls home. Without a sandbox, as containers have none and all pages are ours.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PAGE_SECONDS = 90


def _executable() -> str | None:
    """Return the browser that is installed, if any."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A running browser; a module's own, as the driver keeps an event loop in this thread while it lives."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (the extra dev)")
    executable = _executable()
    if executable is None:
        pytest.skip(f"needs one of {', '.join(NAMES)}: `make browser` installs Debian's")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, args=FLAGS, timeout=1000 * DEADLINE_SECONDS)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Browser) -> Iterator[Callable[..., Visit]]:
    """Open pages that reach this machine alone; arguments are those of a browser context."""
    contexts = []

    def open_page(address: str, **options: Any) -> Visit:
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 800}} | options)
        contexts.append(context)
        context.set_default_timeout(1000 * PAGE_SECONDS)
        visit = Visit(context.new_page())

        def decide(route: Route) -> None:
            target = urlsplit(route.request.url)
            if target.scheme in ("data", "blob", "file") or target.hostname in ("127.0.0.1", "localhost"):
                route.continue_()
            else:
                visit.refused.append(route.request.url)
                route.abort()

        context.route("**/*", decide)
        visit.page.on("pageerror", lambda error: visit.errors.append(str(error)))
        visit.page.on("console", lambda line: visit.logged.append(line.text) if line.type == "error" else None)
        visit.page.goto(address, wait_until="domcontentloaded")
        return visit

    yield open_page
    for context in contexts:
        context.close()
