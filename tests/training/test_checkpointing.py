"""Checkpoints: named objects with a step; damage starts over and runs no code."""

from __future__ import annotations

import logging
import os

import pytest
import torch
from torch import nn

from skdcgn_pipeline.training.checkpointing import Checkpoint


def make(path, seed: int = 0) -> tuple[Checkpoint, nn.Linear]:
    torch.manual_seed(seed)
    linear = nn.Linear(2, 2)
    return Checkpoint(path, {"linear": linear}, every_steps=3), linear


def test_a_saved_state_is_restored_with_step_and_history(tmp_path):
    checkpoint, linear = make(tmp_path / "checkpoint.pt")
    checkpoint.save(7, [{"step": 5, "loss": 0.5}])
    other, fresh = make(tmp_path / "checkpoint.pt", seed=1)
    assert not torch.equal(fresh.weight, linear.weight)
    assert other.restore() == (7, [{"step": 5, "loss": 0.5}])
    assert torch.equal(fresh.weight, linear.weight)


def test_without_a_file_a_training_starts_at_the_beginning(tmp_path):
    checkpoint, linear = make(tmp_path / "checkpoint.pt")
    before = linear.weight.clone()
    assert checkpoint.restore() == (0, [])
    assert torch.equal(linear.weight, before)


def test_without_a_path_nothing_is_kept(tmp_path):
    checkpoint, _ = make(None)
    checkpoint.save(7, [])
    assert checkpoint.restore() == (0, [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keep", [0, 20, 0.5, 0.97])
def test_a_truncated_checkpoint_starts_over_with_a_warning(tmp_path, caplog, keep):
    path = tmp_path / "checkpoint.pt"
    make(path)[0].save(7, [])
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    checkpoint, linear = make(path, seed=1)
    before = linear.weight.clone()
    with caplog.at_level(logging.WARNING):
        assert checkpoint.restore() == (0, [])
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
    assert make(tmp_path / "checkpoint.pt")[0].restore() == (0, [])
    assert not (tmp_path / "marker").exists()


def test_a_checkpoint_is_due_every_so_many_steps_but_not_at_the_end():
    checkpoint, _ = make(None)
    assert [step for step in range(1, 10) if checkpoint.is_due(step, 9)] == [3, 6]


# --- the loop ------------------------------------------------------------------------------------
