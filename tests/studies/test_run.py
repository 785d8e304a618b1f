"""The composition study: units are computed once, side by side or not, and failures stay where they are."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from configuration import merge, read_folder
from skdcgn_pipeline.artifacts.recipe import Run, Store
from skdcgn_pipeline.classifiers.classification import Classification
from skdcgn_pipeline.images.batches import mix_batches
from skdcgn_pipeline.images.stored import StoredImages
from skdcgn_pipeline.parameters import (
    Ablation,
    ClassifierFit,
    Compute,
    Distill,
    EngineSettings,
    LossWeights,
    Prepare,
    Teacher,
    check_parameters,
)
from skdcgn_pipeline.runtime import progress
from skdcgn_pipeline.runtime.engine import Engine, LocalEngine, ProcessEngine, choose_engine
from skdcgn_pipeline.runtime.errors import InterruptedRunError, SettingError
from skdcgn_pipeline.studies import training_data
from skdcgn_pipeline.studies.contract import Cell, Unit, UnitResult
from skdcgn_pipeline.studies.registry import STUDIES, check_possible, expand_cells
from skdcgn_pipeline.studies.run import (
    CELL_COLUMNS,
    describe_plan,
    estimate_seconds,
    plan_units,
    run_units,
    tabulate,
    units_of,
)
from skdcgn_pipeline.studies.training_data import Surroundings, Workplace
from skdcgn_pipeline.teachers.cgn import MnistCGN
from skdcgn_pipeline.vocabulary import MECHANISMS
from tiny import TinyTeacher, build_biased_images, draw_samples

CPU = Compute(device="cpu")
FIT = ClassifierFit(num_images=16, batch_size=8, checkpoint_every_steps=1)
SMALL = {"architecture": "compact", "width": [2, 2, 2], "embedding_dim": 2}
STUDENTS = {
    mechanism: Distill(
        student=SMALL,
        num_steps=100,
        batch_size=4,
        discriminator_width=4,
        weights=LossWeights(pixel=1.0, kl=0.01, binary_cross_entropy=float(mechanism == "shape")),
    )
    for mechanism in MECHANISMS
}


def make(**changes: Any) -> Ablation:
    settings: dict[str, Any] = {
        "num_seeds": 2,
        "transformations": {
            "shape": [{"kind": "opacity", "strengths": [0.25, 0.75]}],
            "texture": [{"kind": "grey", "strengths": [0, 0.5]}],
        },
        "counts": {"per_shape": [1, 3], "dataset_sizes": [6]},
        "mixing": {"originals_shares": [0, 0.5]},
        "losses": {"terms": ["pixel"], "kl_temperatures": [1], "judge_every_steps": 1, "num_steps": 2},
        "size": {"students": [SMALL]},
        "stage": {"transformations": [{"kind": "opacity", "strength": 0.75}], "num_images": 4},
        "monolith": {"student": SMALL},
        "distill": {"num_steps": 2, "num_pool_images_per_class": 2},
        "fit": FIT,
    }
    return Ablation(**settings | changes)


def cell(study: str, name: str, **changes: Any) -> Cell:
    """Return the cell of a study with a name."""
    (found,) = [one for one in STUDIES[study].cells(make(**changes), STUDENTS) if one.name == name]
    return found


@pytest.fixture(scope="module")
def biased_images(tmp_path_factory) -> StoredImages:
    prepare = Prepare(validation_fraction=0.02, feature_network=FIT)
    return build_biased_images(tmp_path_factory.mktemp("images"), "absent", prepare, "double_colored", 0)


@pytest.fixture(scope="module")
def finished_inputs(tmp_path_factory, biased_images) -> dict[str, Path]:
    """Where finished artifacts of everything are that the studies start from."""
    store = tmp_path_factory.mktemp("samples")

    def draw(name: str, purpose: str) -> Path:
        torch.manual_seed(len(name))
        cgn = MnistCGN(width=2).eval()
        return draw_samples(store, cgn, {"name": name}, 4, 20, 0, CPU, purpose).artifact.directory

    return {
        "biased_images": biased_images.artifact.directory,
        "teacher_samples": draw("teacher", "samples"),
        "student_samples": draw("students", "pool"),
        "heldout_samples": draw("teacher", "heldout"),
    }


@pytest.fixture
def surroundings(project, tmp_path, finished_inputs) -> Surroundings:
    raw = read_folder(project / "conf" / "base")
    merge(raw, read_folder(project / "conf" / "test"))
    fit = {"num_images": 100, "batch_size": 2, "discriminator_width": 4}
    changes = {"ablation": make(), "teacher": Teacher(name="digits_cgn", fit=fit)}
    parameters = check_parameters(raw).model_copy(update=changes)
    return Surroundings(Run(Store(tmp_path / "stores"), compute=CPU, assets="absent"), finished_inputs, parameters)


@pytest.fixture
def workplace(surroundings) -> Workplace:
    return Workplace(surroundings)


def ignore(result: UnitResult) -> None:
    """Tell nobody."""


def refuse(*args: object, **kwargs: object) -> None:
    raise AssertionError("computed again")


def made(surroundings: Surroundings, kind: str) -> list[Path]:
    """Return the finished artifacts of one kind."""
    folder = surroundings.run.store.folder(kind)
    return sorted(p for p in folder.glob("*") if p.is_dir() and p.suffix != ".partial")


def times_of(surroundings: Surroundings) -> dict[Path, int]:
    """Return when each file of the store was written."""
    files = surroundings.run.store.root.rglob("*")
    return {path: path.stat().st_mtime_ns for path in files if path.suffix != ".lock"}


def with_ablation(surroundings: Surroundings, **changes: Any) -> Surroundings:
    """Return the same with other grids."""
    return replace(surroundings, parameters=surroundings.parameters.model_copy(update={"ablation": make(**changes)}))


def by(engine: Engine, surroundings: Surroundings) -> Surroundings:
    """Return the same with another engine."""
    return replace(surroundings, run=replace(surroundings.run, engine=engine))


def elsewhere(surroundings: Surroundings, root: Path) -> Surroundings:
    """Return the same with another store."""
    return replace(surroundings, run=replace(surroundings.run, store=Store(root)))


@pytest.fixture
def with_damaged_students(surroundings, tmp_path) -> Surroundings:
    """The same, with samples of the students that cannot be read."""
    samples = surroundings.folders["student_samples"]
    damaged = tmp_path / "damaged" / samples.name
    shutil.copytree(samples, damaged)
    for shard in damaged.glob("*.parquet"):
        shard.write_bytes(shard.read_bytes()[:100])
    return replace(surroundings, folders={**surroundings.folders, "student_samples": damaged})


# --- what a unit depends on ----------------------------------------------------------------------


def paths_of(workplace: Workplace, **changes: Any) -> dict[tuple[str, str, int], Path]:
    units = units_of(expand_cells(make(**changes), STUDENTS), 2)
    return {(unit.cell.study, unit.cell.name, unit.number): workplace.path_of(unit) for unit in units}


def test_a_changed_strength_changes_its_own_cell_alone(workplace):
    before = paths_of(workplace)
    grid = {
        "shape": [{"kind": "opacity", "strengths": [0.25, 0.8]}],
        "texture": [{"kind": "grey", "strengths": [0, 0.5]}],
    }
    after = paths_of(workplace, transformations=grid)
    own = {("transformations", "shape opacity 0.75", n) for n in (0, 1)}
    new = {("transformations", "shape opacity 0.8", n) for n in (0, 1)}
    assert before.keys() - after.keys() == own
    assert after.keys() - before.keys() == new
    assert {key: after[key] for key in before.keys() & after.keys()} == {
        key: path for key, path in before.items() if key not in own
    }
    assert not {after[key] for key in new} & set(before.values())


def test_studies_share_what_is_the_same(workplace):
    paths = paths_of(workplace)
    shared = [
        [
            ("transformations", "reference"),
            ("mechanisms", "counterfactual shape + texture + background"),
            ("counts", "reference"),
            ("mixing", "reference"),
            ("source", "students"),
        ],
        [("size", "teacher"), ("source", "teacher")],
        [("losses", "all terms"), ("size", "students compact 2-2-2"), ("monolith", "trio")],
    ]
    for number in (0, 1):
        for same in shared:
            assert len({paths[study, name, number] for study, name in same}) == 1
    # All others differ, and so do the seeds.
    assert len(set(paths.values())) == len(paths) - 2 * sum(len(same) - 1 for same in shared)


@pytest.mark.parametrize(
    "change",
    [
        {"run": Run(Store(Path()), 1, CPU, "absent")},
        {"run": Run(Store(Path()), 0, Compute(device="cpu", precision="bf16"), "absent")},
    ],
)
def test_a_unit_depends_on_the_run(surroundings, change):
    unit = Unit(cell("transformations", "reference"), 0)
    assert Workplace(replace(surroundings, **change)).path_of(unit).name != Workplace(surroundings).path_of(unit).name


def test_a_unit_depends_on_how_its_classifier_is_trained(surroundings):
    unit = Unit(cell("transformations", "reference"), 0)
    longer = with_ablation(surroundings, fit=FIT.model_copy(update={"num_images": 24}))
    assert Workplace(longer).path_of(unit).name != Workplace(surroundings).path_of(unit).name


def test_a_unit_does_not_depend_on_its_checkpoints(surroundings):
    unit = Unit(cell("monolith", "trio"), 0)
    rarely = with_ablation(surroundings, fit=FIT.model_copy(update={"checkpoint_every_steps": 500}))
    assert Workplace(rarely).path_of(unit) == Workplace(surroundings).path_of(unit)


def test_nothing_is_made_to_know_a_path(surroundings, workplace):
    for unit in units_of(expand_cells(make(), STUDENTS), 1):
        assert not workplace.is_done(unit)
    assert not surroundings.run.store.root.exists()


# --- what classifiers are trained on -------------------------------------------------------------


def test_a_fixed_training_set_has_as_many_images_as_it_says(workplace):
    training_set, _ = workplace.training_set(Unit(cell("counts", "6 images, 3 of each shape"), 0))
    images, labels = training_set.source(3)(0, 60)
    assert len({image.numpy().tobytes() for image in images}) == 6
    assert len(labels.unique()) <= 2  # two masks, three counterfactuals of each
    endless, _ = workplace.training_set(Unit(cell("counts", "reference"), 0))
    assert len({image.numpy().tobytes() for image in endless.source(3)(0, 60)[0]}) == 60


def test_originals_are_mixed_into_every_batch(workplace, biased_images):
    training_set, _ = workplace.training_set(Unit(cell("mixing", "50% originals"), 0))
    split = biased_images.split("train")
    known = {image.numpy().tobytes() for image in split.images}
    for step in (0, 1):
        images, labels = training_set.source(0)(step, 8)
        as_bytes = ((images + 1) * 127.5).round().to(torch.uint8)
        assert sum(image.numpy().tobytes() in known for image in as_bytes) == 4
        assert labels.shape == (8,)


@pytest.mark.parametrize(
    ("share", "batch_size", "num_second"),
    [(0.25, 8, 2), (0.25, 10, 2), (0.75, 10, 8), (0.01, 8, 0), (0.99, 8, 8), (1.0, 5, 5), (0.0, 5, 0)],
)
def test_a_share_is_rounded_to_whole_images(share, batch_size, num_second):
    calls = []

    def constant(value: int):
        def draw(step: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
            calls.append((value, step, size))
            return torch.full((size, 3, 2, 2), float(value)), torch.full((size,), value)

        return draw

    images, labels = mix_batches(constant(1), constant(2), share)(7, batch_size)
    assert images.shape == (batch_size, 3, 2, 2)
    assert labels.tolist() == [1] * (batch_size - num_second) + [2] * num_second
    assert images[:, 0, 0, 0].tolist() == labels.tolist()
    expected = [(1, 7, batch_size - num_second), (2, 7, num_second)]
    assert calls == [call for call in expected if call[2]], "what has no share is not drawn"


def test_examples_of_cells_show_the_same_draws(surroundings, workplace):
    def examples(study: str, name: str) -> torch.Tensor:
        return workplace.draw_examples(Unit(cell(study, name), 0), 5)

    reference = examples("transformations", "reference")
    assert reference.shape == (5, 3, 32, 32)
    assert reference.min() >= -1
    assert reference.max() <= 1
    assert torch.equal(reference, examples("transformations", "texture grey 0"))
    assert not torch.equal(reference, examples("transformations", "texture grey 0.5"))
    assert made(surroundings, "classifier") == []


# --- computing ------------------------------------------------------------------------------------


def test_finished_units_are_not_computed_again(surroundings, monkeypatch):
    units = units_of(STUDIES["mixing"].cells(make(), STUDENTS), 2)
    told: list[UnitResult] = []
    first = run_units(units, surroundings, told.append)
    assert [result.unit for result in first] == [result.unit for result in told] == units
    assert all(result.seconds is not None and not result.error for result in first)
    before = times_of(surroundings)

    monkeypatch.setattr(Classification, "train", refuse)
    monkeypatch.setattr(training_data, "measure_splits", refuse)
    told.clear()
    second = run_units(units, surroundings, told.append)

    assert [result.result for result in second] == [result.result for result in first]
    assert [result.seconds for result in second] == [None] * 4
    assert [result.unit for result in told] == units
    after = times_of(surroundings)
    assert after == before


def test_a_result_has_accuracy_and_confusion_of_every_reported_split(workplace, biased_images):
    result = workplace.run(Unit(cell("transformations", "reference"), 0))
    assert {row["split"] for row in result["accuracy"]} == {"validation", "test"} == set(result["confusion"])
    for row in result["accuracy"]:
        assert row["num_images"] > 0
        if row["subset"] == "all":
            confusion = torch.tensor(result["confusion"][row["split"]])
            assert confusion.shape == (10, 10)
            assert int(confusion.sum()) == row["num_images"]
            assert confusion.trace().item() / row["num_images"] == pytest.approx(row["accuracy"])
            labels = biased_images.split(row["split"]).labels
            assert confusion.sum(1).tolist() == torch.bincount(labels, minlength=10).tolist()
    assert result["facts"] == {}


def test_a_unit_that_fails_leaves_the_others_alone(with_damaged_students, surroundings, monkeypatch, caplog):
    names = ["teacher", "students", "teacher shape, students texture + background"]
    units = [*(Unit(cell("source", name), 0) for name in names), Unit(cell("source", "teacher"), 1)]
    told: list[UnitResult] = []

    results = run_units(units, with_damaged_students, told.append, "study source")

    assert [bool(result.error) for result in results] == [False, True, True, False]
    assert [result.unit for result in told] == units
    for result in results[1:3]:
        assert result.error.startswith("DamagedFileError: ")
        assert ".parquet" in result.error
        assert result.result == {}
    assert "study source, students, seed 0 failed: DamagedFileError" in caplog.text
    workplace = Workplace(surroundings)
    assert [workplace.is_done(unit) for unit in units] == [True, False, False, True]

    # With the samples mended, only what failed is computed.
    computed: list[str] = []
    real = Classification.train

    def train(*args: Any) -> Any:
        computed.append(args[-1])
        return real(*args)

    monkeypatch.setattr(Classification, "train", train)
    mended = run_units(units, surroundings, ignore)
    assert computed == [f"source, {name}, seed 0" for name in names[1:]]
    assert not any(result.error for result in mended)
    assert mended[0].result == results[0].result


def test_an_interrupted_study_keeps_what_is_done_and_goes_on(surroundings, tmp_path):
    units = units_of(STUDIES["mixing"].cells(make(), STUDENTS), 2)
    whole = run_units(units, elsewhere(surroundings, tmp_path / "whole"), ignore)

    def stop(result: UnitResult) -> None:
        progress.request_stop()

    with pytest.raises(InterruptedRunError, match="study mixing: stopped at 1 of 4 classifiers, everything so far is"):
        run_units(units, surroundings, stop, "study mixing")
    assert len(made(surroundings, "cell")) == 1
    # A request that comes in the middle of a training stops it at its next step.
    with pytest.raises(InterruptedRunError, match="mixing, reference, seed 1: stopped at 1 of 2 steps"):
        run_units(units[1:], surroundings, ignore)
    assert len(made(surroundings, "cell")) == 1
    assert list(surroundings.run.store.root.glob("classifier/*.partial/scratch/checkpoint.pt"))

    progress.clear_stop()
    results = run_units(units, surroundings, ignore)
    assert [result.seconds is None for result in results] == [True, False, False, False]
    assert [result.result for result in results] == [result.result for result in whole]


def test_a_stop_after_the_last_unit_is_no_interruption(surroundings):
    units = units_of([cell("mixing", "reference")], 1)
    results = run_units(units, surroundings, lambda result: progress.request_stop())
    assert len(results) == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_no_units_give_no_results(surroundings, workers):
    assert run_units([], by(ProcessEngine(workers), surroundings), ignore) == []


def test_threads_and_log_levels_are_as_before(surroundings):
    torch.set_num_threads(2)
    run_units(units_of([cell("mixing", "reference")], 1), surroundings, ignore)
    assert torch.get_num_threads() == 2


@pytest.mark.slow
def test_units_side_by_side_give_what_they_give_one_after_the_other(with_damaged_students, tmp_path):
    """Two processes: the same bits, the same failure, no process left behind; a stop keeps what is done."""
    names = ["teacher", "students", "teacher shape + texture, students background"]
    units = [Unit(cell("source", name), number) for name in names for number in (0, 1)]
    alone = elsewhere(with_damaged_students, tmp_path / "alone")
    expected = run_units(units, alone, ignore)
    told: list[UnitResult] = []

    def stop(result: UnitResult) -> None:
        told.append(result)
        progress.request_stop()

    with pytest.raises(InterruptedRunError, match=r"stopped.* everything so far is saved"):
        run_units(units, by(ProcessEngine(2), with_damaged_students), stop)
    assert 0 < len(told) < len(units)
    assert multiprocessing.active_children() == []
    progress.clear_stop()

    done = {result.unit for result in told if not result.error}
    told.clear()
    results = run_units(units, by(ProcessEngine(2), with_damaged_students), told.append)

    assert multiprocessing.active_children() == []
    assert [result.unit for result in results] == units
    assert sorted(units.index(result.unit) for result in told) == list(range(len(units)))
    assert {result.unit for result in results if result.seconds is None and not result.error} >= done
    assert [result.result for result in results] == [result.result for result in expected]
    assert [bool(result.error) for result in results] == [False, False, True, True, True, True]
    for mine, theirs in zip(results, expected, strict=True):
        # The damage is the same; which file is read first is too.
        assert mine.error == theirs.error
    for path in made(alone, "classifier"):
        own = with_damaged_students.run.store.folder("classifier") / path.name / "classifier.safetensors"
        assert own.read_bytes() == (path / "classifier.safetensors").read_bytes()


def test_one_worker_works_here_and_several_in_processes():
    assert choose_engine(EngineSettings(name="local", workers=3)) == LocalEngine()
    assert choose_engine(EngineSettings(name="processes", workers=1)) == LocalEngine()
    assert choose_engine(EngineSettings(name="processes", workers=3)) == ProcessEngine(3)


# --- generators that cells make for themselves ----------------------------------------------------


def test_own_students_are_distilled_once_for_each_seed_and_measured(surroundings, workplace, monkeypatch):
    trio = cell("monolith", "trio")
    results = [workplace.run(Unit(trio, number)) for number in (0, 1)]
    assert len(made(surroundings, "student")) == 2 * 4  # three and the three together
    for result in results:
        facts = result["facts"]
        assert set(facts) == {"num_parameters", "mask_iou", "l1_foreground", "l1_background"}
        assert facts["num_parameters"] > 0
        assert 0 <= facts["mask_iou"] <= 1
        assert 0 < facts["l1_foreground"] < 2
    assert results[0]["facts"]["mask_iou"] != results[1]["facts"]["mask_iou"], "each seed has students of its own"
    # The study `size` has the same trio among its cells.
    monkeypatch.setattr(Classification, "train", refuse)
    same = workplace.run(Unit(cell("size", "students compact 2-2-2"), 0))
    assert same == results[0]


def test_a_monolith_is_one_student(surroundings, workplace):
    result = workplace.run(Unit(cell("monolith", "monolith"), 0))
    assert set(result["facts"]) == {"num_parameters"}
    (student,) = made(surroundings, "student")
    assert json.loads((student / "manifest.json").read_text())["inputs"]["mechanism"] == "composite"
    examples = workplace.draw_examples(Unit(cell("monolith", "monolith"), 0), 3)
    assert examples.shape == (3, 3, 32, 32)


def test_the_parameters_are_those_of_the_whole_generator(workplace):
    def facts_of(name: str) -> dict[str, Any]:
        _, facts = workplace.training_set(Unit(cell("source", name), 0))
        return facts()

    assert facts_of("teacher") == {"num_parameters": sum(p.numel() for p in MnistCGN().parameters())}
    for name in ("teacher shape, students texture + background", "students shape, teacher texture + background"):
        assert facts_of(name) == {}, "a mixture has no number of parameters"


@pytest.mark.slow
def test_the_teacher_is_trained_on_with_and_without_a_transformation(surroundings, workplace):
    cells = STUDIES["stage"].cells(make(), STUDENTS)
    results = [workplace.run(Unit(one, 0)) for one in cells]
    assert all(result["accuracy"] for result in results)
    # The reference and the cell that transforms when composing share their teacher.
    teachers = [json.loads((path / "manifest.json").read_text())["inputs"] for path in made(surroundings, "teacher")]
    assert sorted("opacity" in json.dumps(one) for one in teachers) == [False, True]
    assert len({workplace.path_of(Unit(one, 0)) for one in cells}) == 3


# --- plans ----------------------------------------------------------------------------------------


def test_a_plan_counts_what_is_done_and_estimates_the_rest(surroundings):
    units = units_of(expand_cells(make(study=["mixing", "size"]), STUDENTS), 2)
    fresh = plan_units(units, surroundings)
    assert fresh[["study", "cell", "seeds", "done"]].to_dict("split")["data"] == [
        ["mixing", "reference", 2, 0],
        ["mixing", "50% originals", 2, 0],
        ["size", "teacher", 2, 0],
        ["size", "students compact 2-2-2", 2, 0],
    ]
    assert (fresh["seconds"] > 0).all()
    assert fresh["seconds"].iloc[3] > fresh["seconds"].iloc[2], "students are distilled first"
    assert not surroundings.run.store.root.exists(), "a plan makes nothing"

    run_units(units[:3], surroundings, ignore)
    plan = plan_units(units, surroundings)

    assert plan["done"].tolist() == [2, 1, 0, 0]
    _, half, *whole = fresh["seconds"]
    assert plan["left"].tolist() == pytest.approx([0, half / 2, *whole])
    assert plan["seconds"].equals(fresh["seconds"])
    longer = with_ablation(surroundings, fit=FIT.model_copy(update={"num_images": 2_500_000}))
    assert estimate_seconds(units[0], longer) > 99


@pytest.mark.parametrize("workers", [1, 2])
def test_a_plan_is_told_by_study_and_by_cell(surroundings, workers):
    units = units_of(expand_cells(make(study=["mixing", "size"]), STUDENTS), 2)
    plan = plan_units(units, surroundings)
    plan["left"], plan["done"] = [0.0, 600.0, 0.0, 1800.0], [2, 1, 2, 0]
    *told, whole = describe_plan(plan, by(ProcessEngine(workers), surroundings), cells=True).splitlines()
    assert [line.split()[-3:] for line in told[1:]] == [
        ["2", "2", "0.0"], ["2", "1", "600.0"], ["2", "2", "0.0"], ["2", "0", "1800.0"],
    ]  # fmt: skip
    assert "students compact 2-2-2" in told[-1]
    minutes = 40 // workers
    assert whole == f"In all, 4 cells: 5 of 8 classifiers done, about {minutes} min with {workers} workers"
    brief = describe_plan(plan, by(ProcessEngine(workers), surroundings), cells=False).splitlines()
    assert [line.split() for line in brief[1:-1]] == [["mixing", "4", "3", "600.0"], ["size", "4", "2", "1800.0"]]
    assert brief[-1] == whole


def test_a_plan_can_be_made_before_anything_is_there(surroundings):
    folders = {name: folder for name, folder in surroundings.folders.items() if name != "student_samples"}
    missing = replace(surroundings, folders=folders)
    plan = plan_units(units_of(STUDIES["mixing"].cells(make(), STUDENTS), 2), missing)
    assert plan["done"].tolist() == [0, 0]
    assert describe_plan(plan, missing, cells=False).endswith(
        "Teacher samples and students are not there yet; they come first and are not counted."
    )


# --- tables ---------------------------------------------------------------------------------------


def test_results_become_a_row_per_split_and_subset_and_failures_one_row():
    rows = [
        {"split": "validation", "subset": "all", "accuracy": 0.5, "num_images": 4},
        {"split": "test", "subset": "all", "accuracy": 0.25, "num_images": 4},
        {"split": "test", "subset": "without collisions", "accuracy": 0.5, "num_images": 2},
    ]
    confusion = {"validation": [[2, 0], [2, 0]], "test": [[1, 1], [2, 0]]}
    facts = {"num_parameters": 12, "mask_iou": 0.75}
    good = UnitResult(
        Unit(cell("losses", "without pixel"), 1),
        {"accuracy": rows, "confusion": confusion, "facts": facts},
        seconds=1.0,
    )
    bad = UnitResult(Unit(cell("transformations", "shape opacity 0.25"), 0), error="ValueError: no")

    table = tabulate([good, bad], FIT)

    assert list(table.columns) == CELL_COLUMNS
    assert table["study"].tolist() == ["losses"] * 3 + ["transformations"]
    assert table["accuracy"].tolist()[:3] == [0.5, 0.25, 0.5]
    assert table["seed"].tolist() == [1, 1, 1, 0]
    assert [json.loads(one) for one in table["confusion"][:3]] == [confusion[row["split"]] for row in rows]
    assert table["error"].tolist() == ["", "", "", "ValueError: no"]
    assert (table["num_parameters"][:3] == 12).all()
    assert (table["mask_iou"][:3] == 0.75).all()
    assert (table["distillation_steps"][:3] == 2).all()
    assert (table["num_training_images"] == 16).all()
    failed = table.iloc[3]
    assert (failed["mechanism"], failed["transformation"], failed["strength"]) == ("shape", "opacity", 0.25)
    assert failed[["accuracy", "num_images", "num_parameters", "confusion", "split", "subset"]].isna().all()


def test_no_results_become_an_empty_table_of_the_same_types():
    table = tabulate([], FIT)
    assert list(table.columns) == CELL_COLUMNS
    assert len(table) == 0
    assert table["accuracy"].dtype == float


# --- what cannot be done --------------------------------------------------------------------------


def cells_but(*studies: str) -> list[Cell]:
    return expand_cells(make(study=[study for study in STUDIES if study not in studies]), STUDENTS)


@pytest.mark.parametrize("teacher", [TinyTeacher, lambda: MnistCGN(width=2)])
def test_every_teacher_can_serve_the_studies_that_do_not_train_it(teacher: Callable[[], Any]):
    assert check_possible(cells_but("stage"), teacher()) is None


def test_a_teacher_that_cannot_be_trained_on_is_refused():
    with pytest.raises(SettingError) as caught:
        check_possible(expand_cells(make(), STUDENTS), TinyTeacher())
    assert str(caught.value).startswith("ablation.study: expected studies that the teacher can serve, got 'stage'")
    assert "TinyTeacher" in str(caught.value)
    assert "Leave out 'stage'" in str(caught.value)
    assert check_possible(expand_cells(make(), STUDENTS), MnistCGN(width=2)) is None
