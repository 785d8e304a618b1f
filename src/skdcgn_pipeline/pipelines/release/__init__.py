"""Make a release of the run's students."""

from skdcgn_pipeline.pipelines.release.pipeline import create_pipeline

__all__ = ["create_pipeline"]
