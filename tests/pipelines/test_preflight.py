"""What is refused before any work."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from configuration import read_folder
from images.pictures import make_folder
from skdcgn_pipeline.artifacts import store as artifacts
from skdcgn_pipeline.networks import programs
from skdcgn_pipeline.parameters import Parameters, check_parameters
from skdcgn_pipeline.pipeline_registry import register_pipelines
from skdcgn_pipeline.pipelines import preflight
from skdcgn_pipeline.pipelines.variants import Variants
from skdcgn_pipeline.runtime.errors import SettingError

ALL_NODES = {"prepare.prepare_biased_images", "sample.open_teacher"}
DISTIL = "distill.shape.distil_student"


@pytest.fixture(scope="module")
def nodes() -> dict[str, Node]:
    registered = register_pipelines()
    return {node.name: node for name in ("distill", "baseline", "export") for node in registered[name].nodes}


@pytest.fixture
def check_surroundings(nodes: dict[str, Node]) -> Callable[[Parameters, Path, set[str]], None]:
    """Check what nodes of these names need."""
    return lambda parameters, root, names: preflight.check_surroundings(
        parameters, root, Pipeline([nodes[name] for name in names])
    )


@pytest.fixture
def make(project):
    raw = read_folder(project / "conf" / "base")
    raw["compute"]["device"] = "cpu"

    def make_parameters(**changes) -> Parameters:
        return check_parameters(copy.deepcopy(raw) | changes)

    return make_parameters


def test_digits_need_nothing_but_a_folder(check_surroundings, make, tmp_path):
    assert check_surroundings(make(assets="absent"), tmp_path / "data", {"prepare.prepare_biased_images"}) is None
    assert (tmp_path / "data").is_dir()


@pytest.mark.parametrize("changes", [{"classify": {"trained_on": ["cutouts"]}}, {"teacher": {"name": "cutouts"}}])
def test_cutouts_need_masks_of_the_training_images(make, tmp_path, changes):
    coloured = make()
    folder = {"source": "folder", "folder": str(make_folder(tmp_path / "own", {"train": 2}, tables=False))}
    changed = {name: getattr(coloured, name).model_dump() | change for name, change in changes.items()}
    for images in (folder, {}):
        parameters = make(images=images, variant="own" if images else "double_colored", **changed)
        pipeline = register_pipelines(Variants.of(parameters))["classify"]
        with pytest.raises(SettingError, match="cutouts: expected a mask for every training image, got images without"):
            preflight.check_surroundings(parameters, tmp_path / "data", pipeline)
    parameters = make(images={"masks": True}, **changed)
    pipeline = register_pipelines(Variants.of(parameters))["classify"]
    assert preflight.check_surroundings(parameters, tmp_path / "data", pipeline) is None


def test_cutouts_are_checked_by_their_sizes(make, tmp_path):
    folder = make_folder(tmp_path / "own", {"train": 2, "validation": 1})
    teacher = {"name": "cutouts"}
    images = {"source": "folder", "folder": str(folder), "image_size": 48}
    parameters = make(images=images, variant="own", teacher=teacher)
    pipeline = register_pipelines(Variants.of(parameters))["compose"]
    assert preflight.check_surroundings(parameters, tmp_path / "data", pipeline) is None
    parameters = make(images=images | {"image_size": 49}, variant="own", teacher=teacher)
    with pytest.raises(SettingError, match=r"49"):
        preflight.check_surroundings(parameters, tmp_path / "data", pipeline)


def test_a_device_that_is_not_there_is_refused(check_surroundings, make, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingError, match=r"compute\.device"):
        check_surroundings(make(compute={"device": "cuda"}), tmp_path, set())


def test_a_full_disk_is_refused(check_surroundings, make, tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts.shutil, "disk_usage", lambda path: SimpleNamespace(free=5 * 2**20))
    with pytest.raises(SettingError, match="200 MiB free in"):
        check_surroundings(make(), tmp_path, set())


def test_assets_are_asked_for_only_where_they_are_needed(check_surroundings, make, tmp_path):
    parameters = make(variant="wildlife", assets=str(tmp_path / "absent"))
    assert check_surroundings(parameters, tmp_path, set()) is None
    with pytest.raises(SettingError, match="textures/"):
        check_surroundings(parameters, tmp_path, {"prepare.prepare_biased_images"})


def test_inception_is_asked_for_before_any_work_where_it_is_wanted(check_surroundings, make, tmp_path):
    parameters = make(report={"generation_metrics": {"network": "inception"}}, assets=str(tmp_path))
    assert check_surroundings(parameters, tmp_path, {"distill.show_students"}) is None
    with pytest.raises(SettingError, match=r"report.generation_metrics.network.*weights-inception"):
        check_surroundings(parameters, tmp_path, {"baseline.compare_students"})
    with pytest.raises(SettingError, match=r"weights-inception"):
        check_surroundings(parameters, tmp_path, {"distill.compare_students"})


def test_a_baseline_that_cannot_be_trained_is_refused(check_surroundings, make, tmp_path):
    parameters = make(baseline=make().baseline.model_dump() | {"patch_size": 5})
    assert check_surroundings(parameters, tmp_path, ALL_NODES) is None
    with pytest.raises(SettingError, match=r"baseline.patch_size"):
        check_surroundings(parameters, tmp_path, {*ALL_NODES, "baseline.fit_baseline"})


def test_absent_mnist_files_are_refused(check_surroundings, make, tmp_path):
    images = {"source": "mnist"}
    with pytest.raises(SettingError, match="mnist/MNIST/raw"):
        check_surroundings(make(images=images, assets=str(tmp_path)), tmp_path, ALL_NODES)


def test_the_export_asks_for_its_libraries_and_students_first(check_surroundings, make, tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "find_spec", lambda name: object())
    assert check_surroundings(make(), tmp_path, {"export.export_students"}) is None
    assert check_surroundings(make(export={"students": "digits"}), tmp_path, {"export.export_students"}) is None
    with pytest.raises(SettingError, match=r"export\.students: .* Did you mean 'digits'"):
        check_surroundings(make(export={"students": "digit"}), tmp_path, {"export.export_students"})
    monkeypatch.setattr(programs, "find_spec", lambda name: None)
    assert check_surroundings(make(), tmp_path, {DISTIL}) is None
    with pytest.raises(SettingError, match=r"no onnx, onnxruntime, onnxscript\. Install them: pip install"):
        check_surroundings(make(), tmp_path, {"export.export_students"})


def test_an_absent_teacher_is_refused(check_surroundings, make, tmp_path):
    teacher = {"name": "mnist_cgn", "fit": {"num_images": 10}}
    with pytest.raises(SettingError, match="cgn_mnist/cgn_double_colored_mnist"):
        check_surroundings(make(teacher=teacher, assets=str(tmp_path)), tmp_path, {"sample.open_teacher"})


def test_a_teacher_of_digits_is_refused_for_clothes(check_surroundings, make, assets, tmp_path):
    if not (assets / "fashion_mnist").is_dir():
        pytest.skip("needs ../shared/data/fashion_mnist, which is absent")
    clothes = {"images": {"source": "fashion_mnist"}, "assets": str(assets)}
    told = r"teacher\.name: expected a teacher of T-shirt, trouser, .*, got 'digits_cgn', which paints digits"
    for nodes in ({"sample.open_teacher", "export.export_classifier"}, {*ALL_NODES, "export.export_classifier"}):
        with pytest.raises(SettingError, match=told):
            check_surroundings(make(**clothes), tmp_path, nodes)
    trained = make(**clothes, teacher=make().teacher.model_dump() | {"name": "trained"})
    assert check_surroundings(trained, tmp_path, {*ALL_NODES, "export.export_classifier"}) is None
    assert check_surroundings(make(**clothes), tmp_path, ALL_NODES) is None  # distilling needs no images


def sample_with(**changes) -> dict:
    return {"num_images_per_class": 40, "num_heldout_per_class": 4, "rows_per_shard": 70} | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample": sample_with(classes=[3, 10])}, r"sample\.classes: expected classes 0 to 9, got 10 \(1 such\)"),
        ({"sample": sample_with(classes="bset")}, r"sample\.classes: .*'bset'.*Did you mean 'best'\?"),
        ({"sample": sample_with(shard_range=[3, 7])}, r"sample\.shard_range: expected a range within the 6 shards"),
        (
            {"sample": sample_with(classes="best", shard_range=[1, 3])},
            r"sample\.shard_range: expected a range within the 2 shards",
        ),
    ],
    ids=["class", "name", "range", "range of classes"],
)
def test_what_the_teacher_cannot_be_asked_for_is_refused(check_surroundings, make, tmp_path, changes, message):
    with pytest.raises(SettingError, match=message):
        check_surroundings(make(class_lists={"best": [1, 2, 3]}, **changes), tmp_path, {"sample.open_teacher"})


def test_stages_after_a_range_of_shards_are_refused(check_surroundings, make, tmp_path):
    parameters = make(sample=sample_with(shard_range=[1, 3]))
    drawing = {"sample.open_teacher", "sample.draw_teacher_samples", "sample.draw_heldout_samples"}
    assert check_surroundings(parameters, tmp_path, drawing) is None
    with pytest.raises(
        SettingError, match=r"sample\.shard_range: expected the sample stage alone, got also 'distill.shape"
    ):
        check_surroundings(parameters, tmp_path, {*drawing, DISTIL})
