"""U^2-Net: the published names and numbers, any size of image, what is refused."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from skdcgn_pipeline.teachers.u2net import Stage, U2Net

SMALL = {
    "encoder": (Stage(4, 2, 4), Stage(3, 2, 6), Stage(3, 2, 8, dilated=True)),
    "decoder": (Stage(3, 2, 6), Stage(4, 2, 4)),
}


@torch.no_grad()
def fill_by_name(network: torch.nn.Module) -> None:
    """Fill a network by the rule in the README of the golden files."""
    of_norm = {
        "running_var": lambda r: 1 + 0.1 * r.abs(),
        "running_mean": lambda r: 0.1 * r,
        "weight": lambda r: 1 + 0.1 * r,
        "bias": lambda r: 0.05 * r,
    }
    for name, tensor in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.zero_()
            continue
        draw = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
        if tensor.ndim == 4:
            tensor.copy_(draw * math.sqrt(2 / math.prod(tensor.shape[1:])))
        elif "bn" in name:
            tensor.copy_(of_norm[name.rpartition(".")[2]](draw))
        else:
            tensor.copy_(0.05 * draw)


@pytest.fixture
def small() -> U2Net:
    network = U2Net(**SMALL).eval()
    fill_by_name(network)
    return network


def test_names_and_shapes_are_the_published_ones(shared: Path):
    expected = json.loads((shared / "golden" / "u2net_state_dict_shapes.json").read_text())
    with torch.device("meta"):
        network = U2Net()
    assert {name: list(tensor.shape) for name, tensor in network.state_dict().items()} == expected


def test_the_published_network_gives_the_published_numbers(shared: Path):
    golden = np.load(shared / "golden" / "u2net_crc32_fill.npz")
    with torch.device("meta"):
        network = U2Net()
    network = network.to_empty(device="cpu").eval()
    fill_by_name(network)
    with torch.no_grad():
        fused = network(torch.from_numpy(golden["input"]))
    torch.testing.assert_close(fused, torch.from_numpy(golden["output"]), rtol=0, atol=1e-4)


def test_the_map_fuses_those_of_all_stages(small):
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    sides, fused = [], small(images)
    for number in (1, 2, 3):
        small.get_submodule(f"side{number}").register_forward_hook(lambda _, __, logits: sides.append(logits))
    small(images)
    assert [side.shape for side in sides] == [(2, 1, size, size) for size in (32, 16, 8)]
    assert 0 <= fused.min() < fused.max() <= 1
    enlarged = [F.interpolate(side, size=(32, 32), mode="bilinear", align_corners=True) for side in sides]
    torch.testing.assert_close(small.outconv(torch.cat(enlarged, 1)).sigmoid(), fused)


@pytest.mark.parametrize("size", [(1, 1), (30, 21), (64, 16)])
def test_images_of_any_size_keep_it(small, size):
    assert small(torch.zeros(1, 3, *size)).shape == (1, 1, *size)


def test_a_gradient_reaches_every_parameter(small):
    small(torch.randn(2, 3, 16, 16)).sum().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())
