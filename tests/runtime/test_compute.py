"""Devices and precisions."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch
from torch import nn

from skdcgn_pipeline.parameters import Compute
from skdcgn_pipeline.runtime.compute import autocast, choose_device, place
from skdcgn_pipeline.runtime.errors import SettingError


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_auto_takes_the_fastest_device_that_is_there(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert choose_device("auto").type == expected
    assert choose_device("cpu").type == "cpu"


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(SettingError, match=r"compute\.device: expected a device of this machine \(cpu\), got 'cuda'"):
        choose_device("cuda")


def test_an_unknown_device_is_refused_with_the_nearest_name():
    with pytest.raises(SettingError, match="Did you mean 'cuda'"):
        choose_device("cuda0")


def test_bfloat16_computes_in_bfloat16_and_keeps_weights():
    linear = nn.Linear(2, 2)
    device = torch.device("cpu")
    with autocast(Compute(device="cpu", precision="bf16"), device):
        assert linear(torch.ones(1, 2)).dtype == torch.bfloat16
    with autocast(Compute(device="cpu"), device):
        assert linear(torch.ones(1, 2)).dtype == torch.float32
    assert linear.weight.dtype == torch.float32


def test_a_network_is_placed_with_its_layout_and_values():
    convolution = nn.Conv2d(3, 4, 3)
    before = convolution.weight.clone()
    assert place(convolution, "cpu", torch.channels_last) is convolution
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(convolution.weight, before)


FAULTS = """
import resource
import sys
import torch
from skdcgn_pipeline.runtime.compute import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(40):
    layer = torch.zeros(2**24)  # 64 MiB, more than glibc learns to keep by itself
    del layer
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is told")
def test_freed_memory_is_kept_for_the_next_step():
    faults = {
        how: int(subprocess.run([sys.executable, "-c", FAULTS, how], check=True, capture_output=True).stdout)
        for how in ("keep", "give back")
    }
    assert faults["keep"] < 0.5 * faults["give back"]
