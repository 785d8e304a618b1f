"""The first layers of the classifier in one, in bfloat16 on a CPU."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from skdcgn_pipeline.classifiers import classifier as classifier_module
from skdcgn_pipeline.classifiers.classifier import DigitClassifier
from skdcgn_pipeline.kernels.pooled_convolution import convolve_and_pool, pooled_size, standardise

SIZES = [(32, 32), (31, 33), (7, 7), (9, 20)]


def draw(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.manual_seed(seed))


def weights(filters: int, kernel_size: int) -> tuple[Tensor, Tensor]:
    return draw(filters, 3, kernel_size, kernel_size, seed=1) * 0.2, draw(filters, seed=2) * 0.1


def as_images(seen: Tensor) -> Tensor:
    """Return the images [N, 3, H, W] of which `standardise` shows what a line of five sees."""
    first, rest = seen[..., :3], seen[:, :, -1, 3:15].unflatten(-1, (4, 3))
    return torch.cat([first, rest], 2).permute(0, 3, 1, 2)


@pytest.mark.parametrize("size", SIZES)
def test_images_are_standardised_as_by_a_batch_norm(size):
    images = draw(6, 3, *size) * torch.tensor([0.5, 1, 2])[:, None, None] + torch.tensor([1.0, 0, -3])[:, None, None]
    seen, mean, variance = standardise(images, 1e-5, 5)
    torch.testing.assert_close(mean, images.mean((0, 2, 3)))
    torch.testing.assert_close(variance, images.var((0, 2, 3), correction=0))
    lines, columns = ((pooled_size(length, 5) - 1) * 2 + 3 for length in size)
    assert seen.shape == (6, lines + 4, columns, 16)
    expected = F.batch_norm(images, None, None, training=True, eps=1e-5)[:, :, : lines + 4, : columns + 4]
    # One rounding to bfloat16, which a last bit of float32 may turn.
    torch.testing.assert_close(as_images(seen).float(), expected, rtol=2**-8, atol=1e-6)


def test_every_place_shows_what_a_line_of_a_filter_sees():
    seen, _, _ = standardise(draw(2, 3, 11, 14), 1e-5, 5)
    images = as_images(seen)
    windows = images.unfold(3, 5, 1).permute(0, 2, 3, 4, 1).flatten(3)  # [N, lines, columns, 5 * 3]
    assert torch.equal(seen[..., :15], windows)
    assert not seen[..., 15].any()


def test_images_in_any_layout_are_the_same():
    images = draw(3, 3, 12, 12)
    expected = standardise(images, 1e-5, 5)
    given = standardise(images.contiguous(memory_format=torch.channels_last), 1e-5, 5)
    assert all(torch.equal(one, other) for one, other in zip(given, expected, strict=True))


@pytest.mark.parametrize("filters", [32, 5])
@pytest.mark.parametrize("size", SIZES)
def test_values_are_those_of_convolution_relu_and_pooling(size, filters):
    weight, bias = weights(filters, 5)
    seen, _, _ = standardise(draw(40, 3, *size), 1e-5, 5)
    pooled = convolve_and_pool(seen, weight, bias)
    outputs = F.conv2d(as_images(seen).float(), weight.bfloat16().float(), bias.bfloat16().float())
    expected = F.relu(F.max_pool2d(outputs, 3, 2))
    assert pooled.shape == expected.shape == (40, filters, *(pooled_size(length, 5) for length in size))
    assert pooled.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(pooled.float(), expected, rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize("kernel_size", [5, 3])
@pytest.mark.parametrize("size", SIZES)
def test_gradients_are_those_of_the_values_that_pooling_kept(size, kernel_size):
    weight, bias = (one.bfloat16().double().requires_grad_() for one in weights(8, kernel_size))
    images = draw(20, 3, *size).bfloat16()
    lines, columns = ((pooled_size(length, kernel_size) - 1) * 2 + 2 + kernel_size for length in size)
    images = images[:, :, :lines, :columns]
    windows = images.unfold(3, kernel_size, 1).permute(0, 2, 3, 4, 1).flatten(3)
    seen = F.pad(windows, (0, 16 - 3 * kernel_size)).contiguous()
    own = [one.detach().float().requires_grad_() for one in (weight, bias)]
    pooled = convolve_and_pool(seen, *own)
    direction = draw(*pooled.shape, seed=3).bfloat16()
    pooled.backward(direction)
    # The same rounded outputs choose; the sums are exact but for float64.
    outputs = F.conv2d(images.double(), weight, bias)
    largest, places = F.max_pool2d(outputs.bfloat16(), 3, 2, return_indices=True)
    assert torch.equal(pooled, F.relu(largest))
    kept = outputs.flatten(2).gather(2, places.flatten(2)).view(places.shape)
    (kept * (largest > 0)).backward(direction.double())
    for one, other in zip(own, (weight, bias), strict=True):
        torch.testing.assert_close(one.grad.double(), other.grad, rtol=1e-5, atol=1e-4)


def test_gradients_in_another_layout_are_the_same():
    weight, bias = (one.requires_grad_() for one in weights(4, 5))
    seen, _, _ = standardise(draw(3, 3, 12, 12), 1e-5, 5)
    gradients = []
    for layout in (torch.channels_last, torch.contiguous_format):
        weight.grad = None
        pooled = convolve_and_pool(seen, weight, bias)
        pooled.backward(draw(*pooled.shape).bfloat16().contiguous(memory_format=layout))
        gradients.append(weight.grad)
    assert torch.equal(*gradients)


def test_where_nothing_is_positive_nothing_passes():
    weight, bias = (one.requires_grad_() for one in weights(4, 5))
    seen, _, _ = standardise(draw(3, 3, 12, 12), 1e-5, 5)
    pooled = convolve_and_pool(seen, weight, bias - 1000)
    pooled.sum().backward()
    assert not pooled.any()
    assert not weight.grad.any()
    assert not bias.grad.any()


def test_of_equal_values_the_first_one_takes_the_gradient():
    weight, bias = (torch.zeros(size, requires_grad=True) for size in ((2, 3, 5, 5), (2,)))
    seen, _, _ = standardise(draw(1, 3, 7, 7), 1e-5, 5)
    pooled = convolve_and_pool(seen, weight, bias + 1)
    pooled.sum().backward()
    expected = as_images(seen)[0, :, :5, :5].float()
    assert torch.equal(weight.grad, torch.stack([expected] * 2))


# --- in the classifier ---------------------------------------------------------------------------------


def train_step(classifier: DigitClassifier, images: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = classifier(images)
    loss = F.cross_entropy(logits.float(), torch.arange(len(images)) % 10)
    loss.backward()
    return logits.float()


def test_a_training_step_in_bfloat16_is_that_of_the_layers(monkeypatch):
    torch.manual_seed(0)
    classifier = DigitClassifier().to(memory_format=torch.channels_last).train()
    with torch.no_grad():
        classifier.trunk[0].weight.uniform_(0.5, 2)
        classifier.trunk[0].bias.uniform_(-1, 1)
    plain, images = copy.deepcopy(classifier), draw(64, 3, 32, 32) * 2 + 1
    logits = train_step(classifier, images)
    monkeypatch.setattr(DigitClassifier, "_trains_in_bfloat16", lambda self, images: False)
    expected = train_step(plain, images)
    torch.testing.assert_close(logits, expected, rtol=0.05, atol=0.02)
    for (name, parameter), other in zip(classifier.named_parameters(), plain.parameters(), strict=True):
        difference = (parameter.grad - other.grad).norm() / other.grad.norm()
        assert difference < 0.03, name
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(classifier.trunk[0], name), getattr(plain.trunk[0], name))


@pytest.mark.parametrize("why", ["fp32", "eval", "no gradients", "gradients of images"])
def test_only_a_training_in_bfloat16_takes_the_first_layers_in_one(monkeypatch, why):
    def refuse(*arguments: object) -> None:
        raise AssertionError("taken in one")

    monkeypatch.setattr(classifier_module, "convolve_and_pool", refuse)
    classifier = DigitClassifier().train(why != "eval")
    images = draw(2, 3, 32, 32).requires_grad_(why == "gradients of images")
    with (
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=why != "fp32"),
        torch.set_grad_enabled(why != "no gradients"),
    ):
        assert classifier(images).shape == (2, 10)


def test_a_step_taken_again_has_the_same_bits():
    images, grads = draw(8, 3, 32, 32), []
    for _ in range(2):
        torch.manual_seed(0)
        classifier = DigitClassifier().to(memory_format=torch.channels_last).train()
        train_step(classifier, images)
        grads.append([parameter.grad for parameter in classifier.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*grads, strict=True))
