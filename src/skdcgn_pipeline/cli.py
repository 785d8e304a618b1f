"""The project's command line: Kedro's own, whose `run --params` also takes lists, `explore` and `ui`."""

from __future__ import annotations

import copy
import importlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from kedro import runner
from kedro.framework.cli.project import run as kedro_run
from kedro.framework.project import settings
from omegaconf import OmegaConf

from skdcgn_pipeline import pipelines
from skdcgn_pipeline.explorer import DEFAULT_PORT
from skdcgn_pipeline.io.terminal import INTERRUPTED, errors_in_one_line
from skdcgn_pipeline.pipeline_registry import ENSEMBLE, names_of_pipelines
from skdcgn_pipeline.runtime.errors import told_in_one_line
from skdcgn_pipeline.vocabulary import RUNNERS

RUN: Any = kedro_run.callback
CONFIG: Any = next(option.callback for option in kedro_run.params if option.name == "config")
MAY_BE_EMPTY = ("params", "runner_params")


def split_items(text: str) -> list[str]:
    """Split at the commas that are outside of quotes, and of brackets and braces with which a value begins."""
    items, depth, quote = [""], 0, ""
    for character in text:
        value = items[-1].partition("=")[2].lstrip()
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"" and (depth or not value):
            quote = character
        elif character in "[{" and (depth or not value):
            depth += 1
        elif character in "]}" and depth:
            depth -= 1
        if character == "," and not quote and not depth:
            items.append("")
        else:
            items[-1] += character
    return [item.strip() for item in items if item.strip()]


def read_value(text: str) -> Any:
    """Read what stands behind an equals sign: YAML in brackets or quotes, else a number, a word or a path."""
    is_plain = not text.startswith(("[", "{", "'", '"'))
    try:
        (value,) = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"])).values()  # type: ignore[union-attr]
    except Exception:  # of YAML's readers there are many kinds
        if is_plain:
            return text
        raise
    # 010 would be 8, and 1:30 would be 90.
    is_odd = isinstance(value, int) and not isinstance(value, bool) and str(value) != text
    return text if is_plain and (is_odd or not isinstance(value, int | float | None)) else value


def read_params(context: click.Context, parameter: click.Parameter, value: Sequence[str]) -> Any:
    """Read `a.b=1,c=[0,100]`, given once or several times; Kedro would take the list apart at its comma."""
    read = OmegaConf.create()
    for item in split_items(",".join(value)):
        name, equals, content = item.partition("=")
        if not equals or not name.strip():
            context.fail(f"--params takes name=value, separated by commas, got '{item}'")
        try:
            OmegaConf.update(read, name.strip(), read_value(content.strip()), force_add=True)
        except Exception as error:  # noqa: BLE001  (of a reader's errors there are many kinds)
            context.fail(f"--params: expected name=value in YAML, got '{item}': {told_in_one_line(error)}")
    return OmegaConf.to_container(read)


