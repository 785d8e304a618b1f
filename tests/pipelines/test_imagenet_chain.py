"""`conf/imagenet` from end to end with a miniature teacher and few small images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from imagenet_assets import ARCHITECTURE, WNIDS, make_assets, tiny_settings, write_images
from pipelines.chain import TIMING
from pipelines.running import Finished, Place, artifacts_in, state_of
from skdcgn_pipeline.artifacts.store import Artifact
from skdcgn_pipeline.mechanisms import MECHANISMS
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.students.recipes import StudentsArtifact

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_assets(tmp_path_factory.mktemp("imagenet") / "assets")


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, tracking_uri: str, assets: Path) -> tuple[Place, Finished]:
    """The default run of the environment, with the composition study and the baseline, once."""
    place = Place(tmp_path_factory.mktemp("chain") / "data", tracking_uri)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in TIMING.items():
            patch.setattr(name, value)
        torch.set_num_threads(1)
        names = ["__default__", "ablation", "baseline"]
        return place, place.run(env="imagenet", params=tiny_settings(assets), assets=assets, pipeline_names=names)


def test_every_stage_leaves_its_work(chain: tuple[Place, Finished]) -> None:
    place, _ = chain
    counts = {path.name: len(artifacts_in(path)) for path in (place.data / "stores").iterdir() if path.is_dir()}

    assert counts == {
        "accuracy": 2 * 8,  # of the students' and the baseline's classifier, on seven splits and on counterfactuals
        "baseline": 1,
        "cell": 4,  # the reference and one cell, two seeds each
        "classifier": 1 + 2 + 4,  # the given feature network, the classifiers, and the cells'
        "counterfactual": 3,  # of the teacher, the students and the baseline
        "every_background": 2,
        "export": 1,  # the classifier that is kept to be taken away
        "followed": 1,
        "images": 1,
        "mapped": 1,
        "measure": 2,  # students and baseline against their teacher
        "sample": 4,
        "student": 4,
    }


def test_the_table_of_accuracy_tells_every_prediction(chain: tuple[Place, Finished]) -> None:
    place, _ = chain
    table = pd.read_parquet(place.saved("07_tables/imagenet/accuracy.parquet"))

    assert set(table["trained_on"]) == {"students"}
    assert not table.duplicated(["trained_on", "split", "subset"]).any()
    heads = {f"{mechanism} head" for mechanism in MECHANISMS}
    predictions = {"without background", *heads}
    invariance = ("background gap", "on every background")
    subsets = table.groupby("split")["subset"].agg(set).to_dict()
    assert subsets == {
        "validation": {"all", *predictions},
        "sketch": {"all", *predictions},
        "cue_conflict": {"shape bias", *(f"shape bias, {name}" for name in predictions)},
        "imagenet9/mixed_same": {"all", *predictions},
        "imagenet9/mixed_rand": {"all", *predictions},
        "imagenet9/original": {"all", *predictions},
        "imagenet9/only_bg_t": {"all", *predictions},
        "imagenet9": {*invariance, *(f"{measure}, {name}" for measure in invariance for name in predictions)},
        "counterfactuals": heads,
    }
    counts = table[table["split"] != "cue_conflict"].groupby("split")["num_images"].first().to_dict()
    assert counts == {
        "validation": 20, "sketch": 3, "imagenet9/mixed_same": 6, "imagenet9/mixed_rand": 6, "imagenet9": 6,
        "imagenet9/original": 6, "imagenet9/only_bg_t": 6, "counterfactuals": 6,
    }  # fmt: skip
    # Three of the nine cue-conflict images have no conflict.
    assert table.loc[table["split"] == "cue_conflict", "num_images"].max() <= 6
    value = table.set_index(["split", "subset"])["accuracy"]
    assert value.drop("imagenet9", level="split").dropna().between(0, 1).all()
    assert value["imagenet9"].filter(like="on every background").between(0, 1).all()
    for name in predictions:
        difference = value["imagenet9/mixed_same", name] - value["imagenet9/mixed_rand", name]
        assert value["imagenet9", f"background gap, {name}"] == pytest.approx(difference)


def test_students_are_compared_in_the_features_of_the_given_network(chain: tuple[Place, Finished]) -> None:
    place, _ = chain
    table = pd.read_parquet(place.saved("07_tables/imagenet/student_comparison.parquet")).set_index("mechanism")

    assert list(table.index) == [*MECHANISMS, "all"]
    assert (table["frechet"] > 0).all()
    # To the training images, too, which here are as large as the teacher's.
    assert table.loc["all", "frechet_teacher"] > 0
    assert (table["num_images"] == 10).all()


def test_a_cell_is_measured_on_the_validation_folder(chain: tuple[Place, Finished]) -> None:
    place, _ = chain
    table = pd.read_parquet(place.saved("07_tables/imagenet/ablation_cells.parquet"))

    assert set(table["cell"]) == {"reference", "shape opacity 0.75"}
    assert set(table["subset"]) == {"all", "without background", *(f"{mechanism} head" for mechanism in MECHANISMS)}
    assert set(table["split"]) == {"test"}
    assert len(table) == 2 * 2 * 5
    assert (table["num_images"] == 20).all()
    assert table["accuracy"].between(0, 1).all()
    assert len(pd.read_csv(place.saved("07_tables/imagenet/ablation_failures.csv"))) == 0


def test_the_baseline_imitates_the_biggan_and_is_compared_as_students_are(chain: tuple[Place, Finished]) -> None:
    place, finished = chain
    (identity,) = artifacts_in(place.store("baseline"))
    baseline = StudentsArtifact(Artifact.open(place.store("baseline") / identity))
    assert "biggan" in baseline.artifact.inputs["image_teacher"]
    assert baseline.artifact.inputs["style"] is None
    terms = {"reconstruction", "mask_entropy", "mask_bounds", "background_saliency", "total", "mean_mask", "step"}
    assert [set(entry) for entry in baseline.history] == [terms, terms]
    assert baseline.open().image_size == 32

    table = pd.read_parquet(place.saved("07_tables/imagenet/baseline_comparison.parquet")).set_index("mechanism")
    assert list(table.index) == [*MECHANISMS, "all"]
    assert (table["frechet"] > 0).all()
    assert place.saved("08_reporting/imagenet/baseline_counterfactual_sheet.png").stat().st_size > 1000
    metrics = place.run_of(finished).data.metrics
    assert {"baseline/loss/mean_mask", "baseline/shape/mask_iou"} <= set(metrics)


def test_folders_report_and_metrics_tell_of_the_run(chain: tuple[Place, Finished], assets: Path) -> None:
    place, finished = chain
    folders = pd.read_csv(place.saved("07_tables/imagenet/images.csv")).set_index("split")
    assert folders["num_images"].to_dict() == {
        "train": 30, "validation": 20, "sketch": 3, "cue_conflict": 9, "imagenet9/mixed_same": 6,
        "imagenet9/mixed_rand": 6, "imagenet9/original": 6, "imagenet9/only_bg_t": 6,
    }  # fmt: skip
    page = place.saved("08_reporting/imagenet/report.html").read_text(encoding="utf-8")
    assert "Accuracy on validation: " in page
    assert "shape bias of the shape head" in page
    assert "% of objects right on every background" in page
    assert "Whether classifiers err alike" not in page  # a single one
    assert "Accuracy on test: " not in page
    run = place.run_of(finished)
    assert "accuracy/students/validation/all" in run.data.metrics
    assert "accuracy/students/imagenet9/on_every_background" in run.data.metrics
    assert "classifier/students/seed_0/loss/shape" in run.data.metrics
    assert run.data.tags["source"] == "imagenet"
    assert len(run.data.tags["teacher_sha256"]) == 64


def test_a_second_run_reuses_everything(chain: tuple[Place, Finished], assets: Path) -> None:
    place, _ = chain
    before = state_of(place.data / "stores")
    place.run(env="imagenet", params=tiny_settings(assets), assets=assets, pipeline_names=["ensemble"])
    assert state_of(place.data / "stores") == before


# --- what is refused before any work ---


def refusal(place: Place, assets: Path, *names: str, **changes: Any) -> str:
    params = tiny_settings(assets)
    for section, own in changes.items():
        params[section] = {**params.get(section, {}), **own}
    with pytest.raises(SettingError) as caught:
        place.run(env="imagenet", params=params, assets=assets, pipeline_names=list(names))
    stores = place.data / "stores"
    assert not [path for path in stores.rglob("*") if path.is_file()], "something was made"
    return str(caught.value)


def test_absent_weights_and_folders_are_named(place: Place, assets: Path, tmp_path: Path) -> None:
    absent = str(tmp_path / "absent")
    told = refusal(place, assets, "sample", teacher={"weights": absent})
    assert told.startswith("teacher.weights: expected a file, got nothing at ")
    for setting in ("train", "validation", "cue_conflict"):
        told = refusal(place, assets, "classify", images={"folders": {setting: absent}})
        assert told.startswith(
            f"images.folders.{setting}: expected a folder with a folder per class, got nothing at {absent}"
        )
    told = refusal(place, assets, "classify", images={"folders": {"imagenet9": absent}})
    assert told.startswith("images.folders.imagenet9 (mixed_same): expected a folder")
    told = refusal(place, assets, "classify", images={"folders": {"backgrounds_challenge": absent}})
    assert told.startswith("images.folders.backgrounds_challenge (original): expected a folder")
    told = refusal(place, assets, "classify", images={"folders": {"imagenet_a": absent}})
    assert told.startswith("images.folders.imagenet_a: expected a folder")
    told = refusal(place, assets, "classify", classify={"network": {"architecture": ARCHITECTURE, "weights": absent}})
    assert told.startswith("classify.network.weights: ")
    assert absent in told
    weights = {"weights": {"style": 4.0}}
    told = refusal(place, assets, "baseline", baseline=weights)
    assert told.startswith("baseline.style_network: expected torchvision's VGG16 weights at ")
    told = refusal(place, assets, "baseline", baseline=weights | {"style_network": "feature_network"})
    assert told.startswith("baseline.style_network: expected 'vgg16' where no digit classifier is trained")
    given = {"architecture": ARCHITECTURE, "weights": absent}
    assert absent in refusal(place, assets, "distill", prepare={"given_features": given})


def test_folders_of_other_classes_are_refused(place: Place, assets: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "other", [f"{WNIDS[0]}/a.png", "dogs/a.png"])
    told = refusal(place, assets, "classify", images={"folders": {"validation": str(tmp_path / "other")}})
    assert told.startswith("images.folders.validation: expected class folders named by the 10 WordNet ids")
    assert "the first 'dogs'" in told


def test_stages_that_need_coloured_digits_are_refused(place: Place, assets: Path) -> None:
    for stage in ("release", "results"):
        told = refusal(place, assets, stage)
        assert told.startswith("images.source: expected one of digits, mnist, fashion_mnist"), told
        assert "'imagenet'" in told
    told = refusal(place, assets, "ablation", ablation={"study": "counts"})
    assert told.startswith("ablation.study: expected studies whose training images have a class for every mechanism")


def test_images_are_not_looked_at_where_nothing_needs_them(place: Place, assets: Path, tmp_path: Path) -> None:
    """Distilling a given teacher needs neither ImageNet nor its index tables."""
    params = tiny_settings(assets)
    params["images"] = {"folders": {name: str(tmp_path / "absent") for name in ("train", "validation")}}
    place.run(env="imagenet", params=params, assets=assets, pipeline_names=["distill"])
    assert len(artifacts_in(place.store("student"))) == 4
    assert not artifacts_in(place.store("images"))


def test_an_evaluation_without_a_folder_is_left_out(chain: tuple[Place, Finished], assets: Path) -> None:
    place, _ = chain
    params = tiny_settings(assets)
    params["images"]["folders"] |= {"cue_conflict": "", "imagenet9": "", "backgrounds_challenge": ""}
    params["classify"]["num_counterfactuals"] = 0
    place.run(env="imagenet", params=params, assets=assets, pipeline_names=["ensemble"])
    table = pd.read_parquet(place.saved("07_tables/imagenet/accuracy.parquet"))
    assert set(table["split"]) == {"validation", "sketch"}
