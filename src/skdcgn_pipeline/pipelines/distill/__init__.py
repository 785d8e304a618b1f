"""Distil the three mechanisms."""

from skdcgn_pipeline.pipelines.distill.pipeline import create_comparison, create_pipeline

__all__ = ["create_comparison", "create_pipeline"]
