"""Image sets and the feature network."""

from skdcgn_pipeline.pipelines.prepare.pipeline import create_images, create_pipeline

__all__ = ["create_images", "create_pipeline"]
