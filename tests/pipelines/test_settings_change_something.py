"""No setting does nothing: each changes what nodes look for in the store or give, or is refused.

The chain and all studies are run until everything is finished, and then every setting is changed by itself. What a node
that reads it asks the store for is then not there, or what it gives differs, or the value is refused.
"""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np
import pandas as pd
import pytest
from kedro.pipeline.node import Node

from pipelines.running import Finished, Place, artifacts_in
from skdcgn_pipeline.artifacts import store
from skdcgn_pipeline.mechanisms import MECHANISMS
from skdcgn_pipeline.parameters import Parameters, Settings, check_parameters
from skdcgn_pipeline.pipelines.distill import nodes
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.studies.registry import STUDIES

pytestmark = pytest.mark.slow

PIPELINES = ["report", "ablation", "baseline", "teacher"]
STUDY_TABLES = "ablation", "ablation_cells"
# Tell all settings to whoever reads what they give: no proof that one does something.
ECHOES = {"tell_findings", "write_report"}
# Hands all settings on to the studies, which are asked about their own.
SURROUNDINGS = "surroundings"

# Of parts that are not run here, or leaving results as they are on purpose; the tests in which they do something.
ELSEWHERE = {
    "tests/pipelines/test_own_teacher.py": r"name",
    "tests/images/test_assets.py": r"assets|fetch\.(groups|mirror)",
    "tests/pipelines/test_prune.py": r"keep_last|prune\.confirm",
    "tests/artifacts/test_prune.py": r"prune\.unfinished_days",
    "tests/pipelines/test_stage.py": r"class_lists|compose\.stage",
    "tests/students/test_distillation.py": r".*\.(log_every_steps|fetch_threads)",
    "tests/pipelines/test_imagenet_chain.py": r"classify\.num_counterfactuals",
    "tests/pipelines/test_run_slices.py": r"ablation\.plan",
    "tests/students/test_baseline.py": r"baseline\.(num_measured_images|measure_every_steps|image_teacher_weights)",
    "tests/pipelines/test_run_export.py": r"export\.(?!bits).*",
    "tests/export/test_export.py": r"export\.bits",
    "tests/classifiers/test_evaluation.py": r"evaluate\.classifier",
    "tests/runtime/test_ray_engine.py": r"engine\..*",
    "tests/studies/test_cells.py": r"ablation\.max_cells",
    "tests/teachers/test_cutouts.py": r"teacher\.cutouts\..*",
    "tests/teachers/test_teacher.py": r"teacher\.trust_program",
    "tests/samples/test_drawing_at_scale.py": r"sample\.encoding_threads",
    "tests/training/test_task.py": r".*\.checkpoint_every_steps",
    "tests/benchmark/test_run.py": r"benchmark\.(?!random_size).*",
    "tests/pipelines/test_run_extensions.py": r"(shape\.distill|ablation.*)\.weights\.further",
    "tests/benchmark/test_networks.py": r"benchmark\.random_size",
}
# One node distils all three: the settings of the shape's show what it reads.
TIMED = r"report\.benchmark_(batch_size|seconds)"
ALIKE = r"(texture|background)\.distill\.(?!num_steps$).*"

COMPOSITIONS = ("compose.composition", "ablation.composition")
SMALL = {"architecture": "compact", "width": [3, 3, 3], "embedding_dim": 2}
OPACITY = ({"kind": "opacity", "strength": 0.5},)
VALUES: dict[str, Any] = {
    "variant": "colored",
    "images.folder": "elsewhere",
    "images.folders": {"train": "here", "validation": "there"},
    "teacher.weights": "cgn.safetensors",
    "teacher.factory": "module:function",
    "prepare.given_features": {"architecture": "resnet18", "weights": "resnet18.pth"},
    "classify.fit.precision": "bf16",
    "classify.network.architecture": "small_cnn",
    "classify.network.weights": "weights.pth",
    **{f"{part}.classes.{name}": (0, 1) for part in COMPOSITIONS for name in MECHANISMS},
    **{f"{part}.transformations.{name}": OPACITY for part in COMPOSITIONS for name in MECHANISMS},
    "ablation.transformations.background": ({"kind": "opacity", "strengths": [0.5]},),
    "ablation.fit.precision": "bf16",
    "ablation.losses.kl_temperatures": (1.0, 4.0),
    "ablation.size.students": (SMALL,),
    "ablation.stage.transformations": OPACITY,
    "ablation.alternatives.hyperparameters": {"group_dro": ({"step_size": 0.5},)},
    "baseline.students": dict.fromkeys(MECHANISMS, SMALL),
    "sample.classes": (0, 1),
    "sample.shard_range": (0, 1),
}
# Nodes that draw, and so take longest; nothing but the report needs what they give.
PICTURES = re.compile(r"(.*\.)?(show_|look_into_)\w+")
# How a value is refused that would be right elsewhere, rather than one that is wrong everywhere.
OF_ANOTHER = re.compile(r"belongs? to|\bis of\b|of no other|\bneeds?\b|is for|has one head")


