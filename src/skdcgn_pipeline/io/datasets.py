"""Kedro datasets for what Kedro has none: finished artifacts, pictures."""

from __future__ import annotations

import base64
import importlib
import io
import json
import os
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from kedro.io import AbstractVersionedDataset, DatasetError, Version
from kedro_datasets._typing import ImagePreview, JSONPreview
from PIL import Image, ImageSequence

from skdcgn_pipeline.artifacts.store import Artifact, write_aside, write_json
from skdcgn_pipeline.reporting.animation import encode_gif
from skdcgn_pipeline.runtime.errors import DamagedFileError


class VersionedFile(AbstractVersionedDataset[Any, Any]):
    """A file by versions.

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

    def save(self, data: Any) -> None:
        """Write which artifact this version is."""
        path = Path(self._get_save_path())
        artifact: Artifact = data if isinstance(data, Artifact) else data.artifact
        pointer = {
            "identity": artifact.identity,
            "directory": os.path.relpath(artifact.directory, path.parent),
            "inputs": artifact.inputs,
        }
        write_json(path, pointer)

    def load(self) -> Any:
        """Open the artifact of this version after comparing its files with their checksums."""
        path = Path(self._get_load_path())
        try:
            pointer = json.loads(path.read_text())
            artifact = Artifact.open(path.parent / pointer["directory"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            message = str(error) if isinstance(error, DamagedFileError) else f"{path}: {error}"
            raise DatasetError(message) from error
        module, _, name = self.opens.rpartition(".")
        reader = getattr(importlib.import_module(module), name)
        return artifact if reader is Artifact else reader(artifact)

    def preview(self) -> JSONPreview:
        """Return for Kedro-Viz what the artifact was made from; empty where there is none yet."""
        return JSONPreview(Path(self._get_load_path()).read_text(encoding="utf-8") if self._exists() else "")

    def _describe(self) -> dict[str, Any]:
        return super()._describe() | {"opens": self.opens}


class PictureDataset(VersionedFile):
    """An RGB picture [H, W, 3] uint8 as a PNG file, shown by Kedro-Viz."""

    def save(self, data: np.ndarray) -> None:
        """Write the picture aside and rename it into place."""
        buffer = io.BytesIO()
        Image.fromarray(data).save(buffer, format="PNG")
        write_aside(Path(self._get_save_path()), lambda path: path.write_bytes(buffer.getvalue()))

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

    def save(self, data: np.ndarray) -> None:
        """Write the frames aside and rename the file into place."""
        content = encode_gif(data)
        write_aside(Path(self._get_save_path()), lambda path: path.write_bytes(content))

    def load(self) -> np.ndarray:
        """Return the frames, of which equal neighbours are one; colours are those of the GIF's palettes."""
        with Image.open(self._get_load_path()) as image:
            return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])
