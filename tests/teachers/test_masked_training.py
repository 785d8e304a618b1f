"""Training a CGN on images with true masks, of any number of classes and size; and how a collapse is told."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from images.pictures import make_folder
from skdcgn_pipeline.artifacts.recipe import Store
from skdcgn_pipeline.images.recipes import image_set_recipe
from skdcgn_pipeline.images.stored import StoredImages
from skdcgn_pipeline.parameters import ClassifierFit, Compute, Images, MaskedFit, Prepare, TeacherFit
from skdcgn_pipeline.runtime import progress
from skdcgn_pipeline.runtime.errors import InterruptedRunError, SettingError
from skdcgn_pipeline.runtime.recording import listening
from skdcgn_pipeline.teachers import measures, tasks
from skdcgn_pipeline.teachers.cgn import MnistCGN, levels_of
from skdcgn_pipeline.teachers.masked_training import MaskedTeacherTask
from skdcgn_pipeline.teachers.measures import TeacherMeasures, diversity, faults_of
from skdcgn_pipeline.teachers.teacher import open_trained_teacher
from skdcgn_pipeline.teachers.training import TeacherRecipe
from skdcgn_pipeline.training.task import fit as train

CPU = Compute(device="cpu")
STYLE = ClassifierFit(num_images=8, batch_size=4)


def settings(num_steps: int = 4, **changes: Any) -> TeacherFit:
    options: dict[str, Any] = {"batch_size": 4, "discriminator_width": 8, "num_measures": 2}
    options |= {"discriminator": "convolutional", "patch_shift": False, "checkpoint_every_steps": 100}
    masked = {"learning_rate": 2e-3, "composite_weight": changes.pop("composite_weight", 0.1)}
    return TeacherFit(num_images=4 * num_steps, masked=MaskedFit(**masked), **(options | changes))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> StoredImages:
    """Three classes, 48 px, with masks."""
    root = tmp_path_factory.mktemp("masked")
    folder = make_folder(root / "shapes", {"train": 6, "validation": 2})
    chosen = Images(source="folder", folder=str(folder), image_size=48)
    return Store(root / "stores").make(image_set_recipe(chosen, Prepare(feature_network=STYLE), "folder", "", 0))


@pytest.fixture(autouse=True)
def record_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "LOG_EVERY_STEPS", 1)


def pooled_pixels(pictures: torch.Tensor) -> list[torch.Tensor]:
    return [torch.nn.functional.avg_pool2d(pictures, size) for size in (1, 2, 4, 8)]


def fit(images: StoredImages, own: TeacherFit, path: Path | None = None, stop_at: int = 0) -> tuple[MnistCGN, list]:
    def stop(training: str, step: int, losses: Mapping[str, float]) -> None:
        if step == stop_at:
            progress.request_stop()

    task = MaskedTeacherTask(TeacherRecipe(images, own, STYLE, 0, CPU), pooled_pixels)
    with listening(stop):
        return train(task, path)


@pytest.mark.parametrize("composite_weight", [0.0, 0.1])
def test_a_training_with_masks_continues_in_the_same_bits(
    images: StoredImages, tmp_path: Path, composite_weight: float
) -> None:
    own = settings(composite_weight=composite_weight)
    whole, history = fit(images, own)
    with pytest.raises(InterruptedRunError):
        fit(images, own, tmp_path / "checkpoint.pt", stop_at=3)
    progress.clear_stop()
    continued, again = fit(images, own, tmp_path / "checkpoint.pt")

    assert again == history
    expected = whole.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in continued.state_dict().items())
    terms = {"mask", "foreground", "background", "latent", "mask_entropy", "total", "mean_mask", "step"}
    assert set(history[0]) == terms | ({"adversarial", "style", "discriminator"} if composite_weight else set())
    assert [entry["step"] for entry in history if "frechet" in entry] == [2, 4]


def test_each_mechanism_learns_what_the_mask_tells_of_it(images: StoredImages) -> None:
    first, *_, last = fit(images, settings(40))[1]

    for term in ("mask", "foreground", "background"):
        assert last[term] < 0.9 * first[term]


def test_foregrounds_fill_the_frame_and_backgrounds_have_no_hole(images: StoredImages) -> None:
    task = MaskedTeacherTask(TeacherRecipe(images, settings(1), STYLE, 0, CPU), pooled_pixels)
    batch = task.batch(0)
    real = task.real_mechanisms(0, batch.real)

    inside = (real.mask > 0.5).expand_as(batch.real)
    assert (real.foreground[inside] - batch.real[inside]).abs().mean() < 0.05
    assert (real.background[~inside] - batch.real[~inside]).abs().mean() < 0.05
    assert (real.foreground[~inside] - batch.real[~inside]).abs().mean() > 0.15


def test_the_weights_that_were_best_are_kept(images: StoredImages) -> None:
    own = settings(num_measures=4)
    task = MaskedTeacherTask(TeacherRecipe(images, own, STYLE, 0, CPU), pooled_pixels)
    distances = iter([3.0, 1.0, 2.0, 4.0])
    kept: list[dict[str, torch.Tensor]] = []

    def measure(cgn: MnistCGN, device: torch.device) -> dict[str, float]:
        kept.append({name: tensor.clone() for name, tensor in cgn.state_dict().items()})
        return {"frechet": next(distances)}

    task._measures = measure
    train(task)

    assert all(torch.equal(tensor, kept[1][name]) for name, tensor in task.result.state_dict().items())


def test_a_collapse_is_told_with_what_to_do(
    images: StoredImages, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        artifact = Store(tmp_path).make(TeacherRecipe(images, settings(1), STYLE, 0, CPU))

    card = artifact.read_json("teacher.json")
    assert card["faults"] == faults_of(card["measures"])
    assert any("of the diversity of real ones" in fault for fault in card["faults"])
    (told,) = [record.message for record in caplog.records if "collapsed" in record.message]
    assert measures.REMEDY in told
    teacher = open_trained_teacher(artifact)
    for opened in (teacher.generator, pickle.loads(pickle.dumps(teacher.open_again))()):
        assert (opened.num_classes, opened.image_size) == (3, 48)


def test_real_images_are_no_collapse(images: StoredImages) -> None:
    split = images.split("train")
    found = TeacherMeasures(split, 3, pooled_pixels, 0)(MnistCGN(8, 3, 48).eval(), torch.device("cpu"))

    assert {"frechet", "mean_mask", "mask_bits", "lowest_mask_diversity", "lowest_image_diversity"} <= set(found)
    assert faults_of(found | {"lowest_mask_diversity": 0.9, "lowest_image_diversity": 0.9, "mean_mask": 0.3}) == []
    assert len(faults_of(found | {"lowest_mask_diversity": 0.1, "lowest_image_diversity": 0.1, "mean_mask": 0.0})) == 3


def test_diversity_is_the_mean_distance_of_two_images() -> None:
    assert diversity(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)) == 1.0
    assert diversity(torch.ones(3, 1, 2, 2)) == 0.0
    assert diversity(torch.ones(1, 1, 2, 2)) == 0.0


@pytest.mark.parametrize(("size", "levels"), [(32, (8, 2)), (48, (6, 3)), (64, (8, 3)), (96, (6, 4)), (128, (8, 4))])
@pytest.mark.parametrize("learnt_masks", [False, True])
def test_a_cgn_of_any_size_is_told_by_its_tensors(size: int, levels: tuple[int, int], learnt_masks: bool) -> None:
    cgn = MnistCGN(5, 7, size, 4, learnt_masks).eval()
    again = MnistCGN.like(cgn.state_dict()).eval()
    again.load_state_dict(cgn.state_dict())

    assert levels_of(size) == levels
    noise, labels = torch.randn(2, 5), torch.tensor([0, 6])
    assert torch.equal(again.render(noise, labels).mask, cgn.render(noise, labels).mask)
    assert cgn.render(noise, labels).background.shape == (2, 3, size, size)


def test_a_size_that_no_doubling_reaches_is_refused() -> None:
    with pytest.raises(SettingError, match=r"images.image_size: expected a multiple of 8"):
        MnistCGN(image_size=50)
