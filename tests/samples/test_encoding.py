"""Encoded images come back as they were, or nearly; settings that lose nothing lose nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from skdcgn_pipeline.parameters import ImageEncoding
from skdcgn_pipeline.samples.encoding import decode, encode

LOSSLESS = [ImageEncoding(encoding="png"), ImageEncoding(encoding="webp")]
LOSSY = [ImageEncoding(encoding="webp", quality=80), ImageEncoding(encoding="jpeg")]


def make_images(channels: int, num_images: int = 5, size: int = 24) -> np.ndarray:
    """Waves, as smooth as a photograph."""
    phase = np.arange(num_images)[:, None, None, None] + np.arange(channels)[None, :, None, None]
    axis = np.arange(size) / 6
    waves = np.sin(phase + axis[:, None]) + np.cos(phase + axis[None, :])
    return (waves * 60 + 127).round().astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("how", LOSSLESS, ids=lambda how: how.encoding)
def test_lossless_images_come_back_as_they_were(channels, how):
    images = make_images(channels)
    assert np.array_equal(decode([*encode(images, how)], images.shape[1:]), images)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("how", LOSSY, ids=lambda how: how.encoding)
def test_lossy_images_come_back_nearly_as_they_were(channels, how):
    images = make_images(channels)
    decoded = decode([*encode(images, how)], images.shape[1:])
    assert (decoded.shape, decoded.dtype) == (images.shape, np.uint8)
    difference = np.abs(decoded.astype(int) - images.astype(int))
    assert 0 < difference.mean() < 4


def test_a_lower_quality_takes_less():
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), np.uint8)
    sizes = [sum(map(len, encode(images, ImageEncoding(encoding="jpeg", quality=q)))) for q in (20, 60, 95)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2] / 2


@pytest.mark.parametrize("how", [LOSSLESS[0], LOSSY[1]], ids=lambda how: how.encoding)
def test_a_mask_has_one_channel(how):
    import io

    with Image.open(io.BytesIO(next(iter(encode(make_images(1), how))))) as image:
        assert image.mode == "L"


@pytest.mark.parametrize("num_threads", [1, 2, 7])
def test_decoding_does_not_depend_on_the_number_of_threads(num_threads):
    images = make_images(3, 19)
    with ThreadPoolExecutor(num_threads) as pool:
        assert np.array_equal(decode([*encode(images, LOSSLESS[0])], images.shape[1:], pool.map), images)


def test_several_threads_may_decode_at_once():
    images = make_images(3, 12)
    values = [*encode(images, LOSSLESS[0])]
    with ThreadPoolExecutor(4) as pool:
        decoded = list(pool.map(lambda row: decode(values[row : row + 1], images.shape[1:])[0], range(12)))
    assert np.array_equal(np.stack(decoded), images)


@pytest.mark.parametrize(
    "damage", [lambda v: v[:-30], lambda v: b"nothing", lambda v: b""], ids=["cut", "other", "none"]
)
def test_a_damaged_image_is_refused(damage):
    values = [*encode(make_images(3), LOSSLESS[0])]
    with pytest.raises(ValueError, match="cannot be decoded"):
        decode([values[0], damage(values[1])], (3, 24, 24))


def test_an_image_of_another_size_is_refused():
    with pytest.raises(ValueError, match="expected an image of 8 x 8 pixels"):
        decode([*encode(make_images(3), LOSSLESS[0])], (3, 8, 8))
