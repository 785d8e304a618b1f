"""The frame of the benchmarks: rows that say what they compare with and how to measure them again.

Everything is timed in one process, in turns, and the median of five repeats counts. The numbers of the
published code are the only ones that are not measured here, and their rows say so.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import nn

from skdcgn_pipeline.mechanisms import CounterfactualGenerator
from skdcgn_pipeline.metrics.cost import measure_rates, take_turns, wait_for_device
from skdcgn_pipeline.parameters import Benchmark, Compute, Precision
from skdcgn_pipeline.runtime import progress
from skdcgn_pipeline.runtime.compute import autocast
from skdcgn_pipeline.runtime.errors import InterruptedRunError
from skdcgn_pipeline.runtime.progress import without_progress
from skdcgn_pipeline.runtime.seeding import torch_generator
from skdcgn_pipeline.runtime.threads import computing_on

PUBLISHED = "published code (published, not measured here)"
BEST = "best batch size"
FASTER = 10  # students than their teacher, each at its best batch size
BF16_UNITS = {"avx512_bf16", "amx_bf16", "bf16", "sve_bf16"}  # as Linux calls them on x86 and ARM
PROCESS = Path("/proc/self")

logger = logging.getLogger(__name__)


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


def tabulate(
    measures: Mapping[str, Callable[[], list[Row]]],
    settings: Benchmark,
    device: torch.device,
    arguments: Sequence[str] = (),
) -> pd.DataFrame:
    """Measure every group, or the one that the settings name.

    Args:
        measures: What to measure, by group.
        settings: Sizes of the measurements.
        device: Where networks run.
        arguments: The command line that runs this, from which each row's command is made.

    Returns:
        A row per measurement, with `COLUMNS`: those of `Row`, `threads`, the `command` that measures
        the row's group again, `machine` and `versions`. Rows of the published code say so in `what`.

    Raises:
        InterruptedRunError: If a stop was requested.
    """
    machine = describe_machine(device)
    rows = []
    with computing_on(settings.num_threads), without_progress():
        for group, measure in measures.items():
            if settings.only not in (None, group):
                continue
            origin = {"threads": torch.get_num_threads(), "command": command_of(arguments, group), **machine}
            for row in measure():
                rows.append(asdict(row) | origin | ({"threads": None, "command": ""} if PUBLISHED in row.what else {}))
                logger.info("%s: %s: %.4g %s", row.group, row.what, row.value, row.unit)
    types = {"batch_size": "Int64", "threads": "Int64", "ratio": "float64", "met": "boolean"}
    return pd.DataFrame(rows, columns=COLUMNS).astype(types)


def benchmark_metrics(table: pd.DataFrame) -> dict[str, float]:
    """Return what was measured, as metrics `benchmark/<group>/<what>`, with `/ratio` where there is one."""
    metrics = {}
    for row in table[~table["what"].str.contains(PUBLISHED, regex=False)].to_dict("records"):
        name = re.sub(r"[^a-z0-9]+", "_", str(row["what"]).lower()).strip("_")
        if row["group"] == "throughput" and "best" not in name:
            name += f"/batch_{row['batch_size']}"
        metrics[f"benchmark/{row['group']}/{name}"] = float(row["value"])
        if pd.notna(row["ratio"]):
            metrics[f"benchmark/{row['group']}/{name}/ratio"] = float(row["ratio"])
    return metrics


def command_of(arguments: Sequence[str], group: str) -> str:
    """Return the command that measures one group again.

    Args:
        arguments: The command line of this run; another program's is not repeated.
        group: Which part of the benchmark.
    """
    words = ["run", "--pipelines", "benchmark"]
    # The command line tool, or `python -m kedro`.
    if arguments and "kedro" in (Path(arguments[0]).name, Path(arguments[0]).parent.name):
        words = list(arguments[1:])
    only = f"benchmark.only={group}"
    if any(only in word for word in words):
        return shlex.join(["kedro", *words])
    for number, word in enumerate(words):
        if word == "--params" and number + 1 < len(words):
            words[number + 1] += f",{only}"
            break
        if word.startswith("--params="):
            words[number] += f",{only}"
            break
    else:
        words += ["--params", only]
    return shlex.join(["kedro", *words])


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
    if not path.is_file():
        return []
    lines = (line.partition(":") for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
    return [value.strip() for name, _, value in lines if name.strip() == key]


# --- measuring -----------------------------------------------------------------------------------


def seconds_of(calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Return the median seconds of five turns of each call, the GPU's part included.

    Raises:
        InterruptedRunError: If a stop was requested.
    """

    def seconds(call: Callable[[], object]) -> float:
        if progress.stop_requested():
            raise InterruptedRunError("benchmark: stopped. Repeat the same command to measure from the start.")
        wait_for_device()
        start = time.perf_counter()
        call()
        wait_for_device()
        return time.perf_counter() - start

    return take_turns({name: partial(seconds, call) for name, call in calls.items()})


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


