"""FID, KID, IS and the measures of masks, against closed forms and torchmetrics."""

from __future__ import annotations

import math
import warnings
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from skdcgn_pipeline.classifiers.classifier import DigitClassifier
from skdcgn_pipeline.metrics import generation
from skdcgn_pipeline.metrics.fidelity import StreamedGaussian, frechet_distance, gaussian_statistics
from skdcgn_pipeline.metrics.generation import (
    ALL,
    COLUMNS,
    ImageBatch,
    ImageStatistics,
    JudgeNetwork,
    Seen,
    SplitScores,
    compare_images,
    describe_images,
    distances_by_class,
    gather_statistics,
    generation_metrics,
    inception_path,
    judge_of_classifier,
    kernel_distance,
    measure_generation,
    measures_of_all,
    open_inception,
    polynomial_mmd,
    rendered_composites,
    stored_composites,
)
from skdcgn_pipeline.parameters import GenerationMetrics
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.samples.drawing import SampleShards, draw_samples
from skdcgn_pipeline.students.trio import StudentCGN
from skdcgn_pipeline.teachers.teacher import IdentifiedTeacher
from skdcgn_pipeline.vocabulary import MECHANISMS
from tiny import TinyTeacher

SETTINGS = GenerationMetrics(num_subsets=3, subset_size=10, num_splits=2)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def look_at_pixels(images: torch.Tensor) -> Seen:
    """See channel means and squares as features, and the means as logits of three classes."""
    means = images.mean((2, 3))
    return Seen(torch.cat([means, images.square().mean((2, 3))], 1), 5 * means)


PIXELS = JudgeNetwork(look_at_pixels, "pixels")


@pytest.fixture
def heldout(tmp_path, cpu) -> SampleShards:
    return draw_samples(tmp_path / "heldout", TinyTeacher(), {"name": "tiny"}, 10, 20, 0, cpu, "heldout")


@pytest.fixture
def students() -> StudentCGN:
    torch.manual_seed(0)
    small = {"architecture": "compact", "width": [4, 6, 4], "embedding_dim": 4}
    return StudentCGN(4, 3, 8, dict.fromkeys(MECHANISMS, small)).eval()


# --- Frechet distance ----------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(30,), (1, 29), (7, 11, 12), (0, 30)])
def test_streamed_statistics_are_those_of_all_features_together(sizes):
    features = numbers(30, 4) + 1000  # far from zero, where sums of squares lose their digits
    streamed = StreamedGaussian()
    for part in features.split(list(sizes)):
        streamed.update(part)
    expected = gaussian_statistics(features)
    assert streamed.count == 30
    torch.testing.assert_close(streamed.statistics().mean, expected.mean)
    torch.testing.assert_close(streamed.statistics().covariance, expected.covariance, rtol=1e-9, atol=1e-9)


# --- inception score -----------------------------------------------------------------------------


def score_of(logits: torch.Tensor, num_splits: int = 1, batch: int = 7) -> tuple[float, float]:
    scores = SplitScores(len(logits), num_splits, seed=0)
    for part in logits.split(batch):
        scores.update(part)
    return scores.score()


def test_sure_and_varied_predictions_score_the_number_of_classes():
    assert score_of(100 * torch.eye(5).repeat(4, 1))[0] == pytest.approx(5)


def test_the_same_prediction_for_every_image_scores_one():
    assert score_of(numbers(1, 5).expand(20, 5))[0] == pytest.approx(1)
    assert score_of(torch.zeros(20, 5))[0] == pytest.approx(1)


def test_half_of_the_classes_score_half():
    assert score_of(100 * torch.eye(6)[torch.arange(18) % 3])[0] == pytest.approx(3)


def test_the_score_is_that_of_torchmetrics():
    logits = 3 * numbers(40, 6)
    metrics = pytest.importorskip("torchmetrics.image.inception")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one split has no standard deviation there
        metric = metrics.InceptionScore(feature=torch.nn.Identity(), splits=1)
        metric.update(logits)
        expected = metric.compute()[0].item()
    assert score_of(logits) == (pytest.approx(expected, rel=1e-5), 0)


def test_splits_are_random_equal_and_scored_apart():
    logits = 3 * numbers(21, 6)
    scores = SplitScores(21, 4, seed=1)
    scores.update(logits)
    assert sorted(scores._count.tolist()) == [5, 5, 5, 6]
    parts = [score_of(logits[scores._split_of == split])[0] for split in range(4)]
    mean, deviation = scores.score()
    assert mean == pytest.approx(sum(parts) / 4)
    assert deviation == pytest.approx(torch.tensor(parts).std(correction=0).item(), rel=1e-4)


