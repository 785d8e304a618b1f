"""The composition study's grids: which cells each study has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from skdcgn_pipeline.parameters import (
    Ablation,
    Composition,
    Counterfactual,
    Distill,
    LossWeights,
    Settings,
    Student,
    Transformation,
    Transformations,
)
from skdcgn_pipeline.runtime.errors import SettingError, check_choice
from skdcgn_pipeline.vocabulary import MECHANISMS, STUDIES

REFERENCE = "reference"
OWN = "own"
MONOLITH = "monolith"
BINARY_CROSS_ENTROPY = "binary_cross_entropy"

SourceName = Literal["teacher", "students", "own"]


class Sources(Settings):
    """Whose images each mechanism has: `own` are those of students that the cell distils."""

    shape: SourceName
    texture: SourceName
    background: SourceName

    @classmethod
    def all_of(cls, source: SourceName) -> Sources:
        """Return the same source for every mechanism."""
        return cls(shape=source, texture=source, background=source)

    def __str__(self) -> str:
        by_source: dict[str, list[str]] = {}
        for mechanism in MECHANISMS:
            by_source.setdefault(getattr(self, mechanism), []).append(mechanism)
        if len(by_source) == 1:
            return next(iter(by_source)).replace(OWN, "students of the cell")
        return ", ".join(f"{source} {' + '.join(names)}" for source, names in by_source.items())


class StudentSettings(Settings):
    """How a trio of students is distilled."""

    shape: Distill
    texture: Distill
    background: Distill


class CellData(Settings):
    """What the classifiers of a cell are trained on.

    Attributes:
        sources: Whose mechanisms are composed; None for a monolith.
        composition: How.
        per_shape: Counterfactuals of each mask, where the training set has a fixed size.
        dataset_size: That size; None composes without end.
        originals_share: Share of biased originals in every batch.
        students: How the cell's own students are distilled.
        monolith: How a student of the finished image is distilled instead.
        teacher_transformations: What a teacher is trained on with; None takes the teacher as it is.
    """

    sources: Sources | None
    composition: Composition
    per_shape: int = 1
    dataset_size: int | None = None
    originals_share: float = 0.0
    students: StudentSettings | None = None
    monolith: Distill | None = None
    teacher_transformations: Transformations | None = None


@dataclass(frozen=True)
class Cell:
    """One cell of a study.

    Attributes:
        study: A name in `vocabulary.STUDIES`.
        name: What tables and figures call it; unique in its study.
        reference: The cell of the same study that it is compared with; the reference names itself.
        data: What its classifiers are trained on.
        mechanism, transformation, strength, losses: What was changed, where the study changes it.
    """

    study: str
    name: str
    reference: str
    data: CellData
    mechanism: str = ""
    transformation: str = ""
    strength: float | None = None
    losses: str = ""

    def describe(self) -> dict[str, Any]:
        """Return the columns of the tidy table that say what the cell is."""
        data, flags = self.data, self.data.composition.counterfactual
        free = [mechanism for mechanism in MECHANISMS if getattr(flags, mechanism)]
        distilled = data.students or data.monolith
        return {
            "study": self.study,
            "cell": self.name,
            "reference": self.reference,
            "mechanism": self.mechanism,
            "transformation": self.transformation,
            "strength": self.strength,
            "source": str(data.sources) if data.sources else MONOLITH,
            "counterfactual": "none" if data.monolith or not free else " + ".join(free),
            "stage": ("teacher" if data.teacher_transformations != Transformations() else "compose")
            if data.teacher_transformations is not None
            else "",
            "per_shape": data.per_shape if data.dataset_size else None,
            "dataset_size": data.dataset_size,
            "originals_share": data.originals_share,
            "losses": self.losses,
            "distillation_steps": _steps_of(data) if distilled else None,
        }


def _steps_of(data: CellData) -> int:
    """Return the steps of each mechanism's student, or of the monolith's."""
    return (data.monolith or data.students.shape).num_steps  # type: ignore[union-attr]


Students = Mapping[str, Distill]


def expand_study(study: str, settings: Ablation, students: Students) -> list[Cell]:
    """Return the cells of one study, the reference first.

    Args:
        study: A name in `vocabulary.STUDIES`.
        settings: The grids.
        students: Per mechanism, how students are distilled outside of the studies; the studies that
            distil students of their own start from it, at their own budget.

    Raises:
        SettingError: If the study is unknown.
    """
    cells = EXPANSIONS[check_choice("ablation.study", study, STUDIES)](settings, students)
    assert len({cell.name for cell in cells}) == len(cells)
    return cells


def expand_cells(settings: Ablation, students: Students) -> list[Cell]:
    """Return the cells of all studies that are asked for.

    Raises:
        SettingError: If they are more than `max_cells`.
    """
    cells = [cell for study in settings.study for cell in expand_study(study, settings, students)]
    if len(cells) > settings.max_cells:
        raise SettingError(
            "ablation.max_cells",
            f"at most {settings.max_cells} cells",
            f"{len(cells)} (x {settings.num_seeds} seeds)",
            f"Choose one study (ablation.study), a smaller grid, or confirm with ablation.max_cells={len(cells)}.",
        )
    return cells


def _composed(settings: Ablation, **changes: Any) -> CellData:
    """Return the data of the reference with changes."""
    return CellData(
        **{"sources": Sources.all_of(settings.source), "composition": settings.composition} | changes,
    )


def _with(composition: Composition, mechanism: str, added: tuple[Transformation, ...]) -> Composition:
    """Return a composition with transformations of one mechanism added."""
    own = {m: getattr(composition.transformations, m) for m in MECHANISMS}
    own[mechanism] = (*own[mechanism], *added)
    return composition.model_copy(update={"transformations": Transformations(**own)})


def _transformations(settings: Ablation, students: Students) -> list[Cell]:
    """One transformation of one mechanism at a time, and the combinations that are asked for."""
    study, grid, base = "transformations", settings.transformations, settings.composition
    cells = [Cell(study, REFERENCE, REFERENCE, _composed(settings))]

    def add(mechanism: str, kind: str, strength: float | None, composition: Composition) -> None:
        said = "" if strength is None else f" {strength:g}"
        data = _composed(settings, composition=composition)
        cells.append(Cell(study, f"{mechanism} {kind}{said}", REFERENCE, data, mechanism, kind, strength))

    for mechanism in MECHANISMS:
        for own in getattr(grid, mechanism):
            for strength in own.strengths:
                one = Transformation(kind=own.kind, strength=strength)
                add(mechanism, own.kind, strength, _with(base, mechanism, (one,)))
    for several in grid.combined:
        *first, last = several
        kind = " + ".join([*(f"{one.kind} {one.strength:g}" for one in first), last.kind])
        add("shape", kind, last.strength, _with(base, "shape", several))
    if grid.without_patch_shift:
        for mechanism, shifted in (("texture", "background"), ("background", "texture")):
            add(mechanism, "no patch shift", None, base.model_copy(update={"patch_shift": shifted}))
        add("texture + background", "no patch shift", None, base.model_copy(update={"patch_shift": False}))
    return cells


def _mechanisms(settings: Ablation, students: Students) -> list[Cell]:
    """Each mechanism counterfactual or factual; the reference is all counterfactual."""
    cells: list[Cell] = []
    for flags in product((True, False), repeat=len(MECHANISMS)):
        counterfactual = Counterfactual(**dict(zip(MECHANISMS, flags, strict=True)))
        free = [mechanism for mechanism, flag in zip(MECHANISMS, flags, strict=True) if flag]
        name = f"counterfactual {' + '.join(free)}" if free else "all factual"
        composition = settings.composition.model_copy(update={"counterfactual": counterfactual})
        reference = cells[0].name if cells else name
        cells.append(Cell("mechanisms", name, reference, _composed(settings, composition=composition)))
    return cells


def _counts(settings: Ablation, students: Students) -> list[Cell]:
    """Training sets of a fixed size against composing without end."""
    grid = settings.counts
    cells = [Cell("counts", REFERENCE, REFERENCE, _composed(settings))]
    for size, per_shape in product(grid.dataset_sizes, grid.per_shape):
        data = _composed(settings, dataset_size=size, per_shape=per_shape)
        cells.append(Cell("counts", f"{size} images, {per_shape} of each shape", REFERENCE, data))
    return cells


def _mixing(settings: Ablation, students: Students) -> list[Cell]:
    """Biased originals among the counterfactuals; the reference has none."""
    cells = [Cell("mixing", REFERENCE, REFERENCE, _composed(settings))]
    for share in settings.mixing.originals_shares:
        if share:
            data = _composed(settings, originals_share=share)
            cells.append(Cell("mixing", f"{share:.0%} originals", REFERENCE, data))
    return cells


def _trio(settings: Ablation, students: Students, **changes: Any) -> StudentSettings:
    """Return how a cell's own trio is distilled: as outside of the studies, at their budget."""
    budget = {"num_steps": settings.distill.num_steps} | changes
    return StudentSettings(**{mechanism: students[mechanism].model_copy(update=budget) for mechanism in MECHANISMS})


