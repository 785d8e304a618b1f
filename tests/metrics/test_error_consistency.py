"""Error consistency against closed forms, and against scikit-learn's kappa."""

from __future__ import annotations

import math

import numpy as np
import pytest

from skdcgn_pipeline.metrics.error_consistency import compare_errors, error_consistency
from skdcgn_pipeline.runtime.errors import SettingError


def answers(both: int, first: int, second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Answers of which so many are right by both, by one alone, by none."""
    right = [(True, True)] * both + [(True, False)] * first + [(False, True)] * second + [(False, False)] * neither
    one, other = np.array(right, dtype=bool).T
    return one, other


@pytest.mark.parametrize(
    ("table", "kappa", "observed", "expected"),
    [
        ((3, 0, 0, 7), 1.0, 1.0, 0.58),  # the same errors
        ((12, 18, 28, 42), 0.0, 0.54, 0.54),  # independent ones of accuracies 0.3 and 0.4
        ((0, 5, 5, 0), -1.0, 0.0, 0.5),  # whenever one is right, the other is wrong
        ((20, 5, 10, 15), 0.4, 0.7, 0.5),  # accuracies 0.5 and 0.6
        ((0, 10, 0, 0), 0.0, 0.0, 0.0),  # always right, and always wrong
        ((5, 5, 0, 0), 0.0, 0.5, 0.5),  # always right, and half of the time
    ],
)
def test_kappa_by_hand(table, kappa, observed, expected):
    first, second = answers(*table)
    for pair in ((first, second), (second, first)):
        assert error_consistency(*pair) == pytest.approx((kappa, observed, expected), abs=1e-12)


@pytest.mark.parametrize("table", [(10, 0, 0, 0), (0, 0, 0, 10)])
def test_kappa_of_equal_accuracies_without_spread_is_not_defined(table):
    kappa, observed, expected = error_consistency(*answers(*table))
    assert math.isnan(kappa)
    assert (observed, expected) == (1, 1)


def test_without_images_nothing_is_defined():
    assert all(math.isnan(value) for value in error_consistency(np.zeros(0), np.zeros(0)))


def test_answers_to_other_images_are_refused():
    with pytest.raises(SettingError, match="error consistency: expected two answers to every image, got 3, 2"):
        error_consistency(np.ones(3, dtype=bool), np.ones(2, dtype=bool))


def test_it_is_cohens_kappa():
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(0)
    for share in (0.1, 0.5, 0.9):
        first, second = generator.random((2, 200)) < share
        assert error_consistency(first, second)[0] == pytest.approx(metrics.cohen_kappa_score(first, second))


def test_pairs_are_those_of_one_training_set_and_of_two():
    first, second = answers(20, 5, 10, 15)
    always = np.ones(50, dtype=bool)
    rows = compare_errors({"originals": [first, second], "students": [first], "teacher": [always]})
    by_sets = {(row.pop("trained_on"), row.pop("other")): row for row in rows}
    nan = pytest.approx(math.nan, nan_ok=True)

    assert by_sets == {
        ("originals", "originals"): named(0.4, 0.7, 0.5, 1),
        ("originals", "students"): named((1 + 0.4) / 2, (1 + 0.7) / 2, 0.5, 2),  # of (0.5, 0.5) and (0.6, 0.5)
        ("originals", "teacher"): named(0, 0.55, 0.55, 2),
        ("students", "teacher"): named(0, 0.5, 0.5, 1),
    }
    undefined = compare_errors({"teacher": [always, always]})
    assert undefined == [{"trained_on": "teacher", "other": "teacher", **named(nan, nan, nan, 0)}]


def named(kappa: object, observed: object, expected: object, num_pairs: int) -> dict[str, object]:
    means = {"error_consistency": kappa, "observed": observed, "expected": expected}
    close = {name: pytest.approx(value) if isinstance(value, int | float) else value for name, value in means.items()}
    return {**close, "num_pairs": num_pairs, "num_images": 50}
