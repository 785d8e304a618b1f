"""Artifacts are complete or not there, continue after a kill, and notice damage."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from skdcgn_pipeline.artifacts import store as artifacts
from skdcgn_pipeline.artifacts.store import (
    Artifact,
    ArtifactWriter,
    artifact_path,
    build_artifact,
    build_json,
    canonical_json,
    check_writable,
    identity_of,
    sha256_of_file,
    write_aside,
    write_json,
)
from skdcgn_pipeline.runtime.errors import DamagedFileError, SettingError

INPUTS = {"kind": "letters", "seed": 0}


def write_two_files(writer: ArtifactWriter) -> None:
    for name in ("a.txt", "b.txt"):
        if not writer.has(name):
            writer.write(name, lambda path, name=name: path.write_text(name * 3))


class KilledError(RuntimeError):
    """Stands for a kill."""


def kill_after_the_first_file(writer: ArtifactWriter) -> None:
    writer.write("a.txt", lambda path: path.write_text("a.txt" * 3))
    raise KilledError


def failing_with(number: int):
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


# --- identities ----------------------------------------------------------------------------------


def test_the_identity_depends_on_the_content_and_not_on_its_order():
    assert identity_of({"a": 1, "b": [1, 2]}) == identity_of({"b": [1, 2], "a": 1})
    assert identity_of({"a": 1}) != identity_of({"a": 2})
    assert len(identity_of({"a": 1})) == 16


@pytest.mark.parametrize("inputs", [INPUTS, {"kind": "letters", "sizes": (1, 2), "nested": {"b": None, "a": 1.5}}])
def test_an_artifact_is_where_its_path_is_foretold(tmp_path, inputs):
    path = artifact_path(tmp_path, inputs)
    assert not path.exists()
    assert build_artifact(tmp_path, inputs, write_two_files).directory == path
    assert path.is_dir()
    assert artifact_path(tmp_path, {**inputs, "seed": 7}) != path


def test_inputs_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": float("nan")})


def test_the_checksum_is_the_known_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of_file(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# --- building ------------------------------------------------------------------------------------


def test_a_finished_artifact_has_its_inputs_files_and_checksums(tmp_path):
    artifact = build_artifact(tmp_path, INPUTS, write_two_files)
    assert artifact.directory == tmp_path / artifact.identity
    assert artifact.inputs["kind"] == "letters"
    assert artifact.manifest["files"]["a.txt"] == sha256_of_file(artifact.path("a.txt"))
    assert sorted(p.name for p in artifact.directory.iterdir()) == ["a.txt", "b.txt", "manifest.json"]
    assert Artifact.open(artifact.directory).manifest == artifact.manifest


def test_the_same_inputs_are_built_once(tmp_path):
    calls = []

    def write(writer: ArtifactWriter) -> None:
        calls.append(1)
        write_two_files(writer)

    first = build_artifact(tmp_path, INPUTS, write)
    second = build_artifact(tmp_path, dict(reversed(INPUTS.items())), write)
    assert first.directory == second.directory
    assert len(calls) == 1


def test_other_inputs_go_to_another_directory(tmp_path):
    first = build_artifact(tmp_path, INPUTS, write_two_files)
    second = build_artifact(tmp_path, INPUTS | {"seed": 1}, write_two_files)
    assert first.directory != second.directory
    assert first.directory.exists()


def test_a_half_built_artifact_is_invisible(tmp_path):
    with pytest.raises(KilledError):
        build_artifact(tmp_path, INPUTS, kill_after_the_first_file)
    identity = identity_of({"format": artifacts.FORMAT_VERSION, **INPUTS})
    assert not (tmp_path / identity).exists()
    assert (tmp_path / f"{identity}.partial" / "a.txt").exists()
    with pytest.raises(DamagedFileError, match="expected the manifest of a finished artifact"):
        Artifact.open(tmp_path / identity)


def test_a_resumed_build_keeps_the_finished_files(tmp_path):
    with pytest.raises(KilledError):
        build_artifact(tmp_path, INPUTS, kill_after_the_first_file)
    written = []

    def write(writer: ArtifactWriter) -> None:
        for name in ("a.txt", "b.txt"):
            if not writer.has(name):
                written.append(name)
                writer.write(name, lambda path, name=name: path.write_text(name * 3))

    artifact = build_artifact(tmp_path, INPUTS, write)
    assert written == ["b.txt"]
    assert artifact.path("a.txt").read_text() == "a.txt" * 3
    assert not list(tmp_path.glob("*.partial"))


def test_a_file_damaged_while_partial_is_named_and_made_again(tmp_path, caplog):
    with pytest.raises(KilledError):
        build_artifact(tmp_path, INPUTS, kill_after_the_first_file)
    (partial,) = tmp_path.glob("*.partial")
    (partial / "a.txt").write_text("cut off")
    with caplog.at_level(logging.WARNING):
        artifact = build_artifact(tmp_path, INPUTS, write_two_files)
    assert "a.txt no longer matches its checksum" in caplog.text
    assert artifact.path("a.txt").read_text() == "a.txt" * 3


def test_left_over_files_of_a_kill_are_not_published(tmp_path):
    def write(writer: ArtifactWriter) -> None:
        (writer.directory / ".a.txt.123.tmp").write_text("cut off")
        checkpoint = writer.scratch("checkpoint.pt")
        checkpoint.parent.mkdir()
        checkpoint.write_text("state")
        write_two_files(writer)

    artifact = build_artifact(tmp_path, INPUTS, write)
    assert sorted(p.name for p in artifact.directory.iterdir()) == ["a.txt", "b.txt", "manifest.json"]


def test_files_may_lie_in_folders(tmp_path):
    def write(writer: ArtifactWriter) -> None:
        writer.write("network/weights.txt", lambda path: path.write_text("weights"))
        (writer.directory / "network" / ".weights.txt.123.tmp").write_text("cut off")

    artifact = build_artifact(tmp_path, INPUTS, write)
    assert [p.name for p in (artifact.directory / "network").iterdir()] == ["weights.txt"]
    artifact.path("network/weights.txt").write_text("damaged")
    with pytest.raises(DamagedFileError, match=r"network.weights\.txt"):
        Artifact.open(artifact.directory)
    assert build_artifact(tmp_path, INPUTS, write).path("network/weights.txt").read_text() == "weights"


def test_a_checkpoint_survives_until_the_artifact_is_finished(tmp_path):
    def stop(writer: ArtifactWriter) -> None:
        write_aside(writer.scratch("checkpoint.pt"), lambda path: path.write_text("state"))
        raise KilledError

    found = []

    def go_on(writer: ArtifactWriter) -> None:
        found.append(writer.scratch("checkpoint.pt").read_text())
        write_two_files(writer)

    with pytest.raises(KilledError):
        build_artifact(tmp_path, INPUTS, stop)
    build_artifact(tmp_path, INPUTS, go_on)
    assert found == ["state"]


# --- damage --------------------------------------------------------------------------------------


def test_a_changed_byte_is_found_and_named(tmp_path):
    artifact = build_artifact(tmp_path, INPUTS, write_two_files)
    artifact.path("b.txt").write_text("B" + artifact.path("b.txt").read_text()[1:])
    assert artifact.damaged_files() == ["b.txt"]
    with pytest.raises(DamagedFileError, match=r"missing or changed b\.txt"):
        Artifact.open(artifact.directory)
    assert Artifact.open(artifact.directory, verify=False).identity == artifact.identity


def test_a_missing_file_is_found_and_named(tmp_path):
    artifact = build_artifact(tmp_path, INPUTS, write_two_files)
    artifact.path("a.txt").unlink()
    with pytest.raises(DamagedFileError, match=r"missing or changed a\.txt"):
        Artifact.open(artifact.directory)


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", "null", '{"identity": "x", "inputs": {}, "files": 3}'])
def test_a_damaged_manifest_is_named(tmp_path, content):
    artifact = build_artifact(tmp_path, INPUTS, write_two_files)
    artifact.path("manifest.json").write_text(content)
    with pytest.raises(DamagedFileError, match=r"manifest\.json"):
        Artifact.open(artifact.directory)


def test_only_the_damaged_file_of_a_finished_artifact_is_made_again(tmp_path, caplog):
    artifact = build_artifact(tmp_path, INPUTS, write_two_files)
    artifact.path("b.txt").write_text("other")
    modified = artifact.path("a.txt").stat().st_mtime_ns
    with caplog.at_level(logging.WARNING):
        again = build_artifact(tmp_path, INPUTS, write_two_files)
    assert "b.txt" in caplog.text
    assert again.path("b.txt").read_text() == "b.txt" * 3
    assert again.path("a.txt").stat().st_mtime_ns == modified
    assert again.damaged_files() == []


def test_an_artifact_without_its_manifest_is_built_again(tmp_path):
    artifact = build_artifact(tmp_path, INPUTS, write_two_files)
    artifact.path("manifest.json").unlink()
    assert build_artifact(tmp_path, INPUTS, write_two_files).damaged_files() == []


# --- results -------------------------------------------------------------------------------------


def test_a_result_is_computed_once(tmp_path):
    results = iter([{"value": 0.1}, {"value": 0.2}])
    assert build_json(tmp_path, INPUTS, lambda: next(results)) == {"value": 0.1}
    assert build_json(tmp_path, INPUTS, lambda: next(results)) == {"value": 0.1}
    assert build_json(tmp_path, {"kind": "other"}, lambda: next(results)) == {"value": 0.2}


def test_a_failing_write_leaves_the_old_file_and_no_temporary_one(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    before = path.read_bytes()

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise KilledError

    with pytest.raises(KilledError):
        write_aside(path, fail)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


# --- disks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "full disk"),
        (errno.EDQUOT, "full disk"),
        (errno.EROFS, "no permission"),
        (errno.ENOTDIR, "a file in place of a folder"),
        (errno.EACCES, "no perm"),
    ],
)
def test_a_full_or_read_only_disk_is_one_clear_error(tmp_path, number, reason):
    with pytest.raises(SettingError, match="output directory: expected a writable directory") as caught:
        write_aside(tmp_path / "a.txt", failing_with(number))
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_told_even_where_a_library_hides_it(tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts.shutil, "disk_usage", lambda path: SimpleNamespace(free=0))

    def fail(temporary: Path) -> None:
        raise RuntimeError("writer failed")

    with pytest.raises(SettingError, match="full disk"):
        write_aside(tmp_path / "new" / "a.txt", fail)


def test_other_disk_errors_are_not_called_full(tmp_path):
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write_aside(tmp_path / "a.txt", failing_with(errno.EIO))


def test_a_disk_that_fills_up_while_building_keeps_what_is_finished(tmp_path):
    def write(writer: ArtifactWriter) -> None:
        writer.write("a.txt", lambda path: path.write_text("a.txt" * 3))
        writer.write("b.txt", failing_with(errno.ENOSPC))

    with pytest.raises(SettingError, match="Free some space"):
        build_artifact(tmp_path, INPUTS, write)
    (partial,) = tmp_path.glob("*.partial")
    assert ArtifactWriter(partial).has("a.txt")
    assert not ArtifactWriter(partial).has("b.txt")


def test_a_read_only_store_is_refused_before_the_work_starts(tmp_path, monkeypatch):
    store, calls = tmp_path / "store", []
    store.mkdir()
    real_open = os.open

    def refuse_new_files(path: object, flags: int, *args: object, **kwargs: object) -> int:
        if str(path).startswith(str(store)) and flags & os.O_CREAT:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real_open(path, flags, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refuse_new_files)
    monkeypatch.setattr(Path, "mkdir", lambda self, *a, **k: None if self.is_dir() else failing_with(errno.EROFS)())
    with pytest.raises(SettingError, match="output directory"):
        build_artifact(store, INPUTS, lambda writer: calls.append(1))
    assert calls == []


def test_a_directory_without_the_space_needed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts.shutil, "disk_usage", lambda path: SimpleNamespace(free=3 * 2**20))
    assert check_writable(tmp_path, 3 * 2**20) is None
    with pytest.raises(SettingError, match=r"expected 5 MiB free in .*, got 3 MiB"):
        check_writable(tmp_path, 5 * 2**20)


def test_a_directory_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "write_bytes", failing_with(errno.EROFS))
    with pytest.raises(SettingError, match="output directory: expected a writable directory"):
        check_writable(tmp_path)


def test_a_file_in_place_of_the_directory_is_refused(tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(
        SettingError,
        match="output directory: expected a writable directory with free space, got a file in place of a folder",
    ):
        check_writable(tmp_path / "data")


def test_checking_a_directory_leaves_nothing_behind(tmp_path):
    check_writable(tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []
