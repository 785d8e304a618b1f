"""Releases: what belongs to them, and that they load as what was measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from configuration import merge, read_folder
from skdcgn_pipeline.artifacts.recipe import build_in
from skdcgn_pipeline.artifacts.store import build_artifact
from skdcgn_pipeline.metrics.cost import COST_COLUMNS
from skdcgn_pipeline.metrics.generation import FIDELITY_COLUMNS
from skdcgn_pipeline.parameters import Parameters, check_parameters
from skdcgn_pipeline.reporting.release import (
    Release,
    release_card,
    release_command,
    render_model_card,
)
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.students import released as released_module
from skdcgn_pipeline.students.recipes import ReleasedStudentsRecipe, StudentsArtifact
from skdcgn_pipeline.students.released import released_students
from skdcgn_pipeline.students.trio import StudentCGN
from skdcgn_pipeline.vocabulary import MECHANISMS

MAX_BYTES = 400 * 1024
SMALL = {"architecture": "compact", "width": [3, 4, 3], "embedding_dim": 2}


@pytest.fixture
def parameters(project: Path) -> Parameters:
    return check_parameters(read_folder(project / "conf" / "base"))


@pytest.fixture
def students(tmp_path: Path) -> StudentsArtifact:
    torch.manual_seed(0)
    cgn = StudentCGN(4, 3, 8, dict.fromkeys(MECHANISMS, SMALL)).eval()
    cgn.save_pretrained(tmp_path / "students")

    def write(writer) -> None:
        for path in sorted((tmp_path / "students").iterdir()):
            writer.write(path.name, lambda to, path=path: shutil.copyfile(path, to))

    return StudentsArtifact(build_artifact(tmp_path / "store", {"kind": "students"}, write))


@pytest.fixture
def card(parameters: Parameters, students: StudentsArtifact) -> dict:
    rows = [dict.fromkeys([*FIDELITY_COLUMNS, *COST_COLUMNS], 1234.0) | {"mechanism": m} for m in (*MECHANISMS, "all")]
    comparison = pd.DataFrame(rows)
    comparison.loc[comparison["mechanism"] != "shape", "mask_iou"] = None
    accuracy = {"trained_on": "students", "split": "test", "subset": "all", "mean_accuracy": 0.875}
    accuracy |= {"interval_low": 0.87, "interval_high": 0.88, "num_seeds": 3, "num_images": 2872}
    speed = {
        "group": "throughput",
        "what": "students, best batch size",
        "value": 9000.0,
        "batch_size": 64,
        "threads": 2,
    }
    speed |= {"precision": "fp32", "ratio": 11.5}
    other = speed | {"group": "compose", "what": "something else"}
    benchmark = pd.DataFrame([speed, other, speed | {"what": "students", "value": 8000.0}])
    identity = {"name": "digits_cgn", "sha256": "ab" * 32}
    return release_card(parameters, students, identity, comparison, pd.DataFrame([accuracy]), benchmark)


@pytest.fixture
def released(tmp_path: Path, students: StudentsArtifact, card: dict, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package folder that holds this release alone."""
    artifact = build_in(tmp_path / "releases", Release(students, card))
    folder = tmp_path / "released"
    folder.mkdir()
    for name in artifact.manifest["files"]:
        shutil.copyfile(artifact.path(name), folder / name)
    monkeypatch.setattr(released_module, "RELEASED", folder)
    return folder


def test_a_release_is_named_after_source_and_variant(project, parameters):
    assert parameters.run_name == "digits"
    assert release_command(parameters) == "kedro run --pipelines release"
    settings = read_folder(project / "conf" / "base")
    merge(settings, read_folder(project / "conf" / "mnist"))
    mnist = check_parameters(settings | {"variant": "wildlife"})
    assert mnist.run_name == "wildlife_mnist"
    assert release_command(mnist) == "kedro run --env mnist --pipelines release --params variant=wildlife"
    called = mnist.model_copy(update={"name": "wildlife_mnist_small"})
    assert release_command(called).endswith(" --params variant=wildlife,name=wildlife_mnist_small")


def test_a_release_loads_as_the_students_that_were_measured(released, students, card):
    assert released_students() == ["digits"]
    noise, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    mine, theirs = StudentCGN.from_released("digits"), students.open()
    for mechanism in MECHANISMS:
        assert torch.equal(mine.render(noise, labels).of(mechanism), theirs.render(noise, labels).of(mechanism))
    assert not mine.training
    assert not any(parameter.requires_grad for parameter in mine.parameters())


def test_the_card_tells_teacher_training_and_figures(card, parameters):
    assert card["teacher"]["sha256"] == "ab" * 32
    assert card["training"]["seed"] == parameters.seed
    assert card["training"]["shape"] == parameters.shape.distill.model_dump(mode="json")
    assert [row["what"] for row in card["figures"]["throughput"]] == ["students, best batch size"]
    assert json.loads(json.dumps(card)) == card


def test_the_page_shows_the_figures(card):
    page = render_model_card(card)
    assert 'StudentCGN.from_released("digits")' in page
    assert "| students | test | all | 87.5 ± 0.5 | 3 | 2,872 |" in page
    assert "| students, best batch size | 64 | 2 | fp32 | 9,000 | 11.5x |" in page
    assert "| shape | 1234.0000 | 1234.000 | 1234.000 |" in page
    assert "| texture | 1234.0000 |  | 1234.000 |" in page


def test_an_unknown_release_is_refused_with_the_nearest(released):
    with pytest.raises(SettingError, match="Did you mean 'digits'"):
        StudentCGN.from_released("digit")


def test_weights_that_are_not_those_of_the_card_are_refused(released):
    path = released / "students_digits.safetensors"
    state = load_file(path)
    save_file({name: tensor + 1 for name, tensor in state.items()}, path)
    with pytest.raises(SettingError, match="students 'digits': expected weights with SHA-256"):
        StudentCGN.from_released("digits")


def test_released_students_stand_in_for_distilled_ones(released, students, tmp_path):
    adopted = build_in(tmp_path / "adopted", ReleasedStudentsRecipe("digits"))
    again = build_in(tmp_path / "adopted", ReleasedStudentsRecipe("digits"))
    assert adopted.artifact.identity == again.artifact.identity
    state, expected = adopted.open().state_dict(), students.open().state_dict()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


# --- the releases of this package ----------------------------------------------------------------


@pytest.mark.parametrize("name", released_students())
def test_every_release_of_the_package_is_small_and_loads(name):
    folder = released_module.RELEASED
    sizes = {
        suffix: (folder / f"students_{name}{suffix}").stat().st_size for suffix in (".safetensors", ".json", ".md")
    }
    assert max(sizes.values()) <= MAX_BYTES
    students = StudentCGN.from_released(name)
    budget = 33_000 if name.endswith("_small") else 66_000
    assert sum(parameter.numel() for parameter in students.parameters()) <= budget
    images = students.render(torch.zeros(10, students.noise_dim), torch.arange(10))
    assert images.mask.shape == (10, 1, 32, 32)
    assert (folder / f"students_{name}.md").read_text(encoding="utf-8") == render_model_card(
        json.loads((folder / f"students_{name}.json").read_text(encoding="utf-8"))
    )
