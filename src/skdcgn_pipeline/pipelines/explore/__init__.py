"""Put what the explorer shows into one folder."""

from skdcgn_pipeline.pipelines.explore.pipeline import create_pipeline

__all__ = ["create_pipeline"]
