"""Composition, effectiveness, preservation and minimality, against generators whose figures are known."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from skdcgn_pipeline.artifacts.recipe import build_in
from skdcgn_pipeline.mechanisms import LabelsLike, MechanismImages, MechanismLabels
from skdcgn_pipeline.metrics.counterfactual_quality import (
    FACTUAL,
    INTERVENTIONS,
    CounterfactualQuality,
    intervene,
    latent_divergence,
    quality_metrics,
    quality_table,
)
from skdcgn_pipeline.metrics.features import FeatureSpace, Seen
from skdcgn_pipeline.parameters import Compute
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.samples.drawing import SampleShards
from skdcgn_pipeline.vocabulary import MECHANISMS
from tiny import draw_samples


class ReadableTeacher:
    """Its pixels tell every class: so many rows of mask, red for the texture, blue for the background.

    Args:
        deaf: The mechanism that paints class 0 whatever is asked.
        brightness: Of green, which tells nothing.
    """

    noise_dim, num_classes, image_size = 2, 3, 8

    def __init__(self, deaf: str | None = None, brightness: float = 0.0) -> None:
        self.deaf, self.brightness = deaf, brightness

    def render(self, noise: Tensor, labels: LabelsLike) -> MechanismImages:
        asked = MechanismLabels.of(labels)
        shape, texture, background = (getattr(asked, m) * (m != self.deaf) for m in MECHANISMS)
        size = self.image_size
        mask = (torch.arange(size) < 2 * (shape[:, None] + 1)).float()[:, None, :, None].expand(-1, 1, size, size)
        flat = torch.full((len(noise), 3, size, size), -1.0)
        flat[:, 1] = self.brightness
        foreground, behind = flat.clone(), flat.clone()
        foreground[:, 0] = (texture / 2)[:, None, None]
        behind[:, 2] = (background / 2)[:, None, None]
        return MechanismImages(mask, foreground, behind)


def read_by(mechanism: str) -> FeatureSpace:
    """Read a class as `ReadableTeacher` paints it; the features are the class itself."""

    def look(images: Tensor) -> Seen:
        red, blue = images[:, 0].flatten(1), images[:, 2].flatten(1)
        read = {
            "shape": (red > -0.5).sum(1) / 16 - 1,
            "texture": 2 * red.amax(1),
            "background": 2 * blue.amax(1),
        }[mechanism]
        classes = read.round().long().clamp(0, 2)
        return Seen(classes[:, None].float(), torch.nn.functional.one_hot(classes, 3).float())

    return FeatureSpace(look, f"reader of {mechanism}")


READERS = {mechanism: read_by(mechanism) for mechanism in MECHANISMS}


@pytest.fixture
def heldout(tmp_path: Path, cpu: Compute) -> SampleShards:
    return draw_samples(tmp_path / "heldout", ReadableTeacher(), {"name": "readable"}, 10, 20, 0, cpu, "heldout")


def measures(
    folder: Path, generator: ReadableTeacher, heldout: SampleShards
) -> dict[tuple[str, str, str | None], float]:
    identity = f"{generator.deaf} {generator.brightness}"
    rows = build_in(folder, CounterfactualQuality(generator, identity, heldout, READERS, 0, Compute(device="cpu")))
    assert {row["num_images"] for row in rows} == {30}
    return {(row["intervention"], row["measure"], row["mechanism"]): row["value"] for row in rows}


def test_an_intervention_changes_one_class_and_nothing_else(heldout: SampleShards) -> None:
    batches = list(intervene(ReadableTeacher(), heldout, 0, "cpu"))
    assert sum(len(batch.teacher) for batch in batches) == 30
    for batch in batches:
        own = batch.labels[FACTUAL]
        assert (own == own[:, :1]).all()
        assert [*batch.composites] == [*INTERVENTIONS]
        for column, mechanism in enumerate(MECHANISMS):
            changed = batch.labels[mechanism] != own
            assert changed[:, column].all()
            assert changed.sum() == len(own)
    others = {int(label) for batch in batches for label in batch.labels["shape"][:, 0]}
    assert others == {0, 1, 2}
    again = next(intervene(ReadableTeacher(), heldout, 0, "cpu", num_images=5))
    assert len(again.teacher) == 5
    assert torch.equal(again.composites["texture"], batches[0].composites["texture"][:5])


def test_one_class_alone_is_refused(tmp_path: Path, cpu: Compute) -> None:
    one = draw_samples(tmp_path, ReadableTeacher(), {"name": "one"}, 4, 20, 0, cpu, "heldout", classes=[1])
    with pytest.raises(SettingError, match=r"sample.classes.*two classes"):
        next(intervene(ReadableTeacher(), one, 0, "cpu"))


def test_a_teacher_that_does_what_it_is_told_has_full_marks(tmp_path: Path, heldout: SampleShards) -> None:
    of = measures(tmp_path, ReadableTeacher(), heldout)
    assert of[FACTUAL, "composition", None] < 1 / 127.5  # what storing as bytes costs
    for intervention in INTERVENTIONS:
        for mechanism in MECHANISMS:
            measure = "effectiveness" if mechanism == intervention else "preservation"
            assert of[intervention, measure, mechanism] == 1
    # The features are the three classes. A change of one goes |a - b|; images of the new class, where all three
    # differ, are at three times that, those of its own at 0: nothing of either is where it should not be.
    assert [of[m, "minimality", None] for m in MECHANISMS] == pytest.approx([0, 0, 0])


def test_a_deaf_mechanism_has_no_effect_and_spoils_no_other(tmp_path: Path, heldout: SampleShards) -> None:
    of = measures(tmp_path, ReadableTeacher(deaf="texture"), heldout)
    told_zero = of["texture", "effectiveness", "texture"]
    assert 0 < told_zero < 0.5  # those whose new class happens to be 0
    assert of["texture", "preservation", "shape"] == of["texture", "preservation", "background"] == 1
    assert of["shape", "effectiveness", "shape"] == 1
    assert of["shape", "preservation", "texture"] == pytest.approx(1 / 3)
    assert of["texture", "minimality", None] > 0.05  # it stays where images of its own class are


def test_composition_is_the_distance_to_the_teacher(tmp_path: Path, heldout: SampleShards) -> None:
    of = measures(tmp_path, ReadableTeacher(brightness=0.5), heldout)
    assert of[FACTUAL, "composition", None] == pytest.approx(0.5 / 3, abs=1 / 127.5)


def test_divergence_is_that_of_its_formula() -> None:
    factual, reference = torch.zeros(1, 1), torch.tensor([[1.0], [2.0], [3.0], [0.5], [4.0]])
    new = torch.tensor([[True, True, True, False, False]])
    counterfactual = torch.full((1, 1), 2.0)
    expected = math.log(0.8 * math.exp(2 / 3) + 0.2 * math.exp(1 / 2))
    assert latent_divergence(factual, counterfactual, reference, new, ~new).item() == pytest.approx(expected)


def test_tables_and_metrics_name_what_was_measured() -> None:
    import pandas as pd

    table = pd.DataFrame(
        [
            ["teacher", FACTUAL, "composition", None, 0.1, 30],
            ["teacher", "shape", "effectiveness", "shape", 0.9, 30],
            ["teacher", "shape", "preservation", "texture", 0.8, 30],
            ["students", "shape", "preservation", "texture", 0.7, 30],
        ],
        columns=["images", "intervention", "measure", "mechanism", "value", "num_images"],
    )
    wide = quality_table(table)
    assert list(wide.columns) == ["intervention", "measure", "mechanism", "teacher", "students"]
    assert wide.iloc[2].tolist() == ["shape", "preservation", "texture", 0.8, 0.7]
    assert quality_metrics(table) == {
        "quality/teacher/none/composition": 0.1,
        "quality/teacher/shape/effectiveness": 0.9,
        "quality/teacher/shape/preservation/texture": 0.8,
        "quality/students/shape/preservation/texture": 0.7,
    }
