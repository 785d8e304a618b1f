"""The frame of the benchmarks: rows that say what they compare with and how to measure them again.

Everything is timed in one process, in turns, and the median of five repeats counts. The numbers of the
published code are the only ones that are not measured here; they are told as references.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from skdcgn_pipeline.metrics.cost import measure_rates
from skdcgn_pipeline.runtime import progress
from skdcgn_pipeline.runtime.errors import InterruptedRunError

PUBLISHED = "published code (published, not measured here)"
BEST = "best batch size"
BF16_UNITS = {"avx512_bf16", "amx_bf16", "bf16", "sve_bf16"}  # as Linux calls them on x86 and ARM
PROCESS = Path("/proc/self")


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        group: Which part of the benchmark.
        what: What was measured; unique in its group and batch size.
        value: The median.
        unit: Of the value.
        batch_size: Where there is one.
        precision: Of the networks; empty where none runs.
        ratio: To the reference; above 1 is better than it.
        reference: What the ratio compares with.
        target: What is aimed at, in words; empty where nothing is.
        met: Whether the target is met.
    """

    group: str
    what: str
    value: float
    unit: str
    batch_size: int | None = None
    precision: str = ""
    ratio: float | None = None
    reference: str = ""
    target: str = ""
    met: bool | None = None

    def compared(self, ratio: float, reference: str, at_least: float | None = None) -> Row:
        """Return it with how many times as good as a reference it is, and how many times it should be."""
        aim: dict[str, Any] = {} if at_least is None else {"target": f">= {at_least:g}x", "met": ratio >= at_least}
        return replace(self, ratio=ratio, reference=reference, **aim)

    def at_most(self, bound: float) -> Row:
        """Return it with the bound that its value should keep."""
        return replace(self, target=f"<= {bound:g} {self.unit}", met=self.value <= bound)


COLUMNS = [*(field.name for field in fields(Row)), "threads", "command", "machine", "versions"]


def benchmark_metrics(table: pd.DataFrame) -> dict[str, float]:
    """Return what was measured, as metrics `benchmark/<group>/<what>`, with `/ratio` where there is one."""
    metrics = {}
    for row in table.to_dict("records"):
        name = re.sub(r"[^a-z0-9]+", "_", str(row["what"]).lower()).strip("_")
        if row["group"] == "throughput" and "best" not in name:
            name += f"/batch_{row['batch_size']}"
        metrics[f"benchmark/{row['group']}/{name}"] = float(row["value"])
        if pd.notna(row["ratio"]):
            metrics[f"benchmark/{row['group']}/{name}/ratio"] = float(row["ratio"])
    return metrics


def describe_machine(device: torch.device) -> dict[str, str]:
    """Return `machine` (processor, cores, and the GPU if it is one) and `versions`."""
    model = next(iter(_cpu_info("model name")), "") or platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    machine = f"{model}, {cores} cores"
    if device.type != "cpu":
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        machine = f"{name}; {machine}"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return {"machine": machine, "versions": f"{versions}, skdcgn_pipeline {metadata.version('skdcgn_pipeline')}"}


def has_bf16_units(device: torch.device) -> bool:
    """Tell whether a device multiplies bfloat16 in hardware; False where it cannot be told."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    flags = {flag for line in (*_cpu_info("flags"), *_cpu_info("Features")) for flag in line.split()}
    return device.type == "cpu" and bool(flags & BF16_UNITS)


def _cpu_info(key: str) -> list[str]:
    """Return what Linux says about the processors under a key; nothing elsewhere."""
    path = Path("/proc/cpuinfo")
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return re.findall(rf"^{key}\s*: (.*\S)", text, re.MULTILINE)


# --- measuring -----------------------------------------------------------------------------------


def rates_of(calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Return how often per second each call can be made, see `measure_rates`; calls may train networks.

    Raises:
        InterruptedRunError: If a stop was requested.
    """

    def heard(call: Callable[[], object]) -> None:
        if progress.stop_requested():
            raise InterruptedRunError("benchmark: stopped. Repeat the same command to measure from the start.")
        with torch.inference_mode(False):
            call()

    return measure_rates({name: partial(heard, call) for name, call in calls.items()}, 1)


def peak_growth(call: Callable[[], object]) -> int | None:
    """Return by how many bytes the memory of this process grows at most during a call; None where it is not told."""
    try:
        (PROCESS / "clear_refs").write_text("5")  # the peak is counted from here on
        before = _status_bytes("VmRSS")
    except OSError:
        call()
        return None
    call()
    return max(0, _status_bytes("VmHWM") - before)


def _status_bytes(name: str) -> int:
    lines = (PROCESS / "status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def peak_gpu_row(row: Row, call: Callable[[], object], device: torch.device) -> list[Row]:
    """Make a call and return a row with the peak of the GPU's memory in GB as its value; no row elsewhere."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    call()
    return [replace(row, value=torch.cuda.max_memory_allocated(device) / 1e9)] if on_gpu else []
