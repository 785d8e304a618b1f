"""Files that the project uses but does not carry: where they are, what they must contain, how to get them.

They are listed in `assets.toml`. `python -m skdcgn_pipeline.images.assets FOLDER` downloads those of MNIST; every
file is checked by its SHA-256 before it is put in place, and a download that was cut off goes on.
"""

from __future__ import annotations

import argparse
import gzip
import logging
import os
import shutil
import sys
import tomllib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from skdcgn_pipeline.artifacts.store import check_writable, readable_disk_errors, sha256_of_file
from skdcgn_pipeline.images.download import AbsentError, DownloadError, download
from skdcgn_pipeline.runtime.errors import (
    SettingError,
    check_choice,
    exit_status,
    print_messages,
    without_credentials,
)
from skdcgn_pipeline.runtime.progress import Progress, stop_requested

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

ASSETS_VARIABLE = "SKDCGN_ASSETS"
MIRROR_VARIABLE = "SKDCGN_MIRROR"
DEFAULT_ASSETS = "data/01_raw"
DEFAULT_GROUPS = ("mnist", "cgn_mnist", "textures")
PACKAGED_TABLE = Path(__file__).with_name("assets.toml")
THERE, DOWNLOADED, BY_HAND = "there", "downloaded", "by hand"
COLUMNS = ("name", "group", "size", "licence", "sha256", "state", "verified", "source", "to_do")
PART = ".part"  # of a file that is incomplete
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


def read_table() -> dict[str, Asset]:
    """Return the assets by name, in the order of the table."""
    table = tomllib.loads(PACKAGED_TABLE.read_text(encoding="utf-8"))
    return {name: Asset(name=name, **entry) for name, entry in table.items()}


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
    """Return the paths of assets; a `SettingError` names the first that is absent and the command that gets it."""
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


