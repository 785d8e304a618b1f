"""Processes that train together, started by Ray Train where `torchrun` does not reach.

Ray Train places them in the cluster, joins them to one group of `torch.distributed` and ends all where one is lost.
All else stays the project's own: a training goes on from its checkpoint in the store, and Ray's are not used.
"""

from __future__ import annotations

import math
import os
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from skdcgn_pipeline.runtime.engine import POLL_SECONDS, STOPPED
from skdcgn_pipeline.runtime.errors import (
    InterruptedRunError,
    SettingError,
    UnitFailedError,
    UserError,
    told_in_one_line,
)
from skdcgn_pipeline.runtime.progress import stop_requested
from skdcgn_pipeline.runtime.ray_engine import MAX_RETRIES, Heard, Home, RayEngine, at_home, hear, open_post


def call_together(engine: RayEngine, work: Callable[[], None], scratch: Path) -> None:
    """Call `work` in `engine.workers` processes at once, which are one group of `torch.distributed`.

    Where one is lost or fails, all are started again, up to `MAX_RETRIES` times, and go on from what `work` has stored.
    A stop that is requested here reaches all, and losses that they record are recorded here.

    Args:
        engine: The number of processes, what Ray keeps for each, and the cluster.
        work: What each process calls; picklable.
        scratch: A folder that all nodes see. Ray Train's own files are there until the end.

    Raises:
        SettingError: If processes are to share a GPU, or the cluster has no room for all of them at once.
        UserError: What `work` raised that is written for users; it is not tried again.
        InterruptedRunError: If a stop was requested.
        UnitFailedError: If processes were lost or failed again and again.
    """
    check_gpus(engine)
    ray = engine.connect(log_to_driver=False)  # Ray Train complains every second that there is no dashboard
    check_room(engine, ray.cluster_resources())
    post, heard = open_post(ray), Heard()
    part = partial(_work_in_group, ray.cloudpickle.dumps(work), Home.here(), post)
    try:
        with tempfile.TemporaryDirectory("", "ray_train_", scratch.resolve(), ignore_cleanup_errors=True) as storage:
            for attempt in range(1 + MAX_RETRIES):
                fit = _Fit(_trainer(engine, part, storage, f"attempt_{attempt}"))
                while fit.is_alive():
                    fit.join(POLL_SECONDS)
                    heard.tell(hear(ray, post, stop_requested()))
                if (error := fit.error) is None:
                    return
                # What the processes have raised; where it was none of them, the error itself.
                failures = [*getattr(error, "worker_failures", {}).values()] or [error]
                for failure in failures:
                    if isinstance(failure, UserError):
                        raise failure from error
                if stop_requested():
                    raise InterruptedRunError(STOPPED) from error
                if attempt == MAX_RETRIES:
                    last = failures[0]
                    told = f"{1 + MAX_RETRIES} times, the last time: {type(last).__name__}: {told_in_one_line(last)}"
                    raise UnitFailedError(f"Processes were lost or failed {told}") from error
    finally:
        with suppress(ray.exceptions.RayError):
            ray.kill(post)


def check_gpus(engine: RayEngine) -> None:
    """Refuse processes that are to share a GPU, or to have several each, with a `SettingError`."""
    if engine.gpus_per_unit not in (0, 1):
        expected = "0 or 1 where processes train together (NCCL refuses two on one GPU)"
        remedy = "Use one process per GPU, or distil students side by side (kedro run), which may share one."
        raise SettingError("engine.gpus_per_unit", expected, f"{engine.gpus_per_unit:g}", remedy)


def check_room(engine: RayEngine, resources: Mapping[str, float]) -> None:
    """Refuse, with a `SettingError`, more processes than a cluster holds at once: Ray Train would wait without end.

    Args:
        engine: What is asked for.
        resources: Of the whole cluster, by Ray's names of them.
    """
    kept = {"CPU": engine.cpus_per_unit, "GPU": engine.gpus_per_unit}
    room = min(math.floor(resources.get(kind, 0) / each) for kind, each in kept.items() if each)
    if engine.workers > room:
        remedy = "Use fewer, lower engine.cpus_per_unit, or join a larger cluster."
        raise SettingError("engine.workers", f"at most {room}, for which Ray has room at once", engine.workers, remedy)


def _work_in_group(work: bytes, home: Home, post: Any) -> None:
    """Do what each process does."""
    import ray

    try:
        with at_home(home, post):
            ray.cloudpickle.loads(work)()
    except InterruptedRunError as error:
        raise InterruptedRunError(str(error)) from None
    except UserError as error:
        raise UserError(str(error)) from None  # unlike those with more arguments, it can be pickled


class _Fit(threading.Thread):
    """Waits for Ray Train in a thread, where it leaves SIGINT, at which it would end all at once, to the run."""

    def __init__(self, trainer: Any) -> None:
        super().__init__(daemon=True)
        self._trainer = trainer
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self._trainer.fit()
        except Exception as error:  # noqa: BLE001  (told where it is waited for)
            self.error = error


def _trainer(engine: RayEngine, part: Callable[[], None], storage: str, name: str) -> Any:
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # its process; a lost one is told without it
    from ray import train
    from ray.train.torch import TorchConfig, TorchTrainer

    on_gpu = engine.gpus_per_unit > 0
    kept = {"CPU": engine.cpus_per_unit} | ({"GPU": 1.0} if on_gpu else {})
    return TorchTrainer(
        lambda: part(),
        torch_config=TorchConfig("cpu:gloo,cuda:nccl" if on_gpu else "gloo"),
        scaling_config=train.ScalingConfig(num_workers=engine.workers, use_gpu=on_gpu, resources_per_worker=kept),
        run_config=train.RunConfig(name=name, storage_path=storage),
    )
