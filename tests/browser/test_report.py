"""The report of a run, as a reader sees it: without a network, on a phone, light and dark."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from browser.looking import PHONE, Visit, brightness, broken_rules
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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_accessibility_rule_is_broken(scheme: str, address: str, visit: Callable[..., Visit]) -> None:
    seen = visit(address, color_scheme=scheme, bypass_csp=True)
    seen.page.wait_for_load_state("load")

    assert broken_rules(seen) == []


def test_a_phone_scrolls_down_alone(address: str, visit: Callable[..., Visit]) -> None:
    seen = visit(address, **PHONE)
    seen.page.wait_for_load_state("load")

    shown, needed = seen.page.evaluate("[window.innerWidth, document.documentElement.scrollWidth]")
    assert (shown, needed) == (390, 390)
    # Wide tables scroll inside their own frame, and their first column stays.
    wide = "[...document.querySelectorAll('.table')].find(table => table.scrollWidth > table.clientWidth)"
    places = "[...table.querySelector('tbody tr').children].map(cell => cell.getBoundingClientRect().left)"
    before = seen.page.evaluate(f"() => {{ const table = {wide}; return {places} }}")
    after = seen.page.evaluate(f"() => {{ const table = {wide}; table.scrollLeft = 40; return {places} }}")
    assert after[0] == before[0]
    assert after[1] == before[1] - 40


def test_headlines_are_whole_on_a_phone(address: str, visit: Callable[..., Visit]) -> None:
    seen = visit(address, **PHONE)
    figures = seen.page.locator(".headlines li")
    assert figures.count() == 3
    for figure in figures.all():
        box = figure.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
        assert figure.evaluate("one => one.scrollWidth <= one.clientWidth")


def test_a_picture_opens_in_full_size_and_closes_by_keyboard(address: str, visit: Callable[..., Visit]) -> None:
    seen = visit(address, **PHONE)
    picture = seen.page.get_by_role("img", name="Invariant classifiers")
    small = picture.bounding_box()
    picture.click()
    large = picture.bounding_box()
    assert small is not None
    assert large is not None
    assert large["width"] == picture.evaluate("image => image.naturalWidth") > small["width"]
    close = seen.page.get_by_role("link", name="Close")
    seen.page.keyboard.press("Tab")
    assert close.evaluate("link => getComputedStyle(link).outlineStyle") == "solid"
    seen.page.keyboard.press("Enter")
    assert picture.evaluate("image => image.clientWidth") == small["width"]


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
