"""Several processes or GPUs distil students together, started by `torchrun` or, with `engine.name=ray`, by Ray Train.

    torchrun --nproc-per-node N -m skdcgn_pipeline.distil_parallel
    python -m skdcgn_pipeline.distil_parallel --params engine.name=ray,engine.workers=N

The first process draws the teacher's samples as `kedro run` does; then all train. A later `kedro run` of the same
settings finds the students done.
"""

from __future__ import annotations

import logging
import signal
from functools import partial
from pathlib import Path
from typing import Any

import click
from kedro.framework.project import pipelines, settings
from kedro.framework.startup import bootstrap_project

from skdcgn_pipeline.artifacts.recipe import Store
from skdcgn_pipeline.artifacts.store import Artifact
from skdcgn_pipeline.cli import options
from skdcgn_pipeline.hooks import stopping_by_signals
from skdcgn_pipeline.io.terminal import errors_in_one_line
from skdcgn_pipeline.parameters import Parameters, check_parameters
from skdcgn_pipeline.pipelines.preflight import check_surroundings
from skdcgn_pipeline.runtime.compute import keep_freed_memory
from skdcgn_pipeline.runtime.engine import choose_engine
from skdcgn_pipeline.runtime.errors import check_choice
from skdcgn_pipeline.runtime.progress import clear_stop, request_stop
from skdcgn_pipeline.runtime.ray_engine import RayEngine
from skdcgn_pipeline.runtime.ray_train import call_together, check_gpus
from skdcgn_pipeline.samples.drawing import SampleShards
from skdcgn_pipeline.students.recipes import StudentRecipe, distil_together
from skdcgn_pipeline.training.parallel import ALONE, Processes, joined_processes, launched_processes
from skdcgn_pipeline.vocabulary import MECHANISMS


@click.command()
@click.argument("mechanisms", nargs=-1)
def distil(mechanisms: tuple[str, ...], env: str | None, params: dict[str, Any]) -> None:
    """Distil the students of MECHANISMS, all three by default, in the processes of torchrun or of Ray Train."""
    with errors_in_one_line():
        mechanisms = tuple(check_choice("mechanism", mechanism, MECHANISMS) for mechanism in mechanisms) or MECHANISMS
        bootstrap_project(Path.cwd())
        with settings.SESSION_CLASS.create(env=env, runtime_params=params) as session:
            config = session._get_config_loader()
            parameters, data_root = check_parameters(config["parameters"]), Path(str(config["globals"]["data"]))
            engine = choose_engine(parameters.engine)
            if isinstance(engine, RayEngine) and launched_processes() == 1:
                _distil_by_ray(mechanisms, session, parameters, data_root, engine)
            else:
                _distil_as_launched(mechanisms, session, parameters, data_root)


distil.params = [options["env"], options["params"], *distil.params]


def _distil_as_launched(mechanisms: tuple[str, ...], session: Any, parameters: Parameters, data_root: Path) -> None:
    """Draw samples in the first of torchrun's processes, then train in all; one process alone is the first."""
    with joined_processes(parameters.compute.device) as processes:
        if processes.rank == 0:
            samples = _draw(mechanisms, session, parameters, data_root)
            processes.tell(samples)
        else:
            logging.getLogger("skdcgn_pipeline").setLevel(logging.WARNING)
            samples = processes.hear()
        keep_freed_memory()
        clear_stop()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: request_stop())  # torchrun repeats what its group has had from Ctrl-C
        _train(mechanisms, samples, parameters, data_root, processes)
        if processes.rank == 0:
            _tell(mechanisms, samples, parameters, data_root)


def _distil_by_ray(
    mechanisms: tuple[str, ...], session: Any, parameters: Parameters, data_root: Path, engine: RayEngine
) -> None:
    """Draw samples in this process, then train in those that Ray Train starts, in one Ray."""
    check_gpus(engine)
    with engine.staying(log_to_driver=False):  # Ray Train complains every second that there is no dashboard
        samples = _draw(mechanisms, session, parameters, data_root)
        with stopping_by_signals():
            work = partial(_train_in_group, mechanisms, samples, parameters, data_root)
            call_together(engine, work, data_root)
    _tell(mechanisms, samples, parameters, data_root)


def _draw(mechanisms: tuple[str, ...], session: Any, parameters: Parameters, data_root: Path) -> Path:
    """Check what the distillations need, draw the samples, and return where they are."""
    students = [f"{mechanism}_student" for mechanism in mechanisms]
    check_surroundings(parameters, data_root, pipelines["distill"].to_outputs(*students))
    return session.run(to_outputs=["teacher_samples"])["teacher_samples"].load().artifact.directory


def _train_in_group(mechanisms: tuple[str, ...], samples: Path, parameters: Parameters, data_root: Path) -> None:
    """Train in the group of processes that this one is in."""
    with joined_processes(parameters.compute.device) as processes:
        _train(mechanisms, samples, parameters, data_root, processes)


def _train(
    mechanisms: tuple[str, ...], samples: Path, parameters: Parameters, data_root: Path, processes: Processes
) -> None:
    """Train together with the other processes."""
    for mechanism in mechanisms:
        distil_together(Store(data_root / "stores"), _recipe(mechanism, samples, parameters, processes))


def _tell(mechanisms: tuple[str, ...], samples: Path, parameters: Parameters, data_root: Path) -> None:
    """Say where the students are."""
    for mechanism in mechanisms:
        click.echo(f"{mechanism}: {Store(data_root / 'stores').path(_recipe(mechanism, samples, parameters))}")


def _recipe(mechanism: str, samples: Path, parameters: Parameters, processes: Processes = ALONE) -> StudentRecipe:
    return StudentRecipe(
        mechanism,
        SampleShards(Artifact.open(samples)),
        parameters.students[mechanism],
        parameters.seed,
        parameters.compute,
        parameters.assets,
        processes,
    )


if __name__ == "__main__":
    distil()
