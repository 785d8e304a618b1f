"""Networks in whose features images are compared."""

from __future__ import annotations

import pytest
import torch

from skdcgn_pipeline.classifiers.classifier import DigitClassifier
from skdcgn_pipeline.metrics import features
from skdcgn_pipeline.metrics.features import inception_path, open_inception, space_of_network
from skdcgn_pipeline.runtime.errors import SettingError


def test_a_classifier_gives_its_features_and_logits(cpu):
    torch.manual_seed(0)
    network = DigitClassifier().eval()
    images = torch.randn(5, 3, 32, 32)
    seen = space_of_network(network, "own", cpu).look(images)
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
    path = tmp_path / features.INCEPTION_FILE
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
    path = tmp_path / features.INCEPTION_FILE
    path.parent.mkdir()
    torch.save(expected.state_dict(), path)
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    seen = open_inception(tmp_path, cpu).look(images)
    assert (seen.features.shape, seen.logits.shape) == ((1, 2048), (1, 1008))
    expected_features, logits = expected(((images + 1) * 127.5).round().to(torch.uint8))
    torch.testing.assert_close(seen.features, expected_features)
    torch.testing.assert_close(seen.logits, logits)


def test_features_do_not_depend_on_the_batches_and_masks_are_grey_images(cpu):
    torch.manual_seed(0)
    look = space_of_network(DigitClassifier().eval(), "own", cpu).look
    images = torch.randn(7, 1, 32, 32).expand(-1, 3, -1, -1)
    together = look(images).features
    assert together.shape == (7, 64)
    torch.testing.assert_close(torch.cat([look(part).features for part in images.split(2)]), together)


def test_a_network_without_a_head_has_no_logits(cpu):
    class Trunk(torch.nn.Module):
        def features(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((2, 3))

    seen = space_of_network(Trunk(), "trunk", cpu).look(torch.ones(2, 3, 4, 4))
    assert seen.logits is None
    assert torch.equal(seen.features, torch.ones(2, 3))
