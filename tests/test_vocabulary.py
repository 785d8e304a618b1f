"""What settings may ask of a transformation."""

from __future__ import annotations

import pytest

from skdcgn_pipeline.errors import SettingError
from skdcgn_pipeline.vocabulary import TRANSFORMATION_KINDS, check_transformation


@pytest.mark.parametrize("kind", sorted(TRANSFORMATION_KINDS))
def test_every_kind_is_allowed_at_both_ends_of_its_range(kind):
    known = TRANSFORMATION_KINDS[kind]
    for mechanism in known.mechanisms:
        assert check_transformation(mechanism, mechanism, kind, known.lowest) is None
        assert check_transformation(mechanism, mechanism, kind, known.highest) is None


def test_an_unknown_transformation_is_refused_with_the_nearest_name():
    with pytest.raises(SettingError, match="Did you mean 'rotation'"):
        check_transformation("shape", "shape", "rotaton", 10)


@pytest.mark.parametrize(("mechanism", "kind"), [("texture", "rotation"), ("background", "opacity"), ("shape", "grey")])
def test_a_transformation_of_another_mechanism_is_refused(mechanism, kind):
    with pytest.raises(SettingError, match=rf"{mechanism}\.kind: expected one of"):
        check_transformation(mechanism, mechanism, kind, 0.5)


@pytest.mark.parametrize(("kind", "strength"), [("rotation", 181), ("opacity", 1.5), ("opacity", -0.1)])
def test_a_strength_out_of_range_is_refused_with_the_range(kind, strength):
    with pytest.raises(SettingError, match=r"shape\.strength: expected a number in \["):
        check_transformation("shape", "shape", kind, strength)


def test_nan_is_no_strength():
    with pytest.raises(SettingError, match=r"shape\.strength"):
        check_transformation("shape", "shape", "opacity", float("nan"))
