"""The control without distillation: steps, terms, resuming, collapse, and the miniature of ImageNet's CGN."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from imagenet_assets import make_miniature
from skdcgn_pipeline.artifacts.recipe import build_in
from skdcgn_pipeline.mechanisms import compose
from skdcgn_pipeline.metrics.features import FeatureSpace, Seen
from skdcgn_pipeline.parameters import Baseline, BaselineWeights, Compute, Teacher, TeacherFit
from skdcgn_pipeline.runtime import progress
from skdcgn_pipeline.runtime.errors import InterruptedRunError, SettingError
from skdcgn_pipeline.runtime.recording import listening
from skdcgn_pipeline.students.baseline import (
    BaselineRecipe,
    EndToEndTraining,
    biggan_path,
    check_baseline,
    detector_of,
)
from skdcgn_pipeline.teachers.imagenet_cgn import load_biggan
from skdcgn_pipeline.teachers.teacher import IdentifiedTeacher
from skdcgn_pipeline.vocabulary import MECHANISMS
from tiny import TinyTeacher

CPU = Compute(device="cpu")
TINY = IdentifiedTeacher(TinyTeacher(), {"name": "tiny"})
SEEING = IdentifiedTeacher(TinyTeacher(), {"name": "tiny"})
SMALL = {"architecture": "compact", "width": [4, 6, 4], "embedding_dim": 4}
WEIGHTS = {
    "reconstruction": 10.0,
    "style": 0.1,
    "mask_entropy": 0.2,
    "mask_bounds": 3.0,
    "texture": 0.3,
    "background_saliency": 2.0,
}
MINIATURE = {"architecture": "tinygan", "width": 1, "embedding_dim": 2}
CUSTOM = Teacher(name="custom", factory="tiny:TinyTeacher", fit=TeacherFit(num_images=1))


def settings(num_steps: int = 4, weights: dict[str, float] | None = None, **changes: Any) -> Baseline:
    options: dict[str, Any] = {
        "students": dict.fromkeys(MECHANISMS, SMALL),
        "batch_size": 6,
        "learning_rates": dict.fromkeys(MECHANISMS, 2e-3),
        "mask_bounds": (0.6, 0.9),
        "patch_size": 4,
        "ema_decay": 0.5,
        "num_measured_images": 7,
        "measure_every_steps": 2,
        "log_every_steps": 1,
        "checkpoint_every_steps": 100,
    }
    own = BaselineWeights(**(WEIGHTS | (weights or {})))
    return Baseline(num_steps=num_steps, weights=own, **(options | changes))


def pooled_pixels(images: torch.Tensor) -> list[torch.Tensor]:
    return [F.avg_pool2d(images, size) for size in (1, 2, 4, 8)]


def brightness(images: torch.Tensor) -> torch.Tensor:
    """Stands for a detector of salient objects."""
    return images.mean(1, keepdim=True).sigmoid()


SEEING.generator.u2net = brightness
JUDGE = FeatureSpace(lambda images: Seen(images.mean((2, 3)), 5 * images.mean((2, 3))), "means")


def recipe(own: Baseline, seed: int = 0, style: str = "pixels") -> BaselineRecipe:
    return BaselineRecipe(SEEING, own, seed, CPU, pooled_pixels, style, JUDGE)


def fit(own: Baseline | None = None, seed: int = 0, path: Path | None = None, stop_at: int = 0):
    def listen(training: str, step: int, losses: Mapping[str, float]) -> None:
        if step == stop_at:
            progress.request_stop()

    with listening(listen):
        return recipe(own or settings(), seed).fit(path)


def difference(first: torch.nn.Module, second: torch.nn.Module) -> float:
    expected = second.state_dict()
    return max((t.double() - expected[name].double()).abs().max().item() for name, t in first.state_dict().items())


# --- steps ---------------------------------------------------------------------------------------


def test_every_step_tells_every_term_and_some_tell_the_score():
    students, history = fit()
    assert not students.training
    assert [entry["step"] for entry in history] == [1, 2, 3, 4]
    terms = {"step", *WEIGHTS, "total", "mean_mask"}
    assert set(history[0]) == terms
    assert set(history[1]) == set(history[3]) == terms | {"inception_score", "collapsed_masks"}
    assert 1 <= history[3]["inception_score"] <= 3
    assert all(torch.isfinite(tensor).all() for tensor in students.state_dict().values())


def test_the_total_is_the_weighted_sum_of_the_terms():
    for entry in fit()[1]:
        expected = sum(weight * entry[name] for name, weight in WEIGHTS.items())
        assert entry["total"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("term", WEIGHTS)
def test_every_weight_teaches_something(term):
    plain = fit(settings(2, {term: 0.0}))[0]
    assert difference(fit(settings(2))[0], plain) > 1e-6


def test_without_weights_neither_style_network_nor_detector_is_needed():
    own = settings(2, {"style": 0.0, "texture": 0.0, "background_saliency": 0.0})
    students, history = BaselineRecipe(TINY, own, 0, CPU).fit()
    assert set(history[0]) == {
        "step", "reconstruction", "mask_entropy", "mask_bounds", "total", "mean_mask",
    }  # fmt: skip
    assert not students.training


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 5},
        {"betas": (0.1, 0.9)},
        {"mask_bounds": (0.1, 0.2)},
        {"style_weights": (1.0, 0.0, 0.0, 0.0)},
        {"patch_size": 2},
        {"ema_decay": 0.1},
    ],
)
def test_every_setting_changes_the_students(changes):
    assert difference(fit(settings(2))[0], fit(settings(2, **changes))[0]) > 1e-9


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_every_mechanism_has_a_learning_rate(mechanism):
    rates = dict.fromkeys(MECHANISMS, 2e-3) | {mechanism: 1e-5}
    slow, usual = fit(settings(1, learning_rates=rates, ema_decay=0.0))[0], fit(settings(1, ema_decay=0.0))[0]
    moved = {m: difference(slow.network_of(m), usual.network_of(m)) for m in MECHANISMS}
    assert [m for m in MECHANISMS if moved[m] > 1e-4] == [mechanism]


def test_students_learn_the_teachers_images():
    own = settings(150, {"style": 0.0, "texture": 0.0, "background_saliency": 0.0}, batch_size=16, log_every_steps=10)
    losses = [entry["reconstruction"] for entry in fit(own)[1]]
    assert losses[-1] < 0.5 * losses[0]


# --- collapse ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bounds", "collapsed"), [((0.97, 0.99), True), ((0.4, 0.6), False)])
def test_collapsed_masks_are_counted_and_told(bounds, collapsed, caplog):
    weights = dict.fromkeys(WEIGHTS, 0.0) | {"mask_bounds": 100.0, "reconstruction": 0.01}
    rates = dict.fromkeys(MECHANISMS, 3e-2)
    own = settings(40, weights, mask_bounds=bounds, learning_rates=rates, measure_every_steps=40, log_every_steps=40)
    (last,) = fit(own)[1]
    assert (last["collapsed_masks"] > 0.5) == collapsed
    assert ("masks have collapsed" in caplog.text) == collapsed
    assert bounds[0] - 0.1 < last["mean_mask"] <= 1


def test_a_loss_that_is_not_finite_ends_the_training():
    with pytest.raises(SettingError, match=r"baseline.learning_rates.*step"):
        fit(settings(4, learning_rates=dict.fromkeys(MECHANISMS, 1e30)))


# --- the same bits -------------------------------------------------------------------------------


def test_two_and_two_steps_are_four_steps(tmp_path):
    whole, expected = fit()
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(InterruptedRunError):
        fit(path=path, stop_at=2)
    progress.clear_stop()
    students, history = fit(path=path)
    assert difference(students, whole) == 0
    assert history == expected


def test_the_same_seed_gives_the_same_students_and_another_others():
    first, again, other = fit()[0], fit()[0], fit(seed=1)[0]
    assert difference(first, again) == 0
    assert difference(first, other) > 1e-3


def test_measuring_changes_no_weight():
    measured = fit(settings(4, measure_every_steps=1, num_measured_images=9))[0]
    assert difference(measured, fit()[0]) == 0


# --- the artifact --------------------------------------------------------------------------------


def test_a_baseline_is_built_once_and_opens_as_students(tmp_path):
    def build(own: Baseline, style: str = "pixels"):
        return build_in(tmp_path, recipe(own, style=style))

    first = build(settings())
    calls = SEEING.generator.num_calls
    again = build(settings(log_every_steps=3, measure_every_steps=5, checkpoint_every_steps=9))
    assert SEEING.generator.num_calls == calls
    assert again.artifact.identity == first.artifact.identity
    assert [entry["step"] for entry in first.history] == [1, 2, 3, 4]
    students = first.open()
    assert (students.noise_dim, students.num_classes, students.image_size) == (4, 3, 8)
    assert difference(students, fit()[0]) == 0
    assert build(settings(), "others").artifact.identity != first.artifact.identity
    assert build(settings(3)).artifact.identity != first.artifact.identity


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "named"),
    [
        (settings(), "baseline.weights.background_saliency"),
        (settings(weights={"background_saliency": 0.0}, patch_size=3), "baseline.patch_size"),
        (settings(weights={"background_saliency": 0.0}, style_network="vgg16"), "baseline.style_network"),
        (settings(weights={"background_saliency": 0.0}, image_teacher="biggan"), "baseline.image_teacher_weights"),
    ],
)
def test_a_baseline_that_cannot_be_trained_is_refused(tmp_path, own, named):
    with pytest.raises(SettingError) as caught:
        check_baseline(own, TINY, CUSTOM, str(tmp_path))
    assert named in str(caught.value)


def test_styles_without_a_network_for_them_are_refused(tmp_path):
    own = settings(weights={"background_saliency": 0.0})
    arguments = TINY, CUSTOM, str(tmp_path), False
    with pytest.raises(SettingError, match=r"baseline\.style_network: expected 'vgg16' where no digit classifier"):
        check_baseline(own, *arguments)
    check_baseline(settings(weights={"background_saliency": 0.0, "style": 0.0, "texture": 0.0}), *arguments)


def test_an_architecture_of_another_size_is_refused(tmp_path):
    class Odd(TinyTeacher):
        image_size = 12

    own = settings(weights={"background_saliency": 0.0})
    with pytest.raises(SettingError, match="image_size"):
        check_baseline(own, IdentifiedTeacher(Odd(), {}), CUSTOM, str(tmp_path))


def test_a_possible_baseline_is_accepted(tmp_path):
    check_baseline(settings(weights={"background_saliency": 0.0}), TINY, CUSTOM, str(tmp_path))


# --- ImageNet's CGN ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def miniature() -> IdentifiedTeacher:
    pytest.importorskip("pytorch_pretrained_biggan")
    return IdentifiedTeacher(make_miniature(), {"name": "miniature"})


def test_composites_of_a_teacher_are_factual_and_not_shifted(miniature):
    own = settings(1, students=dict.fromkeys(MECHANISMS, MINIATURE), batch_size=3)
    noise, labels, images, _ = EndToEndTraining(BaselineRecipe(miniature, own, 0, CPU)).batch(0)
    assert torch.equal(images, compose(miniature.generator.render(noise, labels)))


def test_the_miniature_is_imitated_with_its_own_detector(miniature, tmp_path):
    own = settings(1, students=dict.fromkeys(MECHANISMS, MINIATURE), batch_size=2)
    check_baseline(own, miniature, CUSTOM, str(tmp_path))
    assert detector_of(miniature) is miniature.generator.u2net
    before = {name: tensor.clone() for name, tensor in miniature.generator.state_dict().items()}
    students, history = BaselineRecipe(miniature, own, 0, CPU, pooled_pixels).fit()
    assert 0 < history[0]["background_saliency"] < 1
    assert students.image_size == 32
    assert all(torch.equal(tensor, before[name]) for name, tensor in miniature.generator.state_dict().items())
    unseen = own.model_copy(update={"weights": own.weights.model_copy(update={"background_saliency": 0.0})})
    other = BaselineRecipe(miniature, unseen, 0, CPU, pooled_pixels).fit()[0]
    assert difference(students.network_of("background"), other.network_of("background")) > 1e-6
    assert difference(students.network_of("shape"), other.network_of("shape")) == 0


def test_the_biggan_of_a_published_checkpoint_is_the_teacher(miniature, tmp_path):
    state = miniature.generator.state_dict()
    biggan = {name.removeprefix("f_bg."): tensor for name, tensor in state.items() if name.startswith("f_bg.")}
    whole = tmp_path / "cgn.pth"
    prefixed = {f"biggan_GT.{name}": tensor for name, tensor in biggan.items()}
    torch.save({f"module.{name}": tensor for name, tensor in (state | prefixed).items()}, whole)
    alone = tmp_path / "biggan.pth"
    torch.save(biggan, alone)

    published = Teacher(name="imagenet_cgn", weights=str(whole), fit=TeacherFit(num_images=1))
    own = settings(1, image_teacher="biggan", students=dict.fromkeys(MECHANISMS, MINIATURE), batch_size=3)
    imitating = BaselineRecipe(miniature, own, 0, CPU, biggan=biggan_path(own, published))
    noise, labels, images, _ = EndToEndTraining(imitating).batch(0)
    torch.testing.assert_close(images, miniature.generator.render_mechanism("background", noise, labels))
    own = own.model_copy(update={"image_teacher_weights": str(alone)})
    of_file = replace(imitating, settings=own, biggan=biggan_path(own, published))
    torch.testing.assert_close(EndToEndTraining(of_file).batch(0)[2], images)
    identities = {str(each.identity_inputs) for each in (imitating, of_file, replace(imitating, biggan=None))}
    assert len(identities) == 3


def test_a_checkpoint_without_its_biggan_is_refused(miniature, tmp_path):
    path = tmp_path / "cgn.pth"
    torch.save(miniature.generator.state_dict(), path)
    with pytest.raises(SettingError, match="missing, first"):
        load_biggan(path)
