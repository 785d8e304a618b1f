"""The grids of the composition study: which cells each study has, and what each cell is trained on."""

from __future__ import annotations

from typing import Any

import pytest

from skdcgn_pipeline.parameters import (
    Ablation,
    ClassifierFit,
    Composition,
    Counterfactual,
    Distill,
    LossWeights,
    MechanismClasses,
    Student,
    Transformation,
    Transformations,
)
from skdcgn_pipeline.parameters.ablation import STUDIES as NAMES
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.studies.contract import Cell, CellData, Sources
from skdcgn_pipeline.studies.registry import STUDIES, expand_cells
from skdcgn_pipeline.vocabulary import MECHANISMS

ROTATION = Transformation(kind="rotation", strength=10)
GREY = Transformation(kind="grey", strength=0.5)
REFERENCE = Composition(transformations=Transformations(shape=(ROTATION,)))
SMALL = Student(width=(2, 2, 2), embedding_dim=2)
STUDENTS = {
    "shape": Distill(
        num_steps=700,
        kl_temperature=8.0,
        judge_every_steps=4,
        weights=LossWeights(pixel=0.5, feature=0.05, kl=0.01, adversarial=0.02, binary_cross_entropy=1.0),
    ),
    "texture": Distill(num_steps=300, judge_every_steps=4, weights=LossWeights(pixel=1.0, feature=0.05, kl=0.01)),
    "background": Distill(num_steps=400, judge_every_steps=4, weights=LossWeights(pixel=2.0, feature=0.05)),
}
TEACHER, STUDENT, OWN = (Sources.all_of(name) for name in ("teacher", "students", "own"))


def make(**changes: Any) -> Ablation:
    settings: dict[str, Any] = {
        "num_seeds": 2,
        "composition": REFERENCE,
        "transformations": {
            "shape": [{"kind": "opacity", "strengths": [0.25, 0.75]}, {"kind": "blur", "strengths": [1]}],
            "texture": [{"kind": "grey", "strengths": [0.5]}],
            "combined": [[{"kind": "opacity", "strength": 0.75}, {"kind": "rotation", "strength": 45}]],
        },
        "counts": {"per_shape": [1, 5], "dataset_sizes": [10, 40]},
        "mixing": {"originals_shares": [0, 0.25, 1]},
        "losses": {
            "terms": ["pixel", "binary_cross_entropy", "kl"],
            "kl_temperatures": [1, 8],
            "judge_every_steps": 1,
            "num_steps": 2,
        },
        "size": {"students": [SMALL, {"architecture": "tinygan", "width": 3}]},
        "stage": {"transformations": [{"kind": "opacity", "strength": 0.75}], "num_images": 32},
        "monolith": {"student": {"width": [4, 4, 4]}},
        "distill": {"num_steps": 6, "num_pool_images_per_class": 8},
        "fit": ClassifierFit(num_images=16),
    }
    return Ablation(**settings | changes)


def cells_of(study: str, **changes: Any) -> dict[str, Cell]:
    return {cell.name: cell for cell in STUDIES[study].cells(make(**changes), STUDENTS)}


def trio_of(cell: Cell) -> dict[str, Distill]:
    """Return how the students of a cell are distilled, by mechanism."""
    return dict(zip(MECHANISMS, cell.data.students, strict=True))


def with_shape(*added: Transformation) -> Composition:
    return REFERENCE.model_copy(update={"transformations": Transformations(shape=(ROTATION, *added))})


def changed(cell: Cell) -> tuple[str, str, float | None, str]:
    return cell.mechanism, cell.transformation, cell.strength, cell.loss_change


NOTHING = ("", "", None, "")

# --- each study ----------------------------------------------------------------------------------


def test_transformations_add_one_to_the_reference_at_a_time():
    cells = cells_of("transformations")
    opacity = [Transformation(kind="opacity", strength=strength) for strength in (0.25, 0.75)]
    turned = Transformation(kind="rotation", strength=45)
    grey = REFERENCE.model_copy(update={"transformations": Transformations(shape=(ROTATION,), texture=(GREY,))})
    expected = {
        "reference": (NOTHING, REFERENCE),
        "shape opacity 0.25": (("shape", "opacity", 0.25, ""), with_shape(opacity[0])),
        "shape opacity 0.75": (("shape", "opacity", 0.75, ""), with_shape(opacity[1])),
        "shape blur 1": (("shape", "blur", 1.0, ""), with_shape(Transformation(kind="blur", strength=1))),
        "texture grey 0.5": (("texture", "grey", 0.5, ""), grey),
        "shape opacity 0.75 + rotation 45": (
            ("shape", "opacity 0.75 + rotation", 45.0, ""),
            with_shape(opacity[1], turned),
        ),
        "texture no patch shift": (
            ("texture", "no patch shift", None, ""),
            REFERENCE.model_copy(update={"patch_shift": "background"}),
        ),
        "background no patch shift": (
            ("background", "no patch shift", None, ""),
            REFERENCE.model_copy(update={"patch_shift": "texture"}),
        ),
        "texture + background no patch shift": (
            ("texture + background", "no patch shift", None, ""),
            REFERENCE.model_copy(update={"patch_shift": False}),
        ),
    }
    assert list(cells) == list(expected)
    for name, (columns, composition) in expected.items():
        assert changed(cells[name]) == columns, name
        assert cells[name].data == CellData(sources=STUDENT, composition=composition), name
        assert (cells[name].study, cells[name].reference) == ("transformations", "reference")