def leaves(model: type[Settings], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Walk to every setting that is no section: its dotted name and its type."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            yield from leaves(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field.annotation


def others(annotation: Any, value: Any) -> Iterator[Any]:
    """Guess values of a type that differ from one."""
    if isinstance(value, tuple):
        yield value[:-1]
        yield from ((*value[:-1], other) for last in value[-1:] for other in others(type(last), last))
    elif get_origin(annotation) is Annotated:
        yield from others(get_args(annotation)[0], value)
    elif get_origin(annotation) is Literal:
        yield from get_args(annotation)
    elif get_origin(annotation) in (Union, UnionType):
        yield from chain.from_iterable(others(choice, value) for choice in get_args(annotation))
    elif isinstance(value, bool) or annotation is bool:
        yield not value
    elif isinstance(value, int) or annotation is int:
        yield from (1, 2, 16) if value is None else (value + 1, value + 2, value - 1, 2 * value, value + 16)
    elif isinstance(value, float) or annotation is float:
        yield from (0.5,) if value is None else (value / 2, value + 0.25, value + 1)


def changed(settings: dict[str, Any], name: str, value: Any) -> Parameters:
    """Return parameters with one setting changed, as `--params` would; raises `SettingError`."""
    raw = copy.deepcopy(settings)
    *sections, last = name.split(".")
    section = raw
    for part in sections:
        section[part] = section.get(part) or {}
        section = section[part]
    section[last] = value
    return check_parameters(raw)


def read(settings: Any, name: str) -> Any:
    for part in name.split("."):
        settings = getattr(settings, part)
    return settings


class WouldComputeError(Exception):
    """Something was asked for that is not in the store."""


class Chain:
    """A finished chain: what each node was given and what it gave.

    Attributes:
        place: Where it was run.
        samples: The artifacts of samples that each node made.
    """

    def __init__(self, place: Place) -> None:
        self.place, self.samples = place, dict[str, set[str]]()
        self.given: list[tuple[Node, dict[str, Any]]] = []
        self.results: dict[str, Any] = {}
        run = Node.run

        def record(node: Node, inputs: dict[str, Any] | None = None) -> dict[str, Any]:
            self.given.append((node, dict(inputs or {})))
            before = artifacts_in(place.store("sample"))
            outputs = run(node, inputs)
            self.samples[node.name] = artifacts_in(place.store("sample")) - before
            self.results |= outputs
            return outputs

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Node, "run", record)
            place.run(pipeline_names=PIPELINES)
        self.given.sort(key=lambda given: bool(PICTURES.fullmatch(given[0].name)))
        self.parameters = check_parameters(next(data["parameters"] for _, data in self.given if "parameters" in data))

    def notices(self, name: str, parameters: Parameters) -> bool:
        """Tell whether the chain answers a changed setting."""
        told: dict[str, Any] = {}
        for node, inputs in self.given:
            fresh = {key: self._fresh(key, value, parameters, told) for key, value in inputs.items()}
            fresh = {key: value for key, value in fresh.items() if not same(value, inputs[key])}
            if (
                not fresh
                or node.name.split(".")[-1] in ECHOES
                or (SURROUNDINGS in fresh and not name.startswith("ablation."))
            ):
                continue
            try:
                outputs = node.run({**inputs, **fresh})
            except (WouldComputeError, SettingError):
                return True
            differing = {key: value for key, value in outputs.items() if not same(value, self.results[key])}
            if differing.keys() - {SURROUNDINGS} and self._is_steady(node, inputs, differing):
                return True
            told |= differing
        return False

    def _fresh(self, key: str, before: Any, parameters: Parameters, told: dict[str, Any]) -> Any:
        """Return what a node is given of a dataset with other parameters."""
        if key in told:
            return told[key]
        if key == "run":
            settings = {name: getattr(parameters, name) for name in ("seed", "compute", "assets")}
            return replace(before, **settings)
        if key == "parameters":
            return parameters.model_dump(mode="json") if isinstance(before, dict) else parameters
        return read(parameters, key.removeprefix("params:")) if key.startswith("params:") else before

    def _is_steady(self, node: Node, inputs: dict[str, Any], differing: dict[str, Any]) -> bool:
        """Tell whether a node gives of the same inputs what it gave, unlike one that measures time."""
        again = node.run(inputs)
        return any(same(again[key], self.results[key]) for key in differing)


