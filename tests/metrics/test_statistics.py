"""Cells are compared with their reference as SciPy and the textbooks do it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats

from skdcgn_pipeline.metrics.statistics import (
    TIDY_COLUMNS,
    compare_pairs,
    factorial_effects,
    holm,
    judge,
    summarise_cells,
    tidy_cells,
)
from skdcgn_pipeline.vocabulary import MECHANISMS

REFERENCE = [0.80, 0.84, 0.82, 0.79, 0.83]
OPACITY = [0.70, 0.76, 0.73, 0.75, 0.71]
NOISE = [0.81, 0.82, 0.84, 0.80, 0.82]


def cell_rows(cell: str, accuracies, study="transformations", reference="plain", **described) -> list[dict]:
    common = {"study": study, "cell": cell, "reference": reference, "subset": "all", "num_images": 100} | described
    return [
        common | {"seed": seed, "split": split, "accuracy": value - shift}
        for seed, value in enumerate(accuracies)
        for split, shift in (("validation", 0.0), ("test", 0.1))
    ]


@pytest.fixture
def cells() -> pd.DataFrame:
    return pd.DataFrame(
        [
            *cell_rows("plain", REFERENCE, strength=math.nan, mask_iou=0.9, num_training_images=1000.0),
            *cell_rows("opacity 0.75", OPACITY, strength=0.75, mask_iou=0.8, num_training_images=1000.0),
            *cell_rows("noise 0.1", NOISE, strength=0.1, mask_iou=math.nan, num_training_images=1000.0),
        ]
    )


def row_of(summary: pd.DataFrame, cell: str, split: str = "test") -> pd.Series:
    return summary.set_index(["cell", "split"]).loc[(cell, split)]


# --- Holm ----------------------------------------------------------------------------------------


def test_holm_agrees_with_an_example_worked_by_hand():
    # Sorted .005, .01, .03, .04 times 4, 3, 2, 1 is .02, .03, .06, .04; the last may not fall below .06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_is_monotone_bounded_and_between_raw_and_bonferroni():
    raw = np.random.default_rng(0).uniform(0, 0.3, 40)
    adjusted = holm(raw)
    assert (np.diff(adjusted[np.argsort(raw)]) >= 0).all()
    assert (adjusted >= raw).all()
    assert (adjusted <= np.minimum(1, 40 * raw)).all()
    assert adjusted[raw.argmin()] == pytest.approx(40 * raw.min())
    assert adjusted.max() == 1


def test_holm_does_not_count_what_is_not_a_number():
    adjusted = holm([math.nan, 0.02, math.nan, 0.01])
    assert adjusted[[1, 3]] == pytest.approx([0.02, 0.02])
    assert np.isnan(adjusted[[0, 2]]).all()
    assert np.isnan(holm([math.nan])).all()
    assert len(holm([])) == 0


def test_equal_p_values_are_adjusted_equally():
    assert holm([0.02, 0.02, 0.5]) == pytest.approx([0.06, 0.06, 0.5])


# --- pairs ---------------------------------------------------------------------------------------


def test_pairs_are_compared_as_scipy_does():
    found = compare_pairs(pd.Series(OPACITY), pd.Series(REFERENCE))
    expected = stats.ttest_rel(OPACITY, REFERENCE)
    interval = expected.confidence_interval(0.95)
    assert found["difference"] == pytest.approx(np.mean(OPACITY) - np.mean(REFERENCE))
    assert found["p_value"] == pytest.approx(expected.pvalue)
    assert (found["difference_low"], found["difference_high"]) == pytest.approx((interval.low, interval.high))
    assert found["num_pairs"] == 5


def test_the_effect_size_is_corrected_for_few_pairs():
    differences = np.array(OPACITY) - np.array(REFERENCE)
    correction = special.gamma(2) / (math.sqrt(2) * special.gamma(1.5))
    found = compare_pairs(pd.Series(OPACITY), pd.Series(REFERENCE))["effect_size"]
    assert found == pytest.approx(correction * differences.mean() / differences.std(ddof=1))
    # Hedges' approximation, 1 - 3 / (4 f - 1)
    assert correction == pytest.approx(1 - 3 / (4 * 4 - 1), abs=0.003)


def test_the_corrected_effect_size_is_unbiased():
    draws = np.random.default_rng(1).normal(1.0, 1.0, (4000, 5))
    zeros = pd.Series(np.zeros(5))
    mean = np.mean([compare_pairs(pd.Series(draw), zeros)["effect_size"] for draw in draws])
    assert mean == pytest.approx(1.0, abs=0.04)


def test_only_seeds_that_both_have_are_paired():
    own = pd.Series([0.7, 0.5, 0.9], index=[3, 1, 7])
    reference = pd.Series([0.4, 0.65, 0.2], index=[1, 3, 2])
    found = compare_pairs(own, reference)
    assert found["num_pairs"] == 2
    assert found["difference"] == pytest.approx((0.05 + 0.1) / 2)


@pytest.mark.parametrize(("shift", "rounds"), [(0.0, False), (-0.1, False), (0.07, True)])
def test_without_spread_there_is_no_test(shift, rounds):
    reference = pd.Series(REFERENCE)
    assert ((reference + shift - reference).std() > 0) == rounds  # 0.07: equal but for rounding
    found = compare_pairs(reference + shift, reference)
    assert found["difference"] == pytest.approx(shift)
    assert found["difference_low"] == pytest.approx(shift)
    assert math.isnan(found["p_value"])
    assert math.isnan(found["effect_size"])


def test_what_few_pairs_cannot_say_is_not_a_number():
    none, one, two = (
        compare_pairs(pd.Series(OPACITY[:n], dtype=float), pd.Series(REFERENCE[:n], dtype=float)) for n in range(3)
    )
    assert math.isnan(none["difference"])
    assert one["difference"] == pytest.approx(-0.1)
    assert all(math.isnan(one[name]) for name in ("difference_low", "difference_high", "p_value", "effect_size"))
    assert two["p_value"] == pytest.approx(stats.ttest_rel(OPACITY[:2], REFERENCE[:2]).pvalue)
    assert math.isnan(two["effect_size"])


@pytest.mark.parametrize(
    ("difference", "low", "high", "p_holm", "word"),
    [
        (0.02, 0.01, 0.03, 0.049, "raises"),
        (-0.004, -0.006, -0.002, 0.01, "lowers"),
        (0.02, 0.01, 0.03, 0.05, "undecided"),
        (0.001, -0.009, 0.009, 0.7, "no difference"),
        (0.001, -0.011, 0.009, 0.7, "undecided"),
        (0.001, -0.009, 0.011, 0.7, "undecided"),
        (-0.1, math.nan, math.nan, math.nan, "undecided"),
        (0.0, 0.0, 0.0, math.nan, "no difference"),
        (math.nan, math.nan, math.nan, math.nan, "not compared"),
    ],
)
def test_a_comparison_is_judged_by_its_adjusted_p_and_its_interval(difference, low, high, p_holm, word):
    row = {"difference": difference, "difference_low": low, "difference_high": high, "p_holm": p_holm}
    assert judge(row) == word


# --- the summary ---------------------------------------------------------------------------------


def test_cells_are_compared_with_their_reference_per_split(cells):
    cells.loc[(cells["cell"] == "opacity 0.75") & (cells["split"] == "test"), "accuracy"] -= [0, 0.1, 0, 0, 0]
    summary = summarise_cells(cells)
    assert len(summary) == 6
    expected = stats.ttest_rel(OPACITY, REFERENCE)
    validation = row_of(summary, "opacity 0.75", "validation")
    assert validation["p_value"] == pytest.approx(expected.pvalue)
    assert validation["mean_accuracy"] == pytest.approx(0.73)
    assert validation["standard_deviation"] == pytest.approx(np.std(OPACITY, ddof=1))
    assert validation["num_seeds"] == 5
    assert validation["num_images"] == 100
    assert row_of(summary, "opacity 0.75")["difference"] == pytest.approx(validation["difference"] - 0.02)


def test_descriptions_are_carried_along_and_fidelity_is_averaged(cells):
    cells.loc[cells["cell"] == "opacity 0.75", "mask_iou"] = np.repeat([0.7, 0.8, 0.9, 0.8, 0.9], 2)
    summary = summarise_cells(cells)
    row = row_of(summary, "opacity 0.75")
    assert (row["strength"], row["num_training_images"], row["reference"]) == (0.75, 1000, "plain")
    assert row["mask_iou"] == pytest.approx(0.82)
    assert math.isnan(row_of(summary, "noise 0.1")["mask_iou"])
    assert math.isnan(row_of(summary, "plain")["strength"])


def test_the_reference_is_not_compared_with_itself(cells):
    row = row_of(summarise_cells(cells), "plain")
    assert row[["difference", "difference_low", "difference_high", "p_value", "p_holm", "effect_size"]].isna().all()


def test_p_is_adjusted_within_one_study_split_and_subset(cells):
    other = pd.DataFrame([*cell_rows("plain", REFERENCE, "losses"), *cell_rows("without kl", OPACITY, "losses")])
    visible = cells.assign(subset="without collisions")
    summary = summarise_cells(pd.concat([cells, other, visible], ignore_index=True))
    for _, family in summary.groupby(["study", "split", "subset"]):
        assert family["p_holm"].to_numpy() == pytest.approx(holm(family["p_value"]), nan_ok=True)
    alone = summary[summary["cell"] == "without kl"]
    assert alone["p_holm"].tolist() == pytest.approx(alone["p_value"].tolist())
    two = summary[(summary["cell"] == "opacity 0.75") & (summary["subset"] == "all")]
    assert two["p_holm"].to_numpy() == pytest.approx(2 * two["p_value"].to_numpy())


def test_a_reference_of_the_same_name_in_another_study_is_not_taken(cells):
    other = pd.DataFrame(cell_rows("without kl", OPACITY, "losses"))
    row = row_of(summarise_cells(pd.concat([cells, other])), "without kl")
    assert math.isnan(row["difference"])


def test_the_order_of_rows_changes_nothing(cells):
    first = summarise_cells(cells).sort_values(["cell", "split"], ignore_index=True)
    for seed in range(3):
        shuffled = summarise_cells(cells.sample(frac=1, random_state=seed))
        pd.testing.assert_frame_equal(first, shuffled.sort_values(["cell", "split"], ignore_index=True))


def test_cells_come_in_the_order_of_their_first_row(cells):
    late = cells[~((cells["cell"] == "plain") & (cells["seed"] == 0))]
    assert summarise_cells(late)["cell"].unique().tolist() == ["plain", "opacity 0.75", "noise 0.1"]


def test_missing_seeds_are_left_out_of_pairs_only(cells):
    cells = cells[~((cells["cell"] == "plain") & (cells["seed"] == 1))]
    cells.loc[(cells["cell"] == "noise 0.1") & (cells["seed"] == 0), "accuracy"] = math.nan
    summary = summarise_cells(cells)
    opacity, noise = row_of(summary, "opacity 0.75"), row_of(summary, "noise 0.1")
    assert (opacity["num_seeds"], opacity["num_pairs"]) == (5, 4)
    assert (noise["num_seeds"], noise["num_pairs"]) == (4, 3)
    kept = [2, 3, 4]
    expected = stats.ttest_rel(np.array(NOISE)[kept], np.array(REFERENCE)[kept])
    assert noise["p_value"] == pytest.approx(expected.pvalue)


def test_a_missing_reference_leaves_the_difference_open(cells):
    summary = summarise_cells(cells[cells["cell"] != "plain"])
    assert summary["difference"].isna().all()
    assert summary["p_holm"].isna().all()
    assert summary["mean_accuracy"].notna().all()


def test_no_cells_make_an_empty_summary(cells):
    summary = summarise_cells(cells.iloc[:0])
    assert summary.empty
    assert {*summary.columns} == {*summarise_cells(cells).columns}


def test_two_rows_of_one_seed_are_refused(cells):
    with pytest.raises(ValueError, match="two of transformations, plain, seed 0, validation, all"):
        summarise_cells(pd.concat([cells, cells.iloc[:1]]))


# --- the published table -------------------------------------------------------------------------


def test_every_seed_is_published_beside_its_reference(cells):
    table = tidy_cells(cells, summarise_cells(cells))
    assert table.columns.tolist() == TIDY_COLUMNS
    assert len(table) == len(cells)
    part = table[(table["cell"] == "opacity 0.75") & (table["split"] == "test")].sort_values("seed")
    assert part["reference_accuracy"].to_numpy() == pytest.approx(np.array(REFERENCE) - 0.1)
    assert part["difference"].to_numpy() == pytest.approx(np.array(OPACITY) - np.array(REFERENCE))
    assert part["mean_difference"].to_numpy() == pytest.approx(part["difference"].mean())
    assert part["p_holm"].nunique() == 1
    assert part["reference"].tolist() == ["plain"] * 5
    reference = table[table["cell"] == "plain"]
    assert reference["difference"].isna().all()


def test_a_seed_without_reference_is_published_without_difference(cells):
    cells = cells[~((cells["cell"] == "plain") & (cells["seed"] == 1))]
    table = tidy_cells(cells, summarise_cells(cells)).set_index(["cell", "split", "seed"])
    assert math.isnan(table.loc[("noise 0.1", "test", 1), "difference"])
    assert table.loc[("noise 0.1", "test", 0), "difference"] == pytest.approx(0.01)
    assert len(table) == len(cells)


# --- factorial effects ---------------------------------------------------------------------------


SWITCHED = ("counterfactual", "class", "factual")


def combination_rows(accuracy_of, num_seeds=3) -> pd.DataFrame:
    rows = []
    for flags in itertools.product((0, 1), repeat=3):
        told = " + ".join(m for m, flag in zip(MECHANISMS, flags, strict=True) if flag) or "none"
        values = [accuracy_of(*flags, seed) for seed in range(num_seeds)]
        switched = {
            f"counterfactual_{m}": "class" if flag else "factual" for m, flag in zip(MECHANISMS, flags, strict=True)
        }
        rows += cell_rows(told, values, "mechanisms", "shape + texture + background", **switched)
    return pd.DataFrame(rows)


def test_effects_are_those_that_made_the_accuracies():
    def accuracy_of(shape, texture, background, seed):
        return 0.3 + (0.2 + 0.01 * seed) * shape + 0.1 * texture + 0.04 * shape * background

    effects = factorial_effects(combination_rows(accuracy_of), *SWITCHED).set_index(["split", "effect"])
    assert len(effects) == 14
    effects = effects.loc["test"]
    assert effects["difference"].to_dict() == pytest.approx(
        {
            "shape": 0.21 + 0.02,  # 0.04 in the half with the background on
            "texture": 0.1,
            "background": 0.02,
            "shape x texture": 0,
            "shape x background": 0.02,
            "texture x background": 0,
            "shape x texture x background": 0,
        },
        abs=1e-12,
    )
    half_width = stats.t.ppf(0.975, 2) * 0.01 / math.sqrt(3)
    assert effects.loc["shape", "difference_high"] == pytest.approx(0.23 + half_width)
    assert effects.loc["shape", "num_pairs"] == 3
    assert effects["order"].tolist() == [1, 1, 1, 2, 2, 2, 3]


def test_an_interaction_of_three_is_found():
    effects = factorial_effects(combination_rows(lambda s, t, b, seed: 0.5 + 0.4 * s * t * b), *SWITCHED)
    three = effects[effects["order"] == 3]
    assert three["difference"].to_numpy() == pytest.approx([0.1, 0.1])


def test_p_of_effects_is_adjusted_over_the_seven():
    noise = np.random.default_rng(0).normal(0, 0.01, (2, 2, 2, 4))
    effects = factorial_effects(
        combination_rows(lambda s, t, b, seed: 0.3 + 0.2 * s + noise[s, t, b, seed], 4), *SWITCHED
    )
    part = effects[effects["split"] == "test"]
    assert part["p_holm"].to_numpy() == pytest.approx(holm(part["p_value"]))
    assert part["p_holm"].iloc[0] == pytest.approx(7 * part["p_value"].iloc[0])


def test_effects_need_all_eight_combinations_of_a_seed():
    rows = combination_rows(lambda s, t, b, seed: 0.5 + 0.1 * s)
    short = rows[~((rows["cell"] == "none") & (rows["seed"] == 2))]
    assert (factorial_effects(short, *SWITCHED)["num_pairs"] == 2).all()
    assert factorial_effects(rows[rows["cell"] != "none"], *SWITCHED).empty
    assert factorial_effects(rows.iloc[:0], *SWITCHED).empty
    assert "difference" in factorial_effects(rows.iloc[:0], *SWITCHED)


def test_what_students_cost_is_an_effect_too():
    rows = combination_rows(lambda s, t, b, seed: 0.8 - 0.1 * s - 0.02 * t)

    drawn_by = {
        f"source_{m}": rows[f"counterfactual_{m}"].map({"class": "students", "factual": "teacher"}) for m in MECHANISMS
    }
    rows = rows.assign(study="source", **drawn_by)
    effects = factorial_effects(rows, "source", "students", "teacher").set_index(["split", "effect"])["difference"]
    assert effects["test", "shape"] == pytest.approx(-0.1)
    assert effects["test", "texture"] == pytest.approx(-0.02)


def test_cells_of_other_values_are_left_out():
    rows = combination_rows(lambda s, t, b, seed: 0.5 + 0.1 * s)
    other = rows.assign(cell="other", accuracy=0.0, counterfactual_texture="same")
    both = factorial_effects(pd.concat([rows, other]), *SWITCHED)
    pd.testing.assert_frame_equal(both, factorial_effects(rows, *SWITCHED))
