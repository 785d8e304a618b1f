"""Settings of the `ablation` stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

from pydantic import Field, FiniteFloat, field_validator, model_validator

from skdcgn_pipeline.parameters.base import EXTENSIBLE, Count, Positive, Settings, Share
from skdcgn_pipeline.parameters.classify import ClassifierFit
from skdcgn_pipeline.parameters.compose import Composition, Transformation
from skdcgn_pipeline.parameters.distill import LossTerm, Student
from skdcgn_pipeline.runtime.errors import check_choice
from skdcgn_pipeline.runtime.extensions import is_extension
from skdcgn_pipeline.transformations import TAKEN, check_transformation
from skdcgn_pipeline.vocabulary import MECHANISMS

StudyName = Literal[
    "transformations", "mechanisms", "counts", "mixing", "losses", "size", "source", "stage", "monolith", "alternatives"
]
STUDIES: tuple[StudyName, ...] = get_args(StudyName)
ValueT = TypeVar("ValueT")
Several = Annotated[tuple[ValueT, ...], Field(min_length=1)]


class TransformationStrengths(Settings):
    """One kind of transformation at several strengths, see `transformations.TRANSFORMATIONS`.

    Attributes:
        kind: Name of the transformation, or `module:function`.
        strengths: One cell each.
    """

    EXTENSIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {"kind": TAKEN}

    kind: str
    strengths: Several[FiniteFloat]


class TransformationGrid(Settings):
    """Study `transformations`: each cell adds one transformation to one mechanism.

    Attributes:
        shape, texture, background: Per mechanism, the kinds and their strengths.
        combined: Transformations of the shape mechanism that are applied one after the other in one cell;
            the strength of the last is the cell's.
        without_patch_shift: Also leave out the patch shift of texture, of background and of both.
    """

    shape: tuple[TransformationStrengths, ...] = ()
    texture: tuple[TransformationStrengths, ...] = ()
    background: tuple[TransformationStrengths, ...] = ()
    combined: tuple[Annotated[tuple[Transformation, ...], Field(min_length=2)], ...] = ()
    without_patch_shift: bool = True

    @model_validator(mode="after")
    def _fit_their_mechanism(self) -> TransformationGrid:
        for mechanism in MECHANISMS:
            for number, row in enumerate(getattr(self, mechanism)):
                for strength in row.strengths:
                    check_transformation(f"{mechanism}.{number}", mechanism, row.kind, strength)
        for number, transformations in enumerate(self.combined):
            for added in transformations:
                check_transformation(f"combined.{number}", "shape", added.kind, added.strength)
        if not (self.shape or self.texture or self.background or self.combined or self.without_patch_shift):
            raise ValueError("the grid is empty: name at least one transformation of one mechanism")
        return self


class CountsGrid(Settings):
    """Study `counts`: training sets of a fixed size, with several counterfactuals of each shape.

    Attributes:
        per_shape: Counterfactuals made of each mask.
        dataset_sizes: Images of the training set; the reference composes without end.
    """

    per_shape: Several[Count] = (1, 5, 10, 20)
    dataset_sizes: Several[Count] = (10_000, 100_000, 1_000_000)

    @model_validator(mode="after")
    def _some_shape(self) -> CountsGrid:
        if max(self.per_shape) > min(self.dataset_sizes):
            raise ValueError(
                "'per_shape' must not exceed the smallest of 'dataset_sizes', "
                f"got {max(self.per_shape)} counterfactuals of each shape in {min(self.dataset_sizes)} images"
            )
        return self


class MixingGrid(Settings):
    """Study `mixing`: biased originals among the training images.

    Attributes:
        originals_shares: Share of the originals in every batch.
    """

    originals_shares: Several[Share] = (0.0, 0.25, 0.5, 0.75)


class LossesGrid(Settings):
    """Study `losses`: students distilled with each loss term removed in turn and alone.

    Attributes:
        terms: Terms that are removed and left alone.
        kl_temperatures: T of the KL term.
        judge_every_steps: As in `Distill`; 1 lets terms of the discriminator stand alone.
        num_steps: Steps of each mechanism, in place of those of `ablation.distill`.
    """

    terms: Several[LossTerm] = ("pixel", "binary_cross_entropy", "feature", "kl", "adversarial")
    kl_temperatures: tuple[Positive, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)
    judge_every_steps: Count = 1
    num_steps: Count = 100


class SizeGrid(Settings):
    """Study `size`: trios of students, each of one architecture.

    Attributes:
        students: The architectures, from small to large.
    """

    students: Several[Student]


class StageGrid(Settings):
    """Study `stage`: a transformation when composing against inside the teacher's own training.

    The teacher is trained on from its weights, so that a small budget is enough.

    Attributes:
        transformations: Of the shape mechanism, one per pair of cells.
        num_images: Images of the training that goes on.
    """

    transformations: Several[Transformation]
    num_images: Count

    @model_validator(mode="after")
    def _fit_shape(self) -> StageGrid:
        for number, added in enumerate(self.transformations):
            check_transformation(f"transformations.{number}", "shape", added.kind, added.strength)
            if added.kind == "binarise":
                raise ValueError("'binarise' has no gradient, so no teacher can be trained through it; leave it out")
        return self


class MonolithGrid(Settings):
    """Study `monolith`: one student of the whole image, without mechanisms.

    Attributes:
        student: Its architecture, about the size of a trio.
    """

    student: Student


class AlternativesGrid(Settings):
    """Study `alternatives`: counterfactuals against other remedies for a bias, where some images conflict with it.

    Attributes:
        methods: Names in `classifiers.methods.registry`; `all` stands for every one.
        conflicting_shares: Shares of the training images whose colours or textures are those of other classes:
            1 - `images.bias_share`, which this study sets itself.
        hyperparameters: Those tried, by method, in place of the method's own grid: `irm: [{penalty: 100}]`.
        num_images, batch_size: Of every training, in place of those of `ablation.fit`; a method that trains twice
            shares the images between both.
    """

    methods: Several[str] = ("all",)
    conflicting_shares: Several[Share] = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1)
    hyperparameters: dict[str, Several[dict[str, FiniteFloat]]] = Field(default={})
    num_images: Count | None = None
    batch_size: Count | None = None

    @field_validator("methods", mode="before")
    @classmethod
    def _one_by_name(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class StudyDistillation(Settings):
    """Budget of the students that cells distil for themselves.

    Attributes:
        num_steps: Steps of each mechanism.
        num_pool_images_per_class: Rows per class of the pools drawn from them.
    """

    num_steps: Count
    num_pool_images_per_class: Count


class Ablation(Settings):
    """The composition study: ten named grids of cells, each of which trains classifiers.

    Attributes:
        study: `all`, one name or several; one may be `module:class`, a study of yours.
        plan: Only say which cells there are, which are done, and how long the others will take.
        max_cells: More cells are refused; raise it to confirm that they are wanted.
        num_seeds: Classifiers per cell.
        source: Whose pools are composed where a study does not say otherwise.
        composition: The reference that transformations are added to.
        transformations, counts, mixing, losses, size, stage, monolith, alternatives: The grids; `mechanisms` and
            `source` have nothing to choose.
        distill: Budget of the students that cells distil for themselves.
        fit: How each classifier, a network as `classify.network` says, is trained.
    """

    EXTENSIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {"study": ()}

    study: Several[Annotated[StudyName, *EXTENSIBLE]] = STUDIES
    plan: bool = False
    max_cells: Count = 250
    num_seeds: Annotated[int, Field(ge=2)] = 3
    source: Literal["teacher", "students"] = "students"
    composition: Composition = Composition()
    transformations: TransformationGrid
    counts: CountsGrid = CountsGrid()
    mixing: MixingGrid = MixingGrid()
    losses: LossesGrid = LossesGrid()
    size: SizeGrid
    stage: StageGrid
    monolith: MonolithGrid
    alternatives: AlternativesGrid = AlternativesGrid()
    distill: StudyDistillation
    fit: ClassifierFit

    def fit_of(self, study: str) -> ClassifierFit:
        """Return how the classifiers of a study are trained."""
        own = self.alternatives.model_dump(include={"num_images", "batch_size"}) if study == "alternatives" else {}
        return self.fit.model_copy(update={name: value for name, value in own.items() if value is not None})

    @field_validator("composition")
    @classmethod
    def _classes_by_number(cls, value: Composition) -> Composition:
        for classes in value.classes.model_dump().values():
            if isinstance(classes, str):
                raise ValueError(f"classes are numbers or ranges here, got the name '{classes}'")
        return value

    @field_validator("study")
    @classmethod
    def _one_of_their_own(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if sum(map(is_extension, value)) > 1:
            raise ValueError(f"expected one study of your own at a time, got {', '.join(value)}")
        return value

    @field_validator("study", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        names = list(STUDIES) if value == "all" else [value] if isinstance(value, str) else value
        for name in names if isinstance(names, list | tuple) else ():
            if not is_extension(name):
                check_choice("study", name, ("all", *STUDIES))
        return names
