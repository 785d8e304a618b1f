"""Settings of the `sample` stage."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from skdcgn_pipeline.parameters.base import Count, Settings
from skdcgn_pipeline.parameters.classes import Classes


class ImageEncoding(Settings):
    """How images are stored inside shards.

    Attributes:
        encoding: `raw`, or each image by itself as `png`, `webp` or `jpeg`; a mask has one channel.
        quality: 1 to 100, of `jpeg` (null takes 95) and `webp` (null is lossless).
        encoding_threads: Images encoded at a time while the next are rendered; no byte depends on it.
    """

    encoding: Literal["raw", "png", "webp", "jpeg"] = "raw"
    quality: Annotated[int, Field(ge=1, le=100)] | None = None
    encoding_threads: Annotated[int, Field(gt=0, le=256)] = 4

    @model_validator(mode="after")
    def _quality_has_a_use(self) -> ImageEncoding:
        if self.quality is not None and self.encoding in ("raw", "png"):
            raise ValueError(f"'quality' belongs to encoding 'jpeg' or 'webp', got encoding '{self.encoding}'")
        return self

    @property
    def effective_quality(self) -> int | None:
        """The quality that is used; None where nothing is lost."""
        return 95 if self.encoding == "jpeg" and self.quality is None else self.quality

    @property
    def stored_as(self) -> dict[str, Any]:
        """What stored images depend on; nothing for `raw`."""
        return {} if self.encoding == "raw" else {"encoding": self.encoding, "quality": self.effective_quality}


class Sample(ImageEncoding):
    """Which samples are drawn from the teacher, and how their images are stored (`ImageEncoding`).

    Attributes:
        num_images_per_class: Rows per class; each row has the images of all three mechanisms.
        num_heldout_per_class: Further rows on other noise, never trained on, for the measures.
        rows_per_shard: Rows of one Parquet file, after which a run can be stopped.
        classes: Classes that are drawn: a list of numbers, a range ("0-99", or `first` and `last`), one number, or
            the name of a list in `class_lists`; null draws all.
        shard_range: [first, last): draw these shards alone, so that several processes or machines share the
            work; a run without it takes over what they made.
    """

    num_images_per_class: Count
    num_heldout_per_class: Count
    rows_per_shard: Count = 2000
    classes: Classes = None
    shard_range: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(gt=0)]] | None = None

    @field_validator("shard_range")
    @classmethod
    def _some_shard(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and value[0] >= value[1]:
            raise ValueError(f"[first, last) needs first below last, got {list(value)}")
        return value
