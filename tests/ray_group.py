"""What processes of Ray Train do together; a module of its own, which they can import."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from skdcgn_pipeline.artifacts.recipe import Store
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.runtime.recording import listening
from skdcgn_pipeline.students.recipes import distil_together
from skdcgn_pipeline.training.parallel import joined_processes
from two_processes import SHORT, recipe_of, settings

LONG = settings(num_steps=100_000, checkpoint_every_steps=100_000)


def train_with_a_death(samples: Path, stores: Path) -> None:
    """Train in two processes, the second of which is killed at step 3 of the first attempt.

    At the second, it fails with what a user can act on while the first one waits for it, once all steps were heard.
    """
    mark = stores / "died"
    with joined_processes("cpu") as processes:

        def die(training: str, step: int, losses: object) -> None:
            if processes.rank == 1 and step == 3 and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)

        assert processes.size == 2
        with listening(die):
            distil_together(Store(stores), recipe_of(samples, "shape", SHORT, processes))
        if processes.rank == 1:
            while not (stores / "heard").exists():
                time.sleep(0.05)
            raise SettingError("rank", "0", 1, "Stay alone.")
        processes.agree(False)


def train_until_stopped(samples: Path, stores: Path) -> None:
    """Train, and leave a file when there is something to stop."""
    with (
        joined_processes("cpu") as processes,
        listening(lambda *_: (stores / f"at_work_{processes.rank}").touch()),
    ):
        distil_together(Store(stores), recipe_of(samples, "shape", LONG, processes))
