"""Finished work on disk: content-addressed directories that are complete or not there.

An artifact is a directory `<store>/<identity>`, where the identity is a hash of everything that the
content depends on. It is built in `<store>/<identity>.partial`, which survives a kill; each file in
it is written aside and renamed, with its SHA-256 recorded; the manifest comes last, then the whole
directory is renamed. So a finished artifact is never half-written, the same settings never compute
twice, and changed settings never meet old files.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from skdcgn_pipeline.runtime.errors import DamagedFileError, SettingError

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
RECORD = "files.json"
FORMAT_VERSION = 1
FULL_BYTES = 2**20
REASONS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "a full disk"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "no permission to write"),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "a file in place of a folder"),
}


def canonical_json(payload: Any) -> str:
    """Return JSON whose text depends only on the content."""
    return json.dumps(payload, sort_keys=True, separators=(",", ":"), allow_nan=False)


def identity_of(payload: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits that stand for the payload."""
    return hashlib.sha256(canonical_json(payload).encode()).hexdigest()[:16]


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def readable_disk_errors(path: Path) -> Any:
    """Turn "disk full", "read-only" and a file in place of a folder into a `SettingError` with one clear message."""
    try:
        yield
    except Exception as error:
        # Libraries wrap errors, and not every one says why a write failed.
        numbers = {getattr(reason, "errno", None) for reason in (error, error.__cause__)}
        full = "a full disk" if _free_bytes(path) < FULL_BYTES else None
        if reason := full or next((REASONS[number] for number in numbers if number in REASONS), None):
            raise SettingError(
                "output directory",
                "a writable directory with free space",
                f"{reason} at {path}",
                "Free some space or choose another data root; what was finished is kept and will be reused.",
            ) from error
        raise


def _free_bytes(path: Path) -> int:
    """Return the free space where a path is or would be."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def write_aside(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it into place; see `readable_disk_errors`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with readable_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def readable_json(payload: Any) -> str:
    """Return indented JSON whose text depends only on the content."""
    return json.dumps(payload, indent=2, sort_keys=True, allow_nan=False) + "\n"


def write_json(path: Path, payload: Any) -> None:
    """Write JSON aside and rename it into place."""
    text = readable_json(payload)
    write_aside(path, lambda path: path.write_text(text, encoding="utf-8"))


class ArtifactWriter:
    """Access to the partial directory of an artifact that is being built.

    Attributes:
        directory: The partial directory; anything in it survives a kill.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._record_path = directory / RECORD
        self.files: dict[str, str] = {}
        if self._record_path.exists():
            self.files = json.loads(self._record_path.read_text())

    def has(self, name: str) -> bool:
        """Tell whether a file is there and has the content it was written with.

        A damaged file is named in a warning and counts as missing.
        """
        path = self.directory / name
        if name not in self.files or not path.exists():
            return False
        if sha256_of_file(path) != self.files[name]:
            logger.warning("%s no longer matches its checksum; it is made again", path)
            return False
        return True

    def write(self, name: str, write: Callable[[Path], object]) -> None:
        """Write a file of the artifact, perhaps `folder/file`, aside, rename it into place and record its SHA-256."""
        path = self.directory / name
        write_aside(path, write)
        self.files[name] = sha256_of_file(path)
        write_json(self._record_path, self.files)

    def write_json(self, name: str, payload: Any) -> None:
        """Write a JSON file of the artifact."""
        text = readable_json(payload)
        self.write(name, lambda path: path.write_text(text, encoding="utf-8"))

    def take_over(self, name: str, others: Iterable[Artifact]) -> bool:
        """Take a file of the same name over from another artifact that has it undamaged.

        The two share the file's space where the disk can do that; either may be deleted.
        """
        for other in others:
            source = other.path(name)
            if name not in other.manifest["files"] or not source.exists():
                continue
            if sha256_of_file(source) != other.manifest["files"][name]:
                logger.warning("%s no longer matches its checksum; it is not taken over", source)
                continue
            self.write(name, partial(_link_or_copy, source))
            return True
        return False

    def scratch(self, name: str) -> Path:
        """Return a path for a checkpoint: kept while partial, removed before publication."""
        return self.directory / "scratch" / name


