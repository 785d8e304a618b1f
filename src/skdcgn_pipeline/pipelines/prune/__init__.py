"""Remove what a data root no longer needs."""

from skdcgn_pipeline.pipelines.prune.pipeline import create_pipeline

__all__ = ["create_pipeline"]
