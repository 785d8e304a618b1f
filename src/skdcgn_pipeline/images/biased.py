"""Old names, until their users have moved."""

from __future__ import annotations

from pathlib import Path

from skdcgn_pipeline.artifacts.recipe import build_in
from skdcgn_pipeline.images.recipes import BiasedImagesRecipe
from skdcgn_pipeline.images.stored import StoredImages as BiasedImages
from skdcgn_pipeline.parameters import Prepare

__all__ = ["BiasedImages", "build_biased_images"]


def build_biased_images(store: Path, assets: str, settings: Prepare, variant: str, seed: int) -> BiasedImages:
    """Build a biased image set, or reuse it; `store` is the directory of its kind."""
    recipe = BiasedImagesRecipe(
        source=settings.source,
        variant=variant,
        assets=assets,
        copies=settings.copies,
        validation_fraction=settings.validation_fraction,
        binarise_threshold=settings.binarise_threshold,
        seed=seed,
    )
    return build_in(store, recipe)
