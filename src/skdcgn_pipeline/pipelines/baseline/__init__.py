"""The control without distillation: students trained end to end inside a CGN."""

from skdcgn_pipeline.pipelines.baseline.pipeline import create_pipeline

__all__ = ["create_pipeline"]
