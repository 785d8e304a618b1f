"""What a generator costs: parameters, multiply-accumulates, speed, GPU memory; measured whenever it is asked for."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from skdcgn_pipeline.mechanisms import CounterfactualGenerator
from skdcgn_pipeline.runtime.compute import choose_device, on_device
from skdcgn_pipeline.runtime.seeding import torch_generator
from skdcgn_pipeline.vocabulary import MECHANISMS

NUM_REPEATS = 5
SECONDS_PER_REPEAT = 0.3
COST_COLUMNS = [f"{role}_{cost}" for cost in ("parameters", "macs", "images_per_s") for role in ("teacher", "student")]


def count_parameters(module: Any) -> int | None:
    """Return the number of parameters; None for what is no module."""
    return sum(parameter.numel() for parameter in module.parameters()) if isinstance(module, nn.Module) else None


def count_macs(render: Callable[[], Any]) -> int | None:
    """Return the multiply-accumulates of one call's convolutions and matrix products.

    None where nothing could be counted, as inside a compiled program.
    """
    from torch.utils.flop_counter import FlopCounterMode  # brings Triton

    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        render()
    return counter.get_total_flops() // 2 or None


def measure_rates(
    calls: Mapping[str, Callable[[], Any]], images_per_call: float, seconds: float | None = None
) -> dict[str, float]:
    """Measure images per second of several calls, taking turns in one process.

    Args:
        calls: What to time, after a first call of each; each renders `images_per_call` images.
        images_per_call: Batch size.
        seconds: That a turn takes, by default `SECONDS_PER_REPEAT`; at least one call.

    Returns:
        The median of five turns each, in images per second.
    """
    enough = SECONDS_PER_REPEAT if seconds is None else seconds

    def rate(call: Callable[[], Any]) -> float:
        number, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < enough or not number:
            call()
            number += 1
            wait_for_device()
        return number * images_per_call / elapsed if elapsed else 0.0

    for call in calls.values():
        call()
    with torch.inference_mode():
        turns = [{name: rate(call) for name, call in calls.items()} for _ in range(NUM_REPEATS)]
    return {name: statistics.median(turn[name] for turn in turns) for name in calls}


def peak_gpu_bytes(network: nn.Module, render: Callable[[], Any]) -> int | None:
    """Return the GPU memory that a network there needs to render once, weights included; None without a GPU.

    Other tensors on the GPU do not count.
    """
    if not torch.cuda.is_available():
        return None
    render()  # libraries reserve their workspace in a first call
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    with torch.inference_mode():
        render()
    torch.cuda.synchronize()
    weights = sum(t.numel() * t.element_size() for t in network.state_dict().values() if t.is_cuda)
    return torch.cuda.max_memory_allocated() - before + weights


def wait_for_device() -> None:
    """Wait until the GPU, if there is one, has done what it was asked to."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def render_call(
    generator: CounterfactualGenerator, mechanism: str | None, noise: Tensor, labels: Tensor
) -> Callable[[], Any] | None:
    """Return a call that renders one mechanism, or all for None.

    A generator that cannot render one mechanism alone gives None.
    """
    if mechanism is None:
        return lambda: generator.render(noise, labels)
    if not hasattr(generator, "render_mechanism"):
        return None
    return lambda: generator.render_mechanism(mechanism, noise, labels)


def measure_costs(
    teacher: CounterfactualGenerator, students: Any, batch_size: int, device: str = "cpu", seconds: float | None = None
) -> pd.DataFrame:
    """Measure what students and teacher cost, in one process and on one device, a value of `compute.device`.

    A teacher that is no network renders where it likes, of noise on the CPU, and the students beside it. `seconds` are
    those of `measure_rates`.

    Returns:
        A row per mechanism and one for `all`: `mechanism` and `COST_COLUMNS`, multiply-accumulates per image; empty
        where a teacher cannot tell. On a GPU also the bytes that each needs for a batch, of `all`.
    """
    fused = students.fused()
    with on_device(choose_device(device), teacher, students, fused) as place:
        noise = torch.randn(batch_size, teacher.noise_dim, generator=torch_generator(0, "cost")).to(place)
        labels = (torch.arange(batch_size) % teacher.num_classes).to(place)
        # What fused students compute cannot be counted.
        generators, timed = ({"teacher": teacher, "student": own} for own in (students, fused))
        rows = [_costs_of(generators, timed, mechanism, noise, labels, seconds) for mechanism in (*MECHANISMS, None)]
        table = pd.DataFrame(rows, columns=["mechanism", *COST_COLUMNS])
        if place.type == "cuda":
            for role, generator in timed.items():
                peak = peak_gpu_bytes(generator, partial(generator.render, noise, labels))
                table.loc[table["mechanism"] == "all", f"{role}_gpu_bytes"] = peak
    return table


def untimed(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table without what a machine's load and size decide: what may be kept in a card."""
    return table.loc[:, [name for name in table.columns if not str(name).endswith(("images_per_s", "gpu_bytes"))]]


def _costs_of(
    generators: dict[str, Any],
    timed: dict[str, Any],
    mechanism: str | None,
    noise: Tensor,
    labels: Tensor,
    seconds: float | None,
) -> dict[str, Any]:
    """Return a row of the costs of a mechanism, or of all for None."""
    row: dict[str, Any] = {"mechanism": mechanism or "all"}
    calls = {}
    for role, generator in generators.items():
        network = generator
        if mechanism is not None:
            network = generator.network_of(mechanism) if hasattr(generator, "network_of") else None
        call = render_call(generator, mechanism, noise, labels)
        macs = None if call is None else count_macs(call)
        row |= {f"{role}_parameters": count_parameters(network), f"{role}_macs": macs and macs // len(noise)}
        if (call := render_call(timed[role], mechanism, noise, labels)) is not None:
            calls[role] = call
    rates = measure_rates(calls, len(noise), seconds)
    return row | {f"{role}_images_per_s": rates.get(role) for role in generators}


def comparison_metrics(table: pd.DataFrame) -> dict[str, float]:
    """Return the numbers of a comparison of students with their teacher by name, such as `shape/mask_iou`."""
    numbers = table.set_index("mechanism").select_dtypes("number")
    return {f"{mechanism}/{name}": value for mechanism, row in numbers.iterrows() for name, value in row.items()}