def test_there_are_at_most_as_many_splits_as_images():
    assert score_of(numbers(3, 4), num_splits=10) == (pytest.approx(1), pytest.approx(0, abs=1e-9))


# --- kernel distance -----------------------------------------------------------------------------


def test_kernel_distance_of_two_halves_has_its_closed_form():
    # Of two images each, with one feature: the kernel is (x y + 1)^3.
    first, second = torch.tensor([[1.0], [1.0], [1.0], [1.0]]), torch.tensor([[2.0], [2.0], [2.0], [2.0]])
    assert kernel_distance(first, second, 2, 2, 0) == (pytest.approx(8 + 125 - 2 * 27), pytest.approx(0))


def test_one_subset_is_that_of_torchmetrics():
    metrics = pytest.importorskip("torchmetrics.image.kid")
    first, second = numbers(20, 5), 2 * numbers(20, 5, seed=1)
    assert polynomial_mmd(first, second) == pytest.approx(metrics.poly_mmd(first, second).item(), rel=1e-4)


def test_kernel_distance_is_unbiased_and_grows_with_the_shift():
    first, second = numbers(400, 3), numbers(400, 3, seed=1)
    same, deviation = kernel_distance(first, second, 50, 100, 0)
    assert abs(same) < 3 * deviation
    assert deviation > 0
    assert kernel_distance(first, second + 1, 50, 100, 0)[0] > same + 1


def test_subsets_follow_the_seed_and_leave_the_global_generator_alone():
    first, second = numbers(40, 3), numbers(40, 3, seed=1)
    before = torch.get_rng_state()
    once = kernel_distance(first, second, 3, 10, 0)
    assert torch.equal(torch.get_rng_state(), before)
    assert kernel_distance(first, second, 3, 10, 0) == once
    assert kernel_distance(first, second, 3, 10, 1) != once


# --- streams -------------------------------------------------------------------------------------


def batches_of(images: torch.Tensor, labels: torch.Tensor, size: int, mask: torch.Tensor | None = None):
    masks = [None] * len(images) if mask is None else mask.split(size)
    for part, own, covered in zip(images.split(size), labels.split(size), masks, strict=False):
        yield ImageBatch(part, own, covered)


def statistics_of(images: torch.Tensor, labels: torch.Tensor, size: int = 9, settings=SETTINGS, mask=None):
    return gather_statistics(batches_of(images, labels, size, mask), len(images), 3, PIXELS, settings, 0)


def table_of(rows):
    return {(row["measure"], row["label"]): row for row in rows}


def test_distances_are_those_of_all_and_of_each_class():
    first, second = numbers(30, 3, 4, 4), numbers(30, 3, 4, 4, seed=1) + 0.5
    labels = torch.arange(30) % 3
    rows = table_of(compare_images("a", statistics_of(first, labels), "b", statistics_of(second, labels), SETTINGS, 0))
    assert set(rows) == {("fid", ALL), ("fid", "0"), ("fid", "1"), ("fid", "2"), ("kid", ALL)}

    def distance(rows: torch.Tensor) -> float:
        return frechet_distance(*(gaussian_statistics(look_at_pixels(x[rows]).features) for x in (first, second)))

    assert rows["fid", ALL]["value"] == pytest.approx(distance(labels >= 0))
    assert rows["fid", "1"]["value"] == pytest.approx(distance(labels == 1))
    assert (rows["fid", "1"]["num_images"], rows["fid", ALL]["num_images"]) == (10, 30)
    assert rows["kid", ALL]["sd"] > 0
    assert rows["fid", ALL]["sd"] is None