def test_the_patch_shift_can_stay_out_of_the_grid():
    grid = {"background": [{"kind": "grey", "strengths": [0.5]}], "without_patch_shift": False}
    assert list(cells_of("transformations", transformations=grid)) == ["reference", "background grey 0.5"]


def test_mechanisms_are_counterfactual_or_factual_in_all_ways():
    cells = cells_of("mechanisms")
    origins = {
        "counterfactual shape + texture + background": ("class", "class", "class"),
        "counterfactual shape + texture": ("class", "class", "factual"),
        "counterfactual shape + background": ("class", "factual", "class"),
        "counterfactual shape": ("class", "factual", "factual"),
        "counterfactual texture + background": ("factual", "class", "class"),
        "counterfactual texture": ("factual", "class", "factual"),
        "counterfactual background": ("factual", "factual", "class"),
        "all factual": ("factual", "factual", "factual"),
        "texture of the shape": ("class", "same", "class"),
        "background of the shape": ("class", "class", "same"),
    }
    assert list(cells) == list(origins)
    for name, own in origins.items():
        data = cells[name].data
        assert tuple(getattr(data.composition.counterfactual, m) for m in MECHANISMS) == own
        assert data.composition.transformations == REFERENCE.transformations
        assert data.sources == STUDENT
        assert cells[name].reference == "counterfactual shape + texture + background"
        assert changed(cells[name]) == NOTHING


def test_mechanisms_that_draw_no_class_choose_none():
    cells = cells_of("mechanisms", composition={"classes": {"shape": [0, 1], "texture": [2]}})
    chosen = {name: cell.data.composition.classes for name, cell in cells.items()}
    assert chosen["all factual"] == MechanismClasses()
    assert chosen["texture of the shape"] == MechanismClasses(shape=(0, 1))
    assert chosen["counterfactual texture"] == MechanismClasses(texture=(2,))


def test_counts_cross_sizes_with_counterfactuals_of_each_shape():
    cells = cells_of("counts")
    expected = {
        "reference": (None, 1),
        "10 images, 1 of each shape": (10, 1),
        "10 images, 5 of each shape": (10, 5),
        "40 images, 1 of each shape": (40, 1),
        "40 images, 5 of each shape": (40, 5),
    }
    assert list(cells) == list(expected)
    for name, (size, per_shape) in expected.items():
        data = CellData(sources=STUDENT, composition=REFERENCE, dataset_size=size, per_shape=per_shape)
        assert cells[name].data == data
        assert cells[name].reference == "reference"


def test_mixing_adds_shares_of_originals_to_the_reference_that_has_none():
    cells = cells_of("mixing")
    shares = {"reference": 0.0, "25% originals": 0.25, "100% originals": 1.0}
    assert {name: cell.data.originals_share for name, cell in cells.items()} == shares
    assert list(cells) == list(shares)
    for name, share in shares.items():
        assert cells[name].data == CellData(sources=STUDENT, composition=REFERENCE, originals_share=share)
        assert cells[name].reference == "reference"


