"""Kedro datasets whose files are complete or not there: finished artifacts, pictures, tables, documents."""

from __future__ import annotations

import base64
import json
import logging
import os
import pkgutil
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from filelock import FileLock
from kedro.io import AbstractVersionedDataset, DatasetError, Version
from kedro.io.core import generate_timestamp
from kedro_datasets._typing import ImagePreview, JSONPreview, TablePreview
from kedro_datasets.json import JSONDataset
from kedro_datasets.pandas import CSVDataset, ParquetDataset
from kedro_datasets.text import TextDataset
from PIL import Image, ImageSequence

from skdcgn_pipeline.artifacts.store import Artifact, check_writable, readable_json, write_aside
from skdcgn_pipeline.reporting.pictures import encode_gif
from skdcgn_pipeline.runtime.errors import DamagedFileError

logger = logging.getLogger(__name__)

# By suffix, Kedro's dataset and how it saves.
KEDROS: dict[str, Callable[..., Any]] = {
    ".parquet": ParquetDataset,
    ".csv": partial(CSVDataset, save_args={"index": False}),
    ".json": partial(JSONDataset, save_args={"indent": 2, "sort_keys": True}),
    ".md": TextDataset,
    ".html": TextDataset,
}


class VersionedFile(AbstractVersionedDataset[Any, Any]):
    """A file by versions, written aside and renamed into place.

    Attributes:
        as_of: The run that reads; versions dated after it belong to others. None reads the newest.

    Args:
        filepath: The file.
        version: Kedro's version.
        metadata: What `hooks` and plugins do with it.
    """

    def __init__(
        self, *, filepath: str, version: Version | None = None, metadata: dict[str, Any] | None = None
    ) -> None:
        super().__init__(PurePosixPath(filepath), version)
        self.metadata = metadata
        self.as_of: str | None = None

    def _get_versions(self) -> list[str]:
        """Return the files of all versions that this run may read, the newest first."""
        files = super()._get_versions()
        if self.as_of is None or not files:
            return files
        past = [file for file in files if Path(file).parent.name <= self.as_of]
        if len(past) < len(files):
            what = "are ignored" if past else "are all there is"
            logger.warning(
                "%s: %d versions dated after this run %s, the newest %s. Another run is at work, or a clock was wrong; "
                "choose a version with --load-versions.",
                self._filepath,
                len(files) - len(past),
                what,
                Path(files[0]).parent.name,
            )
        return past or files

    @abstractmethod
    def write(self, data: Any, path: Path) -> None:
        """Write the file; `path` is put in place when it is complete."""

    def save(self, data: Any) -> None:
        """Write the file of this version aside and rename it into place."""
        write_aside(Path(self._get_save_path()), lambda path: self.write(data, path))

    def _exists(self) -> bool:
        try:
            return Path(self._get_load_path()).exists()
        except DatasetError:
            return False

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath), "version": self._version}


class ArtifactDataset(VersionedFile):
    """A version of an artifact: a small JSON file that says which directory of a store it is.

    Artifacts are never copied: a version costs a few hundred bytes, and versions with the same content
    share one directory.

    Args:
        opens: Class that reads the artifact, as `package.module.Class`.
        file: As of `VersionedFile`.
    """

    def __init__(self, *, opens: str, **file: Any) -> None:
        super().__init__(**file)
        self.opens = opens

    def write(self, data: Any, path: Path) -> None:
        """Write which artifact this version is."""
        artifact: Artifact = data if isinstance(data, Artifact) else data.artifact
        pointer = {
            "identity": artifact.identity,
            "directory": os.path.relpath(artifact.directory, path.parent),
            "inputs": artifact.inputs,
        }
        path.write_text(readable_json(pointer), encoding="utf-8")

    def load(self) -> Any:
        """Open the artifact of this version after comparing its files with their checksums."""
        path = Path(self._get_load_path())
        try:
            pointer = json.loads(path.read_text())
            artifact = Artifact.open(path.parent / pointer["directory"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            message = str(error) if isinstance(error, DamagedFileError) else f"{path}: {error}"
            raise DatasetError(message) from error
        reader = pkgutil.resolve_name(self.opens)
        return artifact if reader is Artifact else reader(artifact)

    def preview(self) -> JSONPreview:
        """Return for Kedro-Viz what the artifact was made from; empty where there is none yet."""
        return JSONPreview(Path(self._get_load_path()).read_text(encoding="utf-8") if self._exists() else "")

    def _describe(self) -> dict[str, Any]:
        return super()._describe() | {"opens": self.opens}


class PictureDataset(VersionedFile):
    """An RGB picture [H, W, 3] uint8 as a PNG file, shown by Kedro-Viz."""

    def write(self, data: np.ndarray, path: Path) -> None:
        """Write the picture."""
        Image.fromarray(data).save(path, format="PNG")

    def load(self) -> np.ndarray:
        """Return the picture."""
        with Image.open(self._get_load_path()) as image:
            return np.asarray(image.convert("RGB"))

    def preview(self) -> ImagePreview:
        """Return the picture for Kedro-Viz, base64-encoded; empty where there is none yet."""
        content = Path(self._get_load_path()).read_bytes() if self._exists() else b""
        return ImagePreview(base64.b64encode(content).decode())


class AnimationDataset(PictureDataset):
    """RGB frames [T, H, W, 3] uint8 as an animated GIF that repeats, shown by Kedro-Viz."""

    def write(self, data: np.ndarray, path: Path) -> None:
        """Write the frames."""
        path.write_bytes(encode_gif(data))

    def load(self) -> np.ndarray:
        """Return the frames, of which equal neighbours are one; colours are those of the GIF's palettes."""
        with Image.open(self._get_load_path()) as image:
            return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])


class _WrittenByKedro(VersionedFile):
    """A file that one of Kedro's datasets writes and reads, by its suffix."""

    def _of_kedro(self, path: Path | PurePosixPath) -> Any:
        """Return Kedro's dataset of one version."""
        return KEDROS[self._filepath.suffix](filepath=str(path))

    def write(self, data: Any, path: Path) -> None:
        """Write the file."""
        self._of_kedro(path).save(data)

    def load(self) -> Any:
        """Return the data frame, data or text."""
        return self._of_kedro(self._get_load_path()).load()


class TableDataset(_WrittenByKedro):
    """A data frame as .parquet or .csv, shown by Kedro-Viz."""

    def preview(self, nrows: int = 40) -> TablePreview:
        """Return the first rows for Kedro-Viz; empty where there is no table yet."""
        return self.load().head(nrows).to_dict(orient="split") if self._exists() else TablePreview({})


class DocumentDataset(_WrittenByKedro):
    """A text, as .md or .html."""


class RecordDataset(_WrittenByKedro):
    """JSON-able data as .json, shown by Kedro-Viz."""

    def preview(self) -> JSONPreview:
        """Return the data for Kedro-Viz; empty where there is none yet."""
        return JSONPreview(json.dumps(self.load()) if self._exists() else "")


def claim_run(root: Path) -> str:
    """Return a name for a run, its time in milliseconds, that no other run on a data root has.

    Raises:
        SettingError: If the data root cannot be written.
    """
    check_writable(root)
    with FileLock(root / ".runs.lock"):
        time.sleep(0.002)
        return generate_timestamp()


def read_as_of(catalog: Any, names: Iterable[str], run: str) -> None:
    """Let datasets read what a run saved itself, or else the newest version from before it."""
    for name in names:
        dataset = catalog.get(name)
        if isinstance(dataset, VersionedFile):
            dataset.as_of = run
