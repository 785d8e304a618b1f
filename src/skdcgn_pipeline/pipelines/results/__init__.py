"""Measure the students that come with the package."""

from skdcgn_pipeline.pipelines.results.pipeline import create_pipeline

__all__ = ["create_pipeline"]