def home_of(generator: CounterfactualGenerator, device: torch.device) -> torch.device:
    """Move a network to a device; what is no network takes its noise on the CPU. Returns where it is."""
    if not isinstance(generator, nn.Module):
        return torch.device("cpu")
    generator.to(device)
    return device


def render_batch(
    generator: CounterfactualGenerator,
    batch_size: int,
    precision: Precision,
    compute: Compute,
    device: torch.device,
    seed: int,
) -> Callable[[], Any]:
    """Return what renders one batch with a generator, which is moved to the device."""
    place = home_of(generator, device)
    random = torch_generator(seed, "benchmark-throughput", batch_size)
    noise = torch.randn(batch_size, generator.noise_dim, generator=random).to(place)
    labels = (torch.arange(batch_size) % generator.num_classes).to(place)
    compute = compute.model_copy(update={"precision": precision})

    def call() -> Any:
        with autocast(compute, place):
            return generator.render(noise, labels)

    return call


class Rendering(NamedTuple):
    """A way to render images.

    Attributes:
        name: What the table calls it.
        role: Of whose ways the fastest is compared: `teacher`, `students` ...
        generator: Whose images.
        precision: Of the networks.
    """

    name: str
    role: str
    generator: CounterfactualGenerator
    precision: Precision


def measure_renderings(
    renderings: Sequence[Rendering], batch_sizes: Sequence[int], compute: Compute, device: torch.device, seed: int
) -> list[Row]:
    """Measure images/s of all three mechanisms by batch size, and the GPU memory that it takes.

    A batch that the memory of a GPU cannot hold is left out and told. Students should be `FASTER`.

    Args:
        renderings: The first is the teacher's.
        batch_sizes: Each is measured once.
        compute, device: Where networks run.
        seed: Of the noise.
    """
    reference = renderings[0].name
    rates: dict[str, list[Row]] = {rendering.name: [] for rendering in renderings}
    memory: list[Row] = []
    for batch_size in batch_sizes:
        calls = {}
        for name, _, generator, precision in renderings:
            call = render_batch(generator, batch_size, precision, compute, device, seed)
            try:
                forget_gpu_memory()
                with torch.inference_mode():
                    call()
            except torch.OutOfMemoryError:
                logger.warning("%s: no memory for a batch of %d", name, batch_size)
                continue
            calls[name] = call
            row = Row("throughput", name, 0.0, "images/s", batch_size, precision)
            memory += gpu_memory(replace(row, what=f"{name}, peak GPU memory"), device)
            rates[name].append(row)
        measured = measure_rates(calls, batch_size)
        for name in calls:
            row = replace(rates[name][-1], value=measured[name])
            same_size = measured.get(reference)
            if name != reference and same_size:
                row = row.compared(row.value / same_size, f"{reference}, same batch size")
            rates[name][-1] = row
    return [*(row for rows in rates.values() for row in rows), *memory, *_best_of(renderings, rates)]


def _best_of(renderings: Sequence[Rendering], rates: Mapping[str, list[Row]]) -> list[Row]:
    """Return the fastest row of each role, compared with the teacher's."""
    best: dict[str, Row] = {}
    for rendering in renderings:
        rows = [*rates[rendering.name], *([best[rendering.role]] if rendering.role in best else [])]
        if rows:
            best[rendering.role] = max(rows, key=lambda row: row.value)
    first = renderings[0].role
    summary = []
    for role, row in best.items():
        row = replace(row, what=f"{role}, {BEST}", ratio=None, reference="")
        if role != first and first in best:
            row = row.compared(
                row.value / best[first].value, f"{first}, {BEST}", FASTER if role == "students" else None
            )
        summary.append(row)
    return summary


def forget_gpu_memory() -> None:
    """Measure the peak of the GPU's memory from here on."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def gpu_memory(row: Row, device: torch.device) -> list[Row]:
    """Return a row with the peak of the GPU's memory as its value; nothing elsewhere."""
    if device.type != "cuda":
        return []
    return [replace(row, value=torch.cuda.max_memory_allocated(device) / 1e9, unit="GB")]
