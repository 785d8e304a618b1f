"""What a study is: cells of typed factors, a figure of what they reached, and what may be claimed of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, NamedTuple

from skdcgn_pipeline.parameters import Ablation, Composition, Distill, Settings, Transformation, Transformations
from skdcgn_pipeline.vocabulary import MECHANISMS

if TYPE_CHECKING:  # processes that compute cells draw nothing
    import pandas as pd
    from matplotlib.figure import Figure

REFERENCE = "reference"
OWN: Final = "own"
MONOLITH, ORIGINALS = "monolith", "originals"

SourceName = Literal["teacher", "students", "own"]
LossChange = Literal["", "all terms", "without", "only", "temperature"]
Students = Mapping[str, Distill]  # per mechanism, how students are distilled outside of the studies


class Sources(NamedTuple):
    """Whose images each mechanism has: `own` are those of students that the cell distils."""

    shape: SourceName
    texture: SourceName
    background: SourceName

    @classmethod
    def all_of(cls, source: SourceName) -> Sources:
        """Return the same source for every mechanism."""
        return cls(source, source, source)

    def __str__(self) -> str:
        by_source: dict[str, list[str]] = {}
        for mechanism, source in zip(MECHANISMS, self, strict=True):
            by_source.setdefault(source, []).append(mechanism)
        if len(by_source) == 1:
            return self.shape.replace(OWN, "students of the cell")
        return ", ".join(f"{source} {' + '.join(names)}" for source, names in by_source.items())


class CellData(Settings):
    """What the classifiers of a cell are trained on.

    Attributes:
        sources: Whose mechanisms are composed; None for a student of the finished image.
        composition: How.
        per_shape: Counterfactuals of each mask, where the training set has a fixed size.
        dataset_size: That size; None composes without end.
        originals_share: Share of biased originals in every batch.
        students: How the cell's own students are distilled: one per mechanism, or that of the finished image.
        teacher_transformations: What a teacher is trained on with; None takes the teacher as it is.
        method: A name in `classifiers.methods.registry`, where what follows says how its classifiers are trained.
        hyperparameters: Those that it tries.
        conflicting_share: Share of the training images that are in conflict with the bias.
    """

    sources: Sources | None
    composition: Composition
    per_shape: int = 1
    dataset_size: int | None = None
    originals_share: float = 0.0
    students: tuple[Distill, ...] = ()
    teacher_transformations: Transformations | None = None
    method: str = ""
    hyperparameters: tuple[dict[str, float], ...] = ()
    conflicting_share: float | None = None


def trio(settings: Ablation, students: Students, **changes: Any) -> tuple[Distill, ...]:
    """Return how a cell's own trio is distilled: as outside of the studies, at their budget."""
    budget = {"num_steps": settings.distill.num_steps} | changes
    return tuple(students[mechanism].model_copy(update=budget) for mechanism in MECHANISMS)


def with_added(composition: Composition, mechanism: str, *added: Transformation) -> Composition:
    """Return a composition with transformations of one mechanism added."""
    transformations = composition.transformations
    longer = (*getattr(transformations, mechanism), *added)
    return composition.model_copy(update={"transformations": transformations.model_copy(update={mechanism: longer})})


