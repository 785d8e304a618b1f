"""Take students and classifier away: files for other programs, and models that MLflow serves."""

from skdcgn_pipeline.pipelines.export.pipeline import create_pipeline

__all__ = ["create_pipeline"]
