"""Pictures of every kind are read rightly, or named when they cannot be."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from images.pictures import picture
from skdcgn_pipeline.images.reading import (
    as_mask,
    crop_centre,
    crop_randomly,
    draw_crop,
    open_mask,
    read_picture,
    read_pictures,
    to_bytes,
)
from skdcgn_pipeline.runtime.errors import SettingError


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB")).astype(int)


@pytest.mark.parametrize("name", ["a.png", "b.bmp", "c.webp", "d.tiff", "E.PNG", "f.gif", "g.jpg", "h.JPEG", "i.ppm"])
def test_formats_and_endings(tmp_path, name):
    picture(0).save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    read = read_picture(tmp_path / name)
    assert read.mode == "RGB"
    assert abs(pixels(read) - pixels(picture(0))).mean() < 8


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "I"])
def test_pixels_of_every_kind_become_colours(tmp_path, mode):
    original = picture(1)
    if mode in ("I;16", "I"):
        grey = np.asarray(original.convert("L")).astype(np.uint16) * 257
        converted = Image.fromarray(grey if mode == "I;16" else grey.astype(np.int32))
        expected = pixels(original.convert("L"))
    else:
        converted = original.convert(mode)
        expected = pixels(converted)
    path = tmp_path / ("x.tiff" if mode in ("CMYK", "I") else "x.png")
    converted.save(path)
    assert abs(pixels(read_picture(path)) - expected).max() <= 1


def test_what_is_transparent_is_white(tmp_path):
    image = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    image.putpixel((1, 1), (0, 0, 200, 255))
    image.save(tmp_path / "a.png")
    image.quantize(4).save(tmp_path / "palette.png", transparency=image.quantize(4).getpixel((0, 0)))
    for name in ("a.png", "palette.png"):
        assert read_picture(tmp_path / name).getpixel((0, 0)) == (255, 255, 255)
    assert read_picture(tmp_path / "a.png").getpixel((1, 1)) == (0, 0, 200)


def test_pictures_are_turned_as_their_camera_says(tmp_path):
    original = picture(2)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to look at it
    original.save(tmp_path / "a.png", exif=exif)
    assert (pixels(read_picture(tmp_path / "a.png")) == pixels(original.transpose(Image.Transpose.ROTATE_270))).all()


def test_of_an_animation_the_first_picture_is_read(tmp_path):
    first, *others = (Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue"))
    first.save(tmp_path / "a.gif", save_all=True, append_images=others)
    assert read_picture(tmp_path / "a.gif").getpixel((0, 0)) == (255, 0, 0)


def test_broken_files_are_named_in_one_line(tmp_path):
    picture(0, 200, 200).save(tmp_path / "cut.jpg")
    content = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[:-200])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").write_text("")
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere")
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "float.tiff")
    Image.fromarray(np.full((4, 4), 2**20, np.int32)).save(tmp_path / "deep.tiff")
    for name in ("cut.jpg", "text.png", "empty.png", "link.png", "float.tiff", "deep.tiff", "nowhere.png"):
        with pytest.raises(SettingError, match=rf"{name}: expected a readable picture, got \w+: ") as error:
            read_picture(tmp_path / name)
        assert "\n" not in str(error.value)


def test_a_pipe_is_named_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(SettingError, match=r"pipe\.png: expected a readable picture, got OSError: no regular file"):
        read_picture(tmp_path / "pipe.png")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "ones"])
def test_masks_of_every_kind_are_white_on_black(mode):
    mask = Image.new("L", (8, 8))
    mask.paste(255, (2, 2, 6, 6))
    given = mask.point(lambda value: value // 255) if mode == "ones" else mask.convert(mode)
    assert np.array_equal(np.asarray(as_mask(given)), np.asarray(mask))


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float64])
def test_masks_may_be_arrays(tmp_path, dtype):
    mask = np.zeros((6, 8), dtype=dtype)
    mask[1:3, 2:7] = 1
    np.save(tmp_path / "mask.npy", mask)
    assert np.array_equal(np.asarray(read_picture(tmp_path / "mask.npy", "L")), 255 * (mask != 0))
    save_as = tmp_path / "mask.png"
    Image.fromarray((255 * (mask != 0)).astype(np.uint8)).save(save_as)
    assert np.array_equal(np.asarray(open_mask(save_as)), 255 * (mask != 0))


@pytest.mark.parametrize("content", [np.zeros((2, 3, 4)), np.array(1), np.array([{}]), b"", b"no array"])
def test_other_arrays_are_no_masks(tmp_path, content):
    if isinstance(content, bytes):
        (tmp_path / "mask.npy").write_bytes(content)
    else:
        np.save(tmp_path / "mask.npy", content, allow_pickle=True)
    with pytest.raises(SettingError, match=r"mask\.npy: expected a readable picture"):
        read_picture(tmp_path / "mask.npy", "L")


def test_pictures_are_read_to_one_size(tmp_path):
    paths = []
    for number, (width, height) in enumerate([(40, 34), (20, 60), (16, 16), (3, 5)]):
        paths.append(tmp_path / f"{number}.png")
        picture(number, width, height).save(paths[-1])
    images = read_pictures(paths, 16)
    assert images.shape == (4, 3, 16, 16)
    assert images.dtype == torch.uint8
    assert torch.equal(images[2], to_bytes(picture(2, 16, 16)))


# --- crops ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(40, 34), (33, 60), (24, 24), (300, 24), (41, 41)])
@pytest.mark.parametrize("image_size", [21, 24])
def test_the_middle_is_that_of_torchvision(size, image_size):
    image = picture(0, *size)
    reference = transforms.Compose([transforms.Resize(24), transforms.CenterCrop(image_size), transforms.PILToTensor()])
    assert torch.equal(to_bytes(crop_centre(image, image_size, 24)), reference(image))


def test_the_middle_of_images_in_memory_is_that_of_pictures():
    image = picture(0, 48, 48)
    of_tensor = crop_centre(to_bytes(image)[None].float(), 16, 20)[0]
    assert (of_tensor - to_bytes(crop_centre(image, 16, 20))).abs().mean() < 1


@pytest.mark.parametrize(("height", "width"), [(34, 40), (200, 150), (30, 300), (300, 30), (1, 1), (1, 9)])
def test_random_crops_are_within_the_image_and_its_ranges(height, width):
    generator = np.random.default_rng(0)
    crops = np.array([draw_crop(height, width, generator) for _ in range(500)])
    top, left, crop_height, crop_width = crops.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (crop_height > 0).all()
    assert (crop_width > 0).all()
    assert (top + crop_height <= height).all()
    assert (left + crop_width <= width).all()


def test_random_crops_are_spread_as_those_of_torchvision():
    height, width = 200, 220
    generator = np.random.default_rng(0)
    ours = np.array([draw_crop(height, width, generator) for _ in range(2000)])
    image = torch.zeros(3, height, width)
    torch.manual_seed(0)
    parameters = transforms.RandomResizedCrop.get_params
    theirs = np.array([parameters(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(2000)])
    np.testing.assert_allclose(ours.mean(0), theirs.mean(0), atol=4)
    np.testing.assert_allclose(ours.std(0), theirs.std(0), atol=3)
    for crops in (ours, theirs):
        top, left, crop_height, crop_width = crops.T
        assert (crop_height * crop_width).min() / (height * width) == pytest.approx(0.08, abs=0.01)
        assert (crop_width / crop_height).min() == pytest.approx(3 / 4, abs=0.02)
        assert (crop_width / crop_height).max() == pytest.approx(4 / 3, abs=0.02)
        assert top.min() == left.min() == 0
        assert (left + crop_width).max() == width


def test_an_extreme_shape_gives_its_middle():
    assert draw_crop(20, 1000, np.random.default_rng(0)) == (0, 486, 20, 27)
    assert draw_crop(1000, 30, np.random.default_rng(0)) == (480, 0, 40, 30)


def test_pictures_and_images_in_memory_are_cropped_alike():
    image = picture(3, 60, 50)
    of_picture = crop_randomly(image, 16, np.random.default_rng(5))
    of_tensor = crop_randomly(to_bytes(image).float(), 16, np.random.default_rng(5))
    assert (of_tensor - to_bytes(of_picture)).abs().mean() < 1
