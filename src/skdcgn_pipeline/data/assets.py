"""Files that the project uses but does not carry: where they are, what they must contain, how to get them.

`python -m skdcgn_pipeline.data.assets FOLDER` downloads them; every file is checked by its SHA-256.
"""

from __future__ import annotations

import argparse
import gzip
import os
import sys
from functools import partial
from pathlib import Path

from skdcgn_pipeline.artifacts import sha256_of_file, write_aside
from skdcgn_pipeline.errors import SettingError

ASSETS_VARIABLE = "SKDCGN_ASSETS"
DEFAULT_ASSETS = "data/01_raw"
_CGN = "https://raw.githubusercontent.com/autonomousvision/counterfactual_generative_networks/main/mnists"
_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist"
_COMPRESSED = ".gz"

_SHA256 = {
    "mnist/MNIST/raw/t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "mnist/MNIST/raw/t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    "mnist/MNIST/raw/train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "mnist/MNIST/raw/train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "cgn_mnist/cgn_colored_mnist.pth": "6b178e7c1924b9efc532c467e7f0b77d2702efb536de9816bbd7e92c26d9b3fe",
    "cgn_mnist/cgn_double_colored_mnist.pth": "7aa06c907f099c63a26127164a38d2ab353f1cdcafabdf8ca9303a0e9197b933",
    "cgn_mnist/cgn_wildlife_mnist.pth": "db5bc3108f7bfbd74a85e2b267e65e95bd918920a02fd8de64c947fd8a0015f0",
    "textures/background/0_veined_0066.jpg": "253effebdb863d8fe4254fd9c3df21e36c9222fad2f454639ad8d1e8b87ed96a",
    "textures/background/1_veined_0067.jpg": "67e555623f1fff4a9abda6036e6c76ce6cbcb801ff240e04d8848b475709a4dd",
    "textures/background/2_veined_0073.jpg": "91b3dc279226199de4dc03b56da0ce892e9d3f10b4b5136037f28de906d2276d",
    "textures/background/3_veined_0180.jpg": "9dbe19a8284cd2b6c1bef09928acdbd9ccdf9ded707ddb6358221968165ce458",
    "textures/background/4_veined_0131.jpg": "9e6d2ae36b8755d2a530005b905c2a3f4e1bc94b1535b6fe6e1c553acfc2b54b",
    "textures/background/5_veined_0157.jpg": "7e34b2b445f50c7af9c86262be9af39c3ce43c61d039d8c44a4afba89d077ae1",
    "textures/background/6_veined_0158.jpg": "4f992fd0da74cc53d37c065699a73af9e42c06dc38b2a2f22673452458708ce6",
    "textures/background/7_veined_0104.jpg": "c43441149846718186ab4c01f61c476c96c748c1149defaf5366e2534431954c",
    "textures/background/8_veined_0188.jpg": "d32d40f567ee3f58d421b9e02265ce1c8f0fe1ed91d8dedaa282cdc114161f39",
    "textures/background/9_veined_0189.jpg": "ab3144757372f34153b29ddf1e2e80cbdf6079bb18233b220ad5dda594829d74",
    "textures/object/0_striped_0001.jpg": "41b22c1a1e5edba336302b2ec175fc280647aaae6ebbbbfa9cfc433596305aff",
    "textures/object/1_striped_0091.jpg": "d6020007460a7e41a5d654e1c3b2b2ef8243e44aeede630aaa2947c0aedfddb9",
    "textures/object/2_striped_0008.jpg": "2ab2fc76e9ffd495ddf690a3d0bdf75158fcc2c73fb24c420ca238ce36a87ca0",
    "textures/object/3_striped_0043.jpg": "b9ab6ae10ddb6381a8021305fd41cdf2e575d9a829e2b79b9db218d89ac66537",
    "textures/object/4_striped_0092.jpg": "90e4b7683d348fb6d940abca13be4ad619b379ad9b3e2c96fab9f7d4dc4214ad",
    "textures/object/5_striped_0028.jpg": "b32940be4462eb40879905f13dfa2753d1e4b044904ed6390da6a8d35735d6d2",
    "textures/object/6_striped_0097.jpg": "bd362eefa810a35a24eeffe542a9727c3953ded745fa68e167b68a718b71d731",
    "textures/object/7_striped_0004.jpg": "0943891ac43a4acd5d8a874f121ef862a97a1de000c3fb1d936bbe2c6d027c2a",
    "textures/object/8_striped_0125.jpg": "edfe305c0e8f9dfa9d1576c9a32ab3f29e74ea1e8b5bab91ab4b9b83aec902e2",
    "textures/object/9_striped_0033.jpg": "d22a5fcf1ce2ea648c506d13f31a50eaf2260b903256e40fec32995b531d6933",
}


