"""What the settings make of the pipelines: read once, where the pipelines are made."""

from __future__ import annotations

from dataclasses import dataclass

from skdcgn_pipeline.parameters import NO_IMAGES, Parameters
from skdcgn_pipeline.vocabulary import CUTOUTS


@dataclass(frozen=True)
class Variants:
    """Which form the pipelines take; the defaults are the published method's.

    Attributes:
        teacher: `teacher.name`, which says what must be made before a teacher is there.
        generated: Whether classifiers learn from a generator's counterfactuals, not from the images alone.
        plan: Whether the ablation stops at its plan.
        random_networks: Whether the benchmark needs no run's networks.
        released: Whether students that come with the package are exported.
        given_features: Whether a network is given instead of one that is trained on images.
        images: Whether there are real images.
        corrupted: Whether classifiers are measured on corrupted test images.
        elsewhere: Whether the students are distilled side by side in workers of a cluster.
    """

    teacher: str = "digits_cgn"
    generated: bool = True
    plan: bool = False
    random_networks: bool = False
    released: bool = False
    given_features: bool = False
    images: bool = True
    corrupted: bool = True
    elsewhere: bool = False

    @classmethod
    def of(cls, settings: Parameters) -> Variants:
        """Return what the settings ask for."""
        return cls(
            teacher=settings.teacher.name,
            generated=not {*settings.classify.trained_on} <= {"originals", CUTOUTS},
            plan=settings.ablation.plan,
            random_networks=settings.benchmark.networks == "random",
            released=settings.export.students != "run",
            given_features=settings.prepare.given_features is not None,
            images=settings.images.source != NO_IMAGES,
            corrupted=bool(settings.classify.corruptions),
            elsewhere=settings.engine.name == "ray",
        )
