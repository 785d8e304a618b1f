"""Distil one mechanism of a teacher into a student (SKDCGN, arXiv 2208.04226, section 3.2).

The teacher is a black box: all that is used of it are its samples. Where a mechanism is asked for,
`COMPOSITE` stands for the whole image: a student without mechanisms, the control of CGN's tables.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from skdcgn_pipeline.artifacts.store import Artifact, ArtifactWriter, build_artifact, sha256_of_file
from skdcgn_pipeline.classifiers.training import HISTORY_FILE
from skdcgn_pipeline.losses import weighted_sum
from skdcgn_pipeline.losses.adversarial import hinge_discriminator_loss, hinge_generator_loss
from skdcgn_pipeline.losses.distillation import (
    binary_cross_entropy_loss,
    feature_loss,
    kl_loss,
    perceptual_loss,
    pixel_loss,
)
from skdcgn_pipeline.networks.discriminator import Judgement, ProjectionDiscriminator
from skdcgn_pipeline.networks.interface import GeneratorSize
from skdcgn_pipeline.networks.vgg16 import ImageFeatures, open_vgg16_features, require_vgg16
from skdcgn_pipeline.parameters import Compute, Distill
from skdcgn_pipeline.runtime.compute import autocast, check_compiler, choose_device, compiled, place
from skdcgn_pipeline.runtime.errors import InterruptedRunError, SettingError
from skdcgn_pipeline.runtime.seeding import seeded
from skdcgn_pipeline.samples.drawing import SampleShards, decode_images
from skdcgn_pipeline.samples.loading import (
    BatchLoader,
    PairsInMemory,
    PairSource,
    fetch_by_epochs,
    identity_of_order,
    open_pairs,
)
from skdcgn_pipeline.students.architectures import make_student
from skdcgn_pipeline.students.released import released_path
from skdcgn_pipeline.students.trio import StudentCGN
from skdcgn_pipeline.training.averaging import WeightAverage
from skdcgn_pipeline.training.checkpointing import (
    Checkpoint,
    History,
    RecordStep,
    Stateful,
    TrainingLoop,
    record_nothing,
)
from skdcgn_pipeline.training.optimisers import Muon, split_parameters
from skdcgn_pipeline.training.parallel import ALONE, Processes, check_equal_parts
from skdcgn_pipeline.vocabulary import MECHANISMS, channels_of

STUDENT_FILE, CARD_FILE = "student.safetensors", "student.json"
IMAGE_TERMS = ("pixel", "binary_cross_entropy", "perceptual")  # the others are the discriminator's
PERCEPTUAL_SETTING = ("distill.weights.perceptual", "set it to 0")
WARM_UP_SHARE = 0.05


def _annealed(step: int, num_steps: int) -> float:
    """Factor on the learning rate: linear warm-up, then half a cosine to zero."""
    warm_up = max(1, round(WARM_UP_SHARE * num_steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, num_steps - warm_up)))


class _Passes:
    """Passes of the discriminator over the parts of a batch, as if each were one over the whole batch.

    In training every pass iterates the power methods of the spectral norms once. So the first part's passes
    do, and the other parts' meet the same norms.
    """

    def __init__(self, discriminator: nn.Module) -> None:
        # Torch's class of theirs is private; these are its vectors.
        self._norms: list[Any] = [module for module in discriminator.modules() if hasattr(module, "_u")]
        self._vectors: dict[str, list[tuple[Tensor, Tensor]]] = {}

    @contextmanager
    def named(self, name: str, part: int, num_parts: int) -> Iterator[None]:
        """Run the pass `name` of a part inside the block."""
        if num_parts == 1:
            yield
        elif part == 0:
            yield
            self._vectors[name] = [(norm._u.clone(), norm._v.clone()) for norm in self._norms]
        else:
            for norm, (left, right) in zip(self._norms, self._vectors[name], strict=True):
                norm._u.copy_(left)
                norm._v.copy_(right)
                norm.eval()
            yield
            for norm in self._norms:
                norm.train()


@contextmanager
def _kept_statistics(network: nn.Module) -> Iterator[None]:
    """Leave the running statistics of batch norms alone inside the block."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.track_running_stats = False
    yield
    for norm in norms:
        norm.track_running_stats = True


