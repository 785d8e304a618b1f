"""Students compared with their teacher on noise that was never trained on."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from skdcgn_pipeline.mechanisms import MechanismImages, compose
from skdcgn_pipeline.metrics import comparison, cost
from skdcgn_pipeline.metrics.comparison import (
    compare_with_teacher,
    compose_heldout,
    measure_costs,
    measure_fidelity,
    measure_likeness,
    render_heldout,
)
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.samples.drawing import SampleShards, draw_samples
from skdcgn_pipeline.students.trio import StudentCGN
from skdcgn_pipeline.teachers.teacher import IdentifiedTeacher
from skdcgn_pipeline.vocabulary import MECHANISMS
from tiny import TinyTeacher


class PooledPixels(nn.Module):
    """Stands for the feature network: the mean of every channel, and of its square."""

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([images.mean((2, 3)), images.square().mean((2, 3))], 1)


@pytest.fixture
def heldout(tmp_path, cpu) -> SampleShards:
    return draw_samples(tmp_path / "heldout", TinyTeacher(), {"name": "tiny"}, 10, 20, 0, cpu, "heldout")


@pytest.fixture
def students() -> StudentCGN:
    torch.manual_seed(0)
    small = {"architecture": "compact", "width": [4, 6, 4], "embedding_dim": 4}
    return StudentCGN(4, 3, 8, dict.fromkeys(MECHANISMS, small)).eval()


@pytest.fixture
def training_images() -> torch.Tensor:
    return torch.randint(256, (30, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Biased:
    """Stands for the biased images."""

    artifact = SimpleNamespace(identity="biased")

    def split(self, name: str) -> SimpleNamespace:
        assert name == "train"
        return SimpleNamespace(images=torch.randint(256, (50, 3, 8, 8), dtype=torch.uint8))


@pytest.fixture
def no_waiting(monkeypatch):
    monkeypatch.setattr(cost, "SECONDS_PER_REPEAT", 0.001)


def test_the_teacher_compared_with_itself_is_equal(heldout, cpu, training_images):
    table = measure_fidelity(TinyTeacher(), heldout, training_images, PooledPixels(), cpu).set_index("mechanism")
    assert list(table.index) == [*MECHANISMS, "all"]
    assert table["l1"].max() < 1 / 127.5  # what storing as bytes costs
    assert table.loc["shape", "mask_iou"] > 0.99
    assert table["frechet"].max() < 1e-4
    assert (table["num_images"] == 30).all()
    assert table["frechet_ratio"].isna().tolist() == [True, True, True, False]
    assert table.loc["all", "frechet_teacher"] > 0.01
    assert table.loc["all", "frechet_ratio"] < 1e-2


def test_composites_have_the_patch_shifts_that_are_recorded(heldout):
    rendered, _ = render_heldout(TinyTeacher(), heldout)
    columns = heldout.read("foreground_offset", "background_offset")
    row = 3
    one = rendered[slice(row, row + 1)]
    expected = compose(
        MechanismImages(
            one.mask,
            one.foreground.roll([-int(n) for n in columns["foreground_offset"][row]], (2, 3)),
            one.background.roll([-int(n) for n in columns["background_offset"][row]], (2, 3)),
        )
    )
    assert torch.equal(compose_heldout(rendered, heldout)[row : row + 1], expected)


def test_untrained_students_are_far_from_their_teacher(heldout, students, cpu, training_images):
    table = measure_fidelity(students, heldout, training_images, PooledPixels(), cpu).set_index("mechanism")
    assert table["l1"].min() > 0.05
    assert table.loc["shape", "mask_iou"] < 0.9
    assert table["frechet"].min() > 1e-3
    assert table["mask_iou"].isna().tolist() == [False, True, True, True]


def test_heldout_images_are_rendered_in_batches_of_their_own_noise(heldout, monkeypatch):
    monkeypatch.setattr(comparison, "RENDER_BATCH", 7)
    rendered, stored = render_heldout(TinyTeacher(), heldout)
    assert len(rendered) == len(stored) == 30
    assert (rendered.foreground - stored.foreground).abs().max() <= 1 / 127.5


def test_students_of_another_interface_are_refused(heldout, cpu, training_images):
    small = {"architecture": "compact", "width": [4, 6, 4], "embedding_dim": 4}
    students = StudentCGN(5, 3, 8, dict.fromkeys(MECHANISMS, small))
    with pytest.raises(SettingError, match="'noise_dim': 5"):
        measure_fidelity(students, heldout, training_images, PooledPixels(), cpu)


def test_likeness_is_that_of_the_fidelity(heldout, students, cpu, training_images):
    of_itself = measure_likeness(TinyTeacher(), heldout)
    assert of_itself["mask_iou"] > 0.99
    assert max(of_itself["l1_foreground"], of_itself["l1_background"]) < 1 / 127.5
    likeness = measure_likeness(students, heldout)
    table = measure_fidelity(students, heldout, training_images, PooledPixels(), cpu).set_index("mechanism")
    assert likeness == pytest.approx(
        {
            "mask_iou": table.loc["shape", "mask_iou"],
            "l1_foreground": table.loc["texture", "l1"],
            "l1_background": table.loc["background", "l1"],
        }
    )


def test_costs_of_a_teacher_that_cannot_tell_are_empty(students, no_waiting):
    table = measure_costs(TinyTeacher(), students, 4).set_index("mechanism")
    assert table["teacher_parameters"].isna().all()
    assert table["teacher_macs"].isna().all()
    assert table["teacher_images_per_s"].notna().tolist() == [False, False, False, True]
    assert table["student_images_per_s"].min() > 0
    parts = table.loc[list(MECHANISMS)]
    assert parts["student_parameters"].sum() == table.loc["all", "student_parameters"]
    assert parts["student_macs"].sum() == table.loc["all", "student_macs"]


def test_a_comparison_is_measured_once(tmp_path, heldout, students, cpu, no_waiting):
    teacher = IdentifiedTeacher(TinyTeacher(), {"name": "tiny"})
    arguments = (students, "students", heldout, Biased(), PooledPixels(), "features", 4, cpu)
    first = compare_with_teacher(tmp_path / "store", teacher, *arguments)
    calls = teacher.generator.num_calls
    second = compare_with_teacher(tmp_path / "store", teacher, *arguments)
    assert teacher.generator.num_calls == calls
    assert first.equals(second)
    assert {"l1", "mask_iou", "frechet", "student_parameters", "student_macs"} <= set(first.columns)
