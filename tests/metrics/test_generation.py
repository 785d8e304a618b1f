"""Students and teacher measured in one pass: fidelity by mechanism, FID, IS and the measures of masks."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from skdcgn_pipeline.artifacts.recipe import build_in
from skdcgn_pipeline.images.image_set import ImagesInMemory, Split
from skdcgn_pipeline.mechanisms import MechanismImages, compose
from skdcgn_pipeline.metrics import pairs as module
from skdcgn_pipeline.metrics.features import FeatureSpace, Seen
from skdcgn_pipeline.metrics.generation import (
    COLUMNS,
    Generation,
    GenerationRecipe,
    ImageStatistics,
    compare_images,
    generation_metrics,
)
from skdcgn_pipeline.metrics.likeness import StreamedGaussian, frechet_distance
from skdcgn_pipeline.metrics.pairs import first_images, heldout_pairs, measure_likeness
from skdcgn_pipeline.parameters import GenerationMetrics
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.samples.drawing import SampleShards
from skdcgn_pipeline.students.trio import StudentCGN
from skdcgn_pipeline.teachers.teacher import IdentifiedTeacher
from skdcgn_pipeline.vocabulary import MECHANISMS
from tiny import TinyTeacher, draw_samples

SETTINGS = GenerationMetrics(num_splits=2)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def look_at_pixels(images: torch.Tensor) -> Seen:
    """See channel means and squares as features, and the means as logits of three classes."""
    means = images.mean((2, 3))
    return Seen(torch.cat([means, images.square().mean((2, 3))], 1), 5 * means)


PIXELS = FeatureSpace(look_at_pixels, "pixels")


@pytest.fixture
def heldout(tmp_path, cpu) -> SampleShards:
    return draw_samples(tmp_path / "heldout", TinyTeacher(), {"name": "tiny"}, 10, 20, 0, cpu, "heldout")


@pytest.fixture
def students() -> StudentCGN:
    torch.manual_seed(0)
    small = {"architecture": "compact", "width": [4, 6, 4], "embedding_dim": 4}
    return StudentCGN(4, 3, 8, dict.fromkeys(MECHANISMS, small)).eval()


# --- streams -------------------------------------------------------------------------------------


def statistics_of(images: torch.Tensor, size: int = 9, mask: torch.Tensor | None = None):
    statistics = ImageStatistics(len(images), PIXELS, SETTINGS, 0)
    masks = [None] * len(images) if mask is None else mask.split(size)
    for batch in zip(images.split(size), masks, strict=False):
        statistics.update(*batch)
    return statistics


def test_distances_are_those_of_the_features():
    first, second = numbers(30, 3, 4, 4), numbers(30, 3, 4, 4, seed=1) + 0.5
    fid = compare_images("a", statistics_of(first), "b", statistics_of(second))
    streams = (StreamedGaussian().update(look_at_pixels(images).features) for images in (first, second))
    assert fid["value"] == pytest.approx(frechet_distance(*(stream.gaussian() for stream in streams)))
    assert (fid["measure"], fid["num_images"], fid["sd"]) == ("fid", 30, None)


def test_batches_do_not_matter():
    images = numbers(30, 3, 4, 4)
    mask = torch.rand(30, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    other = statistics_of(numbers(30, 3, 4, 4, seed=1))
    tables = [
        [*one.describe("a"), compare_images("a", one, "b", other)]
        for one in (statistics_of(images, size, mask=mask) for size in (4, 30))
    ]
    for mine, theirs in zip(*tables, strict=True):
        assert mine["measure"] == theirs["measure"]
        assert mine["value"] == pytest.approx(theirs["value"], rel=1e-5, abs=1e-9)


def test_masks_tell_of_their_mean_their_entropy_and_their_collapse():
    mask = torch.tensor([0.0, 1.0, 0.5, 0.25]).view(4, 1, 1, 1).expand(4, 1, 4, 4)
    statistics = statistics_of(numbers(4, 3, 4, 4), size=3, mask=mask)
    rows = {row["measure"]: row for row in statistics.describe("a")}
    assert rows["mean_mask"]["value"] == pytest.approx(0.4375)
    assert rows["mean_mask"]["sd"] == pytest.approx(torch.tensor([0.0, 1.0, 0.5, 0.25]).std(correction=0).item())
    quarter = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    assert rows["mask_entropy"]["value"] == pytest.approx((1 + quarter) / 4)
    assert rows["collapsed_masks"]["value"] == 0.5


def test_the_teacher_rendered_anew_is_what_is_stored(heldout):
    pairs = list(heldout_pairs(TinyTeacher(), heldout))
    assert sum(len(pair.teacher) for pair in pairs) == heldout.num_rows
    for pair in pairs:
        mine, theirs = pair.composites
        assert (mine - theirs).abs().max() < 3 / 127.5  # what storing as bytes costs
        assert (pair.students.mask - pair.teacher.mask).abs().max() < 1 / 255


def test_composites_have_the_patch_shifts_that_are_recorded(heldout):
    pair = next(heldout_pairs(TinyTeacher(), heldout))
    columns = heldout.read("foreground_offset", "background_offset")
    row = 3
    images = pair.students[slice(row, row + 1)]
    expected = compose(
        MechanismImages(
            images.mask,
            images.foreground.roll([-int(n) for n in columns["foreground_offset"][row]], (2, 3)),
            images.background.roll([-int(n) for n in columns["background_offset"][row]], (2, 3)),
        )
    )
    assert torch.equal(pair.composites[0][row : row + 1], expected)


def test_heldout_images_are_rendered_in_batches_of_their_own_noise(heldout, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 7)
    teacher = TinyTeacher()
    rendered, stored = first_images(teacher, heldout, 16)
    assert len(rendered) == len(stored) == 16
    assert teacher.num_calls == 3
    assert (rendered.foreground - stored.foreground).abs().max() <= 1 / 127.5
    assert len(first_images(teacher, heldout, 100)[0]) == heldout.num_rows


# --- the whole -----------------------------------------------------------------------------------


class Biased:
    """Stands for the biased images."""

    artifact = SimpleNamespace(identity="biased")

    def split(self, name: str) -> Split:
        assert name == "train"
        images = torch.randint(256, (50, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        return Split(name, "train", ImagesInMemory(images), torch.arange(50) % 3)


def recipe(heldout, students, cpu, **changes) -> GenerationRecipe:
    given = {
        "teacher": IdentifiedTeacher(TinyTeacher(), {"name": "tiny"}),
        "students": students,
        "students_identity": "own",
        "heldout": heldout,
        "biased_images": Biased(),
        "space": PIXELS,
        "settings": SETTINGS,
        "seed": 0,
        "compute": cpu,
    }
    return GenerationRecipe(**(given | changes))


def test_everything_is_measured_once_and_named(tmp_path, heldout, students, cpu):
    def measure(**changes) -> Generation:
        return build_in(tmp_path / "store", recipe(heldout, changes.pop("students", students), cpu, **changes))

    measured = measure()
    table = measured.measures
    assert list(table.columns) == COLUMNS
    of = table.set_index(["images", "measure", "reference"]).sort_index()["value"]
    assert of["students", "fid", "training images"] > 0
    assert of["teacher", "fid", "training images"] > 0
    assert not [row for row in of.index if row[0] == "teacher" and row[2] == "teacher"]
    assert set(table[table["images"] == "teacher"]["measure"]) == {
        "fid", "inception_score", "mean_mask", "mask_entropy", "collapsed_masks",
    }  # fmt: skip
    metrics = generation_metrics(table)
    assert metrics["generation/students/fid/teacher"] == of["students", "fid", "teacher"]
    assert {"generation/teacher/inception_score_sd", "generation/students/mean_mask"} <= set(metrics)

    again = measure(students=SimpleNamespace(noise_dim=4, num_classes=3, image_size=8))  # nothing is rendered
    assert again.fidelity.equals(measured.fidelity)
    assert again.measures.equals(table)
    named = again.named("baseline")
    assert named.assign(images=named["images"].replace("baseline", "students")).equals(table)
    assert len(list((tmp_path / "store").glob("[0-9a-f]*"))) == 1
    without = measure(biased_images=None)
    assert "training images" not in set(without.measures["reference"])
    assert without.fidelity["frechet_ratio"].isna().all()
    assert measure(settings=SETTINGS.model_copy(update={"num_splits": 3})).measures.shape == table.shape
    assert len(list((tmp_path / "store").glob("[0-9a-f]*"))) == 3


def test_there_is_one_frechet_distance(tmp_path, heldout, students, cpu):
    measured = build_in(tmp_path / "store", recipe(heldout, students, cpu))
    distances = measured.measures[measured.measures["measure"] == "fid"].set_index(["images", "reference"])
    whole = measured.fidelity.set_index("mechanism").loc["all"]
    assert whole["frechet"] == distances["value"]["students", "teacher"]
    assert whole["frechet_teacher"] == distances["value"]["teacher", "training images"]
    assert whole["frechet_ratio"] == pytest.approx(whole["frechet"] / whole["frechet_teacher"])


def test_every_image_is_looked_at_once(tmp_path, heldout, students, cpu):
    seen = []

    def look(images: torch.Tensor) -> Seen:
        seen.append(len(images))
        return look_at_pixels(images)

    build_in(tmp_path / "store", recipe(heldout, students, cpu, space=FeatureSpace(look, "counted")))
    assert sum(seen) == 2 * heldout.num_rows * 4 + heldout.num_rows  # two of each mechanism and composite; training


def test_the_teacher_compared_with_itself_is_equal(tmp_path, heldout, cpu):
    table = build_in(tmp_path / "store", recipe(heldout, TinyTeacher(), cpu)).fidelity.set_index("mechanism")
    assert list(table.index) == [*MECHANISMS, "all"]
    assert table["l1"].max() < 1 / 127.5  # what storing as bytes costs
    assert table.loc["shape", "mask_iou"] > 0.99
    assert table["frechet"].max() < 1e-4
    assert (table["num_images"] == 30).all()
    assert table["frechet_ratio"].isna().tolist() == [True, True, True, False]
    assert table.loc["all", "frechet_teacher"] > 0.01
    assert table.loc["all", "frechet_ratio"] < 1e-2


def test_untrained_students_are_far_from_their_teacher(tmp_path, heldout, students, cpu):
    table = build_in(tmp_path / "store", recipe(heldout, students, cpu)).fidelity.set_index("mechanism")
    assert table["l1"].min() > 0.05
    assert table.loc["shape", "mask_iou"] < 0.9
    assert table["frechet"].min() > 1e-3
    assert table["mask_iou"].isna().tolist() == [False, True, True, True]


def test_masks_are_compared_as_grey_images(tmp_path, heldout, students, cpu):
    table = build_in(tmp_path / "store", recipe(heldout, students, cpu)).fidelity.set_index("mechanism")
    mine, theirs = first_images(students, heldout, heldout.num_rows)
    streams = [StreamedGaussian().update(look_at_pixels((x.mask * 2 - 1).expand(-1, 3, -1, -1)).features)
               for x in (mine, theirs)]  # fmt: skip
    expected = frechet_distance(*(stream.gaussian() for stream in streams))
    assert table.loc["shape", "frechet"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("logits", [True, False])
def test_what_needs_a_space_or_logits_is_left_out_without(tmp_path, heldout, students, cpu, logits):
    space = FeatureSpace(lambda images: look_at_pixels(images)._replace(logits=None), "trunk") if not logits else None
    measured = build_in(tmp_path / "store", recipe(heldout, students, cpu, space=space))
    masks = {"mean_mask", "mask_entropy", "collapsed_masks"}
    assert set(measured.measures["measure"]) == (masks if logits else masks | {"fid"})
    assert measured.fidelity["frechet"].isna().all() == logits
    assert measured.fidelity["l1"].notna().all()


def test_likeness_is_that_of_the_fidelity(tmp_path, heldout, students, cpu):
    of_itself = measure_likeness(TinyTeacher(), heldout)
    assert of_itself["mask_iou"] > 0.99
    assert max(of_itself["l1_foreground"], of_itself["l1_background"]) < 1 / 127.5
    table = build_in(tmp_path / "store", recipe(heldout, students, cpu)).fidelity.set_index("mechanism")
    assert measure_likeness(students, heldout) == pytest.approx(
        {
            "mask_iou": table.loc["shape", "mask_iou"],
            "l1_foreground": table.loc["texture", "l1"],
            "l1_background": table.loc["background", "l1"],
        }
    )


def test_students_of_another_interface_are_refused(tmp_path, heldout, cpu):
    other = SimpleNamespace(noise_dim=5, num_classes=3, image_size=8)
    with pytest.raises(SettingError, match="'noise_dim': 5"):
        build_in(tmp_path, recipe(heldout, other, cpu))
