"""What `kedro run --params` understands, and what is recorded of a command."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from kedro.pipeline import node, pipeline

from skdcgn_pipeline.cli import cli, read_params, run
from skdcgn_pipeline.hooks import command_again, settings_read


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("", {}),
        ("seed=3, teacher.name=custom", {"seed": 3, "teacher": {"name": "custom"}}),
        (
            "sample.shard_range=[0,100],sample.classes=0-9",
            {"sample": {"shard_range": [0, 100], "classes": "0-9"}},
        ),
        ("a=[[1,2],[3]],b={first: 0, last: 9}", {"a": [[1, 2], [3]], "b": {"first": 0, "last": 9}}),
        ("teacher.factory=module:make,a=x=y", {"teacher": {"factory": "module:make"}, "a": "x=y"}),
        ("assets=/data/my #1", {"assets": "/data/my #1"}),
        ("assets='/a,b',seed=1", {"assets": "/a,b", "seed": 1}),
        ('a=["p,q",r],b="it\'s"', {"a": ["p,q", "r"], "b": "it's"}),
        ("assets=/data/a[b,seed=3", {"assets": "/data/a[b", "seed": 3}),
        ("a=010,b=1:30,c=1_000,d=0x10", {"a": "010", "b": "1:30", "c": "1_000", "d": "0x10"}),
        ("a=true,b=null,c=,d=1e-3,e=-2", {"a": True, "b": None, "c": None, "d": 0.001, "e": -2}),
        ("a=...,b=x: y: z", {"a": "...", "b": "x: y: z"}),
    ],
)
def test_lists_are_one_value(text: str, read: dict[str, Any]) -> None:
    option = next(option for option in run.params if option.name == "params")
    assert read_params(click.Context(run), option, (text,)) == read


@pytest.mark.parametrize("text", ["seed", "=3", "a=1,[2,3]"])
def test_what_is_no_name_and_value_is_refused(text: str) -> None:
    result = CliRunner().invoke(cli, ["run", "--params", text])
    assert result.exit_code == 2
    assert "name=value" in result.output


def test_params_may_be_given_several_times() -> None:
    parsed = run.make_context("run", ["--params", "seed=1,prepare.copies=3", "--params", "prepare.copies=2"])

    assert parsed.params["params"] == {"seed": 1, "prepare": {"copies": 2}}


@pytest.mark.parametrize(
    "written",
    [
        "{seed: 3, sample: {classes: [0, 1]}, name: '010', assets: 'a, b', fetch: {mirror: 'https://me:word@host'}}",
        "\"seed=3,sample.classes=[0,1],name='010',assets='a, b',fetch.mirror=https://me:word@host\"",
    ],
)
def test_a_file_of_options_has_params_too(written: str, tmp_path: Path) -> None:
    (tmp_path / "options.yml").write_text(f"run:\n  env: test\n  params: {written}\n")
    file = ["--config", str(tmp_path / "options.yml")]

    parsed = run.make_context("run", file).params
    mirror = {"mirror": "https://me:word@host"}  # with its password
    read = {"seed": 3, "sample": {"classes": [0, 1]}, "name": "010", "assets": "a, b", "fetch": mirror}
    assert (parsed["env"], parsed["params"]) == ("test", read)
    assert run.make_context("run", [*file, "--params", "seed=4"]).params["params"] == {"seed": 4}


@pytest.mark.parametrize(
    "params",
    [
        {"seed": 3, "images": {"folder": "/data/my shoes, #1", "source": None}},
        {"sample": {"classes": [0, 1], "shard_range": None}, "teacher": {"factory": "module:make"}},
        {"name": "010", "variant": "null", "assets": "it's $HOME", "distill": {"rate": 1e-05, "on": False}},
    ],
)
def test_the_recorded_command_does_the_same_run_again(params: dict[str, Any]) -> None:
    asked = {"pipeline_names": ["sample", "distill"], "to_nodes": ["distill.shape.distil_student"], "tags": None}
    asked |= {"load_versions": {"students": "2026-01-01T00.00.00.000Z"}, "only_missing_outputs": True}
    command = command_again({"env": "test", "params": params}, asked)

    again = run.make_context("run", shlex.split(command)[2:]).params
    assert command.startswith("kedro run --env test --pipelines sample,distill ")
    assert (again["env"], again["params"], again["load_versions"]) == ("test", params, asked["load_versions"])
    assert (again["to_nodes"], again["only_missing_outputs"]) == (asked["to_nodes"], True)


def test_settings_that_a_run_reads() -> None:
    settings = {"seed": 0, "sample": {"classes": [1]}, "shape": {"distill": {"a": 1}}, "ablation": {"plan": True}}
    nodes = [node(repr, "params:sample", "a", name="a"), node(repr, "params:shape.distill", "b", name="b")]
    whole = node(repr, "parameters", "c", name="c", tags="report")

    named = {"seed": 0, "sample.classes": [1], "shape.distill.a": 1}
    assert settings_read(settings, pipeline(nodes[:1])) == {"seed": 0, "sample.classes": [1]}
    assert settings_read(settings, pipeline([*nodes, whole])) == named
    assert settings_read(settings, pipeline([whole], tags="ablation")) == named | {"ablation.plan": True}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--params", "sample.classes=[1"], "expected name=value in YAML, got 'sample.classes=[1'"),
        (["--env", ""], "expected a name, got nothing"),
        (["--pipelines", ""], "expected a name, got nothing"),
        (["--pipelines", ","], "expected a name, got nothing"),
        (["--nodes", " "], "expected a name, got nothing"),
        (["--runner", "Nope"], "'Nope' is not one of 'SequentialRunner', 'ThreadRunner'"),
        (["--runner", "ParallelRunner"], "is not one of"),
        (["--runner-params", "workers=1"], "unexpected keyword argument 'workers'"),
        (["--load-versions", "2026"], "'load_versions'"),
        (["--conf-source", "nowhere"], "does not exist"),
        (["--config", __file__], "test_cli.py"),
    ],
)
def test_option_that_cannot_be_meant_is_refused(arguments: list[str], told: str) -> None:
    result = CliRunner().invoke(cli, ["run", *arguments])

    assert result.exit_code == 2
    assert told in result.output
    assert isinstance(result.exception, SystemExit)
