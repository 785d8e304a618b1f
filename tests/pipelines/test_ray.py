"""The same artifacts, to the bit, from workers of Ray on two nodes as from one process, whichever worker is killed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.running import Finished, Place, artifacts_in, content_of, partial_files
from ray_cluster import two_nodes  # noqa: F401  (a fixture)
from skdcgn_pipeline.artifacts.recipe import Run
from skdcgn_pipeline.parameters import flatten
from skdcgn_pipeline.vocabulary import MECHANISMS

pytestmark = pytest.mark.slow

TO_CELLS = {"pipeline_names": ["ablation"], "to_nodes": ["ablation.gather_cells"]}
STUDY = {"ablation": {"study": ["mixing"], "fit": {"num_images": 1600, "checkpoint_every_steps": 5}}}


def by_ray(address: str, **settings: Any) -> dict[str, Any]:
    return settings | {"engine": {"name": "ray", "workers": 2, "address": address}}


@pytest.fixture(scope="module")
def run_alone(
    finished: tuple[Place, Finished], tracking_uri: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Place]:
    """Continue a copy of the finished run in one process, the same settings once; the place is only looked at."""
    places = dict[str, Place]()

    def run(settings: dict[str, Any], **options: list[str]) -> Place:
        asked = json.dumps([settings, options])
        if asked not in places:
            data = tmp_path_factory.mktemp("alone") / "data"
            shutil.copytree(finished[0].data, data)
            places[asked] = Place(data, tracking_uri)
            places[asked].run(params=settings, **options)
        return places[asked]

    return run


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


def test_samples_students_and_classifiers_are_those_of_one_process(
    finished: tuple[Place, Finished],
    place: Place,
    two_nodes: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worked = list[str]()
    work_side_by_side = Run.work_side_by_side

    def note(run: Run, open_work: Any, units: Any, *titles: str) -> None:
        worked.extend(units)
        work_side_by_side(run, open_work, units, *titles)

    monkeypatch.setattr(Run, "work_side_by_side", note)
    done = place.run(params=by_ray(two_nodes), to_nodes=["classify.train_classifiers", "prepare.fit_feature_network"])
    expected, own = (content_of(each.data / "stores") for each in (finished[0], place))
    assert {name.partition("/")[0] for name in own} >= {"sample", "student", "classifier", "accuracy"}
    assert {name: expected.get(name) for name in own} == own

    sets = [f"{name}, seed {seed}" for name in ("originals", "teacher", "students") for seed in (0, 1)]
    assert [name for name in worked if name.startswith("samples")] == [f"samples, shard {n}" for n in range(3)]
    assert [name for name in worked if name.startswith("pool")] == [f"pool, shard {n}" for n in range(4)]
    assert [name for name in worked if "seed" in name] == sets
    assert len([name for name in worked if name.startswith("student ")]) == 3

    here, there = (each.run_of(run).data.metrics for each, run in ((place, done), finished))
    losses = {name: value for name, value in here.items() if "/loss/" in name}
    assert {name.partition("/loss/")[0] for name in losses} >= {*MECHANISMS, "classifier/students/seed_1"}
    assert losses == {name: value for name, value in there.items() if "/loss/" in name}


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
    run_alone: Callable[..., Place],
    two_nodes: str,  # noqa: F811
) -> None:
    alone, killed = run_alone(STUDY, **TO_CELLS), copy_of_finished("killed")
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
        killed.run(params=by_ray(two_nodes, **STUDY), **TO_CELLS)
    finally:
        ended.set()
        killer.join()
    assert hits, "no worker was seen at work"
    for kind in ("classifier", "cell"):
        assert content_of(killed.store(kind)) == content_of(alone.store(kind))
    for name in ("ablation.csv", "ablation.parquet", "ablation_confusion.parquet"):
        assert killed.saved(f"07_tables/*/{name}").read_bytes() == alone.saved(f"07_tables/*/{name}").read_bytes()


STEPS = {"num_steps": 100, "batch_size": 32, "checkpoint_every_steps": 5, "log_every_steps": 2}


@pytest.mark.parametrize(
    ("asked", "to", "kind", "options", "settings"),
    [
        pytest.param(
            *(signal.SIGINT, os.killpg, "student", {"namespaces": ["shape"]}, {"shape": {"distill": STEPS}}),
            id="ctrl-c",
        ),
        pytest.param(
            *(signal.SIGTERM, os.kill, "classifier", TO_CELLS, STUDY),
            id="term",
        ),
    ],
)
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc to look for processes")
def test_a_signal_ends_the_run_with_its_ray_and_the_rest_is_the_same(
    copy_of_finished: Callable[[str], Place],
    run_alone: Callable[..., Place],
    asked: signal.Signals,
    to: Callable[[int, int], None],
    kind: str,
    options: dict[str, list[str]],
    settings: dict[str, Any],
) -> None:
    pytest.importorskip("ray", reason='needs Ray: pip install "skdcgn_pipeline[ray]"')
    stopped = copy_of_finished("stopped")
    before = artifacts_in(stopped.store(kind))
    flags = {name: f"--{name.replace('pipeline_names', 'pipelines').replace('_', '-')}" for name in options}
    params = [f"{name}={value}" for name, value in flatten(settings | {"engine": {"name": "ray"}}).items()]

    status, output = stopped.stop_when(
        lambda: bool(partial_files(stopped.store(kind), "scratch/checkpoint.pt")),
        *(part for name, values in options.items() for part in (flags[name], *values)),
        *("--params", ",".join(params)),
        by=asked,
        to=to,
    )

    assert status == 130, output
    stopped.wait_until_alone()
    message = " ".join(output[output.index("Error: ") :].split())
    assert "everything so far is saved. Repeat the same command to go on" in message
    assert "Traceback" not in output
    assert partial_files(stopped.store(kind), "scratch/checkpoint.pt")
    done = artifacts_in(stopped.store(kind)) - before

    whole = run_alone(settings, **options)
    stopped.run(params=settings, **options)
    assert done < artifacts_in(whole.store(kind)) - before
    assert content_of(stopped.store(kind)) == content_of(whole.store(kind))
