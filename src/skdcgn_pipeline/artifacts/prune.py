"""What a data root no longer needs: old versions of datasets, and what no kept version refers to.

A data root holds versions, `<layer>/…/<dataset>/<time of the run>/<dataset>`, some of which name an artifact, and the
artifacts themselves, `stores/<kind>/<identity>`, which name those that they were made from. Kept are:

- of each dataset the last versions, and every other version of the runs that these belong to, and what those runs
  read: of each dataset the newest version up to the run;
- the versions of the run that made a registered model;
- the artifacts that kept versions, registered models or settings name, and all that these were made from;
- results that no dataset names, such as classifiers and measurements, as long as all is kept that they were made from;
- whatever is younger than a number of days among the rest that no dataset names, such as unfinished work.

Nothing is removed by planning. Removal renames first, so that a crash leaves no half artifact.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from skdcgn_pipeline.artifacts.store import MANIFEST, Artifact, readable_disk_errors
from skdcgn_pipeline.runtime.errors import DamagedFileError

# The first layer holds assets, which are nobody's version.
LAYERS = "0[2-9]_*"
RUN = re.compile(r"\d{4}-\d\d-\d\dT\d\d\.\d\d\.\d\d\.\d{3}Z")
IDENTITY = re.compile(r"[0-9a-f]{16}")
# What artifacts and models refer to others by: an identity, or the SHA-256 of a file.
TOKEN = re.compile(r"(?<![0-9a-f])(?:[0-9a-f]{64}|[0-9a-f]{16})(?![0-9a-f])")
PARTIAL, REMOVED = ".partial", ".removed"
SECONDS_PER_DAY = 86400.0
COLUMNS = ("kind", "what", "bytes", "kept", "why")


@dataclass(frozen=True)
class RegisteredModel:
    """What a registered model refers to.

    Attributes:
        name: What it is called, with its version.
        run: Version of the datasets that its run saved; None where it is not known.
        text: Whatever else is recorded of it; identities and SHA-256 in it count as references.
    """

    name: str
    run: str | None = None
    text: str = ""


@dataclass(frozen=True)
class Entry:
    """One thing in a data root and what becomes of it.

    Attributes:
        kind: `version`, `artifact`, `unfinished`, `leftover` (of an earlier removal) or `unknown`.
        path: The directory.
        num_bytes: Of its files.
        keep: Whether it stays.
        why: The reason, in words.
    """

    kind: str
    path: Path
    num_bytes: int
    keep: bool
    why: str


@dataclass(frozen=True)
class _Stored:
    """A finished artifact: the tokens in its inputs, and those that others may call it by."""

    path: Path
    refers_to: frozenset[str]
    called: frozenset[str]


@dataclass(frozen=True)
class _Version:
    """A version of a dataset: its run, and the artifact that it names, if it does."""

    dataset: Path
    run: str
    identity: str | None = field(default=None, compare=False)

    @property
    def path(self) -> Path:
        return self.dataset / self.run


def tokens_in(value: Any) -> frozenset[str]:
    """Return the identities and SHA-256 in a text, or anywhere in nested mappings and lists."""
    if isinstance(value, str):
        return frozenset(TOKEN.findall(value))
    if isinstance(value, Mapping):
        return tokens_in(list(value.values()))
    if isinstance(value, list | tuple):
        return frozenset().union(*(tokens_in(one) for one in value))
    return frozenset()


def texts_in(value: Any) -> list[str]:
    """Return every text in nested mappings and lists."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [text for one in value for text in texts_in(one)]
    return [value] if isinstance(value, str) else []


def _num_bytes(path: Path) -> int:
    return sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())


def _age_days(path: Path, now: float) -> float:
    """Return how long ago anything in a directory was written."""
    return (now - max(one.lstat().st_mtime for one in (path, *path.rglob("*")))) / SECONDS_PER_DAY


