"""Wiring of the prepare stage."""

from kedro.pipeline import Pipeline, node, pipeline

from skdcgn_pipeline.pipelines.prepare import nodes


def create_pipeline() -> Pipeline:
    """The image set and the feature network."""
    feature_network = node(
        nodes.fit_feature_network,
        ["run", "biased_images", "params:prepare"],
        "feature_network",
        name="fit_feature_network",
    )
    return create_images() + pipeline([feature_network], tags="prepare")


def create_images() -> Pipeline:
    """The image set alone."""
    return pipeline(
        [
            node(
                nodes.prepare_images,
                ["run", "params:images", "params:prepare", "params:variant"],
                "biased_images",
                name="prepare_biased_images",
            ),
            node(
                nodes.show_images,
                ["biased_images", "params:report"],
                "biased_images_sheet",
                name="show_biased_images",
            ),
        ],
        tags="prepare",
    )
