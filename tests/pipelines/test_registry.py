"""The registered pipelines and the catalog, without running anything."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest
from kedro.framework.context import KedroContext
from kedro.framework.project import pipelines
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline

from pipelines.running import PROJECT, know_project, settings_read_once, untouched_mlflow
from skdcgn_pipeline.mechanisms import MECHANISMS
from skdcgn_pipeline.parameters import MADE_BY_RUN
from skdcgn_pipeline.pipeline_registry import left_out, names_of_pipelines, register_pipelines
from skdcgn_pipeline.pipelines.ablation.nodes import SAMPLES
from skdcgn_pipeline.pipelines.binding import stage_of
from skdcgn_pipeline.pipelines.preflight import needed_by
from skdcgn_pipeline.pipelines.variants import Variants
from skdcgn_pipeline.session import ProjectSession
from skdcgn_pipeline.studies.registry import STUDIES

BY_NAME_ONLY = [
    "fetch",
    "teacher",
    "ablation",
    "baseline",
    "benchmark",
    "release",
    "results",
    "explore",
    "export",
    "evaluate",
    "quality",
    "prune",
]
STAGES = ["prepare", "sample", "distill", "compose", "classify", "report", *BY_NAME_ONLY]
ENVIRONMENTS = ["base", "imagenet", "mnist", "test"]


@pytest.fixture(scope="module")
def registered() -> dict[str, Pipeline]:
    return register_pipelines()


def test_every_stage_is_registered(registered: dict[str, Pipeline]) -> None:
    assert set(registered) == {*STAGES, "ensemble", "__default__"}


@pytest.mark.parametrize("change", [field.name for field in fields(Variants)])
def test_every_variant_has_the_same_names_and_runs_from_a_fresh_checkout(change: str) -> None:
    varied = register_pipelines(replace(Variants(), **{change: not getattr(Variants(), change)}))

    assert set(varied) == {*STAGES, "ensemble", "__default__"}
    absent = {"given_features": {"biased_images"}, "plan": {*SAMPLES}, "images": {"biased_images", "feature_network"}}
    for name, pipe in varied.items():
        assert name in ("report", "evaluate", "__default__") or free_inputs(pipe) <= absent.get(change, set()), name


@pytest.mark.parametrize("teacher", MADE_BY_RUN)
def test_a_teacher_that_the_run_makes_comes_before_what_draws_from_it(
    registered: dict[str, Pipeline], teacher: str
) -> None:
    trained = register_pipelines(Variants(teacher=teacher))
    training = {"prepare.prepare_biased_images", "teacher.fit_teacher", "teacher.show_trained_teacher"}

    assert trained["teacher"].describe() == registered["teacher"].describe()
    for name in STAGES:
        nodes = {node.name for node in trained[name].nodes}
        assert ("sample.open_teacher" in nodes) == (
            "sample.open_teacher" in {node.name for node in registered[name].nodes}
        )
        assert training <= nodes or "sample.open_teacher" not in nodes, name
    for mechanism in MECHANISMS:
        assert "teacher.fit_teacher" in {
            node.name for node in trained["distill"].to_outputs(f"{mechanism}_student").nodes
        }


def test_without_images_what_needs_them_is_left_out(registered: dict[str, Pipeline]) -> None:
    left = register_pipelines(Variants(images=False))
    gone = left_out(Variants(images=False))

    assert {"biased_images", "feature_network", "accuracy", "invariant_classifier", "classifier_export"} <= gone
    made = left["__default__"].all_outputs() | left["export"].all_outputs() | left["explore"].all_outputs()
    assert {"student_comparison", "counterfactual_sheet", "student_export", "explorer", "report"} <= made
    assert left["prepare"].nodes == []
    assert left_out(Variants()) == set()


def test_without_corruptions_nothing_is_told_of_an_earlier_run(registered: dict[str, Pipeline]) -> None:
    clean = register_pipelines(Variants(corrupted=False))
    gone = {"corrupted_accuracy", "corruption_summary", "corruption_chart"}

    for name in ("classify", "report", "results"):
        assert registered[name].datasets() - clean[name].datasets() == gone
    assert not gone & clean["report"].inputs()


def test_classifiers_of_imagenet_are_those_of_every_image_set(registered: dict[str, Pipeline]) -> None:
    assert registered["ensemble"].describe() == registered["classify"].describe()


def test_originals_alone_are_classified_without_a_teacher(registered: dict[str, Pipeline]) -> None:
    originals, whole = register_pipelines(Variants(generated=False))["classify"], registered["classify"]
    inputs = {name for name in originals.inputs() if not name.startswith("params:")}
    of_stage = originals.only_nodes_with_tags("classify")
    assert of_stage.all_outputs() == whole.only_nodes_with_tags("classify").all_outputs()
    assert not [name for name in originals.datasets() if "samples" in name or "counterfactuals" in name]
    assert not [name for name in inputs if "teacher" in name or "student" in name]


def free_inputs(pipeline: Pipeline) -> set[str]:
    """Return what a pipeline reads that is neither its own, nor a setting, nor known to the running process."""
    inputs = pipeline.inputs() - {"parameters", "run", "this_run", "asked_students"}
    return {name for name in inputs if not name.startswith("params:")}


@pytest.mark.parametrize("tag", BY_NAME_ONLY)
def test_default_leaves_out_what_is_run_by_name(registered: dict[str, Pipeline], tag: str) -> None:
    assert not [node.name for node in registered["__default__"].nodes if tag in node.tags]
    assert [node.name for node in registered[tag].nodes if tag in node.tags]


def test_default_holds_every_other_stage(registered: dict[str, Pipeline]) -> None:
    tags = {tag for node in registered["__default__"].nodes for tag in node.tags}

    assert tags == set(STAGES) - set(BY_NAME_ONLY)
    assert "report" in registered["__default__"].outputs()


@pytest.mark.parametrize("name", [*STAGES, "__default__"])
def test_pipeline_runs_from_a_fresh_checkout(registered: dict[str, Pipeline], name: str) -> None:
    """Only settings and stores come from outside: every pipeline makes what it needs, or does without."""
    assert name in ("report", "evaluate", "__default__") or free_inputs(registered[name]) == set()


def test_nodes_can_do_without_what_no_pipeline_makes(registered: dict[str, Pipeline]) -> None:
    free = set()
    for pipe in registered.values():
        for node in pipe.nodes:
            assert not free_inputs(pipe).intersection(needed_by(node))
        free |= free_inputs(pipe)

    assert "ablation_chapter" in free


def test_the_report_shows_a_study_where_there_is_one(registered: dict[str, Pipeline]) -> None:
    assert "ablation_chapter" in registered["report"].inputs()
    assert "ablation_chapter" not in registered["ablation"].inputs() | registered["classify"].datasets()
    assert "ablation_chapter" in registered["ablation"].outputs() | registered["ablation"].all_outputs()


def test_the_ablation_has_nodes_of_every_study_and_a_plan_of_its_own(registered: dict[str, Pipeline]) -> None:
    names = {node.name for node in registered["ablation"].nodes}

    for study in STUDIES:
        assert {f"ablation.run_{study}_study", f"ablation.show_{study}_study"} <= names
    planning = register_pipelines(Variants(plan=True))["ablation"]
    assert planning.outputs() == {"ablation_plan"}
    assert free_inputs(planning) == set(SAMPLES)


def test_a_failed_cell_ends_the_run_when_everything_is_saved(registered: dict[str, Pipeline]) -> None:
    last = registered["ablation"].nodes[-1]

    assert last.name == "ablation.check_failures"
    before = registered["ablation"].to_nodes("ablation.check_failures").all_outputs()
    kept = {"ablation", "ablation_csv", "ablation_summary", "ablation_confusion", "ablation_failures"}
    kept |= {"ablation_findings", "ablation_chapter", "ablation_page"}
    kept |= {f"{study}_{picture}" for study in STUDIES for picture in ("study", "examples")}
    assert kept <= before


def test_each_mechanism_has_its_namespace(registered: dict[str, Pipeline]) -> None:
    for mechanism in MECHANISMS:
        (node,) = registered["distill"].filter(node_namespaces=[f"distill.{mechanism}"]).nodes
        assert f"params:{mechanism}.distill" in node.inputs
        assert node.outputs == [f"{mechanism}_student"]


def test_names_are_known_before_anything_is_made(registered: dict[str, Pipeline]) -> None:
    assert set(names_of_pipelines()) == set(registered)
    code = "import skdcgn_pipeline.pipeline_registry as module, sys; module.names_of_pipelines(); "
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    assert done.stdout.strip() == "False"


def test_node_names_are_unique(registered: dict[str, Pipeline]) -> None:
    # Takes the place of another: students from the package.
    everything = sum((pipe for name, pipe in registered.items() if name != "results"), Pipeline([]))
    names = [node.name for node in everything.nodes]

    assert len(names) == len(set(names))


def test_the_export_of_released_students_distils_and_draws_from_no_teacher(registered: dict[str, Pipeline]) -> None:
    released = register_pipelines(Variants(released=True))["export"]
    names = {node.name for node in released.nodes}

    assert "export.take_released_students" in names
    assert not [name for name in names if "distil_student" in name or "teacher" in name]
    assert released.all_outputs() >= registered["export"].only_nodes_with_tags("export").all_outputs()


def test_results_distil_nothing(registered: dict[str, Pipeline]) -> None:
    names = {node.name for node in registered["results"].nodes}

    assert "results.adopt_released_students" in names
    assert not [name for name in names if "distil_student" in name]
    assert {"student_comparison", "accuracy_summary", "benchmark"} <= registered["results"].all_outputs()


@pytest.fixture(scope="module", params=ENVIRONMENTS)
def context(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KedroContext]:
    know_project()
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch, untouched_mlflow(), settings_read_once():
        patch.setenv("SKDCGN_DATA", str(folder / "data"))
        # The database takes seconds to make and is not needed here.
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.setattr(
            "kedro_mlflow.config.kedro_mlflow_config.KedroMlflowConfig.setup", lambda self, context=None: None
        )
        with ProjectSession.create(project_path=PROJECT, env=request.param, save_on_close=False) as started:
            yield started.load_context()


@pytest.fixture(scope="module")
def catalog(context: KedroContext) -> DataCatalog:
    """The catalog, which the context makes anew whenever it is asked."""
    return context.catalog


def test_catalog_names_everything_that_is_kept(catalog: DataCatalog, registered: dict[str, Pipeline]) -> None:
    """Few live in memory alone: the opened teacher, and where things are; any other would be lost silently."""
    names = sorted(set().union(*(pipe.datasets() for pipe in registered.values())))
    datasets = {name: catalog.get(name) for name in names}

    in_memory = {
        name
        for name, dataset in datasets.items()
        if (dataset is None or isinstance(dataset, MemoryDataset))
        and name != "parameters"
        and not name.startswith("params:")
    }
    assert in_memory == {"run", "teacher", "surroundings", "this_run", "pruning"}


def test_a_process_may_run_each_stage(catalog: DataCatalog, registered: dict[str, Pipeline]) -> None:
    """What one stage makes and another reads is kept, so that orchestrators may give each a process of its own.

    All but the teacher, which may be anything: a node that reads settings and what is kept opens it in each of them.
    """
    crossing: set[str] = set()
    for pipe in registered.values():
        made_by = {output: stage_of(node) for node in pipe.nodes for output in node.outputs}
        for node in pipe.nodes:
            crossing |= {name for name in node.inputs if made_by.get(name, stage_of(node)) != stage_of(node)}
    in_memory = {name for name in crossing if isinstance(catalog.get(name), MemoryDataset | None)}

    assert len(crossing) > 15
    assert in_memory == {"teacher"}
    for teacher in (*MADE_BY_RUN, "cgn"):
        pipe = register_pipelines(Variants(teacher=teacher))["sample"]
        (opening,) = [node for node in pipe.nodes if "teacher" in node.outputs]
        own = {name for name in opening.inputs if not name.startswith("params:")}
        assert not [name for name in own if isinstance(catalog.get(name), MemoryDataset | None)], teacher


def test_everything_is_kept_below_the_data_root(
    context: KedroContext, catalog: DataCatalog, registered: dict[str, Pipeline]
) -> None:
    names = sorted(set().union(*(pipe.datasets() for pipe in registered.values())))
    root = Path(context.config_loader["globals"]["data"])
    kept = {n: Path(str(d._filepath)) for n in names if hasattr(d := catalog.get(n), "_filepath")}

    assert len(kept) > 25
    assert not {name: path for name, path in kept.items() if not path.is_relative_to(root)}
    assert len(set(kept.values())) == len(kept), "two datasets share a file"


def test_every_parameter_of_a_node_is_there(catalog: DataCatalog, registered: dict[str, Pipeline]) -> None:
    needed = set().union(*(pipe.inputs() for pipe in registered.values()))
    needed = {name for name in needed if name.startswith("params:")}

    assert needed <= set(catalog.keys())


def test_kedro_knows_the_same_pipelines(context: KedroContext) -> None:
    assert set(pipelines.keys()) == {*STAGES, "ensemble", "__default__"}