def _distilled(study: str, name: str, reference: str, settings: Ablation, trio: StudentSettings, losses: str) -> Cell:
    data = _composed(settings, sources=Sources.all_of("own"), students=trio)
    return Cell(study, name, reference, data, losses=losses)


def _losses(settings: Ablation, students: Students) -> list[Cell]:
    """Each loss term removed and alone, and the temperatures of the KL term; the reference has all terms."""
    grid = settings.losses
    base = _trio(settings, students, judge_every_steps=grid.judge_every_steps, num_steps=grid.num_steps)
    reference = "all terms"

    def cell(name: str, change: Callable[[str, Distill], Distill]) -> Cell:
        own = {mechanism: change(mechanism, getattr(base, mechanism)) for mechanism in MECHANISMS}
        return _distilled("losses", name, reference, settings, StudentSettings(**own), name)

    def weighted(change: Callable[[str, dict[str, float]], dict[str, float]]) -> Callable[[str, Distill], Distill]:
        def changed(mechanism: str, distill: Distill) -> Distill:
            weights = LossWeights(**change(mechanism, distill.weights.model_dump()))
            return distill.model_copy(update={"weights": weights})

        return changed

    def without(term: str) -> Callable[[str, Distill], Distill]:
        return weighted(lambda mechanism, weights: weights | {term: 0.0})

    def only(term: str) -> Callable[[str, Distill], Distill]:
        def alone(mechanism: str, weights: dict[str, float]) -> dict[str, float]:
            # Images have no cross-entropy; their pixel term stands in for it.
            kept = "pixel" if term == BINARY_CROSS_ENTROPY and mechanism != "shape" else term
            return {name: float(name == kept) for name in weights}

        return weighted(alone)

    def at(temperature: float) -> Callable[[str, Distill], Distill]:
        return lambda mechanism, distill: distill.model_copy(update={"kl_temperature": temperature})

    others = [one for one in grid.kl_temperatures if one != base.shape.kl_temperature]
    return [
        cell(reference, lambda mechanism, distill: distill),
        *(cell(f"without {term}", without(term)) for term in grid.terms),
        *(cell(f"only {term}", only(term)) for term in grid.terms),
        *(cell(f"T = {temperature:g}", at(temperature)) for temperature in others),
    ]


