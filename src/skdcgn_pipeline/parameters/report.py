"""Settings of the `report` stage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from skdcgn_pipeline.parameters.base import Count, Positive, Settings


class GenerationMetrics(Settings):
    """How generated images are measured: FID, IS and masks (`metrics.generation`).

    Attributes:
        network: In whose features: `feature_network`, the run's digit classifier, or `inception`, whose weights
            are looked for in the asset folder.
        num_splits: Of the images for IS.
    """

    network: Literal["feature_network", "inception"] = "feature_network"
    num_splits: Count = 10


class Report(Settings):
    """What the report shows.

    Attributes:
        num_examples: Columns of the picture sheets.
        benchmark_batch_size: Batch size at which images/s of teacher and student are measured.
        benchmark_seconds: How long each of five turns lasts in which images/s are measured.
        generation_metrics: How composites of teacher and students are measured.
    """

    num_examples: Annotated[int, Field(gt=0, le=40)] = 10
    benchmark_batch_size: Count = 64
    benchmark_seconds: Positive = 0.3
    generation_metrics: GenerationMetrics = GenerationMetrics()
