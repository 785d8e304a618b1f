"""A Ray cluster of two nodes on this machine, and work for its workers; skipped where Ray is not installed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from skdcgn_pipeline.runtime import progress, recording


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[str]:
    """The address of a cluster of two nodes of one processor each."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster_utils = pytest.importorskip("ray.cluster_utils", reason='needs Ray: pip install "skdcgn_pipeline[ray]"')
    small = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    head = small | {"include_dashboard": False, "include_log_monitor": False}
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
    try:
        cluster.add_node(**small)
        yield cluster.address
    finally:
        cluster.shutdown()


def open_dying(folder: str) -> Callable[[int], tuple[int, int]]:
    """Return work that kills its worker at the first try of unit 1, and tells a loss at every try."""

    def work(unit: int) -> tuple[int, int]:
        mark = Path(folder) / "tried"
        recording.record(f"unit {unit}", 1, {"total": float(unit)})
        if unit == 1 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return unit, torch.get_num_threads()

    return work


def open_orphaned() -> Callable[[int], None]:
    """Return work that kills what starts the workers of its node, and with it all of the node."""

    def work(unit: int) -> None:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)

    return work


def open_waiting(folder: str) -> Callable[[int], None]:
    """Return work that goes on until it is asked to stop."""

    def work(unit: int) -> None:
        (Path(folder) / f"at_work_{unit}").touch()
        while not progress.stop_requested():
            time.sleep(0.05)
        progress.Progress(f"unit {unit}", 2, "steps").interrupt()

    return work
