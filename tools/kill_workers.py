"""Kill workers of Ray at random moments, again and again: what is finished must have the bits of a run in one process.

    python tools/kill_workers.py --kills 20 --seed 0
    python tools/kill_workers.py --head --kills 6

Samples are drawn, students distilled and cells of a study run in the `test` environment: once by `engine.name=local`,
once by Ray undisturbed, which tells how long each part takes, then in fresh data roots with a kill in each of the three
parts, at a moment that is drawn within its time. SIGKILL comes to one worker that runs a unit, or to the actor between
run and workers. With `--head` it comes to the run with its whole Ray, and the same command is given again. SHA-256 of
every file in the store and of the study's tables are compared; the exit code is 1 if any differs. For Linux: processes
are found in /proc, by their data root.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
PARTS = {"sampling": {"sample"}, "distillation": {"student"}, "study": {"classifier", "cell"}}  # kinds of artifacts
TABLES = ("ablation", "ablation_summary", "ablation_confusion", "ablation_failures", "cells_mixing")
STEPS = [f"{mechanism}.distill.num_steps=150" for mechanism in ("shape", "texture", "background")]
SETTINGS = [
    *("sample.num_images_per_class=100", "sample.rows_per_shard=100", *STEPS),
    *("ablation.study=[mixing]", "ablation.fit.num_images=1600", "ablation.fit.checkpoint_every_steps=5"),
]
BY_RAY = [*SETTINGS, "engine.name=ray", "engine.workers=2"]
WORKS, POST = "ray::_work_in_worker", "ray::Post"  # titles of workers; whole nodes hang on those of Ray's own agents
POLL_SECONDS = 0.05
DEADLINE_SECONDS = 600.0

logger = logging.getLogger("kill_workers")


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="in all, up to three in a run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and of which worker it is")
    parser.add_argument("--head", action="store_true", help="kill the run with its whole Ray, then run it again")
    parser.add_argument("--out", type=Path, help="folder for the data roots; a temporary one by default")
    return parser.parse_args(arguments)


def processes_in(data: Path, title: str = "") -> dict[int, str]:
    """Return the titles of all processes of a data root, by their id; only those whose title begins so."""
    mark, found = f"SKDCGN_DATA={data}".encode(), {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended, or belongs to somebody else
            line = (folder / "cmdline").read_bytes()
            if line.startswith(title.encode()) and mark in (folder / "environ").read_bytes().split(b"\0"):
                found[int(folder.name)] = line.replace(b"\0", b" ").decode(errors="replace").strip()
    return found


def digests_in(folder: Path) -> dict[str, str]:
    """Return SHA-256 of every file below a folder by name, lock files aside."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@dataclass(frozen=True)
class Place:
    """A data root and what runs there.

    Attributes:
        data: The data root; no two places share one, so that it tells whose a process is.
    """

    data: Path

    def start(self, *settings: str) -> subprocess.Popen[bytes]:
        """Start the study in a process group of its own; what it prints goes to a file beside the data root."""
        params = ",".join(settings)
        command = [sys.executable, "-m", "kedro", "run", "--env", "test", "--pipelines", "ablation", "--params", params]
        surroundings = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "KEDRO_"))}
        surroundings |= {
            "SKDCGN_DATA": str(self.data),
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.data.parent}/mlflow.db",
            "OMP_NUM_THREADS": "1",
            "RAY_worker_niceness": "0",  # by Ray's own 15 its workers would wait for whatever else is computed
        }
        with self.log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603
                command, cwd=ROOT, env=surroundings, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def log(self) -> Path:
        """What was printed."""
        return self.data.with_suffix(".log")

    def processes(self, title: str = "") -> dict[int, str]:
        """Return what `processes_in` finds here."""
        return processes_in(self.data, title)

    def unfinished(self) -> list[str]:
        """Return the kinds of the artifacts that are being made."""
        return [path.parent.name for path in sorted(self.data.glob("stores/*/*.partial"))]

    def digests(self) -> dict[str, str]:
        """Return SHA-256 of every file in the store and of the newest tables of the study, by name."""
        digests = {f"stores/{name}": digest for name, digest in digests_in(self.data / "stores").items()}
        for table in (path for name in TABLES for path in self.data.glob(f"07_tables/*/{name}.*")):
            digests[str(table.relative_to(self.data))] = digests_in(max(table.iterdir()))[table.name]
        return digests


def differences(expected: Mapping[str, str], got: Mapping[str, str]) -> list[str]:
    """Return the names that only one side has, or whose digests differ."""
    return sorted(name for name in expected.keys() | got.keys() if expected.get(name) != got.get(name))


@dataclass
class Clock:
    """When parts of a run were first and last seen at work.

    Attributes:
        place: Where the run is.
        by_workers: Whether a part counts only while a worker runs a unit.
        seen: First and last time by part.
    """

    place: Place
    by_workers: bool
    seen: dict[str, tuple[float, float]] = field(default_factory=dict)

    def look(self) -> set[str]:
        """Return the parts that are at work now."""
        kinds = set(self.place.unfinished())
        parts = {part for part, own in PARTS.items() if own & kinds}
        if not parts or (self.by_workers and not self.place.processes(WORKS)):
            return set()
        now = time.monotonic()
        for part in parts:
            self.seen[part] = (self.seen.get(part, (now, now))[0], now)
        return parts

    def seconds(self) -> dict[str, float]:
        """Return how long each part was at work."""
        return {part: last - first for part, (first, last) in self.seen.items()}


