"""The explorer as `python -m skdcgn_pipeline.explorer` serves it: every control does what it says."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from browser.looking import PHONE, Visit, brightness, broken_rules, keep_screenshot, low_port, serving, surroundings
from libraries import needs
from skdcgn_pipeline.artifacts.recipe import build_in
from skdcgn_pipeline.explorer.bundle import ExplorerRecipe
from skdcgn_pipeline.students.trio import StudentCGN
from skdcgn_pipeline.teachers.teacher import SHIPPED_DIGITS_TEACHER
from tiny import explorer_card, untrained_classifiers

pytestmark = [pytest.mark.slow, needs("gradio", extra="explore")]

TEACHER, STUDENTS, STRIP = "#teacher .pictures img", "#students .pictures img", "#strip img"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The released students with untrained classifiers, or the explorer that SKDCGN_EXPLORER names."""
    if given := os.environ.get("SKDCGN_EXPLORER"):
        return Path(given).resolve()
    students, card = StudentCGN.from_released("digits"), explorer_card()
    store = tmp_path_factory.mktemp("stores")
    recipe = ExplorerRecipe(card, SHIPPED_DIGITS_TEACHER, students, untrained_classifiers())
    return build_in(store, recipe).directory


@pytest.fixture(scope="module")
def address(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = low_port()
    command = ["skdcgn_pipeline.explorer", str(folder), "--port", str(port), "--no-browser"]
    place = tmp_path_factory.mktemp("elsewhere")
    paths = os.pathsep.join([str(Path(__file__).parents[2] / "src"), os.environ.get("PYTHONPATH", "")])
    variables = surroundings(PYTHONPATH=paths)
    with serving(command, f"http://127.0.0.1:{port}", place / "log", cwd=place, env=variables) as answering:
        yield answering


def look(visit: Callable[..., Visit], address: str, **options: object) -> Visit:
    """Open the page and wait until it is drawn."""
    seen = visit(address, **options)
    seen.page.wait_for_function(
        "counts => Object.entries(counts).every(([part, count]) => document.querySelectorAll(part).length === count)",
        arg={TEACHER: 4, STUDENTS: 4, STRIP: 18},
    )
    seen.page.wait_for_load_state("load")
    return seen


def sources(seen: Visit, pictures: str) -> list[str]:
    return seen.page.locator(pictures).evaluate_all("images => images.map(image => image.src)")


def wait_until_changed(seen: Visit, pictures: str, number: int, before: str) -> list[str]:
    """Wait until a picture stands there and is another one; returns all of them."""
    seen.page.wait_for_function(
        "([pictures, number, before]) => (document.querySelectorAll(pictures)[number]?.src ?? before) !== before",
        arg=[pictures, number, before],
    )
    return sources(seen, pictures)


def same(pictures: list[str], others: list[str]) -> list[bool]:
    return [one == other for one, other in zip(pictures, others, strict=True)]


def choose(seen: Visit, label: str, name: str) -> None:
    """Choose of a list."""
    seen.page.get_by_label(label, exact=True).click()
    seen.page.get_by_role("option", name=name, exact=True).click()


def test_everything_is_drawn_and_nothing_is_loaded_from_elsewhere(
    address: str, folder: Path, visit: Callable[..., Visit]
) -> None:
    seen = look(visit, address, viewport={"width": 1280, "height": 1420}, color_scheme="light")

    assert seen.page.get_by_role("heading", name="Explorer: digits").is_visible()
    for pictures, expected in ((TEACHER, 4), (STUDENTS, 4), (STRIP, 18)):
        widths = seen.page.locator(pictures).evaluate_all("images => images.map(image => image.naturalWidth)")
        assert widths == [192] * expected
    assert len({*sources(seen, TEACHER), *sources(seen, STUDENTS)}) == 8
    for row in ("#teacher", "#students"):
        verdicts = seen.page.locator(f"{row} .verdict .mark").all_text_contents()
        assert len(verdicts) == 2
        assert all(" reads " in verdict for verdict in verdicts)
        assert seen.page.locator(f"{row} meter").count() == 6
        assert "at once" not in seen.page.locator(row).inner_text(), "nothing is timed before that is asked for"
    assert seen.page.get_by_text("59,116").is_visible()
    ground, ink = brightness(seen, "#teacher h2")
    assert ground - ink > 150
    keep_screenshot(seen.page, "explorer")
    assert (seen.refused, seen.errors, seen.logged) == ([], [], [])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_accessibility_rule_is_broken(scheme: str, address: str, visit: Callable[..., Visit]) -> None:
    seen = look(visit, address, color_scheme=scheme, bypass_csp=True, **PHONE)
    # Gradio's own line, which stands outside every region while the page settles.
    loading = "[...document.querySelectorAll('.loading')]"
    seen.page.wait_for_function(f"{loading}.every(line => line.offsetParent === null)")

    assert broken_rules(seen) == []


def test_every_control_does_what_it_says(address: str, visit: Callable[..., Visit]) -> None:
    seen = look(visit, address)
    teacher, students, strip = sources(seen, TEACHER), sources(seen, STUDENTS), sources(seen, STRIP)

    choose(seen, "Texture", "7")
    other_texture = wait_until_changed(seen, TEACHER, 1, teacher[1])
    assert same(other_texture, teacher) == [True, False, True, False]
    assert same(sources(seen, STUDENTS), students) == [True, False, True, False]
    assert "texture of 7" in seen.page.locator("#students").inner_text()
    before = wait_until_changed(seen, STRIP, 0, strip[0])
    assert before[8] == strip[8], "the other end stays"

    seen.page.get_by_role("button", name="New noise").click()
    other_noise = wait_until_changed(seen, TEACHER, 0, teacher[0])
    assert seen.page.get_by_label("Noise", exact=True).input_value() == "1"
    assert other_noise[3] != other_texture[3]
    wait_until_changed(seen, STRIP, 0, before[0])

    seen.page.get_by_label("Noise", exact=True).fill("-1")
    seen.page.get_by_text("noise: expected a whole number from 0 on, got -1").first.wait_for()
    assert "Traceback" not in seen.page.content()
    assert sources(seen, TEACHER) == other_noise, "what was shown stays"
    seen.page.get_by_label("Noise", exact=True).fill("5")
    wait_until_changed(seen, TEACHER, 0, other_noise[0])

    before = sources(seen, STRIP)
    seen.page.get_by_label("mask", exact=True).check()
    masks = wait_until_changed(seen, STRIP, 17, before[17])
    choose(seen, "Shape at the end", "2")
    now = wait_until_changed(seen, STRIP, 17, masks[17])
    assert (now[0], now[9]) == (sources(seen, TEACHER)[0], sources(seen, STUDENTS)[0])
    assert len({*now}) == 18

    seen.page.get_by_role("button", name="Measure").click()
    seen.page.locator("#times").get_by_text("all, composed").first.wait_for()
    assert "median of five turns" in seen.page.locator("#times").inner_text()
    assert "of 64 at once" in seen.page.locator("#students").inner_text()
    assert (seen.refused, seen.errors, seen.logged) == ([], [], [])


def test_an_address_shows_what_it_names_and_pictures_are_saved(address: str, visit: Callable[..., Visit]) -> None:
    seen = look(visit, address)
    first = sources(seen, TEACHER)
    choose(seen, "Texture", "7")
    wait_until_changed(seen, TEACHER, 1, first[1])
    seen.page.get_by_label("Noise", exact=True).fill("5")
    seen.page.wait_for_function("() => location.search.includes('noise=5') && location.search.includes('texture=7')")
    seen.page.wait_for_timeout(1000)
    named, chosen = seen.page.url, sources(seen, TEACHER)

    other = look(visit, named)
    assert wait_until_changed(other, TEACHER, 0, first[0]) == chosen
    assert other.page.get_by_label("Noise", exact=True).input_value() == "5"
    assert "texture of 7" in other.page.locator("#students").inner_text()
    with other.page.expect_download() as saved:
        other.page.get_by_role("link", name="Save students, composite").click()
    assert saved.value.suggested_filename == "students_composite_noise_5_3_7_1.png"
    assert other.page.url == named

    odd = look(visit, f"{address}/?noise=abc&texture=99&show=nothing")
    assert sources(odd, TEACHER) == first
    assert (other.errors, odd.errors) == ([], [])


def test_a_phone_scrolls_down_alone_and_dark_is_dark(address: str, visit: Callable[..., Visit]) -> None:
    seen = look(visit, address, color_scheme="dark", **PHONE)

    shown, needed = seen.page.evaluate("[window.innerWidth, document.documentElement.scrollWidth]")
    assert (shown, needed) == (390, 390)
    # The strip scrolls inside its own frame.
    assert seen.page.evaluate(
        "(strip => strip.scrollWidth > strip.clientWidth)(document.querySelector('#strip .wide'))"
    )
    ground, ink = brightness(seen, "#teacher h2")
    assert ink - ground > 150
