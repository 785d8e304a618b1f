"""The report of a run, as a reader sees it: without a network, on a phone, light and dark."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from browser.looking import PHONE, Visit, brightness
from pipelines.running import Finished, Place

pytestmark = pytest.mark.slow


@pytest.fixture
def address(finished: tuple[Place, Finished]) -> str:
    """The report as a file, as somebody opens it who was sent it."""
    return finished[0].saved("08_reporting/*/report.html").as_uri()


def test_everything_is_there_without_a_network(address: str, visit: Callable[..., Visit]) -> None:
    seen = visit(address, offline=True)
    seen.page.wait_for_load_state("load")

    assert seen.refused == []
    widths = seen.page.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert len(widths) > 8
    assert min(widths) > 100
    for title in ("What was run", "Interpolations", "Where the classifiers look", "Accuracy", "Settings"):
        assert seen.page.get_by_role("heading", name=title, exact=True).is_visible()


def test_a_phone_scrolls_down_alone(address: str, visit: Callable[..., Visit]) -> None:
    seen = visit(address, **PHONE)
    seen.page.wait_for_load_state("load")

    shown, needed = seen.page.evaluate("[window.innerWidth, document.documentElement.scrollWidth]")
    assert (shown, needed) == (390, 390)
    # Wide tables scroll inside their own frame.
    assert seen.page.evaluate("[...document.querySelectorAll('.table')].some(t => t.scrollWidth > t.clientWidth)")


def test_settings_are_folded_until_they_are_asked_for(address: str, visit: Callable[..., Visit]) -> None:
    seen = visit(address)
    settings = seen.page.locator("details table.settings")
    assert not settings.is_visible()
    seen.page.locator("summary").click()
    assert settings.is_visible()


def test_light_and_dark_have_their_own_colours(address: str, visit: Callable[..., Visit]) -> None:
    ground, ink = brightness(visit(address, color_scheme="light"))
    assert ground - ink > 150
    ground, ink = brightness(visit(address, color_scheme="dark"))
    assert ink - ground > 150
