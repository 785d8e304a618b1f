"""Old names, until their users have moved."""

from __future__ import annotations

from pathlib import Path

from skdcgn_pipeline.artifacts.recipe import build_in
from skdcgn_pipeline.images.recipes import image_set_recipe
from skdcgn_pipeline.images.stored import StoredImages as BiasedImages
from skdcgn_pipeline.parameters import Images, Prepare

__all__ = ["BiasedImages", "build_biased_images"]


def build_biased_images(store: Path, assets: str, settings: Prepare, variant: str, seed: int) -> BiasedImages:
    """Build the biased digits, or reuse them; `store` is the directory of their kind."""
    return build_in(store, image_set_recipe(Images(), settings, variant, assets, seed))
