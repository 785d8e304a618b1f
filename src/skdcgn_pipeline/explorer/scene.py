"""What the explorer shows, without the page: pictures, what classifiers say about them, what they cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from skdcgn_pipeline.classifiers.invariant_classifier import InvariantClassifier
from skdcgn_pipeline.counterfactuals.datasets import noise_of
from skdcgn_pipeline.images.reading import crop_centre
from skdcgn_pipeline.mechanisms import CounterfactualGenerator, MechanismImages, MechanismLabels, compose
from skdcgn_pipeline.metrics.cost import measure_rates, render_call
from skdcgn_pipeline.networks.interface import MixesClasses, check_same_interface
from skdcgn_pipeline.parameters import choose_classes
from skdcgn_pipeline.reporting.interpolation import turned
from skdcgn_pipeline.runtime.errors import SettingError, check_whole
from skdcgn_pipeline.runtime.seeding import torch_generator
from skdcgn_pipeline.students.trio import StudentCGN
from skdcgn_pipeline.vocabulary import COMPOSITE, MECHANISMS, STUDENTS

TEACHER = "teacher"
BATCH_SIZES = (1, 64)
# Of each of five turns; a page is not kept waiting longer.
SECONDS_PER_TURN = 0.05


@dataclass(frozen=True)
class Choice:
    """What is drawn.

    Attributes:
        seed: Of the noise, from 0 on.
        shape, texture, background: Class of each mechanism.
    """

    seed: int
    shape: int
    texture: int
    background: int

    def class_of(self, mechanism: str) -> int:
        """Return the class of a mechanism."""
        return getattr(self, mechanism)


@dataclass(frozen=True)
class Opinion:
    """What a classifier says about an image.

    Attributes:
        probabilities: By the name of each class.
        says: Name of the most probable one.
        reads: The mechanisms whose class that is.
    """

    probabilities: Mapping[str, float]
    says: str
    reads: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """In words, what the classifier reads the class from."""
        return "reads the " + " or the ".join(self.reads) if self.reads else "reads none of the three"

    @property
    def mark(self) -> str:
        """The class of the style that stands for what is read."""
        return self.reads[0] if self.reads else "nothing"


@dataclass(frozen=True)
class View:
    """What a generator makes of a choice, and what classifiers say about it.

    Attributes:
        images: Of the mechanisms; N = 1.
        opinions: By what the classifier was trained on.
    """

    images: MechanismImages
    opinions: Mapping[str, Opinion]


@dataclass(frozen=True)
class Timing:
    """What one image costs.

    Attributes:
        what: `shape`, `texture`, `background`, or `COMPOSITE` for all three and their composition.
        batch_size: Images rendered at once.
        milliseconds: Per image, by generator; None where a teacher cannot render one mechanism alone.
    """

    what: str
    batch_size: int
    milliseconds: Mapping[str, float | None]

    @property
    def ratio(self) -> float | None:
        """How many times faster the students are."""
        teacher, students = self.milliseconds[TEACHER], self.milliseconds[STUDENTS]
        return teacher / students if teacher and students else None


class Scene:
    """Teacher, students and classifiers that look at the same noise and classes; on the CPU.

    The image of a choice is that of `StudentCGN.sample` with its seed and classes and without the patch shift,
    but for the rounding of `fused` students, which are those shown and timed.

    Args:
        teacher: Anything with the generator's interface.
        students: Distilled from it.
        classifiers: By what they were trained on, in the order in which they are shown; perhaps none.
        classes: The classes that the students learnt; None for all.
        names: Name of each class; by default as the classifiers call it, or its number.

    Attributes:
        classes: Name of each class to choose from.

    Raises:
        SettingError: If teacher and students have other noise, classes or sizes, or a class is none of them.
    """

    def __init__(
        self,
        teacher: CounterfactualGenerator,
        students: StudentCGN,
        classifiers: Mapping[str, InvariantClassifier],
        classes: Sequence[int] | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        check_same_interface(teacher, students)
        self.generators: dict[str, CounterfactualGenerator] = {TEACHER: teacher, STUDENTS: students.fused()}
        self.classifiers = dict(classifiers)
        self.num_classes = teacher.num_classes
        numbered = [str(number) for number in range(self.num_classes)]
        labels = names or next((c.labels for c in self.classifiers.values()), numbered)
        chosen = None if classes is None else choose_classes("classes", tuple(classes), self.num_classes, {})
        numbers = range(self.num_classes) if chosen is None else chosen
        self.classes = {number: labels[number] for number in numbers}

    def mixes_classes(self, name: str) -> bool:
        """Tell whether there is something between two classes of a generator."""
        return isinstance(self.generators[name], MixesClasses)

    def check(self, choice: Choice) -> Choice:
        """Return a choice that can be drawn.

        Raises:
            SettingError: If its seed or a class is impossible.
        """
        check_seed(choice.seed)
        for mechanism in MECHANISMS:
            number = choice.class_of(mechanism)
            if isinstance(number, bool) or number not in self.classes:
                got = "nothing" if number is None else repr(number)
                known = f"one of {', '.join(self.classes.values())}"
                raise SettingError(f"class of the {mechanism}", known, got, "Choose one of the list.")
        return choice

    def draw(self, choice: Choice) -> dict[str, View]:
        """Draw a choice with each generator, on the same noise; raises like `check`."""
        noise = noise_of(self.generators[TEACHER], self.check(choice).seed)
        labels = torch.tensor([[choice.class_of(mechanism) for mechanism in MECHANISMS]])
        return {
            name: self._look_at(generator.render(noise, labels), [choice])[0]
            for name, generator in self.generators.items()
        }

    def interpolate(self, first: Choice, last: Choice, num_steps: int) -> dict[str, list[View]]:
        """Draw what lies between two choices, raising like `check`: noise turns from one to the other, and classes mix.

        A generator that takes nothing but class numbers keeps those of the nearer end.

        Args:
            first, last: The ends, which come out as `draw` draws them, but for rounding.
            num_steps: Pictures in all, at least 2.

        Returns:
            For each generator, a view per step; a classifier reads a mechanism where it says one of its two classes.
        """
        here, there = (noise_of(self.generators[TEACHER], self.check(choice).seed) for choice in (first, last))
        shares, one_hot = torch.linspace(0, 1, num_steps), torch.eye(self.num_classes)
        noise = torch.cat([turned(here, there, share) for share in shares.tolist()])
        views = {}
        for name, generator in self.generators.items():
            if isinstance(generator, MixesClasses):
                ends = {m: (one_hot[first.class_of(m)], one_hot[last.class_of(m)]) for m in MECHANISMS}
                weights = {m: torch.lerp(*pair, shares[:, None]) for m, pair in ends.items()}
                images = generator.render_mixtures(noise, weights)
            else:
                labels = torch.tensor([[choice.class_of(m) for m in MECHANISMS] for choice in (first, last)])
                images = generator.render(noise, MechanismLabels.of(labels[(shares >= 0.5).long()]))
            views[name] = self._look_at(images, [first, last])
        return views

    def _look_at(self, images: MechanismImages, choices: Sequence[Choice]) -> list[View]:
        """Compose images and ask the classifiers."""
        composites = compose(images)
        opinions = {name: self._opinions(network, composites, choices) for name, network in self.classifiers.items()}
        return [
            View(images[row : row + 1], {name: of_images[row] for name, of_images in opinions.items()})
            for row in range(len(composites))
        ]

    def _opinions(
        self, classifier: InvariantClassifier, composites: Tensor, choices: Sequence[Choice]
    ) -> list[Opinion]:
        with torch.no_grad():
            # A classifier may be made for the middle of larger images, as those of ImageNet are.
            images = crop_centre(composites, classifier.image_size, composites.shape[-1])
            probabilities = classifier(((images + 1) / 2).clamp(0, 1))
        opinions = []
        for of_image in probabilities:
            says = classifier.labels[int(of_image.argmax())]
            reads = tuple(m for m in MECHANISMS if any(self.classes[c.class_of(m)] == says for c in choices))
            opinions.append(Opinion(dict(zip(classifier.labels, of_image.tolist(), strict=True)), says, reads))
        return opinions

    def measure(self, batch_sizes: Sequence[int] = BATCH_SIZES, seconds: float = SECONDS_PER_TURN) -> list[Timing]:
        """Time teacher and students: after a first call, the median of five turns that they take one after the other.

        Args:
            batch_sizes: Images rendered at once.
            seconds: That each turn takes at least.

        Returns:
            A row per batch size and mechanism, and one for everything up to the composite.
        """
        rows = []
        for batch_size in batch_sizes:
            shape = (batch_size, self.generators[TEACHER].noise_dim)
            noise = torch.randn(shape, generator=torch_generator(0, "explorer-cost"))
            labels = torch.arange(batch_size) % self.num_classes
            for what in (*MECHANISMS, COMPOSITE):
                mechanism = None if what == COMPOSITE else what
                calls = {name: render_call(own, mechanism, noise, labels) for name, own in self.generators.items()}
                known = {name: call for name, call in calls.items() if call is not None}
                if what == COMPOSITE:
                    known = {name: partial(_composed, call) for name, call in known.items()}
                rates = measure_rates(known, batch_size, seconds)
                costs = {name: 1000 / rates[name] if name in rates else None for name in self.generators}
                rows.append(Timing(what, batch_size, costs))
        return rows


def check_seed(seed: Any) -> int:
    """Return a seed of noise.

    Raises:
        SettingError: If it is none.
    """
    return check_whole("noise", seed, 0, "Type one, or draw new noise.")


def _composed(render: Callable[[], MechanismImages]) -> Tensor:
    return compose(render())
