"""The digit classifier of the CGN paper."""

from __future__ import annotations

import torch

from skdcgn_pipeline.models.classifier import DigitClassifier


def test_logits_come_from_the_pooled_features():
    torch.manual_seed(0)
    classifier = DigitClassifier(7).eval()
    images = torch.randn(3, 3, 32, 32)
    features = classifier.features(images)
    assert features.shape == (3, DigitClassifier.feature_dim)
    torch.testing.assert_close(classifier(images), classifier.head(features))
    assert classifier(images).shape == (3, 7)


def test_layer_features_are_the_four_activations_from_shallow_to_deep():
    classifier = DigitClassifier().eval()
    features = classifier.layer_features(torch.randn(2, 3, 32, 32))
    assert [layer.shape[1] for layer in features] == [32, 32, 64, 64]
    assert [layer.shape[2] for layer in features] == sorted((layer.shape[2] for layer in features), reverse=True)
    assert all(layer.min() >= 0 for layer in features)


def test_a_pass_over_the_layers_is_the_same_network():
    torch.manual_seed(0)
    classifier = DigitClassifier().eval()
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(classifier.layer_features(images)[-1].mean((2, 3)), classifier.features(images))
