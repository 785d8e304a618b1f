"""Where independent units of work run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from skdcgn_pipeline.parameters.base import Settings

MOST_WORKERS = 256


class EngineSettings(Settings):
    """Where independent units of work run; no result depends on it.

    Attributes:
        name: `local` works in this process, `processes` runs cells of the ablation in processes of their own,
            `ray` cells, shards of samples, distillations and classifiers in workers of Ray.
        workers: Units that are worked on at a time by `processes` and `ray`; 1 with `processes` is `local`.
        address: The Ray cluster to join, `auto` or `host:port`; null starts a Ray on this machine for the run.
        cpus_per_unit: Processors that Ray keeps for a unit; it computes on as many threads as here, whatever is kept.
        gpus_per_unit: GPUs that Ray keeps for a unit; a fraction lets several units share one, 0 hides them.
    """

    name: Literal["local", "processes", "ray"] = "local"
    workers: Annotated[int, Field(gt=0, le=MOST_WORKERS)] = 2
    address: Annotated[str, Field(min_length=1)] | None = None
    cpus_per_unit: Annotated[float, Field(gt=0, le=MOST_WORKERS, allow_inf_nan=False)] = 1.0
    gpus_per_unit: Annotated[float, Field(ge=0, le=16, allow_inf_nan=False)] = 0.0

    @model_validator(mode="after")
    def _what_ray_alone_reads(self) -> EngineSettings:
        for name in ("address", "cpus_per_unit", "gpus_per_unit"):
            if self.name != "ray" and (value := getattr(self, name)) != type(self).model_fields[name].default:
                raise ValueError(f"{name} belongs to engine.name 'ray', got {value!r} with {self.name!r}")
        return self
