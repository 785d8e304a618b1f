"""The registered pipelines: one per stage, each with what it needs upstream."""

from __future__ import annotations

from kedro.pipeline import Pipeline

# Imported only when a pipeline is asked for, so that `kedro --help` starts without torch.


def register_pipelines() -> dict[str, Pipeline]:
    """Return all pipelines by name; `__default__` is the whole chain without `teacher` and `ablation`."""
    from skdcgn_pipeline.pipelines import ablation, classify, compose, distill, prepare, report, sample, teacher

    prepared = prepare.create_pipeline()
    sampled = sample.create_pipeline()
    distilled = prepared + sampled + distill.create_pipeline()
    composed = distilled + compose.create_pipeline()
    classified = composed + classify.create_pipeline()
    reported = classified + report.create_pipeline()
    return {
        "prepare": prepared,
        "teacher": prepared + teacher.create_pipeline(),
        "sample": sampled,
        "distill": distilled,
        "compose": composed,
        "classify": classified,
        "ablation": composed + ablation.create_pipeline(),
        "report": reported,
        "__default__": reported,
    }
