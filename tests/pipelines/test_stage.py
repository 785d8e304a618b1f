"""Where the composition's transformations are applied, by `compose.stage`."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from skdcgn_pipeline.artifacts.recipe import Run, Store
from skdcgn_pipeline.parameters import Compose, Composition
from skdcgn_pipeline.pipelines.benchmark import nodes as benchmark_nodes
from skdcgn_pipeline.pipelines.classify import nodes as classify_nodes
from skdcgn_pipeline.pipelines.compose import nodes as compose_nodes

TURNED = Composition(transformations={"shape": [{"kind": "rotation", "strength": 180.0}]}, patch_shift=False)
UNTURNED = Composition(patch_shift=False)


def settings(stage: str) -> Compose:
    return Compose(num_pool_images_per_class=2, num_images=12, rows_per_shard=5, composition=TURNED, stage=stage)


class Reached(Exception):  # noqa: N818
    """Carries the composition that a node handed on."""


def hand_back(*arguments: Any, **named: Any) -> None:
    raise Reached(next(one for one in (*arguments, *named.values()) if isinstance(one, Composition)))


def handed_on(node: Any, *arguments: Any) -> Composition:
    with pytest.raises(Reached) as reached:
        node(*arguments)
    return reached.value.args[0]


class Anything:
    """Has every attribute, can be called and holds nothing."""

    def __getattr__(self, name: str) -> Anything:
        return Anything()

    def __call__(self, *arguments: Any) -> Anything:
        return Anything()

    def __iter__(self) -> Iterator[Any]:
        return iter(())


@pytest.mark.parametrize(("stage", "expected"), [("compose", TURNED), ("teacher", UNTURNED)])
def test_stored_counterfactuals_are_transformed_at_their_stage(tmp_path, tiny_samples, stage, expected):
    shards = compose_nodes.compose_counterfactuals(Run(Store(tmp_path)), tiny_samples, settings(stage), {})
    assert shards.artifact.inputs["composition"] == expected.identity()


@pytest.mark.parametrize(("stage", "expected"), [("compose", TURNED), ("teacher", UNTURNED)])
def test_classifiers_and_benchmark_compose_at_the_same_stage(monkeypatch, stage, expected):
    classification = Anything()
    classification.training_sets = hand_back
    classification.settings = SimpleNamespace(trained_on=("teacher", "students"))
    monkeypatch.setattr(classify_nodes, "Classification", lambda *arguments: classification)
    monkeypatch.setattr(benchmark_nodes, "Workload", hand_back)
    others = [Anything()] * 7
    learnt_from = [*others[:3], settings(stage), {}, *others[:4]]
    assert handed_on(classify_nodes.train_classifiers, *learnt_from) == expected
    parameters = Anything()
    parameters.compose, parameters.class_lists = settings(stage), {}
    monkeypatch.setattr(benchmark_nodes, "check_parameters", lambda raw: parameters)
    assert handed_on(benchmark_nodes.measure_costs, *others[:7]) == expected
