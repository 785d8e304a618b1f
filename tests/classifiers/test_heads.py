"""Training a head for each mechanism: every loss reaches its head, it repeats, continues bit by bit, is built once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision import models

from skdcgn_pipeline.artifacts.recipe import build_in
from skdcgn_pipeline.classifiers import torchvision_classifier, training
from skdcgn_pipeline.classifiers.accuracy import measure_heads
from skdcgn_pipeline.classifiers.torchvision_classifier import MechanismLogits
from skdcgn_pipeline.classifiers.training import (
    WEIGHTS_FILE,
    ClassifierRecipe,
    ClassifierTask,
    counterfactual_lesson,
    initial_classifier,
    make_rates,
    real_lesson,
)
from skdcgn_pipeline.counterfactuals.pools import CounterfactualPool
from skdcgn_pipeline.images.batches import draw_from_images
from skdcgn_pipeline.parameters import ClassifierFit, ClassifierNetwork, Composition, Compute, Counterfactual
from skdcgn_pipeline.runtime import progress
from skdcgn_pipeline.runtime.errors import InterruptedRunError, SettingError
from skdcgn_pipeline.runtime.recording import listening
from skdcgn_pipeline.vocabulary import MECHANISMS
from trained import assert_built_once_and_opened_as_it_was, assert_continues_to_the_same_bytes, assert_same_weights

CPU = Compute(device="cpu")
SIZE, NUM_CLASSES = 12, 3
OF_NETWORK = ("architecture", "weights", "heads_from_weights", "frozen_norm")


def settings(num_steps: int = 4, **changes) -> ClassifierFit:
    options = {
        "num_images": 8 * num_steps,
        "batch_size": 8,
        "optimiser": "sgd",
        "counterfactual_batch_size": 6,
        "learning_rate": 0.05,
        "weight_decay": 1e-4,
        "checkpoint_every_steps": 100,
    }
    return ClassifierFit(**(options | {name: value for name, value in changes.items() if name not in OF_NETWORK}))


def network(**changes) -> ClassifierNetwork:
    options = {name: value for name, value in changes.items() if name in OF_NETWORK}
    return ClassifierNetwork(**{"architecture": "tiny", "heads": "mechanisms", "frozen_norm": "statistics", **options})


@pytest.fixture(autouse=True)
def tiny_trunk(monkeypatch):
    """A trunk of a few thousand weights with norm and dropout; a test with a real one follows."""

    def build(architecture: str, setting: str):
        trunk = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Conv2d(16, 16, 3),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Flatten(),
        )
        return trunk, "head", 144

    monkeypatch.setattr(torchvision_classifier, "_build_trunk", build)
    monkeypatch.setattr(training, "LOG_EVERY_STEPS", 1)


def toy_images(labels: torch.Tensor, seed: int) -> torch.Tensor:
    """Images [N, 3, S, S] whose red tells the shape's class, green the texture's, blue the background's."""
    noise = torch.randint(0, 20, (len(labels), 3, SIZE, SIZE), generator=torch.Generator().manual_seed(seed))
    return (labels[:, :, None, None] * 100 + noise).to(torch.uint8)


def draw_real(seed: int = 0):
    labels = torch.arange(60) % NUM_CLASSES
    return draw_from_images(toy_images(labels[:, None].expand(-1, 3), 0), labels, seed, "toy-real")


def draw_toy_counterfactuals(seed: int = 0):
    labels = torch.randint(NUM_CLASSES, (90, 3), generator=torch.Generator().manual_seed(1))
    return draw_from_images(toy_images(labels, 1), labels, seed, "toy-counterfactual")


def fit(num_steps: int = 4, seed: int = 0, path: Path | None = None, stop_at: int = 0, compute=CPU, **changes):
    def record(training: str, step: int, losses: dict[str, float]) -> None:
        if step == stop_at:
            progress.request_stop()

    options = settings(num_steps, **changes)
    ensemble = initial_classifier(network(**changes), NUM_CLASSES, seed)
    with listening(record):
        return training.fit(ClassifierTask(ensemble, lessons(options), options, seed, compute), path)


