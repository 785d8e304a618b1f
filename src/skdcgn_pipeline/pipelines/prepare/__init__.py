"""Biased datasets and the feature network."""

from skdcgn_pipeline.pipelines.prepare.pipeline import create_pipeline

__all__ = ["create_pipeline"]
