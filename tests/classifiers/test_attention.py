"""What answers follow; Grad-CAM: its closed form for a linear head, its range, and that it changes nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from skdcgn_pipeline.classifiers.attention import count_followed, grad_cam
from skdcgn_pipeline.classifiers.classifier import DigitClassifier
from skdcgn_pipeline.classifiers.torchvision_classifier import TorchvisionClassifier
from skdcgn_pipeline.parameters import ClassifierNetwork, Compute


def test_heat_is_the_weighted_sum_of_the_last_maps() -> None:
    torch.manual_seed(0)
    classifier = DigitClassifier().requires_grad_(False).eval()
    images, classes = torch.rand(5, 3, 32, 32) * 2 - 1, torch.tensor([0, 3, 3, 9, 5])

    asked, heat = grad_cam(classifier, images, classes)

    assert torch.equal(asked, classes)

    maps = classifier.layer_features(images)[-1]
    expected = torch.einsum("nk,nkhw->nhw", classifier.head.weight[classes], maps).relu()
    expected = F.interpolate(expected[:, None], (32, 32), mode="bilinear")[:, 0]
    largest = expected.amax((1, 2), keepdim=True)
    torch.testing.assert_close(heat * largest, expected, atol=1e-5, rtol=1e-4)
    assert heat.shape == (5, 32, 32)
    assert heat.min() >= 0
    assert heat.max() <= 1
    assert classifier.head.weight.grad is None


def test_heat_is_zero_where_nothing_speaks_for_the_class() -> None:
    classifier = DigitClassifier().requires_grad_(False).eval()
    classifier.head.weight.fill_(-1)

    _, heat = grad_cam(classifier, torch.rand(2, 3, 32, 32), torch.tensor([1, 2]))
    assert heat.count_nonzero() == 0


@pytest.mark.parametrize("heads", ["class", "mechanisms"])
def test_any_network_is_looked_into_by_what_it_predicts(heads: str) -> None:
    torch.manual_seed(0)
    settings = ClassifierNetwork(architecture="resnet18", heads=heads)
    classifier = TorchvisionClassifier(settings, 4).requires_grad_(False).eval()
    images = torch.rand(3, 3, 64, 64) * 2 - 1

    predicted, heat = grad_cam(classifier, images)

    logits = classifier(images)
    assert torch.equal(predicted, (logits if heads == "class" else logits.mean).argmax(1))
    assert heat.shape == (3, 64, 64)
    assert heat.max() <= 1
    assert heat.min() >= 0


class FirstPixel(nn.Module):
    """Answers with the class that the first pixel is."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return F.one_hot(images[:, 0, 0, 0].long(), 5).float()


def test_answers_are_counted_by_the_mechanism_whose_class_they_name() -> None:
    answers = torch.tensor([0.0, 1.0, 2.0, 2.0, 4.0, 0.0])
    labels = torch.tensor([3 * [0, 1, 2], 3 * [0, 1, 2]]).view(6, 3)
    labels[5] = torch.tensor([0, 0, 1])  # says nothing of shape and texture
    batches = [(answers[:4].view(4, 1, 1, 1), labels[:4]), (answers[4:].view(2, 1, 1, 1), labels[4:])]

    counts = count_followed(FirstPixel(), batches, Compute(device="cpu"))

    assert counts == {"shape": 1, "texture": 1, "background": 2, "none": 1}