def lessons(options: ClassifierFit):
    return [real_lesson(draw_real(), options), counterfactual_lesson(draw_toy_counterfactuals(), options)]


def real_loss(logits, labels):
    return real_lesson(draw_real(), settings()).losses(logits, labels)["real"]


def counterfactual_losses(logits, labels):
    return counterfactual_lesson(draw_toy_counterfactuals(), settings()).losses(logits, labels)


# --- losses --------------------------------------------------------------------------------------


def test_losses_by_hand():
    shape, texture, background = torch.randn(3, 5, NUM_CLASSES, generator=torch.Generator().manual_seed(0))
    logits = MechanismLogits(shape, texture, background)
    labels = torch.tensor([[0, 1, 2], [1, 1, 0], [2, 0, 0], [0, 0, 0], [1, 2, 2]])
    torch.testing.assert_close(
        real_loss(logits, labels[:, 0]), F.cross_entropy((shape + texture + background) / 3, labels[:, 0])
    )
    losses = counterfactual_losses(logits, labels)
    assert [*losses] == [*MECHANISMS]
    for column, mechanism in enumerate(MECHANISMS):
        picked = getattr(logits, mechanism).log_softmax(1)[torch.arange(5), labels[:, column]]
        torch.testing.assert_close(losses[mechanism], -picked.mean())


def test_a_heads_counterfactual_loss_reaches_no_other_head():
    logits = MechanismLogits(*(torch.zeros(4, NUM_CLASSES, requires_grad=True) for _ in MECHANISMS))
    counterfactual_losses(logits, torch.zeros(4, 3, dtype=torch.long))["texture"].backward()
    assert logits.texture.grad is not None
    assert logits.shape.grad is None
    assert logits.background.grad is None


