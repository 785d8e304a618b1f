"""A classifier to take away: labels, range of images, files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from skdcgn_pipeline import InvariantClassifier
from skdcgn_pipeline.classifiers.classifier import DigitClassifier
from skdcgn_pipeline.classifiers.networks import make_classifier
from skdcgn_pipeline.parameters import ClassifierNetwork
from skdcgn_pipeline.runtime.errors import SettingError

LABELS = ["zero", "one", "two"]


@pytest.fixture
def network() -> DigitClassifier:
    torch.manual_seed(0)
    network = DigitClassifier(3)
    network.trunk[0].running_mean.normal_(std=0.1)
    return network.eval()


@pytest.fixture
def classifier(network) -> InvariantClassifier:
    return InvariantClassifier.of(network, LABELS)


def pixels(num_images: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (num_images, 3, 32, 32), dtype=torch.uint8, generator=generator)


def test_the_networks_own_probabilities_come_out(network, classifier):
    images = pixels()
    expected = network(images.float() / 127.5 - 1).softmax(1)
    torch.testing.assert_close(classifier(images), expected)
    torch.testing.assert_close(classifier(images.float() / 255), expected)


def test_a_prediction_names_the_most_probable_label(classifier):
    table = classifier.predict(pixels())
    probabilities = table[[f"probability_{label}" for label in LABELS]].to_numpy()
    assert table["label"].tolist() == [LABELS[index] for index in probabilities.argmax(1)]
    np.testing.assert_array_equal(table["probability"], probabilities.max(1))
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    assert len(classifier.predict(pixels(0))) == 0


def test_files_are_classified_as_their_pixels(classifier, tmp_path):
    images = pixels()
    paths = [tmp_path / f"{row}.png" for row in range(4)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    table = classifier.predict_files(paths, batch_size=3)
    assert table["path"].tolist() == [str(path) for path in paths]
    np.testing.assert_allclose(table["probability"], classifier.predict(images)["probability"], atol=1e-6)


def test_files_of_any_size_and_kind_are_brought_to_the_classifiers(classifier, tmp_path):
    Image.new("L", (80, 48), 200).save(tmp_path / "grey.png")
    Image.new("RGB", (32, 32), (200, 200, 200)).save(tmp_path / "plain.png")
    table = classifier.predict_files([tmp_path / "grey.png", str(tmp_path / "plain.png")])
    assert table.loc[0, "probability"] == pytest.approx(table.loc[1, "probability"], abs=1e-5)


def test_what_was_saved_is_loaded(classifier, tmp_path):
    classifier.save_pretrained(tmp_path)
    loaded = InvariantClassifier.from_pretrained(tmp_path)
    assert loaded.labels == LABELS
    assert not loaded.training
    torch.testing.assert_close(loaded(pixels()), classifier(pixels()))


@pytest.mark.parametrize(
    ("network", "size"),
    [
        ({"architecture": "small_cnn"}, 48),
        ({"architecture": "mobilenet_v3_small", "heads": "mechanisms"}, 48),
        ({"architecture": "shufflenet_v2_x0_5", "frozen_norm": "all"}, 32),
    ],
    ids=["small", "heads", "torchvision"],
)
def test_a_network_of_any_architecture_is_taken_away(network, size, tmp_path):
    settings = ClassifierNetwork(**network)
    classifier = InvariantClassifier.of(make_classifier(settings, 3).eval(), LABELS, size)
    classifier.save_pretrained(tmp_path)
    loaded = InvariantClassifier.from_pretrained(tmp_path)
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(loaded(images), classifier(images))
    assert loaded.predict(images).shape == (2, 2 + len(LABELS))


def test_a_folder_without_an_architecture_holds_the_digit_classifier(classifier, tmp_path):
    classifier.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["architecture"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert isinstance(InvariantClassifier.from_pretrained(tmp_path).network, DigitClassifier)


def test_a_folder_names_no_code(classifier, tmp_path):
    classifier.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["architecture"] = {"architecture": "os:getcwd"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(SettingError, match="classifier: expected a network that the package knows, got os:getcwd"):
        InvariantClassifier.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 3, 28, 28), r"images: expected shape \[N, 3, 32, 32\], got \[2, 3, 28, 28\]"),
        (torch.zeros(3, 32, 32), r"images: expected shape \[N, 3, 32, 32\]"),
        (torch.full((1, 3, 32, 32), -0.5), r"values in \[0, 1\], or uint8, got values in \[-0.5, -0.5\]"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.long), r"or uint8, got torch.int64"),
    ],
)
def test_other_images_are_refused(classifier, images, message):
    with pytest.raises(SettingError, match=message):
        classifier.predict(images)


def test_files_that_cannot_be_read_are_refused(classifier, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    for path in (tmp_path / "text.png", tmp_path / "absent.png"):
        with pytest.raises(SettingError, match=path.name):
            classifier.predict_files([path])
    with pytest.raises(SettingError, match="at least one image file"):
        classifier.predict_files([])
