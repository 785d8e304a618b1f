"""Distilling students: they learn, every loss term matters, and a kill changes nothing."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from skdcgn_pipeline.artifacts.recipe import build_in
from skdcgn_pipeline.artifacts.store import identity_of
from skdcgn_pipeline.images.epochs import EpochSampler
from skdcgn_pipeline.losses.distillation import TERMS
from skdcgn_pipeline.networks.interface import GeneratorSize
from skdcgn_pipeline.parameters import Compute, Distill, LossWeights, Student
from skdcgn_pipeline.runtime import compute, progress
from skdcgn_pipeline.runtime.errors import InterruptedRunError, SettingError
from skdcgn_pipeline.runtime.recording import listening
from skdcgn_pipeline.samples import loading
from skdcgn_pipeline.samples.drawing import SampleShards, draw_composites
from skdcgn_pipeline.samples.pixels import decode_images
from skdcgn_pipeline.students.distillation import Distillation, check_distillation
from skdcgn_pipeline.students.layers import ConditionalNorm
from skdcgn_pipeline.students.recipes import StudentArtifact, StudentRecipe, StudentsRecipe
from skdcgn_pipeline.vocabulary import CHANNELS_OF_MECHANISM, COMPOSITE, MECHANISMS

CPU = Compute(device="cpu")
ALL_TERMS = {"pixel": 1.0, "feature": 0.5, "kl": 0.5, "adversarial": 0.5, "binary_cross_entropy": 0.5}
PIXELS = {"pixel": 1.0}
SIZE = GeneratorSize(noise_dim=4, num_classes=3, image_size=8)  # of the tiny teacher


def settings(num_steps: int = 4, weights: dict[str, float] = ALL_TERMS, **changes: Any) -> Distill:
    options: dict[str, Any] = {
        "student": Student(width=(4, 6, 4), embedding_dim=3),
        "batch_size": 8,
        "discriminator_width": 4,
        "adversarial_every_judgements": 1,
        "log_every_steps": 1,
        "checkpoint_every_steps": 100,
        "ema_decay": 0.5,
    }
    return Distill(num_steps=num_steps, weights=LossWeights(**({"pixel": 0.0} | weights)), **(options | changes))


def distil(
    samples: SampleShards,
    mechanism: str = "shape",
    own: Distill | None = None,
    seed: int = 0,
    path: Path | None = None,
    stop_at: int = 0,
):
    with stopping_at(stop_at):
        return StudentRecipe(mechanism, samples, own or settings(), seed, CPU).distil(path)


@contextmanager
def stopping_at(stop_at: int) -> Iterator[None]:
    """Ask for a stop when the losses of a step are told."""

    def listen(training: str, step: int, losses: Mapping[str, float]) -> None:
        if step == stop_at:
            progress.request_stop()

    with listening(listen):
        yield


def build(
    store: Path, mechanism: str, samples: SampleShards, own: Distill | None = None, assets: str = ""
) -> StudentArtifact:
    return build_in(store, StudentRecipe(mechanism, samples, own or settings(), 0, CPU, assets))


def pairs_of(samples: SampleShards, mechanism: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return samples.read_pairs(mechanism)


def difference(first: torch.nn.Module, second: torch.nn.Module) -> float:
    expected = second.state_dict()
    return max((t.double() - expected[name].double()).abs().max().item() for name, t in first.state_dict().items())


@pytest.mark.parametrize("mechanism", [*MECHANISMS, COMPOSITE])
def test_a_student_comes_closer_to_its_teacher(tiny_samples, mechanism):
    own = settings(60, PIXELS, learning_rate=0.02, ema_decay=0.8)
    student, history = distil(tiny_samples, mechanism, own)
    noise, labels, images = pairs_of(tiny_samples, mechanism)
    with torch.no_grad():
        rendered = student(noise, labels)
    error = (rendered - decode_images(mechanism, images)).abs().mean().item()
    assert history[-1]["pixel"] < 0.6 * history[0]["pixel"]
    assert error < 0.6 * history[0]["pixel"]
    assert not student.training


@pytest.mark.parametrize("mechanism", [*MECHANISMS, COMPOSITE])
def test_every_step_tells_every_named_term(tiny_samples, mechanism):
    _, history = distil(tiny_samples, mechanism)
    terms = {"pixel", "feature", "kl", "adversarial", "discriminator", "total", "step"}
    if mechanism == "shape":
        terms.add("binary_cross_entropy")
    assert all(set(entry) == terms for entry in history)
    assert [entry["step"] for entry in history] == [1, 2, 3, 4]


def test_the_total_is_the_weighted_sum_of_the_terms(tiny_samples):
    _, history = distil(tiny_samples)
    for entry in history:
        expected = sum(weight * entry[name] for name, weight in ALL_TERMS.items())
        assert entry["total"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("mechanism", ["shape", "texture"])
def test_the_loop_takes_the_steps_of_a_training_that_is_called_by_hand(tiny_samples, mechanism):
    own = settings(5, judge_every_steps=2, adversarial_every_judgements=2)
    noise, labels, images = tiny_samples.read_pairs(mechanism)
    train = Distillation(mechanism, SIZE, own, 0, CPU)
    sampler = EpochSampler(len(labels), 0, f"distil-{mechanism}")
    for step in range(own.num_steps):
        rows = sampler.rows(step, own.batch_size)
        batch = noise[rows], labels[rows], decode_images(mechanism, images[rows])
        losses = train.update(step, batch, noted=step == 4)
    student, history = distil(tiny_samples, mechanism, own)
    assert difference(train.result, student) == 0
    assert history[-1] == {"step": 5, **losses}


def test_losses_are_only_read_where_they_are_noted(tiny_samples):
    noise, labels, images = tiny_samples.read_pairs("shape")
    train = Distillation("shape", SIZE, settings(), 0, CPU)
    assert train.update(0, (noise, labels, decode_images("shape", images))) == {}


@pytest.mark.parametrize("name", sorted(ALL_TERMS))
def test_the_weight_of_every_term_changes_the_student(tiny_samples, name):
    changed = settings(2, ALL_TERMS | {name: ALL_TERMS[name] + 1})
    assert difference(distil(tiny_samples, own=settings(2))[0], distil(tiny_samples, own=changed)[0]) > 0


def test_every_weight_has_a_term_and_every_term_a_weight():
    assert set(TERMS) == set(LossWeights().by_term())


def test_without_its_terms_there_is_no_discriminator(tiny_samples):
    _, history = distil(tiny_samples, "texture", settings(2, PIXELS))
    assert set(history[0]) == {"step", "pixel", "total"}


def test_the_discriminator_is_asked_every_so_many_steps(tiny_samples):
    _, history = distil(tiny_samples, own=settings(4, judge_every_steps=2))
    assert ["feature" in entry for entry in history] == [False, True, False, True]


def test_the_adversarial_term_enters_every_so_many_judgements(tiny_samples):
    _, history = distil(tiny_samples, own=settings(4, adversarial_every_judgements=2))
    for number, entry in enumerate(history):
        weights = ALL_TERMS | {"adversarial": ALL_TERMS["adversarial"] if number % 2 else 0.0}
        expected = sum(weight * entry[name] for name, weight in weights.items())
        assert entry["total"] == pytest.approx(expected, rel=1e-5)


def test_the_pixel_weight_falls_to_its_share(tiny_samples):
    _, history = distil(tiny_samples, "texture", settings(4, {"pixel": 2.0}, pixel_decay=1.0))
    shares = [entry["total"] / (2 * entry["pixel"]) for entry in history]
    assert shares == pytest.approx([1, 0.75, 0.5, 0.25])


def test_the_average_is_kept_as_the_student(tiny_samples):
    assert (
        difference(
            distil(tiny_samples, own=settings(ema_decay=0.0))[0], distil(tiny_samples, own=settings(ema_decay=0.9))[0]
        )
        > 0
    )


@pytest.mark.parametrize("mechanism", ["shape", "texture", COMPOSITE])
@pytest.mark.parametrize(
    ("architecture", "width", "optimiser"),
    [("compact", (2, 3, 2), "adam"), ("compact", (2, 3, 2), "muon"), ("tinygan", 2, "muon")],
)
def test_two_and_two_steps_are_four_steps(tiny_samples, tmp_path, mechanism, architecture, width, optimiser):
    student = Student(architecture=architecture, width=width, embedding_dim=3)
    own = settings(student=student, optimiser=optimiser, pixel_decay=0.5)
    whole, whole_history = distil(tiny_samples, mechanism, own)
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(InterruptedRunError, match=f"{mechanism} student: stopped at 2 of 4 steps"):
        distil(tiny_samples, mechanism, own, path=path, stop_at=2)
    progress.clear_stop()
    continued, history = distil(tiny_samples, mechanism, own, path=path)
    assert difference(continued, whole) == 0
    assert history == whole_history


def test_a_step_between_two_judgements_continues_too(tiny_samples, tmp_path):
    own = settings(5, judge_every_steps=2, adversarial_every_judgements=2)
    whole, whole_history = distil(tiny_samples, own=own)
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(InterruptedRunError):
        distil(tiny_samples, own=own, path=path, stop_at=3)
    progress.clear_stop()
    continued, history = distil(tiny_samples, own=own, path=path)
    assert difference(continued, whole) == 0
    assert history == whole_history


def test_the_same_seed_gives_the_same_student_and_another_another(tiny_samples):
    first, again, other = (distil(tiny_samples, seed=seed)[0] for seed in (0, 0, 1))
    assert difference(first, again) == 0
    assert difference(first, other) > 0


def test_students_are_distilled_in_bfloat16(tiny_samples):
    compute = Compute(device="cpu", precision="bf16")
    student, history = StudentRecipe("shape", tiny_samples, settings(), 0, compute).distil()
    assert all(torch.isfinite(tensor).all() for tensor in student.state_dict().values())
    assert history[-1]["pixel"] == pytest.approx(distil(tiny_samples)[1][-1]["pixel"], abs=0.1)


# --- artifacts -----------------------------------------------------------------------------------


def test_a_student_is_built_once_and_opened_as_it_was(tmp_path, tiny_samples):
    told: list[tuple[str, int]] = []
    with listening(lambda training, step, losses: told.append((training, step))):
        built = build(tmp_path, "texture", tiny_samples)
        assert told == [("texture", step) for step in (1, 2, 3, 4)]
        again = build(tmp_path, "texture", tiny_samples)
    assert len(told) == 4
    assert again.artifact.directory == built.artifact.directory
    assert difference(built.open(), distil(tiny_samples, "texture")[0]) == 0
    assert [entry["step"] for entry in built.history] == [1, 2, 3, 4]


def test_a_student_without_mechanisms_learns_composites_and_is_drawn_from(tmp_path, tiny_samples):
    built = build(tmp_path, COMPOSITE, tiny_samples, settings())
    assert difference(built.open(), distil(tiny_samples, COMPOSITE)[0]) == 0
    images, labels = draw_composites(built.open(), built.size, 5, 0, CPU)
    assert labels.bincount().tolist() == [5, 5, 5]
    assert images.shape == (15, 3, 8, 8)


@pytest.mark.parametrize("mechanism", [*MECHANISMS, COMPOSITE])
def test_a_students_identity_is_made_of_the_same_inputs(tmp_path, tiny_samples, mechanism):
    inputs = build(tmp_path, mechanism, tiny_samples, settings(1)).artifact.inputs
    assert set(inputs) == {"format", "kind", "version", "mechanism", "samples", "settings", "seed", "precision"}
    assert inputs["mechanism"] == mechanism


@pytest.mark.parametrize("changes", [{"num_steps": 5}, {"weights": PIXELS}, {"kl_temperature": 2.0}])
def test_other_settings_make_another_student(tmp_path, tiny_samples, changes):
    first = build(tmp_path, "shape", tiny_samples, settings())
    second = build(tmp_path, "shape", tiny_samples, settings(**changes))
    assert first.artifact.directory != second.artifact.directory


def test_an_interrupted_build_continues_to_the_same_bytes(tmp_path, tiny_samples):
    with pytest.raises(InterruptedRunError), stopping_at(1):
        build(tmp_path / "killed", "shape", tiny_samples)
    progress.clear_stop()
    continued = build(tmp_path / "killed", "shape", tiny_samples, settings())
    whole = build(tmp_path / "whole", "shape", tiny_samples, settings())
    assert continued.artifact.manifest == whole.artifact.manifest


def test_three_students_are_assembled_behind_the_teachers_interface(tmp_path, tiny_samples):
    parts = {m: build(tmp_path, m, tiny_samples, settings(2)) for m in MECHANISMS}
    students = build_in(tmp_path / "students", StudentsRecipe(parts)).open()
    noise, labels = torch.randn(4, 4), torch.tensor([0, 1, 2, 0])
    images = students.render(noise, labels)
    for mechanism in MECHANISMS:
        assert images.of(mechanism).shape == (4, CHANNELS_OF_MECHANISM[mechanism], 8, 8)
        assert torch.equal(images.of(mechanism), parts[mechanism].open()(noise, labels))


def test_assembled_students_follow_each_of_their_parts(tmp_path, tiny_samples):
    parts = {m: build(tmp_path, m, tiny_samples, settings(2)) for m in MECHANISMS}
    first = build_in(tmp_path / "students", StudentsRecipe(parts))
    parts["texture"] = build(tmp_path, "texture", tiny_samples, settings(3))
    assert build_in(tmp_path / "students", StudentsRecipe(parts)).artifact.identity != first.artifact.identity


# --- parts of a batch ----------------------------------------------------------------------------


def fix_statistics(train: Distillation) -> Distillation:
    """Let a student's batch norms normalise by numbers of their own instead of the batch's."""
    for module in train.student.modules():
        if isinstance(module, ConditionalNorm | torch.nn.BatchNorm2d):
            module.eval()
    return train


@pytest.mark.parametrize("architecture", ["compact", "tinygan"])
def test_parts_of_a_batch_add_up_to_the_whole(tiny_samples, architecture):
    width = 2 if architecture == "tinygan" else (4, 6, 4)
    student = Student(architecture=architecture, width=width, embedding_dim=3)
    noise, labels, images = (part[:8] for part in tiny_samples.read_pairs("shape"))
    teacher_images = decode_images("shape", images)
    curves = []
    for parts in (1, 4):
        own = settings(6, student=student, accumulate_steps=parts, judge_every_steps=2, optimiser="muon")
        train = fix_statistics(Distillation("shape", SIZE, own, 0, CPU))
        curves.append([train.update(step, (noise, labels, teacher_images), noted=True) for step in range(6)])
    assert "feature" in curves[0][1]
    for whole, parts in zip(*curves, strict=True):
        assert parts == pytest.approx(whole, rel=1e-3, abs=1e-5)


def test_parts_of_a_batch_move_running_statistics_once_each(tiny_samples):
    own = settings(1, accumulate_steps=4, judge_every_steps=1)
    noise, labels, images = (part[:8] for part in tiny_samples.read_pairs("texture"))
    train = Distillation("texture", SIZE, own, 0, CPU)
    train.update(0, (noise, labels, decode_images("texture", images)))
    assert train.student.norms[0].norm.num_batches_tracked == 4
    assert train.student.norms[0].norm.track_running_stats


def test_a_batch_of_unequal_parts_is_refused():
    with pytest.raises(SettingError, match=r"distill\.batch_size: expected a multiple of 3"):
        Distillation("shape", SIZE, settings(batch_size=8, accumulate_steps=3), 0, CPU)


# --- batches -------------------------------------------------------------------------------------


def test_threads_that_fetch_change_nothing(tmp_path, tiny_samples):
    first, second = (build(tmp_path / str(n), "shape", tiny_samples, settings(6, fetch_threads=n)) for n in (0, 3))
    assert first.artifact.manifest == second.artifact.manifest


def test_the_progress_tells_the_share_of_waiting(tiny_samples, caplog):
    with caplog.at_level(logging.INFO):
        distil(tiny_samples, own=settings(2))
    assert re.search(r"shape student: 2 steps in .*, \d+\.\d% waiting for data", caplog.text)


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for two row groups of eleven masks, which are fewer than there are."""
    monkeypatch.setattr(loading, "STREAMED_BEYOND_BYTES", 1000)
    monkeypatch.setattr(loading, "KEPT_BYTES", 2 * 11 * 8 * 8)


