"""The registered pipelines: one per stage, each with what it needs upstream."""

from __future__ import annotations

from kedro.pipeline import Pipeline

# Imported only when a pipeline is asked for, so that `kedro --help` starts without torch.


def register_pipelines() -> dict[str, Pipeline]:
    """Return all pipelines by name; `__default__` is the whole chain that ends in the report.

    Settings may put one in the place of another, see `pipelines.variants`.
    """
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
    from skdcgn_pipeline.pipelines.release import pipeline as release
    from skdcgn_pipeline.pipelines.report import pipeline as report
    from skdcgn_pipeline.pipelines.results import pipeline as results
    from skdcgn_pipeline.pipelines.sample import pipeline as sample
    from skdcgn_pipeline.pipelines.teacher import pipeline as teacher

    prepared = prepare.create_pipeline()
    sampled = sample.create_pipeline()
    distilled = prepared + sampled + distill.create_pipeline()
    composed = distilled + compose.create_pipeline()
    classified = composed + classify.create_pipeline()
    studied = composed + ablation.create_pipeline()
    reported = classified + report.create_pipeline()
    # From the released students on instead of newly distilled ones.
    adopted = prepared + sampled + results.create_pipeline() + distill.create_comparison()
    measured = adopted + compose.create_pipeline() + classify.create_pipeline() + benchmark.create_pipeline()
    return {
        "fetch": fetch.create_pipeline(),
        "prepare": prepared,
        "teacher": prepared + teacher.create_pipeline(),
        "sample": sampled,
        "distill": distilled,
        "compose": composed,
        "classify": classified,
        "classify_originals": prepare.create_images() + classify.create_pipeline(generated=False),
        "ensemble": classified,  # what ImageNet's classifiers are called
        "ablation": studied,
        "ablation_plan": studied.only_nodes_with_tags("plan"),
        "baseline": prepared + sampled + baseline.create_pipeline(),
        "benchmark": composed + benchmark.create_pipeline(),
        "network_benchmark": benchmark.create_network_pipeline(),
        "release": classified + benchmark.create_pipeline() + release.create_pipeline(),
        "export": distilled + export.create_pipeline(),
        "export_released": prepared + export.create_pipeline(released=True),
        "explore": distilled + compose.create_student_pool() + explore.create_pipeline(),
        "report": reported,
        "results": measured,
        "evaluate": evaluate.create_pipeline(),
        "prune": prune.create_pipeline(),
        "__default__": reported,
    }
