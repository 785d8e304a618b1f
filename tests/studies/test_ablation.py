"""The composition study: which cells there are, and how they are compared."""

from __future__ import annotations

import math
from contextlib import contextmanager

import pandas as pd
import pytest
from scipy import stats

from skdcgn_pipeline.parameters import (
    Ablation,
    ClassifierFit,
    Composition,
    Compute,
    Counterfactual,
    Transformation,
    Transformations,
)
from skdcgn_pipeline.studies import ablation
from skdcgn_pipeline.studies.ablation import REFERENCE, expand_cells, run_ablation, summarise_ablation
from skdcgn_pipeline.vocabulary import MECHANISMS

FIT = ClassifierFit(num_images=8, batch_size=4)
NOISE = Transformation(kind="gaussian_noise", strength=0.3)
OPACITY = Transformation(kind="opacity", strength=0.75)
GREY = Transformation(kind="grey", strength=1.0)


def settings(combinations: bool = True, **transformations) -> Ablation:
    return Ablation(transformations=Transformations(**transformations), combinations=combinations, fit=FIT)


def flags(cell) -> tuple[bool, ...]:
    return tuple(getattr(cell.composition.counterfactual, mechanism) for mechanism in MECHANISMS)


def test_the_grid_has_exactly_these_cells():
    own = settings(shape=(NOISE, OPACITY), background=(GREY,))
    assert [cell.name for cell in expand_cells(own, Composition())] == [
        "reference",
        "shape gaussian_noise 0.3",
        "shape opacity 0.75",
        "background grey 1",
        "counterfactual shape + texture",
        "counterfactual shape + background",
        "counterfactual shape",
        "counterfactual texture + background",
        "counterfactual texture",
        "counterfactual background",
        "all factual",
    ]


def test_every_combination_is_there_once():
    cells = expand_cells(settings(), Composition())
    assert len(cells) == 8
    assert len({flags(cell) for cell in cells}) == 8
    assert flags(cells[0]) == (True, True, True)
    assert flags(cells[-1]) == (False, False, False)


def test_the_combination_of_the_base_is_the_reference_and_not_repeated():
    base = Composition(counterfactual=Counterfactual(shape=True, texture=True, background=False))
    cells = expand_cells(settings(), base)
    assert cells[0].composition == base
    assert [flags(cell) for cell in cells].count((True, True, False)) == 1
    assert "counterfactual shape + texture + background" in [cell.name for cell in cells]


def test_without_combinations_only_transformations_are_tried():
    cells = expand_cells(settings(combinations=False, texture=(GREY,)), Composition())
    assert [cell.name for cell in cells] == ["reference", "texture grey 1"]


def test_a_transformation_changes_nothing_else():
    base = Composition(patch_shift=False)
    cell = expand_cells(settings(combinations=False, shape=(OPACITY,)), base)[1]
    expected = Composition(patch_shift=False, transformations=Transformations(shape=(OPACITY,)))
    assert cell.composition == expected


def test_a_transformation_is_added_to_those_of_the_base():
    base = Composition(transformations=Transformations(shape=(NOISE,), texture=(GREY,)))
    cell = expand_cells(settings(combinations=False, shape=(OPACITY,)), base)[1]
    assert cell.composition.transformations.shape == (NOISE, OPACITY)
    assert cell.composition.transformations.texture == (GREY,)
    assert base.transformations.shape == (NOISE,)


# --- the summary ---------------------------------------------------------------------------------


def make_rows() -> pd.DataFrame:
    accuracies = {
        REFERENCE: [0.80, 0.84, 0.82],
        "shape opacity 0.75": [0.70, 0.76, 0.73],
        "all factual": [0.30, 0.34, 0.32],
    }
    rows = [
        {"cell": cell, "seed": seed, "split": split, "subset": "all", "accuracy": value - shift, "num_images": 100}
        for cell, values in accuracies.items()
        for seed, value in enumerate(values)
        for split, shift in (("validation", 0.0), ("test", 0.1))
    ]
    visible = [row | {"subset": "without collisions", "accuracy": 1.0} for row in rows]
    return pd.DataFrame([*rows, *visible])


def test_cells_are_compared_with_the_reference_seed_by_seed():
    summary = summarise_ablation(make_rows()).set_index(["cell", "split"])
    row = summary.loc[("shape opacity 0.75", "test")]
    differences = pd.Series([-0.10, -0.08, -0.09])
    half_width = stats.t.ppf(0.975, 2) * differences.std() / math.sqrt(3)
    assert row["mean_accuracy"] == pytest.approx(0.63)
    assert row["difference"] == pytest.approx(-0.09)
    assert row["difference_low"] == pytest.approx(-0.09 - half_width)
    assert row["difference_high"] == pytest.approx(-0.09 + half_width)


def test_the_summary_does_not_depend_on_the_order_of_seeds():
    rows = make_rows()
    shuffled = rows.sample(frac=1, random_state=3)
    first = summarise_ablation(rows).sort_values(["cell", "split"], ignore_index=True)
    second = summarise_ablation(shuffled).sort_values(["cell", "split"], ignore_index=True)
    pd.testing.assert_frame_equal(first, second, check_exact=False)


def test_the_reference_has_no_difference_and_no_interval():
    summary = summarise_ablation(make_rows()).set_index(["cell", "split"])
    for split in ("validation", "test"):
        row = summary.loc[(REFERENCE, split)]
        assert row["difference"] == 0
        assert math.isnan(row["difference_low"])
        assert math.isnan(row["difference_high"])


def test_the_same_difference_for_every_seed_has_no_width():
    row = summarise_ablation(make_rows()).set_index(["cell", "split"]).loc[("all factual", "validation")]
    assert row["difference"] == pytest.approx(-0.5)
    assert row["difference_high"] - row["difference_low"] == pytest.approx(0, abs=1e-9)


def test_only_all_images_are_summarised():
    summary = summarise_ablation(make_rows())
    assert len(summary) == 6
    assert summary["mean_accuracy"].max() < 0.9


# --- running it ----------------------------------------------------------------------------------


class NamedImages:
    """Stands for the biased images."""

    reported_splits = ()


class NamedSamples:
    """Stands for the samples of the pool."""

    num_classes = 3

    class artifact:  # noqa: N801
        identity = "samples"


def test_every_cell_is_trained_in_its_own_scope(monkeypatch, tmp_path):
    entered, told = [], []

    def train(store, training_set, biased_images, splits, fit, num_seeds, seed, compute):
        inside = {"trained_on": training_set.name, "seed": 0, "split": "test", "subset": "all", "accuracy": 0.5}
        assert entered[-1] == training_set.name
        return pd.DataFrame([inside | {"num_images": 3}])

    @contextmanager
    def scope(cell):
        entered.append(cell.name)
        yield told.append

    monkeypatch.setattr(ablation, "train_and_measure", train)
    own = settings(combinations=False, shape=(OPACITY,))
    table = run_ablation(tmp_path, NamedSamples(), NamedImages(), own, Composition(), 0, Compute(device="cpu"), scope)
    assert entered == ["reference", "shape opacity 0.75"]
    assert table["cell"].tolist() == entered
    assert [frame["accuracy"].tolist() for frame in told] == [[0.5], [0.5]]
