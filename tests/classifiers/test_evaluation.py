"""A classifier that was taken away, on folders of its classes."""

from __future__ import annotations

import pytest
import torch

from images.pictures import CLASSES, make_folder, picture, save
from skdcgn_pipeline import InvariantClassifier
from skdcgn_pipeline.classifiers.evaluation import classifier_in
from skdcgn_pipeline.classifiers.networks import make_classifier
from skdcgn_pipeline.parameters import ClassifierNetwork, Compute
from skdcgn_pipeline.runtime.errors import SettingError

CPU = Compute(device="cpu")


@pytest.fixture(scope="module")
def classifier() -> InvariantClassifier:
    torch.manual_seed(0)
    network = make_classifier(ClassifierNetwork(architecture="small_cnn"), 3).eval()
    return InvariantClassifier.of(network, CLASSES, 48)


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "shapes", {"test": 4, "sketches": 2})


def test_every_split_of_a_folder_is_measured_as_its_files_are_classified(classifier, folder):
    measured = classifier.evaluate(folder, compute=CPU)

    accuracy = measured.accuracy.set_index(["split", "subset"])
    assert {*accuracy.index} == {(s, m) for s in ("test", "sketches") for m in ("all", "worst group")}
    assert accuracy["num_images"].xs("all", level=1).to_dict() == {"test": 12, "sketches": 6}
    assert accuracy.loc[("test", "all"), "calibration_error"] >= 0
    assert accuracy.loc[("test", "worst group"), "group"] in {f"{c} on {g}" for c in CLASSES for g in ("dots", "waves")}
    files = sorted((folder / "test").glob("*/*"))
    files = [path for path in files if path.suffix in (".png", ".jpg")]
    said = classifier.predict_files(files)["label"]
    right = [path.parent.name == label for path, label in zip(files, said, strict=True)]
    assert accuracy.loc[("test", "all"), "accuracy"] == pytest.approx(sum(right) / 12)
    confusion = measured.confusion[measured.confusion["split"] == "test"].set_index("label")
    assert [*confusion.index] == [*CLASSES]
    assert confusion.filter(like="predicted_").sum(axis=1).tolist() == [4, 4, 4]
    assert confusion.loc["circle", "predicted_square"] == sum(said[:4] == "square")


def test_a_folder_of_classes_is_one_split(classifier, folder):
    (folder / "test" / "metadata.csv").unlink()
    (folder / "test" / "square").rename(folder / "elsewhere")
    measured = classifier.evaluate(folder / "test", compute=CPU)
    assert measured.accuracy["split"].unique().tolist() == ["test"]
    assert measured.confusion["accuracy"].isna().tolist() == [False, True, False]


def test_classes_that_the_classifier_does_not_know_are_refused(classifier, folder):
    save(folder / "test" / "circles" / "1.png", picture(0))
    message = (
        r"images\.folder: expected a class of the classifier \(circle, square, triangle\), got the folder 'circles'"
    )
    for root in (folder, folder / "test"):
        with pytest.raises(SettingError, match=message):
            classifier.evaluate(root, compute=CPU)


def test_the_classifier_is_the_one_that_is_named_or_kept(tmp_path):
    assert classifier_in(tmp_path, None) == tmp_path
    with pytest.raises(SettingError, match=r"evaluate\.classifier: .* no run has kept one"):
        classifier_in(None, None)
