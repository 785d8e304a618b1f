"""Run the cells of studies: which are done, how long the others take, what came of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from typing import Any

import pandas as pd

from skdcgn_pipeline.classifiers.accuracy import confusion_rows
from skdcgn_pipeline.metrics.statistics import AVERAGED, DESCRIPTION
from skdcgn_pipeline.parameters import ClassifierFit
from skdcgn_pipeline.runtime.progress import Progress, without_progress
from skdcgn_pipeline.runtime.threads import computing_on
from skdcgn_pipeline.studies.contract import Cell, Unit, UnitResult
from skdcgn_pipeline.studies.training_data import Surroundings, Workplace

logger = logging.getLogger(__name__)

# What one core of a current server does.
CLASSIFIER_IMAGES_PER_SECOND = 2500
DISTILLATION_STEPS_PER_SECOND = 40
TEACHER_IMAGES_PER_SECOND = 400


def units_of(cells: Sequence[Cell], num_seeds: int) -> list[Unit]:
    """Return a unit per cell and seed."""
    return [Unit(cell, number) for cell in cells for number in range(num_seeds)]


def _open_work(surroundings: Surroundings) -> Callable[[Unit], dict[str, Any]]:
    workplace = Workplace(surroundings)

    def work(unit: Unit) -> dict[str, Any]:
        with computing_on(1), without_progress():  # the progress is left to the study
            return workplace.run(unit)

    return work


def run_units(
    units: Sequence[Unit],
    surroundings: Surroundings,
    tell: Callable[[UnitResult], None],
    title: str = "ablation",
) -> list[UnitResult]:
    """Run units by the run's engine; each computes on one thread, so that results do not depend on the workers.

    A unit that fails is told and the rest go on.

    Args:
        units, surroundings: What to run, and where everything is, the engine too.
        tell: Called in this process with every result as it comes.
        title: Shown in the progress.

    Returns:
        The results in the order of `units`.

    Raises:
        InterruptedRunError: If a stop was requested; every unit keeps what it has.
    """
    workplace = Workplace(surroundings)
    results = {
        number: UnitResult(unit, workplace.run(unit)) for number, unit in enumerate(units) if workplace.is_done(unit)
    }
    for result in results.values():
        tell(result)
    to_do = [number for number in range(len(units)) if number not in results]
    progress = Progress(title, len(units), "classifiers", len(results))
    engine, waiting = surroundings.run.engine, [units[number] for number in to_do]
    with closing(engine.outcomes(partial(_open_work, surroundings), waiting)) as outcomes:
        for place, outcome in outcomes:
            unit = units[to_do[place]]
            if outcome.error:
                result = UnitResult(unit, error=outcome.error)
                logger.error("%s, %s, seed %d failed: %s", title, unit.cell.name, unit.number, outcome.error)
            else:
                result = UnitResult(unit, outcome.result or {}, seconds=outcome.seconds)
            results[to_do[place]] = result
            tell(result)
            progress.advance_or_stop()
    progress.finish()
    return [results[number] for number in range(len(units))]


# --- what it will cost -------------------------------------------------------------------------------


def estimate_seconds(unit: Unit, surroundings: Surroundings) -> float:
    """Estimate how long a unit takes on a usual core."""
    data = unit.cell.data
    num_teacher_images = 0 if data.teacher_transformations is None else surroundings.ablation.stage.num_images
    return (
        surroundings.ablation.fit_of(unit.cell.study).num_images
        * max(1, len(data.hyperparameters))
        / CLASSIFIER_IMAGES_PER_SECOND
        + sum(distill.num_steps for distill in data.students) / DISTILLATION_STEPS_PER_SECOND
        + num_teacher_images / TEACHER_IMAGES_PER_SECOND
    )


def plan_units(units: Sequence[Unit], surroundings: Surroundings) -> pd.DataFrame:
    """Say which units are done and how long the others will take.

    Returns:
        A row per cell: `study`, `cell`, `seeds`, `done`, `seconds` of one core, `left` of them.
    """
    workplace = Workplace(surroundings) if surroundings.complete else None
    rows = []
    for unit in units:
        done = workplace is not None and workplace.is_done(unit)
        seconds = estimate_seconds(unit, surroundings)
        rows.append((unit.cell.study, unit.cell.name, 1, int(done), seconds, 0.0 if done else seconds))
    plan = pd.DataFrame(rows, columns=["study", "cell", "seeds", "done", "seconds", "left"])
    return plan.groupby(["study", "cell"], sort=False, as_index=False).sum()


def describe_plan(plan: pd.DataFrame, surroundings: Surroundings, cells: bool) -> str:
    """Put a plan into a table of studies, or of cells where they are asked for, and its sum into words."""
    parts = plan.groupby(["study", "cell"] if cells else ["study"], sort=False, as_index=False)
    table = parts[["seeds", "done", "left"]].sum().round().rename(columns={"left": "seconds"})
    workers = surroundings.run.engine.workers
    minutes = plan["left"].sum() / workers / 60
    done = f"{plan['done'].sum()} of {plan['seeds'].sum()} classifiers done"
    whole = f"In all, {len(plan)} cells: {done}, about {minutes:.0f} min with {workers} workers"
    lines = [table.to_string(index=False), whole]
    if not surroundings.complete:
        lines.append("Teacher samples and students are not there yet; they come first and are not counted.")
    return "\n".join(lines)


# --- tables ------------------------------------------------------------------------------------------

CELL_COLUMNS = [
    "study", "cell", *DESCRIPTION, *AVERAGED, "hyperparameters", "hyperparameters_with_groups", "candidates",
    "seed", "split", "subset", "accuracy", "num_images", "confusion", "error"
]  # fmt: skip
NUMBERS = [
    "strength", "per_shape", "dataset_size", "originals_share", "num_parameters", "distillation_steps", *AVERAGED,
    "conflicting_share", "accuracy", "num_images",
]  # fmt: skip


def tabulate(results: Sequence[UnitResult], fit: ClassifierFit) -> pd.DataFrame:
    """Return a row per unit, split and subset, with the columns `CELL_COLUMNS`.

    `confusion` is JSON (rows: true class, columns: predicted class) and the same for all subsets of a split. A failed
    unit has one row, with its `error` and without accuracy.
    """
    rows = []
    for result in results:
        described = {
            **result.unit.cell.describe(),
            **result.result.get("facts", {}),
            **result.result.get("chosen", {}),
            "seed": result.unit.number,
            "num_training_images": fit.num_images,
            "batch_size": fit.batch_size,
            "error": result.error,
        }
        for row in result.result.get("accuracy", [{}]):
            confusion = result.result["confusion"].get(row["split"]) if row else None
            rows.append({**described, **row, "confusion": json.dumps(confusion) if confusion else None})
    return pd.DataFrame(rows).reindex(columns=CELL_COLUMNS).astype(dict.fromkeys(NUMBERS, float))


def tabulate_confusion(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the confusion matrices of cells, class by class, see `confusion_rows`."""
    rows: list[dict[str, Any]] = []
    for cell in cells[(cells["subset"] == "all") & cells["confusion"].notna()].to_dict("records"):
        place = {name: cell[name] for name in ("study", "cell", "seed", "split")}
        counts = json.loads(cell["confusion"])
        rows += [place | row for row in confusion_rows(counts, range(len(counts)))]
    return pd.DataFrame(rows, columns=None if rows else ["study", "cell", "seed", "split", "label", "accuracy"])


def accuracy_of_cells(summary: pd.DataFrame) -> dict[str, float]:
    """Return the mean test accuracy of every cell by `<study>/<cell>`."""
    test = summary[(summary["split"] == "test") & (summary["subset"] == "all")]
    names = test["study"] + "/" + test["cell"]
    return dict(zip(names, test["mean_accuracy"], strict=True))
