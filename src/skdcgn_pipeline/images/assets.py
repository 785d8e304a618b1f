"""Files that the project uses but does not carry: where they are, what they must contain, how to get them.

They are listed in `assets.toml`. `python -m skdcgn_pipeline.images.assets FOLDER` downloads those of MNIST; every
file is checked by its SHA-256 before it is put in place, and a download that was cut off goes on.
"""

from __future__ import annotations

import argparse
import gzip
import logging
import os
import re
import shutil
import sys
import tomllib
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from skdcgn_pipeline.artifacts.store import check_writable, readable_disk_errors, sha256_of_file
from skdcgn_pipeline.images.download import AbsentError, DownloadError, discard, download, part_of
from skdcgn_pipeline.runtime.errors import InterruptedRunError, SettingError, check_choice
from skdcgn_pipeline.runtime.progress import stop_requested

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

ASSETS_VARIABLE = "SKDCGN_ASSETS"
MIRROR_VARIABLE = "SKDCGN_MIRROR"
DEFAULT_ASSETS = "data/01_raw"
DEFAULT_GROUPS = ("mnist", "cgn_mnist", "textures")
PACKAGED_TABLE = Path(__file__).with_name("assets.toml")
GZIP = "gzip"
THERE, DOWNLOADED, BY_HAND = "there", "downloaded", "by hand"
COLUMNS = ("name", "group", "size", "licence", "sha256", "state", "verified", "source", "to_do")
REPLACED = ".replaced"  # of a file that was in the way of a verified one
_LOCK = ".fetch.lock"


@dataclass(frozen=True)
class Asset:
    """One file (or, by hand, one folder) of the table; see the head of `assets.toml` for the fields."""

    name: str
    group: str
    licence: str
    url: str | None = None
    sha256: str | None = None
    size: int | None = None
    unpack: str | None = None
    by_hand: str | None = None
    contains: Mapping[str, int] = field(default_factory=dict)
    teacher_variant: str | None = None

    def describe(self) -> str:
        """Say what the content must be."""
        if self.sha256 is None:
            return "a file" if self.size is None else f"{self.size:,} bytes"
        return f"{self.size:,} bytes with SHA-256 {self.sha256}" if self.size else f"SHA-256 {self.sha256}"

    def problem(self) -> str | None:
        """Say what is wrong with this entry, if anything."""
        path = Path(self.name)
        problems = {
            "a name that leaves the asset folder": path.is_absolute() or ".." in path.parts or "\\" in self.name,
            "not exactly one of url and by_hand": (self.url is None) == (self.by_hand is None),
            f"the url {self.url!r}": self.url is not None and not _is_address(self.url),
            "a url without sha256 and size": self.url is not None and None in (self.sha256, self.size),
            f"the sha256 {self.sha256!r}": self.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", self.sha256),
            f"the size {self.size!r}": self.size is not None and not (isinstance(self.size, int) and self.size > 0),
            f"unpack = {self.unpack!r}": self.unpack not in (None, GZIP),
            "no licence": not self.licence,
        }
        return next((words for words, is_so in problems.items() if is_so), None)


def read_table(path: Path | str | None = None) -> dict[str, Asset]:
    """Read a table of assets: the packaged one, or a TOML file of the same form.

    Returns:
        The entries by name, in the order of the file.

    Raises:
        SettingError: Naming the file and the entry that is wrong.
    """
    path = PACKAGED_TABLE if path is None else Path(path)
    remedy = f"See the head of {PACKAGED_TABLE}."
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingError("fetch.table", "a table of assets in TOML", f"{path} ({error})", remedy) from error
    known = {field.name for field in fields(Asset)} - {"name"}
    table = {}
    for name, entry in raw.items():
        setting = f"{path}, asset '{name}'"
        if not isinstance(entry, dict) or not {"group", "licence"} <= set(entry) <= known:
            got = sorted(entry) if isinstance(entry, dict) else repr(entry)
            raise SettingError(setting, f"group, licence and some of {', '.join(sorted(known))}", got, remedy)
        table[name] = Asset(name=name, **entry)
        if (problem := table[name].problem()) is not None:
            raise SettingError(setting, "a complete entry", problem, remedy)
    return table


