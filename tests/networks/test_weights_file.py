"""Weights files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from skdcgn_pipeline.networks.weights_file import read_state, write_state
from skdcgn_pipeline.runtime.errors import SettingError

METADATA = {f'{letter}é"\n': f"\u2028 {letter}" for letter in "zyxwvutsrqponmlkjihgfedcba"}


def test_weights_and_metadata_come_back(tmp_path: Path) -> None:
    network = nn.Conv2d(3, 5, 3)
    write_state(network, tmp_path / "weights.safetensors", METADATA)
    state, metadata = read_state(tmp_path / "weights.safetensors")
    assert metadata == METADATA
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


def test_the_bytes_of_a_weights_file_depend_on_its_content_alone(tmp_path: Path) -> None:
    program = f"""
import sys, torch
from pathlib import Path
from skdcgn_pipeline.networks.weights_file import write_state
write_state(torch.nn.LayerNorm(4), Path(sys.argv[1]), {METADATA!r})
"""
    contents = set()
    for number in range(2):
        path = tmp_path / f"{number}.safetensors"
        subprocess.run([sys.executable, "-c", program, str(path)], check=True, timeout=100)
        contents.add(path.read_bytes())
    assert len(contents) == 1


def test_a_device_is_refused_unread() -> None:
    with pytest.raises(SettingError, match=r"expected a file, got the device or pipe /dev/zero"):
        read_state(Path("/dev/zero"))
