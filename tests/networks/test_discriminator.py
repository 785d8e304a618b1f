"""Discriminators: what they return and how the class enters."""

from __future__ import annotations

import pytest
import torch

from skdcgn_pipeline.networks.discriminator import CGN_DISCRIMINATORS, ProjectionDiscriminator


def make(image_size: int = 32, channels: int = 3) -> ProjectionDiscriminator:
    torch.manual_seed(0)
    return ProjectionDiscriminator(channels, 4, image_size, 5).eval()


@pytest.mark.parametrize(("image_size", "num_layers"), [(8, 1), (16, 2), (32, 3), (256, 6)])
def test_layers_halve_the_image_down_to_four_pixels(image_size, num_layers):
    judgement = make(image_size)(torch.randn(2, 3, image_size, image_size), torch.tensor([0, 3]))
    assert len(judgement.features) == num_layers
    assert judgement.features[-1].shape == (2, 5 * 2 ** (num_layers - 1), 4, 4)


def test_the_discriminator_for_256_pixels_has_twice_the_parameters_of_a_student():
    with torch.device("meta"):
        discriminator = ProjectionDiscriminator(3, 1000, 256, 32)
    assert sum(parameter.numel() for parameter in discriminator.parameters()) == 12_202_465


def test_the_logit_is_the_score_under_the_images_own_class():
    labels = torch.tensor([3, 0, 1])
    judgement = make()(torch.randn(3, 3, 32, 32), labels)
    assert judgement.class_logits.shape == (3, 4)
    assert torch.equal(judgement.logits, judgement.class_logits[torch.arange(3), labels])


def test_class_scores_differ_between_classes_and_images():
    scores = make()(torch.randn(3, 3, 32, 32), torch.tensor([0, 0, 0])).class_logits
    assert scores.std(0).min() > 0
    assert scores.std(1).min() > 0


def test_every_layer_is_spectrally_normalised():
    discriminator = make(16).train()
    images = torch.randn(4, 3, 16, 16)
    for _ in range(60):  # power iterations
        discriminator(images, torch.tensor([0, 1, 2, 3]))
    for layer in (*discriminator.layers, discriminator.linear, discriminator.class_embedding):
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("name", sorted(CGN_DISCRIMINATORS))
def test_discriminators_of_the_teacher_score_images_by_class(name):
    torch.manual_seed(0)
    discriminator = CGN_DISCRIMINATORS[name](10, 32, 16).eval()
    images = torch.randn(1, 3, 32, 32).expand(2, -1, -1, -1)
    scores = discriminator(images, torch.tensor([0, 7]))
    assert scores.shape == (2,)
    assert scores[0] != scores[1]
