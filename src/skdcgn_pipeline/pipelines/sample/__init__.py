"""Draw samples from the teacher."""

from skdcgn_pipeline.pipelines.sample.pipeline import create_pipeline

__all__ = ["create_pipeline"]