def _size(settings: Ablation, students: Students) -> list[Cell]:
    """Trios of several sizes; the reference is the teacher."""
    teacher = _composed(settings, sources=Sources.all_of("teacher"))
    cells = [Cell("size", "teacher", "teacher", teacher)]
    for student in settings.size.students:
        trio = _trio(settings, students, student=student)
        cells.append(_distilled("size", f"students {_architecture(student)}", "teacher", settings, trio, ""))
    return cells


def _architecture(student: Student) -> str:
    width = student.width if isinstance(student.width, int) else "-".join(str(number) for number in student.width)
    return f"{student.architecture} {width}"


def _source(settings: Ablation, students: Students) -> list[Cell]:
    """Teacher's and students' mechanisms in all mixtures; the reference is the teacher."""
    cells = []
    names: tuple[SourceName, SourceName] = ("teacher", "students")
    for own in product(names, repeat=len(MECHANISMS)):
        sources = Sources(**dict(zip(MECHANISMS, own, strict=True)))
        cells.append(Cell("source", str(sources), "teacher", _composed(settings, sources=sources)))
    return cells


def _stage(settings: Ablation, students: Students) -> list[Cell]:
    """A transformation when composing, and inside the teacher's training; the reference has none."""
    none, base = Transformations(), settings.composition
    reference = "trained on without transformation"
    sources = Sources.all_of("teacher")
    data = _composed(settings, sources=sources, teacher_transformations=none)
    cells = [Cell("stage", reference, reference, data)]
    for one in settings.stage.transformations:
        said = f"{one.kind} {one.strength:g}"
        composing = _composed(
            settings, sources=sources, teacher_transformations=none, composition=_with(base, "shape", (one,))
        )
        training = _composed(settings, sources=sources, teacher_transformations=Transformations(shape=(one,)))
        for where, data in (("when composing", composing), ("in the teacher's training", training)):
            cells.append(Cell("stage", f"{said} {where}", reference, data, "shape", one.kind, one.strength))
    return cells


def _monolith(settings: Ablation, students: Students) -> list[Cell]:
    """A student of the finished image; the reference is a trio distilled at the same budget."""
    trio = _distilled("monolith", "trio", "trio", settings, _trio(settings, students), "")
    budget = {"num_steps": settings.distill.num_steps, "student": settings.monolith.student}
    whole = students["texture"].model_copy(update=budget)
    data = _composed(settings, sources=None, monolith=whole)
    return [trio, Cell("monolith", MONOLITH, "trio", data)]


EXPANSIONS: dict[str, Callable[[Ablation, Students], list[Cell]]] = {
    "transformations": _transformations,
    "mechanisms": _mechanisms,
    "counts": _counts,
    "mixing": _mixing,
    "losses": _losses,
    "size": _size,
    "source": _source,
    "stage": _stage,
    "monolith": _monolith,
}
