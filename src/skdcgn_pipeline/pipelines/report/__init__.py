"""Put the run into one page."""

from skdcgn_pipeline.pipelines.report.pipeline import create_pipeline

__all__ = ["create_pipeline"]
