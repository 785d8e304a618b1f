"""Training a CGN: steps, terms, resuming, and what the weights file carries."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from skdcgn_pipeline.artifacts.recipe import Run, Store, build_in
from skdcgn_pipeline.images.image_set import Split
from skdcgn_pipeline.images.stored import StoredImages
from skdcgn_pipeline.networks.vgg16 import VGG16_FILE
from skdcgn_pipeline.parameters import (
    ClassifierFit,
    Compose,
    Compute,
    Prepare,
    Teacher,
    TeacherFit,
    Transformation,
    Transformations,
)
from skdcgn_pipeline.pipelines.teacher import nodes
from skdcgn_pipeline.runtime import progress
from skdcgn_pipeline.runtime.errors import InterruptedRunError, SettingError
from skdcgn_pipeline.runtime.recording import listening
from skdcgn_pipeline.teachers import tasks
from skdcgn_pipeline.teachers import training as module
from skdcgn_pipeline.teachers.cgn import MnistCGN
from skdcgn_pipeline.teachers.teacher import TRAINED_WEIGHTS, IdentifiedTeacher, load_teacher
from skdcgn_pipeline.teachers.training import TeacherRecipe, open_vgg16_features
from skdcgn_pipeline.training.task import fit as train
from tiny import biased_split, build_biased_images

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


def make_split(num_images: int = 24) -> Split:
    images = torch.randint(0, 256, (num_images, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    labels = torch.arange(num_images) % 3
    return biased_split(images.to(torch.uint8), labels, labels, labels, labels < 0)


def pooled_pixels(images: torch.Tensor) -> list[torch.Tensor]:
    return [F.avg_pool2d(images, size) for size in (1, 2, 4, 8)]


@pytest.fixture(autouse=True)
def record_every_step(monkeypatch):
    monkeypatch.setattr(tasks, "LOG_EVERY_STEPS", 1)


def fit(own: TeacherFit | None = None, seed: int = 0, path: Path | None = None, stop_at: int = 0, **options: Any):
    def stop(training: str, step: int, losses: Mapping[str, float]) -> None:
        if (training, step) == ("teacher", stop_at):
            progress.request_stop()

    if "initial" in options:
        options["initial"] = IdentifiedTeacher(options["initial"], {"name": "initial"})
    options = {"compute": CPU} | options
    images = SimpleNamespace(split={"train": make_split()}.__getitem__, num_classes=3)
    task = module.TeacherTask(TeacherRecipe(images, own or settings(), STYLE, seed, **options), pooled_pixels)
    with listening(stop):
        return train(task, path)


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


def test_vgg16_without_its_weights_is_refused(tmp_path):
    with pytest.raises(SettingError, match=r"teacher\.fit\.style_network.*VGG16 weights at .*change the setting"):
        open_vgg16_features(str(tmp_path), "teacher.fit.style_network")


def test_other_weights_of_vgg16_make_another_teacher(tmp_path):
    images = SimpleNamespace(fingerprint="0")
    identities = []
    for content in (b"first", b"first", b"second"):
        (tmp_path / VGG16_FILE).write_bytes(content)
        recipe = TeacherRecipe(images, settings(style_network="vgg16"), STYLE, assets=str(tmp_path))
        identities.append(recipe.inputs())
    assert identities[0] == identities[1] != identities[2]


# --- transformations inside the training ---------------------------------------------------------


def transformed(mechanism: str = "shape", **strengths: float) -> Transformations:
    return Transformations(**{mechanism: [Transformation(kind=k, strength=s) for k, s in strengths.items()]})


ROTATED = transformed(rotation=180.0, gaussian_noise=0.3)


@pytest.mark.parametrize(
    "transformations",
    [
        transformed(affine=1.0),
        transformed(rotation=90.0),
        transformed(opacity=0.75),
        transformed(gaussian_noise=0.2),
        transformed("texture", grey=1.0),
        transformed("background", gaussian_noise=0.2),
    ],
    ids=["affine", "rotation", "opacity", "noise", "texture", "background"],
)
def test_a_transformed_training_gives_another_teacher(transformations):
    assert difference(fit(settings(2))[0], fit(settings(2), transformations=transformations)[0]) > 0


def test_the_identity_changes_nothing():
    plain, with_identity = fit(settings(2)), fit(settings(2), transformations=transformed(identity=1.0))
    assert difference(plain[0], with_identity[0]) == 0
    assert plain[1] == with_identity[1]


def test_the_terms_on_masks_are_those_of_the_untransformed_mask():
    (plain,), (faded,) = (
        fit(settings(1), transformations=own)[1] for own in (Transformations(), transformed(opacity=0.1))
    )
    for name in ("mask_entropy", "mask_bounds", "mode_seeking", "mean_mask"):
        assert faded[name] == plain[name]
    assert faded["adversarial"] != plain["adversarial"]


def test_a_transformed_mask_is_what_reaches_discriminator_and_style():
    """With an opacity of 0 they see nothing of shape and texture, which then learn from the terms on masks alone."""
    own = settings(1, mask_entropy_weight=0.0, mask_bounds_weight=0.0, mode_seeking_weight=0.0, ema_decay=0.0)
    learnt = {name: fit(own, transformations=transformed(opacity=o))[0] for name, o in (("seen", 1.0), ("unseen", 0.0))}
    gradients = {
        name: {p: (before != after).any().item() for p, after, before in changes(cgn)} for name, cgn in learnt.items()
    }
    assert gradients["seen"]["f_shape.0.weight"]
    assert gradients["seen"]["f_text1.0.weight"]
    assert not gradients["unseen"]["f_shape.0.weight"]
    assert not gradients["unseen"]["f_text1.0.weight"]
    assert gradients["unseen"]["f_text2.0.weight"]


def changes(cgn: MnistCGN) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    """Return (name, value, value before the training) of every parameter."""
    untrained = fit(settings(1, learning_rate=1e-30))[0].state_dict()
    return [(name, value, untrained[name]) for name, value in cgn.named_parameters()]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_transformed_training_continues_in_the_same_bits(tmp_path, precision):
    compute = Compute(device="cpu", precision=precision)

    def run(path: Path | None = None, stop_at: int = 0):
        return fit(path=path, stop_at=stop_at, compute=compute, transformations=ROTATED)

    whole, again = run(), run()
    assert difference(whole[0], again[0]) == 0
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(InterruptedRunError):
        run(path, stop_at=2)
    progress.clear_stop()
    continued, history = run(path)
    assert difference(continued, whole[0]) == 0
    assert history == whole[1]


# --- weights to start from -----------------------------------------------------------------------

HARDLY = {"learning_rate": 1e-12, "ema_decay": 0.0}


def test_training_starts_from_the_weights_it_is_given():
    initial = fit(settings(3), seed=5)[0]
    before = {name: tensor.clone() for name, tensor in initial.state_dict().items()}
    started, fresh = fit(settings(1, **HARDLY), initial=initial)[0], fit(settings(1, **HARDLY))[0]
    parameters = dict(initial.named_parameters())
    assert all(torch.allclose(p, parameters[name], atol=1e-9) for name, p in started.named_parameters())
    assert not all(torch.allclose(p, parameters[name], atol=1e-3) for name, p in fresh.named_parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in initial.state_dict().items())
    assert difference(fit(settings(2), initial=initial)[0], initial) > 1e-5


def test_a_started_training_continues_in_the_same_bits(tmp_path):
    initial, path = fit(settings(2), seed=5)[0], tmp_path / "checkpoint.pt"
    whole = fit(initial=initial)[0]
    with pytest.raises(InterruptedRunError):
        fit(path=path, stop_at=2, initial=initial)
    progress.clear_stop()
    assert difference(fit(path=path, initial=initial)[0], whole) == 0


def test_weights_of_another_size_are_refused():
    with pytest.raises(SettingError, match=r"initial teacher: expected a CGN for 3 classes and images of 16 pixels"):
        fit(initial=MnistCGN(num_classes=4, image_size=16))


# --- artifacts -----------------------------------------------------------------------------------

STYLE = ClassifierFit(num_images=8, batch_size=4)


@pytest.fixture(scope="module")
def biased_images(tmp_path_factory) -> StoredImages:
    prepare = Prepare(feature_network=STYLE)
    return build_biased_images(tmp_path_factory.mktemp("images"), "absent", prepare, "double_colored", 0)


def test_style_features_are_four_layers_of_a_frozen_classifier(biased_images):
    features = TeacherRecipe(biased_images, settings(), STYLE, 0, CPU).open_style()
    images = torch.randn(2, 3, 32, 32, requires_grad=True)
    layers = features(images)
    assert len(layers) == 4
    layers[-1].sum().backward()
    assert images.grad.abs().sum() > 0


def test_a_built_teacher_loads_for_its_variant_only(tmp_path, biased_images):
    arguments = (biased_images, settings(2), STYLE, 0, CPU, "absent")
    artifact = build_in(tmp_path, TeacherRecipe(*arguments))
    path = artifact.path(TRAINED_WEIGHTS)
    assert load_teacher("mnist_cgn", path, variant="double_colored").image_size == 32
    with pytest.raises(SettingError, match="a teacher of 'double_colored'"):
        load_teacher("mnist_cgn", path, variant="wildlife")
    modified = path.stat().st_mtime_ns
    assert build_in(tmp_path, TeacherRecipe(*arguments)).path(TRAINED_WEIGHTS).stat().st_mtime_ns == modified


def test_a_teacher_of_images_without_a_bias_says_where_they_are_from(tmp_path, monkeypatch):
    inputs = SimpleNamespace(inputs={"kind": "images", "name": "pictures"})
    split = {"train": make_split()}.__getitem__
    images = SimpleNamespace(split=split, num_classes=3, name="pictures", fingerprint="0", artifact=inputs)
    monkeypatch.setattr(TeacherRecipe, "open_style", lambda self: pooled_pixels)
    artifact = build_in(tmp_path, TeacherRecipe(images, settings(1), STYLE, 0, CPU))
    assert artifact.read_json(module.CARD_FILE)["data"] == {"name": "pictures"}


PLAIN_INPUTS = {"format", "kind", "version", "images", "settings", "style_settings", "seed", "precision"}


def test_options_enter_the_identity_where_they_are_set(tmp_path, biased_images):
    arguments = (biased_images, settings(1), STYLE, 0, CPU, "absent")
    plain = build_in(tmp_path, TeacherRecipe(*arguments))
    assert set(plain.inputs) == PLAIN_INPUTS
    assert (
        build_in(tmp_path, TeacherRecipe(*arguments, transformations=Transformations(), initial=None)).identity
        == plain.identity
    )
    turned = build_in(tmp_path, TeacherRecipe(*arguments, transformations=ROTATED))
    assert set(turned.inputs) == {*PLAIN_INPUTS, "transformations"}
    assert turned.inputs["transformations"]["shape"][0] == {"kind": "rotation", "strength": 180.0}
    weights = plain.path(TRAINED_WEIGHTS)
    initial = IdentifiedTeacher(load_teacher("mnist_cgn", weights), {"name": "mnist_cgn", "sha256": "0" * 64})
    started = build_in(tmp_path, TeacherRecipe(*arguments, initial=initial))
    assert started.inputs["initial"] == initial.identity
    assert len({plain.identity, turned.identity, started.identity}) == 3
    trained = {one.identity: one.read_json(module.CARD_FILE)["training"] for one in (plain, turned, started)}
    assert not {"transformations", "initial"} & set(trained[plain.identity])
    assert trained[turned.identity]["transformations"] == turned.inputs["transformations"]
    assert trained[started.identity]["initial"] == initial.identity


@pytest.mark.parametrize("stage", ["compose", "teacher"])
def test_the_stage_decides_whether_the_node_trains_through_the_transformations(tmp_path, biased_images, stage):
    compose = Compose(
        num_pool_images_per_class=1, num_images=1, composition={"transformations": ROTATED.model_dump()}, stage=stage
    )
    prepare = Prepare(feature_network=STYLE)
    teacher = Teacher(name="digits_cgn", fit=settings(1))
    artifact = nodes.fit_teacher(Run(Store(tmp_path), 0, CPU, "absent"), biased_images, teacher, prepare, compose)
    assert ("transformations" in artifact.inputs) == (stage == "teacher")
