"""The MNIST CGN reproduces the published one, tensor by tensor and pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skdcgn_pipeline.images.assets import published_teacher_name
from skdcgn_pipeline.teachers.cgn import MASK_MAX, MASK_MIN, MnistCGN
from skdcgn_pipeline.vocabulary import MECHANISMS


def load_published(assets, variant: str) -> MnistCGN:
    cgn = MnistCGN()
    state = torch.load(assets / published_teacher_name(variant), weights_only=True, map_location="cpu")
    cgn.load_state_dict(state, strict=True)
    return cgn.eval()


def test_the_network_has_the_published_size():
    cgn = MnistCGN()
    assert len(cgn.state_dict()) == 57
    assert sum(parameter.numel() for parameter in cgn.parameters()) == pytest.approx(660_000, rel=0.01)


@pytest.mark.parametrize("variant", ["colored", "double_colored", "wildlife"])
def test_a_published_checkpoint_loads_strictly_and_keeps_the_contract(assets, variant):
    cgn = load_published(assets, variant)
    images = cgn.render(torch.randn(10, 32, generator=torch.Generator().manual_seed(0)), torch.arange(10))
    assert images.mask.shape == (10, 1, 32, 32)
    assert images.foreground.shape == images.background.shape == (10, 3, 32, 32)
    assert images.mask.min() >= MASK_MIN
    assert images.mask.max() <= MASK_MAX
    assert images.foreground.abs().max() <= 1
    assert 0.02 < images.mask.mean() < 0.6


def test_the_published_checkpoint_reproduces_the_golden_images(shared, assets):
    golden = np.load(shared / "golden" / "cgn_double_colored_mnist.npz")
    cgn = load_published(assets, "double_colored")
    images = cgn.render(torch.from_numpy(golden["noise"]), torch.from_numpy(golden["label"].astype(np.int64)))
    for name, expected in (
        ("mask", "mask"),
        ("foreground", "foreground_patch"),
        ("background", "background_patch"),
    ):
        difference = np.abs(getattr(images, name).numpy() - golden[expected].astype(np.float32)).max()
        assert difference <= 2e-3, f"{name} differs by {difference}"


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_label_reaches_its_own_mechanism_alone(mechanism):
    cgn = MnistCGN(width=4).eval()
    noise, label = torch.randn(3, 32), torch.tensor([0, 1, 2])
    factual = cgn.render(noise, label)
    other = cgn.render(noise, dict.fromkeys(MECHANISMS, label) | {mechanism: label + 1})
    changed = [m for m in MECHANISMS if not torch.equal(factual.of(m), other.of(m))]
    assert changed == [mechanism]


def test_one_mechanism_alone_is_the_same_as_all_together():
    cgn = MnistCGN(width=4).eval()
    noise, label = torch.randn(3, 32), torch.tensor([0, 1, 2])
    together = cgn.render(noise, label)
    for mechanism in MECHANISMS:
        assert torch.equal(cgn.render_mechanism(mechanism, noise, label), together.of(mechanism))


def test_rendering_keeps_no_gradients_and_training_does():
    cgn = MnistCGN(width=4)
    noise, label = torch.randn(3, 32), torch.tensor([0, 1, 2])
    assert not cgn.render(noise, label).mask.requires_grad
    images = cgn(noise, label)
    assert images.mask.requires_grad
    assert images.foreground.requires_grad


def test_another_size_of_images_keeps_the_interface():
    cgn = MnistCGN(noise_dim=5, num_classes=3, image_size=16, width=2).eval()
    images = cgn.render(torch.randn(2, 5), torch.tensor([0, 2]))
    assert images.background.shape == (2, 3, 16, 16)
    assert (cgn.noise_dim, cgn.num_classes, cgn.image_size) == (5, 3, 16)
