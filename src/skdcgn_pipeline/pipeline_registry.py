"""The registered pipelines: one per stage, each with what it needs upstream."""

from __future__ import annotations

import pkgutil
from dataclasses import replace
from functools import cache

from kedro.pipeline import Pipeline

from skdcgn_pipeline import pipelines
from skdcgn_pipeline.pipelines.binding import in_stages, needed_by
from skdcgn_pipeline.pipelines.variants import Variants
from skdcgn_pipeline.vocabulary import PLAN_TAG

PUBLISHED = Variants()
ENSEMBLE = "ensemble"  # what ImageNet's classifiers are called

# Imported only when a pipeline is asked for, so that `kedro --help` starts without torch.


def names_of_pipelines() -> list[str]:
    """Return the names of what `register_pipelines` gives, without importing what makes it."""
    packages = [module.name for module in pkgutil.iter_modules(pipelines.__path__) if module.ispkg]
    return ["__default__", *packages, ENSEMBLE]


def register_pipelines(variants: Variants = PUBLISHED) -> dict[str, Pipeline]:
    """Return all pipelines by name, in a table of its own; `__default__` is the whole chain that ends in the report.

    Args:
        variants: Which form they take. Kedro, where it lists them before settings are read, asks for the published
            one; whatever has settings, a run and Kedro-Viz, gets the one that they name (`hooks`).
    """
    return dict(_make_pipelines(variants))


@cache
def _make_pipelines(variants: Variants) -> dict[str, Pipeline]:
    from skdcgn_pipeline.pipelines.ablation import pipeline as ablation
    from skdcgn_pipeline.pipelines.baseline import pipeline as baseline
    from skdcgn_pipeline.pipelines.benchmark import pipeline as benchmark
    from skdcgn_pipeline.pipelines.classify import pipeline as classify
    from skdcgn_pipeline.pipelines.compose import pipeline as compose
    from skdcgn_pipeline.pipelines.distill import pipeline as distill
    from skdcgn_pipeline.pipelines.evaluate import pipeline as evaluate
    from skdcgn_pipeline.pipelines.explore import pipeline as explore
    from skdcgn_pipeline.pipelines.export import pipeline as export
    from skdcgn_pipeline.pipelines.fetch import pipeline as fetch
    from skdcgn_pipeline.pipelines.prepare import pipeline as prepare
    from skdcgn_pipeline.pipelines.prune import pipeline as prune
    from skdcgn_pipeline.pipelines.quality import pipeline as quality
    from skdcgn_pipeline.pipelines.release import pipeline as release
    from skdcgn_pipeline.pipelines.report import pipeline as report
    from skdcgn_pipeline.pipelines.results import pipeline as results
    from skdcgn_pipeline.pipelines.sample import pipeline as sample
    from skdcgn_pipeline.pipelines.teacher import pipeline as teacher

    prepared = prepare.create_pipeline()
    sampled = sample.create_teacher(variants.teacher) + sample.create_pipeline()
    # Where a network is given, nothing before classifiers needs images.
    features = prepare.create_feature_network() if variants.given_features else prepared
    distilled = features + sampled + distill.create_pipeline(variants.elsewhere)
    composed = distilled + compose.create_pipeline()
    classifiers = classify.create_pipeline(corrupted=variants.corrupted)
    classified = prepared + composed + classifiers
    studied = prepared + composed + ablation.create_pipeline(variants.teacher)
    reported = classified + report.create_pipeline(variants.teacher, variants.corrupted)
    # From the released students on instead of newly distilled ones.
    adopted = prepared + sampled + results.create_pipeline() + distill.create_comparison()
    measured = adopted + compose.create_pipeline() + classifiers + benchmark.create_pipeline()
    originals = prepare.create_images() + classify.create_pipeline(generated=False, corrupted=variants.corrupted)
    learnt = classified if variants.generated else originals
    exported = export.create_pipeline(variants.released)
    random = variants.random_networks
    made = {
        "fetch": fetch.create_pipeline(),
        "prepare": prepared,
        "teacher": prepared + teacher.create_pipeline(),
        "sample": sampled,
        "distill": distilled,
        "compose": composed,
        "classify": learnt,
        ENSEMBLE: learnt,
        "ablation": studied.only_nodes_with_tags(PLAN_TAG) if variants.plan else studied,
        "baseline": prepared + sampled + baseline.create_pipeline(),
        "benchmark": benchmark.create_network_pipeline() if random else composed + benchmark.create_pipeline(),
        "quality": prepared + distilled + quality.create_pipeline(),
        "release": classified + benchmark.create_pipeline() + release.create_pipeline(),
        "export": prepared + (exported if variants.released else distilled + exported),
        "explore": prepared + distilled + compose.create_student_pool() + explore.create_pipeline(),
        "report": reported,
        "results": measured,
        "evaluate": evaluate.create_pipeline(),
        "prune": prune.create_pipeline(),
        "__default__": reported,
    }
    made = {name: in_stages(pipeline) for name, pipeline in made.items()}
    if variants.images:
        return made
    of_images = {"biased_images", "ablation_plan"} | (set() if variants.given_features else {"feature_network"})
    return {name: without(pipeline, of_images) for name, pipeline in made.items()}


def without(pipeline: Pipeline, datasets: set[str]) -> Pipeline:
    """Return what is left of a pipeline where nobody can make some datasets: nodes that can do without them stay."""
    absent, left = set(datasets), []
    for node in pipeline.nodes:  # in the order in which data flows
        if absent.isdisjoint([*node.outputs, *needed_by(node)]):
            left.append(node)
        else:
            absent.update(node.outputs)
    return Pipeline(left)


def left_out(variants: Variants) -> set[str]:
    """Return the datasets that no pipeline makes where there are no real images."""
    if variants.images:
        return set()
    forms = map(register_pipelines, (replace(variants, images=True), variants))
    whole, made = ({name for pipeline in form.values() for name in pipeline.all_outputs()} for form in forms)
    return whole - made
