"""Errors tell the setting, what is expected, what came and what to do."""

from __future__ import annotations

import pytest

from skdcgn_pipeline.runtime.errors import DamagedFileError, SettingError, check_choice, nearest


def test_an_error_of_a_setting_is_one_sentence_with_its_parts():
    error = SettingError("sample.rows", "a number", "'x'", "Give one.")
    assert str(error) == "sample.rows: expected a number, got 'x'. Give one."
    assert error.setting == "sample.rows"


def test_errors_are_value_errors():
    assert issubclass(SettingError, ValueError)
    assert issubclass(DamagedFileError, ValueError)


def test_the_nearest_name_is_told_or_all_names():
    assert nearest("texure", ["shape", "texture"]) == "Did you mean 'texture'?"
    assert nearest("xyz", ["texture", "shape"]) == "Valid names: shape, texture."


def test_a_choice_is_returned_or_refused():
    assert check_choice("mechanism", "shape", ("shape", "texture")) == "shape"
    with pytest.raises(SettingError, match="mechanism: expected one of shape, texture, got 'shap'"):
        check_choice("mechanism", "shap", ("shape", "texture"))