@pytest.mark.parametrize("mechanism", ["shape", COMPOSITE])
def test_streamed_samples_teach_the_same_in_any_number_of_threads_and_pieces(
    tmp_path, tiny_samples, little_memory, mechanism
):
    def build_artifact(store: str, num_threads: int = 0):
        own = settings(9, fetch_threads=num_threads)  # more than two epochs
        return build(tmp_path / store, mechanism, tiny_samples, own).artifact

    whole = build_artifact("whole")
    assert build_artifact("threads", 3).manifest == whole.manifest
    with pytest.raises(InterruptedRunError), stopping_at(5):
        build_artifact("killed")
    progress.clear_stop()
    assert build_artifact("killed").manifest == whole.manifest


def test_the_order_of_streamed_rows_is_part_of_the_identity(tmp_path, tiny_samples, monkeypatch, little_memory):
    streamed = build(tmp_path, "shape", tiny_samples).artifact
    assert streamed.inputs["order"] == {"rows_per_group": 11, "mixed_groups": 1}
    monkeypatch.setattr(loading, "KEPT_BYTES", 2**20)
    mixed_more = build(tmp_path, "shape", tiny_samples).artifact
    monkeypatch.setattr(loading, "STREAMED_BEYOND_BYTES", 2**20)
    in_memory = build(tmp_path, "shape", tiny_samples).artifact
    assert "order" not in in_memory.inputs
    assert len({streamed.identity, mixed_more.identity, in_memory.identity}) == 3
    states = [artifact.path("student.safetensors").read_bytes() for artifact in (streamed, mixed_more, in_memory)]
    assert len({*states}) == 3