def _url_of(name: str) -> str:
    folder, _, file = name.rpartition("/")
    if folder.startswith("mnist/"):
        return f"{_MNIST}/{file}{_COMPRESSED}"
    if folder == "cgn_mnist":
        variant = file.removeprefix("cgn_").removesuffix("_mnist.pth")
        return f"{_CGN}/experiments/cgn_{variant}_MNIST/weights/ckp.pth"
    return f"{_CGN}/data/{name}"


def names_below(folder: str) -> list[str]:
    """Return the names of all known assets in a folder such as `mnist` or `textures/object`."""
    return [name for name in _SHA256 if name.startswith(f"{folder}/")]


def variant_of_published_teacher(sha256: str) -> str | None:
    """Return which variant a published MNIST teacher was trained on, or None for another file."""
    for name in names_below("cgn_mnist"):
        if _SHA256[name] == sha256:
            return Path(name).stem.removeprefix("cgn_").removesuffix("_mnist")
    return None


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
        raise SettingError(
            f"assets ({ASSETS_VARIABLE})",
            f"the file {missing[0]}",
            f"{len(missing)} of {len(paths)} files missing",
            f"Point {ASSETS_VARIABLE} at the folder that has them, or download them with "
            f"`python -m skdcgn_pipeline.data.assets {root}`.",
        )
    return paths


def fetch_assets(root: Path | str) -> list[Path]:
    """Download every asset that is not there yet and check its SHA-256.

    Raises:
        SettingError: If a file cannot be downloaded or has another content.
    """
    import pooch  # only needed here

    root = Path(root)
    paths = []
    for name, digest in _SHA256.items():
        path = root / name
        paths.append(path)
        if path.is_file() and sha256_of_file(path) == digest:
            continue
        try:
            # Compressed files are checked after unpacking: the recorded digest is of the content.
            download = Path(pooch.retrieve(_url_of(name), known_hash=None, path=root / ".downloads"))
        except Exception as error:
            raise SettingError(
                name, f"a download from {_url_of(name)}", error, "Check the network, then repeat the command."
            ) from error
        content = download.read_bytes()
        if _url_of(name).endswith(_COMPRESSED):
            content = gzip.decompress(content)
        write_aside(path, partial(Path.write_bytes, data=content))
        download.unlink()
        if (got := sha256_of_file(path)) != digest:
            path.unlink()
            raise SettingError(name, f"SHA-256 {digest}", got, "The published file changed; do not use it.")
    return paths


def main() -> None:
    """Download the assets into the folder given on the command line."""
    parser = argparse.ArgumentParser(description="Download MNIST, the published CGN teachers and the textures.")
    default = os.environ.get(ASSETS_VARIABLE, DEFAULT_ASSETS)
    parser.add_argument("folder", nargs="?", default=default, help=f"default: {default}")
    paths = fetch_assets(parser.parse_args().folder)
    sys.stdout.write(f"{len(paths)} files are complete in {paths[0].parents[3]}\n")


if __name__ == "__main__":
    main()