def _find_versions(root: Path) -> tuple[list[_Version], list[Path]]:
    """Return all versions, and directories of versions that were never written."""
    found, empty = [], []
    for path in sorted([*root.glob(f"{LAYERS}/*/*Z"), *root.glob(f"{LAYERS}/*/*/*Z")]):
        if not RUN.fullmatch(path.name) or path.is_symlink() or not path.is_dir():
            continue
        file = path / path.parent.name
        if not file.exists():
            empty.append(path)
            continue
        identity = None
        if file.suffix == ".json":
            # Other files ending in .json name no artifact.
            with suppress(OSError, ValueError, KeyError, TypeError):
                identity = str(json.loads(file.read_text(encoding="utf-8"))["identity"])
        found.append(_Version(path.parent, path.name, identity))
    return found, empty


def _judge_versions(
    root: Path, versions: Sequence[_Version], keep_last: int, registered: Iterable[RegisteredModel]
) -> dict[_Version, str]:
    """Return the versions that are kept, each with the reason."""
    by_dataset: dict[Path, list[_Version]] = defaultdict(list)
    for version in sorted(versions, key=lambda one: one.run, reverse=True):
        by_dataset[version.dataset].append(version)
    reasons = {version: f"one of the last {keep_last}" for own in by_dataset.values() for version in own[:keep_last]}
    runs: dict[str, str] = {}
    for version in reasons:
        runs.setdefault(version.run, f"its run's {version.dataset.relative_to(root)} is one of the last {keep_last}")
    made = {model.run: model.name for model in registered if model.run and RUN.fullmatch(model.run)}
    runs |= {run: f"the registered model {name} was made by its run" for run, name in made.items()}
    for version in versions:
        if version.run in runs:
            reasons.setdefault(version, runs[version.run])
    for run in sorted(runs):
        for own in by_dataset.values():
            read = next((version for version in own if version.run <= run), None)
            if read is not None:
                reasons.setdefault(read, f"the kept run {run} may have read it")
    return reasons


def _is_held(path: Path) -> bool:
    """Tell whether somebody builds an artifact just now."""
    lock = path.parent / f".{path.name.partition('.')[0]}.lock"
    if not lock.exists():
        return False
    try:
        with FileLock(lock).acquire(timeout=0):
            return False
    except Timeout:
        return True


