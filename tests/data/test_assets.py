"""Asset files are known by their checksum and fetched only when they are not there."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pytest

from skdcgn_pipeline.artifacts import sha256_of_file
from skdcgn_pipeline.data import assets as module
from skdcgn_pipeline.data.assets import (
    fetch_assets,
    names_below,
    published_teacher_name,
    require_assets,
    variant_of_published_teacher,
)
from skdcgn_pipeline.errors import SettingError

VARIANTS = ("colored", "double_colored", "wildlife")


def test_the_assets_at_hand_have_the_recorded_checksums(assets):
    names = [*names_below("cgn_mnist"), *names_below("textures")]
    assert len(names) == 23
    for name in names:
        assert sha256_of_file(assets / name) == module._SHA256[name]


def test_every_class_has_one_texture_of_each_part():
    for part in ("object", "background"):
        classes = [Path(name).name[0] for name in names_below(f"textures/{part}")]
        assert classes == list("0123456789")


def test_the_variant_of_a_published_teacher_is_known_by_its_content(assets):
    for variant in VARIANTS:
        digest = sha256_of_file(assets / published_teacher_name(variant))
        assert variant_of_published_teacher(digest) == variant
    assert variant_of_published_teacher("0" * 64) is None


def test_the_first_missing_file_is_named(tmp_path):
    (tmp_path / "a").write_text("")
    assert require_assets(tmp_path, ["a"]) == [tmp_path / "a"]
    with pytest.raises(SettingError, match=r"the file .*/b, got 2 of 3 files missing.*SKDCGN_ASSETS"):
        require_assets(tmp_path, ["a", "b", "c"])


@pytest.fixture
def one_asset(monkeypatch, tmp_path):
    """Replace the known assets by one compressed file, and the network by a folder."""
    import pooch

    name, content, urls = "mnist/MNIST/raw/digits-idx3-ubyte", b"ten digits", []
    monkeypatch.setattr(module, "_SHA256", {name: hashlib.sha256(content).hexdigest()})
    served = {"content": gzip.compress(content)}

    def retrieve(url: str, known_hash: None, path: Path) -> str:
        urls.append(url)
        target = Path(path) / "download"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(served["content"])
        return str(target)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    return name, content, urls, served


def test_a_missing_asset_is_fetched_unpacked_and_checked(one_asset, tmp_path):
    name, content, urls, _ = one_asset
    assert fetch_assets(tmp_path) == [tmp_path / name]
    assert (tmp_path / name).read_bytes() == content
    assert urls == ["https://ossci-datasets.s3.amazonaws.com/mnist/digits-idx3-ubyte.gz"]


def test_a_complete_asset_is_not_fetched_again(one_asset, tmp_path):
    _, _, urls, _ = one_asset
    fetch_assets(tmp_path)
    fetch_assets(tmp_path)
    assert len(urls) == 1


def test_a_damaged_asset_is_fetched_again(one_asset, tmp_path):
    name, content, urls, _ = one_asset
    fetch_assets(tmp_path)
    (tmp_path / name).write_bytes(b"ten digit")
    fetch_assets(tmp_path)
    assert (tmp_path / name).read_bytes() == content
    assert len(urls) == 2


def test_a_download_of_other_content_is_refused_and_not_kept(one_asset, tmp_path):
    name, _, _, served = one_asset
    served["content"] = gzip.compress(b"something else")
    with pytest.raises(SettingError, match="SHA-256"):
        fetch_assets(tmp_path)
    assert not (tmp_path / name).exists()


def test_a_download_that_fails_is_one_clear_error(one_asset, tmp_path, monkeypatch):
    import pooch

    def fail(url: str, known_hash: None, path: Path) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(pooch, "retrieve", fail)
    with pytest.raises(SettingError, match=r"no route to host\. Check the network"):
        fetch_assets(tmp_path)
