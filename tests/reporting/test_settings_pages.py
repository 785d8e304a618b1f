"""The tables of settings in the documentation: what they say, and that the pages equal the code."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field
from settings_pages import (
    MISSING,
    SETTINGS,
    base_values,
    filled,
    main,
    marked_names,
    settings_of,
    settings_table,
)

from skdcgn_pipeline.parameters import Count, Fraction, Parameters, Settings
from skdcgn_pipeline.transformations import TRANSFORMATIONS


class Inner(Settings):
    """An inner one.

    Attributes:
        low, high: Bounds.
    """

    low: Fraction = 0.25
    high: Annotated[float, Field(ge=0, le=2)] = 1.5


class Base(Settings):
    """What the outer one extends.

    Attributes:
        inherited: From the base.
        kind: Told anew below.
    """

    inherited: bool = False


class Outer(Base):
    """An outer one.

    Attributes:
        kind: Which,
            told over two lines.
        sizes: Sizes.
        width: One or two.
        inner: Held.
        many: Held in a list.
        named: Held by name.
    """

    kind: Literal["a", "b"]
    sizes: Annotated[tuple[Count, ...], Field(min_length=1, max_length=8)] = (1, 2)
    width: Annotated[int, Field(ge=2, multiple_of=2)] | tuple[int, int] | None = None
    inner: Inner = Inner(high=0.5)
    many: tuple[Inner, ...] = ()
    named: dict[str, Inner] | None = None
    name: dict[str, str] | None = None


@pytest.fixture(scope="module")
def pages(project: Path) -> dict[str, str]:
    """Every page of the documentation."""
    found = {str(path.relative_to(project)): path.read_text() for path in sorted((project / "docs").rglob("*.md"))}
    assert len(found) > 10
    return found


def test_types_ranges_defaults_and_meanings_are_told() -> None:
    rows = {row.name: row for row in settings_of(Outer)}
    assert list(rows) == [
        "inherited",
        "kind",
        "sizes",
        "width",
        "inner.low",
        "inner.high",
        "many",
        "many[].low",
        "many[].high",
        "named",
        "named.<name>.low",
        "named.<name>.high",
        "name",
    ]
    assert rows["kind"].values == "`a`, `b`"
    assert rows["kind"].default is MISSING
    assert rows["kind"].meaning == "Which, told over two lines."
    assert rows["sizes"].values == "list of: integer, > 0, at least 1 of them, at most 8 of them"
    assert rows["sizes"].default == (1, 2)
    assert rows["width"].values == "integer, ≥ 2, a multiple of 2 or 2 times: integer or `null`"
    assert rows["inner.low"].values == "number, > 0, < 1"
    assert rows["inner.low"].meaning == rows["inner.high"].meaning == "Bounds."
    assert rows["inner.high"].values == "number, ≥ 0, ≤ 2"
    assert rows["inner.high"].default == 0.5, "what the outer one gives it"
    assert rows["many"].values == "list of: settings, see below"
    assert rows["many[].high"].default == 1.5
    assert rows["named"].values == "mapping of names to settings, see below or `null`"
    assert rows["named.<name>.low"].meaning == "Bounds."
    assert rows["inherited"].meaning == "From the base."
    assert rows["name"].values == "mapping of names to text or `null`"


def test_settings_of_one_type_share_a_table_that_tells_where_they_differ() -> None:
    values = {
        "shape": {"distill": {"num_steps": 3, "batch_size": 8}},
        "texture": {"distill": {"num_steps": 2, "batch_size": 8}},
        "background": {"distill": {"num_steps": 2, "batch_size": 8}},
    }
    table = settings_table(["shape", "texture", "background"], values)
    (steps,) = [line for line in table.splitlines() if "distill.num_steps`" in line]
    (size,) = [line for line in table.splitlines() if "distill.batch_size`" in line]
    assert "| needed | `3` (shape); `2` (texture, background) |" in steps
    assert "| `64` | `8` |" in size
    assert table.count("| setting |") == 1
    assert "The same for `texture` and `background`." in table


def test_only_what_is_between_the_marks_is_written() -> None:
    marks = "<!-- settings: sample -->\nmade before\n<!-- /settings -->\n"
    page = f"Before.\n{marks}After.\n<!-- transformations -->\n<!-- /transformations -->\n"
    new = filled(page, {})
    assert new.startswith("Before.\n<!-- settings: sample -->\n")
    assert "\n<!-- /settings -->\nAfter.\n" in new
    assert "made before" not in new
    assert "`sample.rows_per_shard`" in new
    assert all(f"| `{kind}` |" in new for kind in TRANSFORMATIONS)
    assert filled(new, {}) == new


def test_an_unknown_setting_is_an_error() -> None:
    with pytest.raises(KeyError, match="sampel"):
        filled("<!-- settings: sampel -->\n<!-- /settings -->", {})


def test_the_pages_equal_the_code(project: Path, pages: dict[str, str]) -> None:
    values = base_values(project / "conf")
    stale = [name for name, page in pages.items() if filled(page, values) != page]
    assert not stale, "run `make settings` and commit what it writes"


def test_main_fills_the_pages_of_a_project(project: Path, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "page.md"
    page.write_text("<!-- settings: report -->\n<!-- /settings -->\n")
    (tmp_path / "conf").symlink_to(project / "conf")
    main(tmp_path)
    assert "| `report.num_examples` | integer, > 0, ≤ 40 | `10` | `10` |" in page.read_text()


def test_every_setting_has_its_place_and_a_meaning(pages: dict[str, str]) -> None:
    told = [name for page in pages.values() for mark in SETTINGS.finditer(page) for name in marked_names(mark[2])]
    assert sorted(told) == sorted(Parameters.model_fields), "each top-level setting on one page"
    rows = [line for page in pages.values() for line in page.splitlines() if line.startswith("| `")]
    unexplained = [row.split("|")[1].strip() for row in rows if row.endswith("|  |")]
    assert unexplained == []