def names_below(folder: str) -> list[str]:
    """Return the names of all known assets in a folder such as `mnist` or `textures/object`."""
    return [name for name in read_table() if name.startswith(f"{folder}/")]


def variant_of_published_teacher(sha256: str) -> str | None:
    """Return which variant a published MNIST teacher was trained on, or None for another file."""
    variants = {asset.sha256: asset.teacher_variant for asset in read_table().values() if asset.teacher_variant}
    return variants.get(sha256)


def published_teacher_name(variant: str) -> str:
    """Return the asset name of the published MNIST teacher of a variant."""
    return f"cgn_mnist/cgn_{variant}_mnist.pth"


def require_assets(root: Path | str, names: list[str]) -> list[Path]:
    """Return the paths of assets, refusing when one is absent.

    Raises:
        SettingError: Naming the folder, the first missing file and the command that gets it.
    """
    paths = [Path(root) / name for name in names]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        table = read_table()
        groups = dict.fromkeys(table[n].group for n in names if n in table and table[n].group not in DEFAULT_GROUPS)
        chosen = f" --groups {' '.join(groups)}" if groups else ""
        raise SettingError(
            f"assets ({ASSETS_VARIABLE})",
            f"the file {missing[0]}",
            f"{len(missing)} of {len(paths)} files missing",
            f"Point {ASSETS_VARIABLE} at the folder that has them, or download them with "
            f"`python -m skdcgn_pipeline.images.assets {root}{chosen}`.",
        )
    return paths


def fetch_assets(
    root: Path | str,
    groups: Sequence[str] = DEFAULT_GROUPS,
    mirror: str | None = None,
    table: Path | str | None = None,
) -> pd.DataFrame:
    """Bring every asset of some groups into the asset folder, and check it before it is put in place.

    A file that is there with the right content is left alone, without a request. Otherwise it is taken
    from the mirror, if that has it with the right content, and else downloaded. A file of other content that
    is in the way is kept beside the new one as `<name>.replaced`.

    Args:
        root: The asset folder.
        groups: Groups of the table.
        mirror: A folder or an http(s) address with the same names below it, such as the asset folder of
            another machine; files are as in place, that is unpacked. By default what `SKDCGN_MIRROR` names.
        table: Another table than the packaged one.

    Returns:
        One row per asset, in the order of the table:

        - `name`, `group`, `licence`, `sha256`: as in the table;
        - `size`: bytes in place, or missing where it is not known;
        - `state`: `there`, `downloaded` or `by hand` (it is missing, and somebody must get it, which is no error here);
        - `verified`: whether the content was compared with its SHA-256;
        - `source`: an address, the mirror, or nothing for what is got by hand;
        - `to_do`: for `by hand`, what to do.

    Raises:
        SettingError: Naming the asset, what was expected and what came. What was brought before is in place.
        InterruptedRunError: If the run was asked to stop; the next one goes on from there.
    """
    root, entries = Path(root), read_table(table)
    mirror = mirror or os.environ.get(MIRROR_VARIABLE) or None
    for group in groups:
        check_choice("fetch.groups", group, dict.fromkeys(asset.group for asset in entries.values()))
    if mirror is not None and not _is_address(mirror) and not Path(mirror).is_dir():
        raise SettingError(
            f"fetch.mirror ({MIRROR_VARIABLE})", "a folder or an http(s) address", repr(mirror), "Correct or unset it."
        )
    rows = {name: _inspect(root, asset) for name, asset in entries.items() if asset.group in groups}
    missing = [entries[name] for name, row in rows.items() if row["state"] != THERE]
    wanted = [asset for asset in missing if asset.url is not None or (mirror is not None and not asset.contains)]
    if wanted:
        check_writable(root, sum(asset.size or 0 for asset in wanted))
        with _one_at_a_time(root), readable_disk_errors(root):
            for number, asset in enumerate(wanted):
                if stop_requested():
                    raise InterruptedRunError(
                        f"fetch: stopped after {number} of {len(wanted)} files, which are in place. "
                        "Repeat the same command to go on from here."
                    )
                if (source := _bring(asset, root, mirror)) is not None:
                    row = rows[asset.name]
                    row |= _row(asset, DOWNLOADED, size=_size_of(root / asset.name), source=source)
    import pandas as pd

    return pd.DataFrame(list(rows.values()), columns=list(COLUMNS)).astype({"size": "Int64"})


