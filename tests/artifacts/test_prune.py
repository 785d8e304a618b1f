"""What is kept of a data root and what goes, on small trees made up here."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from skdcgn_pipeline.artifacts import prune as pruning
from skdcgn_pipeline.artifacts.prune import (
    Entry,
    RegisteredModel,
    as_table,
    describe,
    plan_pruning,
    remove_unneeded,
    tokens_in,
)
from skdcgn_pipeline.artifacts.store import Artifact, build_artifact
from skdcgn_pipeline.runtime.errors import SettingError
from tiny import tree_of

DAY = 86400.0


def run_number(number: int) -> str:
    """Return the version that the run of this number saves."""
    return f"2026-01-{number:02}T12.00.00.000Z"


class Root:
    """A data root in the making."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def artifact(self, kind: str, name: str, *, days_old: float = 30, **inputs: Any) -> Artifact:
        """Make an artifact whose inputs are artifacts, or anything else."""
        known = {key: one.identity if isinstance(one, Artifact) else one for key, one in inputs.items()}
        made = build_artifact(
            self.path / "stores" / kind, {"name": name, **known}, lambda writer: writer.write_json("it.json", name)
        )
        self.grow_old(made.directory, days_old)
        return made

    def grow_old(self, path: Path, days: float) -> None:
        then = time.time() - days * DAY
        for one in (*path.rglob("*"), path):
            os.utime(one, (then, then))

    def save(self, number: int, dataset: str, content: Artifact | None = None) -> Path:
        """Save a version of a dataset."""
        path = self.path / dataset / run_number(number) / Path(dataset).name
        path.parent.mkdir(parents=True)
        pointer = {"identity": content.identity, "inputs": dict(content.inputs)} if content else "a table"
        path.write_text(json.dumps(pointer))
        return path

    def plan(self, keep_last: int = 2, days: float = 7, **given: Any) -> list[Entry]:
        given = {"registered": [], "settings": {}} | given
        registered, settings = given["registered"], given["settings"]
        return plan_pruning(
            self.path, keep_last, unfinished_days=days, registered=registered, settings=settings, now=time.time()
        )

    def reasons(self, kind: str | None = None, *, keep: bool, **given: Any) -> dict[str, str]:
        """Return the reasons of what stays, or of what goes, by path below the root."""
        entries = self.plan(**given)
        return {
            str(one.path.relative_to(self.path)): one.why
            for one in entries
            if one.keep == keep and kind in (None, one.kind)
        }


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(tmp_path / "data")


@pytest.fixture
def chain(root: Root) -> dict[str, Artifact]:
    """Five runs with a trio of their own each; the samples are shared until the fourth run."""
    samples = {1: root.artifact("sample", "first"), 4: root.artifact("sample", "second")}
    made = {"sample1": samples[1], "sample4": samples[4]}
    for number in range(1, 6):
        own = samples[4 if number > 3 else 1]
        student = root.artifact("student", f"shape {number}", samples=own)
        trio = root.artifact("student", f"trio {number}", shape=student)
        pool = root.artifact("sample", f"pool {number}", generator={"students": trio.identity})
        classifier = root.artifact("classifier", f"{number}", data={"sources": {"shape": {"samples": pool.identity}}})
        made |= {f"student{number}": student, f"trio{number}": trio, f"pool{number}": pool}
        made |= {f"classifier{number}": classifier}
        made[f"accuracy{number}"] = root.artifact("accuracy", f"{number}", classifier=classifier)
        root.save(number, "03_samples/teacher_samples.json", own)
        root.save(number, "06_models/shape_student.json", student)
        root.save(number, "06_models/students.json", trio)
        root.save(number, "03_samples/student_samples.json", pool)
        root.save(number, "07_tables/double_colored/accuracy.parquet")
    return made


def below(root: Root, made: dict[str, Artifact], *names: str) -> set[str]:
    return {str(made[name].directory.relative_to(root.path)) for name in names}


def test_the_last_versions_stay_with_all_that_they_were_made_from(root: Root, chain: dict[str, Artifact]) -> None:
    gone = set(root.reasons("version", keep=False))
    assert len(gone) == 3 * 5
    assert {Path(name).name for name in gone} == {run_number(number) for number in (1, 2, 3)}
    per_run = ("student", "trio", "pool", "classifier", "accuracy")
    old = [f"{name}{number}" for number in (1, 2, 3) for name in per_run]
    assert set(root.reasons("artifact", keep=False)) == below(root, chain, "sample1", *old)
    kept = root.reasons("artifact", keep=True)
    new = [f"{name}{number}" for number in (4, 5) for name in per_run]
    assert set(kept) == below(root, chain, "sample4", *new)
    (classifier,) = below(root, chain, "classifier5")
    assert kept[classifier] == "a result of kept work"


