"""What is said of a run follows from its figures."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from skdcgn_pipeline.reporting.headlines import (
    Headline,
    headlines,
    summarise_in_a_sentence,
    tell_change,
    tell_costs,
    tell_gains,
    tell_likeness,
    tell_problem,
)

COMPARISON = pd.DataFrame(
    {
        "mechanism": ["shape", "all"],
        "student_parameters": [20_000, 59_116],
        "teacher_parameters": [200_000, 591_160],
        "mask_iou": [0.9123, None],
    }
)
ACCURACY = pd.DataFrame(
    {
        "trained_on": "students",
        "split": ["test", "test", "test", "validation"],
        "subset": ["all", "worst group", "without collisions", "all"],
        "mean_accuracy": [0.795, 0.5, 0.8, 0.7],
        "interval_high": [0.856, 0.6, 0.9, 0.8],
        "num_seeds": 3,
    }
)


def test_the_result_is_told_in_one_sentence():
    rows = [
        {
            "trained_on": source,
            "split": split,
            "subset": subset,
            "mean_accuracy": mean,
            "interval_high": mean + 0.012,
            "num_seeds": 3,
            "num_images": 1790,
        }
        for source, mean in (("originals", 0.105), ("teacher", 0.86), ("students", 0.855))
        for split, subset in (("validation", "all"), ("test", "all"), ("test", "without collisions"))
    ]
    sentence = summarise_in_a_sentence(pd.DataFrame(rows))
    assert "10.5 ± 1.2 % trained on originals" in sentence
    assert "86.0 ± 1.2 % trained on teacher's" in sentence
    assert "85.5 ± 1.2 % trained on students'" in sentence
    assert "3 seeds, 1,790 images" in sentence


def accuracy_of_seeds(**of_sets: tuple[float, ...]) -> pd.DataFrame:
    """Accuracy by what was trained on: all, then the worst group a tenth lower, on two splits."""
    return pd.DataFrame(
        {"trained_on": name, "seed": seed, "split": split, "subset": subset, "accuracy": value - lower}
        for name, values in of_sets.items()
        for seed, value in enumerate(values)
        for split in ("validation", "test", "sketches", "imagenet9/only_bg_t")
        for subset, lower in (("all", 0.0), ("worst group", 0.1))
    )


def test_what_counterfactuals_bought_is_told_by_split_with_paired_intervals():
    told = tell_gains(accuracy_of_seeds(originals=(0.2, 0.3, 0.4), students=(0.5, 0.6, 0.7)))
    assert told.startswith(
        "What counterfactuals bought against training on originals (mean and 95 % interval over 3 seeds): on test"
    )
    assert "students' counterfactuals +30.0 ± 0.0 points of accuracy (30.0 to 60.0 %)" in told
    assert "+30.0 ± 0.0 points of accuracy in the worst group (20.0 to 50.0 %). on sketches" in told
    assert "validation" not in told
    assert "only_bg_t" not in told  # there is no object to be right about
    assert "+30.0 points" in tell_gains(accuracy_of_seeds(originals=(0.2,), students=(0.5,)))


def test_nothing_was_bought_where_nothing_is_compared():
    assert tell_gains(accuracy_of_seeds(originals=(0.2, 0.3))) == ""
    assert tell_gains(accuracy_of_seeds(teacher=(0.2, 0.3), students=(0.5, 0.5))) == ""


def test_without_images_the_students_likeness_is_the_result():
    table = pd.DataFrame(
        {
            "mechanism": ["shape", "texture", "background", "all"],
            "l1": [0.1, 0.02, 0.03, 0.1],
            "mask_iou": [0.9] + 3 * [np.nan],
        }
    )
    told = tell_likeness(table)
    assert "IoU of 90.0 %; mean L1 of texture 0.020 and background 0.030" in told
    assert "Without real images nothing is classified" in told


@pytest.mark.parametrize(
    ("students", "before", "after", "verdict"),
    [
        ((0.5, 0.6, 0.7), "30.0 %", "60.0 %", "better, +30.0 ± 0.0 points"),
        ((0.1, 0.2, 0.3), "30.0 %", "20.0 %", "worse, -10.0 ± 0.0 points"),
        ((0.2, 0.6, 0.4), "30.0 %", "40.0 %", "no difference shown, +10.0 ± 43.0 points"),
    ],
)
def test_the_change_of_accuracy_is_judged_by_its_interval(students, before, after, verdict):
    (told,) = tell_change(accuracy_of_seeds(originals=(0.2, 0.3, 0.4), teacher=(0.9, 0.9, 0.9), students=students))
    assert told == Headline("accuracy on test, originals to students' counterfactuals", before, after, verdict)


def test_one_seed_has_no_interval_and_one_training_set_no_change():
    (told,) = tell_change(accuracy_of_seeds(originals=(0.2,), students=(0.5,)))
    assert told.verdict == "+30.0 points, one seed"
    assert tell_change(accuracy_of_seeds(originals=(0.2, 0.3))) == []
    assert tell_change(accuracy_of_seeds(teacher=(0.2, 0.3), students=(0.5, 0.5))) == []


def costs(**of_all: object) -> pd.DataFrame:
    measured = {"teacher_parameters": 1000, "student_parameters": 100}
    measured |= {"teacher_images_per_s": 20.0, "student_images_per_s": 50.0}
    return pd.DataFrame([{"mechanism": "shape"}, {"mechanism": "all"} | measured | of_all]).astype(object)


def test_size_and_speed_are_told_as_factors():
    assert tell_costs(costs()) == [
        Headline("parameters, teacher to students", "1,000", "100", "10.0 times fewer"),
        Headline("images/s, teacher to students", "20", "50", "2.5 times faster"),
    ]
    size, speed = tell_costs(costs(student_parameters=3000, student_images_per_s=5.0))
    assert (size.verdict, speed.verdict, speed.after) == ("3.0 times more", "4.0 times slower", "5")
    _, speed = tell_costs(costs(student_images_per_s=21.0))
    assert speed.verdict == "no difference shown"


@pytest.mark.parametrize("none", [None, float("nan")])
def test_a_teacher_that_is_no_network_has_no_size_to_compare_with(none):
    size, speed = tell_costs(costs(teacher_parameters=none))
    assert size == Headline("parameters, teacher to students", "", "100", "")
    assert speed.verdict == "2.5 times faster"


def test_the_problem_is_what_becomes_of_originals():
    rows = [("originals", "test", "all", 0.105, 0.12), ("students", "test", "all", 0.9, 0.91)]
    summary = pd.DataFrame(rows, columns=["trained_on", "split", "subset", "mean_accuracy", "interval_high"])
    shares = {"shape": [0.1, 0.9], "texture": [0.55, 0.05], "background": [0.3, 0.0], "none": [0.05, 0.05]}
    followed = pd.DataFrame({"trained_on": ["originals", "students"]} | shares)
    told = tell_problem(summary, followed)
    assert told.startswith("Trained on originals alone, classifiers recognise 10.5 ± 1.5 % of the images of test.")
    assert told.endswith("the shape in 10.0 %, the texture in 55.0 %, the background in 30.0 %, none of them in 5.0 %.")
    assert "follow" not in tell_problem(summary, None)
    assert tell_problem(summary.iloc[1:], followed) == ""


def test_headlines_are_the_students_size_and_likeness_and_test_accuracy():
    assert headlines({"student_comparison": COMPARISON, "accuracy_summary": ACCURACY, "report": "<html>"}) == [
        ("parameters of the students", 59_116, "59,116 (10.0 % of the teacher)"),
        ("mask IoU with the teacher", 0.9123, "91.2 %"),
        ("accuracy on test, trained on students", 0.795, "79.5 ± 6.1 %"),
        ("accuracy on test, trained on students, worst group", 0.5, "50.0 ± 10.0 %"),
    ]


@pytest.mark.parametrize("none", [None, float("nan")])
def test_a_teacher_without_parameters_is_compared_with_in_nothing(none):
    row, *_ = headlines({"student_comparison": COMPARISON.assign(teacher_parameters=none)})
    assert row == ("parameters of the students", 59_116, "59,116")


def test_one_seed_has_no_spread():
    row, *_ = headlines({"accuracy_summary": ACCURACY.assign(num_seeds=1)})
    assert row[2] == "79.5 %"
