"""Train the invariant ensembles of ImageNet and measure them."""

from skdcgn_pipeline.pipelines.ensemble.pipeline import create_pipeline

__all__ = ["create_pipeline"]
