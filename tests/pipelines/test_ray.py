"""The same artifacts, to the bit, from workers of Ray on two nodes as from one process, whichever worker is killed."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.running import Finished, Place, content_of, partial_files
from ray_cluster import two_nodes  # noqa: F401  (a fixture)

pytestmark = pytest.mark.slow

STUDY = {"study": ["mixing"]}


def by_ray(address: str, **settings: Any) -> dict[str, Any]:
    return settings | {"engine": {"name": "ray", "workers": 2, "address": address}}


def workers_at_work(address: str) -> list[int]:
    """Return the processes of a cluster's workers that run a unit; their parents say which cluster they are of."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (folder / "cmdline").read_bytes().startswith(b"ray::_work_in_worker"):
                (parent,) = re.findall(r"^PPid:\s+(\d+)$", (folder / "status").read_text(), re.MULTILINE)
                if address in Path(f"/proc/{parent}/cmdline").read_text():
                    found.append(int(folder.name))
    return sorted(found)


def test_students_are_those_of_one_process(
    finished: tuple[Place, Finished],
    place: Place,
    two_nodes: str,  # noqa: F811
) -> None:
    done = place.run(params=by_ray(two_nodes), pipeline_names=["distill"])
    for kind in ("sample", "student"):
        expected = content_of(finished[0].store(kind))
        own = content_of(place.store(kind))
        assert own
        assert {name: expected.get(name) for name in own} == own
    metrics = place.run_of(done).data.metrics
    assert {f"{mechanism}/loss/total" for mechanism in ("shape", "texture", "background")} <= metrics.keys()


def test_a_namespace_distils_its_own_student_alone(
    copy_of_finished: Callable[[str], Place],
    two_nodes: str,  # noqa: F811
) -> None:
    place = copy_of_finished("one")
    before = set(place.store("student").iterdir())
    distill = {"num_steps": 4}
    place.run(params=by_ray(two_nodes, **{m: {"distill": distill} for m in ("shape", "texture")}), namespaces=["shape"])
    assert len([path for path in set(place.store("student").iterdir()) - before if path.is_dir()]) == 1


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc to look for processes")
def test_a_study_ends_in_the_same_bits_with_a_worker_killed(
    copy_of_finished: Callable[[str], Place],
    two_nodes: str,  # noqa: F811
) -> None:
    alone, killed = copy_of_finished("alone"), copy_of_finished("killed")
    study = {"ablation": STUDY | {"fit": {"num_images": 1600, "checkpoint_every_steps": 5}}}
    alone.run(params=study, pipeline_names=["ablation"])
    draw, ended, hits = random.Random(19), threading.Event(), list[int]()

    def kill_one() -> None:
        while not ended.wait(0.02):
            if partial_files(killed.store("classifier"), "scratch/checkpoint.pt") and (
                there := workers_at_work(two_nodes)
            ):
                hits.append(draw.choice(there))
                os.kill(hits[0], signal.SIGKILL)
                return

    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        killed.run(params=by_ray(two_nodes, **study), pipeline_names=["ablation"])
    finally:
        ended.set()
        killer.join()
    assert hits, "no worker was seen at work"
    for kind in ("classifier", "cell"):
        assert content_of(killed.store(kind)) == content_of(alone.store(kind))
    for name in ("ablation.csv", "ablation.parquet", "ablation_confusion.parquet"):
        assert killed.saved(f"07_tables/*/{name}").read_bytes() == alone.saved(f"07_tables/*/{name}").read_bytes()
