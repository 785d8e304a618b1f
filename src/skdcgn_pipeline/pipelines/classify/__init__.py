"""Train invariant classifiers."""

from skdcgn_pipeline.pipelines.classify.pipeline import create_originals, create_pipeline

__all__ = ["create_originals", "create_pipeline"]
