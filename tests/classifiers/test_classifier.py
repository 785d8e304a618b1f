"""The digit classifier of the CGN paper."""

from __future__ import annotations

import copy

import pytest
import torch

from skdcgn_pipeline.classifiers.classifier import DigitClassifier


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


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_folding_the_norm_into_the_convolution_changes_no_value_and_no_gradient(layout):
    torch.manual_seed(0)
    classifier = DigitClassifier().double().train()
    with torch.no_grad():
        classifier.trunk[0].weight.uniform_(0.5, 2)
        classifier.trunk[0].bias.uniform_(-1, 1)
    classifier.to(memory_format=layout)
    plain = copy.deepcopy(classifier)
    images = (torch.randn(4, 3, 32, 32, dtype=torch.double) * 3 + 1).requires_grad_()
    same_images = images.detach().clone().requires_grad_()
    logits, expected = classifier(images), plain.head(plain.trunk(same_images))
    torch.testing.assert_close(logits, expected)
    logits.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(images.grad, same_images.grad)
    for (name, parameter), other in zip(classifier.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, msg=name)
    torch.testing.assert_close(classifier.trunk[0].running_mean, plain.trunk[0].running_mean)
    torch.testing.assert_close(classifier.trunk[0].running_var, plain.trunk[0].running_var)
