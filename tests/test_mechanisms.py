"""The composition's algebra, the labels, and every transformation of a mechanism."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchvision.transforms.v2.functional import gaussian_blur, pad

from skdcgn_pipeline import mechanisms
from skdcgn_pipeline.mechanisms import (
    TRANSFORMATIONS,
    CounterfactualGenerator,
    MechanismImages,
    MechanismLabels,
    check_images,
    compose,
    shift_patches,
    transform_mechanism,
)
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.teachers.cgn import MnistCGN
from skdcgn_pipeline.vocabulary import MECHANISMS, TRANSFORMATION_KINDS


def random_images(num_images: int = 3, size: int = 8, seed: int = 0) -> MechanismImages:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(num_images, 1, size, size, generator=generator)
    foreground, background = torch.rand(2, num_images, 3, size, size, generator=generator) * 2 - 1
    return MechanismImages(mask, foreground, background)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- composition ---------------------------------------------------------------------------------


def test_mask_of_ones_composes_to_the_foreground():
    images = random_images()
    composite = compose(MechanismImages(torch.ones_like(images.mask), images.foreground, images.background))
    assert torch.equal(composite, images.foreground)


def test_mask_of_zeros_composes_to_the_background():
    images = random_images()
    composite = compose(MechanismImages(torch.zeros_like(images.mask), images.foreground, images.background))
    assert torch.equal(composite, images.background)


def test_soft_mask_mixes_foreground_and_background():
    images = random_images()
    expected = images.mask * images.foreground + (1 - images.mask) * images.background
    torch.testing.assert_close(compose(images), expected)


def test_composition_does_not_change_its_input():
    images = random_images()
    before = images.foreground.clone(), images.background.clone()
    compose(images, torch.ones(3, 2, dtype=torch.long), torch.ones(3, 2, dtype=torch.long))
    assert torch.equal(images.foreground, before[0])
    assert torch.equal(images.background, before[1])


def test_composition_shifts_foreground_and_background_by_their_own_offsets():
    images = random_images()
    foreground_offset, background_offset = torch.tensor([[1, 2]] * 3), torch.tensor([[5, 0]] * 3)
    shifted = MechanismImages(
        images.mask,
        shift_patches(images.foreground, foreground_offset),
        shift_patches(images.background, background_offset),
    )
    assert torch.equal(compose(images, foreground_offset, background_offset), compose(shifted))


@pytest.mark.parametrize(
    "shapes",
    [
        ((3, 3, 8, 8), (3, 3, 8, 8), (3, 3, 8, 8)),
        ((3, 1, 8, 8), (3, 3, 8, 8), (3, 3, 4, 4)),
        ((3, 1, 4, 4), (3, 3, 8, 8), (3, 3, 8, 8)),
        ((2, 1, 8, 8), (3, 3, 8, 8), (3, 3, 8, 8)),
        ((1, 1, 8, 8), (3, 3, 8, 8), (3, 3, 8, 8)),
    ],
    ids=["mask has 3 channels", "background is smaller", "mask is smaller", "fewer masks", "one mask"],
)
def test_composition_refuses_shapes_that_do_not_fit(shapes):
    with pytest.raises(SettingError, match="images: expected mask"):
        compose(MechanismImages(*(torch.zeros(shape) for shape in shapes)))


def test_patch_shift_is_circular():
    images = torch.arange(2 * 3 * 4 * 4).view(2, 3, 4, 4)
    shifted = shift_patches(images, torch.tensor([[1, 3], [2, 0]]))
    assert torch.equal(shifted[0], images[0].roll((-1, -3), (1, 2)))
    assert torch.equal(shifted[1], images[1].roll((-2, 0), (1, 2)))


def test_patch_shift_by_the_image_size_is_no_shift():
    images = random_images().foreground
    assert torch.equal(shift_patches(images, torch.full((3, 2), 8)), images)
    assert torch.equal(shift_patches(images, torch.zeros(3, 2, dtype=torch.long)), images)


def test_patch_shift_is_a_window_of_the_image_tiled_twice_by_twice():
    images = random_images(1).foreground
    window = images.tile(1, 1, 2, 2)[:, :, 3 : 3 + 8, 6 : 6 + 8]
    assert torch.equal(shift_patches(images, torch.tensor([[3, 6]])), window)


def test_patch_shift_takes_bytes_and_small_integers():
    images = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8, generator=generator())
    shifted = shift_patches(images, torch.tensor([[1, 2], [3, 4]], dtype=torch.int16))
    assert shifted.dtype == torch.uint8
    assert torch.equal(shifted[1], images[1].roll((-3, -4), (1, 2)))


def test_patch_shift_leaves_flat_images():
    colours = random_images().foreground.mean((2, 3), keepdim=True)
    flat, offsets = colours.expand(-1, -1, 8, 8), torch.tensor([[1, 2], [3, 4], [5, 6]])
    assert torch.equal(shift_patches(flat, offsets), shift_patches(flat.contiguous(), offsets))


def test_patch_shift_is_the_same_where_images_get_a_gradient():
    images, offsets = random_images().foreground, torch.tensor([[1, 2], [8, 0], [19, -3]])
    shifted = shift_patches(images, offsets)
    followed = images.clone().requires_grad_()
    assert torch.equal(shift_patches(followed, offsets), shifted)
    shift_patches(followed, offsets).square().sum().backward()
    assert torch.equal(followed.grad, 2 * images)
    assert torch.equal(shift_patches(images.double(), offsets), shifted.double())


def test_patch_shift_matches_the_golden_crops(shared):
    golden = np.load(shared / "golden" / "cgn_double_colored_mnist.npz")
    patch = torch.from_numpy(golden["foreground_patch"].astype(np.float32))
    offset = torch.from_numpy(golden["crop_offset"].astype(np.int64))
    expected = torch.from_numpy(golden["foreground_cropped"].astype(np.float32))
    torch.testing.assert_close(shift_patches(patch, offset), expected, rtol=0, atol=2e-3)


# --- labels and images ---------------------------------------------------------------------------


def test_one_label_per_image_is_factual():
    labels = MechanismLabels.of(torch.tensor([0, 2, 1]))
    for mechanism in MECHANISMS:
        assert getattr(labels, mechanism).tolist() == [0, 2, 1]


def test_counterfactual_labels_come_as_columns_or_by_name():
    columns = torch.tensor([[0, 1, 2], [2, 1, 0]])
    by_name = MechanismLabels.of({m: columns[:, i] for i, m in enumerate(MECHANISMS)})
    for labels in (MechanismLabels.of(columns), by_name, MechanismLabels.of(by_name)):
        assert (labels.shape.tolist(), labels.texture.tolist(), labels.background.tolist()) == ([0, 2], [1, 1], [2, 0])


@pytest.mark.parametrize("shape", [(), (4, 2), (4, 3, 1)])
def test_labels_of_another_form_are_refused(shape):
    with pytest.raises(SettingError, match=r"labels: expected an integer tensor"):
        MechanismLabels.of(torch.zeros(shape, dtype=torch.long))


def test_labels_that_lack_a_mechanism_are_refused():
    with pytest.raises(SettingError, match="the keys shape, texture, background"):
        MechanismLabels.of({"shape": torch.zeros(1), "texture": torch.zeros(1)})


def test_a_factual_render_equals_three_equal_labels(tiny_teacher):
    noise, label = torch.randn(3, 4, generator=generator()), torch.tensor([0, 1, 2])
    factual = tiny_teacher.render(noise, label)
    same = tiny_teacher.render(noise, torch.stack([label] * 3, 1))
    for mechanism in MECHANISMS:
        assert torch.equal(factual.of(mechanism), same.of(mechanism))


def test_a_counterfactual_label_changes_its_own_mechanism_alone(tiny_teacher):
    noise, label = torch.randn(3, 4, generator=generator()), torch.tensor([0, 1, 2])
    factual = tiny_teacher.render(noise, label)
    for mechanism in MECHANISMS:
        labels = dict.fromkeys(MECHANISMS, label) | {mechanism: (label + 1) % 3}
        counterfactual = tiny_teacher.render(noise, labels)
        for other in MECHANISMS:
            assert torch.equal(counterfactual.of(other), factual.of(other)) == (other != mechanism)


def test_images_are_indexed_together_and_found_by_mechanism():
    images = random_images(4)
    part = images[torch.tensor([2, 0])]
    assert len(part) == 2
    assert torch.equal(part.of("shape"), images.mask[[2, 0]])
    assert torch.equal(part.of("texture"), images.foreground[[2, 0]])
    assert torch.equal(part.of("background"), images.background[[2, 0]])


def test_teachers_with_and_without_a_module_have_the_interface(tiny_teacher):
    assert isinstance(tiny_teacher, CounterfactualGenerator)
    assert isinstance(MnistCGN(width=2), CounterfactualGenerator)
    assert not isinstance(object(), CounterfactualGenerator)


# --- contract of images --------------------------------------------------------------------------


def test_images_that_keep_the_contract_pass_the_check(tiny_teacher):
    images = tiny_teacher.render(torch.zeros(2, 4), torch.tensor([0, 1]))
    assert check_images(images, 2, 8) is None


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("mask", lambda x: x[:, :, :4], "teacher mask: expected a tensor of shape"),
        ("mask", lambda x: x - 1, r"values in \[0, 1\]"),
        ("foreground", lambda x: (x * 255).to(torch.uint8), "floating point"),
        ("foreground", lambda x: x * torch.nan, "finite values"),
        ("background", lambda x: x + 1, r"values in \[-1, 1\]"),
        ("background", lambda x: x[:1], "teacher background: expected a tensor of shape"),
        ("background", lambda x: x.numpy(), "got ndarray"),
    ],
)
def test_images_that_break_the_contract_are_refused(tiny_teacher, name, change, message):
    images = tiny_teacher.render(torch.zeros(2, 4), torch.tensor([0, 1]))
    changed = {key: change(value) if key == name else value for key, value in vars(images).items()}
    with pytest.raises(SettingError, match=message):
        check_images(MechanismImages(**changed), 2, 8)


# --- transformations -----------------------------------------------------------------------------


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
    monkeypatch.setattr(mechanisms.torch, "rand", lambda n, generator: torch.ones(n))  # the largest angle
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


def test_every_kind_of_transformation_has_its_function():
    assert set(TRANSFORMATIONS) == set(TRANSFORMATION_KINDS)


@pytest.mark.parametrize("kind", sorted(TRANSFORMATION_KINDS))
def test_every_transformation_keeps_shape_and_range_at_both_ends(kind):
    known = TRANSFORMATION_KINDS[kind]
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
