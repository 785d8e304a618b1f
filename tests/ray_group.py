"""What processes of Ray Train do together; a module of its own, which they can import."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import torch

from skdcgn_pipeline.artifacts.recipe import Store
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.runtime.recording import listening
from skdcgn_pipeline.students.recipes import distil_together
from skdcgn_pipeline.training.parallel import joined_processes
from two_processes import recipe_of, settings

SHORT = settings(num_steps=5, checkpoint_every_steps=1)
LONG = settings(num_steps=100_000, checkpoint_every_steps=100_000)


def train_as_launched(rank: int, port: int, samples: Path, stores: Path) -> None:
    """Be one of two processes as torchrun starts them, of one thread each."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with joined_processes("cpu") as processes:
        distil_together(Store(stores), recipe_of(samples, "shape", SHORT, processes))


def train_with_a_death(samples: Path, stores: Path) -> None:
    """Train in two processes, the second of which is killed at step 3 of the first attempt."""
    mark = stores / "died"
    with joined_processes("cpu") as processes:

        def die(training: str, step: int, losses: object) -> None:
            if processes.rank == 1 and step == 3 and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)

        assert processes.size == 2
        with listening(die):
            distil_together(Store(stores), recipe_of(samples, "shape", SHORT, processes))


def train_until_stopped(samples: Path, stores: Path) -> None:
    """Train, and leave a file when there is something to stop."""
    with (
        joined_processes("cpu") as processes,
        listening(lambda *_: (stores / f"at_work_{processes.rank}").touch()),
    ):
        distil_together(Store(stores), recipe_of(samples, "shape", LONG, processes))


def fail_alone() -> None:
    """Fail in the second process with what a user can act on, while the first one waits for it."""
    with joined_processes("cpu") as processes:
        if processes.rank == 1:
            raise SettingError("rank", "0", 1, "Stay alone.")
        processes.agree(False)
