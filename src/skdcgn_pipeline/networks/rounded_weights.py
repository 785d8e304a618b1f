"""Weights rounded to few bits each, for files a fifth of the size; networks compute in float32 as ever.

Matrices and filters are whole multiples of one scale per row, which makes the squared error of the row small. Tables of
classes are few numbers on which much depends, so float16; biases and statistics stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skdcgn_pipeline.runtime.errors import SettingError

BITS = range(3, 9)
ROUNDED, SCALES, TABLES, PLAIN, COUNTS, NUM_BITS = "rounded", "scales", "tables", "plain", "counts", "bits"
# How far beyond its ends a row may be cut, as shares of its largest value.
_SHARES = torch.linspace(0.4, 1, 25)


def round_state(network: nn.Module, bits: int) -> dict[str, Tensor]:
    """Return a network's tensors rounded, as a few long ones without names: `restore_state` knows whose they are.

    Args:
        network: The network.
        bits: Of each number of the matrices and filters.

    Raises:
        SettingError: If so few or many bits are not meant, or a table's number is beyond float16.
    """
    if isinstance(bits, bool) or bits not in BITS:
        expected = f"{BITS[0]} to {BITS[-1]} bits, or none for float32"
        raise SettingError("bits", expected, bits, "Choose how many bits a weight may have.")
    parts: dict[str, list[Tensor]] = {ROUNDED: [], SCALES: [], TABLES: [], PLAIN: [], COUNTS: []}
    kinds = _kinds_of(network)
    for name, tensor in network.state_dict().items():
        kind, tensor = kinds[name], tensor.detach().cpu()
        if kind == ROUNDED:
            steps, scales = _round_rows(tensor.float().flatten(1), 2 ** (bits - 1) - 1)
            parts[ROUNDED].append(steps.flatten())
            parts[SCALES].append(scales)
        else:
            parts[kind].append(tensor.flatten())
    types = {SCALES: torch.bfloat16, TABLES: torch.float16, PLAIN: torch.float32, COUNTS: torch.int64}
    state = {kind: _joined(parts[kind]).to(dtype) for kind, dtype in types.items()}
    if not state[TABLES].isfinite().all():
        got = f"{_joined(parts[TABLES]).abs().max().item():g}"
        raise SettingError("bits", "class tables within float16", got, "Save in float32, without bits.")
    state[ROUNDED] = _packed(_joined(parts[ROUNDED]).long(), bits)
    return state | {NUM_BITS: torch.tensor([bits], dtype=torch.uint8)}


def restore_state(stored: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a file by name: as they are stored, or from `round_state` of such a network.

    Args:
        stored: The tensors of the file.
        network: Of the same architecture; its tensors may be without memory.

    Raises:
        ValueError: If rounded weights are not those of such a network.
    """
    if NUM_BITS not in stored:
        return dict(stored)
    bits, expected, kinds = int(stored[NUM_BITS]), network.state_dict(), _kinds_of(network)
    of_kind = {kind: [name for name in expected if kinds[name] == kind] for kind in (ROUNDED, TABLES, PLAIN, COUNTS)}
    numbers = {kind: sum(expected[name].numel() for name in names) for kind, names in of_kind.items()}
    numbers[SCALES] = sum(len(expected[name]) for name in of_kind[ROUNDED])
    numbers[ROUNDED] = -(-numbers[ROUNDED] * bits // 8)
    if wrong := [kind for kind, number in numbers.items() if stored[kind].shape != (number,)]:
        raise ValueError(f"{len(stored[wrong[0]])} {wrong[0]} numbers instead of {numbers[wrong[0]]}")
    state: dict[str, Tensor] = {}
    for kind, names in of_kind.items():
        sizes = [expected[name].numel() for name in names]
        values = _unpacked(stored[ROUNDED], bits, sum(sizes)) if kind == ROUNDED else stored[kind]
        parts = zip(names, values.split(sizes), strict=True)
        state |= {name: part.view(expected[name].shape).to(expected[name].dtype) for name, part in parts}
    rows = [len(expected[name]) for name in of_kind[ROUNDED]]
    for name, scales in zip(of_kind[ROUNDED], stored[SCALES].float().split(rows), strict=True):
        state[name] = (state[name].flatten(1) * scales[:, None]).view(expected[name].shape)
    return state


def _kinds_of(network: nn.Module) -> dict[str, str]:
    tables = {f"{name}.weight" for name, module in network.named_modules() if isinstance(module, nn.Embedding)}

    def kind(name: str, tensor: Tensor) -> str:
        if not tensor.is_floating_point():
            return COUNTS
        return TABLES if name in tables else ROUNDED if tensor.ndim > 1 else PLAIN

    return {name: kind(name, tensor) for name, tensor in network.state_dict().items()}


def _joined(tensors: list[Tensor]) -> Tensor:
    return torch.cat(tensors) if tensors else torch.zeros(0)


def _round_rows(rows: Tensor, last: int) -> tuple[Tensor, Tensor]:
    """Return whole numbers -last to last [R, D] and scales [R], of the shares tried those of the smallest error."""
    largest = rows.abs().amax(1).clamp_min(1e-30)
    scales = (largest * _SHARES[:, None] / last).bfloat16().float()  # [shares, R]
    errors = torch.stack([(_rounded(rows, scale, last) * scale[:, None] - rows).square().sum(1) for scale in scales])
    best = scales.gather(0, errors.argmin(0)[None])[0]
    return _rounded(rows, best, last), best


def _rounded(rows: Tensor, scale: Tensor, last: int) -> Tensor:
    return (rows / scale[:, None]).round().clamp(-last, last)


def _packed(numbers: Tensor, bits: int) -> Tensor:
    """Return signed numbers as bytes, `bits` bits each, highest first."""
    unsigned = (numbers + 2 ** (bits - 1)).to(torch.uint8).numpy()
    each: Any = np.unpackbits(unsigned[:, None], axis=1)[:, 8 - bits :]
    return torch.from_numpy(np.packbits(each))


def _unpacked(content: Tensor, bits: int, number: int) -> Tensor:
    each = np.unpackbits(content.numpy(), count=number * bits).reshape(number, bits)
    unsigned = np.packbits(np.pad(each, ((0, 0), (8 - bits, 0))), axis=1)[:, 0]
    return torch.from_numpy(unsigned).float() - 2 ** (bits - 1)
