"""Measure what an engine costs: a study of digits by processes and by Ray, in turns, with one worker and with two.

    python tools/engine_overhead.py --repetitions 3

The study is that of transformations as in conf/base, with the samples and students of the `test` environment, which
are made once and are the same for all. Each command starts from a copy without classifiers and cells, every other turn
in reverse order.
`command` is from its start to its end, `cells` from the start of the first cell to the end of the last, `busy` the
share of that time in which workers are at a cell; `to processes` is the ratio to the `processes` of as many workers
in the same turn, so that what disturbs the machine for long disturbs both. At the end, how long the cells of the last
run would take on more workers by list scheduling: a simulation, without what grows with workers.
"""

from __future__ import annotations

import argparse
import heapq
import json
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import yaml
from kill_workers import Place, finish

SETTINGS = Path("conf/base/parameters_ablation.yml")
MODES = ["processes:2", "ray:2", "processes:1", "ray:1"]
WORKERS = (1, 2, 4, 8, 16, 32, 64)

logger = logging.getLogger("engine_overhead")


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3, help="turns of all modes")
    parser.add_argument("--modes", nargs="+", default=MODES, help="engine:workers, in the order of a turn")
    parser.add_argument("--seeds", type=int, default=3, help="per cell, at least 2; 3 in conf/base")
    parser.add_argument("--images", type=int, default=3200, help="that each classifier learns from; 3200 in conf/base")
    return parser.parse_args(arguments)


def list_schedule(seconds: Sequence[float], workers: int) -> float:
    """Return how long units take that start in order, each on the worker that is free first.

    Args:
        seconds: Of each unit, >= 0.
        workers: How many, >= 1.
    """
    free = [0.0] * workers
    for of_unit in seconds:
        heapq.heapreplace(free, free[0] + of_unit)
    return max(free)


def seconds_of_cells(folder: Path, since: float) -> pd.DataFrame:
    """Return start and end, in seconds, of the cells that MLflow has seen since a time; those were computed then."""
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    asked = f"tags.computed = 'in this run' and attributes.start_time >= {int(since * 1000)}"
    runs = client.search_runs(experiments, asked, max_results=10_000, order_by=["attributes.start_time"])
    return pd.DataFrame(
        [(run.info.start_time / 1000, run.info.end_time / 1000) for run in runs], columns=["start", "end"]
    )


def run_once(ready: Path, mode: str, settings: Sequence[str]) -> tuple[dict[str, Any], list[float]]:
    """Run the study in a copy; returns a row of the table and the seconds of its cells."""
    engine, workers = mode.split(":")
    place = Place(ready.with_name("run"))
    shutil.copytree(ready, place.data)
    for kind in ("cell", "classifier"):
        shutil.rmtree(place.data / "stores" / kind, ignore_errors=True)
    since, start = time.time(), time.perf_counter()
    process = place.start(*settings, f"engine.name={engine}", f"engine.workers={workers}")
    process.wait()
    command = time.perf_counter() - start
    if wrong := finish(place, process):
        raise SystemExit(f"{mode}: {wrong}")
    shutil.rmtree(place.data)
    cells = seconds_of_cells(place.data.parent, since)
    row: dict[str, Any] = {"engine": engine, "workers": int(workers), "command": command}
    seconds = [*(cells["end"] - cells["start"])]
    row["cells"] = float(cells["end"].max() - cells["start"].min())
    row["busy"] = sum(seconds) / (int(workers) * row["cells"])
    return row, seconds


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Return medians and spreads by engine and workers, of times and of ratios inside a turn.

    Args:
        rows: `turn`, `engine`, `workers`, `command` and `cells` in seconds, `busy`.

    Returns:
        A row per engine and workers, each figure as `median (least to greatest)`.
    """
    rows = rows.copy()
    for column in ("command", "cells"):
        of_processes = rows[rows["engine"] == "processes"].set_index(["turn", "workers"])[column]
        base = of_processes.reindex(pd.MultiIndex.from_frame(rows[["turn", "workers"]])).to_numpy()
        rows[f"{column} to processes"] = rows[column] / base

    def tell(values: pd.Series) -> str:
        return f"{values.median():.2f} ({values.min():.2f} to {values.max():.2f})"

    figures = [name for name in rows.columns if name not in ("turn", "engine", "workers")]
    return rows.groupby(["engine", "workers"], as_index=False)[figures].agg(tell)


def main(arguments: list[str]) -> None:
    """Measure and tell."""
    asked = parse(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logger.setLevel(logging.INFO)
    ready = Place(Path(tempfile.mkdtemp(prefix="overhead-")) / "ready")
    settings = [f"ablation.num_seeds={asked.seeds}", f"ablation.fit.num_images={asked.images}"]
    settings += ["ablation.study=[transformations]"]
    for name, value in yaml.safe_load(SETTINGS.read_text())["ablation"]["transformations"].items():
        settings.append(f"ablation.transformations.{name}={json.dumps(value)}")
    if wrong := finish(ready, ready.start("ablation.study=[mixing]")):
        raise SystemExit(f"samples and students: {wrong}")
    rows, seconds = [], list[float]()
    for turn in range(asked.repetitions):
        for mode in asked.modes[:: -1 if turn % 2 else 1]:
            row, seconds = run_once(ready.data, mode, settings)
            rows.append({"turn": turn, **row})
            logger.info("%s, %d cells of %.2f s on average", rows[-1], len(seconds), sum(seconds) / len(seconds))
    logger.info("%s", summarise(pd.DataFrame(rows)).to_string(index=False))
    simulated = {workers: list_schedule(seconds, workers) for workers in WORKERS}
    logger.info("Simulated, %d cells of %s, %d workers:", len(seconds), rows[-1]["engine"], rows[-1]["workers"])
    for workers, wall in simulated.items():
        logger.info("%3d workers: %.1f s, %.1f times as fast as one", workers, wall, simulated[1] / wall)
    shutil.rmtree(ready.data.parent)


if __name__ == "__main__":
    main(sys.argv[1:])
