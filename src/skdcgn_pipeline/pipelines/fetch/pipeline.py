"""Wiring of the fetch stage."""

from kedro.pipeline import Pipeline, node

from skdcgn_pipeline.images.assets import refuse_missing
from skdcgn_pipeline.pipelines.fetch import nodes


def create_pipeline() -> Pipeline:
    """Download and check the assets of the environment."""
    return Pipeline(
        [
            node(nodes.fetch_assets, ["run", "params:fetch"], "assets_table", name="fetch_assets"),
            # Once the table is saved.
            node(refuse_missing, "assets_table", None, name="refuse_missing_assets"),
        ],
        tags="fetch",
    )