def test_one_step_is_that_of_sgd_on_the_sum_of_both_losses():
    expected = initial_classifier(network(), NUM_CLASSES, 0)
    for layer in expected.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    images, labels = draw_real()(0, 8)
    counterfactuals, mechanism_labels = draw_toy_counterfactuals()(0, 6)
    expected.train()
    heads = [*counterfactual_losses(expected(counterfactuals), mechanism_labels).values()]
    loss = real_loss(expected(images), labels) + 2 * sum(heads) / 3
    loss.backward()
    with torch.no_grad():
        for parameter in expected.parameters():
            parameter -= 0.05 * parameter.grad

    build = torchvision_classifier._build_trunk

    def without_dropout(architecture, setting):
        trunk, name, features = build(architecture, setting)
        trunk[3].p = 0.0
        return trunk, name, features

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torchvision_classifier, "_build_trunk", without_dropout)
        ensemble, history = fit(1, momentum=0.0, weight_decay=0.0, counterfactual_weight=2.0)
    for name, tensor in ensemble.state_dict().items():
        torch.testing.assert_close(tensor, expected.state_dict()[name])
    assert history[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert [*history[0]] == ["step", "loss", "real", *MECHANISMS]


def test_every_setting_of_the_training_counts():
    first = fit(3)[0]
    for changes in (
        {"learning_rate": 0.01},
        {"momentum": 0.0},
        {"weight_decay": 0.1},
        {"num_decays": 0},
        {"counterfactual_weight": 0.0},
        {"counterfactual_batch_size": 5},
        {"frozen_norm": "all"},
        {"frozen_norm": "none"},
    ):
        assert not torch.equal(fit(3, **changes)[0].heads["shape"].weight, first.heads["shape"].weight), changes


def test_the_learning_rate_falls_to_a_tenth_twice():
    options = settings(45, learning_rate=1e-3)
    rates_of = make_rates(options, False, torch.nn.Linear(1, 1))
    rates = []
    for step in range(45):
        rates_of.set(step)
        rates.append(rates_of.optimisers[0].param_groups[0]["lr"])
    assert rates == pytest.approx([1e-3] * 15 + [1e-4] * 15 + [1e-5] * 15)
    constant = make_rates(settings(9, num_decays=0), False, torch.nn.Linear(1, 1))
    assert {constant.schedule(step) for step in range(9)} == {1}


# --- training ------------------------------------------------------------------------------------


def test_every_head_learns_its_own_mechanism():
    ensemble, history = fit(300, num_decays=0, learning_rate=0.005)
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert not ensemble.training
    rows = measure_heads(ensemble, [draw_toy_counterfactuals(1)(0, 90)], CPU)
    assert all(row["accuracy"] > 0.8 for row in rows), rows


def test_statistics_of_the_norm_stay_as_they_were():
    ensemble, _ = fit(3)
    assert torch.equal(ensemble.trunk[1].running_mean, torch.zeros(16))
    assert not torch.equal(fit(3, frozen_norm="none")[0].trunk[1].running_mean, torch.zeros(16))


def test_the_same_seed_gives_the_same_ensemble_and_another_another():
    first, again, other = (fit(2, seed)[0] for seed in (0, 0, 1))
    assert_same_weights(first, again)
    assert not torch.equal(first.heads["shape"].weight, other.heads["shape"].weight)


def test_what_ran_before_does_not_change_a_training():
    first, _ = fit(2)
    torch.randn(1000)
    assert_same_weights(first, fit(2)[0])


def test_every_step_has_its_own_dropout(monkeypatch):
    asked: list[tuple] = []
    seeded = training.seeded

    def listen(*arguments):
        asked.append(arguments)
        return seeded(*arguments)

    monkeypatch.setattr(training, "seeded", listen)
    fit(3, seed=5)
    assert asked == [(5, "classifier-init"), *((5, "classifier-dropout", step) for step in range(3))]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_two_and_two_steps_are_four_steps(tmp_path, precision):
    compute = Compute(device="cpu", precision=precision)
    whole, whole_history = fit(4, compute=compute)
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(InterruptedRunError, match="stopped at 2 of 4 steps"):
        fit(4, path=path, stop_at=2, compute=compute)
    progress.clear_stop()
    continued, history = fit(4, path=path, compute=compute)
    assert_same_weights(continued, whole)
    assert history == whole_history


def test_a_precision_of_its_own_goes_before_that_of_the_run():
    own, _ = fit(2, precision="bf16")
    assert_same_weights(own, fit(2, compute=Compute(device="cpu", precision="bf16"))[0])
    assert not torch.equal(own.heads["shape"].weight, fit(2)[0].heads["shape"].weight)
    assert own.heads["shape"].weight.dtype == torch.float32


def test_a_training_that_diverges_says_so():
    with pytest.raises(SettingError, match=r"fit\.learning_rate: .* finite loss, got .* at step \d+"):
        fit(20, learning_rate=1e6)


# --- counterfactuals from pools ------------------------------------------------------------------


def test_counterfactuals_have_the_labels_of_all_mechanisms(tiny_samples):
    pool = CounterfactualPool.of(tiny_samples)
    composition = Composition(counterfactual=Counterfactual(background="factual"))
    draw = pool.draw_labelled_batch(composition, 0, "ensemble")
    images, labels = draw(3, 40)
    assert images.shape == (40, 3, 8, 8)
    assert labels.shape == (40, 3)
    assert not torch.equal(labels[:, 0], labels[:, 1])
    again = pool.draw_labelled_batch(composition, 0, "ensemble")(3, 40)
    assert torch.equal(again[0], images)
    assert torch.equal(again[1], labels)
    assert not torch.equal(draw(4, 40)[0], images)


# --- artifacts -----------------------------------------------------------------------------------


def build(store: Path, calls: list[int] | None = None, seed: int = 0, data: str = "toy", **changes):
    def source():
        if calls is not None:
            calls.append(1)
        return lessons(settings(3, **changes))

    of_network = network(**changes)
    fit_settings = settings(3, **changes)
    recipe = ClassifierRecipe({"data": data}, source, fit_settings, seed, CPU, NUM_CLASSES, of_network)
    return build_in(store, recipe)


def test_an_ensemble_is_built_once_and_opened_as_it_was(tmp_path):
    artifact, built = assert_built_once_and_opened_as_it_was(build, tmp_path)
    assert_same_weights(built, fit(3)[0])
    assert len(artifact.read_json("history.json")) == 3


@pytest.mark.parametrize(
    "changes", [{"seed": 1}, {"data": "other"}, {"learning_rate": 0.1}, {"precision": "bf16"}, {"frozen_norm": "all"}]
)
def test_other_inputs_build_another_ensemble(tmp_path, changes):
    assert build(tmp_path)[0].identity != build(tmp_path, **changes)[0].identity


def test_how_often_checkpoints_are_kept_does_not_matter(tmp_path):
    assert build(tmp_path)[0].identity == build(tmp_path, checkpoint_every_steps=1)[0].identity


def test_an_interrupted_build_continues_to_the_same_bytes(tmp_path):
    assert_continues_to_the_same_bytes(build, tmp_path)


def test_weights_count_by_their_content_wherever_they_lie(tmp_path):
    trunk, _, _ = torchvision_classifier._build_trunk("tiny", "")
    torch.save(trunk.state_dict(), tmp_path / "a.pth")
    shutil.copy(tmp_path / "a.pth", tmp_path / "b.pth")
    first, again = (build(tmp_path / "store", weights=str(tmp_path / name))[0] for name in ("a.pth", "b.pth"))
    assert first.identity == again.identity
    nn.init.zeros_(trunk[0].bias)
    torch.save(trunk.state_dict(), tmp_path / "b.pth")
    assert build(tmp_path / "store", weights=str(tmp_path / "b.pth"))[0].identity != first.identity
    assert build(tmp_path / "store")[0].identity != first.identity
    with pytest.raises(SettingError, match=r"classify\.network\.weights: expected a file, got nothing at .*c\.pth"):
        build(tmp_path / "store", weights=str(tmp_path / "c.pth"))


def test_a_damaged_ensemble_is_trained_again(tmp_path):
    artifact, first = build(tmp_path)
    artifact.path(WEIGHTS_FILE).write_bytes(b"broken")
    calls: list[int] = []
    again, second = build(tmp_path, calls)
    assert calls == [1]
    assert_same_weights(first, second)
    assert again.identity == artifact.identity


def test_a_network_of_torchvision_trains_from_weights_in_a_file(tmp_path, monkeypatch):
    monkeypatch.undo()
    torch.manual_seed(0)
    torch.save(models.mobilenet_v3_small().state_dict(), tmp_path / "weights.pth")
    of_network = network(
        architecture="mobilenet_v3_small", weights=str(tmp_path / "weights.pth"), heads_from_weights=True
    )
    options = settings(2, batch_size=4, num_images=8, counterfactual_batch_size=4)
    recipe = ClassifierRecipe({}, lambda: lessons(options), options, 0, CPU, 1000, of_network)
    artifact, ensemble = build_in(tmp_path / "store", recipe)
    start = initial_classifier(of_network, 1000, 0)
    assert torch.equal(start.heads["shape"].weight, start.heads["texture"].weight)
    assert not torch.equal(ensemble.heads["shape"].weight, start.heads["shape"].weight)
    assert not torch.equal(ensemble.heads["shape"].weight, ensemble.heads["texture"].weight)
    assert artifact.inputs["network"]["architecture"] == "mobilenet_v3_small"
    statistics = {name: tensor for name, tensor in start.state_dict().items() if "running" in name}
    assert all(torch.equal(ensemble.state_dict()[name], tensor) for name, tensor in statistics.items())
