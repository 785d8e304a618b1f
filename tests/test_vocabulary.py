"""What settings may ask of a transformation."""

from __future__ import annotations

import pytest

from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.vocabulary import MECHANISMS, TRANSFORMATION_KINDS, check_transformation


@pytest.mark.parametrize("kind", sorted(TRANSFORMATION_KINDS))
def test_every_kind_is_allowed_at_both_ends_of_its_range(kind):
    known = TRANSFORMATION_KINDS[kind]
    for mechanism in known.mechanisms:
        assert check_transformation(mechanism, mechanism, kind, known.lowest) is None
        assert check_transformation(mechanism, mechanism, kind, known.highest) is None


def test_an_unknown_transformation_is_refused_with_the_nearest_name():
    with pytest.raises(SettingError, match="Did you mean 'rotation'"):
        check_transformation("shape", "shape", "rotaton", 10)


@pytest.mark.parametrize(
    ("mechanism", "kind", "others"),
    [
        ("texture", "rotation", ("shape",)),
        ("background", "opacity", ("shape",)),
        ("background", "fade", ("shape",)),
        ("shape", "grey", ("texture", "background")),
        ("shape", "flatten", ("texture", "background")),
    ],
)
def test_a_transformation_of_another_mechanism_is_refused_with_those_that_make_sense(mechanism, kind, others):
    with pytest.raises(SettingError) as caught:
        check_transformation(f"grid.{mechanism}", mechanism, kind, 0.5)
    message = str(caught.value)
    fitting = ", ".join(name for name, known in TRANSFORMATION_KINDS.items() if mechanism in known.mechanisms)
    assert message.startswith(
        f"grid.{mechanism}.kind: expected a transformation that makes sense for {mechanism} ({fitting})"
    )
    assert f"got '{kind}', which is for {' and '.join(others)}" in message
    assert f"or give '{kind}' to {' or '.join(others)}" in message


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_blur_and_noise_make_sense_for_every_mechanism(mechanism):
    for kind in ("blur", "gaussian_noise"):
        assert check_transformation(mechanism, mechanism, kind, 0.5) is None


@pytest.mark.parametrize(
    ("kind", "strength"),
    [
        ("rotation", 181),
        ("opacity", 1.5),
        ("opacity", -0.1),
        ("gaussian_noise", -0.1),
        ("fade", 1.1),
        ("blur", 17),
    ],
)
def test_a_strength_out_of_range_is_refused_with_the_range(kind, strength):
    with pytest.raises(SettingError, match=r"shape\.strength: expected a number in \["):
        check_transformation("shape", "shape", kind, strength)


def test_nan_is_no_strength():
    with pytest.raises(SettingError, match=r"shape\.strength"):
        check_transformation("shape", "shape", "opacity", float("nan"))
