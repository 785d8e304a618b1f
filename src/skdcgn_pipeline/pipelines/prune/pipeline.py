"""Wiring of the prune stage."""

from kedro.pipeline import Pipeline, node, pipeline

from skdcgn_pipeline.pipelines.prune import nodes


def create_pipeline() -> Pipeline:
    """List old versions and artifacts that nothing refers to; remove them if that is confirmed."""
    return pipeline(
        [
            node(
                nodes.prune_data,
                ["root_store", "params:keep_last", "params:prune", "parameters"],
                "pruned",
                name="prune_data",
            )
        ],
        tags="prune",
    )