class Artifact:
    """A finished artifact.

    Attributes:
        directory: Where its files are.
        manifest: What it was made from (`inputs`), its `identity`, and its `files` with SHA-256.
    """

    def __init__(self, directory: Path, manifest: Mapping[str, Any]) -> None:
        self.directory = directory
        self.manifest = manifest

    @property
    def identity(self) -> str:
        """The hash of everything that the content depends on."""
        return str(self.manifest["identity"])

    @property
    def inputs(self) -> Mapping[str, Any]:
        """What the content was made from."""
        return self.manifest["inputs"]

    def path(self, name: str) -> Path:
        """Return the path of one of its files."""
        return self.directory / name

    def read_json(self, name: str) -> Any:
        """Return the content of one of its JSON files."""
        return json.loads(self.path(name).read_text())

    def damaged_files(self) -> list[str]:
        """Return the names of files that are missing, lie elsewhere or differ from their recorded SHA-256."""
        here = self.directory.resolve()
        paths = {name: self.path(name).resolve() for name in self.manifest["files"]}
        return [
            name
            for name, path in paths.items()
            if not (path.is_relative_to(here) and path.is_file())
            or sha256_of_file(path) != self.manifest["files"][name]
        ]

    @classmethod
    def open(cls, directory: Path | str, verify: bool = True) -> Artifact:
        """Open a finished artifact.

        Args:
            directory: Its directory.
            verify: Compare every file with its recorded SHA-256.

        Raises:
            DamagedFileError: If the manifest is missing or unreadable, or a file does not match it.
        """
        directory = Path(directory)
        path = directory / MANIFEST
        try:
            manifest = json.loads(path.read_text())
            artifact = cls(directory, {k: manifest[k] for k in ("identity", "inputs", "files")})
            dict.items(artifact.manifest["files"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise DamagedFileError(
                f"{path}: expected the manifest of a finished artifact, got {type(error).__name__}. "
                "Run the stage that makes it again."
            ) from error
        damaged = artifact.damaged_files() if verify else []
        if damaged:
            raise DamagedFileError(
                f"{directory}: expected files as they were written, got a missing or changed {', '.join(damaged)}. "
                "Run the stage that makes it again: it redraws just what is damaged."
            )
        return artifact


def _link_or_copy(source: Path, path: Path) -> None:
    """Make a file the same as `source`, sharing its space where the disk can do that."""
    path.unlink(missing_ok=True)
    try:
        os.link(source, path)
    except OSError:  # another disk, or one that knows no links
        shutil.copyfile(source, path)


def find_artifacts(store: Path, inputs: Mapping[str, Any], but: str) -> list[Artifact]:
    """Return the finished artifacts of a store that were made from `inputs`, whatever their input `but` is.

    In a fixed order; their files are not verified.
    """
    wanted = _without(but, _complete(inputs))
    matching = []
    for path in sorted(store.glob(f"*/{MANIFEST}")):
        if path.parent.suffix == ".partial":
            continue
        try:
            artifact = Artifact.open(path.parent, verify=False)
        except DamagedFileError as error:
            logger.warning("%s", error)
            continue
        if _without(but, artifact.inputs) == wanted:
            matching.append(artifact)
    return matching


def _without(name: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in inputs.items() if key != name}


def _complete(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return inputs as the manifest has them."""
    return json.loads(canonical_json({"format": FORMAT_VERSION, **inputs}))


def artifact_path(store: Path, inputs: Mapping[str, Any]) -> Path:
    """Return where `build_artifact` keeps the artifact made from `inputs`, whether it is there or not."""
    return store / identity_of(_complete(inputs))


def is_finished(directory: Path) -> bool:
    """Tell whether an artifact is there: its manifest is written last."""
    return (directory / MANIFEST).is_file()


def build_artifact(store: Path, inputs: Mapping[str, Any], write: Callable[[ArtifactWriter], None]) -> Artifact:
    """Return the artifact made from `inputs`, building it if it is not there or is damaged.

    Args:
        store: Directory of all artifacts of this kind.
        inputs: Everything that the content depends on; JSON-able.
        write: Fills the writer's directory. It must skip what `writer.has` already, so that a killed
            build continues.

    Returns:
        The finished artifact.

    Raises:
        SettingError: If the disk is full or the store cannot be written.
    """
    inputs = _complete(inputs)
    identity = identity_of(inputs)
    final, partial = store / identity, store / f"{identity}.partial"
    with readable_disk_errors(store):
        store.mkdir(parents=True, exist_ok=True)
        lock = FileLock(store / f".{identity}.lock").acquire()
    with lock:
        if final.exists():
            try:
                return Artifact.open(final)
            except DamagedFileError as error:
                logger.warning("%s", error)
                _reopen(final, partial)
        with readable_disk_errors(store):
            partial.mkdir(exist_ok=True)
        writer = ArtifactWriter(partial)
        write(writer)
        shutil.rmtree(partial / "scratch", ignore_errors=True)
        for path in [path for path in partial.rglob("*") if path.is_file()]:
            if path.relative_to(partial).as_posix() not in {*writer.files, RECORD}:
                path.unlink()  # left by a run that was killed
        manifest = {"identity": identity, "inputs": inputs, "files": writer.files}
        write_json(partial / MANIFEST, manifest)
        (partial / RECORD).unlink()
        partial.replace(final)
    return Artifact(final, manifest)


def build_json(store: Path, inputs: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
    """Return a JSON-able result made from `inputs`, computing it only if it is not there."""
    artifact = build_artifact(store, inputs, lambda writer: writer.write_json("result.json", compute()))
    return artifact.read_json("result.json")


def _reopen(final: Path, partial: Path) -> None:
    """Make a damaged artifact partial again, so that its sound files are kept."""
    shutil.rmtree(partial, ignore_errors=True)
    final.replace(partial)
    manifest_path = partial / MANIFEST
    try:
        files = json.loads(manifest_path.read_text())["files"]
    except (OSError, ValueError, KeyError):
        files = {}
    write_json(partial / RECORD, files)
    manifest_path.unlink(missing_ok=True)


def check_writable(
    directory: Path,
    needed_bytes: int = 0,
    remedy: str = "Free some space, ask for fewer images or choose another data root.",
) -> None:
    """Refuse a directory that cannot be written or lacks space, before any work starts.

    Args:
        directory: Made where it is missing.
        needed_bytes: That must be free.
        remedy: What to do where they are not.

    Raises:
        SettingError: Naming the directory, the space needed and the space there is.
    """
    with readable_disk_errors(directory):
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            got = f"the file {directory}"
            raise SettingError("output directory", "a directory", got, "Choose another data root.") from error
        probe = directory / f".write-test.{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink(missing_ok=True)  # another thread may have looked, too
    free = shutil.disk_usage(directory).free
    if free < needed_bytes:
        expected = f"{needed_bytes / 2**20:,.0f} MiB free in {directory}"
        raise SettingError("output directory", expected, f"{free / 2**20:,.0f} MiB", remedy)
