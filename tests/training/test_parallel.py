"""Several processes train the student that one would have trained."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from skdcgn_pipeline.artifacts.recipe import Store
from skdcgn_pipeline.parameters import Distill
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.samples import loading
from skdcgn_pipeline.students.recipes import StudentArtifact
from skdcgn_pipeline.training.parallel import (
    ALONE,
    SharedBatchNorm2d,
    check_equal_parts,
    joined_processes,
    launched_processes,
)
from two_processes import STOPPED, STREAMED_BEYOND_BYTES, TRAININGS, launched, recipe_of  # noqa: F401  (a fixture)


@pytest.fixture
def stores(launched: tuple[Path, Path], tmp_path: Path) -> Path:  # noqa: F811
    """A copy of where two processes have left their students."""
    return Path(shutil.copytree(launched[1], tmp_path / "two"))


@pytest.fixture
def samples_directory(launched: tuple[Path, Path]) -> Path:  # noqa: F811
    return launched[0]


@pytest.fixture(autouse=True)
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the two processes."""
    monkeypatch.setattr(loading, "STREAMED_BEYOND_BYTES", STREAMED_BEYOND_BYTES)


def alone(store: Path, samples: Path, mechanism: str, own: Distill) -> StudentArtifact:
    return Store(store).make(recipe_of(samples, mechanism, own))


def together(stores: Path, samples: Path, mechanism: str, own: Distill) -> StudentArtifact:
    """Return what two processes made; nothing is computed here."""

    recipe = recipe_of(samples, mechanism, own)
    assert Store(stores).path(recipe).is_dir(), "two processes made a student of another identity"
    return Store(stores).make(recipe)


@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_train_what_one_does(tmp_path, stores, samples_directory, name):
    mechanism, own = TRAININGS[name]
    expected = alone(tmp_path, samples_directory, mechanism, own)
    got = together(stores, samples_directory, mechanism, own)
    assert ("order" in got.artifact.inputs) == (mechanism == "texture")
    for ours, theirs in zip(got.history, expected.history, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    state = got.open().state_dict()
    for key, value in expected.open().state_dict().items():
        # A bias before a batch norm has no gradient but rounding, which Adam makes steps of.
        if not key.endswith((".bias", "running_mean")):
            torch.testing.assert_close(state[key], value, rtol=1e-3, atol=1e-4)


def test_a_stop_of_one_process_stops_both_and_one_process_goes_on(tmp_path, stores, samples_directory):
    assert all("stopped at 1 of 5 steps" in (stores / f"stopped_{rank}").read_text() for rank in (0, 1))
    expected = alone(tmp_path, samples_directory, "shape", STOPPED)
    continued = alone(stores, samples_directory, "shape", STOPPED)
    for ours, theirs in zip(continued.history, expected.history, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to look for threads")
def test_threads_of_the_talk_end_with_it(stores):
    for rank in (0, 1):
        inside, left = map(int, (stores / f"threads_{rank}").read_text().split())
        assert left < inside


def test_a_process_alone_has_the_whole_batch_and_shares_nothing():
    rows, network = torch.arange(6), nn.Sequential(nn.BatchNorm2d(2))
    assert ALONE.part(rows).tolist() == rows.tolist()
    assert ALONE.wrap(network) is network
    ALONE.share_statistics(network)
    assert type(network[0]) is nn.BatchNorm2d
    assert ALONE.mean({"loss": 0.5}) == {"loss": 0.5}
    assert (ALONE.agree(True), ALONE.agree(False)) == (True, False)
    assert (ALONE.tell("work"), ALONE.hear()) == (None, None)
    with joined_processes("cpu") as processes:
        assert processes is ALONE


@pytest.mark.parametrize(
    ("environment", "number"),
    [({}, 1), ({"WORLD_SIZE": "4"}, 1), ({"WORLD_SIZE": "4", "RANK": "2"}, 4), ({"WORLD_SIZE": "1", "RANK": "0"}, 1)],
)
def test_processes_are_those_that_torchrun_has_started(environment, number):
    assert launched_processes(environment) == number


@pytest.mark.parametrize(("batch_size", "accumulate_steps"), [(9, 1), (10, 2)])
def test_a_batch_that_does_not_divide_is_refused(batch_size, accumulate_steps):
    with pytest.raises(SettingError, match=r"distill\.batch_size: expected a multiple of"):
        check_equal_parts(batch_size, accumulate_steps, 4)
    check_equal_parts(8 * accumulate_steps, accumulate_steps, 4)


@pytest.mark.parametrize("affine", [False, True])
def test_the_shared_norm_of_one_process_is_batch_norm(monkeypatch, affine):
    monkeypatch.setattr("torch.distributed.all_reduce", lambda tensor: None)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 1)
    torch.manual_seed(0)
    norm, images = nn.BatchNorm2d(3, affine=affine), 2 + 3 * torch.randn(4, 3, 5, 5)
    other = nn.BatchNorm2d(3, affine=affine)
    shared = SharedBatchNorm2d.of(other)
    first, second = images.clone().requires_grad_(), images.clone().requires_grad_()
    weight = torch.randn_like(images)
    (norm(first) * weight).sum().backward()
    (shared(second) * weight).sum().backward()
    torch.testing.assert_close(second.grad, first.grad, rtol=1e-4, atol=1e-5)
    for name, value in norm.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value)
    torch.testing.assert_close(shared.eval()(images), norm.eval()(images))
