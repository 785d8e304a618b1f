"""The control without distillation, beside a finished chain."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import pytest

from pipelines.running import Place, artifacts_in, state_of
from skdcgn_pipeline.mechanisms import MECHANISMS
from skdcgn_pipeline.students.trio import StudentCGN

pytestmark = pytest.mark.slow


def test_the_baseline_is_trained_and_measured_as_students_are(copy_of_finished: Callable[[str], Place]) -> None:
    place = copy_of_finished("baseline")
    before = {kind: state_of(place.store(kind)) for kind in ("student", "sample", "classifier", "counterfactual")}

    run = place.run(pipeline_names=["baseline"])

    (identity,) = artifacts_in(place.store("baseline"))
    assert StudentCGN.from_pretrained(place.store("baseline") / identity).image_size == 32
    for kind, state in before.items():  # nothing of the students, of the teacher or of the originals is made again
        after = state_of(place.store(kind))
        assert {name: after[name] for name in state} == state
    assert state_of(place.store("student")) == before["student"]

    comparison = pd.read_parquet(place.saved("07_tables/*/baseline_comparison.parquet"))
    assert list(comparison["mechanism"]) == [*MECHANISMS, "all"]
    accuracy = pd.read_parquet(place.saved("07_tables/*/baseline_accuracy.parquet"))
    assert list(accuracy["trained_on"].unique()) == ["originals", "teacher", "baseline"]
    generation = pd.read_parquet(place.saved("07_tables/*/baseline_generation_metrics.parquet"))
    assert set(generation["images"]) == {"baseline", "teacher"}
    told = {"fid", "inception_score", "mean_mask", "mask_entropy", "collapsed_masks"}
    assert told <= set(generation[generation["images"] == "baseline"]["measure"])
    for picture in ("sheet", "loss_curves", "counterfactual_sheet", "accuracy_chart"):
        assert place.saved(f"08_reporting/*/baseline_{picture}.png").stat().st_size > 1000

    metrics = place.run_of(run).data.metrics
    recorded = ("mean_mask", "mask_entropy", "inception_score", "collapsed_masks", "reconstruction", "texture")
    assert {f"baseline/loss/{name}" for name in recorded} <= set(metrics)
    assert {"baseline/shape/mask_iou", "generation/baseline/inception_score", "accuracy/baseline/test/all"} <= set(
        metrics
    )
