"""The study of alternatives: its cells, how hyperparameters are chosen, what is shared, what is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from configuration import merge, read_folder
from skdcgn_pipeline.artifacts.recipe import Run, Store
from skdcgn_pipeline.classifiers.methods.registry import METHODS
from skdcgn_pipeline.classifiers.training import DivergedError
from skdcgn_pipeline.metrics.statistics import summarise_cells
from skdcgn_pipeline.parameters import Ablation, ClassifierFit, Compute, Prepare, check_parameters
from skdcgn_pipeline.runtime import progress
from skdcgn_pipeline.runtime.errors import InterruptedRunError, SettingError
from skdcgn_pipeline.runtime.recording import listening
from skdcgn_pipeline.studies import method_units
from skdcgn_pipeline.studies.contract import Cell, Sources, Unit, UnitResult
from skdcgn_pipeline.studies.costs import measure_costs
from skdcgn_pipeline.studies.method_units import worst_and_mean
from skdcgn_pipeline.studies.registry import STUDIES, check_possible
from skdcgn_pipeline.studies.report import findings_as_markdown, write_findings
from skdcgn_pipeline.studies.run import estimate_seconds, run_units, tabulate, units_of
from skdcgn_pipeline.studies.training_data import Surroundings, Workplace
from skdcgn_pipeline.teachers.cgn import MnistCGN
from tiny import build_biased_images, draw_samples

CPU = Compute(device="cpu")
SHARES = (0.0, 0.2)
FIT = {"num_images": 64, "batch_size": 16, "checkpoint_every_steps": 1}


@pytest.fixture(scope="module")
def surroundings(project, tmp_path_factory) -> Surroundings:
    folder = tmp_path_factory.mktemp("alternatives")
    raw = read_folder(project / "conf" / "base")
    merge(raw, read_folder(project / "conf" / "test"))
    raw["ablation"] |= {"fit": FIT, "alternatives": {"methods": "all", "conflicting_shares": SHARES}}
    parameters = check_parameters(raw)
    prepare = Prepare(**raw["prepare"])
    images = build_biased_images(folder / "images", "absent", prepare, "double_colored", 0)
    folders = {"biased_images": images.artifact.directory}
    for name, purpose in (("teacher", "samples"), ("student", "pool"), ("heldout", "heldout")):
        torch.manual_seed(len(name))
        of_recipe = (MnistCGN(width=2).eval(), {"name": name}, 4, 20, 0, CPU, purpose)
        folders[f"{name}_samples"] = draw_samples(folder, *of_recipe).artifact.directory
    return Surroundings(Run(Store(folder / "stores"), compute=CPU, assets="absent"), folders, parameters)


@pytest.fixture(scope="module")
def workplace(surroundings) -> Workplace:
    return Workplace(surroundings)


def cells_of(surroundings: Surroundings, **changes: Any) -> dict[tuple[str, float], Cell]:
    """Return cells by method and share."""
    ablation = surroundings.ablation
    grid = ablation.alternatives.model_copy(update=changes)
    settings: Ablation = ablation.model_copy(update={"alternatives": grid})
    cells = STUDIES["alternatives"].cells(settings, surroundings.parameters.students)
    return {(cell.data.method, cell.data.conflicting_share): cell for cell in cells}


def ignore(result: UnitResult) -> None:
    """Tell nobody."""


def classifiers_in(surroundings: Surroundings) -> set[Path]:
    return {path for path in surroundings.run.store.folder("classifier").glob("*") if path.is_dir()}


# --- cells ---------------------------------------------------------------------------------------


def test_every_share_has_every_method_and_a_reference_of_its_own(surroundings):
    cells, others = cells_of(surroundings), [name for name in METHODS if name != "students"]
    assert [*cells] == [(name, share) for share in SHARES for name in ("students", *others)]
    for (name, share), cell in cells.items():
        assert cell.reference == cells["students", share].name
        assert cell.name.endswith(f", {100 * share:g} % conflicting")
        assert cell.name.startswith(METHODS[name].title + ("*" if METHODS[name].needs_groups else ""))
        assert cell.data.hyperparameters == tuple(METHODS[name].grid)
    assert cells["teacher", 0.0].data.sources == Sources.all_of("teacher")
    assert cells["mixed", 0.0].describe()["source"] == "students"
    assert cells["erm", 0.2].describe()["source"] == "originals"
    assert cells["erm", 0.2].describe()["conflicting_share"] == 0.2


def test_methods_and_hyperparameters_are_settings(surroundings):
    tried = {"irm": ({"penalty": 5.0}, {"penalty": 7.0, "warm_up": 0.5})}
    cells = cells_of(surroundings, methods=("irm", "erm"), hyperparameters=tried, conflicting_shares=(0.5,))
    assert [*cells] == [("students", 0.5), ("erm", 0.5), ("irm", 0.5)]
    assert cells["irm", 0.5].data.hyperparameters == tried["irm"]
    with pytest.raises(SettingError, match=r"ablation\.alternatives\.methods: .* got 'dro'"):
        cells_of(surroundings, methods=("dro",))
    with pytest.raises(SettingError, match=r"ablation\.alternatives\.hyperparameters: .* got 'dro'"):
        cells_of(surroundings, hyperparameters={"dro": ({},)})
    with pytest.raises(SettingError, match=r"hyperparameters\.irm: expected penalty, warm_up, got 'lambda'"):
        cells_of(surroundings, hyperparameters={"irm": ({"lambda": 1.0},)})


def test_the_budget_is_the_studys_own_where_it_has_one(surroundings):
    ablation = surroundings.ablation
    assert ablation.fit_of("alternatives") == ablation.fit_of("counts") == ablation.fit
    grid = ablation.alternatives.model_copy(update={"num_images": 320, "batch_size": 32})
    own = ablation.model_copy(update={"alternatives": grid})
    assert own.fit_of("alternatives") == ablation.fit.model_copy(update={"num_images": 320, "batch_size": 32})
    assert own.fit_of("counts") == ablation.fit
    cells = cells_of(surroundings)
    seconds = {name: estimate_seconds(Unit(cells[name, 0.0], 0), surroundings) for name in ("erm", "jtt")}
    assert seconds["jtt"] == pytest.approx(3 * seconds["erm"])


def test_images_whose_bias_nobody_knows_are_refused(surroundings):
    cells = [*cells_of(surroundings).values()]
    check_possible(cells, MnistCGN(width=2))
    with pytest.raises(SettingError, match=r"ablation\.study: expected images of digits, mnist, fashion_mnist"):
        check_possible(cells, MnistCGN(width=2), coloured=False)
    with pytest.raises(SettingError, match="a class for every mechanism"):
        check_possible(cells, MnistCGN(width=2), by_mechanism=True)


# --- images --------------------------------------------------------------------------------------


def test_held_out_images_are_of_the_training_side_and_as_biased(workplace):
    units, share = workplace.methods, SHARES[1]
    train, held_out, unbiased = units.originals(share), units.held_out(share), units.unbiased(0.0)
    for split in (train, held_out):
        conflicting = split.attributes["foreground_index"] != split.labels
        assert conflicting.float().mean() == pytest.approx(share, abs=0.01)
        assert torch.equal(conflicting, split.groups % 2 == 1)
        assert torch.equal(conflicting, split.attributes["background_index"] != split.labels)
    assert torch.equal(unbiased.labels, train.labels)
    assert (unbiased.attributes["foreground_index"] == unbiased.labels).float().mean() < 0.2
    # The shapes of `validation`, which `train` has not; none of them is of a test split.
    assert torch.equal(held_out.labels, workplace.images.split("validation").labels)
    assert (units.originals(0.0).groups % 2 == 0).all()
    assert torch.equal(units.originals(0.0).images, workplace.images.split("train").images)


def test_what_sees_no_original_does_not_depend_on_the_share(workplace):
    units = workplace.methods
    for method in METHODS.values():
        few, many = (units.recipe(method(), share, 0, "").identity_inputs for share in SHARES)
        assert (few == many) == ("originals" not in method.uses), method.name


def test_every_unit_depends_on_the_share_it_is_chosen_at(workplace, surroundings):
    cells = cells_of(surroundings)
    paths = [workplace.path_of(Unit(cell, number)) for cell in cells.values() for number in range(2)]
    assert len({*paths}) == len(paths)


# --- choice --------------------------------------------------------------------------------------


def test_the_worst_decides_and_the_mean_among_equals():
    keys = torch.tensor([0, 0, 1, 1, 4, 4])
    assert worst_and_mean(torch.tensor([True, True, True, False, False, False]), keys) == [0.0, 0.5]
    assert worst_and_mean(torch.tensor([True, False, True, False, False, True]), keys) == [0.5, 0.5]
    assert max([0.5, 0.5], [0.0, 0.9], [0.5, 0.6]) == [0.5, 0.6]


def test_a_candidate_that_diverges_is_not_chosen(surroundings, tmp_path):
    def measured(*weights: float) -> UnitResult:
        tried = tuple({"weight": weight} for weight in weights)
        cell = cells_of(surroundings, hyperparameters={"pairs": tried})["pairs", SHARES[0]]
        return Workplace(replace(surroundings, run=replace(surroundings.run, store=Store(tmp_path)))).run(Unit(cell, 0))

    chosen = measured(1e300, 0.1, 1e301)["chosen"]
    assert json.loads(chosen["hyperparameters"]) == {"weight": 0.1}
    scores = [each["scores"]["classes"] for each in json.loads(chosen["candidates"])]
    assert [len(each) for each in scores] == [0, 2, 0]
    with pytest.raises(DivergedError, match="that keeps a finite loss, got nan"):
        measured(1e300)


def test_a_candidate_is_chosen_on_held_out_images_and_measured_on_the_others(surroundings, tmp_path, monkeypatch):
    tried = ({"upweight": 1.0}, {"upweight": 3.0})
    cell = cells_of(surroundings, hyperparameters={"jtt": tried})["jtt", SHARES[1]]
    elsewhere = Workplace(replace(surroundings, run=replace(surroundings.run, store=Store(tmp_path))))
    held_out = elsewhere.methods.held_out(SHARES[1])
    conflicting = held_out.groups % 2 == 1
    some_aligned = ~conflicting & (torch.arange(len(held_out)) % 10 < 3)
    # The first is right on all aligned images and on no other, the second on most of every group.
    wrong = iter([conflicting, some_aligned])
    seen = []

    def predict(classifier: Any, split: Any, compute: Any) -> dict[str, torch.Tensor]:
        seen.append(split.name)
        return {"": torch.eye(10)[(held_out.labels + next(wrong).long()) % 10]}

    monkeypatch.setattr(method_units, "predict_split", predict)
    result = elsewhere.run(Unit(cell, 0))
    assert seen == ["biased_validation"] * 2
    candidates = json.loads(result["chosen"]["candidates"])
    assert [json.loads(each["hyperparameters"]) for each in candidates] == [*tried]
    scores = [each["scores"] for each in candidates]
    assert scores[0]["groups"][0] == 0.0 < scores[1]["groups"][0]
    assert json.loads(result["chosen"]["hyperparameters_with_groups"]) == tried[1]
    by_class = max((0, 1), key=lambda number: scores[number]["classes"])
    assert json.loads(result["chosen"]["hyperparameters"]) == tried[by_class]
    rows = pd.DataFrame(result["accuracy"])
    assert {*rows["split"]} == {"validation", "test"}
    assert {"all", "worst group", "all, chosen with groups", "worst group, chosen with groups"} <= {*rows["subset"]}
    assert rows.loc[rows["subset"] == "all", "calibration_error"].notna().all()


# --- units ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(surroundings) -> list[UnitResult]:
    """Every method, at both shares, with one seed."""
    return run_units(units_of([*cells_of(surroundings).values()], 1), surroundings, ignore)


def test_every_method_gives_a_result_at_every_share(finished):
    assert [result.error for result in finished] == [""] * len(finished)
    table = tabulate(finished, ClassifierFit(**FIT))
    test = table[(table["split"] == "test") & (table["subset"] == "all")]
    assert len(test) == 2 * len(METHODS)
    assert test["accuracy"].between(0, 1).all()
    assert test["calibration_error"].between(0, 1).all()
    assert {*test["method"]} == {*METHODS}


def test_nothing_is_trained_twice(finished, surroundings):
    before = classifiers_in(surroundings)
    fresh = replace(surroundings, run=replace(surroundings.run))
    again = run_units([result.unit for result in finished], fresh, ignore)
    assert [result.result for result in again] == [result.result for result in finished]
    assert all(result.seconds is None for result in again)
    assert classifiers_in(surroundings) == before
    candidates = {name: len(method.grid) for name, method in METHODS.items()}
    shared = sum(candidates[name] for name, method in METHODS.items() if "originals" not in method.uses)
    firsts = 2 * len(SHARES)  # JTT and DFR, one for all their candidates at a share
    assert len(before) == len(SHARES) * (sum(candidates.values()) - shared) + shared + firsts


def test_an_interrupted_unit_goes_on_to_the_same_result(finished, surroundings, tmp_path):
    (whole,) = [r for r in finished if (r.unit.cell.data.method, r.unit.cell.data.conflicting_share) == ("lff", 0.2)]
    elsewhere = replace(surroundings, run=replace(surroundings.run, store=Store(tmp_path)))

    def stop(training: str, step: int, losses: dict[str, float]) -> None:
        progress.request_stop()

    with pytest.raises(InterruptedRunError), listening(stop):
        run_units([whole.unit], elsewhere, ignore)
    progress.clear_stop()
    assert run_units([whole.unit], elsewhere, ignore)[0].result == whole.result


# --- what is told --------------------------------------------------------------------------------


def test_findings_have_verdicts_by_share_the_table_and_the_costs(finished, surroundings):
    cells = tabulate(finished, ClassifierFit(**FIT))
    cells = pd.concat([cells.assign(seed=seed, accuracy=cells["accuracy"] + 0.001 * seed) for seed in range(3)])
    costs = measure_costs(surroundings, cells)
    assert [*costs["method"]] == [*dict.fromkeys(cells["method"])]
    assert (costs["training_seconds"] > 0).all()
    making = costs.set_index("method")["making_seconds"]
    assert making["students"] == making["pairs"] == making["mixed"] > 0 == making["erm"]
    assert pd.isna(making["teacher"])  # one that was there
    summary = summarise_cells(cells).merge(costs, "left", on="method")
    told = findings_as_markdown(write_findings(summary, cells), summary)
    assert "Students' counterfactuals, by share of conflicting images: " in told
    assert "Seconds of one training on one core" in told
    assert "| GroupDRO* | 20 % |" in told
    assert "nan" not in told
    assert measure_costs(surroundings, cells.iloc[:0]).empty


def test_a_method_is_told_share_by_share():
    rows = pd.DataFrame(
        {
            "cell": ["s0", "e0", "s1", "e1"], "reference": ["s0", "s0", "s1", "s1"],
            "method": ["students", "erm"] * 2, "conflicting_share": [0.0, 0.0, 0.05, 0.05],
            "mean_accuracy": [0.8, 0.1, 0.8, 0.9], "difference": [float("nan"), -0.7, float("nan"), 0.1],
            "difference_low": [0, -0.72, 0, 0.08], "difference_high": [0, -0.68, 0, 0.12],
            "p_holm": [float("nan"), 0.01, float("nan"), 0.02],
        }
    )  # fmt: skip
    counted = "so many are worse, better and neither: 1, 0 and 0 at 0 %; 0, 1 and 0 at 5 %."
    counted = f"Of 1 methods without counterfactuals, {counted}"
    assert STUDIES["alternatives"].claims(rows, rows) == [
        "Students' counterfactuals, by share of conflicting images: 80.0 % at 0 %, 80.0 % at 5 %.",
        counted,
        "ERM on originals: worse than the students' counterfactuals at 0 % (−70.0); better at 5 % (+10.0).",
    ]
