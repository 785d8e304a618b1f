"""A teacher of the user's own, of another size and number of classes than any that is shipped, without real images."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import torch

from pipelines.running import Place, untouched_mlflow
from skdcgn_pipeline import StudentCGN
from skdcgn_pipeline.explorer.bundle import open_explorer
from skdcgn_pipeline.explorer.scene import Choice
from skdcgn_pipeline.mechanisms import LabelsLike, MechanismImages, MechanismLabels
from skdcgn_pipeline.runtime.errors import SettingError

FACTORY = {"name": "custom", "factory": "pipelines.test_own_teacher:Polygons"}
TEACHER = {"teacher": FACTORY}


class Polygons:
    """Polygons of three to nine corners on shaded grounds."""

    noise_dim, num_classes, image_size = 16, 7, 48
    class_names = ("triangle", "square", "pentagon", "hexagon", "heptagon", "octagon", "nonagon")

    def render(self, noise: torch.Tensor, labels: LabelsLike) -> MechanismImages:
        """Render each mechanism from its own class and part of the noise."""
        labels, noise = MechanismLabels.of(labels), noise.tanh()[:, :, None, None]
        axis = torch.linspace(-1, 1, self.image_size)
        y, x = axis.view(1, -1, 1) - 0.3 * noise[:, 0], axis.view(1, 1, -1) - 0.3 * noise[:, 1]
        step = 2 * torch.pi / (3 + labels.shape[:, None, None])
        angle = torch.atan2(y, x) + noise[:, 2] + 4
        edge = torch.hypot(x, y) * torch.cos(angle % step - step / 2)
        mask = torch.sigmoid(25 * (0.45 + 0.1 * noise[:, 3] - edge))[:, None]

        def shades(classes: torch.Tensor, first: int) -> torch.Tensor:
            hue = 2 * torch.pi * classes[:, None] / self.num_classes + torch.tensor([0.0, 2.1, 4.2])
            ramp = axis.view(1, 1, -1, 1) * noise[:, first : first + 1]
            return (0.7 * torch.cos(hue)[:, :, None, None] + 0.3 * ramp).expand(-1, -1, -1, self.image_size)

        return MechanismImages(mask, shades(labels.texture, 4), shades(labels.background, 5))


def folder_of(place: Place, name: str) -> Path:
    path = place.saved(f"06_models/*/{name}.json")
    return path.parent / json.loads(path.read_text())["directory"]


@pytest.mark.slow
def test_a_teacher_without_images_goes_from_students_to_page_export_and_explorer(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    run = place.run(params=TEACHER, pipeline_names=["report", "export", "explore"])

    assert [line for line in caplog.messages if "nothing is classified" in line] == [
        "There are no real images (images.source): nothing is classified, and features are not measured."
    ]
    page = place.saved("08_reporting/*/report.html").read_text(encoding="utf-8")
    assert "<h1>Distilled counterfactual generative network: test_own_teacher</h1>" in page
    assert "accuracy on" not in page.partition("<nav")[0], "nothing is classified"
    assert "The problem</h2>" not in page
    assert "masks agree with their teacher" in page.partition("What came out</h2>")[2].partition("<h3>")[0]
    comparison = pd.read_parquet(place.saved("07_tables/*/student_comparison.parquet"))
    assert comparison["frechet"].isna().all()
    assert comparison.set_index("mechanism").loc["shape", "mask_iou"] >= 0
    assert StudentCGN.from_pretrained(folder_of(place, "student_export")).sample(2, seed=0)[0].shape == (2, 3, 48, 48)
    explorer = open_explorer(folder_of(place, "explorer"), trust=True)
    assert [*explorer.scene.classes.values()] == [*Polygons.class_names]
    assert explorer.scene.draw(Choice(0, 6, 0, 3))["students"].opinions == {}
    with untouched_mlflow():
        mlflow.set_tracking_uri(place.tracking_uri)
        exported = f"run_id = '{place.run_of(run).info.run_id}'"
        assert {version.name for version in mlflow.MlflowClient().search_model_versions(exported)} == {
            "skdcgn_students_test_own_teacher"
        }
    assert place.run_of(run).info.run_name.startswith("test_own_teacher: report + export + explore")


def test_images_of_other_classes_than_the_teachers_are_refused_before_any_work(place: Place) -> None:
    message = (
        r"images: expected the 7 classes of the teacher at 48 pixels, got 10 classes \(0, 1, 2, \.\.\.\) at 32 pixels"
    )
    with pytest.raises(SettingError, match=message):
        place.run(params=TEACHER | {"images": {"source": "digits"}}, pipeline_names=["report"])
    assert not (place.data / "stores").exists()


def test_what_needs_real_images_alone_is_refused_without_any(place: Place) -> None:
    with pytest.raises(SettingError, match=r"expected what needs no real images, got prepare without any"):
        place.run(params=TEACHER, pipeline_names=["prepare"])