# --- perceptual loss, compilation ----------------------------------------------------------------


def perceive(images: torch.Tensor) -> list[torch.Tensor]:
    """A network of two layers whose input must be that of VGG16: three channels in [-1, 1].

    A constant channel beside them: those of a mask are alike, and scaled to unit length would keep their sign alone.
    """
    assert images.shape[1] == 3
    assert images.min() < 0
    assert images.abs().max() <= 1
    layer = torch.cat([images, torch.ones_like(images[:, :1])], 1)
    return [layer, torch.nn.functional.avg_pool2d(layer, 2)]


@pytest.mark.parametrize("mechanism", ["shape", "texture"])
def test_the_perceptual_loss_alone_brings_a_student_closer(tiny_samples, mechanism):
    own = settings(30, {"perceptual": 1.0}, learning_rate=0.02)
    noise, labels, images = (part[:8] for part in tiny_samples.read_pairs(mechanism))
    train = Distillation(mechanism, SIZE, own, 0, CPU, perceive=perceive)
    batch = noise, labels, decode_images(mechanism, images)
    history = [train.update(step, batch, noted=True) for step in range(30)]
    expected = {"pixel", "perceptual", "total"} | ({"binary_cross_entropy"} if mechanism == "shape" else set())
    assert set(history[0]) == expected
    assert history[-1]["perceptual"] < 0.7 * history[0]["perceptual"]


