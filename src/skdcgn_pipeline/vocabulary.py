"""The words that settings, tables and code share; imports nothing heavy, so that settings are checked fast."""

from __future__ import annotations

from dataclasses import dataclass

from skdcgn_pipeline.runtime.errors import SettingError, check_choice

MECHANISMS = ("shape", "texture", "background")
IMAGE_OF_MECHANISM = {"shape": "mask", "texture": "foreground", "background": "background"}
CHANNELS_OF_MECHANISM = {"shape": 1, "texture": 3, "background": 3}
# Whose images tables and pictures show: distilled students, or the control without distillation.
STUDENTS, BASELINE = "students", "baseline"
# The finished image, for a student that knows no mechanisms.
COMPOSITE = "composite"


def channels_of(image: str) -> int:
    """Return the channels of a mechanism's image, or of `COMPOSITE`."""
    return 3 if image == COMPOSITE else CHANNELS_OF_MECHANISM[image]


# The composition study's grids, in the order in which they are told.
STUDIES = ("transformations", "mechanisms", "counts", "mixing", "losses", "size", "source", "stage", "monolith")


@dataclass(frozen=True)
class TransformationKind:
    """Where a transformation makes sense and what its strength means.

    Attributes:
        mechanisms: The mechanisms it may be applied to.
        lowest: Smallest strength allowed.
        highest: Largest strength allowed.
        unit: What the strength means.
    """

    mechanisms: tuple[str, ...]
    lowest: float
    highest: float
    unit: str


TRANSFORMATION_KINDS = {
    "identity": TransformationKind(MECHANISMS, 0, 1, "ignored"),
    "gaussian_noise": TransformationKind(MECHANISMS, 0, 2, "standard deviation, clamped to the range"),
    "blur": TransformationKind(MECHANISMS, 0, 16, "standard deviation of a Gaussian, in pixels"),
    "opacity": TransformationKind(("shape",), 0, 1, "factor on the mask"),
    "fade": TransformationKind(("shape",), 0, 1, "share of the masks whose opacity is drawn at random"),
    "rotation": TransformationKind(("shape",), 0, 180, "largest angle in degrees, drawn uniformly"),
    "affine": TransformationKind(("shape",), 0, 5, "multiple of the reference standard deviations"),
    "binarise": TransformationKind(("shape",), 0, 1, "threshold on the mask"),
    "grey": TransformationKind(("texture", "background"), 0, 1, "share of grey blended in"),
    "flatten": TransformationKind(("texture", "background"), 0, 1, "share of the image's mean colour blended in"),
}


def check_transformation(setting: str, mechanism: str, kind: str, strength: float) -> None:
    """Refuse a transformation that is unknown, does not fit the mechanism or is out of range.

    Raises:
        SettingError: Naming the setting, the valid values and what came.
    """
    known = TRANSFORMATION_KINDS[check_choice(f"{setting}.kind", kind, TRANSFORMATION_KINDS)]
    if mechanism not in known.mechanisms:
        fitting = ", ".join(name for name, own in TRANSFORMATION_KINDS.items() if mechanism in own.mechanisms)
        raise SettingError(
            f"{setting}.kind",
            f"a transformation that makes sense for {mechanism} ({fitting})",
            f"'{kind}', which is for {' and '.join(known.mechanisms)}",
            f"Choose one of these, or give '{kind}' to {' or '.join(known.mechanisms)}.",
        )
    if not known.lowest <= strength <= known.highest:
        raise SettingError(
            f"{setting}.strength",
            f"a number in [{known.lowest}, {known.highest}] ({known.unit})",
            strength,
            f"Choose a strength that '{kind}' can apply.",
        )