def test_batches_do_not_matter():
    images, labels = numbers(30, 3, 4, 4), torch.arange(30) % 3
    mask = torch.rand(30, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    other = statistics_of(numbers(30, 3, 4, 4, seed=1), labels)
    tables = [
        describe_images("a", one) + compare_images("a", one, "b", other, SETTINGS, 0)
        for one in (statistics_of(images, labels, size, mask=mask) for size in (4, 30))
    ]
    for mine, theirs in zip(*tables, strict=True):
        assert mine["measure"] == theirs["measure"]
        assert mine["value"] == pytest.approx(theirs["value"], rel=1e-5, abs=1e-9)


@pytest.mark.parametrize(("classes", "labelled"), [("all", {0, 1, 2}), ((1, 7), {1}), ((), set())])
def test_classes_can_be_chosen(classes, labelled):
    own = SETTINGS.model_copy(update={"classes": classes})
    assert set(statistics_of(numbers(6, 3, 4, 4), torch.arange(6) % 3, settings=own).of_class) == labelled


def test_a_class_of_one_image_has_no_distance():
    one = statistics_of(numbers(4, 3, 4, 4), torch.tensor([0, 0, 0, 1]))
    rows = table_of(compare_images("a", one, "b", one, SETTINGS, 0))
    assert set(rows) == {("fid", ALL), ("fid", "0"), ("kid", ALL)}
    assert rows["fid", ALL]["value"] == pytest.approx(0, abs=1e-6)


def test_more_classes_than_memory_are_refused():
    wide = JudgeNetwork(lambda images: Seen(torch.zeros(len(images), 2048), torch.zeros(len(images), 2)), "wide")
    statistics = ImageStatistics(2, 1000, SETTINGS, 0)
    with pytest.raises(SettingError, match=r"at most 128 classes with 2048 features.*1000 classes"):
        statistics.update(ImageBatch(torch.zeros(2, 3, 4, 4), torch.zeros(2).long()), wide)


def test_a_sample_of_the_features_is_kept(monkeypatch):
    monkeypatch.setattr(generation, "KID_MAX_IMAGES", 5)
    images = numbers(30, 3, 4, 4)
    kept = statistics_of(images, torch.zeros(30).long()).kept
    features = look_at_pixels(images).features
    places = [(features == row).all(1).nonzero().item() for row in kept]
    assert len(set(places)) == 5
    assert places != [0, 1, 2, 3, 4]


def test_masks_tell_of_their_mean_their_entropy_and_their_collapse():
    mask = torch.tensor([0.0, 1.0, 0.5, 0.25]).view(4, 1, 1, 1).expand(4, 1, 4, 4)
    statistics = statistics_of(numbers(4, 3, 4, 4), torch.arange(4) % 3, size=3, mask=mask)
    rows = {row["measure"]: row for row in describe_images("a", statistics)}
    assert rows["mean_mask"]["value"] == pytest.approx(0.4375)
    assert rows["mean_mask"]["sd"] == pytest.approx(torch.tensor([0.0, 1.0, 0.5, 0.25]).std(correction=0).item())
    quarter = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    assert rows["mask_entropy"]["value"] == pytest.approx((1 + quarter) / 4)
    assert rows["collapsed_masks"]["value"] == 0.5


def test_the_teacher_rendered_anew_is_what_is_stored(heldout, cpu):
    rendered = list(rendered_composites(TinyTeacher(), heldout, cpu))
    stored = list(stored_composites(heldout))
    assert sum(len(batch.images) for batch in stored) == heldout.num_rows
    for mine, theirs in zip(rendered, stored, strict=True):
        assert torch.equal(mine.labels, theirs.labels)
        assert (mine.images - theirs.images).abs().max() < 3 / 127.5  # what storing as bytes costs
        assert (mine.mask - theirs.mask).abs().max() < 1 / 255


# --- the whole -----------------------------------------------------------------------------------


class Biased:
    """Stands for the biased images."""

    artifact = SimpleNamespace(identity="biased")

    def split(self, name: str) -> SimpleNamespace:
        assert name == "train"
        images = torch.randint(256, (50, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        return SimpleNamespace(images=images, labels=torch.arange(50) % 3)


def test_everything_is_measured_once_and_named(tmp_path, heldout, students, cpu):
    teacher = IdentifiedTeacher(TinyTeacher(), {"name": "tiny"})

    def measure(name: str = "students", **changes):
        given = {"students": students, "settings": SETTINGS, "biased": Biased()} | changes
        return measure_generation(
            tmp_path / "store", teacher, given["students"], "own", heldout, given["biased"], PIXELS,
            given["settings"], 0, cpu, name,
        )  # fmt: skip

    table = measure()
    assert list(table.columns) == COLUMNS
    of = table.set_index(["images", "measure", "reference", "label"]).sort_index()["value"]
    assert of["students", "fid", "training images", ALL] > 0
    assert of["teacher", "fid", "training images", ALL] > 0
    assert ("students", "fid", "teacher", "2") in of.index
    assert not [row for row in of.index if row[0] == "teacher" and row[2] == "teacher"]
    assert set(table[table["images"] == "teacher"]["measure"]) == {
        "fid", "kid", "inception_score", "mean_mask", "mask_entropy", "collapsed_masks",
    }  # fmt: skip
    metrics = generation_metrics(table)
    assert metrics["generation/students/fid/teacher"] == of["students", "fid", "teacher", ALL]
    assert {"generation/teacher/kid/training_images_sd", "generation/students/mean_mask"} <= set(metrics)
    assert not [name for name in metrics if name.endswith("/2")]

    named = measure("baseline", students=SimpleNamespace(noise_dim=4, num_classes=3, image_size=8))
    assert named.assign(images=named["images"].replace("baseline", "students")).equals(table)  # nothing was rendered
    assert len(list((tmp_path / "store").glob("[0-9a-f]*"))) == 1
    without = measure(biased=None)
    assert "training images" not in set(without["reference"])
    assert measure(settings=SETTINGS.model_copy(update={"num_subsets": 4})).shape == table.shape
    assert len(list((tmp_path / "store").glob("[0-9a-f]*"))) == 3


def test_measures_stand_side_by_side_and_distances_by_class():
    rows = [
        ("students", "kid", "teacher", ALL, 2.0, 0.25, 9),
        ("students", "mean_mask", None, ALL, 0.125, None, 9),
        ("teacher", "mean_mask", None, ALL, 0.5, None, 9),
        ("students", "fid", "teacher", "0", 3.0, None, 4),
        ("students", "fid", "teacher", "10", 1.0, None, 5),
        ("students", "fid", "teacher", "2", 2.0, None, 5),
    ]
    table = pd.DataFrame(rows, columns=COLUMNS)
    assert measures_of_all(table).to_dict("records") == [
        {"measure": "kid", "reference": "teacher", "teacher": "", "students": "2 ± 0.25", "num_images": 9},
        {"measure": "mean mask", "reference": "", "teacher": "0.5", "students": "0.125", "num_images": 9},
    ]
    assert distances_by_class(table).to_dict("list") == {"label": [0, 2, 10], "students to teacher": [3.0, 2.0, 1.0]}
    assert distances_by_class(table[:3]).empty


def test_students_of_another_interface_are_refused(tmp_path, heldout, cpu):
    other = SimpleNamespace(noise_dim=5, num_classes=3, image_size=8)
    teacher = IdentifiedTeacher(TinyTeacher(), {"name": "tiny"})
    with pytest.raises(SettingError, match="'noise_dim': 5"):
        measure_generation(tmp_path, teacher, other, "own", heldout, None, PIXELS, SETTINGS, 0, cpu)


# --- networks ------------------------------------------------------------------------------------


def test_a_classifier_judges_by_its_features_and_logits(cpu):
    torch.manual_seed(0)
    network = DigitClassifier().eval()
    images = torch.randn(5, 3, 32, 32)
    seen = judge_of_classifier(network, "own", cpu).look(images)
    torch.testing.assert_close(seen.features, network.features(images))
    torch.testing.assert_close(seen.logits, network(images))
    assert not seen.features.requires_grad


def test_absent_inception_weights_are_refused_with_file_and_address(tmp_path):
    with pytest.raises(SettingError) as caught:
        inception_path(tmp_path)
    message = str(caught.value)
    assert str(tmp_path / "inception" / "weights-inception-2015-12-05-6726825d.pth") in message
    assert "github.com/toshas/torch-fidelity" in message
    assert "feature_network" in message


def test_inception_weights_of_another_kind_are_refused(tmp_path, cpu):
    pytest.importorskip("torch_fidelity")
    path = tmp_path / generation.INCEPTION_FILE
    path.parent.mkdir()
    torch.save({"fc.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(SettingError, match="torch-fidelity's Inception"):
        open_inception(tmp_path, cpu)
    torch.save({"fc.weight": print}, path)
    with pytest.raises(SettingError, match="nothing of it was executed"):
        open_inception(tmp_path, cpu)


def test_inception_is_that_of_torch_fidelity(tmp_path, cpu, monkeypatch):
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    # A random network in place of the published one, which cannot be downloaded here.
    monkeypatch.setattr(module, "load_state_dict_from_url", lambda url, progress: module_state)
    network_class = module.FeatureExtractorInceptionV3
    monkeypatch.setattr(network_class, "load_state_dict", lambda self, state: None)
    module_state: dict[str, torch.Tensor] = {}
    torch.manual_seed(0)
    expected = network_class("inception", ["2048", "logits_unbiased"])
    monkeypatch.undo()
    path = tmp_path / generation.INCEPTION_FILE
    path.parent.mkdir()
    torch.save(expected.state_dict(), path)
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    seen = open_inception(tmp_path, cpu).look(images)
    assert (seen.features.shape, seen.logits.shape) == ((1, 2048), (1, 1008))
    features, logits = expected(((images + 1) * 127.5).round().to(torch.uint8))
    torch.testing.assert_close(seen.features, features)
    torch.testing.assert_close(seen.logits, logits)
