"""The project's command line: Kedro's own, whose `run --params` also takes lists, and `explore`."""

from __future__ import annotations

import copy
from typing import Any

import click
from kedro.framework.cli.project import run as kedro_run
from kedro.framework.project import settings
from omegaconf import OmegaConf

from skdcgn_pipeline.explorer import DEFAULT_PORT
from skdcgn_pipeline.io.terminal import errors_in_one_line


def split_items(text: str) -> list[str]:
    """Split at the commas that are outside of brackets and braces."""
    items, depth = [""], 0
    for character in text:
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth == 0:
            items.append("")
        else:
            items[-1] += character
    return [item.strip() for item in items if item.strip()]


def read_params(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """Read `a.b=1,c=[0,100]`; Kedro would take the list apart at its comma."""
    if isinstance(value, dict):
        return value
    pairs = []
    for item in split_items(value):
        name, equals, content = item.partition("=")
        if not equals or not name.strip():
            context.fail(f"--params takes name=value, separated by commas, got '{item}'")
        pairs.append(f"{name.strip()}={content.strip()}")
    return OmegaConf.to_container(OmegaConf.from_dotlist(pairs))


run = copy.copy(kedro_run)
run.params = [copy.copy(option) for option in kedro_run.params]
next(option for option in run.params if option.name == "params").callback = read_params


@click.command()
@click.option(
    "--port", type=int, default=DEFAULT_PORT, show_default=True, help="Of localhost; the next free one if it is taken."
)
@click.option("--browser/--no-browser", default=True, help="Open the page in the browser, or only tell its address.")
def explore(env: str | None, params: dict[str, Any], port: int, browser: bool) -> None:
    """Look at teacher, students and classifiers on a page of localhost.

    What the page needs is computed first, what is there already is reused.
    """
    from skdcgn_pipeline.explorer.bundle import open_explorer
    from skdcgn_pipeline.explorer.page import check_port, import_gradio, launch

    with errors_in_one_line():
        import_gradio()  # before minutes of work
        check_port(port)
        with settings.SESSION_CLASS.create(env=env, runtime_params=params) as session:
            written = session.run(pipeline_names=["explore"])["explorer"].load()
        folder = written.directory.resolve()
        click.echo(f"Without Kedro: python -m skdcgn_pipeline.explorer {folder}")
        launch(open_explorer(folder, trust=True), port, browser)  # of these settings, which are the user's own


explore.params = [option for option in run.params if option.name in ("env", "params")] + explore.params


@click.group()
def cli() -> None:
    """Commands of the project."""


cli.add_command(run)
cli.add_command(explore)