def test_a_perceptual_loss_without_its_network_is_refused(tmp_path, tiny_samples):
    own = settings(2, {"perceptual": 1.0})
    with pytest.raises(SettingError, match=r"distill\.weights\.perceptual: expected torchvision's VGG16 weights"):
        build(tmp_path, "texture", tiny_samples, own, str(tmp_path / "assets"))


def test_compiled_networks_learn_the_same(tiny_samples, monkeypatch):
    monkeypatch.setattr(compute, "COMPILER", "eager")  # traced as for any compiler, and run as it is
    plain, plain_history = distil(tiny_samples, own=settings(2))
    traced, history = distil(tiny_samples, own=settings(2, compile=True))
    assert difference(traced, plain) < 1e-5
    assert history[-1] == pytest.approx(plain_history[-1], rel=1e-4)


def test_a_compiler_that_does_not_work_is_told_before_any_step(tiny_samples, monkeypatch):
    monkeypatch.setattr(compute, "COMPILER", "no-such-compiler")
    with pytest.raises(SettingError, match=r"distill\.compile: expected a working torch\.compile, got .*no-such"):
        distil(tiny_samples, own=settings(compile=True))


# --- identities ----------------------------------------------------------------------------------


def test_settings_that_came_later_leave_identities_as_they_were():
    known = {"student", "num_steps", "batch_size", "optimiser", "learning_rate", "matrix_learning_rate"}
    known |= {"discriminator_learning_rate", "discriminator_width", "betas", "judge_every_steps"}
    known |= {"adversarial_every_judgements", "weights", "pixel_decay", "kl_temperature", "ema_decay"}
    own = settings(weights=PIXELS, fetch_threads=2).identity()
    assert set(own) == known
    assert set(own["weights"]) == {"pixel", "feature", "kl", "adversarial", "binary_cross_entropy"}
    # As it was before they came.
    assert identity_of(Distill(num_steps=10).identity()) == "7cfeb7f8e4cdb057"


@pytest.mark.parametrize(
    "changes", [{"accumulate_steps": 2}, {"compile": True}, {"weights": ALL_TERMS | {"perceptual": 1.0}}]
)
def test_settings_that_came_later_count_where_they_are_set(changes):
    assert settings(**changes).identity() != settings().identity()


# --- before any work -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "size", "num_processes", "message"),
    [
        ({}, 20, 1, "image_size: expected a multiple of 8"),
        ({"student": Student(architecture="tinygan", width=2)}, 48, 1, "image_size: expected a power of two"),
        ({"weights": {"perceptual": 1.0}}, 32, 1, "expected torchvision's VGG16 weights"),
        ({"batch_size": 9}, 32, 2, r"distill\.batch_size: expected a multiple of 2"),
    ],
)
def test_a_distillation_that_cannot_run_is_refused_before_any_work(tmp_path, changes, size, num_processes, message):
    with pytest.raises(SettingError, match=message):
        check_distillation("texture", GeneratorSize(4, 3, size), settings(**changes), CPU, str(tmp_path), num_processes)
