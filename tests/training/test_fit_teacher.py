"""Training a CGN: steps, terms, resuming, and what the weights file carries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from skdcgn_pipeline import progress
from skdcgn_pipeline.data.bias import BiasedSplit
from skdcgn_pipeline.data.images import BiasedImages, build_biased_images
from skdcgn_pipeline.errors import InterruptedRunError, SettingError
from skdcgn_pipeline.models.teacher import load_teacher
from skdcgn_pipeline.parameters import ClassifierFit, Compute, Prepare, TeacherFit
from skdcgn_pipeline.training import fit_teacher as module
from skdcgn_pipeline.training.fit_teacher import build_teacher, fit_style_network, fit_teacher, open_vgg16_features

CPU = Compute(device="cpu")


def settings(num_steps: int = 4, **changes: Any) -> TeacherFit:
    options: dict[str, Any] = {
        "batch_size": 4,
        "discriminator_width": 8,
        "mask_bounds_weight": 1.0,
        "mode_seeking_weight": 0.5,
        "style_weights": (0.1, 0.1, 0.1, 0.1),
        "ema_decay": 0.5,
        "checkpoint_every_steps": 100,
    }
    return TeacherFit(num_images=4 * num_steps, **(options | changes))


def make_split(num_images: int = 24) -> BiasedSplit:
    images = torch.randint(0, 256, (num_images, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    labels = torch.arange(num_images) % 3
    return BiasedSplit(images.to(torch.uint8), labels, labels, labels, labels < 0)


def pooled_pixels(images: torch.Tensor) -> list[torch.Tensor]:
    return [F.avg_pool2d(images, size) for size in (1, 2, 4, 8)]


@pytest.fixture(autouse=True)
def record_every_step(monkeypatch):
    monkeypatch.setattr(module, "LOG_EVERY_STEPS", 1)


def fit(own: TeacherFit | None = None, seed: int = 0, path: Path | None = None, stop_at: int = 0):
    def record(step: int, losses: dict[str, float]) -> None:
        if step == stop_at:
            progress.request_stop()

    return fit_teacher(make_split(), pooled_pixels, own or settings(), seed, CPU, path, record, num_classes=3)


def difference(first: torch.nn.Module, second: torch.nn.Module) -> float:
    expected = second.state_dict()
    return max((t.double() - expected[name].double()).abs().max().item() for name, t in first.state_dict().items())


def test_every_step_tells_every_named_term():
    cgn, history = fit()
    assert not cgn.training
    assert [entry["step"] for entry in history] == [1, 2, 3, 4]
    assert set(history[0]) == {
        "step",
        "adversarial",
        "mask_entropy",
        "mask_bounds",
        "mode_seeking",
        "style",
        "total",
        "discriminator",
        "mean_mask",
    }
    assert all(torch.isfinite(tensor).all() for tensor in cgn.state_dict().values())


def test_the_total_is_the_weighted_sum_of_the_terms():
    own = settings()
    for entry in fit(own)[1]:
        expected = (
            entry["adversarial"]
            + own.mask_entropy_weight * entry["mask_entropy"]
            + own.mask_bounds_weight * entry["mask_bounds"]
            + own.mode_seeking_weight * entry["mode_seeking"]
            + entry["style"]
        )
        assert entry["total"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"mask_entropy_weight": 1.0},
        {"mask_bounds_weight": 9.0, "mask_bounds": (0.8, 0.9)},
        {"mode_seeking_weight": 5.0, "mode_seeking_floor": 0.9},
        {"style_weights": (0.0, 0.0, 0.0, 0.9)},
        {"init": "normal"},
        {"discriminator": "convolutional"},
        {"ema_decay": 0.0},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_every_setting_changes_the_teacher(changes):
    assert difference(fit(settings(2))[0], fit(settings(2, **changes))[0]) > 0


@pytest.mark.parametrize("discriminator", ["linear", "convolutional"])
def test_two_and_two_steps_are_four_steps(tmp_path, discriminator):
    own = settings(discriminator=discriminator)
    whole, whole_history = fit(own)
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(InterruptedRunError, match="teacher: stopped at 2 of 4 steps"):
        fit(own, path=path, stop_at=2)
    progress.clear_stop()
    torch.randn(10)  # the global generator must not matter
    continued, history = fit(own, path=path)
    assert difference(continued, whole) == 0
    assert history == whole_history


def test_the_same_seed_gives_the_same_teacher_and_another_another():
    first, again, other = (fit(settings(2), seed)[0] for seed in (0, 0, 1))
    assert difference(first, again) == 0
    assert difference(first, other) > 0


def test_masks_learn_to_stay_within_their_bounds():
    own = settings(
        25,
        learning_rate=1e-2,
        mask_bounds_weight=100.0,
        mask_bounds=(0.02, 0.1),
        style_weights=(0.0, 0.0, 0.0, 0.0),
        mask_entropy_weight=0.0,
        mode_seeking_weight=0.0,
    )
    _, history = fit(own)
    assert history[-1]["mask_bounds"] < 0.5 * history[0]["mask_bounds"]


def test_vgg16_without_its_weights_is_refused_with_the_alternative(tmp_path):
    with pytest.raises(SettingError, match=r"teacher\.fit\.style_network.*use 'digit_classifier'"):
        open_vgg16_features(str(tmp_path))


# --- artifacts -----------------------------------------------------------------------------------

STYLE = ClassifierFit(num_images=8, batch_size=4)


@pytest.fixture(scope="module")
def biased_images(tmp_path_factory) -> BiasedImages:
    prepare = Prepare(source="digits", feature_network=STYLE)
    return build_biased_images(tmp_path_factory.mktemp("images"), "absent", prepare, "double_colored", 0)


def test_style_features_are_four_layers_of_a_frozen_classifier(biased_images):
    features = fit_style_network(biased_images.split("train"), STYLE, 0, CPU)
    images = torch.randn(2, 3, 32, 32, requires_grad=True)
    layers = features(images)
    assert len(layers) == 4
    layers[-1].sum().backward()
    assert images.grad.abs().sum() > 0


def test_a_built_teacher_loads_for_its_variant_only(tmp_path, biased_images):
    arguments = (biased_images, settings(2), STYLE, 0, CPU, "absent")
    artifact = build_teacher(tmp_path, *arguments)
    path = artifact.path(module.WEIGHTS_FILE)
    assert load_teacher("mnist_cgn", path, variant="double_colored").image_size == 32
    with pytest.raises(SettingError, match="a teacher of 'double_colored'"):
        load_teacher("mnist_cgn", path, variant="wildlife")
    modified = path.stat().st_mtime_ns
    assert build_teacher(tmp_path, *arguments).path(module.WEIGHTS_FILE).stat().st_mtime_ns == modified
