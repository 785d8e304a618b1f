"""Run independent units in workers of a Ray cluster; Ray is imported when the first unit is run.

Units and results are small: what they are about lies in the store, which every node sees under the same path. A worker
that dies is replaced and its unit tried again, which goes on where the store says. Tries are not exactly once, so that
the same losses may be told twice; the second time they are left out.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from skdcgn_pipeline.runtime import recording
from skdcgn_pipeline.runtime.engine import (
    POLL_SECONDS,
    STOPPED,
    Engine,
    OpenWork,
    Outcome,
    Outcomes,
    ResultT,
    UnitT,
    attempt,
    prepare_worker,
)
from skdcgn_pipeline.runtime.errors import InterruptedRunError, SettingError, told_in_one_line
from skdcgn_pipeline.runtime.libraries import import_library
from skdcgn_pipeline.runtime.progress import REPORT_SECONDS, request_stop, stop_requested
from skdcgn_pipeline.runtime.ray_post import Post, Told

logger = logging.getLogger(__name__)

MAX_RETRIES = 5  # of a unit whose worker died
ANSWER_SECONDS = 5.0  # after which it is asked whether Ray is still there
OBJECT_STORE_BYTES = 80 * 2**20  # about the least that Ray takes; nothing large goes through it

_staying = threading.Event()  # a process is in one Ray at a time


@dataclass(frozen=True)
class RayEngine(Engine):
    """Works in workers of Ray, of as many threads as this process has.

    Attributes:
        workers: How many units are worked on at a time.
        address: Of a cluster; None starts a Ray on this machine that ends with `close`.
        cpus_per_unit, gpus_per_unit: What Ray keeps for a unit.
    """

    workers: int = 2
    address: str | None = None
    cpus_per_unit: float = 1.0
    gpus_per_unit: float = 0.0
    elsewhere: ClassVar[bool] = True

    def outcomes(self, open_work: OpenWork[UnitT, ResultT], units: Sequence[UnitT]) -> Outcomes[ResultT]:
        """Work on the units, see `Engine.outcomes`.

        A unit whose worker dies again and again fails by itself.

        Raises:
            SettingError: If Ray is not installed, there is no cluster, or Ray ends on this machine.
        """
        if not units:
            return
        ray = self.connect()
        kept = {"num_cpus": self.cpus_per_unit, "num_gpus": self.gpus_per_unit}
        task = ray.remote(max_retries=MAX_RETRIES, **kept)(_work_in_worker)
        post, home = open_post(ray), Home.here()
        opened = ray.cloudpickle.dumps(open_work)
        waiting, running, heard = list(enumerate(units)), dict[Any, int](), Heard()
        interrupted: str | None = None
        try:
            while running or waiting:
                if stop_requested() and waiting:
                    waiting, interrupted = [], interrupted or STOPPED
                while waiting and len(running) < self.workers:
                    number, unit = waiting.pop(0)
                    running[task.remote(opened, unit, home, post)] = number
                done, _ = ray.wait([*running], timeout=POLL_SECONDS) if running else ([], [])
                heard.tell(hear(ray, post, stop_requested()))
                for reference in done:
                    outcome = _outcome_of(ray, reference)
                    number = running.pop(reference)
                    if isinstance(outcome, Outcome):
                        yield number, outcome
                    else:
                        interrupted = outcome
        finally:
            with suppress(ray.exceptions.RayError, SettingError):
                hear(ray, post, True)
                ray.wait([*running], num_returns=len(running)) if running else None
            ray.kill(post)
        if interrupted is not None:
            raise InterruptedRunError(interrupted)

    def close(self) -> None:
        """Leave the cluster, unless inside `staying`; a Ray that was started for the run ends."""
        ray = sys.modules.get("ray")
        if ray is not None and ray.is_initialized() and not _staying.is_set():
            ray.shutdown()

    @contextmanager
    def staying(self, **options: Any) -> Iterator[None]:
        """Be connected inside the block, whoever closes an engine there; the rest as in `connect`."""
        self.connect(**options)
        _staying.set()
        try:
            yield
        finally:
            _staying.clear()
            self.close()

    def connect(self, **options: Any) -> Any:
        """Return Ray, connected.

        Args:
            options: More of `ray.init`.

        Raises:
            SettingError: If it is not installed, or there is no cluster, or none with such GPUs.
        """
        ray = import_ray()
        if ray.is_initialized():
            return ray
        options |= {"logging_level": logging.ERROR}
        if self.address is not None:
            options |= {"address": self.address}
        else:
            cores = math.ceil(self.workers * self.cpus_per_unit)
            options |= {"address": "local", "num_cpus": cores, "object_store_memory": OBJECT_STORE_BYTES}
            options |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            got = f"{self.address or 'none'} ({told_in_one_line(error)})"
            remedy = "Start one (ray start --head), or leave the setting out to work on this machine."
            raise SettingError("engine.address", "a Ray cluster that answers", got, remedy) from error
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():  # Ray puts its own in place of ours
                signal.signal(number, handler)
        there = ray.cluster_resources().get("GPU", 0)
        if self.gpus_per_unit > there:
            remedy = "Ask for fewer, or join a cluster that has them."
            raise SettingError("engine.gpus_per_unit", f"at most the {there:g} of Ray", self.gpus_per_unit, remedy)
        return ray


def import_ray() -> Any:
    """Return Ray, which tells nobody that it is used; raises `SettingError` if it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    return import_library("ray", "ray", "engine.name")


