"""Settings of the `compose` stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from skdcgn_pipeline.parameters.base import Count, Settings
from skdcgn_pipeline.parameters.classes import Classes, choose_classes
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.transformations import TAKEN, check_transformation
from skdcgn_pipeline.vocabulary import MECHANISMS


class Transformation(Settings):
    """One transformation of a mechanism's image, see `transformations.TRANSFORMATIONS`.

    Attributes:
        kind: Name of the transformation, or `module:function`, code of yours: (images, strength, generator, value
            range) -> images of the same shape and range.
        strength: Its meaning and range depend on the kind.
    """

    EXTENSIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {"kind": TAKEN}

    kind: str
    strength: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0


class Transformations(Settings):
    """Transformations of each mechanism, applied in order before composing.

    Attributes:
        shape: Of the mask.
        texture: Of the foreground.
        background: Of the background.
    """

    shape: tuple[Transformation, ...] = ()
    texture: tuple[Transformation, ...] = ()
    background: tuple[Transformation, ...] = ()

    @model_validator(mode="after")
    def _fit_their_mechanism(self) -> Transformations:
        for mechanism in MECHANISMS:
            for transformation in getattr(self, mechanism):
                check_transformation(mechanism, mechanism, transformation.kind, transformation.strength)
        return self

    def of(self, mechanism: str) -> list[tuple[str, float]]:
        """Return (kind, strength) pairs of one mechanism."""
        return [(t.kind, t.strength) for t in getattr(self, mechanism)]


class Counterfactual(Settings):
    """Where each mechanism takes its class from.

    Attributes:
        shape, texture, background: `class` draws one independently (counterfactual), `factual` takes the image's. For
            texture and background, `same` takes the very row of the shape.
    """

    shape: Literal["class", "factual"] = "class"
    texture: Literal["class", "factual", "same"] = "class"
    background: Literal["class", "factual", "same"] = "class"


class MechanismClasses(Settings):
    """The classes that each mechanism draws from, see `Classes`.

    Attributes:
        shape, texture, background: A list of numbers, a range ("0-99", or `first` and `last`), the name of a list
            in `class_lists`, or one number, which fixes the class; null takes all.
    """

    shape: Classes = None
    texture: Classes = None
    background: Classes = None


class Composition(Settings):
    """How counterfactuals are composed from pools.

    Attributes:
        counterfactual: Per mechanism, where its class comes from.
        classes: Per mechanism that draws a class, those that are drawn; null draws all that were sampled.
        transformations: Per mechanism.
        patch_shift: Shift foreground and background circularly, as the published CGN does; `texture`
            or `background` shifts that one alone.
    """

    ADDED_LATER = frozenset({"classes"})

    counterfactual: Counterfactual = Counterfactual()
    transformations: Transformations = Transformations()
    patch_shift: bool | Literal["texture", "background"] = True
    classes: MechanismClasses = MechanismClasses()

    @model_validator(mode="after")
    def _only_counterfactual_ones_choose(self) -> Composition:
        for mechanism in MECHANISMS:
            origin = getattr(self.counterfactual, mechanism)
            if getattr(self.classes, mechanism) is not None and origin != "class":
                raise ValueError(f"classes.{mechanism} belongs to counterfactual.{mechanism} 'class', got '{origin}'")
        return self

    def drawing(self, **origins: str) -> Composition:
        """Return the same with classes from elsewhere, by mechanism; one that draws none any more chooses none."""
        counterfactual = Counterfactual.model_validate(self.counterfactual.model_dump() | origins)
        chosen = {name: None for name in MECHANISMS if getattr(counterfactual, name) != "class"}
        classes = self.classes.model_copy(update=chosen)
        return self.model_copy(update={"counterfactual": counterfactual, "classes": classes})

    def resolved(self, num_classes: int, lists: Mapping[str, Sequence[int]], setting: str) -> Composition:
        """Return the same with class numbers in place of the names of lists; raises like `choose_classes`.

        Args:
            num_classes: Classes of the generator.
            lists: The named lists.
            setting: Name of this setting, for the message.
        """
        chosen = {
            mechanism: choose_classes(
                f"{setting}.classes.{mechanism}", getattr(self.classes, mechanism), num_classes, lists
            )
            for mechanism in MECHANISMS
        }
        return self.model_copy(update={"classes": MechanismClasses(**chosen)})

    @property
    def needs_rows(self) -> tuple[str, ...]:
        """The mechanisms that take the row of the shape."""
        return tuple(mechanism for mechanism in MECHANISMS if getattr(self.counterfactual, mechanism) == "same")

    def shifts(self, mechanism: str) -> bool:
        """Tell whether a mechanism's image is shifted."""
        return mechanism != "shape" and self.patch_shift in (True, mechanism)