@dataclass(frozen=True)
class Cell:
    """One cell of a study.

    Attributes:
        study: Name of the study.
        name: What tables and figures call it; unique in its study.
        reference: The cell of the same study that it is compared with, one for all or one for each share of
            conflicting images; the reference names itself.
        data: What its classifiers are trained on.
        mechanism, transformation, strength: What was changed, where the study changes it.
        loss_change: How the terms of the distillation differ, where the study changes them.
    """

    study: str
    name: str
    reference: str
    data: CellData
    mechanism: str = ""
    transformation: str = ""
    strength: float | None = None
    loss_change: LossChange = ""

    @property
    def stage(self) -> str:
        """Where a transformation acts, `compose` or `teacher`; empty where no teacher is trained on."""
        trained_with = self.data.teacher_transformations
        return "" if trained_with is None else "compose" if trained_with == Transformations() else "teacher"

    def describe(self) -> dict[str, Any]:
        """Return the columns of the tidy table that say what the cell is, a factor each."""
        data, origins = self.data, self.data.composition.counterfactual
        sources = data.sources._asdict() if data.sources else {}
        return {
            "study": self.study,
            "cell": self.name,
            "reference": self.reference,
            "mechanism": self.mechanism,
            "transformation": self.transformation,
            "strength": self.strength,
            "source": str(data.sources) if data.sources else MONOLITH if data.students else ORIGINALS,
            **{f"source_{m}": sources.get(m, "") for m in MECHANISMS},
            **{f"counterfactual_{m}": getattr(origins, m) if sources else "" for m in MECHANISMS},
            "stage": self.stage,
            "per_shape": data.per_shape if data.dataset_size else None,
            "dataset_size": data.dataset_size,
            "originals_share": data.originals_share,
            "loss_change": self.loss_change,
            "method": data.method,
            "conflicting_share": data.conflicting_share,
            "distillation_steps": data.students[0].num_steps if data.students else None,
        }


@dataclass(frozen=True)
class Unit:
    """One classifier of one cell: what is computed, kept and repeated as a whole.

    Attributes:
        cell: The cell.
        number: Number of the seed, from 0.
    """

    cell: Cell
    number: int

    @property
    def title(self) -> str:
        """What its training is called."""
        return f"{self.cell.study}, {self.cell.name}, seed {self.number}"


@dataclass(frozen=True)
class UnitResult:
    """What came of a unit.

    Attributes:
        unit: Which.
        result: `accuracy` (rows of split, subset, accuracy, num_images), `confusion` per split, `facts` and, of
            methods, what was `chosen`; empty where it failed.
        error: Why it failed; empty where it did not.
        seconds: How long it took; None where it was done before.
    """

    unit: Unit
    result: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    seconds: float | None = None


class Study(ABC):
    """An experiment of many cells, each compared with a reference; a subclass per file, named in `registry.py`.

    Attributes:
        name: What settings and tables call it.
        title: What pictures and findings call it.
        expectation: What papers expect, told before what came.
        single_label: Whether its training images, or some, have the label of the shape alone.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    expectation: ClassVar[str] = ""
    single_label: ClassVar[bool] = False

    @abstractmethod
    def cells(self, settings: Ablation, students: Students) -> list[Cell]:
        """Return the cells of the grid, the reference first.

        Args:
            settings: The grids.
            students: Where cells that distil students of their own start from, at a budget of their own.
        """

    def cell(
        self, settings: Ablation, name: str, reference: str = REFERENCE, factors: Mapping[str, Any] = {}, **data: Any
    ) -> Cell:
        """Return a cell that changes `data` of what the settings compose; `factors` say what, see `Cell`."""
        changed: dict[str, Any] = {
            "sources": Sources.all_of(settings.source),
            "composition": settings.composition,
        } | data
        return Cell(self.name, name, reference, CellData(**changed), **factors)

    def figure(self, rows: pd.DataFrame) -> Figure:
        """Draw the cells of one split, summarised by `summarise_cells`; by default accuracy with intervals."""
        from skdcgn_pipeline.studies.figures import draw_intervals

        return draw_intervals(rows)

    def claims(self, rows: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
        """Say in sentences what the figures of one split show; by default what came of every cell.

        Args:
            rows: The cells, summarised by `summarise_cells`.
            cells: What that was made of, a row per cell and seed.
        """
        from skdcgn_pipeline.studies.words import outcomes

        return outcomes(rows.to_dict("records"))

    def table(self, summary: pd.DataFrame) -> list[str]:
        """Return a table of the cells as lines of Markdown, by default of all images of every split."""
        from skdcgn_pipeline.studies.words import table_of_cells

        return table_of_cells(summary[summary["subset"] == "all"])