def _outcome_of(ray: Any, reference: Any) -> Outcome[Any] | str:
    """Return what came of a unit, or what was said where it was stopped."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        return Outcome(None, 0.0, f"{type(error).__name__}: {told_in_one_line(error)}")


def open_post(ray: Any) -> Any:
    """Start a post on this node, which lives as long as the run; one that is killed comes back with empty hands."""
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    always = {"max_restarts": -1, "max_task_retries": -1}
    return ray.remote(num_cpus=0, scheduling_strategy=here, **always)(Post).remote()


def hear(ray: Any, post: Any, stopping: bool) -> list[Told]:
    """Tell the post whether to stop, and return what workers have told it.

    Raises:
        SettingError: If Ray has ended on this machine, so that nothing would ever answer.
    """
    answer, here = post.hear.remote(stopping), ray.get_runtime_context().get_node_id()
    with suppress(ray.exceptions.RayActorError):
        while not ray.wait([answer], timeout=ANSWER_SECONDS)[0]:
            if not any(node["Alive"] for node in ray.nodes() if node["NodeID"] == here):
                break
        else:
            return ray.get(answer)
    remedy = "Repeat the same command: what is done is kept, and the rest goes on from what was saved."
    raise SettingError("engine.name", "a Ray that lives as long as the run", "one that has ended", remedy)


class Heard:
    """Gives losses of workers on to whoever listens in this process, each step once, and logs who is where."""

    def __init__(self) -> None:
        self._steps, self._at_work, self._shown = dict[str, int](), dict[str, int](), time.monotonic()

    def tell(self, told: Sequence[Told]) -> None:
        """Give losses on."""
        for training, step, losses in told:
            if step > self._steps.get(training, 0):
                self._steps[training] = self._at_work[training] = step
                recording.record(training, step, losses)
        if told and time.monotonic() - self._shown >= REPORT_SECONDS:
            self._shown = time.monotonic()
            logger.info("%s", ", ".join(f"{name}: step {step:,}" for name, step in [*self._at_work.items()][-8:]))
            self._at_work.clear()


# --- in a worker -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Home:
    """What a worker takes over from the run.

    Attributes:
        folder: Working directory, to which paths are relative.
        sys_path: Where modules are.
        num_threads: Of torch: results depend on it.
    """

    folder: str
    sys_path: tuple[str, ...]
    num_threads: int

    @classmethod
    def here(cls) -> Home:
        """Return what this process has."""
        return cls(str(Path.cwd()), tuple(sys.path), torch.get_num_threads())


@contextmanager
def at_home(home: Home, post: Any) -> Iterator[None]:
    """Let a worker be like the run inside the block: losses go to the post, and from there comes the wish to stop.

    Raises:
        SettingError: If this node does not see the run's folder.
    """
    import ray

    if not Path(home.folder).is_dir():
        remedy = "Every node of the cluster must see the run's folders under the same path."
        raise SettingError("engine.address", f"nodes that have {home.folder}", "one that has not", remedy)
    os.chdir(home.folder)
    sys.path.extend(path for path in home.sys_path if path not in sys.path)
    prepare_worker(home.num_threads)
    told, ended = list[Told](), threading.Event()

    def exchange() -> None:
        batch = told[:]
        if ray.get(post.tell.remote(batch)):
            request_stop()
        del told[: len(batch)]

    def keep_in_touch() -> None:
        with suppress(ray.exceptions.RayError):  # the run is gone, and this process soon will be
            while not ended.wait(POLL_SECONDS):
                exchange()

    def note(training: str, step: int, losses: Mapping[str, float]) -> None:
        told.append((training, step, dict(losses)))

    touch = threading.Thread(target=keep_in_touch, daemon=True)
    touch.start()
    try:
        with recording.listening(note):
            yield
    finally:
        ended.set()
        touch.join()
        exchange()


_opened: dict[str, Callable[[Any], Any]] = {}  # of a worker process, by what opened it; the last alone


def _work_in_worker(opened: bytes, unit: Any, home: Home, post: Any) -> Outcome[Any] | str:
    """Work on one unit; returns what came of it, or what was said where it was stopped."""
    import ray

    try:
        with at_home(home, post):
            key = hashlib.sha256(opened).hexdigest()
            if key not in _opened:
                _opened.clear()
                _opened[key] = ray.cloudpickle.loads(opened)()
            return attempt(_opened[key], unit)
    except InterruptedRunError as error:
        return str(error)