class _Stores:
    """The artifacts of a data root and who refers to whom."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.artifacts: dict[Path, _Stored] = {}
        self.unfinished: list[Path] = []
        self.leftovers: list[Path] = []
        self.unknown: dict[Path, str] = {}
        for store in sorted(path for path in (root / "stores").glob("*") if path.is_dir()):
            for path in sorted(path for path in store.iterdir() if path.is_dir()):
                self._look_at(path)
        self._called: dict[str, set[Path]] = defaultdict(set)
        for stored in self.artifacts.values():
            for token in stored.called:
                self._called[token].add(stored.path)

    def _look_at(self, path: Path) -> None:
        stem = path.name.removesuffix(PARTIAL).removesuffix(REMOVED)
        if path.is_symlink() or not IDENTITY.fullmatch(stem):
            self.unknown[path] = "not a directory of this project"
        elif path.name.endswith(REMOVED):
            self.leftovers.append(path)
        elif path.name.endswith(PARTIAL):
            self.unfinished.append(path)
        else:
            try:
                artifact = Artifact.open(path, verify=False)
            except DamagedFileError:
                self.unknown[path] = f"its {MANIFEST} cannot be read"
                return
            called = frozenset({path.name, *artifact.manifest["files"].values()})
            self.artifacts[path] = _Stored(path, tokens_in(artifact.inputs), called)

    def name_of(self, path: Path) -> str:
        """Return how an artifact is told."""
        return str(path.relative_to(self.root / "stores"))

    def called(self, tokens: Iterable[str]) -> set[Path]:
        """Return the artifacts that tokens stand for."""
        return {path for token in tokens for path in self._called.get(token, ())}

    def inputs_of(self, path: Path) -> set[Path]:
        """Return the artifacts that one was made from."""
        return self.called(self.artifacts[path].refers_to) - {path}

    def holding(self, texts: Iterable[str]) -> set[Path]:
        """Return the artifacts in which any of these texts, taken as paths, lies."""
        stores = (self.root / "stores").resolve()
        found = set()
        for text in texts:
            path = Path(text).resolve() if "/" in text else stores
            if path.is_relative_to(stores) and len(parts := path.relative_to(stores).parts) >= 2:
                found.add(self.root / "stores" / parts[0] / parts[1])
        return found & set(self.artifacts)


def _judge_artifacts(
    stores: _Stores, kept: Mapping[_Version, str], registered: Iterable[RegisteredModel], settings: Any
) -> dict[Path, str]:
    """Return the artifacts that kept versions, registered models or settings need, each with the reason."""
    reasons: dict[Path, str] = {}
    for version in sorted(kept, key=lambda one: (one.run, str(one.dataset)), reverse=True):
        for path in stores.called([version.identity] if version.identity else []):
            reasons.setdefault(path, f"{version.dataset.relative_to(stores.root)} of {version.run} names it")
    for model in registered:
        for path in stores.called(tokens_in(model.text)):
            reasons.setdefault(path, f"the registered model {model.name} refers to it")
    for path in stores.holding(texts_in(settings)):
        reasons.setdefault(path, "the settings name it")
    waiting = list(reasons)
    while waiting:
        path = waiting.pop()
        for source in sorted(stores.inputs_of(path) - set(reasons)):
            reasons[source] = f"{stores.name_of(path)} was made from it"
            waiting.append(source)
    return reasons


def plan_pruning(
    root: Path,
    keep_last: int,
    unfinished_days: float,
    registered: Sequence[RegisteredModel],
    settings: Any,
    now: float,
) -> list[Entry]:
    """Say what a data root holds, what can go and why.

    Args:
        root: The data root.
        keep_last: Versions of each dataset that stay.
        unfinished_days: Unfinished work, and finished work that no dataset names, stays as long as it is
            younger.
        registered: Registered models.
        settings: All settings, nested; an artifact that one of them names as a path stays.
        now: The time, in seconds since the epoch.

    Returns:
        One entry per version, artifact and unfinished or unknown directory, versions first.
    """
    versions, never_written = _find_versions(root)
    kept = _judge_versions(root, versions, keep_last, registered)
    old = f"older than the last {keep_last}, and no kept run or registered model needs it"
    entries = [
        Entry("version", one.path, _num_bytes(one.path), one in kept, kept.get(one, old))
        for one in sorted(versions, key=lambda one: (one.run, str(one.dataset)))
    ]
    stores = _Stores(root)
    reasons = _judge_artifacts(stores, kept, registered, settings)
    named = stores.called(one.identity for one in versions if one.identity)
    results = {
        path for path in stores.artifacts if path not in named and path not in reasons and stores.inputs_of(path)
    }
    while found := {path for path in results if path not in reasons and stores.inputs_of(path) <= set(reasons)}:
        reasons |= dict.fromkeys(found, "a result of kept work")
    for path in sorted(stores.artifacts):
        gone = sorted(stores.inputs_of(path) - set(reasons))
        if path in reasons:
            keep, why = True, reasons[path]
        elif path in named:
            keep, why = False, "only versions that go name it"
        elif gone:
            keep, why = False, f"made from {stores.name_of(gone[0])}, which goes"
        else:
            keep, why = _by_age(path, unfinished_days, now, "no dataset names it")
        entries.append(Entry("artifact", path, _num_bytes(path), keep, why))
    for path in [*stores.unfinished, *never_written]:
        keep, why = _by_age(path, unfinished_days, now, "unfinished")
        entries.append(Entry("unfinished", path, _num_bytes(path), keep, why))
    entries += [
        Entry("leftover", path, _num_bytes(path), False, "left over from an earlier removal")
        for path in stores.leftovers
    ]
    return entries + [Entry("unknown", path, _num_bytes(path), True, why) for path, why in stores.unknown.items()]


def _by_age(path: Path, days: float, now: float, what: str) -> tuple[bool, str]:
    if _is_held(path):
        return True, "somebody is at work on it"
    if _age_days(path, now) < days:
        return True, f"{what}, but younger than {days:g} days"
    return False, f"{what}, and older than {days:g} days"


def remove_unneeded(root: Path, entries: Sequence[Entry]) -> list[Entry]:
    """Remove what a plan says can go.

    Artifacts are renamed first, then old versions removed, then the renamed directories: whatever
    happens in between, no artifact is half there, and the next plan goes on.

    Args:
        root: The data root.
        entries: What `plan_pruning` returned.

    Returns:
        The entries, with those kept after all that somebody is at work on.

    Raises:
        SettingError: If something cannot be removed.
    """
    settled = list(entries)
    with readable_disk_errors(root):
        for number, entry in enumerate(settled):
            in_store = not entry.keep and entry.kind != "leftover" and not RUN.fullmatch(entry.path.name)
            if in_store and not _put_aside(entry.path):
                settled[number] = replace(entry, keep=True, why="somebody is at work on it")
        for entry in settled:
            if not entry.keep and RUN.fullmatch(entry.path.name):
                shutil.rmtree(entry.path)
        for path in sorted(root.glob(f"stores/*/*{REMOVED}")):
            if IDENTITY.fullmatch(path.name.removesuffix(REMOVED).removesuffix(PARTIAL)):
                shutil.rmtree(path)
    return settled


def _put_aside(path: Path) -> bool:
    """Rename a directory of a store so that nobody takes it for an artifact; False if somebody is at work on it."""
    aside = path.with_name(path.name + REMOVED)
    try:
        with FileLock(path.parent / f".{path.name.partition('.')[0]}.lock").acquire(timeout=0):
            if aside.exists():
                shutil.rmtree(aside)
            if path.exists():
                path.rename(aside)
    except Timeout:
        return False
    return True


def as_table(root: Path, entries: Sequence[Entry]) -> pd.DataFrame:
    """Return one row per entry: kind, what (below the root), bytes, kept and why."""
    rows = [(one.kind, str(one.path.relative_to(root)), one.num_bytes, one.keep, one.why) for one in entries]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _size(num_bytes: float) -> str:
    for unit in ("B", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} GB"


def describe(root: Path, entries: Sequence[Entry], confirmed: bool) -> str:
    """Return a table for the terminal, what goes last; equal reasons of one run or store share a line.

    Args:
        root: The data root.
        entries: What was planned, or what `remove_unneeded` returned.
        confirmed: Whether it has been removed.
    """

    def line_of(entry: Entry) -> tuple[bool, str, str]:
        if RUN.fullmatch(entry.path.name):
            return not entry.keep, f"versions of {entry.path.name}", entry.why
        own = entry.path.parent if entry.keep and entry.kind == "artifact" else entry.path
        # Every kept artifact has a reason of its own, which the full table tells.
        why = "needed by what is kept" if entry.keep and entry.kind == "artifact" else entry.why
        return not entry.keep, str(own.relative_to(root)), why

    removed = "removed" if confirmed else "would be removed"
    rows = [("", "what", "number", "size", "why")]
    for (goes, what, why), group in groupby(sorted(entries, key=line_of), key=line_of):
        own = list(group)
        rows.append((removed if goes else "kept", what, str(len(own)), _size(sum(e.num_bytes for e in own)), why))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]:>{widths[3]}}  {row[4]}"
        for row in rows
    ]
    gone = [entry for entry in entries if not entry.keep]
    lines.append(
        f"{len(gone)} of {len(entries)} {removed}, {_size(sum(one.num_bytes for one in gone))} "
        f"of {_size(sum(one.num_bytes for one in entries))}."
    )
    if gone and not confirmed:
        lines.append("Nothing has been removed; add prune.confirm=true to --params to do so.")
    return "\n".join(lines)