def read_config(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """Read a file of options as Kedro does; its `params`, nested or as on the command line, become such items."""
    read = CONFIG(context, parameter, value)
    defaults = context.default_map or {}
    if isinstance(params := defaults.get("params"), Mapping):
        defaults["params"] = [f"{name}={json.dumps(setting)}" for name, setting in params.items()]
    elif params is not None:
        defaults["params"] = [str(params)]
    return read


def refusing(option: click.Parameter) -> Any:
    """Return an option that is told in one line when it is empty, which would run everything, or cannot be read."""
    checked: Any = copy.copy(option)
    read = {"config": read_config, "params": read_params}.get(str(option.name), option.callback)

    def callback(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        is_given = context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
        if is_given and isinstance(value, str) and not value.strip(" ,") and parameter.name not in MAY_BE_EMPTY:
            raise click.BadParameter("expected a name, got nothing. Leave out the option, or name something.")
        try:
            return read(context, parameter, value) if read else value
        except click.UsageError:
            raise
        except Exception as error:  # Kedro's own kind would be shown with its traceback
            raise click.BadParameter(f"{value}: {told_in_one_line(error)}") from error

    checked.callback = callback
    return checked


def run_checked(**chosen: Any) -> Any:
    """Run, unless the runner does not take its parameters."""
    try:
        getattr(runner, chosen["runner"] or RUNNERS[0])(**chosen["runner_params"])
    except (TypeError, ValueError) as error:
        raise click.BadParameter(told_in_one_line(error), param_hint="--runner-params") from error
    try:
        return RUN(**chosen)
    except KeyboardInterrupt:  # before a run listens for it
        raise click.exceptions.Exit(INTERRUPTED) from None


def _doc_of(name: str) -> str:
    return str(importlib.import_module(f"{pipelines.__name__}.{name}").__doc__)


def list_choices(context: click.Context, formatter: click.HelpFormatter) -> None:
    """Write a line for each pipeline, as its package says what it is for, and environment, as its settings do."""
    told = {"__default__": "The whole chain, which ends in the report.", ENSEMBLE: "Another name of classify."}
    with formatter.section("Pipelines"):
        formatter.write_dl([(name, told.get(name) or _doc_of(name)) for name in names_of_pipelines()])
    files = sorted(Path(settings.CONF_SOURCE).glob("*/parameters.yml"))
    first = {file.parent.name: file.read_text(encoding="utf-8").partition("\n")[0] for file in files}
    first["base"] = "# scikit-learn's digits"
    with formatter.section("Environments"):
        lines = [(name, f"{line.lstrip('# ').partition(':')[0]}.") for name, line in first.items()]
        formatter.write_dl([("local" if name == "base" else name, line) for name, line in lines])


run = copy.copy(kedro_run)
run.callback = run_checked
run.params = [refusing(option) for option in kedro_run.params]
options = {option.name: option for option in run.params}
options["params"].multiple, options["params"].default = True, ()
options["runner"].type = click.Choice(RUNNERS)
# Where Kedro's own words say what is otherwise here.
HELP = {
    "runner": "What runs the nodes, which use several cores themselves.",
    "params": "Settings: name=value, separated by commas, parts of a name by dots, lists in brackets; may be repeated. "
    "Example: --params classify.num_seeds=5,sample.classes=[0,1]",
    "env": "The environment, one of those below.  [default: local]",
    "pipeline": "The pipeline, one of those below.  [default: __default__]",
    "pipelines": "The same; several are separated by commas.",
    "namespaces": "A mechanism (shape, texture, background) or a stage, with all that it needs.",
}
for name, words in HELP.items():
    options[name].help = words
run.format_epilog = list_choices  # type: ignore[method-assign,assignment]


@click.command()
@click.option(
    "--port", type=int, default=DEFAULT_PORT, show_default=True, help="Of localhost; the next free one if it is taken."
)
@click.option("--browser/--no-browser", default=True, help="Open the page in the browser, or only tell its address.")
@click.option("--trust", is_flag=True, help="Run a FOLDER's teacher that can be any code (.pt2, .pt, a factory).")
@click.argument("folder", required=False, type=click.Path(path_type=Path))
def explore(
    env: str | None, params: dict[str, Any], port: int, browser: bool, trust: bool, folder: Path | None
) -> None:
    """Look at teacher, students and classifiers on a page of localhost.

    A FOLDER that an earlier call has named is opened as it is. Without one, what the page needs is computed first; what
    is there already is reused.
    """
    from skdcgn_pipeline.explorer.bundle import open_explorer
    from skdcgn_pipeline.explorer.page import check_port, import_gradio, launch

    if folder is not None and (env or params):
        raise click.UsageError("FOLDER has its settings: leave out --env and --params, or FOLDER.")
    with errors_in_one_line():
        import_gradio()  # before minutes of work
        check_port(port)
        if folder is None:
            with settings.SESSION_CLASS.create(env=env, runtime_params=params) as session:
                written = session.run(pipeline_names=["explore"])["explorer"].load()
            folder, trust = written.directory.resolve(), True  # of these settings, which are the user's own
            click.echo(f"Once more, at once: kedro explore {folder}")
            click.echo(f"Without Kedro: python -m skdcgn_pipeline.explorer {folder}")
        launch(open_explorer(folder, trust), port, browser)


explore.params = [options["env"], options["params"], *explore.params]


@click.command()
def ui(env: str | None) -> None:
    """Open MLflow's UI on localhost, and tell where the training runs are: its first page does not show them."""
    with errors_in_one_line(), settings.SESSION_CLASS.create(env=env) as session:
        context = session.load_context()
        from skdcgn_pipeline.io.mlflow_hook import server_of
        from skdcgn_pipeline.io.tracking import address_of

        mlflow = context.mlflow
        experiment = mlflow.tracking.experiment._experiment.experiment_id
        click.echo(f"Training runs: {address_of(server_of(context), experiment)}")
        store = mlflow.server.mlflow_tracking_uri
        if not store.startswith("http"):
            where = ["--backend-store-uri", store, "--host", mlflow.ui.host, "--port", mlflow.ui.port]
            sys.exit(subprocess.call([sys.executable, "-m", "mlflow", "ui", *where]))  # noqa: S603


ui.params = [options["env"]]


@click.group()
def cli() -> None:
    """Commands of the project."""


cli.add_command(run)
cli.add_command(explore)
cli.add_command(ui)
