"""Settings of the `evaluate` stage."""

from __future__ import annotations

from skdcgn_pipeline.parameters.base import Location, Settings


class Evaluate(Settings):
    """Which classifier is measured on the images of `images.folder`.

    Attributes:
        classifier: A folder that `InvariantClassifier.from_pretrained` reads, such as an exported one; null takes the
            one that the last run of the classify stage has kept: the first on the last of `classify.trained_on`.
    """

    classifier: Location | None = None
