"""Settings of the `benchmark` stage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from skdcgn_pipeline.parameters.base import Count, Settings

BenchmarkGroup = Literal["throughput", "sampling", "composition", "bias", "classifier", "distillation"]


class Benchmark(Settings):
    """How much is done to measure what things cost; every number is the median of five repeats.

    Attributes:
        networks: Of the `run`, with its samples, classifiers and data paths; or `random` ones of the settings'
            architectures, which need nothing else: an ImageNet CGN and students of it.
        random_size: Of the random teacher: `deep_256`, as published, or `miniature`.
        only: Measure this group alone; null measures all.
        num_threads: Threads of torch while measuring.
        batch_sizes: At which teacher and students render.
        num_images_per_class: Rows per class that are drawn into a store.
        num_counterfactuals: Composed into one array.
        num_biased_images: Put through the bias protocol.
        num_classifier_images: Training images of each classifier; at least two batches are taken.
        num_distillation_steps: Steps of each distillation.
    """

    networks: Literal["run", "random"] = "run"
    random_size: Literal["deep_256", "miniature"] = "deep_256"
    only: BenchmarkGroup | None = None
    num_threads: Annotated[int, Field(gt=0, le=1024)] = 2
    batch_sizes: Annotated[tuple[Count, ...], Field(min_length=1)] = (16, 32, 64, 128, 256)
    num_images_per_class: Count = 200
    num_counterfactuals: Count = 100_000
    num_biased_images: Count = 60_000
    num_classifier_images: Count = 12800
    num_distillation_steps: Annotated[int, Field(ge=2)] = 100

    @model_validator(mode="after")
    def _group_of_the_networks(self) -> Benchmark:
        if self.networks == "random" and self.only in ("sampling", "composition", "bias", "classifier"):
            raise ValueError(f"'only: {self.only}' is not measured with 'networks: random'")
        return self

    @field_validator("batch_sizes")
    @classmethod
    def _all_different(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"each batch size is measured once, got {list(value)}")
        return value
