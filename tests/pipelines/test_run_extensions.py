"""Runs with code of a user's own, as the page about it says."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipelines.running import Place
from skdcgn_pipeline.runtime.errors import SettingError

CODE: dict[str, Any] = {
    "shape": {"distill": {"weights": {"further": {"my_loss:edges": 0.5}}}},
    "compose": {
        "composition": {"transformations": {"texture": [{"kind": "my_transformation:quantise", "strength": 3}]}}
    },
    "classify": {"network": {"architecture": "my_network:make_network"}},
    "ablation": {"study": ["my_study:ShareStudy"]},
    "teacher": {"name": "custom", "factory": "my_teacher:make_teacher"},
    "images": {"source": "digits"},
}


@pytest.mark.slow
def test_a_run_with_code_of_ones_own(examples: Path, place: Place) -> None:
    place.run(params=CODE, pipeline_names=["ablation", "classify"])
    cells = pd.read_parquet(place.saved("07_tables/*/ablation_cells.parquet"))
    assert set(cells["cell"]) == {"reference", "one in ten"}
    assert "A few originals" in place.saved("08_reporting/*/ablation.html").read_text()
    assert place.saved("08_reporting/*/study_further.png").stat().st_size > 1000
    accuracy = pd.read_parquet(place.saved("07_tables/*/accuracy.parquet"))
    assert set(accuracy["trained_on"]) == {"originals", "teacher", "students"}


def test_images_of_ones_own(examples: Path, place: Place) -> None:
    images = {"source": "my_images:read_images"}
    classify = {"trained_on": ["originals"], "network": {"architecture": "my_network:make_network"}}
    place.run(params={"images": images, "variant": "mine", "classify": classify}, pipeline_names=["classify"])
    table = pd.read_parquet(place.saved("07_tables/*/accuracy.parquet"))
    assert set(table["split"]) == {"validation", "test"}


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"images": {"source": "absent:read"}, "variant": "mine"}, "images.source: expected an importable module"),
        ({"classify": {"network": {"architecture": "absent:make"}}}, "classify.network.architecture: expected"),
        (
            {"shape": {"distill": {"weights": {"further": {"absent:loss": 1}}}}},
            "shape.distill.weights.further: expected",
        ),
        ({"teacher": {"name": "custom", "factory": "my_loss:edges"}}, "teacher.factory: expected an importable module"),
    ],
)
def test_code_that_is_not_there_is_refused_before_work(
    examples: Path, place: Place, params: dict[str, Any], told: str
) -> None:
    with pytest.raises(SettingError, match=told):
        place.run(params=params, pipeline_names=["classify"])
    assert not (place.data / "stores").exists()
    assert "absent" not in sys.modules
