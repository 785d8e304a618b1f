"""What every trained classifier keeps: checks that the tests of its networks share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from skdcgn_pipeline.artifacts.store import Artifact
from skdcgn_pipeline.classifiers.training import open_classifier
from skdcgn_pipeline.runtime import progress
from skdcgn_pipeline.runtime.errors import InterruptedRunError
from skdcgn_pipeline.runtime.recording import listening

# Makes a classifier in a folder, and tells a list of calls whenever it asks for what there is to learn.
Build = Callable[..., tuple[Artifact, Any]]


def assert_same_weights(first: nn.Module, second: nn.Module) -> None:
    expected = second.state_dict()
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def assert_built_once_and_opened_as_it_was(build: Build, folder: Path) -> tuple[Artifact, Any]:
    """Build a classifier twice; returns what it is."""
    calls: list[int] = []
    artifact, first = build(folder, calls)
    again, second = build(folder, calls)
    assert calls == [1]
    assert again.directory == artifact.directory
    assert_same_weights(first, second)
    opened = open_classifier(artifact)
    assert not opened.training
    assert not any(parameter.requires_grad for parameter in opened.parameters())
    return artifact, first


def assert_continues_to_the_same_bytes(build: Build, folder: Path) -> None:
    """Interrupt a build, continue it, and compare it with one that was left alone."""

    def stop(training: str, step: int, losses: dict[str, float]) -> None:
        progress.request_stop()

    with pytest.raises(InterruptedRunError), listening(stop):
        build(folder / "killed")
    progress.clear_stop()
    continued, whole = build(folder / "killed")[0], build(folder / "whole")[0]
    assert continued.manifest == whole.manifest
    assert not (continued.directory / "scratch").exists()
