"""The one loop: continue, note, checkpoint, stop."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from skdcgn_pipeline.runtime import progress
from skdcgn_pipeline.runtime.errors import InterruptedRunError
from skdcgn_pipeline.runtime.recording import listening
from skdcgn_pipeline.training import task as task_module
from skdcgn_pipeline.training.checkpointing import History
from skdcgn_pipeline.training.task import fit


class Counting:
    """A training whose state is the sum of its batches; it tells the sum, and every loss that is worth noting."""

    name = title = "counting"
    log_every_steps, checkpoint_every_steps = 2, 3

    def __init__(self, num_steps: int = 9, kill_at: int | None = None, stop_at: int | None = None) -> None:
        self.num_steps, self.kill_at, self.stop_at = num_steps, kill_at, stop_at
        self.state, self.done = nn.BatchNorm1d(1), []

    @property
    def result(self) -> nn.Module:
        return self.state

    @property
    def objects(self) -> Mapping[str, Any]:
        return {"state": self.state}

    def batch(self, step: int) -> float:
        return float(step)

    def update(self, step: int, batch: float, noted: bool) -> Mapping[str, float]:
        if step == self.kill_at:
            raise KeyboardInterrupt
        self.done.append(step)
        self.state.running_mean += batch
        if step == self.stop_at:
            progress.request_stop()
        return {"sum": self.state.running_mean.item()} if noted else {}


def train(task: Counting, path: Path | None = None, **options: Any) -> History:
    return fit(task, path, **options)[1]


def test_a_training_runs_every_step_and_keeps_what_is_noted():
    told = []
    task = Counting(5)
    with listening(lambda training, step, losses: told.append((training, step, losses))):
        history = train(task)
    assert task.done == [0, 1, 2, 3, 4]
    assert history == [{"step": 2, "sum": 1.0}, {"step": 4, "sum": 6.0}, {"step": 5, "sum": 10.0}]
    assert told == [("counting", entry["step"], {"sum": entry["sum"]}) for entry in history]


def test_what_a_task_returns_unasked_is_noted_too():
    class Telling(Counting):
        def update(self, step: int, batch: float, noted: bool) -> Mapping[str, float]:
            return super().update(step, batch, noted or step == 2)

    assert [entry["step"] for entry in train(Telling(5))] == [2, 3, 4, 5]


def test_the_state_is_saved_every_so_many_steps_but_not_at_the_end(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(task_module, "save_state", lambda path, objects, step, history: saved.append(step))
    train(Counting(9), tmp_path / "checkpoint.pt")
    train(Counting(9))  # without a path nothing is kept
    assert saved == [3, 6]


def test_a_killed_training_continues_after_the_last_checkpoint(tmp_path):
    whole = train(Counting())
    with pytest.raises(KeyboardInterrupt):
        train(Counting(kill_at=5), tmp_path / "checkpoint.pt")
    task = Counting()
    assert train(task, tmp_path / "checkpoint.pt") == whole
    assert task.done == [3, 4, 5, 6, 7, 8]


def test_a_training_that_is_asked_to_stop_saves_the_step_and_tells_how_to_go_on(tmp_path):
    first = Counting(stop_at=4)
    with pytest.raises(InterruptedRunError, match="counting: stopped at 5 of 9 steps, everything so far is saved"):
        train(first, tmp_path / "checkpoint.pt")
    progress.clear_stop()
    second = Counting()
    assert train(second, tmp_path / "checkpoint.pt") == train(Counting())
    assert first.done + second.done == list(range(9))


def test_a_request_to_stop_in_the_last_step_lets_the_training_finish():
    assert train(Counting(3, stop_at=2))[-1] == {"step": 3, "sum": 3.0}
    assert progress.stop_requested()


def test_all_stop_when_one_wishes_and_a_follower_saves_nothing(tmp_path):
    task = Counting()
    with pytest.raises(InterruptedRunError, match="stopped at 1 of 9"):
        train(task, tmp_path / "checkpoint.pt", read_only=True, agree=lambda wish: True)
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(task.state.running_mean, torch.zeros(1))
