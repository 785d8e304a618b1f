"""What methods cost: seconds of their training and of making what they learn from, measured whenever it is asked for.

Some steps of each are timed, on one core as the units compute, and multiplied by the number of steps; no time is kept
with what was trained.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pandas as pd

from skdcgn_pipeline.classifiers.methods.contract import Method
from skdcgn_pipeline.classifiers.methods.erm import ERM
from skdcgn_pipeline.classifiers.methods.registry import METHODS
from skdcgn_pipeline.metrics.cost import wait_for_device
from skdcgn_pipeline.runtime.progress import without_progress
from skdcgn_pipeline.runtime.threads import computing_on
from skdcgn_pipeline.students.recipes import StudentRecipe
from skdcgn_pipeline.studies.method_units import MethodUnits
from skdcgn_pipeline.studies.training_data import Surroundings, Workplace
from skdcgn_pipeline.teachers.training import TeacherRecipe, TeacherTask
from skdcgn_pipeline.training.task import Task

COLUMNS = ["method", "training_seconds", "making_seconds"]
NUM_WARM_UP, NUM_TIMED = 2, 10


def seconds_per_step(task: Task[Any]) -> float:
    """Return the mean time of some steps of a training, drawing its batches included, after a few that do not count."""
    start = 0.0
    for step in range(NUM_WARM_UP + NUM_TIMED):
        if step == NUM_WARM_UP:
            wait_for_device()
            start = time.perf_counter()
        task.update(step, task.batch(step), noted=False)
    wait_for_device()
    return (time.perf_counter() - start) / NUM_TIMED


def measure_costs(surroundings: Surroundings, cells: pd.DataFrame) -> pd.DataFrame:
    """Measure what the methods cost that finished cells of the study `alternatives` chose.

    Returns:
        A row per method: `training_seconds` of one training, whatever was tried before, and `making_seconds` of the
        students, and of the teacher where the run trains one (without its style network); 0 for methods without
        counterfactuals, NaN for those of a teacher that was there.
    """
    finished = cells[cells["error"] == ""]
    if finished.empty:
        return pd.DataFrame(columns=COLUMNS)
    workplace, share = Workplace(surroundings), float(finished["conflicting_share"].max())
    with computing_on(1), without_progress():
        units = workplace.methods
        plain = seconds_per_step(units.task(ERM(), share))
        teacher, students = _teacher_seconds(workplace), sum(_student_seconds(workplace))
        rows = []
        for name, chosen in finished.groupby("method", sort=False)["hyperparameters"].first().items():
            method = METHODS[str(name)](**json.loads(chosen))
            making = teacher if "teacher" in method.uses else 0.0
            if "students" in method.uses:
                making = students + (0.0 if pd.isna(teacher) else teacher)
            rows.append((name, _training_seconds(units, method, share, plain), making))
    return pd.DataFrame(rows, columns=COLUMNS)


def _training_seconds(units: MethodUnits, method: Method, share: float, plain: float) -> float:
    """Return the seconds of all that a method trains; `plain` are those of a step of what some train first."""
    own = method.budget(units.fit)
    first = (units.fit.num_images - own.num_images) // units.fit.batch_size
    return first * plain + own.num_steps * seconds_per_step(units.task(method, share))


def _student_seconds(workplace: Workplace) -> Iterator[float]:
    """Yield the seconds of distilling each of the run's students."""
    run, parameters = workplace.surroundings.run, workplace.surroundings.parameters
    for mechanism, distill in parameters.students.items():
        recipe = StudentRecipe(mechanism, workplace.samples["teacher"], distill, run.seed, run.compute, run.assets)
        with recipe.opened() as (task, _):
            yield distill.num_steps * seconds_per_step(task)


def _teacher_seconds(workplace: Workplace) -> float:
    """Return the seconds of the training of the teacher, NaN where the run trains none."""
    run, parameters = workplace.surroundings.run, workplace.surroundings.parameters
    if parameters.teacher.name != "trained":
        return float("nan")
    fit = parameters.teacher.fit.model_copy(update={"num_measures": 0})
    style = parameters.prepare.feature_network
    style = style.model_copy(update={"num_images": style.batch_size})
    recipe = TeacherRecipe(workplace.images, fit, style, run.seed, run.compute, run.assets)
    return fit.num_steps * seconds_per_step(TeacherTask(recipe, recipe.open_style()))