def watch(process: subprocess.Popen[bytes], look: Callable[[], bool]) -> bool:
    """Look again and again until it says so; returns whether it did before the process ended."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while process.poll() is None:
        if look():
            return True
        if time.monotonic() > deadline:
            os.killpg(process.pid, signal.SIGKILL)
            raise SystemExit(f"a run has not come to its end after {DEADLINE_SECONDS:.0f} s")
        time.sleep(POLL_SECONDS)
    return False


def finish(place: Place, process: subprocess.Popen[bytes]) -> str:
    """Wait for the end of a run and of all its processes; returns what is wrong with it, or nothing."""
    watch(process, lambda: False)
    deadline = time.monotonic() + 60
    while (left := place.processes()) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    if process.returncode:
        return f"exit code {process.returncode}, see {place.log}"
    return f"processes {sorted(left)} stay behind" if left else ""


def measure(place: Place, by_workers: bool) -> dict[str, float]:
    """Run undisturbed; returns for how long each part was at work."""
    process, clock = place.start(*BY_RAY), Clock(place, by_workers)
    watch(process, lambda: not clock.look() and False)
    if wrong := finish(place, process):
        raise SystemExit(f"the undisturbed run: {wrong}")
    return clock.seconds()


@dataclass
class Killer:
    """Kills in each part of a run once, when its moment has come.

    Attributes:
        place: Where the run is.
        moments: Seconds after the beginning of a part, by part; those that have come are taken out.
        draw: Chooses one of the workers.
        head: Whether to kill the run with its Ray rather than a worker.
    """

    place: Place
    moments: dict[str, float]
    draw: random.Random
    head: bool

    def __post_init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.clock = Clock(self.place, not self.head)

    def run(self) -> str:
        """Run to the end, by the same command again where the run is killed; returns what is wrong, or nothing."""
        while True:
            process = self.place.start(*BY_RAY)
            self.clock = Clock(self.place, not self.head)
            if not watch(process, partial(self._kills, process)):
                return finish(self.place, process)
            process.wait()

    def _kills(self, process: subprocess.Popen[bytes]) -> bool:
        """Kill if a moment has come; returns whether the run has been killed."""
        for part in self.clock.look() & self.moments.keys():
            if time.monotonic() - self.clock.seen[part][0] < self.moments[part]:
                continue
            kinds = ", ".join(self.place.unfinished())
            if self.head:
                os.killpg(process.pid, signal.SIGKILL)  # workers are groups of their own and must end by themselves
                killed = "the run"
            else:
                workers = self.place.processes(WORKS) | self.place.processes(POST)
                if not workers:
                    continue
                number = self.draw.choice(sorted(workers))
                os.kill(number, signal.SIGKILL)
                killed = workers[number]
            moment = f"{self.moments.pop(part):.2f} s"
            self.rows.append({"part": part, "moment": moment, "killed": killed, "in the making": kinds})
            return self.head
        return False


def kill_in_runs(
    folder: Path, asked: argparse.Namespace, seconds: dict[str, float], expected: Mapping[str, str]
) -> Any:
    """Kill in one run after the other until there are as many kills as asked for; returns a table of them."""
    draw, rows = random.Random(asked.seed), list[dict[str, Any]]()
    while len(rows) < asked.kills:
        place = Place(folder / f"{1 + (rows[-1]['run'] if rows else 0):02}")
        hits = [row["part"] for row in rows]
        parts = sorted(seconds, key=hits.count)[: asked.kills - len(rows)]
        killer = Killer(place, {part: draw.random() * seconds[part] for part in parts}, draw, asked.head)
        wrong, other = killer.run(), differences(expected, place.digests())
        same = "NO: " + "; ".join([wrong, *other[:3]]) if wrong or other else "yes"
        for row in killer.rows:
            rows.append({"kill": len(rows) + 1, "run": int(place.data.name), **row, "same bits": same})
            logger.info("%s", rows[-1])
        for part, moment in killer.moments.items():
            logger.info("%s was over before %.2f s", part, moment)
            seconds[part] = min(seconds[part], killer.clock.seconds().get(part, seconds[part]))
        if same == "yes":
            shutil.rmtree(place.data)
        elif not killer.rows:
            raise SystemExit(f"a run without a kill: {same}")
    return pd.DataFrame(rows)


def main(arguments: list[str]) -> int:
    """Kill, compare, tell; returns the exit code."""
    asked = parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder = asked.out or Path(tempfile.mkdtemp(prefix="kills-"))
    folder.mkdir(parents=True, exist_ok=True)
    reference, undisturbed = Place(folder / "reference"), Place(folder / "undisturbed")
    if wrong := finish(reference, reference.start(*SETTINGS, "engine.name=local")):
        raise SystemExit(f"the reference: {wrong}")
    expected = reference.digests()
    seconds = measure(undisturbed, not asked.head)
    if other := differences(expected, undisturbed.digests()):
        raise SystemExit(f"Ray undisturbed has other bits: {other}")
    took = ", ".join(f"{part} {of_part:.1f} s" for part, of_part in seconds.items())
    logger.info("%d files; by Ray undisturbed the same; %s", len(expected), took)
    table = kill_in_runs(folder, asked, seconds, expected)
    num_same = int((table["same bits"] == "yes").sum())
    logger.info("%s\n%d of %d", table.to_string(index=False), num_same, len(table))
    return int(num_same < len(table))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
