"""The words that settings, tables and code share; imports nothing heavy, so that settings are checked fast."""

from __future__ import annotations

from dataclasses import dataclass

from skdcgn_pipeline.errors import SettingError, check_choice

MECHANISMS = ("shape", "texture", "background")
IMAGE_OF_MECHANISM = {"shape": "mask", "texture": "foreground", "background": "background"}
CHANNELS_OF_MECHANISM = {"shape": 1, "texture": 3, "background": 3}


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
    "opacity": TransformationKind(("shape",), 0, 1, "factor on the mask"),
    "rotation": TransformationKind(("shape",), 0, 180, "largest angle in degrees, drawn uniformly"),
    "affine": TransformationKind(("shape",), 0, 5, "multiple of the reference standard deviations"),
    "binarise": TransformationKind(("shape",), 0, 1, "threshold on the mask"),
    "grey": TransformationKind(("texture", "background"), 0, 1, "share of grey blended in"),
}


def check_transformation(setting: str, mechanism: str, kind: str, strength: float) -> None:
    """Refuse a transformation that is unknown, does not fit the mechanism or is out of range.

    Raises:
        SettingError: Naming the setting, the valid values and what came.
    """
    check_choice(f"{setting}.kind", kind, [k for k, t in TRANSFORMATION_KINDS.items() if mechanism in t.mechanisms])
    known = TRANSFORMATION_KINDS[kind]
    if not known.lowest <= strength <= known.highest:
        raise SettingError(
            f"{setting}.strength",
            f"a number in [{known.lowest}, {known.highest}] ({known.unit})",
            strength,
            f"Choose a strength that '{kind}' can apply.",
        )