def test_what_a_newer_version_was_made_from_stays(root: Root, chain: dict[str, Artifact]) -> None:
    """No kept version names the first samples; the trio of the third run, kept by another dataset, needs them."""
    root.save(3, "06_models/double_colored/release.json", chain["trio3"])
    shutil.rmtree(root.path / "03_samples" / "teacher_samples.json")
    kept = root.reasons("artifact", keep=True)
    assert below(root, chain, "sample1", "student3", "trio3", "pool3", "classifier3") <= set(kept)
    (samples,) = below(root, chain, "sample1")
    assert kept[samples] == f"student/{chain['student3'].identity} was made from it"
    assert set(kept).isdisjoint(below(root, chain, "student1", "trio1", "pool2", "classifier2"))


def test_versions_of_a_kept_run_stay_whole(root: Root, chain: dict[str, Artifact]) -> None:
    """A table of another variant is among the last of its own, so the students that it tells of stay."""
    root.save(2, "07_tables/colored/accuracy.parquet")
    kept = root.reasons("version", keep=True)
    name = f"06_models/students.json/{run_number(2)}"
    assert kept[name] == "its run's 07_tables/colored/accuracy.parquet is one of the last 2"
    assert f"06_models/students.json/{run_number(1)}" not in kept
    assert below(root, chain, "trio2", "sample1", "classifier2") <= set(root.reasons("artifact", keep=True))


def test_what_a_kept_run_may_have_read_stays(root: Root) -> None:
    trio = root.artifact("student", "trio")
    other = root.artifact("student", "other")
    root.save(1, "06_models/students.json", trio)
    root.save(2, "07_tables/colored/accuracy.parquet")  # by a run that only classified
    root.save(3, "06_models/students.json", other)
    kept = root.reasons("version", keep=True, keep_last=1)
    assert kept[f"06_models/students.json/{run_number(1)}"] == f"the kept run {run_number(2)} may have read it"
    assert root.reasons("artifact", keep=False, keep_last=1) == {}


@pytest.mark.parametrize("how", ["run", "identity"])
def test_what_a_registered_model_refers_to_stays(root: Root, chain: dict[str, Artifact], how: str) -> None:
    text = f"students:{chain['trio1'].identity}, as exported" if how == "identity" else ""
    model = RegisteredModel("digits version 1", run_number(1) if how == "run" else None, text)
    kept = root.reasons("artifact", keep=True, registered=[model])
    assert below(root, chain, "trio1", "student1", "sample1") <= set(kept)
    (trio,) = below(root, chain, "trio1")
    assert ("registered model digits version 1" in kept[trio]) == (how == "identity")
    versions = root.reasons("version", keep=True, registered=[model])
    name = f"06_models/students.json/{run_number(1)}"
    assert (name in versions) == (how == "run")
    if how == "run":
        assert versions[name] == "the registered model digits version 1 was made by its run"
    assert set(kept).isdisjoint(below(root, chain, "trio2", "trio3"))


def test_what_settings_name_stays(root: Root) -> None:
    teacher = root.artifact("teacher", "mine")
    other = root.artifact("teacher", "other")
    settings = {"teacher": {"weights": str(teacher.directory / "teacher.safetensors"), "fit": [1, None]}, "seed": 0}
    assert root.reasons("artifact", keep=True, settings=settings) == {
        f"teacher/{teacher.identity}".join(("stores/", "")): "the settings name it"
    }
    assert set(root.reasons(keep=False, settings=settings)) == {f"stores/teacher/{other.identity}"}


def test_what_is_made_from_a_file_known_by_its_sha256_stays_with_it(root: Root) -> None:
    teacher = root.artifact("teacher", "mine")
    digest = teacher.manifest["files"]["it.json"]
    samples = root.artifact("sample", "samples", generator={"name": "mnist_cgn", "sha256": digest})
    root.save(1, "03_samples/teacher_samples.json", samples)
    kept = root.reasons("artifact", keep=True)
    assert kept[f"stores/teacher/{teacher.identity}"] == f"sample/{samples.identity} was made from it"


def test_young_and_unfinished_work_stays(root: Root) -> None:
    young, old = root.artifact("sample", "young", days_old=1), root.artifact("sample", "old", days_old=9)
    store = root.path / "stores" / "student"
    for name, days in (("0" * 16, 1), ("1" * 16, 9), ("2" * 16, 9)):
        (store / f"{name}.partial" / "scratch").mkdir(parents=True)
        (store / f"{name}.partial" / "scratch" / "state.pt").write_bytes(b"12345")
        root.grow_old(store / f"{name}.partial", days)
    with FileLock(store / f".{'2' * 16}.lock"):
        entries = {str(one.path.relative_to(root.path)): one for one in root.plan()}
    assert entries[f"stores/sample/{young.identity}"].why == "no dataset names it, but younger than 7 days"
    assert entries[f"stores/sample/{old.identity}"].why == "no dataset names it, and older than 7 days"
    assert not entries[f"stores/sample/{old.identity}"].keep
    assert entries[f"stores/student/{'0' * 16}.partial"].keep
    assert entries[f"stores/student/{'1' * 16}.partial"] == Entry(
        "unfinished", store / f"{'1' * 16}.partial", 5, False, "unfinished, and older than 7 days"
    )
    assert entries[f"stores/student/{'2' * 16}.partial"].why == "somebody is at work on it"
    assert root.reasons("unfinished", keep=True, days=30).keys() == {
        f"stores/student/{digit * 16}.partial" for digit in "012"
    }


