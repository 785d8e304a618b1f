"""Settings of the `prepare` stage."""

from __future__ import annotations

from skdcgn_pipeline.parameters.base import Count, Fraction, Location, Settings
from skdcgn_pipeline.parameters.classify import ClassifierFit


class GivenFeatures(Settings):
    """A trained torchvision network in whose features images are compared.

    Attributes:
        architecture: Name of a torchvision classifier.
        weights: File with torchvision's state dict of it.
    """

    architecture: Location = "resnet50"
    weights: Location


class Prepare(Settings):
    """Image sets and the feature network.

    Attributes:
        copies: How many times each grey shape is coloured anew.
        validation_fraction: Share of the training images held out for every choice, where they have no split
            for that.
        binarise_threshold: A grey value above it belongs to the shape; null takes 0.4 for digits, else 0.1.
        feature_network: Training of the fixed classifier whose features Frechet distances use.
        given_features: A network that is used instead. Null at ImageNet's scale leaves Frechet distances out.
    """

    copies: Count = 1
    validation_fraction: Fraction = 0.1
    binarise_threshold: Fraction | None = None
    feature_network: ClassifierFit
    given_features: GivenFeatures | None = None
