"""Every transformation of a mechanism: what it does, and what settings may ask of it."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.transforms.v2.functional import gaussian_blur, pad

from skdcgn_pipeline.mechanisms import MechanismImages
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.transformations import TRANSFORMATIONS, check_transformation, transform_mechanism
from skdcgn_pipeline.vocabulary import MECHANISMS


def random_images(num_images: int = 3, size: int = 8, seed: int = 0) -> MechanismImages:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(num_images, 1, size, size, generator=generator)
    foreground, background = torch.rand(2, num_images, 3, size, size, generator=generator) * 2 - 1
    return MechanismImages(mask, foreground, background)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(num_images: int = 4, size: int = 16) -> torch.Tensor:
    axis = torch.linspace(-1, 1, size)
    vertical, horizontal = torch.meshgrid(axis, axis, indexing="ij")
    centres = torch.linspace(-0.3, 0.3, num_images).view(-1, 1, 1)
    return torch.exp(-8 * ((vertical - centres) ** 2 + (horizontal + 0.2) ** 2))[:, None]


def test_identity_keeps_every_mechanism():
    images = random_images()
    for mechanism in MECHANISMS:
        image = images.of(mechanism)
        assert torch.equal(transform_mechanism(image, mechanism, [("identity", 1.0)], generator()), image)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_gaussian_noise_is_clamped_to_the_range_and_seeded(mechanism):
    image = random_images().of(mechanism)
    lowest = 0.0 if mechanism == "shape" else -1.0
    noisy = transform_mechanism(image, mechanism, [("gaussian_noise", 2.0)], generator(3))
    assert noisy.min().item() == lowest
    assert noisy.max().item() == 1.0
    assert torch.equal(noisy, transform_mechanism(image, mechanism, [("gaussian_noise", 2.0)], generator(3)))
    assert not torch.equal(noisy, transform_mechanism(image, mechanism, [("gaussian_noise", 2.0)], generator(4)))


def test_gaussian_noise_has_the_strength_as_standard_deviation():
    noisy = transform_mechanism(torch.full((50, 1, 16, 16), 0.5), "shape", [("gaussian_noise", 0.05)], generator())
    assert noisy.std().item() == pytest.approx(0.05, rel=0.05)


def test_opacity_scales_the_mask():
    mask = random_images().mask
    assert torch.equal(transform_mechanism(mask, "shape", [("opacity", 0.75)], generator()), mask * 0.75)


def test_rotation_by_nothing_is_the_identity():
    mask = blobs()
    rotated = transform_mechanism(mask, "shape", [("rotation", 0.0)], generator())
    torch.testing.assert_close(rotated, mask, rtol=0, atol=1e-5)


def test_rotation_by_half_a_turn_flips_both_axes(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda n, generator: torch.ones(n))  # the largest angle
    mask = blobs()
    rotated = transform_mechanism(mask, "shape", [("rotation", 180.0)], generator())
    torch.testing.assert_close(rotated, mask.flip(2, 3), rtol=0, atol=1e-4)


def test_rotation_draws_another_angle_for_every_mask():
    mask = blobs(1).expand(3, -1, -1, -1)
    rotated = transform_mechanism(mask, "shape", [("rotation", 180.0)], generator())
    assert not torch.allclose(rotated[0], rotated[1], atol=1e-2)
    assert not torch.allclose(rotated[1], rotated[2], atol=1e-2)


def test_affine_of_strength_nothing_is_the_identity():
    mask = blobs()
    moved = transform_mechanism(mask, "shape", [("affine", 0.0)], generator())
    torch.testing.assert_close(moved, mask, rtol=0, atol=1e-5)


def test_affine_moves_masks_and_stays_in_their_range():
    mask = blobs()
    moved = transform_mechanism(mask, "shape", [("affine", 1.0)], generator())
    assert (moved - mask).abs().max() > 0.05
    assert moved.min() >= 0
    assert moved.max() <= 1


def test_binarise_leaves_only_zero_and_one():
    mask = random_images().mask
    binary = transform_mechanism(mask, "shape", [("binarise", 0.3)], generator())
    assert set(binary.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(binary == 1, mask > 0.3)


def test_full_grey_makes_the_channels_equal_and_none_keeps_them():
    image = random_images().foreground
    grey = transform_mechanism(image, "texture", [("grey", 1.0)], generator())
    torch.testing.assert_close(grey[:, 0], grey[:, 1])
    torch.testing.assert_close(grey[:, 1], grey[:, 2])
    torch.testing.assert_close(transform_mechanism(image, "texture", [("grey", 0.0)], generator()), image)


def test_grey_keeps_white_and_black():
    flat = torch.stack([torch.ones(3, 4, 4), -torch.ones(3, 4, 4)])
    torch.testing.assert_close(transform_mechanism(flat, "background", [("grey", 1.0)], generator()), flat)


def test_fade_draws_the_opacity_of_a_share_of_the_masks():
    mask = blobs(1).expand(2000, -1, -1, -1)
    faded = transform_mechanism(mask, "shape", [("fade", 0.3)], generator())
    opacity = faded.amax((1, 2, 3)) / mask.amax((1, 2, 3))
    assert (opacity < 1).float().mean().item() == pytest.approx(0.3, abs=0.04)
    assert torch.equal(faded[opacity == 1], mask[opacity == 1])
    torch.testing.assert_close(faded, mask * opacity.view(-1, 1, 1, 1))
    # The square of a uniform draw: half of them below a quarter.
    assert (opacity[opacity < 1] < 0.25).float().mean().item() == pytest.approx(0.5, abs=0.08)
    assert torch.equal(faded, transform_mechanism(mask, "shape", [("fade", 0.3)], generator()))


def test_fade_of_no_mask_and_of_every_mask():
    mask = blobs(1).expand(200, -1, -1, -1)
    assert torch.equal(transform_mechanism(mask, "shape", [("fade", 0.0)], generator()), mask)
    faded = transform_mechanism(mask, "shape", [("fade", 1.0)], generator())
    assert (faded.amax((1, 2, 3)) < mask.amax((1, 2, 3))).all()


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("mechanism", ["texture", "background"])
def test_blur_of_images_is_torchvisions(mechanism, strength):
    image = random_images(size=32).of(mechanism)
    size = 2 * math.ceil(3 * strength) + 1
    expected = gaussian_blur(image, [size, size], [strength, strength])
    torch.testing.assert_close(transform_mechanism(image, mechanism, [("blur", strength)], generator()), expected)


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_blur_of_masks_is_torchvisions_with_nothing_outside(strength):
    mask = random_images(size=32).mask
    size = 2 * math.ceil(3 * strength) + 1
    expected = gaussian_blur(pad(mask, [size] * 4), [size, size], [strength, strength])[:, :, size:-size, size:-size]
    torch.testing.assert_close(transform_mechanism(mask, "shape", [("blur", strength)], generator()), expected)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_no_blur_is_the_identity_and_the_images_are_not_turned(mechanism):
    image = random_images(size=16).of(mechanism)
    assert torch.equal(transform_mechanism(image, mechanism, [("blur", 0.0)], generator()), image)
    stripes = torch.zeros(1, 1 if mechanism == "shape" else 3, 16, 16)
    stripes[:, :, ::2] = 1
    blurred = transform_mechanism(stripes, mechanism, [("blur", 0.4)], generator())
    assert blurred[0, 0, 4:12, 8].std() > 0.2
    assert blurred[0, 0, 8, 4:12].std() < 1e-5


def test_flatten_blends_in_the_mean_colour_of_each_image():
    image = random_images(size=16).foreground
    mean = image.mean((2, 3), keepdim=True).expand_as(image)
    flat = transform_mechanism(image, "texture", [("flatten", 1.0)], generator())
    torch.testing.assert_close(flat, mean)
    half = transform_mechanism(image, "background", [("flatten", 0.5)], generator())
    torch.testing.assert_close(half, (image + mean) / 2)
    assert torch.equal(transform_mechanism(image, "texture", [("flatten", 0.0)], generator()), image)


def test_transformations_are_applied_in_order():
    mask = torch.full((1, 1, 4, 4), 0.6)
    first = transform_mechanism(mask, "shape", [("opacity", 0.5), ("binarise", 0.5)], generator())
    second = transform_mechanism(mask, "shape", [("binarise", 0.5), ("opacity", 0.5)], generator())
    assert first.unique().tolist() == [0.0]
    assert second.unique().tolist() == [0.5]


@pytest.mark.parametrize("kind", sorted(TRANSFORMATIONS))
def test_every_transformation_keeps_shape_and_range_at_both_ends(kind):
    known = TRANSFORMATIONS[kind]
    images = random_images(size=16)
    for mechanism in known.mechanisms:
        lowest = 0.0 if mechanism == "shape" else -1.0
        for strength in (known.lowest, known.highest):
            changed = transform_mechanism(images.of(mechanism), mechanism, [(kind, strength)], generator())
            assert changed.shape == images.of(mechanism).shape
            assert changed.min() >= lowest - 1e-6
            assert changed.max() <= 1 + 1e-6


@pytest.mark.parametrize(
    ("mechanism", "kind"),
    [("shape", "fade"), ("shape", "rotation"), ("shape", "affine"), ("shape", "gaussian_noise"), ("texture", "blur")],
)
def test_with_a_generator_per_image_no_image_depends_on_the_others(mechanism, kind):
    images = torch.rand(4, 1 if mechanism == "shape" else 3, 8, 8, generator=generator(1))
    together = transform_mechanism(images, mechanism, [(kind, 0.9)], [generator(seed) for seed in range(4)])
    for row in range(4):
        alone = transform_mechanism(images[row : row + 1], mechanism, [(kind, 0.9)], generator(row))
        torch.testing.assert_close(together[row : row + 1], alone)


# --- what settings may ask of it ---------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(TRANSFORMATIONS))
def test_every_kind_is_allowed_at_both_ends_of_its_range(kind):
    known = TRANSFORMATIONS[kind]
    for mechanism in known.mechanisms:
        assert check_transformation(mechanism, mechanism, kind, known.lowest) is None
        assert check_transformation(mechanism, mechanism, kind, known.highest) is None


def test_an_unknown_transformation_is_refused_with_the_nearest_name():
    with pytest.raises(SettingError, match="Did you mean 'rotation'"):
        check_transformation("shape", "shape", "rotaton", 10)


@pytest.mark.parametrize(
    ("mechanism", "kind", "others"),
    [
        ("texture", "rotation", ("shape",)),
        ("background", "opacity", ("shape",)),
        ("background", "fade", ("shape",)),
        ("shape", "grey", ("texture", "background")),
        ("shape", "flatten", ("texture", "background")),
    ],
)
def test_a_transformation_of_another_mechanism_is_refused_with_those_that_make_sense(mechanism, kind, others):
    with pytest.raises(SettingError) as caught:
        check_transformation(f"grid.{mechanism}", mechanism, kind, 0.5)
    message = str(caught.value)
    fitting = ", ".join(name for name, known in TRANSFORMATIONS.items() if mechanism in known.mechanisms)
    assert message.startswith(
        f"grid.{mechanism}.kind: expected a transformation that makes sense for {mechanism} ({fitting})"
    )
    assert f"got '{kind}', which is for {' and '.join(others)}" in message
    assert f"or give '{kind}' to {' or '.join(others)}" in message


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_blur_and_noise_make_sense_for_every_mechanism(mechanism):
    for kind in ("blur", "gaussian_noise"):
        assert check_transformation(mechanism, mechanism, kind, 0.5) is None


@pytest.mark.parametrize(
    ("kind", "strength"),
    [
        ("rotation", 181),
        ("opacity", 1.5),
        ("opacity", -0.1),
        ("gaussian_noise", -0.1),
        ("fade", 1.1),
        ("blur", 17),
    ],
)
def test_a_strength_out_of_range_is_refused_with_the_range(kind, strength):
    with pytest.raises(SettingError, match=r"shape\.strength: expected a number in \["):
        check_transformation("shape", "shape", kind, strength)


def test_nan_is_no_strength():
    with pytest.raises(SettingError, match=r"shape\.strength"):
        check_transformation("shape", "shape", "opacity", float("nan"))