def _row(asset: Asset, state: str, *, size: int | None = None, source: str = "", to_do: str = "") -> dict[str, Any]:
    verified = asset.sha256 is not None and state in (THERE, DOWNLOADED)
    values = asset.name, asset.group, size, asset.licence, asset.sha256, state, verified, source, to_do
    return dict(zip(COLUMNS, values, strict=True))


def _inspect(root: Path, asset: Asset) -> dict[str, Any]:
    """Say whether an asset is in place with the right content; what can be downloaded has an empty state."""
    path, source = root / asset.name, asset.url or ""
    wrong = _wrong_folder(path, asset.contains) if asset.contains else _wrong_content(path, asset)
    if wrong is None:
        return _row(asset, THERE, size=_size_of(path) if path.is_file() else None, source=source)
    if path.exists():
        wanted = "a complete folder" if asset.contains else asset.describe()
        logger.warning("%s: expected %s, got %s", path, wanted, wrong)
    if asset.by_hand is None:
        return _row(asset, "", size=asset.size, source=source)
    other = f"(There is something at {path}, but it has {wrong}.)\n" if path.exists() else ""
    to_do = other + asset.by_hand.strip().replace("{folder}", str(root))
    return _row(asset, BY_HAND, size=asset.size, source=source, to_do=to_do)


def refuse_missing(assets: pd.DataFrame) -> None:
    """Refuse when something must be got by hand and is not there.

    Args:
        assets: What `fetch_assets` returned.

    Raises:
        SettingError: With the instructions for each of them.
    """
    missing = assets[assets["state"] == BY_HAND]
    if len(missing):
        lines = "".join(f"\n\n- {row.name} ({row.licence})\n{row.to_do}" for row in missing.itertuples(index=False))
        raise SettingError(
            "assets",
            f"{', '.join(missing['name'])}, which must be got by hand",
            "nothing usable there",
            f"All others are in place. Follow these instructions, then repeat the command:{lines}",
        )


def _bring(asset: Asset, root: Path, mirror: str | None) -> str | None:
    """Put one asset in place; returns where it came from, or None where it must be got by hand."""
    path, wanted = root / asset.name, asset.describe()
    path.parent.mkdir(parents=True, exist_ok=True)
    if mirror is not None:
        source = f"{mirror.rstrip('/')}/{asset.name}"
        wrong = _bring_from_mirror(asset, path, source)
        if wrong is None:
            return source
        if wrong and asset.url is None:
            got = f"{wrong} from the mirror {source}"
            raise SettingError(asset.name, wanted, got, "Correct the mirror or leave it out.")
        if wrong:
            logger.warning("%s: expected %s, got %s from the mirror; downloading it instead", source, wanted, wrong)
    if asset.url is None:
        return None
    try:
        wrong = _bring_from_address(asset, path, asset.url, asset.unpack)
    except DownloadError as error:
        raise SettingError(
            asset.name,
            f"a download from {asset.url} of {wanted}",
            error,
            f"Check the network, or name a folder that has it in {MIRROR_VARIABLE}; then repeat the command, "
            "which goes on from there.",
        ) from error
    if wrong is not None:
        raise SettingError(
            asset.name,
            wanted,
            f"{wrong} from {asset.url}",
            "Nothing was put in place. Repeat the command; if that does not help, the published file has changed: "
            f"get the right one from somebody who has it and name the folder in {MIRROR_VARIABLE}.",
        )
    return asset.url


def _bring_from_mirror(asset: Asset, path: Path, source: str) -> str | None:
    """Return None when it worked, the empty string when the mirror lacks the file, else what is wrong with it."""
    if _is_address(source):
        try:
            return _bring_from_address(asset, path, source, None)
        except DownloadError as error:
            return "" if isinstance(error, AbsentError) else str(error)
    if not Path(source).is_file() or Path(source).resolve() == path.resolve():
        return ""
    copy = path.with_name(path.name + ".mirrored")
    try:
        shutil.copyfile(source, copy)
        return _place(copy, path, asset)
    finally:
        copy.unlink(missing_ok=True)


