"""GreyImages and MNIST come in the same form, with the splits that comparability asks for."""

from __future__ import annotations

import gzip

import pytest
import torch

from skdcgn_pipeline.images.assets import names_below
from skdcgn_pipeline.images.grey import GreyImages, read_grey_images, read_idx
from skdcgn_pipeline.runtime.errors import SettingError


@pytest.fixture(scope="module")
def mnist(assets) -> dict[str, GreyImages]:
    return read_grey_images("mnist", assets, 0, "double_colored")


def test_digits_are_split_by_eighty_and_twenty_percent(tmp_path):
    digits = read_grey_images("digits", tmp_path, 0, "double_colored")
    assert {name: len(split) for name, split in digits.items()} == {"train": 1438, "test": 359}


def test_digits_are_grey_images_of_32_pixels_with_ten_classes(tmp_path):
    for split in read_grey_images("digits", tmp_path, 0, "colored").values():
        assert split.images.shape[1:] == (32, 32)
        assert split.images.min() == 0
        assert split.images.max() <= 1
        assert split.labels.dtype == torch.int64
        assert split.labels.unique().tolist() == list(range(10))


def test_the_split_of_the_digits_follows_the_seed(tmp_path):
    first, again, other = (read_grey_images("digits", tmp_path, seed, "colored")["test"] for seed in (0, 0, 1))
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)


def test_no_digit_is_in_both_splits(tmp_path):
    from sklearn.datasets import load_digits

    digits = read_grey_images("digits", tmp_path, 0, "colored")
    labels = torch.cat([digits["train"].labels, digits["test"].labels])
    assert torch.equal(labels.bincount(), torch.from_numpy(load_digits().target).bincount())
    totals = torch.cat([digits["train"].images, digits["test"].images]).double().sum()
    # Bilinear doubling keeps the mean of an image.
    assert totals.item() == pytest.approx(load_digits().images.sum() / 16 * 16, rel=2e-2)


def test_digits_are_indexed_together(tmp_path):
    digits = read_grey_images("digits", tmp_path, 0, "colored")["train"]
    part = digits[torch.tensor([5, 2])]
    assert len(part) == 2
    assert torch.equal(part.images[0], digits.images[5])
    assert part.labels.tolist() == digits.labels[[5, 2]].tolist()


def test_mnist_of_double_colored_has_the_published_splits_and_a_third(mnist):
    sizes = {name: len(split) for name, split in mnist.items()}
    assert sizes == {"train": 50_000, "test": 10_000, "mnist_test": 10_000}


def test_mnist_test_is_the_real_test_split(mnist):
    assert mnist["mnist_test"].labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert mnist["train"].labels[:5].tolist() == [5, 0, 4, 1, 9]


def test_mnist_of_colored_has_the_official_splits(assets, mnist):
    digits = read_grey_images("mnist", assets, 0, "colored")
    assert {name: len(split) for name, split in digits.items()} == {"train": 60_000, "test": 10_000}
    assert torch.equal(digits["test"].labels, mnist["mnist_test"].labels)
    assert torch.equal(digits["train"].labels[50_000:], mnist["test"].labels)


def test_mnist_is_resized_by_nearest_pixels(mnist, assets):
    from torchvision.datasets import MNIST

    original = MNIST(str(assets / "mnist"), train=True).data[:50] / 255
    resized = mnist["train"].images[:50]
    assert resized.shape == (50, 32, 32)
    for before, after in zip(original, resized, strict=True):
        assert set(after.unique().tolist()) <= set(before.unique().tolist())


def test_fashion_mnist_is_read_from_its_packed_files(assets):
    if not (assets / "fashion_mnist").is_dir():
        pytest.skip("needs ../shared/data/fashion_mnist, which is absent")
    clothes = read_grey_images("fashion_mnist", assets, 0, "double_colored")
    assert {name: len(split) for name, split in clothes.items()} == {"train": 60_000, "test": 10_000}
    assert clothes["train"].images.shape[1:] == (32, 32)
    assert clothes["test"].labels[:5].tolist() == [9, 2, 1, 1, 6]
    assert clothes["test"].labels.bincount().tolist() == [1000] * 10


def write_idx(path, values: torch.Tensor, packed: bool) -> None:
    header = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    content = header + values.to(torch.uint8).numpy().tobytes()
    path.write_bytes(gzip.compress(content) if packed else content)


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_are_read_plain_or_packed(tmp_path, packed):
    path = tmp_path / ("values.gz" if packed else "values")
    values = torch.arange(24).view(2, 3, 4)
    write_idx(path, values, packed)
    assert torch.equal(read_idx(path), values.to(torch.uint8))
    path.write_bytes(path.read_bytes()[:-5])
    expected = "a complete .gz file" if packed else "an idx file of bytes"
    with pytest.raises(SettingError, match=rf"{path.name}: expected {expected}"):
        read_idx(path)


@pytest.mark.parametrize("packed", [False, True])
def test_a_successor_under_mnists_names_is_refused(tmp_path, packed):
    """Fashion-MNIST is published under the same names."""
    raw = tmp_path / "mnist/MNIST/raw"
    raw.mkdir(parents=True)
    for name in names_below("mnist"):
        write_idx(tmp_path / (f"{name}.gz" if packed else name), torch.zeros(3, 28, 28), packed)
    with pytest.raises(SettingError, match=r"images\.source=mnist: expected 7,840,016 bytes with SHA-256 .*idx3-ubyte"):
        read_grey_images("mnist", tmp_path, 0, "colored")


def test_an_unknown_source_is_refused_with_the_nearest_name(tmp_path):
    with pytest.raises(SettingError, match=r"images\.source.*Did you mean 'mnist'"):
        read_grey_images("mnits", tmp_path, 0, "colored")


def test_absent_mnist_files_are_named_with_the_command_that_gets_them(tmp_path):
    with pytest.raises(SettingError, match=r"assets \(SKDCGN_ASSETS\).*python -m skdcgn_pipeline\.images\.assets"):
        read_grey_images("mnist", tmp_path, 0, "colored")
