"""Image sets in one call, without settings from files."""

from __future__ import annotations

from pathlib import Path

from skdcgn_pipeline.artifacts.recipe import Store
from skdcgn_pipeline.images.assets import DEFAULT_ASSETS
from skdcgn_pipeline.images.listing import list_folder
from skdcgn_pipeline.images.recipes import BiasedImagesRecipe, FolderImagesRecipe
from skdcgn_pipeline.images.stored import StoredImages
from skdcgn_pipeline.parameters.images import BIASED_SOURCES, BIASES
from skdcgn_pipeline.runtime.errors import check_choice

STORE = Path("data/stores")


def load_biased(
    source: str = "digits",
    variant: str = "double_colored",
    *,
    bias_share: float = 1.0,
    copies: int = 1,
    seed: int = 0,
    assets: Path | str = DEFAULT_ASSETS,
    store: Path | str = STORE,
) -> StoredImages:
    """Return grey shapes in colours that give the class away in training and say nothing in the test.

    Args:
        source: `digits` (scikit-learn), `mnist` or `fashion_mnist`.
        variant: The bias protocol: `colored`, `double_colored` or `wildlife` (CGN, arXiv 2101.06046).
        bias_share: Share in [0, 1] of the training images whose colours are those of their class.
        copies: How often each shape is coloured.
        seed: Of every random choice.
        assets: Folder of MNIST, Fashion-MNIST and the textures.
        store: Where the images are kept; the same call reads them again.

    Raises:
        SettingError: If a name is unknown or a file is absent.
    """
    check_choice("source", source, BIASED_SOURCES)
    check_choice("variant", variant, BIASES)
    recipe = BiasedImagesRecipe(source, variant, str(assets), seed, copies=copies, bias_share=bias_share)
    return Store(Path(store)).make(recipe)


def load_folder(
    folder: Path | str,
    image_size: int = 64,
    *,
    resize: int | None = None,
    skip_unreadable: bool = False,
    seed: int = 0,
    store: Path | str = STORE,
) -> StoredImages:
    """Return the images of a folder: `<folder>/<split>/<class>/<image>`, and perhaps `<split>/metadata.csv`.

    Args:
        folder: The folder; without `validation`, a tenth of `train` is held out for that.
        image_size: Height and width to which images are brought.
        resize: Their shorter side before the middle is cut out; None takes `image_size`.
        skip_unreadable: Leave out files that cannot be read, rather than refuse the folder.
        seed: Of the split that is held out.
        store: Where the images are kept; the same call reads them again.

    Raises:
        SettingError: If the folder is laid out in another way, or a file cannot be read.
    """
    listing = list_folder(folder, 0.1, seed)
    return Store(Path(store)).make(FolderImagesRecipe(listing, image_size, resize, skip_unreadable))
