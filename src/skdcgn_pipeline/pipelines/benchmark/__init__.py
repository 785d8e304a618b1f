"""Measure what teacher, students and data paths cost."""

from skdcgn_pipeline.pipelines.benchmark.pipeline import create_network_pipeline, create_pipeline

__all__ = ["create_network_pipeline", "create_pipeline"]
