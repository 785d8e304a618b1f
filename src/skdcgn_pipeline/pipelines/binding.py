"""Node functions with some arguments fixed, and what nodes need."""

import inspect
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

from kedro.pipeline.node import Node


def given(function: Callable[..., Any], **fixed: Any) -> Callable[..., Any]:
    """Return a function with arguments fixed by name, which Kedro and Kedro-Viz show by its own name and code."""

    @wraps(function)
    def bound(*inputs: Any) -> Any:
        return function(*inputs, **fixed)

    bound.__signature__ = inspect.signature(partial(function, **fixed))  # type: ignore[attr-defined]
    return bound


def needed_by(node: Node) -> list[str]:
    """Return the inputs of a node that may not be None, as its function says, in its order."""
    bound = inspect.signature(node.func, follow_wrapped=False).bind(*node.inputs)
    return [
        name
        for argument, names in bound.arguments.items()
        for name in (names if isinstance(names, tuple) else (names,))
        if "None" not in str(bound.signature.parameters[argument].annotation)
    ]
