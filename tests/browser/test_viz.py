"""Kedro-Viz of the project, as `make viz` serves it and as `kedro viz build` writes it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from browser.looking import DEADLINE_SECONDS, Visit, keep_screenshot, low_port, served_folder, serving, surroundings
from pipelines.running import PROJECT, Finished, Place
from skdcgn_pipeline.mechanisms import MECHANISMS

pytestmark = pytest.mark.slow

STAGES = ("prepare", "sample", "distill", "compose", "classify", "report")
SETTLING_MILLISECONDS = 2000  # the graph moves to its place, the hints come
LAYERS = [
    "1 images",
    "2 samples",
    "3 students",
    "4 counterfactuals",
    "5 classifiers",
    "6 studies",
    "7 report",
]


@pytest.fixture(scope="module")
def project_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with this one's configuration and code: Kedro-Viz writes into the one that it stands in."""
    copy = tmp_path_factory.mktemp("project")
    shutil.copy(PROJECT / "pyproject.toml", copy)
    shutil.copytree(PROJECT / "conf", copy / "conf")
    (copy / "src").mkdir()
    (copy / "src" / "skdcgn_pipeline").symlink_to(PROJECT / "src" / "skdcgn_pipeline")
    return copy


def variables(place: Place) -> dict[str, str]:
    return surroundings(
        KEDRO_ENV="test", SKDCGN_DATA=str(place.data), MLFLOW_TRACKING_URI=place.tracking_uri, COLUMNS="200"
    )


@pytest.fixture(scope="module")
def built(project_copy: Path, finished: tuple[Place, Finished]) -> Path:
    """The static site."""
    command = [sys.executable, "-m", "kedro", "viz", "build", "--include-previews"]
    done = subprocess.run(
        command,
        cwd=project_copy,
        env=variables(finished[0]),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return project_copy / "build"


@pytest.fixture(scope="module")
def graph(built: Path) -> dict[str, Any]:
    """The default pipeline, as Kedro-Viz draws it."""
    return json.loads((built / "api" / "main").read_text())


def details_of(built: Path, node: dict[str, Any]) -> dict[str, Any]:
    return json.loads((built / "api" / "nodes" / node["id"]).read_text())


# --- what is drawn ---


def test_layers_are_in_reading_order_in_every_pipeline(built: Path) -> None:
    for path in sorted((built / "api" / "pipelines").iterdir()):
        drawn = json.loads(path.read_text())
        used = {node.get("layer") for node in drawn["nodes"]} - {None}
        order = [layer for layer in drawn["layers"] if layer in used]
        assert order == sorted(used), path.name
        assert used <= set(LAYERS), path.name


def test_everything_that_is_kept_is_in_a_layer(graph: dict[str, Any]) -> None:
    without = {node["name"] for node in graph["nodes"] if node["type"] == "data" and not node.get("layer")}

    assert without == {"run", "this_run"}, "how, not what"


def test_each_stage_is_a_box_and_each_mechanism_one_inside(graph: dict[str, Any]) -> None:
    boxes = graph["modular_pipelines"]
    assert set(boxes) == {"__root__", *STAGES, *(f"distill.{mechanism}" for mechanism in MECHANISMS)}
    at_first_sight = boxes["__root__"]["children"]
    assert {child["id"] for child in at_first_sight if child["type"] == "modularPipeline"} == set(STAGES)
    assert not [child for child in at_first_sight if child["type"] == "task"]


def test_every_node_has_its_code(built: Path) -> None:
    for path in sorted((built / "api" / "pipelines").iterdir()):
        nodes = [node for node in json.loads(path.read_text())["nodes"] if node["type"] == "task"]
        assert [node["name"] for node in nodes if not details_of(built, node).get("code")] == [], path.name


def test_pictures_tables_and_artifacts_have_previews(built: Path, graph: dict[str, Any]) -> None:
    kinds = {"ImagePreview": 0, "TablePreview": 0, "JSONPreview": 0}
    missing = []
    for node in graph["nodes"]:
        details = details_of(built, node) if node["type"] == "data" else {}
        if kind := details.get("preview_type"):
            kinds[kind] += 1
            if not details.get("preview"):
                missing.append(node["name"])

    assert missing == []
    assert kinds == {"ImagePreview": 10, "TablePreview": 11, "JSONPreview": 12}


def test_a_dataset_without_a_version_has_an_empty_preview(built: Path) -> None:
    drawn = json.loads((built / "api" / "pipelines" / "benchmark").read_text())
    (chart,) = [node for node in drawn["nodes"] if node["name"] == "benchmark_chart"]

    assert not details_of(built, chart).get("preview")


# --- what is seen ---


@pytest.fixture(scope="module")
def site(built: Path) -> Iterator[str]:
    with served_folder(built) as address:
        yield address


def look(visit: Callable[..., Visit], address: str) -> Visit:
    """Open the graph and put away the hints for newcomers."""
    seen = visit(address, viewport={"width": 1600, "height": 1200})
    seen.page.wait_for_selector(".pipeline-node")
    seen.page.wait_for_timeout(SETTLING_MILLISECONDS)
    if seen.page.locator(".feature-hints__close").count():
        seen.page.locator(".feature-hints__close").first.click()
        seen.page.get_by_text("You can revisit these hints").wait_for(state="hidden")
    return seen


def shown(seen: Visit) -> set[str]:
    return set(seen.page.locator(".pipeline-node__text").all_text_contents())


def test_the_built_site_draws_the_graph(site: str, visit: Callable[..., Visit]) -> None:
    seen = look(visit, site)

    names = shown(seen)
    assert {"biased_images", "students", "accuracy_chart", *STAGES} <= names
    layers = seen.page.locator(".pipeline-layer-name").all_text_contents()
    assert layers == [layer for layer in LAYERS if layer != "6 studies"]
    # Kedro-Viz asks for a font; the page is there without it.
    assert not [address for address in seen.refused if "font" not in address]
    assert seen.errors == []
    keep_screenshot(seen.page, "viz")


def test_a_mechanism_opens_on_a_click(site: str, visit: Callable[..., Visit]) -> None:
    seen = look(visit, site)
    assert shown(seen).isdisjoint({"distil_student", "distill.shape"})

    for box, inside in (("distill", "distill.shape"), ("distill.shape", "distil_student")):
        row = seen.page.locator(".MuiTreeItem-content", has=seen.page.locator(f"button[title='{box}']"))
        row.locator(".MuiTreeItem-iconContainer").click()
        seen.page.locator(".pipeline-node__text", has_text=inside).wait_for()


def test_a_picture_opens_in_the_served_page(
    project_copy: Path, finished: tuple[Place, Finished], visit: Callable[..., Visit], tmp_path: Path
) -> None:
    port = low_port()
    address = f"http://127.0.0.1:{port}"
    command = ["kedro", "viz", "run", "--host", "127.0.0.1", "--port", str(port), "--no-browser"]
    with serving(command, address, tmp_path / "viz.log", cwd=project_copy, env=variables(finished[0])):
        seen = look(visit, address)
        seen.page.locator(".pipeline-node[data-node-fullname=student_sheet]").click()
        picture = seen.page.locator(".pipeline-metadata img").first
        picture.wait_for()

        assert picture.get_attribute("src").startswith("data:image/png;base64,")
        assert picture.evaluate("image => image.naturalWidth") > 100
