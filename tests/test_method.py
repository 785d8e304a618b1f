"""The whole method, with next to no effort."""

from __future__ import annotations

import os

from skdcgn_pipeline import method


def test_the_method_runs_from_images_to_an_accuracy_and_reuses_what_it_made(tmp_path):
    accuracy = method.run_method(tmp_path, effort=2)
    assert 0 <= accuracy <= 1
    kinds = {"images", "teacher", "sample", "student", "counterfactual"}
    assert {entry.name for entry in os.scandir(tmp_path)} >= kinds
    made = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/manifest.json")}
    assert len(made) == 9  # two sets of samples; three students and what binds them
    assert method.run_method(tmp_path, effort=2) == accuracy
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/manifest.json")} == made
