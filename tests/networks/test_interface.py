"""Mixtures of classes: one-hot weights are classes, and what lies between lies between."""

from __future__ import annotations

import pytest
import torch

from skdcgn_pipeline.networks.interface import MixesClasses
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.students.trio import StudentCGN
from skdcgn_pipeline.teachers.cgn import MnistCGN
from skdcgn_pipeline.vocabulary import MECHANISMS
from tiny import TinyTeacher

ARCHITECTURES = {
    "compact": {"architecture": "compact", "width": [4, 4, 4], "embedding_dim": 3},
    "basis": {"architecture": "basis", "width": [4, 4, 4], "embedding_dim": 3},
    "tinygan": {"architecture": "tinygan", "width": 1, "embedding_dim": 3},
}


def make(name: str) -> MixesClasses:
    torch.manual_seed(0)
    if name == "mnist_cgn":
        network = MnistCGN(noise_dim=4, num_classes=5, image_size=16, width=4)
    elif name == "imagenet_cgn":
        pytest.importorskip("pytorch_pretrained_biggan", reason="needs pytorch-pretrained-biggan, which is absent")
        from imagenet_assets import make_miniature

        return make_miniature()
    else:
        network = StudentCGN(4, 5, 16, dict.fromkeys(MECHANISMS, ARCHITECTURES[name]))
        with torch.no_grad():
            for parameter in network.parameters():  # class tables start as zeros, which all classes would share
                parameter.add_(0.3 * torch.randn_like(parameter))
    return network.eval().requires_grad_(False)


def one_hot(generator: MixesClasses, *classes: int) -> dict[str, torch.Tensor]:
    return dict.fromkeys(MECHANISMS, torch.eye(generator.num_classes)[list(classes)])


@pytest.mark.parametrize("name", ["mnist_cgn", "imagenet_cgn", *ARCHITECTURES])
def test_one_hot_weights_are_classes_and_mixtures_differ_from_both(name):
    generator = make(name)
    assert isinstance(generator, MixesClasses)
    noise = torch.randn(1, generator.noise_dim).expand(3, -1)
    weights = one_hot(generator, 1, 1, 4)
    half = (weights["shape"][0] + weights["shape"][2]) / 2
    mixed = {m: torch.stack([own[0], half, own[2]]) for m, own in weights.items()}
    got = generator.render_mixtures(noise, mixed)
    expected = generator.render(noise[:2], torch.tensor([1, 4]))
    for mechanism in MECHANISMS:
        images = got.of(mechanism)
        torch.testing.assert_close(images[[0, 2]], expected.of(mechanism), rtol=1e-4, atol=1e-4)
        assert (images[1] - images[0]).abs().max() > 1e-3
        assert (images[1] - images[2]).abs().max() > 1e-3


def test_each_mechanism_has_weights_of_its_own():
    generator = make("mnist_cgn")
    noise = torch.randn(2, 4)
    weights = one_hot(generator, 1, 1) | {"texture": one_hot(generator, 3, 3)["texture"]}
    got = generator.render_mixtures(noise, weights)
    ones, threes = (generator.render(noise, torch.tensor([label, label])) for label in (1, 3))
    torch.testing.assert_close(got.mask, ones.mask)
    torch.testing.assert_close(got.foreground, threes.foreground)
    torch.testing.assert_close(got.background, ones.background)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w[:, :4], r"class weights of shape: expected shape \[2, 5\], got \[2, 4\]"),
        (lambda w: w[:1], r"expected shape \[2, 5\], got \[1, 5\]"),
        (lambda w: 2 * w, "sum to 1"),
        (lambda w: torch.tensor([[2.0, -1, 0, 0, 0]] * 2), "sum to 1"),
        (lambda w: None, "got None"),
    ],
    ids=["classes", "rows", "sum", "negative", "none"],
)
def test_other_weights_are_refused(change, message):
    generator = make("compact")
    weights = one_hot(generator, 0, 1)
    with pytest.raises(SettingError, match=message):
        generator.render_mixtures(torch.randn(2, 4), weights | {"shape": change(weights["shape"])})


def test_a_teacher_need_not_mix_classes():
    assert not isinstance(TinyTeacher(), MixesClasses)
