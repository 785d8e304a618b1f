"""The composition's algebra, the labels and the patch shift."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skdcgn_pipeline.mechanisms import (
    CounterfactualGenerator,
    MechanismImages,
    MechanismLabels,
    check_images,
    compose,
    shift_patches,
)
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.teachers.cgn import MnistCGN
from skdcgn_pipeline.vocabulary import MECHANISMS


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
