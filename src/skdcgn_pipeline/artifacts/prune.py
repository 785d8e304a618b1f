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
from dataclasses import dataclass, replace
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
BYTES_PER_MB = 1e6
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


def texts_in(value: Any) -> list[str]:
    """Return every text in nested mappings and lists."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [text for part in value for text in texts_in(part)]
    return [value] if isinstance(value, str) else []


def tokens_in(value: Any) -> set[str]:
    """Return the identities and SHA-256 in a text, or anywhere in nested mappings and lists."""
    return {token for text in texts_in(value) for token in TOKEN.findall(text)}


def _find_versions(root: Path) -> tuple[dict[Path, str], list[Path]]:
    """Return the artifact that each version names, empty where it names none; and versions that were never written."""
    versions, empty = {}, []
    for path in sorted([*root.glob(f"{LAYERS}/*/*Z"), *root.glob(f"{LAYERS}/*/*/*Z")]):
        if not RUN.fullmatch(path.name) or path.is_symlink() or not path.is_dir():
            continue
        file = path / path.parent.name
        if not file.exists():
            empty.append(path)
            continue
        versions[path] = ""
        if file.suffix == ".json":
            # Other files ending in .json name no artifact.
            with suppress(OSError, ValueError, KeyError, TypeError):
                versions[path] = str(json.loads(file.read_text(encoding="utf-8"))["identity"])
    return versions, empty


def _judge_versions(
    root: Path, versions: Iterable[Path], keep_last: int, registered: Iterable[RegisteredModel]
) -> dict[Path, str]:
    """Return the versions that are kept, each with the reason."""
    by_dataset: dict[Path, list[Path]] = defaultdict(list)
    for version in sorted(versions, key=lambda path: path.name, reverse=True):
        by_dataset[version.parent].append(version)
    reasons = {version: f"one of the last {keep_last}" for of in by_dataset.values() for version in of[:keep_last]}
    runs: dict[str, str] = {}
    for version in reasons:
        runs.setdefault(version.name, f"its run's {version.parent.relative_to(root)} is one of the last {keep_last}")
    runs |= {model.run: f"the registered model {model.name} was made by its run" for model in registered if model.run}
    for of_dataset in by_dataset.values():
        for version in of_dataset:
            if version.name in runs:
                reasons.setdefault(version, runs[version.name])
        for run in sorted(filter(RUN.fullmatch, runs)):
            if read := [version for version in of_dataset if version.name <= run]:
                reasons.setdefault(read[0], f"the kept run {run} may have read it")
    return reasons


def _lock_of(path: Path) -> FileLock:
    """Return the lock of whoever builds what is in a directory of a store."""
    return FileLock(path.parent / f".{path.name.partition('.')[0]}.lock", timeout=0)


def _is_held(path: Path) -> bool:
    """Tell whether somebody builds an artifact just now."""
    lock = _lock_of(path)
    if not Path(lock.lock_file).exists():
        return False
    with suppress(Timeout), lock:
        return False
    return True


class _Stores:
    """The artifacts of a data root and who refers to whom."""

    def __init__(self, root: Path) -> None:
        self.root = root / "stores"
        self.artifacts: dict[Path, Artifact] = {}
        self.unfinished: list[Path] = []
        self.leftovers: list[Path] = []
        self.unknown: dict[Path, str] = {}
        for path in sorted(self.root.glob("*/*")):
            if path.is_dir():
                self._sort_in(path)
        self._named: dict[str, set[Path]] = defaultdict(set)  # what artifacts may be referred to by
        for path, artifact in self.artifacts.items():
            for token in (path.name, *artifact.manifest["files"].values()):
                self._named[token].add(path)
        self.inputs = {path: self.named_by(tokens_in(one.inputs)) - {path} for path, one in self.artifacts.items()}

    def _sort_in(self, path: Path) -> None:
        if path.is_symlink() or not IDENTITY.fullmatch(path.name.removesuffix(PARTIAL).removesuffix(REMOVED)):
            self.unknown[path] = "not a directory of this project"
        elif path.name.endswith(REMOVED):
            self.leftovers.append(path)
        elif path.name.endswith(PARTIAL):
            self.unfinished.append(path)
        else:
            try:
                self.artifacts[path] = Artifact.open(path, verify=False)
            except DamagedFileError:
                self.unknown[path] = f"its {MANIFEST} cannot be read"

    def name_of(self, path: Path) -> str:
        """Return how an artifact is told."""
        return str(path.relative_to(self.root))

    def named_by(self, tokens: Iterable[str]) -> set[Path]:
        """Return the artifacts that tokens stand for."""
        return {path for token in tokens for path in self._named.get(token, ())}

    def judge(
        self, root: Path, kept: Mapping[Path, str], registered: Iterable[RegisteredModel], settings: Any
    ) -> dict[Path, str]:
        """Return the artifacts that kept versions (and what they name), models or settings need, with the reason."""
        reasons: dict[Path, str] = {}
        for version in sorted(kept, key=lambda path: (path.name, str(path)), reverse=True):
            for path in self.named_by([kept[version]]):
                reasons.setdefault(path, f"{version.parent.relative_to(root)} of {version.name} names it")
        for model in registered:
            for path in self.named_by(tokens_in(model.text)):
                reasons.setdefault(path, f"the registered model {model.name} refers to it")
        named = [Path(text).resolve() for text in texts_in(settings) if "/" in text]
        for path in self.artifacts:
            if any(one.is_relative_to(path.resolve()) for one in named):
                reasons.setdefault(path, "the settings name it")
        waiting = list(reasons)
        while waiting:
            path = waiting.pop()
            for source in sorted(self.inputs[path] - set(reasons)):
                reasons[source] = f"{self.name_of(path)} was made from it"
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
    stores = _Stores(root)
    reasons = stores.judge(root, {version: versions[version] for version in kept}, registered, settings)
    named, inputs = stores.named_by(versions.values()), stores.inputs
    results = {path for path in inputs if path not in named and path not in reasons and inputs[path]}
    while new := {path for path in results if path not in reasons and inputs[path] <= set(reasons)}:
        reasons |= dict.fromkeys(new, "a result of kept work")
    entries: list[Entry] = []

    def add(kind: str, path: Path, keep: bool, why: str) -> None:
        num_bytes = sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())
        entries.append(Entry(kind, path, num_bytes, keep, why))

    def add_by_age(kind: str, path: Path, what: str) -> None:
        age = (now - max(part.lstat().st_mtime for part in (path, *path.rglob("*")))) / SECONDS_PER_DAY
        if _is_held(path):
            add(kind, path, True, "somebody is at work on it")
        elif age < unfinished_days:
            add(kind, path, True, f"{what}, but younger than {unfinished_days:g} days")
        else:
            add(kind, path, False, f"{what}, and older than {unfinished_days:g} days")

    old = f"older than the last {keep_last}, and no kept run or registered model needs it"
    for version in sorted(versions, key=lambda path: (path.name, str(path))):
        add("version", version, version in kept, kept.get(version, old))
    for path, sources in inputs.items():
        if path in reasons:
            add("artifact", path, True, reasons[path])
        elif path in named:
            add("artifact", path, False, "only versions that go name it")
        elif gone := sorted(sources - set(reasons)):
            add("artifact", path, False, f"made from {stores.name_of(gone[0])}, which goes")
        else:
            add_by_age("artifact", path, "no dataset names it")
    for path in [*stores.unfinished, *never_written]:
        add_by_age("unfinished", path, "unfinished")
    for path in stores.leftovers:
        add("leftover", path, False, "left over from an earlier removal")
    for path, why in stores.unknown.items():
        add("unknown", path, True, why)
    return entries


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
    with suppress(Timeout), _lock_of(path):
        if aside.exists():
            shutil.rmtree(aside)
        if path.exists():
            path.rename(aside)
        return True
    return False


def as_table(root: Path, entries: Sequence[Entry]) -> pd.DataFrame:
    """Return one row per entry: kind, what (below the root), bytes, kept and why."""
    rows = [(e.kind, str(e.path.relative_to(root)), e.num_bytes, e.keep, e.why) for e in entries]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def describe(root: Path, entries: Sequence[Entry], confirmed: bool) -> str:
    """Return a table for the terminal, a line for the entries of one run or store, what goes last; and what to do.

    Args:
        root: The data root.
        entries: What was planned, or what `remove_unneeded` returned.
        confirmed: Whether it has been removed.
    """
    removed = "removed" if confirmed else "would be removed"
    rows = [
        {
            "": "kept" if entry.keep else removed,
            "what": entry.path.name if RUN.fullmatch(entry.path.name) else str(entry.path.parent.relative_to(root)),
            # Every kept artifact has a reason of its own, which the full table tells.
            "why": "needed by what is kept" if entry.keep and entry.kind == "artifact" else entry.why,
            "MB": entry.num_bytes / BYTES_PER_MB,
        }
        for entry in entries
    ]
    gone, total = (
        (sum(e.num_bytes for e in some) / BYTES_PER_MB) for some in ([e for e in entries if not e.keep], entries)
    )
    lines = [f"{sum(not e.keep for e in entries)} of {len(entries)} {removed}, {gone:.1f} of {total:.1f} MB."]
    if rows:
        table = pd.DataFrame(rows).groupby(["", "what", "why"])["MB"].agg(number="size", MB="sum").reset_index()
        for name in ("", "what", "why"):
            table[name] = table[name].str.ljust(table[name].str.len().max())
        table = table[["", "what", "number", "MB", "why"]]
        lines.insert(0, table.to_string(index=False, justify="left", float_format="{:.1f}".format))
    if gone and not confirmed:
        lines.append("Nothing has been removed; add prune.confirm=true to --params to do so.")
    return "\n".join(lines)