def test_losses_leave_out_each_term_and_leave_each_alone_and_change_the_temperature():
    cells = cells_of("losses")
    assert list(cells) == [
        "all terms",
        "without pixel",
        "without binary_cross_entropy",
        "without kl",
        "only pixel",
        "only binary_cross_entropy",
        "only kl",
        "T = 1",  # 8 is the reference's
    ]
    none = dict.fromkeys(LossWeights().by_term(), 0.0)

    def weights(name: str, mechanism: str) -> dict[str, float]:
        return trio_of(cells[name])[mechanism].weights.by_term()

    for mechanism in MECHANISMS:
        whole = STUDENTS[mechanism].weights.by_term()
        assert weights("all terms", mechanism) == weights("T = 1", mechanism) == whole
        for term in ("pixel", "binary_cross_entropy", "kl"):
            assert weights(f"without {term}", mechanism) == whole | {term: 0.0}
        assert weights("only pixel", mechanism) == none | {"pixel": 1.0}
        assert weights("only kl", mechanism) == none | {"kl": 1.0}
    assert weights("only binary_cross_entropy", "shape") == none | {"binary_cross_entropy": 1.0}
    for mechanism in ("texture", "background"):  # which have no cross-entropy
        assert weights("only binary_cross_entropy", mechanism) == none | {"pixel": 1.0}
    for name, cell in cells.items():
        own = trio_of(cell).values()
        assert {one.kl_temperature for one in own} == {1.0 if name == "T = 1" else 8.0}
        assert {(one.num_steps, one.judge_every_steps) for one in own} == {(2, 1)}
        assert cell.data.model_copy(update={"students": ()}) == CellData(sources=OWN, composition=REFERENCE)
        assert changed(cell) == (
            "",
            "",
            None,
            "temperature" if name == "T = 1" else name.partition(" ")[0] if name != "all terms" else name,
        )
        assert cell.reference == "all terms"


def test_size_distils_trios_of_one_architecture_and_refers_to_the_teacher():
    cells = cells_of("size")
    assert list(cells) == ["teacher", "students compact 2-2-2", "students tinygan 3"]
    assert cells["teacher"].data == CellData(sources=TEACHER, composition=REFERENCE)
    for name, student in zip(list(cells)[1:], make().size.students, strict=True):
        students = trio_of(cells[name])
        for mechanism in MECHANISMS:
            changes = {"num_steps": 6, "student": student}
            assert students[mechanism] == STUDENTS[mechanism].model_copy(update=changes)
        assert cells[name].data == CellData(sources=OWN, composition=REFERENCE, students=(*students.values(),))
        assert cells[name].reference == "teacher"


def test_source_takes_each_mechanism_from_teacher_or_students():
    cells = cells_of("source")
    expected = {
        "teacher": ("teacher", "teacher", "teacher"),
        "teacher shape + texture, students background": ("teacher", "teacher", "students"),
        "teacher shape + background, students texture": ("teacher", "students", "teacher"),
        "teacher shape, students texture + background": ("teacher", "students", "students"),
        "students shape, teacher texture + background": ("students", "teacher", "teacher"),
        "students shape + background, teacher texture": ("students", "teacher", "students"),
        "students shape + texture, teacher background": ("students", "students", "teacher"),
        "students": ("students", "students", "students"),
    }
    assert list(cells) == list(expected)
    for name, own in expected.items():
        sources = Sources(**dict(zip(MECHANISMS, own, strict=True)))
        assert cells[name].data == CellData(sources=sources, composition=REFERENCE)
        assert cells[name].reference == "teacher"


def test_sources_that_share_no_rows_draw_classes():
    composition = REFERENCE.model_copy(update={"counterfactual": Counterfactual(texture="same")})
    for cell in cells_of("source", composition=composition).values():
        assert cell.data.composition == REFERENCE


def test_stage_transforms_when_composing_or_in_the_teachers_training():
    cells = cells_of("stage")
    opacity, none = Transformation(kind="opacity", strength=0.75), Transformations()
    reference = "trained on without transformation"
    assert list(cells) == [reference, "opacity 0.75 when composing", "opacity 0.75 in the teacher's training"]
    own = CellData(sources=TEACHER, composition=REFERENCE, teacher_transformations=none)
    assert cells[reference].data == own
    assert changed(cells[reference]) == NOTHING
    composing = own.model_copy(update={"composition": with_shape(opacity)})
    assert cells["opacity 0.75 when composing"].data == composing
    # Not what the reference composes with: that stays where it is.
    training = own.model_copy(update={"teacher_transformations": Transformations(shape=(opacity,))})
    assert cells["opacity 0.75 in the teacher's training"].data == training
    for name in list(cells)[1:]:
        assert changed(cells[name]) == ("shape", "opacity", 0.75, "")
        assert cells[name].reference == reference


def test_monolith_is_one_student_at_the_budget_of_each_of_the_trio():
    cells = cells_of("monolith")
    assert list(cells) == ["trio", "monolith"]
    trio = trio_of(cells["trio"])
    for mechanism in MECHANISMS:
        assert trio[mechanism] == STUDENTS[mechanism].model_copy(update={"num_steps": 6})
    whole = STUDENTS["texture"].model_copy(update={"num_steps": 6, "student": Student(width=(4, 4, 4))})
    assert cells["monolith"].data == CellData(sources=None, composition=REFERENCE, students=(whole,))
    assert {cell.reference for cell in cells.values()} == {"trio"}


