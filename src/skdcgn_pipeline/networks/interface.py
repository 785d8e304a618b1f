"""What generators have in common: their sizes, the requests that they take, and mixtures of their classes.

The generators here know classes by rows of tables or by a linear map of a one-hot vector. Both are linear in
the one-hot vector, so that weights in its place mix what belongs to each class.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from skdcgn_pipeline.mechanisms import CounterfactualGenerator, LabelsLike, MechanismImages, MechanismLabels
from skdcgn_pipeline.runtime.errors import SettingError, check_choice
from skdcgn_pipeline.vocabulary import MECHANISMS


class GeneratorSize(NamedTuple):
    """Length of the noise, number of classes, and height and width of the images."""

    noise_dim: int
    num_classes: int
    image_size: int

    @classmethod
    def of(cls, generator: Any) -> GeneratorSize:
        """Return the sizes of a generator, or of what was drawn from it."""
        return cls(generator.noise_dim, generator.num_classes, generator.image_size)


@runtime_checkable
class MixesClasses(CounterfactualGenerator, Protocol):
    """A generator that renders mixtures of classes too; a teacher need not."""

    def render_mixtures(self, noise: Tensor, weights: Mapping[str, Tensor]) -> MechanismImages:
        """Render noise [N, noise_dim] with weights [N, num_classes] of the classes of each mechanism.

        Rows of one-hot weights give the images of these classes.

        Raises:
            SettingError: If weights have another shape, are negative or do not sum to 1.
        """
        ...


class MechanismGenerator(nn.Module):
    """A network that renders each mechanism by itself, behind the generator's interface; see `MixesClasses`.

    Attributes:
        noise_dim, num_classes, image_size: As in `CounterfactualGenerator`.
    """

    noise_dim: int
    num_classes: int
    image_size: int

    def paint(self, mechanism: str, noise: Tensor, classes: Tensor) -> Tensor:
        """Return a mechanism's images for noise [N, noise_dim] and classes [N], or weights [N, num_classes]."""
        raise NotImplementedError

    def forward(self, noise: Tensor, labels: LabelsLike) -> MechanismImages:
        """Render with gradients; noise [N, noise_dim] ~ N(0, I), labels as in `MechanismLabels.of`.

        Raises:
            SettingError: If noise or labels have another shape, or a class is out of range.
        """
        labels = MechanismLabels.of(labels)
        check_request(self, noise, labels)
        return MechanismImages(*(self.paint(m, noise, getattr(labels, m)) for m in MECHANISMS))

    @torch.no_grad()
    def render(self, noise: Tensor, labels: LabelsLike) -> MechanismImages:
        """Render the mechanisms before the patch shift, without gradients; raises like `forward`."""
        return self(noise, labels)

    @torch.no_grad()
    def render_mechanism(self, mechanism: str, noise: Tensor, label: Tensor) -> Tensor:
        """Render one mechanism's image for noise [N, noise_dim] and classes [N]; raises like `forward`."""
        check_choice("mechanism", mechanism, MECHANISMS)
        check_request(self, noise, MechanismLabels.of(label))
        return self.paint(mechanism, noise, label)

    @torch.no_grad()
    def render_mixtures(self, noise: Tensor, weights: Mapping[str, Tensor]) -> MechanismImages:
        """Render mixtures of classes, see `MixesClasses`."""
        check_mixtures(self, noise, weights)
        return MechanismImages(*(self.paint(m, noise, weights[m]) for m in MECHANISMS))


def look_up(table: nn.Embedding, classes: Tensor) -> Tensor:
    """Return the rows of classes [N], or mixtures of rows by weights [N, num_classes]."""
    return table(classes) if classes.ndim == 1 else pick(table.weight, classes)


def pick(table: Tensor, classes: Tensor) -> Tensor:
    """Return rows of a table [num_classes, D] by classes [N], or mixtures of them by weights [N, num_classes]."""
    return table[classes] if classes.ndim == 1 else classes.to(table) @ table


def check_request(generator: Any, noise: Tensor, labels: MechanismLabels) -> None:
    """Refuse noise and labels that a generator cannot render.

    Raises:
        SettingError: Naming what the generator takes and what came.
    """
    if noise.ndim != 2 or noise.shape[1] != generator.noise_dim:
        expected = f"shape [N, {generator.noise_dim}]"
        raise SettingError("noise", expected, list(noise.shape), "Draw noise of the generator's noise_dim.")
    for mechanism in MECHANISMS:
        name, label = f"labels of {mechanism}", getattr(labels, mechanism)
        if label.shape != noise.shape[:1]:
            raise SettingError(name, f"shape [{len(noise)}]", list(label.shape), "Give one class per image.")
        if len(label) and not (int(label.min()) >= 0 and int(label.max()) < generator.num_classes):
            expected, got = f"classes 0 to {generator.num_classes - 1}", f"{int(label.min())} to {int(label.max())}"
            raise SettingError(name, expected, got, "Use classes that the generator knows.")


def check_mixtures(generator: CounterfactualGenerator, noise: Tensor, weights: Mapping[str, Tensor]) -> None:
    """Refuse weights that are no mixtures of a generator's classes, as `render_mixtures` says."""
    expected = (len(noise), generator.num_classes)
    remedy = "Give one row of weights per image, for each mechanism."
    for mechanism in MECHANISMS:
        name, rows = f"class weights of {mechanism}", weights.get(mechanism)
        if rows is None or tuple(rows.shape) != expected:
            got = None if rows is None else list(rows.shape)
            raise SettingError(name, f"shape {list(expected)}", got, remedy)
        if (rows < 0).any() or not torch.allclose(rows.sum(1), torch.ones_like(rows[:, 0]), atol=1e-4):
            raise SettingError(name, "rows from 0 on that sum to 1", "others", remedy)


def check_same_interface(teacher: Any, students: Any) -> None:
    """Refuse students of another noise size, class count or image size than the teacher's.

    Raises:
        SettingError: Naming every size of both.
    """
    expected, got = GeneratorSize.of(teacher)._asdict(), GeneratorSize.of(students)._asdict()
    if expected != got:
        raise SettingError("students", f"the teacher's {expected}", got, "Distil students from this teacher.")
