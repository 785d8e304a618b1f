"""Training a classifier: it learns, repeats, continues bit by bit and is built once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from skdcgn_pipeline.artifacts.recipe import build_in
from skdcgn_pipeline.classifiers import training as module
from skdcgn_pipeline.classifiers.training import ClassifierRecipe, class_lesson, fit_classifier
from skdcgn_pipeline.images.batches import draw_from_images
from skdcgn_pipeline.parameters import ClassifierFit, Compute
from skdcgn_pipeline.runtime import progress
from skdcgn_pipeline.runtime.errors import InterruptedRunError
from skdcgn_pipeline.runtime.recording import listening
from trained import assert_built_once_and_opened_as_it_was, assert_continues_to_the_same_bytes, assert_same_weights

CPU = Compute(device="cpu")


def settings(num_steps: int, **changes) -> ClassifierFit:
    options = {"num_images": 8 * num_steps, "batch_size": 8, "checkpoint_every_steps": 100} | changes
    return ClassifierFit(**options)


def draw_toy(seed: int = 0):
    """Images whose brightness is their class."""
    labels = torch.arange(60) % 3
    noise = torch.randint(0, 20, (60, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    images = (labels.view(-1, 1, 1, 1) * 100 + noise).to(torch.uint8)
    return draw_from_images(images, labels, seed, "toy")


@pytest.fixture(autouse=True)
def record_every_step(monkeypatch):
    monkeypatch.setattr(module, "LOG_EVERY_STEPS", 1)


def fit(num_steps: int = 4, seed: int = 0, path: Path | None = None, stop_at: int = 0, **changes):
    def record(training: str, step: int, losses: dict[str, float]) -> None:
        if step == stop_at:
            progress.request_stop()

    with listening(record):
        return fit_classifier(draw_toy(), settings(num_steps, **changes), seed, CPU, 3, path)


def test_the_loss_falls_on_a_toy_task():
    classifier, history = fit(40)
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    images, labels = draw_toy()(99, 30)
    assert (classifier(images).argmax(1) == labels).float().mean() > 0.9


def test_a_trained_classifier_is_in_eval_mode():
    assert not fit(2)[0].training


def test_the_same_seed_gives_the_same_classifier_and_another_another():
    first, again, other = (fit(2, seed)[0] for seed in (0, 0, 1))
    assert_same_weights(first, again)
    assert not torch.equal(first.head.weight, other.head.weight)


def test_two_and_two_steps_are_four_steps(tmp_path):
    whole, whole_history = fit(4)
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(InterruptedRunError, match="stopped at 2 of 4 steps"):
        fit(4, path=path, stop_at=2)
    progress.clear_stop()
    continued, history = fit(4, path=path)
    assert_same_weights(continued, whole)
    assert history == whole_history


def test_what_ran_before_does_not_change_a_training():
    first, _ = fit(2)
    torch.randn(1000)
    second, _ = fit(2)
    assert_same_weights(first, second)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 5])
def test_any_number_of_steps_can_be_trained(num_steps):
    _, history = fit(num_steps)
    assert [entry["step"] for entry in history] == list(range(1, num_steps + 1))


def test_settings_change_the_training():
    first, _ = fit(3)
    for changes in ({"learning_rate": 1e-3}, {"label_smoothing": 0.2}, {"weight_decay": 0.9}):
        assert not torch.equal(fit(3, **changes)[0].head.weight, first.head.weight)


def test_training_runs_in_bfloat16():
    classifier, history = fit_classifier(draw_toy(), settings(3), 0, Compute(device="cpu", precision="bf16"), 3)
    assert classifier.head.weight.dtype == torch.float32
    assert all(torch.isfinite(tensor).all() for tensor in classifier.state_dict().values())
    assert history[-1]["loss"] > 0


def test_a_precision_of_its_own_goes_before_that_of_the_run(tmp_path):
    own, _ = fit(precision="bf16")
    of_the_run, _ = fit_classifier(draw_toy(), settings(4), 0, Compute(device="cpu", precision="bf16"), 3)
    assert_same_weights(own, of_the_run)
    assert not torch.equal(own.head.weight, fit()[0].head.weight)


def build(store: Path, calls: list[int] | None = None, seed: int = 0, data: str = "toy", **changes):
    def source():
        if calls is not None:
            calls.append(1)
        return [class_lesson(draw_toy(), options)]

    options = settings(3, **changes)
    return build_in(store, ClassifierRecipe({"data": data}, source, options, seed, CPU, 3))


def test_a_classifier_is_built_once_and_opened_as_it_was(tmp_path):
    assert_built_once_and_opened_as_it_was(build, tmp_path)


@pytest.mark.parametrize("changes", [{"seed": 1}, {"data": "other"}, {"learning_rate": 0.1}, {"precision": "bf16"}])
def test_other_inputs_build_another_classifier(tmp_path, changes):
    assert build(tmp_path)[0].identity != build(tmp_path, **changes)[0].identity


def test_how_often_checkpoints_are_kept_does_not_matter(tmp_path):
    assert build(tmp_path)[0].identity == build(tmp_path, checkpoint_every_steps=1)[0].identity


def test_an_interrupted_build_continues_to_the_same_bytes(tmp_path):
    assert_continues_to_the_same_bytes(build, tmp_path)
