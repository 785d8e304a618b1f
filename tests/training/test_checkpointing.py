"""Checkpoints: named objects with a step; damage starts over and runs no code."""

from __future__ import annotations

import logging
import os

import pytest
import torch
from torch import nn

from skdcgn_pipeline.training.checkpointing import restore_state, save_state


def make(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(2, 2)


def test_a_saved_state_is_restored_with_step_and_history(tmp_path):
    path, linear, fresh = tmp_path / "checkpoint.pt", make(), make(seed=1)
    save_state(path, {"linear": linear}, 7, [{"step": 5, "loss": 0.5}])
    assert not torch.equal(fresh.weight, linear.weight)
    assert restore_state(path, {"linear": fresh}) == (7, [{"step": 5, "loss": 0.5}])
    assert torch.equal(fresh.weight, linear.weight)


def test_without_a_file_a_training_starts_at_the_beginning(tmp_path):
    linear = make()
    before = linear.weight.clone()
    for path in (tmp_path / "checkpoint.pt", None):
        assert restore_state(path, {"linear": linear}) == (0, [])
    assert torch.equal(linear.weight, before)


@pytest.mark.parametrize("keep", [0, 20, 0.5, 0.97])
def test_a_truncated_checkpoint_starts_over_with_a_warning(tmp_path, caplog, keep):
    path = tmp_path / "checkpoint.pt"
    save_state(path, {"linear": make()}, 7, [])
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    linear = make(seed=1)
    before = linear.weight.clone()
    with caplog.at_level(logging.WARNING):
        assert restore_state(path, {"linear": linear}) == (0, [])
    assert torch.equal(linear.weight, before)
    assert "this training starts over" in caplog.text


class CreatesAMarker:
    """Creates a file when it is unpickled."""

    def __init__(self, marker) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mknod, (str(self.marker),)


def test_code_in_a_checkpoint_is_not_executed(tmp_path):
    torch.save({"step": 1, "history": [], "objects": CreatesAMarker(tmp_path / "marker")}, tmp_path / "checkpoint.pt")
    assert restore_state(tmp_path / "checkpoint.pt", {"linear": make()}) == (0, [])
    assert not (tmp_path / "marker").exists()