def _bring_from_address(asset: Asset, path: Path, url: str, unpack: str | None) -> str | None:
    """Download, unpack, check and put in place; returns what is wrong with the content, if anything."""
    part, unpacked = part_of(path), path.with_name(path.name + ".unpacked")
    while True:
        resumed = download(url, path, asset.name, asset.size if unpack is None else None)
        try:
            wrong = _unpack(part, unpacked, asset.size or 0) if unpack else None
            wrong = wrong or _place(unpacked if unpack else part, path, asset)
        finally:
            unpacked.unlink(missing_ok=True)
        discard(path)
        if wrong is None or not resumed:
            return wrong
        # The pieces may be of different versions of the file; one download from the start will tell.
        logger.warning("%s: expected %s, got %s in pieces; downloading it anew", asset.name, asset.describe(), wrong)


def _unpack(packed: Path, path: Path, size: int) -> str | None:
    """Unpack a gzip file, and not more than can be right; returns what is wrong, if anything."""
    left = size + 1
    try:
        with gzip.open(packed) as source, path.open("wb") as target:
            while chunk := source.read(min(2**20, left)):
                target.write(chunk)
                left -= len(chunk)
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk, not of the content
        return f"no complete gzip file ({error}), SHA-256 {sha256_of_file(packed)},"
    return None


def _place(content: Path, path: Path, asset: Asset) -> str | None:
    """Rename right content into place and keep what was there beside it; returns what is wrong otherwise."""
    if (wrong := _wrong_content(content, asset)) is not None:
        return wrong
    with content.open("rb+") as file:
        os.fsync(file.fileno())
    if path.exists():
        replaced = path.with_name(path.name + REPLACED)
        path.replace(replaced)
        logger.warning("%s was of other content; it is kept as %s", path, replaced.name)
    content.replace(path)
    return None


def _wrong_content(path: Path, asset: Asset) -> str | None:
    """Say what is wrong with a file, or None; without a recorded checksum, any file will do."""
    if not path.is_file():
        return "nothing"
    size = _size_of(path)
    if asset.sha256 is None and asset.size in (None, size):
        return None
    digest = sha256_of_file(path)
    right = asset.sha256 in (None, digest) and asset.size in (None, size)
    return None if right else f"{size:,} bytes with SHA-256 {digest}"


def _wrong_folder(path: Path, contains: Mapping[str, int]) -> str | None:
    for subfolder, least in contains.items():
        place = path / subfolder
        number = sum(child.is_dir() for child in place.iterdir()) if place.is_dir() else 0
        if number < least:
            return f"{number} instead of {least:,} folders in {subfolder}"
    return None


def _size_of(path: Path) -> int:
    return path.stat().st_size


def _is_address(mirror: str) -> bool:
    return mirror.startswith(("https://", "http://"))


def _one_at_a_time(root: Path) -> Any:
    """Lock the asset folder: two downloads into the same part would spoil each other."""
    try:
        return FileLock(root / _LOCK).acquire(timeout=0)
    except Timeout as error:
        raise SettingError(
            "fetch", f"to be alone in {root}", "another process that downloads there", "Wait for its end."
        ) from error


def count_states(assets: pd.DataFrame) -> str:
    """Return how many assets are in which state, in words."""
    counted = Counter(assets["state"])
    words = [f"{counted[state]} {state}" for state in (THERE, DOWNLOADED, BY_HAND) if counted[state]]
    return ", ".join(words) or "nothing is asked for"


def main() -> int:
    """Download assets into the folder given on the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Download assets, by default MNIST, its CGN teachers and textures.")
    default = os.environ.get(ASSETS_VARIABLE, DEFAULT_ASSETS)
    known = list(dict.fromkeys(asset.group for asset in read_table().values()))
    parser.add_argument("folder", nargs="?", default=default, help=f"default: {default}")
    parser.add_argument("--groups", nargs="+", default=DEFAULT_GROUPS, help=f"of {', '.join(known)}")
    parser.add_argument("--mirror", help=f"a folder or address that is looked into first (or {MIRROR_VARIABLE})")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        assets = fetch_assets(options.folder, options.groups, options.mirror)
        sys.stdout.write(f"{count_states(assets)}, in {options.folder}\n")
        refuse_missing(assets)
    except (SettingError, InterruptedRunError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
