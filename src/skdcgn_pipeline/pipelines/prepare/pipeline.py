"""Wiring of the prepare stage."""

from kedro.pipeline import Pipeline, node, pipeline

from skdcgn_pipeline.pipelines.prepare import nodes


def create_pipeline() -> Pipeline:
    """The image set and the feature network."""
    return create_images() + create_features()


def create_features() -> Pipeline:
    """The feature network alone; a given one needs no images."""
    inputs = ["run", "biased_images", "params:prepare"]
    return pipeline(
        [node(nodes.fit_feature_network, inputs, "feature_network", name="fit_feature_network")], tags="prepare"
    )


def create_images() -> Pipeline:
    """The image set alone."""
    prepared = node(
        nodes.prepare_images,
        ["run", "params:images", "params:prepare", "params:variant"],
        ["biased_images", "images_table"],
        name="prepare_biased_images",
    )
    shown = node(
        nodes.show_images, ["biased_images", "params:report"], "biased_images_sheet", name="show_biased_images"
    )
    return pipeline([prepared, shown], tags="prepare")