def test_the_source_of_the_reference_is_a_setting():
    for study in ("transformations", "mechanisms", "counts", "mixing"):
        assert {cell.data.sources for cell in cells_of(study, source="teacher").values()} == {TEACHER}


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_has_its_own_names_and_its_reference_comes_first(study):
    cells = STUDIES[study].cells(make(), STUDENTS)
    assert len({cell.name for cell in cells}) == len(cells)
    assert {cell.study for cell in cells} == {study}
    references = list(dict.fromkeys(cell.reference for cell in cells))
    assert references == [cell.name for cell in cells if cell.reference == cell.name]
    assert references[0] == cells[0].name
    assert len(references) == (6 if study == "alternatives" else 1)  # one per share of conflicting images


def test_settings_know_the_studies_that_there_are():
    assert tuple(STUDIES) == NAMES
    assert [study.name for study in STUDIES.values()] == list(STUDIES)
    assert len({study.title for study in STUDIES.values()}) == len(STUDIES)


# --- all of them ---------------------------------------------------------------------------------


def test_cells_come_in_the_order_in_which_studies_are_asked_for():
    assert list(dict.fromkeys(cell.study for cell in expand_cells(make(), STUDENTS))) == list(STUDIES)
    cells = expand_cells(make(study=["source", "counts"]), STUDENTS)
    assert [cell.study for cell in cells] == ["source"] * 8 + ["counts"] * 5
    settings = make(study=["source", "counts"])
    assert cells == [cell for study in settings.study for cell in STUDIES[study].cells(settings, STUDENTS)]


def test_more_cells_than_confirmed_are_refused():
    with pytest.raises(SettingError) as caught:
        expand_cells(make(study="source", max_cells=7, num_seeds=3), STUDENTS)
    assert str(caught.value) == (
        "ablation.max_cells: expected at most 7 cells, got 8 (x 3 seeds). Choose one study (ablation.study), a "
        "smaller grid, or confirm with ablation.max_cells=8."
    )
    assert len(expand_cells(make(study="source", max_cells=8), STUDENTS)) == 8


# --- what tables say of a cell -------------------------------------------------------------------


def described(study: str, name: str) -> dict[str, Any]:
    return cells_of(study)[name].describe()


def test_a_cell_is_described_in_full():
    assert described("transformations", "shape opacity 0.25") == {
        "study": "transformations",
        "cell": "shape opacity 0.25",
        "reference": "reference",
        "mechanism": "shape",
        "transformation": "opacity",
        "strength": 0.25,
        "source": "students",
        "source_shape": "students",
        "source_texture": "students",
        "source_background": "students",
        "counterfactual_shape": "class",
        "counterfactual_texture": "class",
        "counterfactual_background": "class",
        "stage": "",
        "per_shape": None,
        "dataset_size": None,
        "originals_share": 0.0,
        "loss_change": "",
        "method": "",
        "conflicting_share": None,
        "distillation_steps": None,
    }


@pytest.mark.parametrize(
    ("study", "name", "expected"),
    [
        (
            "mechanisms",
            "counterfactual texture",
            {"counterfactual_texture": "class", "counterfactual_shape": "factual"},
        ),
        ("mechanisms", "all factual", {f"counterfactual_{m}": "factual" for m in MECHANISMS}),
        ("mechanisms", "texture of the shape", {"counterfactual_texture": "same", "counterfactual_shape": "class"}),
        ("counts", "40 images, 5 of each shape", {"dataset_size": 40, "per_shape": 5}),
        ("counts", "reference", {"dataset_size": None, "per_shape": None}),
        ("mixing", "25% originals", {"originals_share": 0.25}),
        ("losses", "T = 1", {"loss_change": "temperature", "source": "students of the cell", "distillation_steps": 2}),
        ("size", "teacher", {"source": "teacher", "distillation_steps": None}),
        ("size", "students tinygan 3", {"source": "students of the cell", "distillation_steps": 6}),
        (
            "source",
            "teacher shape + background, students texture",
            {
                "source": "teacher shape + background, students texture",
                "source_shape": "teacher",
                "source_texture": "students",
                "source_background": "teacher",
            },
        ),
        ("stage", "trained on without transformation", {"stage": "compose", "strength": None}),
        ("stage", "opacity 0.75 when composing", {"stage": "compose", "transformation": "opacity"}),
        ("stage", "opacity 0.75 in the teacher's training", {"stage": "teacher", "strength": 0.75}),
        (
            "monolith",
            "monolith",
            {"source": "monolith", "source_shape": "", "counterfactual_shape": "", "distillation_steps": 6},
        ),
        (
            "monolith",
            "trio",
            {"source": "students of the cell", "source_shape": "own", "counterfactual_shape": "class"},
        ),
    ],
)
def test_a_description_tells_what_the_study_changes(study, name, expected):
    told = described(study, name)
    assert {key: told[key] for key in expected} == expected
