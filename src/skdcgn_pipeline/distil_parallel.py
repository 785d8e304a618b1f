"""Several processes or GPUs distil students together: `torchrun --nproc-per-node N -m skdcgn_pipeline.distil_parallel`.

The first process draws the teacher's samples as `kedro run` does; then all train. A later `kedro run` of the same
settings finds the students done.
"""

from __future__ import annotations

import logging
import signal
from pathlib import Path
from typing import Any

import click
from kedro.framework.project import pipelines, settings
from kedro.framework.startup import bootstrap_project

from skdcgn_pipeline.artifacts.recipe import Store
from skdcgn_pipeline.artifacts.store import Artifact
from skdcgn_pipeline.cli import options
from skdcgn_pipeline.io.terminal import errors_in_one_line
from skdcgn_pipeline.parameters import Parameters, check_parameters
from skdcgn_pipeline.pipelines.preflight import check_surroundings
from skdcgn_pipeline.runtime.compute import keep_freed_memory
from skdcgn_pipeline.runtime.errors import check_choice
from skdcgn_pipeline.runtime.progress import clear_stop, request_stop
from skdcgn_pipeline.samples.drawing import SampleShards
from skdcgn_pipeline.students.recipes import StudentRecipe, distil_together
from skdcgn_pipeline.training.parallel import Processes, joined_processes
from skdcgn_pipeline.vocabulary import MECHANISMS


@click.command()
@click.argument("mechanisms", nargs=-1)
def distil(mechanisms: tuple[str, ...], env: str | None, params: dict[str, Any]) -> None:
    """Distil the students of MECHANISMS, all three by default, in the processes that torchrun has started."""
    with errors_in_one_line():
        mechanisms = tuple(check_choice("mechanism", mechanism, MECHANISMS) for mechanism in mechanisms) or MECHANISMS
        bootstrap_project(Path.cwd())
        with settings.SESSION_CLASS.create(env=env, runtime_params=params) as session:
            config = session._get_config_loader()
            parameters, data_root = check_parameters(config["parameters"]), Path(str(config["globals"]["data"]))
            with joined_processes(parameters.compute.device) as processes:
                _distil(mechanisms, session, parameters, data_root, processes)


distil.params = [options["env"], options["params"], *distil.params]


def _distil(
    mechanisms: tuple[str, ...], session: Any, parameters: Parameters, data_root: Path, processes: Processes
) -> None:
    """Draw samples in the first process, then train in all."""
    store = Store(data_root / "stores")
    if processes.rank == 0:
        students = [f"{mechanism}_student" for mechanism in mechanisms]
        check_surroundings(parameters, data_root, pipelines["distill"].to_outputs(*students))
        samples = session.run(to_outputs=["teacher_samples"])["teacher_samples"].load()
        processes.tell(samples.artifact.directory)
    else:
        logging.getLogger("skdcgn_pipeline").setLevel(logging.WARNING)
        samples = SampleShards(Artifact.open(processes.hear()))
    keep_freed_memory()
    clear_stop()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: request_stop())
    for mechanism in mechanisms:
        recipe = StudentRecipe(
            mechanism,
            samples,
            parameters.students[mechanism],
            parameters.seed,
            parameters.compute,
            parameters.assets,
            processes,
        )
        student = distil_together(store, recipe)
        if processes.rank == 0:
            click.echo(f"{mechanism}: {student.artifact.directory}")


if __name__ == "__main__":
    distil()