def same(one: Any, other: Any) -> bool:
    """Tell whether two values of datasets are known to be the same."""
    if type(one) is not type(other):
        return False
    if isinstance(one, pd.DataFrame):
        return bool(one.equals(other))
    if isinstance(one, np.ndarray):
        return bool(np.array_equal(one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    with suppress(Exception):
        return bool(one == other)
    return False


@pytest.fixture(scope="module")
def finished_chain(
    tmp_path_factory: pytest.TempPathFactory, tracking_uri: str, finished: tuple[Place, Finished]
) -> Iterator[Chain]:
    """The chain, found done, and after it all studies, the end-to-end students and the trained teacher."""
    data = tmp_path_factory.mktemp("settings") / "data"
    shutil.copytree(finished[0].data, data)
    done = Chain(Place(data, tracking_uri))

    def refuse(folder: Path) -> None:
        raise WouldComputeError(folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "ArtifactWriter", refuse)
        yield done


def does_something(finished: Chain, name: str, annotation: Any) -> bool:
    value = read(finished.parameters, name)
    raw = finished.parameters.model_dump(mode="python")
    for candidate in [VALUES[name]] if name in VALUES else others(annotation, value):
        if candidate == value:
            continue
        try:
            parameters = changed(raw, name, candidate)
        except SettingError as error:
            if OF_ANOTHER.search(str(error)):
                return True
            continue
        if finished.notices(name, parameters):
            return True
    return False


def test_every_setting_changes_something_or_is_refused(finished_chain: Chain) -> None:
    skipped = re.compile("|".join([*ELSEWHERE.values(), TIMED, ALIKE]))
    asked = [(name, annotation) for name, annotation in leaves(Parameters) if not skipped.fullmatch(name)]
    assert len(asked) > 150
    assert [name for name, annotation in asked if not does_something(finished_chain, name, annotation)] == []


@pytest.mark.parametrize("study", [name for name in STUDIES if name not in ("transformations", "mechanisms")])
def test_every_other_study_runs(finished_chain: Chain, study: str) -> None:
    tables = (pd.read_parquet(finished_chain.place.saved(f"07_tables/*/{name}.parquet")) for name in STUDY_TABLES)
    table, cells = (each[each["study"] == study] for each in tables)
    assert len(table)
    assert table["accuracy"].notna().all()
    makes_samples = study in ("losses", "size", "stage", "monolith")
    assert bool(finished_chain.samples[f"ablation.run_{study}_study"]) == makes_samples
    if study in ("losses", "size"):
        assert cells["num_parameters"].notna().all()
        own = cells[cells["cell"] != "teacher"]
        assert own["mask_iou"].between(0, 1).all()
        assert own["l1_foreground"].between(0, 2).all()
    findings = finished_chain.place.saved("08_reporting/*/ablation_findings.md")
    assert STUDIES[study].title in findings.read_text()


def test_rates_are_taken_as_the_report_asks(finished_chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(nodes, "measure_costs", lambda _teacher, _students, *timing: asked.append(timing))
    node, inputs = next(given for given in finished_chain.given if given[0].name == "distill.compare_students")
    report = inputs["params:report"].model_copy(update={"benchmark_batch_size": 5, "benchmark_seconds": 0.25})
    with pytest.raises(TypeError):  # nothing was measured
        node.run({**inputs, "params:report": report})
    assert [(timing[0], timing[2]) for timing in asked] == [(5, 0.25)]


@pytest.mark.parametrize("page", ELSEWHERE)
def test_settings_of_other_parts_are_in_their_tests(project: Path, page: str) -> None:
    text = (project / page).read_text(encoding="utf-8")
    names = [name for name, _ in leaves(Parameters) if re.fullmatch(ELSEWHERE[page], name)]
    assert names
    assert [name for name in names if name.rpartition(".")[2] not in text] == []
