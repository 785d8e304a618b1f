"""Tables say shares in one unit and are as narrow as a phone needs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from skdcgn_pipeline.reporting.tables import (
    accuracy_table,
    class_table,
    corruption_table,
    errors_table,
    followed_table,
    format_value,
    generation_table,
    likeness_table,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (1234567, "1,234,567"),
        (20092.0, "20,092"),
        (0.123456, "0.1235"),
        (1234.5, "1,234"),
        ("shape", "shape"),
        (True, "True"),
    ],
)
def test_values_are_told_in_a_readable_way(value, text):
    assert format_value(value) == text


def test_accuracy_by_class_has_a_column_for_each_training_set():
    rows = [("originals", "test", "cat", 0.1), ("originals", "test", "dog", 0.2), ("students", "test", "cat", 0.5)]
    table = class_table(pd.DataFrame(rows, columns=["trained_on", "split", "label", "accuracy"]))
    assert list(table.columns) == ["class", "split", "originals, %", "students, %"]
    assert table["class"].tolist() == ["cat", "dog"]
    assert table["students, %"].tolist() == ["50.0", "–"]


def test_accuracy_on_corrupted_images_has_a_column_for_each_corruption():
    rows = [
        (source, "test", strengths, corruption, accuracy, accuracy + 0.01)
        for source in ("originals", "students")
        for strengths, noisy in (("mean", 0.7), ("strongest", 0.5))
        for corruption, accuracy in (("clean", 0.9), ("noise", noisy))
    ]
    columns = ["trained_on", "split", "strengths", "corruption", "mean_accuracy", "interval_high"]
    table = corruption_table(pd.DataFrame(rows, columns=columns))
    assert list(table.columns) == ["trained_on", "split", "strengths", "clean, %", "noise, %"]
    assert table["trained_on"].tolist() == ["originals", "originals", "students", "students"]
    assert table["noise, %"].tolist() == ["70.0 ± 1.0", "50.0 ± 1.0"] * 2


def test_accuracies_are_told_with_their_intervals():
    summary = pd.DataFrame(
        {
            "trained_on": "students",
            "split": ["test", "cue_conflict"],
            "subset": ["all", "shape bias"],
            "mean_accuracy": [0.7954, np.nan],
            "interval_high": [0.8, np.nan],
            "num_seeds": 3,
            "num_images": [359, 0],
            "calibration_error": [0.05, np.nan],
        }
    )
    table = accuracy_table(summary)
    assert table["accuracy, %"].tolist() == ["79.5 ± 0.5", "–"]
    assert table["calibration error, %"].tolist() == ["5.0", "–"]
    assert len(table.columns) == 7
    assert "calibration error, %" not in accuracy_table(summary.drop(columns="calibration_error"))


def test_shares_of_answers_are_in_percent():
    row = {"trained_on": "students", "shape": 0.1234, "texture": 0.5, "background": 0.0, "none": 1.0, "num_images": 9}
    (told,) = followed_table(pd.DataFrame([row])).to_dict("records")
    assert told == {
        "trained_on": "students",
        "shape, %": "12.3",
        "texture, %": "50.0",
        "background, %": "0.0",
        "none, %": "100.0",
        "images": 9,
    }


def test_a_wide_comparison_has_a_row_per_measure_and_says_whose_distance_it_is():
    comparison = pd.DataFrame(
        {
            "mechanism": ["shape", "all"],
            "l1": [0.1, 0.2],
            "mask_iou": [0.4779, np.nan],
            "frechet": [9.2, 3.9],
            "teacher_parameters": [10, 30],
            "teacher_macs": [None, None],
        }
    )
    table = likeness_table(comparison).set_index("measure")
    assert [*table.columns] == ["shape", "all"]
    assert [*table.loc["mask IoU, %"]] == ["47.8", "–"]
    assert [*table.index] == [
        *("L1, in units of the image range", "mask IoU, %", "Frechet distance to the teacher", "teacher parameters"),
    ]


def test_measures_of_composites_stand_side_by_side():
    rows = [
        ("students", "fid", "training images", 4.68, np.nan),
        ("students", "mean_mask", None, 0.4957, 0.014),
        ("teacher", "mean_mask", None, 0.3538, 0.034),
        ("students", "collapsed_masks", None, 0.0, np.nan),
    ]
    table = generation_table(pd.DataFrame(rows, columns=["images", "measure", "reference", "value", "sd"]))
    told = table.set_index("measure").fillna("–")
    assert [*told.loc["mean mask, %"]] == ["49.6 ± 1.4", "35.4 ± 3.4"]
    assert [*told.loc["Frechet distance to training images"]] == ["4.68", "–"]
    assert told.loc["collapsed masks, %", "students"] == "0.0"


def test_error_consistency_is_told_with_agreements_in_percent():
    known = {"trained_on": "originals", "other": "students", "split": "test", "num_images": 359}
    rows = [
        {**known, "error_consistency": 0.4049, "observed": 0.7, "expected": 0.5, "num_pairs": 9},
        {**known, "error_consistency": np.nan, "observed": np.nan, "expected": np.nan, "num_pairs": 0},
    ]
    first, second = errors_table(pd.DataFrame(rows)).to_dict("records")
    assert [*first.values()] == ["originals", "students", "test", "0.4", "70.0", "50.0", 9, 359]
    assert [*second.values()] == ["originals", "students", "test", "–", "–", "–", 0, 359]
