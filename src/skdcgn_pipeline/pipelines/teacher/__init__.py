"""Train a CGN to distil from."""

from skdcgn_pipeline.pipelines.teacher.pipeline import create_pipeline

__all__ = ["create_pipeline"]
