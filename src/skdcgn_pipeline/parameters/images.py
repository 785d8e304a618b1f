"""What the real images of a run are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from skdcgn_pipeline.parameters.base import EXTENSIBLE, Count, Location, Settings, Share

IMAGENET, NO_IMAGES = "imagenet", "none"
BIASES = ("colored", "double_colored", "wildlife")
BIASED_SOURCES = ("digits", "mnist", "fashion_mnist")


class Images(Settings):
    """What the real images are.

    Attributes:
        source: `digits` (scikit-learn), `mnist` or `fashion_mnist`, which the bias protocol `variant` colours;
            `folder`, any folder of images; `imagenet`, folders of ImageNet's classes and their test sets; `none`: what
            needs real images is left out, and students imitate a teacher all the same; or `module:function`, code of
            yours that returns images and labels by split.
        bias_share: Of the coloured sources: share of the training images whose colours or textures follow their class;
            all others have those of other classes.
        masks: Of the coloured sources: keep the true masks, from which a teacher that is trained learns its shapes, and
            by which objects are cut out (`cutouts`). As published, generators find masks without.
        folder: Of the source `folder`: `<folder>/<split>/<class>/<image>`, and perhaps `<split>/metadata.csv`.
        folders: Of the source `imagenet`: `train` and `validation`, a folder per class named by its WordNet id;
            `cue_conflict` for the shape bias; `imagenet9` with `mixed_same`, `mixed_rand` and perhaps `original` for
            the background gap; `backgrounds_challenge`, the same archive with `original`, `fg_mask` and `only_bg_t`,
            for objects on every background; and further ones to measure accuracy on, by name, such as ImageNet-A or
            -Sketch.
            Where one of these lacks classes, only those that it has may be predicted. What is null (empty on the
            command line) is left out.
        image_size: Height and width to which images of a folder are brought.
        resize: Their shorter side before the middle is cut out; null takes `image_size`.
        skip_unreadable: Leave out files that cannot be read, rather than refuse the folder.
    """

    EXTENSIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {"source": ()}

    source: Annotated[Literal["digits", "mnist", "fashion_mnist", "folder", "imagenet", "none"], *EXTENSIBLE] = "digits"
    bias_share: Share = 1.0
    masks: bool = False
    folder: Location | None = None
    folders: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")], Location | None] = Field(default={})
    image_size: Count = 64
    resize: Count | None = None
    skip_unreadable: bool = False

    @model_validator(mode="after")
    def _folder_fits(self) -> Images:
        if (self.source == "folder") != (self.folder is not None):
            got = f"source '{self.source}' with folder {self.folder!r}"
            raise ValueError(f"'folder' names the images of the source 'folder', and of no other; got {got}")
        if (self.source == IMAGENET) != bool(self.folders):
            raise ValueError(f"'folders' names those of the source 'imagenet', and of no other; got '{self.source}'")
        if self.folders and not (self.folders.get("train") and self.folders.get("validation")):
            raise ValueError("'folders' needs 'train' and 'validation'")
        if (self.bias_share < 1 or self.masks) and not self.are_coloured:
            name = "masks" if self.masks else "bias_share"
            raise ValueError(f"'{name}' is of {', '.join(BIASED_SOURCES)}, not of the source '{self.source}'")
        of_folders = {name: getattr(self, name) for name in ("image_size", "resize", "skip_unreadable")}
        given = [name for name, value in of_folders.items() if value != type(self).model_fields[name].default]
        if given and self.source not in ("folder", IMAGENET):
            raise ValueError(f"'{given[0]}' is of folders of images, not of the source '{self.source}'")
        if self.resize is not None and self.resize < self.image_size:
            raise ValueError(f"'resize' must be at least 'image_size' ({self.image_size}), got {self.resize}")
        return self

    @property
    def are_coloured(self) -> bool:
        """Whether a bias protocol colours grey shapes."""
        return self.source in BIASED_SOURCES
