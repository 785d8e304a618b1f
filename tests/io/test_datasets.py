"""The Kedro datasets: versions of artifacts, pictures, tables, documents."""

from __future__ import annotations

import base64
import io
import json
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from kedro.io import DataCatalog, DatasetError, MemoryDataset, Version
from PIL import Image

from skdcgn_pipeline.artifacts.store import Artifact, build_artifact
from skdcgn_pipeline.io.datasets import (
    AnimationDataset,
    ArtifactDataset,
    DocumentDataset,
    PictureDataset,
    RecordDataset,
    TableDataset,
    claim_run,
    read_as_of,
)
from skdcgn_pipeline.reporting.pictures import MILLISECONDS_PER_FRAME
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.samples.drawing import SampleShards

PLAIN = "skdcgn_pipeline.artifacts.store.Artifact"


def make_artifact(store: Path, text: str) -> Artifact:
    return build_artifact(store, {"kind": "text", "text": text}, lambda writer: writer.write_json("text.json", text))


def dataset_of(root: Path, version: str | None, opens: str = PLAIN) -> ArtifactDataset:
    return ArtifactDataset(
        filepath=str(root / "02_texts" / "text.json"), opens=opens, version=Version(version, version)
    )


def pointer_of(root: Path, version: str) -> Path:
    return root / "02_texts" / "text.json" / version / "text.json"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def artifact(root: Path) -> Artifact:
    return make_artifact(root / "stores" / "text", "first")


# --- artifacts ---


def test_artifact_is_opened_as_it_was_saved(root: Path, artifact: Artifact) -> None:
    dataset = dataset_of(root, "1")
    assert not dataset.exists()

    dataset.save(artifact)

    assert dataset.exists()
    opened = dataset.load()
    assert (opened.identity, dict(opened.inputs)) == (artifact.identity, dict(artifact.inputs))
    assert opened.read_json("text.json") == "first"


def test_reader_class_is_the_one_named(root: Path, tiny_samples: SampleShards) -> None:
    dataset = dataset_of(root, "1", "skdcgn_pipeline.samples.drawing.SampleShards")

    dataset.save(tiny_samples)
    opened = dataset.load()

    assert isinstance(opened, SampleShards)
    assert opened.num_rows == tiny_samples.num_rows
    np.testing.assert_array_equal(opened.read("mask")["mask"], tiny_samples.read("mask")["mask"])


def test_a_version_says_what_it_is_and_copies_nothing(root: Path, artifact: Artifact) -> None:
    dataset_of(root, "1").save(artifact)

    path = pointer_of(root, "1")
    pointer = json.loads(path.read_text())
    assert pointer["identity"] == artifact.identity
    assert pointer["inputs"] == dict(artifact.inputs)
    assert not Path(pointer["directory"]).is_absolute()
    assert [p.name for p in path.parent.iterdir()] == ["text.json"]
    assert path.stat().st_size < 2000


def test_versions_keep_their_own_artifact_and_share_equal_ones(root: Path, artifact: Artifact) -> None:
    second = make_artifact(root / "stores" / "text", "second")
    again = make_artifact(root / "stores" / "text", "first")
    for version, saved in {"1": artifact, "2": second, "3": again}.items():
        dataset_of(root, version).save(saved)

    texts = {version: dataset_of(root, version).load().read_json("text.json") for version in ("1", "2", "3")}

    assert texts == {"1": "first", "2": "second", "3": "first"}
    assert dataset_of(root, None).load().read_json("text.json") == "first"
    assert dataset_of(root, "1").load().directory.samefile(dataset_of(root, "3").load().directory)


def test_a_version_is_never_overwritten(root: Path, artifact: Artifact) -> None:
    dataset_of(root, "1").save(artifact)

    with pytest.raises(DatasetError, match="1"):
        dataset_of(root, "1").save(make_artifact(root / "stores" / "text", "second"))
    assert dataset_of(root, "1").load().read_json("text.json") == "first"


def test_the_data_root_can_move(root: Path, artifact: Artifact) -> None:
    dataset_of(root, "1").save(artifact)
    moved = root.parent / "elsewhere" / "below"
    moved.parent.mkdir()
    shutil.move(root, moved)

    assert dataset_of(moved, "1").load().read_json("text.json") == "first"


