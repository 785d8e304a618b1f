"""What runs at the scale of the settings: digits with a known bias, or ImageNet's folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

IMAGENET = "imagenet"
# Stages that are made for one of the scales; all others serve both.
DIGITS_STAGES = frozenset(
    {"prepare", "teacher", "classify", "release", "results", "export", "export_released", "explore"}
)
IMAGENET_STAGES = frozenset({"ensemble"})
DEFAULT, REPORT, ENSEMBLE = "__default__", "report", "ensemble"
FEATURE_NETWORK = "fit_feature_network"


def is_imagenet(parameters: Mapping[str, Any]) -> bool:
    """Tell whether parameters, as the configuration gives them, are those of ImageNet's scale."""
    return (parameters.get("images") or {}).get("source") == IMAGENET


def with_ensembles(names: Sequence[str]) -> list[str]:
    """Return the pipelines to run at ImageNet's scale, where the report tells of ensembles."""
    names = list(names) or [DEFAULT]
    return [*names, ENSEMBLE] if {DEFAULT, REPORT} & {*names} and ENSEMBLE not in names else names


def applies(node: Node, parameters: Mapping[str, Any]) -> bool:
    """Tell whether a node has a use with these parameters."""
    if not is_imagenet(parameters):
        return not node.tags & IMAGENET_STAGES
    if node.name == FEATURE_NETWORK:
        return bool(parameters["prepare"].get("given_features"))
    return not node.tags & DIGITS_STAGES


def applicable_nodes(pipeline: Pipeline, parameters: Mapping[str, Any]) -> list[str]:
    """Return the names of the nodes of a pipeline that have a use with these parameters."""
    return [node.name for node in pipeline.nodes if applies(node, parameters)]


def is_without_its_stage(name: str, pipeline: Pipeline, parameters: Mapping[str, Any]) -> bool:
    """Tell whether nothing is left of the stage that a pipeline is named after."""
    own = [node for node in pipeline.nodes if name in node.tags]
    return bool(own) and not any(applies(node, parameters) for node in own)
