"""What two processes train together; a module of its own, which they can import."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from torch import multiprocessing

from ports import free_port
from skdcgn_pipeline.artifacts.recipe import Store
from skdcgn_pipeline.artifacts.store import Artifact
from skdcgn_pipeline.parameters import Compute, Distill, LossWeights, Student
from skdcgn_pipeline.runtime import progress
from skdcgn_pipeline.runtime.errors import InterruptedRunError
from skdcgn_pipeline.runtime.recording import listening
from skdcgn_pipeline.samples import loading
from skdcgn_pipeline.samples.drawing import SampleShards
from skdcgn_pipeline.students.recipes import StudentRecipe, distil_together
from skdcgn_pipeline.training.parallel import ALONE, Processes, joined_processes
from tiny import TinyTeacher, draw_samples

CPU = Compute(device="cpu")
ALL_TERMS = LossWeights(pixel=1.0, feature=0.5, kl=0.5, adversarial=0.5, binary_cross_entropy=0.5)
COMPACT = Student(width=(4, 6, 4), embedding_dim=3)


def settings(**changes: Any) -> Distill:
    options: dict[str, Any] = {
        "student": COMPACT,
        "num_steps": 4,
        "batch_size": 8,
        "discriminator_width": 4,
        "judge_every_steps": 2,
        "adversarial_every_judgements": 1,
        "weights": ALL_TERMS,
        "log_every_steps": 1,
        "ema_decay": 0.5,
        # Adam divides gradients by their size: rounding of a gradient of next to nothing would show.
        "optimiser": "muon",
    }
    return Distill(**(options | changes))


# Name -> mechanism and settings.
TRAININGS = {
    "compact": ("shape", settings()),
    "tinygan": ("texture", settings(student=Student(architecture="tinygan", width=2, embedding_dim=3))),
    "basis": ("texture", settings(student=Student(architecture="basis", width=(4, 5, 4), embedding_dim=3))),
}
# Masks are read into memory, images of three channels as they are needed.
STREAMED_BEYOND_BYTES = 3000
STOPPED = settings(checkpoint_every_steps=100, num_steps=5)
SHORT = settings(checkpoint_every_steps=1, num_steps=6)


@pytest.fixture(scope="session")
def launched(common: Path) -> tuple[Path, Path]:
    """Samples, and where two processes that train together have left their students, for all processes that test."""
    samples, stores, done = common / "of_two" / "samples", common / "of_two" / "stores", common / "of_two.txt"
    with FileLock(common / "of_two.lock"):
        if not done.exists():
            stores.mkdir(parents=True)
            directory = draw_samples(samples, TinyTeacher(), {"name": "tiny"}, 10, 11, 0, CPU).artifact.directory
            multiprocessing.spawn(take_part, (free_port(), directory, stores), nprocs=2)
            done.write_text(str(directory))
    return Path(done.read_text()), stores


def recipe_of(samples: Path, mechanism: str, own: Distill, processes: Processes = ALONE) -> StudentRecipe:
    return StudentRecipe(mechanism, SampleShards(Artifact.open(samples)), own, 0, CPU, processes=processes)


def threads_of_groups() -> int:
    """Return how many threads of this process work for groups of processes; 0 where there is no /proc."""
    return [path.read_text() for path in Path("/proc/self/task").glob("*/comm")].count("pt_gloo_runloop\n")


def take_part(rank: int, port: int, samples: Path, stores: Path) -> None:
    """Be one of two processes that train together."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    loading.STREAMED_BEYOND_BYTES = STREAMED_BEYOND_BYTES
    with joined_processes("cpu") as processes:
        assert (processes.rank, processes.size) == (rank, 2)
        for mechanism, own in (*TRAININGS.values(), ("shape", SHORT)):
            recipe = recipe_of(samples, mechanism, own, processes)
            first, again = (distil_together(Store(stores), recipe) for _ in range(2))
            assert first.artifact.directory == again.artifact.directory
        # A signal may reach one process alone: all stop after the same step.
        recipe = recipe_of(samples, "shape", STOPPED, processes)
        with pytest.raises(InterruptedRunError) as stopped, listening(lambda *_: rank or progress.request_stop()):
            distil_together(Store(stores), recipe)
        (stores / f"stopped_{rank}").write_text(str(stopped.value))
        inside = threads_of_groups()
    (stores / f"threads_{rank}").write_text(f"{inside} {threads_of_groups()}")