def test_nothing_saved_names_the_file(root: Path) -> None:
    with pytest.raises(DatasetError, match=r"text\.json"):
        dataset_of(root, None).load()
    with pytest.raises(DatasetError, match=r"text\.json"):
        dataset_of(root, "1").load()


@pytest.mark.parametrize("content", ["", "{", '{"identity": "0"}', "[]", "null"])
def test_damaged_version_names_its_file(root: Path, artifact: Artifact, content: str) -> None:
    dataset_of(root, "1").save(artifact)
    pointer_of(root, "1").write_text(content)

    with pytest.raises(DatasetError, match=r"02_texts/text\.json/1/text\.json"):
        dataset_of(root, "1").load()


def test_missing_artifact_names_its_directory(root: Path, artifact: Artifact) -> None:
    dataset_of(root, "1").save(artifact)
    shutil.rmtree(artifact.directory)

    with pytest.raises(DatasetError, match=artifact.identity):
        dataset_of(root, "1").load()


def test_changed_file_of_an_artifact_is_named(root: Path, artifact: Artifact) -> None:
    dataset_of(root, "1").save(artifact)
    path = artifact.path("text.json")
    content = bytearray(path.read_bytes())
    content[1] ^= 1
    path.write_bytes(content)

    with pytest.raises(DatasetError, match=r"missing or changed text\.json"):
        dataset_of(root, "1").load()


def test_lost_file_of_an_artifact_is_named(root: Path, artifact: Artifact) -> None:
    dataset_of(root, "1").save(artifact)
    artifact.path("text.json").unlink()

    with pytest.raises(DatasetError, match=r"missing or changed text\.json"):
        dataset_of(root, "1").load()


def test_truncated_manifest_is_named(root: Path, artifact: Artifact) -> None:
    dataset_of(root, "1").save(artifact)
    manifest = artifact.directory / "manifest.json"
    manifest.write_text(manifest.read_text()[:20])

    with pytest.raises(DatasetError, match=r"manifest\.json"):
        dataset_of(root, "1").load()


# --- pictures ---


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def picture_dataset(root: Path, version: str | None = "1") -> PictureDataset:
    return PictureDataset(filepath=str(root / "sheet.png"), version=Version(version, version))


def test_picture_comes_back_pixel_by_pixel(root: Path, picture: np.ndarray) -> None:
    picture_dataset(root).save(picture)

    loaded = picture_dataset(root).load()

    assert loaded.dtype == np.uint8
    np.testing.assert_array_equal(loaded, picture)
    assert [path.name for path in (root / "sheet.png" / "1").iterdir()] == ["sheet.png"]


def test_picture_preview_is_the_png(root: Path, picture: np.ndarray) -> None:
    picture_dataset(root).save(picture)

    content = base64.b64decode(str(picture_dataset(root).preview()), validate=True)

    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    with Image.open(io.BytesIO(content)) as image:
        np.testing.assert_array_equal(np.asarray(image), picture)


def test_newest_picture_is_loaded(root: Path, picture: np.ndarray) -> None:
    picture_dataset(root, "1").save(picture)
    picture_dataset(root, "2").save(255 - picture)

    np.testing.assert_array_equal(picture_dataset(root, None).load(), 255 - picture)
    np.testing.assert_array_equal(picture_dataset(root, "1").load(), picture)


def test_picture_exists_once_it_is_saved(root: Path, picture: np.ndarray) -> None:
    assert not picture_dataset(root).exists()
    picture_dataset(root).save(picture)
    assert picture_dataset(root).exists()
    assert picture_dataset(root, None).exists()


def test_missing_picture_names_the_file(root: Path) -> None:
    with pytest.raises(DatasetError, match=r"sheet\.png"):
        picture_dataset(root).load()


def test_damaged_picture_names_the_file(root: Path, picture: np.ndarray) -> None:
    picture_dataset(root).save(picture)
    path = root / "sheet.png" / "1" / "sheet.png"
    path.write_bytes(path.read_bytes()[:40])

    with pytest.raises(DatasetError, match=r"sheet\.png"):
        picture_dataset(root).load()


def test_an_animation_comes_back_frame_by_frame(tmp_path: Path) -> None:
    frames = np.zeros((3, 8, 12, 3), np.uint8)
    for number, frame in enumerate(frames):
        frame[:, 4 * number : 4 * number + 4] = (255, 0, 0)
    path = str(tmp_path / "animation.gif")
    dataset = AnimationDataset(filepath=path, version=Version(None, "1"))
    dataset.save(frames)
    assert np.array_equal(dataset.load(), frames)
    assert dataset.exists()
    with Image.open(tmp_path / "animation.gif" / "1" / "animation.gif") as image:
        assert (image.is_animated, image.info["duration"], image.info["loop"]) == (True, MILLISECONDS_PER_FRAME, 0)


