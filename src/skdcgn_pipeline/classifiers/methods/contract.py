"""What a method is: hyperparameters, what it learns from, and the lesson of a step of a classifier's training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, Self

from torch import Tensor

from skdcgn_pipeline.classifiers.networks import Classifier
from skdcgn_pipeline.classifiers.training import Lesson
from skdcgn_pipeline.counterfactuals.composing import CounterfactualPool
from skdcgn_pipeline.images.image_set import Split
from skdcgn_pipeline.parameters import ClassifierFit, Composition, Compute
from skdcgn_pipeline.runtime.errors import SettingError

Source = Literal["originals", "unbiased", "teacher", "students"]


@dataclass(frozen=True)
class Material:
    """What methods may learn from; everything is opened when it is asked for.

    Attributes:
        originals: Gives the biased training images, in memory, with their groups; only methods that say so look at
            these.
        unbiased: Gives the same shapes in colours of any class.
        pools: By `teacher` and `students`, gives the images of their mechanisms.
        composition: How counterfactuals are composed of these.
        untrained: Seed -> a network as training starts.
        trained: Budget -> the classifier that the originals alone give, by plain training.
        fit: The budget of the method.
        compute: Device and precision.
        seed: Of everything that is drawn.
        num_classes: Number of classes.
    """

    originals: Callable[[], Split]
    unbiased: Callable[[], Split]
    pools: Mapping[str, Callable[[], CounterfactualPool]]
    composition: Composition
    untrained: Callable[[int], Classifier]
    trained: Callable[[ClassifierFit], Classifier]
    fit: ClassifierFit
    compute: Compute
    seed: int
    num_classes: int

    def images_and_groups(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the originals, uint8 [N, 3, H, W], their classes [N], and their groups [N] by number from 0 on."""
        split = self.originals()
        assert split.groups is not None
        return split.images, split.labels, split.groups.unique(return_inverse=True)[1]


@dataclass(frozen=True)
class Method(ABC):
    """A way to train; a subclass is a frozen dataclass whose fields are its hyperparameters.

    Attributes:
        name: What settings and tables call it.
        title: What figures and findings call it.
        paper: Whose it is.
        uses: What of the material it learns from: only of that do its classifiers depend.
        needs_groups: Whether it must know which training images conflict with the bias.
        version: Raised when it computes something else from the same hyperparameters.
        grid: Hyperparameters that are tried where settings name no others.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    uses: ClassVar[tuple[Source, ...]] = ("originals",)
    needs_groups: ClassVar[bool] = False
    version: ClassVar[int] = 1
    grid: ClassVar[tuple[Mapping[str, float], ...]] = ({},)

    @abstractmethod
    def lesson(self, material: Material) -> Lesson:
        """Return what every step learns from, of as many steps as `budget` has."""

    def budget(self, fit: ClassifierFit) -> ClassifierFit:
        """Return the part of the budget that the training of the lesson has; all, but for methods that train twice."""
        return fit

    def identity(self) -> dict[str, Any]:
        """Return name, version and hyperparameters."""
        return {"name": self.name, "version": self.version, **asdict(self)}

    @classmethod
    def candidates(cls, grid: Sequence[Mapping[str, float]] = ()) -> list[Self]:
        """Return a method for each of some hyperparameters, by default those of its own grid.

        Raises:
            SettingError: If it has no such hyperparameter.
        """
        known = [field.name for field in fields(cls)]
        for unknown in (name for point in grid for name in point if name not in known):
            setting, expected = f"ablation.alternatives.hyperparameters.{cls.name}", ", ".join(known)
            raise SettingError(setting, expected or "no hyperparameter at all", f"'{unknown}'", "Correct the name.")
        return [cls(**point) for point in grid or cls.grid]


def share_of(fit: ClassifierFit, share: float) -> ClassifierFit:
    """Return a budget of a share of the images, one step at least."""
    return fit.model_copy(update={"num_images": max(fit.batch_size, round(share * fit.num_images))})
