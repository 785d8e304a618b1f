"""Wiring of the prepare stage."""

from kedro.pipeline import Pipeline, node

from skdcgn_pipeline.pipelines.prepare import nodes


def create_pipeline() -> Pipeline:
    """The image set and the feature network."""
    return create_images() + create_feature_network()


def create_feature_network() -> Pipeline:
    """The feature network alone."""
    inputs = ["run", "biased_images", "params:prepare"]
    feature_network = node(nodes.fit_feature_network, inputs, "feature_network", name="fit_feature_network")
    return Pipeline([feature_network], tags="prepare")


def create_images() -> Pipeline:
    """The image set alone."""
    inputs = ["run", "params:images", "params:prepare", "params:variant"]
    images, sheet = ["biased_images", "images_table"], "biased_images_sheet"
    return Pipeline(
        [
            node(nodes.prepare_images, inputs, images, name="prepare_biased_images"),
            node(nodes.show_images, ["biased_images", "params:report"], sheet, name="show_biased_images"),
        ],
        tags="prepare",
    )
