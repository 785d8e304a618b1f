"""The three bias protocols: what the colours tell in training and do not tell in the test."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skdcgn_pipeline.images.bias import (
    COLORED_MEANS,
    DOUBLE_COLORED_BACKGROUNDS,
    apply_bias,
    group_names,
    read_textures,
)
from skdcgn_pipeline.images.grey import GreyImages
from skdcgn_pipeline.images.image_set import Split
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.runtime.seeding import numpy_generator

NUM_DIGITS = 4000


def make_digits(num_digits: int = NUM_DIGITS) -> GreyImages:
    """Squares of full brightness, so that colours can be read off them."""
    images = torch.zeros(num_digits, 32, 32)
    images[:, 8:24, 8:24] = 1
    return GreyImages(images, torch.arange(num_digits) % 10)


def colour(variant: str, bias_share: float | None, seed: int = 0, num_digits: int = NUM_DIGITS, **options) -> Split:
    generator = numpy_generator(seed, "colours")
    return apply_bias(make_digits(num_digits), variant, bias_share=bias_share, generator=generator, **options)


def columns(split: Split) -> dict[str, torch.Tensor]:
    return {"images": split.images, "labels": split.labels, **split.attributes}


def object_colours(split: Split) -> torch.Tensor:
    return split.images[:, :, 16, 16].double()


def background_colours(split: Split) -> torch.Tensor:
    return split.images[:, :, 0, 0].double()


def palette() -> torch.Tensor:
    return torch.tensor(DOUBLE_COLORED_BACKGROUNDS, dtype=torch.float64)


@pytest.mark.parametrize("variant", ["colored", "double_colored"])
def test_biased_images_keep_order_size_and_labels(variant):
    split = colour(variant, bias_share=1.0)
    assert split.images.shape == (NUM_DIGITS, 3, 32, 32)
    assert split.images.dtype == torch.uint8
    assert torch.equal(split.labels, make_digits().labels)


@pytest.mark.parametrize("variant", ["colored", "double_colored"])
def test_colours_of_the_training_split_follow_the_class(variant):
    split = colour(variant, bias_share=1.0)
    assert torch.equal(split.attributes["foreground_index"], split.labels)
    if variant == "double_colored":
        assert torch.equal(split.attributes["background_index"], split.labels)
    assert not split.collision.any()


@pytest.mark.parametrize("variant", ["colored", "double_colored", "wildlife"])
@pytest.mark.parametrize("bias_share", [0.99, 0.95, 0.5, 0.0])
def test_so_many_images_follow_the_bias_and_the_others_have_other_colours(variant, bias_share, assets):
    split = colour(variant, bias_share, assets=assets)
    colours = [split.attributes["foreground_index"]]
    if variant != "colored":
        colours.append(split.attributes["background_index"])
    follows = torch.stack([index == split.labels for index in colours])
    assert torch.equal(follows.all(0), follows.any(0))  # of an image, both or none
    assert follows[0].sum() == round(bias_share * NUM_DIGITS)
    for index in colours:
        others = ((index - split.labels) % 10)[~follows[0]]
        assert others.bincount(minlength=10)[1:].min() > 0  # each of the other nine
    assert torch.equal(split.attributes["group"], 2 * split.labels + ~follows[0])
    by_class = follows[0].float().view(-1, 10).mean(0)  # drawn among all classes alike
    assert by_class.numpy() == pytest.approx(bias_share, abs=0.1)


def test_conflicting_images_of_double_colored_have_two_colours_of_their_own():
    split = colour("double_colored", 0.0)
    same = split.attributes["foreground_index"] == split.attributes["background_index"]
    assert same.float().mean().item() == pytest.approx(1 / 9, abs=0.02)
    assert split.collision.any()


@pytest.mark.parametrize(("variant", "share"), [("colored", 0.1), ("double_colored", 0.19)])
def test_groups_of_the_test_split_are_classes_with_a_colour_of_theirs_and_without(variant, share):
    split = colour(variant, None)
    colours = [split.attributes[f"{part}_index"] == split.labels for part in ("foreground", "background")]
    assert torch.equal(split.groups, 2 * split.labels + ~(colours[0] | colours[1]))
    assert (split.groups % 2 == 0).float().mean().item() == pytest.approx(share, abs=0.02)
    assert group_names(("shirt", "bag"))[2:] == ("bag, bias-aligned", "bag, bias-conflicting")


@pytest.mark.parametrize("variant", ["colored", "double_colored"])
def test_colours_of_the_test_split_are_independent_of_the_class(variant):
    split = colour(variant, bias_share=None)
    counts = torch.zeros(10, 10)
    counts.index_put_((split.labels, split.attributes["foreground_index"]), torch.ones(NUM_DIGITS), accumulate=True)
    expected = NUM_DIGITS / 100
    chi_square = ((counts - expected).square() / expected).sum().item()
    assert chi_square < 150  # 81 degrees of freedom; a dependence gives thousands
    assert counts.min() > 0


def test_both_colours_of_the_test_split_are_independent_of_each_other():
    split = colour("double_colored", bias_share=None)
    counts = torch.zeros(10, 10)
    counts.index_put_(
        (split.attributes["background_index"], split.attributes["foreground_index"]),
        torch.ones(NUM_DIGITS),
        accumulate=True,
    )
    expected = NUM_DIGITS / 100
    assert ((counts - expected).square() / expected).sum().item() < 150


def test_object_colour_of_a_class_is_the_background_colour_six_classes_before():
    split = colour("double_colored", bias_share=1.0)
    for label in range(10):
        rows = split.labels == label
        mean = object_colours(split)[rows].mean(0)
        distance = (palette() - mean).abs().amax(1)
        assert distance.argmin().item() == (label - 6) % 10
        assert distance.min() < 3
        background = background_colours(split)[rows].mean(0)
        assert (palette()[label] - background).abs().max() < 3


def test_one_image_in_ten_of_the_test_split_collides():
    split = colour("double_colored", bias_share=None)
    assert split.collision.float().mean().item() == pytest.approx(0.1, abs=0.02)


def test_collisions_are_exactly_where_the_two_colours_are_the_same():
    split = colour("double_colored", bias_share=None)
    difference = (object_colours(split) - background_colours(split)).abs().amax(1)
    assert difference[split.collision].max() < 25  # the noise alone
    assert difference[~split.collision].min() > 30


def test_noise_of_double_colored_has_a_standard_deviation_of_a_hundredth():
    split = colour("double_colored", bias_share=1.0)
    rows = split.labels == 5  # burlywood: no channel is at an end of the range
    assert background_colours(split)[rows].std(0).div(255).numpy() == pytest.approx(0.01, rel=0.2)


def test_every_digit_of_double_colored_is_flat_on_a_flat_background():
    split = colour("double_colored", bias_share=None, num_digits=20)
    inside, outside = split.images[:, :, 8:24, 8:24], split.images[:, :, :8]
    assert torch.equal(inside, inside[:, :, :1, :1].expand_as(inside))
    assert torch.equal(outside, outside[:, :, :1, :1].expand_as(outside))


def test_colours_of_colored_have_a_variance_of_two_hundredths():
    split = colour("colored", bias_share=1.0)
    colours = object_colours(split)[split.labels == 4] / 255  # (237, 145, 33): green is far from both ends
    assert colours[:, 1].var().item() == pytest.approx(0.02, rel=0.25)
    assert colours[:, 1].mean().item() == pytest.approx(COLORED_MEANS[4][1] / 255, abs=0.03)


def test_colored_keeps_the_background_black_and_grey_levels():
    digits = make_digits(20)
    digits.images[:, 10, 10] = 0.5
    split = apply_bias(digits, "colored", bias_share=1.0, generator=numpy_generator(0, "colours"))
    assert background_colours(split).max() == 0
    half = split.images[:, :, 10, 10].double()
    assert (half - object_colours(split) / 2).abs().max() <= 1
    assert (split.attributes["background_index"] == -1).all()


def test_the_threshold_decides_which_pixels_belong_to_the_digit():
    digits = make_digits(10)
    digits.images[:, 2, 2] = 0.3
    low, high = (
        apply_bias(
            digits,
            "double_colored",
            bias_share=1.0,
            generator=numpy_generator(0, "colours"),
            binarise_threshold=threshold,
        )
        for threshold in (0.1, 0.4)
    )
    assert torch.equal(low.images[:, :, 2, 2], low.images[:, :, 16, 16])
    assert torch.equal(high.images[:, :, 2, 2], high.images[:, :, 0, 0])


@pytest.mark.parametrize("variant", ["colored", "double_colored"])
@pytest.mark.parametrize("bias_share", [1.0, None])
def test_the_same_seed_gives_the_same_colours_and_another_others(variant, bias_share):
    first, again, other = (colour(variant, bias_share, seed, 200) for seed in (0, 0, 1))
    for key, values in columns(first).items():
        assert torch.equal(values, columns(again)[key])
    assert not torch.equal(first.images, other.images)


def test_wildlife_images_are_windows_of_the_textures_of_their_classes(assets):
    split = colour("wildlife", bias_share=1.0, num_digits=10, assets=assets)
    for part, index, region in (
        ("object", split.attributes["foreground_index"], (slice(8, 24), slice(8, 24))),
        ("background", split.attributes["background_index"], (slice(0, 8), slice(0, 32))),
    ):
        textures = read_textures(assets, part)
        for image, label in zip(split.images.numpy(), index.tolist(), strict=True):
            piece = image[:, region[0], region[1]]
            texture = textures[label]
            windows = np.lib.stride_tricks.sliding_window_view(texture[:, :, :], piece.shape)[0]
            corner = windows[..., 0, 0, 0] == piece[0, 0, 0]
            candidates = windows[corner]
            assert (candidates == piece).all((1, 2, 3)).any()


def test_wildlife_textures_of_the_test_split_are_independent(assets):
    split = colour("wildlife", bias_share=None, num_digits=1000, assets=assets)
    for own, other in (
        (split.labels, split.attributes["foreground_index"]),
        (split.labels, split.attributes["background_index"]),
        (split.attributes["foreground_index"], split.attributes["background_index"]),
    ):
        assert (own == other).float().mean().item() == pytest.approx(0.1, abs=0.04)
    assert not split.collision.any()


def test_wildlife_draws_another_window_for_every_image(assets):
    split = colour("wildlife", bias_share=1.0, num_digits=40, assets=assets)
    first_class = split.images[split.labels == 0].flatten(1)
    assert len({row.numpy().tobytes() for row in first_class}) == len(first_class)


def test_textures_are_padded_by_reflection(assets):
    textures = read_textures(assets, "object")
    assert textures.shape == (10, 3, 156, 156)
    assert np.array_equal(textures[:, :, 2], textures[:, :, 4])
    assert np.array_equal(textures[..., 153], textures[..., 151])


def test_wildlife_without_its_textures_is_refused(tmp_path):
    with pytest.raises(SettingError, match="textures/object"):
        colour("wildlife", bias_share=1.0, num_digits=10, assets=tmp_path)


def test_an_unknown_variant_is_refused_with_the_nearest_name():
    with pytest.raises(SettingError, match="Did you mean 'double_colored'"):
        colour("double_coloured", bias_share=1.0, num_digits=10)


def test_a_biased_split_is_indexed_as_a_whole():
    split = colour("double_colored", bias_share=None, num_digits=30)
    part = split[torch.tensor([4, 1])]
    assert len(part) == 2
    for key, values in columns(part).items():
        assert torch.equal(values, columns(split)[key][[4, 1]])
