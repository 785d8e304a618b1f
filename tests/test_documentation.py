"""The documentation: a page for every stage that names what goes in and out, and a site without warnings."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from configuration import merge
from skdcgn_pipeline.parameters import check_parameters
from skdcgn_pipeline.parameters.ablation import STUDIES
from skdcgn_pipeline.runtime.errors import SettingError

PAGE_OF = {"ensemble": "classify"}


@pytest.fixture(scope="module")
def stages() -> dict[str, tuple[set[str], set[str]]]:
    """What nodes of each stage read from other stages, and what they write."""
    pytest.importorskip("kedro", reason="needs Kedro: the stages are its pipelines")
    from skdcgn_pipeline.pipeline_registry import register_pipelines
    from skdcgn_pipeline.pipelines.variants import Variants

    def told(names: set[str]) -> set[str]:
        own = {re.sub(rf"^({'|'.join(STUDIES)})_(cells|study|examples)$", r"<study>_\2", name) for name in names}
        return {name for name in own if not name.startswith("params:")} - {
            "parameters",
            "run",
        }

    found = {}
    # What a stage becomes with other settings is told on the stage's page.
    varied = register_pipelines(Variants("trained", generated=False, random_networks=True, released=True))
    for name, pipeline in register_pipelines().items():
        if name != "__default__":
            nodes = [node for node in (*pipeline.nodes, *varied[name].nodes) if name in node.tags]
            outputs = {output for node in nodes for output in node.outputs}
            found[name] = (told({one for node in nodes for one in node.inputs} - outputs), told(outputs))
    return found


def test_every_stage_has_a_page_that_names_what_goes_in_and_out(
    project: Path, stages: dict[str, tuple[set[str], set[str]]]
) -> None:
    for stage, (inputs, outputs) in stages.items():
        page = (project / "docs" / "stages" / f"{PAGE_OF.get(stage, stage)}.md").read_text()
        _, _, after = page.partition("\n## In\n")
        read, _, written = after.partition("\n## Out\n")
        assert inputs <= set(re.findall(r"`([^`]+)`", read)), stage
        assert outputs <= set(re.findall(r"`([^`]+)`", written)), stage


def test_every_module_is_in_the_reference(project: Path) -> None:
    source = project / "src" / "skdcgn_pipeline"
    modules = {
        ".".join(path.relative_to(source.parent).with_suffix("").parts)
        for path in source.rglob("*.py")
        if not path.name.startswith("__") and "pipelines" not in path.parts and path.name != "settings.py"
    }
    pages = "\n".join(path.read_text() for path in sorted((project / "docs" / "api").glob("*.md")))
    named = set(re.findall(r"^::: ([\w.]+)$", pages, re.MULTILINE))
    assert sorted(modules - named) == []


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(project: Path, tmp_path: Path) -> None:
    missing = [name for name in ("mkdocs", "material", "mkdocstrings") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (extra docs)")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    surroundings = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=project, env=surroundings, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    assert "WARNING" not in built.stderr
    pages = {str(path.relative_to(tmp_path / "site")) for path in (tmp_path / "site").rglob("*.html")}
    assert {"index.html", "stages/distill.html", "resuming.html", "scaling.html", "house.html"} <= pages
    assert "The house" in (tmp_path / "site" / "house.html").read_text()
    assert "skdcgn_pipeline.mechanisms.compose" in (tmp_path / "site" / "api" / "index.html").read_text()
    assert "shape.distill.num_steps" in (tmp_path / "site" / "stages" / "distill.html").read_text()


def documented_commands(project: Path) -> list[tuple[str, list[str]]]:
    """Return every `kedro run` of the Markdown pages with its arguments, but for those with words to fill in."""
    found = []
    for page in [*project.glob("*.md"), *(project / "docs").rglob("*.md")]:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        code = re.findall(r"^\s*(?:\w+=\S+ )*(kedro run\b.*)", text, re.MULTILINE)
        for line in code + re.findall(r"`(kedro run[^`]*)`", text):
            command = re.split(r" [&|]|;", line)[0]  # the first of several
            words = shlex.split(command, comments=True)[2:]
            if not {"NAME", "...", "variant=V"} & set(words):
                found.append((page.name, words))
    return found


def test_every_torchrun_of_the_documentation_is_understood(project: Path) -> None:
    pytest.importorskip("kedro", reason="needs Kedro: settings are read as it does")
    from skdcgn_pipeline.distil_parallel import distil

    text = "".join(
        page.read_text(encoding="utf-8") for page in [*project.glob("*.md"), *(project / "docs").glob("*.md")]
    )
    commands = re.findall(r"^(?:torchrun|python) .*-m skdcgn_pipeline\.distil_parallel *(.*)$", text, re.MULTILINE)
    assert len(commands) > 1
    assert all(distil.make_context("distil_parallel", shlex.split(words)).params["env"] for words in commands)


def test_every_command_of_the_documentation_is_understood(project: Path) -> None:
    pytest.importorskip("kedro", reason="needs Kedro: the commands are its")
    import click
    from kedro.config import OmegaConfigLoader

    from pipelines.running import settings_read_once
    from skdcgn_pipeline.cli import run
    from skdcgn_pipeline.pipeline_registry import register_pipelines
    from skdcgn_pipeline.pipelines.binding import namespaces_of
    from skdcgn_pipeline.settings import CONFIG_LOADER_ARGS

    pipelines = register_pipelines()
    commands, checked = documented_commands(project), set()
    assert len(commands) > 60
    for page, words in commands:
        try:
            options = run.make_context("kedro run", list(words)).params
        except click.UsageError as error:
            pytest.fail(f"{page}: kedro run {shlex.join(words)}: {error.message}")
        given, env = options["params"] or {}, options["env"] or "base"
        if (asked := json.dumps([env, given], sort_keys=True)) not in checked:  # many ask for the same settings
            checked.add(asked)
            with settings_read_once():
                loader = OmegaConfigLoader(
                    str(project / "conf"), env=env, runtime_params=given, **(CONFIG_LOADER_ARGS | {"base_env": "base"})
                )
                settings = loader["parameters"]
            merge(settings, given)
            try:
                check_parameters(settings)
            except SettingError as error:
                pytest.fail(f"{page}: kedro run {shlex.join(words)}: {error}")
        names = {*(options["pipelines"] or ()), options["pipeline"] or "__default__"}
        assert names <= set(pipelines), (page, words)
        there = {namespace for name in names for node in pipelines[name].nodes for namespace in namespaces_of(node)}
        assert set(options["namespaces"] or ()) <= there, (page, words)
