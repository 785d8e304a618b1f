"""Compose counterfactuals."""

from skdcgn_pipeline.pipelines.compose.pipeline import create_pipeline

__all__ = ["create_pipeline"]