# --- tables and documents ---

TABLE = pd.DataFrame({"what": ["a", "b"], "value": [0.1, float("nan")]})


@pytest.mark.parametrize(
    ("kind", "name", "data"),
    [
        (TableDataset, "table.parquet", TABLE),
        (TableDataset, "table.csv", TABLE),
        (RecordDataset, "card.json", {"b": [1, None], "a": "é"}),
        (DocumentDataset, "page.html", "<p>é</p>"),
        (DocumentDataset, "notes.md", "# é"),
    ],
)
def test_tables_and_documents_come_back_and_leave_nothing_beside_them(
    tmp_path: Path, kind: type, name: str, data: Any
) -> None:
    dataset = kind(filepath=str(tmp_path / name), version=Version(None, "1"))
    dataset.save(data)

    loaded = dataset.load()

    assert TABLE.equals(loaded) if isinstance(data, pd.DataFrame) else loaded == data
    assert [path.name for path in (tmp_path / name / "1").iterdir()] == [name]


def test_a_preview_shows_the_first_rows_and_the_data(tmp_path: Path) -> None:
    table = TableDataset(filepath=str(tmp_path / "table.parquet"), version=Version(None, "1"))
    document = RecordDataset(filepath=str(tmp_path / "card.json"), version=Version(None, "1"))
    assert (table.preview(), document.preview()) == ({}, "")
    table.save(TABLE)
    document.save({"a": 1})
    assert table.preview(nrows=1) == {"index": [0], "columns": ["what", "value"], "data": [["a", 0.1]]}
    assert json.loads(document.preview()) == {"a": 1}


def test_a_table_that_cannot_be_written_is_not_there_and_the_disk_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_the_disk(table: pd.DataFrame, path_or_buf: Any, **options: Any) -> None:
        path_or_buf.write("half")
        raise OSError(28, "No space left on device")

    dataset = TableDataset(filepath=str(tmp_path / "table.csv"), version=Version(None, "1"))
    with monkeypatch.context() as patch:
        patch.setattr(pd.DataFrame, "to_csv", fill_the_disk)
        with pytest.raises(DatasetError) as told:
            dataset.save(TABLE)
    assert isinstance(told.value.__cause__, SettingError)
    assert "a full disk" in str(told.value.__cause__)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not dataset.exists()
    dataset.save(TABLE)
    assert dataset.exists()


# --- which version a run reads ---


def document_of(root: Path, save: str) -> RecordDataset:
    return RecordDataset(filepath=str(root / "card.json"), version=Version(None, save))


def as_of(root: Path, run: str) -> RecordDataset:
    dataset = document_of(root, run)
    read_as_of(DataCatalog({"card": dataset, "other": MemoryDataset(1)}), ["card", "other"], run)
    return dataset


def test_a_run_reads_what_it_saved_whatever_others_save(root: Path) -> None:
    document_of(root, "2099").save({"of": "another"})
    mine = as_of(root, "2026")
    mine.save({"of": "mine"})
    as_of(root, "2027").save({"of": "a third"})

    assert mine.load() == {"of": "mine"}
    assert as_of(root, "2026").load() == {"of": "mine"}


def test_what_a_run_did_not_save_is_the_newest_from_before_it(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    for version in ("2024", "2025", "2027"):
        document_of(root, version).save({"of": version})

    with caplog.at_level(logging.WARNING):
        assert as_of(root, "2026").load() == {"of": "2025"}
    assert "1 versions dated after this run are ignored, the newest 2027" in caplog.text
    assert document_of(root, "2026").load() == {"of": "2027"}  # read outside of a run


def test_versions_from_the_future_are_read_where_there_are_no_others(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    document_of(root, "2099").save({"of": "2099"})

    with caplog.at_level(logging.WARNING):
        assert as_of(root, "2026").load() == {"of": "2099"}
    assert "are all there is" in caplog.text


def test_runs_that_start_together_have_names_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        names = [*threads.map(lambda _: claim_run(tmp_path / "data"), range(24))]
    assert len(set(names)) == 24
