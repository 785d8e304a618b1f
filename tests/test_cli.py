"""What `kedro run --params` understands."""

from __future__ import annotations

from typing import Any

import click
import pytest
from click.testing import CliRunner

from skdcgn_pipeline.cli import cli, read_params, run


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
    ],
)
def test_lists_are_one_value(text: str, read: dict[str, Any]) -> None:
    option = next(option for option in run.params if option.name == "params")
    assert read_params(click.Context(run), option, text) == read


@pytest.mark.parametrize("text", ["seed", "=3", "a=1,[2,3]"])
def test_what_is_no_name_and_value_is_refused(text: str) -> None:
    result = CliRunner().invoke(cli, ["run", "--params", text])
    assert result.exit_code == 2
    assert "name=value" in result.output
