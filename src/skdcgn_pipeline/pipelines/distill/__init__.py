"""Distil one student per mechanism."""

from skdcgn_pipeline.pipelines.distill.pipeline import create_pipeline

__all__ = ["create_pipeline"]