class DistillationStep:
    """Student, discriminator and optimisers of one mechanism, and what a step does to them.

    Args:
        mechanism: shape, texture, background or `COMPOSITE`.
        noise_dim, num_classes, image_size: Those of the teacher.
        settings: Architecture, budget and loss weights.
        seed: Seed of the initial weights.
        compute: Device and precision.
        perceive: Gives the features of the perceptual loss; only asked where it has a weight.
        processes: Those that train together.

    Attributes:
        device: Where the networks are.
        average: The averaged student.

    Raises:
        SettingError: If the perceptual loss has a weight and no features, the networks cannot be compiled, or
            a batch does not divide into equal parts.
    """

    def __init__(
        self,
        mechanism: str,
        noise_dim: int,
        num_classes: int,
        image_size: int,
        settings: Distill,
        seed: int,
        compute: Compute,
        perceive: ImageFeatures | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.settings, self.compute, self.is_shape = settings, compute, mechanism == "shape"
        self.device, self._processes = choose_device(compute.device), processes
        check_equal_parts(settings.batch_size, settings.accumulate_steps, processes.size)
        with seeded(seed, f"student-init-{mechanism}"):
            student = make_student(
                mechanism, settings.student.model_dump(), GeneratorSize(noise_dim, num_classes, image_size)
            )
            discriminator = ProjectionDiscriminator(
                channels_of(mechanism), num_classes, image_size, settings.discriminator_width
            )
        self._student = place(student, self.device, torch.channels_last).train()
        self._discriminator = place(discriminator, self.device, torch.channels_last).train()
        self._averaging = WeightAverage(self._student, settings.ema_decay)
        self.average = self._averaging.average
        matrices, others = split_parameters(self._student)
        if settings.optimiser == "adam":
            matrices, others = [], [*self._student.parameters()]
        fused = {"fused": True} if self.device.type == "cuda" else {}
        self._optimisers: dict[str, torch.optim.Optimizer] = {
            "student_optimiser": torch.optim.Adam(others, settings.learning_rate, settings.betas, **fused),
            "discriminator_optimiser": torch.optim.Adam(
                self._discriminator.parameters(), settings.discriminator_learning_rate, settings.betas, **fused
            ),
        }
        if matrices:
            self._optimisers["matrix_optimiser"] = Muon(matrices, settings.matrix_learning_rate)
        self._peaks = {name: optimiser.param_groups[0]["lr"] for name, optimiser in self._optimisers.items()}
        self._judged_weights = settings.weights.model_dump()
        if not self.is_shape:
            self._judged_weights.pop("binary_cross_entropy")  # only masks are in [0, 1]
        self._perceive = perceive
        if not settings.weights.perceptual:
            self._judged_weights.pop("perceptual")  # costs as much as all of the rest
        elif perceive is None:
            remedy = "Give `perceive`, such as `open_vgg16_features`."
            raise SettingError("distill.weights.perceptual", "0 without a feature network", "a weight", remedy)
        self._image_weights = {name: weight for name, weight in self._judged_weights.items() if name in IMAGE_TERMS}
        # Without a weight on one of its terms the discriminator would learn for nothing.
        self._uses_discriminator = any(
            weight for name, weight in self._judged_weights.items() if name not in self._image_weights
        )
        self._passes = _Passes(self._discriminator)
        # After the average is made, which is used without the other processes.
        processes.share_statistics(self._student)
        rendering, judging = (
            (compiled(network, self.device) if settings.compile else network)
            for network in (self._student, self._discriminator)
        )
        # What runs: the same weights, compiled, and averaging gradients over the processes where they learn.
        self._render, self._judge = processes.wrap(rendering), judging
        self._learn_to_judge = processes.wrap(judging) if self._uses_discriminator else judging

    @property
    def objects(self) -> dict[str, Stateful]:
        """What a checkpoint holds."""
        return {
            "student": self._student,
            "average": self.average,
            "discriminator": self._discriminator,
            **self._optimisers,
        }

    def __call__(
        self, step: int, noise: Tensor, labels: Tensor, teacher_images: Tensor, noted: bool = False
    ) -> dict[str, float]:
        """Train on one batch, or this process's slice of it, whose tensors are on the device.

        Args:
            step: Number of the step, from 0.
            noise: [B, noise_dim].
            labels: [B].
            teacher_images: The teacher's images of them, [B, C, H, W] in the mechanism's range.
            noted: Whether the losses are asked for.

        Returns:
            Every loss term and the total by name where they are asked for; reading them waits for the device.
        """
        settings, num_parts = self.settings, self.settings.accumulate_steps
        factor = _annealed(step, settings.num_steps)
        for name, optimiser in self._optimisers.items():
            optimiser.param_groups[0]["lr"] = self._peaks[name] * factor
        parts = [*zip(*(tensor.chunk(num_parts) for tensor in (noise, labels, teacher_images)), strict=True)]
        judgement, off_turn = divmod(step + 1, settings.judge_every_steps)
        judging = self._uses_discriminator and not off_turn
        losses: dict[str, float] = {}

        # A batch in one part is rendered once, for both phases.
        rendered = self._rendered(*parts[0][:2]) if num_parts == 1 else None
        if judging:
            self._train_discriminator(parts, rendered, losses if noted else None)
        weights = dict(self._judged_weights if judging else self._image_weights)
        weights["pixel"] *= 1 - settings.pixel_decay * step / settings.num_steps
        if judging and judgement % settings.adversarial_every_judgements:
            weights["adversarial"] = 0.0

        # Student phase, against the updated discriminator.
        self._student.zero_grad(set_to_none=True)
        for number, (part_noise, part_labels, part_teacher) in enumerate(parts):
            with self._averaging_gradients(self._render, number):
                student_images = self._rendered(part_noise, part_labels) if rendered is None else rendered
                terms = self._terms(student_images, part_teacher, part_labels, judging, number)
                loss = weighted_sum(terms, weights)
                self._scaled(loss).backward()
            if noted:
                for name, term in {**terms, "total": loss}.items():
                    losses[name] = losses.get(name, 0.0) + term.item() / num_parts
        for name, optimiser in self._optimisers.items():
            if name != "discriminator_optimiser":
                optimiser.step()
        self._averaging.update(step)
        return self._processes.mean(losses) if noted else losses

    def _train_discriminator(
        self, parts: Sequence[tuple[Tensor, ...]], rendered: Tensor | None, losses: dict[str, float] | None
    ) -> None:
        """Update the discriminator on the parts of a batch, and note its loss where losses are asked for."""
        self._discriminator.requires_grad_(True)
        optimiser = self._optimisers["discriminator_optimiser"]
        optimiser.zero_grad(set_to_none=True)
        for number, (noise, labels, teacher_images) in enumerate(parts):
            if rendered is None:
                with torch.no_grad(), _kept_statistics(self._student):
                    student_images = self._rendered(noise, labels)
            else:
                student_images = rendered.detach()
            with self._averaging_gradients(self._learn_to_judge, number):
                # One context, so that the gradients of both passes are rounded once.
                with autocast(self.compute, self.device):
                    of_student = self._judged(self._learn_to_judge, "learn-student", student_images, labels, number)
                    of_teacher = self._judged(self._learn_to_judge, "learn-teacher", teacher_images, labels, number)
                loss = hinge_discriminator_loss(of_student.logits.float(), of_teacher.logits.float())
                self._scaled(loss).backward()
            if losses is not None:
                losses["discriminator"] = losses.get("discriminator", 0.0) + loss.item() / len(parts)
        optimiser.step()
        self._discriminator.requires_grad_(False)

    def _terms(
        self, student_images: Tensor, teacher_images: Tensor, labels: Tensor, judging: bool, part: int
    ) -> dict[str, Tensor]:
        """Return the unweighted terms of the student's loss."""
        terms = {"pixel": pixel_loss(student_images, teacher_images)}
        if self.is_shape:
            terms["binary_cross_entropy"] = binary_cross_entropy_loss(student_images, teacher_images)
        if "perceptual" in self._image_weights:
            of_student = self._perceived(student_images)
            with torch.no_grad():
                of_teacher = self._perceived(teacher_images)
            terms["perceptual"] = perceptual_loss(of_student, of_teacher)
        if judging:
            judged_student = self._judged(self._judge, "student", student_images, labels, part)
            with torch.no_grad():
                judged_teacher = self._judged(self._judge, "teacher", teacher_images, labels, part)
            terms["feature"] = feature_loss(
                [layer.float() for layer in judged_student.features],
                [layer.float() for layer in judged_teacher.features],
            )
            terms["kl"] = kl_loss(
                judged_student.class_logits.float(), judged_teacher.class_logits.float(), self.settings.kl_temperature
            )
            terms["adversarial"] = hinge_generator_loss(judged_student.logits.float())
        return terms

    def _seen(self, images: Tensor) -> Tensor:
        """Return images as networks see them: masks in [-1, 1], like images."""
        return images * 2 - 1 if self.is_shape else images

    def _rendered(self, noise: Tensor, labels: Tensor) -> Tensor:
        # A wrapped module would prepare for a backward pass that does not come.
        render = self._render if torch.is_grad_enabled() else getattr(self._render, "module", self._render)
        with autocast(self.compute, self.device):
            return render(noise, labels)

    def _judged(self, network: nn.Module, name: str, images: Tensor, labels: Tensor, part: int) -> Judgement:
        images = self._seen(images)
        passes = self._passes.named(name, part, self.settings.accumulate_steps)
        with autocast(self.compute, self.device), passes:
            return network(images, labels)

    def _perceived(self, images: Tensor) -> list[Tensor]:
        assert self._perceive is not None
        images = self._seen(images).expand(-1, 3, -1, -1)
        with autocast(self.compute, self.device):
            return [layer.float() for layer in self._perceive(images)]

    def _scaled(self, loss: Tensor) -> Tensor:
        """Return the share of a part's loss in the loss of the batch."""
        return loss / self.settings.accumulate_steps if self.settings.accumulate_steps > 1 else loss

    def _averaging_gradients(self, wrapped: nn.Module, part: int) -> AbstractContextManager:
        """Return the context of a part's backward pass: the last part's averages over the processes."""
        is_last = part == self.settings.accumulate_steps - 1
        return nullcontext() if is_last else self._processes.without_averaging(wrapped)


def distil_student(
    mechanism: str,
    pairs: PairSource | tuple[Tensor, Tensor, Tensor],
    num_classes: int,
    settings: Distill,
    seed: int,
    compute: Compute,
    checkpoint_path: Path | None = None,
    record: RecordStep = record_nothing,
    assets: str = "",
    processes: Processes = ALONE,
) -> tuple[nn.Module, History]:
    """Train a student on a teacher's samples of one mechanism.

    Each step renders the student's images once. Every `judge_every_steps` it updates the discriminator
    (hinge; teacher images against student images) and then the student with the weighted sum of all
    loss terms; in between, the student with the terms on its images alone.

    Several processes with the same arguments train one student together: each takes its slice of every
    batch, gradients are averaged, batch norms share their moments, and losses are the whole batch's. The
    first one saves; the state is the same for any number of processes.

    Args:
        mechanism: shape, texture, background or `COMPOSITE`.
        pairs: Noise, labels and the teacher's uint8 images by row, or noise [N, noise_dim], labels [N] and
            images [N, C, H, W] in memory.
        num_classes: Number of classes.
        settings: Architecture, budget and loss weights.
        seed: Base seed.
        compute: Device and precision.
        checkpoint_path: Where the state is kept while training; None keeps nothing.
        record: Called with (step, losses) every few steps.
        assets: The asset folder, for the perceptual loss.
        processes: Those that train together.

    Returns:
        The averaged student in eval mode, on the CPU, and the history of its losses.

    Raises:
        SettingError: As `DistillationStep`, or if the perceptual loss lacks its weights.
        InterruptedRunError: If a stop was requested; the state is saved.
    """
    source = PairsInMemory(*pairs) if isinstance(pairs, tuple) else pairs
    perceive = open_vgg16_features(assets, *PERCEPTUAL_SETTING) if settings.weights.perceptual else None
    sizes = source.noise_dim, num_classes, source.image_size
    train = DistillationStep(mechanism, *sizes, settings, seed, compute, perceive, processes)
    leads = processes.rank == 0
    checkpoint = Checkpoint(checkpoint_path, train.objects, settings.checkpoint_every_steps, read_only=not leads)
    fetch = fetch_by_epochs(source, settings.batch_size, seed, f"distil-{mechanism}", processes.part)

    with BatchLoader(fetch, settings.num_steps, train.device, settings.fetch_threads) as load:
        loop = TrainingLoop(
            f"{mechanism} student",
            settings.num_steps,
            checkpoint,
            record if leads else record_nothing,
            lambda: f", {load.data_wait:.1%} waiting for data",
            processes.agree,
        )
        for step in loop.steps():
            noted = loop.is_noted(step, settings.log_every_steps)
            noise, labels, teacher_bytes = load(step)
            losses = train(step, noise, labels, decode_images(mechanism, teacher_bytes), noted)
            if noted:
                loop.note(step, losses)
    return place(train.average, "cpu", torch.contiguous_format), loop.history


class StudentArtifact:
    """A distilled student of one mechanism, or of `COMPOSITE`, on disk.

    Attributes:
        artifact: Where it is stored.
    """

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact

    @property
    def card(self) -> dict:
        """The mechanism, its architecture and the interface it was made for."""
        return self.artifact.read_json(CARD_FILE)

    @property
    def history(self) -> History:
        """Losses by step."""
        return self.artifact.read_json(HISTORY_FILE)

    def open(self) -> nn.Module:
        """Load the student, frozen and in eval mode."""
        card = self.card
        student = make_student(
            card["mechanism"],
            card["architecture"],
            GeneratorSize(card["noise_dim"], card["num_classes"], card["image_size"]),
        )
        student.load_state_dict(load_file(self.artifact.path(STUDENT_FILE)))
        return student.requires_grad_(False).eval()


def check_distillation(
    mechanism: str,
    sizes: tuple[int, int, int],
    settings: Distill,
    compute: Compute,
    assets: str,
    num_processes: int = 1,
) -> None:
    """Refuse a distillation that could not run, before the samples for it are drawn.

    Args:
        mechanism: shape, texture, background or `COMPOSITE`.
        sizes: noise_dim, num_classes and image_size of the teacher.
        settings, compute, assets: As in `distil_student`.
        num_processes: How many train together.

    Raises:
        SettingError: If the architecture cannot make images of the size, the weights of the perceptual loss
            are missing, networks cannot be compiled, or a batch does not divide into equal parts.
    """
    check_equal_parts(settings.batch_size, settings.accumulate_steps, num_processes)
    with torch.device("meta"):
        make_student(mechanism, settings.student.model_dump(), GeneratorSize(*sizes))
    if settings.weights.perceptual:
        require_vgg16(assets, *PERCEPTUAL_SETTING)
    if settings.compile:
        check_compiler(choose_device(compute.device))


@dataclass(frozen=True)
class _Distillation:
    """What a process needs to know to take part in a training; sent from one to the others."""

    mechanism: str
    samples: Path
    settings: Distill
    seed: int
    compute: Compute
    checkpoint_path: Path
    assets: str

    def run(self, record: RecordStep, processes: Processes) -> tuple[nn.Module, History]:
        """Train the student."""
        samples = SampleShards(Artifact.open(self.samples))
        return distil_student(
            self.mechanism,
            open_pairs(samples, self.mechanism),
            samples.num_classes,
            self.settings,
            self.seed,
            self.compute,
            self.checkpoint_path,
            record,
            self.assets,
            processes,
        )


def follow(processes: Processes) -> None:
    """Take part in every training that the leading process announces, until it lets this one go.

    What is trained is read from where the leader keeps it, so all processes must see the same files.
    """
    while (work := processes.hear()) is not None:
        try:
            work.run(record_nothing, processes)
        except InterruptedRunError:
            continue  # all stopped after the same step; the leader has saved


def build_student(
    store: Path,
    mechanism: str,
    samples: SampleShards,
    settings: Distill,
    seed: int,
    compute: Compute,
    record: RecordStep = record_nothing,
    assets: str = "",
    processes: Processes = ALONE,
) -> StudentArtifact:
    """Return the student of one mechanism, or of `COMPOSITE`: distil it, continue it, or reuse it.

    Samples that are too many for memory are read while it learns, in an order of their own (`open_pairs`).
    How many processes train it is no part of its identity: a training may go on with more or fewer.

    Args:
        store: Directory of students.
        mechanism, settings, seed, compute, record, assets: As in `distil_student`.
        samples: Of the teacher.
        processes: Those that train together; the others `follow` this one.

    Raises:
        SettingError, InterruptedRunError: As `distil_student`.
    """

    def write(writer: ArtifactWriter) -> None:
        checkpoint_path = writer.scratch("checkpoint.pt")
        directory = samples.artifact.directory
        work = _Distillation(mechanism, directory, settings, seed, compute, checkpoint_path, assets)
        with processes.announced(work):
            student, history = work.run(record, processes)
        writer.write(STUDENT_FILE, lambda path: save_file(student.state_dict(), path))
        writer.write_json(HISTORY_FILE, history)
        card = {
            "mechanism": mechanism,
            "architecture": settings.student.model_dump(),
            "noise_dim": samples.noise_dim,
            "num_classes": samples.num_classes,
            "image_size": samples.image_size,
        }
        writer.write_json(CARD_FILE, card)

    inputs = {
        "kind": "student",
        "mechanism": mechanism,
        "samples": samples.artifact.identity,
        "settings": settings.identity(),
        "seed": seed,
        "precision": compute.precision,
        **identity_of_order(samples, mechanism),
    }
    if settings.weights.perceptual:
        inputs["vgg16"] = sha256_of_file(require_vgg16(assets, *PERCEPTUAL_SETTING))
    return StudentArtifact(build_artifact(store, inputs, write))


class StudentsArtifact:
    """The three students of a run in one folder that `StudentCGN.from_pretrained` reads.

    Attributes:
        artifact: Where they are stored.
    """

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact

    def open(self) -> StudentCGN:
        """Load the students, frozen and in eval mode."""
        return StudentCGN.from_pretrained(self.artifact.directory)


def adopt_released_students(store: Path, name: str) -> StudentsArtifact:
    """Put the students that come with the package where a run's own students are.

    Raises:
        SettingError: If there is no such release.
    """
    students = StudentCGN.from_released(name)

    def write(writer: ArtifactWriter) -> None:
        write_students(writer, students)

    sha256 = sha256_of_file(released_path(name, ".safetensors"))
    return StudentsArtifact(build_artifact(store, {"kind": "students", "released": name, "sha256": sha256}, write))


def write_students(writer: ArtifactWriter, students: StudentCGN) -> None:
    """Write what `StudentsArtifact.open` reads."""
    folder = writer.scratch("students")
    students.save_pretrained(folder)
    for path in sorted(folder.iterdir()):
        writer.write(path.name, partial(shutil.copyfile, path))


def assemble_students(store: Path, students: dict[str, StudentArtifact]) -> StudentsArtifact:
    """Put three distilled mechanisms into one `StudentCGN` folder."""

    def write(writer: ArtifactWriter) -> None:
        cards = {mechanism: students[mechanism].card for mechanism in MECHANISMS}
        interface = {key: cards["shape"][key] for key in ("noise_dim", "num_classes", "image_size")}
        cgn = StudentCGN(**interface, architectures={m: card["architecture"] for m, card in cards.items()})
        for mechanism in MECHANISMS:
            cgn.network_of(mechanism).load_state_dict(students[mechanism].open().state_dict())
        write_students(writer, cgn)

    inputs = {"kind": "students", **{mechanism: students[mechanism].artifact.identity for mechanism in MECHANISMS}}
    return StudentsArtifact(build_artifact(store, inputs, write))
