"""The project's command line: Kedro's own, whose `run --params` also takes lists."""

from __future__ import annotations

import copy
from typing import Any

import click
from kedro.framework.cli.project import run as kedro_run
from omegaconf import OmegaConf


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


@click.group()
def cli() -> None:
    """Commands of the project."""


cli.add_command(run)
