"""Where and how networks run."""

from __future__ import annotations

from typing import Literal

from skdcgn_pipeline.parameters.base import Precision, Settings

Device = Literal["auto", "cpu", "cuda", "mps"]


class Compute(Settings):
    """Where and how networks run.

    Attributes:
        device: `auto` takes cuda, then mps, then cpu.
        precision: `bf16` trains and measures networks in bfloat16 autocast and keeps weights in fp32.
        sampling_precision: The same for drawing samples, so that another precision of the trainings
            finds the samples that are there.
    """

    device: Device = "auto"
    precision: Precision = "fp32"
    sampling_precision: Precision = "fp32"

    def for_sampling(self) -> Compute:
        """Return how samples are drawn."""
        return self.model_copy(update={"precision": self.sampling_precision})