def fetch_assets(root: Path | str, groups: Sequence[str] = DEFAULT_GROUPS, mirror: str | None = None) -> pd.DataFrame:
    """Bring every asset of some groups into the asset folder, and check it before it is put in place.

    A file that is there with the right content is left alone, without a request. Otherwise it is taken
    from the mirror, if that has it with the right content, and else downloaded. A file of other content that
    is in the way is kept beside the new one as `<name>.replaced`.

    Args:
        root: The asset folder.
        groups: Groups of the table.
        mirror: A folder or an http(s) address with the same names below it, such as the asset folder of
            another machine; files are as in place, that is unpacked. By default what `SKDCGN_MIRROR` names.

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
    root, entries = Path(root), read_table()
    mirror = mirror or os.environ.get(MIRROR_VARIABLE) or None
    for group in groups:
        check_choice("fetch.groups", group, dict.fromkeys(asset.group for asset in entries.values()))
    if mirror is not None and not _is_address(mirror) and not Path(mirror).is_dir():
        raise SettingError(
            f"fetch.mirror ({MIRROR_VARIABLE})", "a folder or an http(s) address", repr(mirror), "Correct or unset it."
        )
    asked = {name: asset for name, asset in entries.items() if asset.group in groups}
    faults = {name: _fault(root, asset) for name, asset in asked.items()}
    sources: dict[str, str | None] = {}
    missing = [asked[name] for name, fault in faults.items() if fault is not None]
    wanted = [asset for asset in missing if asset.url is not None or (mirror is not None and not asset.contains)]
    if wanted:
        check_writable(root, sum(asset.size or 0 for asset in wanted))
        with _one_at_a_time(root), readable_disk_errors(root):
            progress = Progress("fetch", len(wanted), "files")
            for asset in wanted:
                if stop_requested():
                    progress.interrupt()
                sources[asset.name] = _bring(asset, root, mirror)
                progress.advance()
    import pandas as pd

    rows = [_row(root, asset, faults[name], sources.get(name)) for name, asset in asked.items()]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"size": "Int64"})


def _row(root: Path, asset: Asset, fault: str | None, source: str | None) -> dict[str, Any]:
    """Return the row of an asset, given what was wrong with it and where it was brought from."""
    path = root / asset.name
    state = THERE if fault is None else BY_HAND if source is None else DOWNLOADED
    to_do = ""
    if state == BY_HAND and asset.by_hand is not None:
        to_do = f"(There is something at {path}, but it has {fault}.)\n" if path.exists() else ""
        to_do += asset.by_hand.strip().replace("{folder}", str(root))
    return {
        **{key: getattr(asset, key) for key in ("name", "group", "licence", "sha256")},
        "size": path.stat().st_size if path.is_file() else asset.size,
        "state": state,
        "verified": asset.sha256 is not None and state != BY_HAND,
        "source": source or asset.url or "",
        "to_do": to_do,
    }


def _fault(root: Path, asset: Asset) -> str | None:
    """Say what is wrong with an asset in place, or None."""
    path = root / asset.name
    fault = _wrong_folder(path, asset.contains) if asset.contains else _wrong_content(path, asset)
    if fault is not None and path.exists():
        wanted = "a complete folder" if asset.contains else asset.describe()
        logger.warning("%s: expected %s, got %s", path, wanted, fault)
    return fault


def refuse_missing(assets: pd.DataFrame) -> None:
    """Refuse what `fetch_assets` returned when something must be got by hand and is not there, with instructions."""
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
    path = root / asset.name
    path.parent.mkdir(parents=True, exist_ok=True)
    sources = [] if mirror is None else [f"{mirror.rstrip('/')}/{asset.name}"]
    for source in [*sources, *([] if asset.url is None else [asset.url])]:
        shown = without_credentials(source)
        try:
            _bring_from(source, path, asset)
        except DownloadError as error:
            if source != asset.url and (asset.url is not None or isinstance(error, AbsentError)):
                logger.warning("%s: expected %s, got %s; this mirror is passed over", shown, asset.describe(), error)
                continue
            raise SettingError(
                asset.name,
                asset.describe(),
                f"{error} from {shown}",
                f"Nothing was put in place. Check the network, or name a folder that has it in {MIRROR_VARIABLE}; then "
                "repeat the command, which goes on from there.",
            ) from error
        return shown
    return None


def _bring_from(source: str, path: Path, asset: Asset) -> None:
    """Download or copy, unpack, check and put in place; raises `DownloadError`, too, for other content."""
    content = path.with_name(path.name + PART)
    packed = path.with_name(f"{path.name}.gz{PART}") if asset.unpack and source == asset.url else None
    part = packed or content
    if asset.sha256 is None:
        part.unlink(missing_ok=True)  # nothing would tell whether the rest is of the same file
    while True:
        resumed = part.exists()
        if _is_address(source):
            download(source, part, asset.name, None if packed else asset.size)
        elif Path(source).is_file() and Path(source).resolve() != path.resolve():
            shutil.copyfile(source, part)
        else:
            raise AbsentError("nothing")
        wrong = (_unpack(packed, content) if packed else None) or _wrong_content(content, asset)
        if wrong is None:
            _place(content, path)
        for file in (part, content):
            file.unlink(missing_ok=True)
        if wrong is None:
            return
        if not resumed:
            raise DownloadError(wrong)
        logger.warning("%s: expected %s, got %s in pieces; downloading it anew", asset.name, asset.describe(), wrong)


def _unpack(packed: Path, path: Path) -> str | None:
    """Unpack a gzip file; returns what is wrong, if anything."""
    try:
        with gzip.open(packed) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        return f"no complete gzip file ({error})"
    return None


def _place(content: Path, path: Path) -> None:
    """Rename right content into place and keep what was there beside it."""
    with content.open("rb+") as file:
        os.fsync(file.fileno())
    if path.exists():
        replaced = path.with_name(path.name + REPLACED)
        path.replace(replaced)
        logger.warning("%s was of other content; it is kept as %s", path, replaced.name)
    content.replace(path)


def _wrong_content(path: Path, asset: Asset) -> str | None:
    """Say what is wrong with a file, or None; without a recorded checksum, any file will do."""
    if not path.is_file():
        return "nothing"
    size = path.stat().st_size
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
    counted = assets["state"].value_counts(sort=False)
    return ", ".join(f"{count} {state}" for state, count in counted.items()) or "nothing is asked for"


def main() -> int:
    """Download assets into the folder given on the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Download assets, by default MNIST, its CGN teachers and textures.")
    default = os.environ.get(ASSETS_VARIABLE, DEFAULT_ASSETS)
    known = list(dict.fromkeys(asset.group for asset in read_table().values()))
    parser.add_argument("folder", nargs="?", default=default, help=f"default: {default}")
    parser.add_argument("--groups", nargs="+", default=DEFAULT_GROUPS, help=f"of {', '.join(known)}")
    parser.add_argument("--mirror", help=f"a folder or address that is looked into first (or {MIRROR_VARIABLE})")
    options = parser.parse_args()
    print_messages(logging.INFO)

    def fetch() -> None:
        assets = fetch_assets(options.folder, options.groups, options.mirror)
        sys.stdout.write(f"{count_states(assets)}, in {options.folder}\n")
        refuse_missing(assets)

    return exit_status(fetch)


if __name__ == "__main__":
    sys.exit(main())
