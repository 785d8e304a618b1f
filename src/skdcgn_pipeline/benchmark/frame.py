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
from typing import Any, NamedTuple, TypeVar

import pandas as pd
import torch
from torch import nn

from skdcgn_pipeline.mechanisms import CounterfactualGenerator
from skdcgn_pipeline.metrics.cost import measure_rates, take_turns, wait_for_device
from skdcgn_pipeline.networks.interface import check_same_interface
from skdcgn_pipeline.parameters import Benchmark, Compute, Distill, Precision
from skdcgn_pipeline.runtime import progress
from skdcgn_pipeline.runtime.compute import autocast, choose_device
from skdcgn_pipeline.runtime.errors import InterruptedRunError
from skdcgn_pipeline.runtime.progress import without_progress
from skdcgn_pipeline.runtime.seeding import torch_generator
from skdcgn_pipeline.runtime.threads import computing_on
from skdcgn_pipeline.students.trio import StudentCGN

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


@dataclass(frozen=True)
class Networks:
    """Teacher and students that are timed, at the settings of a run.

    Attributes:
        teacher: Any teacher.
        students: Students of its interface.
        distill: How the student of each mechanism is distilled.
        settings: Sizes of the measurements.
        seed: Base seed.
        compute: Device and precision.
    """

    teacher: CounterfactualGenerator
    students: StudentCGN
    distill: Mapping[str, Distill]
    settings: Benchmark
    seed: int
    compute: Compute

    @property
    def device(self) -> torch.device:
        """Where networks run."""
        return choose_device(self.compute.device)


NetworksT = TypeVar("NetworksT", bound=Networks)


def tabulate(
    measures: Mapping[str, Callable[[NetworksT], list[Row]]], networks: NetworksT, arguments: Sequence[str] = ()
) -> pd.DataFrame:
    """Measure every group, or the one that the settings name.

    Args:
        measures: What to measure, by group.
        networks: What is timed.
        arguments: The command line that runs this, from which each row's command is made.

    Returns:
        A row per measurement, with `COLUMNS`: those of `Row`, `threads`, the `command` that measures
        the row's group again, `machine` and `versions`. Rows of the published code say so in `what`.

    Raises:
        SettingError: If the students are not of this teacher's interface.
        InterruptedRunError: If a stop was requested.
    """
    check_same_interface(networks.teacher, networks.students)
    machine, settings = describe_machine(networks.device), networks.settings
    rows = []
    with computing_on(settings.num_threads), without_progress():
        for group, measure in measures.items():
            if settings.only not in (None, group):
                continue
            origin = {"threads": torch.get_num_threads(), "command": command_of(arguments, group), **machine}
            for row in measure(networks):
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
    # The command line tool, or `python -m kedro`.
    of_kedro = arguments and "kedro" in (Path(arguments[0]).name, Path(arguments[0]).parent.name)
    words = ["kedro", *(arguments[1:] if of_kedro else ["run", "--pipelines", "benchmark"])]
    only = f"benchmark.only={group}"
    params = [number + (word == "--params") for number, word in enumerate(words) if word.split("=")[0] == "--params"]
    if params and only not in words[params[0]]:
        words[params[0]] += f",{only}"
    return shlex.join(words if params else [*words, "--params", only])


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


def seconds(call: Callable[[], object]) -> float:
    """Return how long a call takes, the GPU's part included.

    Raises:
        InterruptedRunError: If a stop was requested.
    """
    if progress.stop_requested():
        raise InterruptedRunError("benchmark: stopped. Repeat the same command to measure from the start.")
    wait_for_device()
    start = time.perf_counter()
    call()
    wait_for_device()
    return time.perf_counter() - start


def rate_of(step: Callable[[int], object], steps: range) -> float:
    """Return how many steps are done per second; raises as `seconds`."""

    def run() -> None:
        for number in steps:
            step(number)

    return len(steps) / seconds(run)


def seconds_of(calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Return the median seconds of five turns of each call; raises as `seconds`."""
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


def render_batch(
    generator: CounterfactualGenerator,
    batch_size: int,
    precision: Precision,
    compute: Compute,
    device: torch.device,
    seed: int,
) -> Callable[[], Any]:
    """Return what renders one batch with a generator: a network is moved to the device, others take CPU noise."""
    place = device if isinstance(generator, nn.Module) else torch.device("cpu")
    if isinstance(generator, nn.Module):
        generator.to(device)
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


def measure_renderings(renderings: Sequence[Rendering], networks: Networks) -> list[Row]:
    """Measure images/s of all three mechanisms by batch size, and the GPU memory that it takes.

    A batch that the memory of a GPU cannot hold is left out and told. Students should be `FASTER`.

    Args:
        renderings: The first is the teacher's.
        networks: Whose settings count.
    """
    reference, device = renderings[0].name, networks.device
    rates: dict[str, list[Row]] = {rendering.name: [] for rendering in renderings}
    memory: list[Row] = []
    for batch_size in networks.settings.batch_sizes:
        calls = {}
        for name, _, generator, precision in renderings:
            call = render_batch(generator, batch_size, precision, networks.compute, device, networks.seed)
            try:
                forget_gpu_memory()
                with torch.inference_mode():
                    call()
            except torch.OutOfMemoryError:
                logger.warning("%s: no memory for a batch of %d", name, batch_size)
                continue
            calls[name] = call
            row = Row("throughput", f"{name}, peak GPU memory", 0.0, "GB", batch_size, precision)
            memory += gpu_memory(row, device)
        measured = measure_rates(calls, batch_size)
        for name, _, _, precision in renderings:
            if name in measured:
                row = Row("throughput", name, measured[name], "images/s", batch_size, precision)
                if name != reference and measured.get(reference):
                    row = row.compared(row.value / measured[reference], f"{reference}, same batch size")
                rates[name].append(row)
    return [*(row for rows in rates.values() for row in rows), *memory, *_best_of(renderings, rates)]


def _best_of(renderings: Sequence[Rendering], rates: Mapping[str, Sequence[Row]]) -> list[Row]:
    """Return the fastest row of each role, compared with the teacher's, which is the first."""
    best: dict[str, Row] = {}
    for name, role, _, _ in renderings:
        for row in rates[name]:
            if role not in best or row.value > best[role].value:
                best[role] = replace(row, what=f"{role}, {BEST}", ratio=None, reference="")
    first = renderings[0].role
    for role, row in best.items():
        if role != first and first in best:
            target = FASTER if role == "students" else None
            best[role] = row.compared(row.value / best[first].value, best[first].what, target)
    return [*best.values()]


def forget_gpu_memory() -> None:
    """Measure the peak of the GPU's memory from here on."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def gpu_memory(row: Row, device: torch.device) -> list[Row]:
    """Return a row in GB with the peak of the GPU's memory as its value; nothing elsewhere."""
    return [replace(row, value=torch.cuda.max_memory_allocated(device) / 1e9)] if device.type == "cuda" else []
