"""No setting does nothing: each is read by code that is not there to check it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from skdcgn_pipeline.parameters import Parameters, Settings

CHECKS = ("field_validator", "model_validator")


def models_in(annotation: object) -> Iterator[type[Settings]]:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)


def all_settings() -> list[tuple[type[Settings], str]]:
    """Walk from all parameters to every setting."""
    seen: dict[type[Settings], None] = {}
    waiting: list[type[Settings]] = [Parameters]
    while waiting:
        model = waiting.pop()
        if model not in seen:
            seen[model] = None
            for field in model.model_fields.values():
                waiting.extend(models_in(field.annotation))
    return [(model, name) for model in seen for name in model.model_fields]


class Reads(ast.NodeVisitor):
    """Gathers what code reads: attributes, arguments that settings are spread over, and names in dictionaries."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if not any(name in ast.dump(decorator) for decorator in node.decorator_list for name in CHECKS):
            self.names |= {argument.arg for argument in [*node.args.args, *node.args.kwonlyargs]}
            self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.ctx, ast.Load):
            self.names.add(node.attr)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if node.value in ("shape", "texture", "background"):  # read by the name of a mechanism
            self.names.add(str(node.value))

    def visit_Dict(self, node: ast.Dict) -> None:
        """Weights are read by the names of the losses that a task gives."""
        self.names |= {str(key.value) for key in node.keys if isinstance(key, ast.Constant)}
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if isinstance(node.slice, ast.Constant):
            self.names.add(str(node.slice.value))
        self.generic_visit(node)


@pytest.fixture(scope="module")
def read(project: Path) -> set[str]:
    reads = Reads()
    for path in (project / "src").rglob("*.py"):
        reads.visit(ast.parse(path.read_text(encoding="utf-8")))
    return reads.names


@pytest.mark.parametrize(
    ("model", "name"), all_settings(), ids=[f"{model.__name__}.{name}" for model, name in all_settings()]
)
def test_setting_is_read(read: set[str], model: type[Settings], name: str) -> None:
    assert name in read, f"{model.__name__}.{name} changes nothing"