def test_what_is_not_known_stays(root: Root, tmp_path: Path) -> None:
    damaged = root.artifact("student", "damaged")
    (damaged.directory / "manifest.json").write_text("{")
    (root.path / "stores" / "student" / "notes").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (root.path / "stores" / "student" / ("3" * 16)).symlink_to(tmp_path / "elsewhere")
    (root.path / "stores" / "cell_durations.json").write_text("{}")
    (root.path / "01_raw" / "mnist" / run_number(1)).mkdir(parents=True)
    (root.path / "mnist" / "07_tables" / "a.csv" / run_number(1)).mkdir(parents=True)
    before = tree_of(root.path)
    entries = root.plan(keep_last=1, days=0)
    assert {one.kind for one in entries} == {"unknown"}
    assert all(one.keep for one in entries)
    assert len(entries) == 3
    remove_unneeded(root.path, entries)
    assert tree_of(root.path) == before


def test_planning_changes_nothing_and_removing_leaves_just_what_was_kept(
    root: Root, chain: dict[str, Artifact]
) -> None:
    before = tree_of(root.path)
    entries = root.plan()
    text = describe(root.path, entries, confirmed=False)
    assert tree_of(root.path) == before
    assert "Nothing has been removed; add prune.confirm=true" in text

    settled = remove_unneeded(root.path, entries)

    assert settled == entries
    gone = {str(one.path.relative_to(root.path)) for one in entries if not one.keep}
    assert len(gone) == 15 + 16
    expected = {name: content for name, content in before.items() if not any(name.startswith(f"{g}/") for g in gone)}
    assert tree_of(root.path) == expected
    assert all(one.keep for one in root.plan())
    for name in ("sample4", "trio5", "classifier5"):
        Artifact.open(chain[name].directory)
    removed = describe(root.path, settled, confirmed=True)
    assert f"31 of {len(entries)} removed, " in removed
    assert "Nothing has been removed" not in removed
    table = as_table(root.path, settled)
    assert table.columns.tolist() == ["kind", "what", "bytes", "kept", "why"]
    assert table.loc[~table["kept"], "what"].tolist() == [
        str(one.path.relative_to(root.path)) for one in entries if not one.keep
    ]


@pytest.mark.parametrize("after", [0, 1, 5, 16, 20, 33])
def test_a_crash_leaves_no_half_artifact_and_the_next_time_goes_on(
    root: Root, chain: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    entries, calls = root.plan(), 0
    real_rename, real_rmtree = Path.rename, shutil.rmtree

    def crash() -> None:
        nonlocal calls
        calls += 1
        if calls > after:
            raise KeyboardInterrupt

    def rename(self: Path, target: Path) -> Path:
        crash()
        return real_rename(self, target)

    def rmtree(path: Path, *arguments: Any) -> None:
        if calls == after:  # in the middle of a directory
            next(file for file in sorted(path.rglob("*")) if file.is_file()).unlink()
        crash()
        real_rmtree(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        patch.setattr(pruning.shutil, "rmtree", rmtree)
        with pytest.raises(KeyboardInterrupt):
            remove_unneeded(root.path, entries)

    left = [path for path in (root.path / "stores").glob("*/*") if path.is_dir() and not path.suffix]
    for path in left:
        Artifact.open(path)
    kept = {one.path for one in entries if one.keep}
    assert kept <= set(left) | set(root.path.glob("0*/**/*Z"))
    # Whoever needs a removed one again makes it again, whatever is left of it.
    assert root.artifact("sample", "first").directory == chain["sample1"].directory
    shutil.rmtree(chain["sample1"].directory)

    remove_unneeded(root.path, root.plan(days=0))

    assert {path for path in (root.path / "stores").glob("*/*") if path.is_dir()} <= kept
    assert all(one.keep for one in root.plan())


def test_what_somebody_works_on_at_the_last_moment_stays(root: Root) -> None:
    old = root.artifact("sample", "old")
    entries = root.plan()
    with FileLock(root.path / "stores" / "sample" / f".{old.identity}.lock"):
        (settled,) = remove_unneeded(root.path, entries)
    assert settled.keep
    assert settled.why == "somebody is at work on it"
    Artifact.open(old.directory)


def test_what_cannot_be_removed_is_told(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    root.artifact("sample", "old")
    entries = root.plan()

    def refuse(*arguments: Any) -> None:
        raise PermissionError(13, "no")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(SettingError, match="no permission to write"):
        remove_unneeded(root.path, entries)


def test_an_empty_root_has_nothing_to_tell(root: Root) -> None:
    assert root.plan() == []
    assert describe(root.path, [], confirmed=False).splitlines()[-1] == "0 of 0 would be removed, 0.0 of 0.0 MB."


def test_tokens_are_identities_and_digests() -> None:
    one, digest = "0123456789abcdef", "ab" * 32
    found = tokens_in({"a": [one, {"b": f"sha256:{digest}"}], "c": 5, "d": "0123456789abcdef0", "e": "f" * 40})
    assert found == {one, digest}
