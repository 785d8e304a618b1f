"""What the real images of a run are."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from skdcgn_pipeline.parameters.base import Count, Settings

BIASES = ("colored", "double_colored", "wildlife")
BIASED_SOURCES = ("digits", "mnist", "fashion_mnist")


class Images(Settings):
    """What the real images are.

    Attributes:
        source: `digits` (scikit-learn), `mnist` or `fashion_mnist`, which the bias protocol `variant` colours;
            `folder`, any folder of images; or `imagenet`, whose folders the `ensemble` stage reads.
        folder: Of the source `folder`: `<folder>/<split>/<class>/<image>`, and perhaps `<split>/metadata.csv`.
        image_size: Height and width to which images of a folder are brought.
        resize: Their shorter side before the middle is cut out; null takes `image_size`.
        skip_unreadable: Leave out files that cannot be read, rather than refuse the folder.
    """

    source: Literal["digits", "mnist", "fashion_mnist", "folder", "imagenet"] = "digits"
    folder: str | None = None
    image_size: Count = 64
    resize: Count | None = None
    skip_unreadable: bool = False

    @model_validator(mode="after")
    def _folder_fits(self) -> Images:
        if (self.source == "folder") != (self.folder is not None):
            got = f"source '{self.source}' with folder {self.folder!r}"
            raise ValueError(f"'folder' names the images of the source 'folder', and of no other; got {got}")
        if self.resize is not None and self.resize < self.image_size:
            raise ValueError(f"'resize' must be at least 'image_size' ({self.image_size}), got {self.resize}")
        return self