class Interpolation(Settings):
    """Pictures of what lies between two classes.

    Attributes:
        first: Class at the beginning.
        last: Class at the end; null takes the generator's last one.
        mechanism: `all`, or the one whose class changes while the others keep `first`.
        num_steps: Pictures from the first class to the last, both among them.
        num_examples: Noise vectors side by side in the animation.
    """

    first: Annotated[int, Field(ge=0)] = 0
    last: Annotated[int, Field(ge=0)] | None = None
    mechanism: Literal["all", "shape", "texture", "background"] = "all"
    num_steps: Annotated[int, Field(ge=2, le=64)] = 10
    num_examples: Annotated[int, Field(gt=0, le=16)] = 6

    @property
    def changing(self) -> tuple[str, ...]:
        """The mechanisms whose class changes."""
        return MECHANISMS if self.mechanism == "all" else (self.mechanism,)

    def ends(self, num_classes: int) -> tuple[int, int]:
        """Return the first and the last class.

        Raises:
            SettingError: If the generator has no such class.
        """
        last = num_classes - 1 if self.last is None else self.last
        for name, value in (("first", self.first), ("last", last)):
            if value >= num_classes:
                setting, remedy = f"compose.interpolation.{name}", "Name two classes that the teacher knows."
                raise SettingError(setting, f"a class from 0 to {num_classes - 1}", value, remedy)
        return self.first, last


class Compose(Settings):
    """Pools and stored counterfactuals.

    Attributes:
        num_pool_images_per_class: Rows per class drawn from the students for their pool.
        num_images: Counterfactuals stored from each of teacher and students.
        rows_per_shard: Rows of one Parquet file.
        composition: How they are composed; also used for training on the fly.
        stage: Where the composition's transformations are applied: `compose`, whenever counterfactuals
            are composed, or `teacher`, inside the teacher's own training (SKDCGN's way; the `teacher`
            pipeline trains such a teacher) and nowhere else.
        interpolation: The pictures between two classes.
    """

    num_pool_images_per_class: Count
    num_images: Count
    rows_per_shard: Count = 5000
    composition: Composition = Composition()
    stage: Literal["compose", "teacher"] = "compose"
    interpolation: Interpolation = Interpolation()

    @model_validator(mode="after")
    def _teacher_can_learn(self) -> Compose:
        kinds = {one.kind for mechanism in MECHANISMS for one in getattr(self.composition.transformations, mechanism)}
        if self.stage == "teacher" and "binarise" in kinds:
            raise ValueError(
                "stage 'teacher' applies transformations inside the teacher's training, where 'binarise' would keep "
                "the gradient from the mask; leave it out, or use stage 'compose'"
            )
        return self

    @property
    def composing(self) -> Composition:
        """How counterfactuals are composed, given the stage."""
        if self.stage == "compose":
            return self.composition
        return self.composition.model_copy(update={"transformations": Transformations()})

    def resolved(self, num_classes: int, lists: Mapping[str, Sequence[int]]) -> Composition:
        """Return `composing` with class numbers in place of the names of lists; raises like `choose_classes`."""
        return self.composing.resolved(num_classes, lists, "compose.composition")

    @property
    def in_teacher_training(self) -> Transformations:
        """What the teacher's own training applies, given the stage."""
        return self.composition.transformations if self.stage == "teacher" else Transformations()
