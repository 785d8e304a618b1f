"""Node functions with some arguments fixed, what nodes need, and the stage that each belongs to."""

import inspect
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

from kedro.pipeline import Pipeline, pipeline
from kedro.pipeline.node import Node

from skdcgn_pipeline.vocabulary import PLAN_TAG


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


def stage_of(node: Node) -> str:
    """Return the stage that a node belongs to."""
    return min(node.tags - {PLAN_TAG}, default="other")


def namespaces_of(node: Node) -> list[str]:
    """Return the names by which a node's namespace is asked for: its stage, and where it has one its mechanism."""
    return (node.namespace or "").split(".")


def in_stages(whole: Pipeline) -> Pipeline:
    """Return the same nodes and data sets, each stage's nodes in its namespace: one box in Kedro-Viz."""
    boxes = Pipeline([])
    for stage in sorted({stage_of(node) for node in whole.nodes}):
        nodes = Pipeline([node for node in whole.nodes if stage_of(node) == stage])
        if stage in {namespaces_of(node)[0] for node in nodes.nodes}:
            boxes += nodes
            continue
        parameters = {name for name in nodes.inputs() if name.startswith(("params:", "parameters"))}
        shared = nodes.inputs() - parameters
        boxes += pipeline(nodes, namespace=stage, inputs=shared, outputs=nodes.all_outputs(), parameters=parameters)
    return boxes
