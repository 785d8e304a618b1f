"""Wiring of the prune stage."""

from kedro.pipeline import Pipeline, node

from skdcgn_pipeline.pipelines.prune import nodes


def create_pipeline() -> Pipeline:
    """List old versions and artifacts that nothing refers to; remove them if that is confirmed."""
    inputs = ["run", "params:keep_last", "params:prune", "parameters"]
    return Pipeline([node(nodes.prune_data, inputs, ["pruned", "pruning"], name="prune_data")], tags="prune")
