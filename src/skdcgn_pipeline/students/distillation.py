"""Distil one mechanism of a teacher into a student (SKDCGN, arXiv 2208.04226, section 3.2).

The teacher is a black box: all that is used of it are its samples. Where a mechanism is asked for,
`COMPOSITE` stands for the whole image: a student without mechanisms, the control of CGN's tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from skdcgn_pipeline.losses import weighted_sum
from skdcgn_pipeline.losses.adversarial import hinge_discriminator_loss
from skdcgn_pipeline.losses.distillation import term_of, weights_of
from skdcgn_pipeline.networks.discriminator import Judgement, ProjectionDiscriminator
from skdcgn_pipeline.networks.interface import GeneratorSize
from skdcgn_pipeline.networks.vgg16 import ImageFeatures, require_vgg16
from skdcgn_pipeline.parameters import Compute, Distill
from skdcgn_pipeline.runtime.compute import autocast, check_compiler, choose_device, compiled, place, sizes_alone
from skdcgn_pipeline.runtime.seeding import seeded
from skdcgn_pipeline.samples.pixels import decode_images
from skdcgn_pipeline.students.architectures import StudentGenerator, make_student
from skdcgn_pipeline.training.averaging import WeightAverage
from skdcgn_pipeline.training.checkpointing import Stateful
from skdcgn_pipeline.training.optimisers import make_optimisers
from skdcgn_pipeline.training.parallel import ALONE, Processes, check_equal_parts
from skdcgn_pipeline.training.schedules import Rates, warm_up_and_cosine
from skdcgn_pipeline.vocabulary import channels_of

PERCEPTUAL_SETTING = "distill.weights.perceptual"

# Noise [B, noise_dim], labels [B], and the teacher's images of them [B, C, H, W].
Pairs = tuple[Tensor, Tensor, Tensor]


class Distillation:
    """The training of one student, a `Task`: each step trains the discriminator, then the student against it.

    Every `judge_every_steps` the discriminator is updated (hinge; teacher images against student images), and then
    the student with the weighted sum of all loss terms; in between, the student with the terms on its images alone.

    Several processes with the same arguments train one student together: each takes its slice of every
    batch, gradients are averaged, batch norms share their moments, and losses are the whole batch's.

    Args:
        mechanism: shape, texture, background or `COMPOSITE`.
        size: The teacher's.
        settings: Architecture, budget and loss weights.
        seed: Seed of the initial weights.
        compute: Device and precision.
        load: Gives noise, labels and the teacher's uint8 images of a step on the device; `update` does without.
        perceive: Gives the features of the perceptual loss; only asked where it has a weight.
        processes: Those that train together.

    Attributes:
        device: Where the networks are.
        student, discriminator: What is trained.
        result: The averaged student.

    Raises:
        SettingError: If the networks cannot be compiled, or a batch does not divide into equal parts.
    """

    def __init__(
        self,
        mechanism: str,
        size: GeneratorSize,
        settings: Distill,
        seed: int,
        compute: Compute,
        *,
        load: Callable[[int], tuple[Tensor, ...]] | None = None,
        perceive: ImageFeatures | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.name, self.title, self.num_steps = mechanism, f"{mechanism} student", settings.num_steps
        self.log_every_steps, self.checkpoint_every_steps = settings.log_every_steps, settings.checkpoint_every_steps
        self.settings, self.compute, self.device = settings, compute, choose_device(compute.device)
        self._load, self._perceive, self._processes = load, perceive, processes
        check_equal_parts(settings.batch_size, settings.accumulate_steps, processes.size)
        self._weights = weights_of(mechanism, settings)
        self._term_of = {name: term_of(name) for name in self._weights}
        # Without a weight on one of its terms the discriminator would learn for nothing.
        self._is_judged = any(
            weight for name, weight in self._weights.items() if self._term_of[name].compares == "judgement"
        )
        with seeded(seed, f"student-init-{mechanism}"):
            student = make_student(mechanism, settings.student.arguments(), size)
            discriminator = ProjectionDiscriminator(
                channels_of(mechanism), size.num_classes, size.image_size, settings.discriminator_width
            )
        self.student: StudentGenerator = place(student, self.device, torch.channels_last).train()
        self.discriminator = place(discriminator, self.device, torch.channels_last).train()
        self._averaging = WeightAverage(self.student, settings.ema_decay)
        self.result = self._averaging.average

        adam: Any = partial(torch.optim.Adam, betas=settings.betas, fused=self.device.type == "cuda" or None)
        matrix_learning_rate = settings.matrix_learning_rate if settings.optimiser == "muon" else None
        self._optimisers = make_optimisers(self.student, partial(adam, lr=settings.learning_rate), matrix_learning_rate)
        self._discriminator_optimiser = adam(self.discriminator.parameters(), lr=settings.discriminator_learning_rate)
        self._rates = Rates(warm_up_and_cosine(settings.num_steps), [*self._optimisers, self._discriminator_optimiser])

        # What runs: the same weights, compiled, and averaging gradients over the processes where they learn. Batch
        # norms are shared after the average is made, which is used without the other processes.
        processes.share_statistics(self.student)
        render, self._judge = (
            compiled(network, self.device) if settings.compile else network
            for network in (self.student, self.discriminator)
        )
        self._render = processes.wrap(render)
        self._learn_to_judge = processes.wrap(self._judge) if self._is_judged else self._judge

    @property
    def objects(self) -> dict[str, Stateful]:
        """What a checkpoint holds."""
        networks = {"student": self.student, "average": self.result, "discriminator": self.discriminator}
        return {**networks, **self._rates.objects}

    def batch(self, step: int) -> Pairs:
        """Return noise, labels and decoded teacher images of a step, this process's slice of them, on the device."""
        assert self._load is not None
        noise, labels, teacher_bytes = self._load(step)
        return noise, labels, decode_images(self.name, teacher_bytes)

    def update(self, step: int, batch: Pairs, noted: bool = False) -> dict[str, float]:
        """Train on one batch, see `Task.update`; its losses are every term's and the total."""
        num_parts = self.settings.accumulate_steps
        parts: list[Pairs] = [*zip(*(tensor.chunk(num_parts) for tensor in batch), strict=True)]  # type: ignore[list-item]
        judgement, off_turn = divmod(step + 1, self.settings.judge_every_steps)
        judging = self._is_judged and not off_turn
        losses: dict[str, float] = {}

        def note(terms: dict[str, Tensor]) -> None:
            if noted:
                for name, term in terms.items():
                    losses[name] = losses.get(name, 0.0) + term.item() / num_parts

        self._rates.set(step)
        # A batch in one part is rendered once, for both phases.
        rendered = self._rendered(*parts[0][:2]) if num_parts == 1 else None
        if judging:
            self._train_discriminator(parts, rendered, note)

        # Student phase, against the updated discriminator.
        weights = self._weights_at(step, judgement if judging else None)
        self.student.zero_grad(set_to_none=True)
        for part, (noise, labels, teacher_images) in enumerate(parts):
            with self._averaging_gradients(self._render, part):
                student_images = self._rendered(noise, labels) if rendered is None else rendered
                terms = self._terms(weights, student_images, teacher_images, labels, part)
                loss = weighted_sum(terms, weights)
                (loss / self.settings.accumulate_steps).backward()
            note({**terms, "total": loss})
        for optimiser in self._optimisers:
            optimiser.step()
        self._averaging.update(step)
        return self._processes.mean(losses) if noted else losses

    def _train_discriminator(
        self, parts: Sequence[Pairs], rendered: Tensor | None, note: Callable[[dict[str, Tensor]], None]
    ) -> None:
        """Update the discriminator on the parts of a batch."""
        self.discriminator.requires_grad_(True)
        self._discriminator_optimiser.zero_grad(set_to_none=True)
        for part, (noise, labels, teacher_images) in enumerate(parts):
            if rendered is None:
                with torch.no_grad(), kept_statistics(self.student):
                    student_images = self._rendered(noise, labels)
            else:
                student_images = rendered.detach()
            with self._averaging_gradients(self._learn_to_judge, part):
                # One context, so that the gradients of both passes are rounded once.
                with autocast(self.compute, self.device):
                    judge = partial(self._judged, self._learn_to_judge, labels=labels, part=part)
                    of_student, of_teacher = judge(student_images), judge(teacher_images)
                loss = hinge_discriminator_loss(of_student.logits.float(), of_teacher.logits.float())
                (loss / self.settings.accumulate_steps).backward()
            note({"discriminator": loss})
        self._discriminator_optimiser.step()
        self.discriminator.requires_grad_(False)

    def _weights_at(self, step: int, judgement: int | None) -> dict[str, float]:
        """Return the weights of the terms that enter a step, whose judgement has this number, if it has one."""
        weights = {
            name: weight
            for name, weight in self._weights.items()
            if judgement is not None or self._term_of[name].compares != "judgement"
        }
        weights["pixel"] *= 1 - self.settings.pixel_decay * step / self.settings.num_steps
        if judgement is not None and judgement % self.settings.adversarial_every_judgements:
            weights["adversarial"] = 0.0
        return weights

    def _terms(
        self, weights: dict[str, float], student_images: Tensor, teacher_images: Tensor, labels: Tensor, part: int
    ) -> dict[str, Tensor]:
        """Return the unweighted terms of a part's loss that have a weight, be it 0."""
        sights: dict[str, Callable[[Tensor], Any]] = {
            "images": lambda images: images,
            "layers": self._perceived,
            "judgement": lambda images: self._judged(self._judge, images, labels, part).float(),
        }
        terms: dict[str, Tensor] = {}
        for compares, see in sights.items():
            wanted = [name for name in weights if self._term_of[name].compares == compares]
            if wanted:
                of_student = see(student_images)
                with torch.no_grad():
                    of_teacher = see(teacher_images)
                terms |= {name: self._term_of[name].loss(of_student, of_teacher, self.settings) for name in wanted}
        return terms

    def _rendered(self, noise: Tensor, labels: Tensor) -> Tensor:
        # A wrapped module would prepare for a backward pass that does not come.
        render = self._render if torch.is_grad_enabled() else getattr(self._render, "module", self._render)
        with autocast(self.compute, self.device):
            return render(noise, labels)

    def _judged(self, network: nn.Module, images: Tensor, labels: Tensor, part: int) -> Judgement:
        # In training, every pass iterates the power methods of the spectral norms; those of one part are enough.
        if self.discriminator.training != (part == 0):
            self.discriminator.train(part == 0)
        with autocast(self.compute, self.device):
            return network(self._seen(images), labels)

    def _perceived(self, images: Tensor) -> list[Tensor]:
        assert self._perceive is not None
        with autocast(self.compute, self.device):
            return [layer.float() for layer in self._perceive(self._seen(images).expand(-1, 3, -1, -1))]

    def _seen(self, images: Tensor) -> Tensor:
        """Return images as networks see them: masks in [-1, 1], like images."""
        return images * 2 - 1 if self.name == "shape" else images

    def _averaging_gradients(self, wrapped: nn.Module, part: int) -> AbstractContextManager:
        """Return the context of a part's backward pass: the last part's averages over the processes."""
        is_last = part == self.settings.accumulate_steps - 1
        return nullcontext() if is_last else self._processes.without_averaging(wrapped)


@contextmanager
def kept_statistics(network: nn.Module) -> Iterator[None]:
    """Leave the running statistics of batch norms alone inside the block."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def check_distillation(
    mechanism: str, size: GeneratorSize, settings: Distill, compute: Compute, assets: str, num_processes: int = 1
) -> None:
    """Refuse a distillation that could not run, before the samples for it are drawn.

    Args:
        mechanism, size, settings, compute: As in `Distillation`.
        assets: The asset folder, for the perceptual loss.
        num_processes: How many train together.

    Raises:
        SettingError: If the architecture cannot make images of the size, the weights of the perceptual loss
            are missing, networks cannot be compiled, or a batch does not divide into equal parts.
    """
    check_equal_parts(settings.batch_size, settings.accumulate_steps, num_processes)
    with sizes_alone():
        make_student(mechanism, settings.student.arguments(), size)
    if settings.weights.perceptual:
        require_vgg16(assets, PERCEPTUAL_SETTING)
    if settings.compile:
        check_compiler(choose_device(compute.device))
