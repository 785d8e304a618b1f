"""Errors tell the setting, what is expected, what came and what to do."""

from __future__ import annotations

import logging

import pytest

from skdcgn_pipeline.parameters import Fetch
from skdcgn_pipeline.parameters.base import flatten
from skdcgn_pipeline.runtime.errors import (
    DamagedFileError,
    InterruptedRunError,
    SettingError,
    StudyFailedError,
    UserError,
    check_choice,
    nearest,
    print_messages,
    printable,
    without_credentials,
)


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


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("http://user:secret@host:5000/path is down", "http://host:5000/path is down"),
        ("postgresql+psycopg2://user:secret@host/db", "postgresql+psycopg2://host/db"),
        ("https://secret@host, https://other:secret@host2/", "https://host, https://host2/"),
        ("http://user:se@cr:et@host/", "http://host/"),
        ("http://user:sec/secret@host/x", "http://host/x"),
        ("http://host:5000/people/a@b?mail=a@b", "http://host:5000/people/a@b?mail=a@b"),
        ("sqlite:////folder/a@b/mlflow.db", "sqlite:////folder/a@b/mlflow.db"),
        ("a@b, nothing else", "a@b, nothing else"),
    ],
)
def test_user_and_password_are_left_out_of_addresses(told, shown):
    assert without_credentials(told) == shown
    assert str(SettingError("address", "another", told, "Look.")) == f"address: expected another, got {shown}. Look."


def test_settings_of_any_depth_are_shown_without_passwords():
    address, bare = "http://user:secret@host", "http://host"
    nested = {"fetch": {"mirror": address, "groups": [address, 3]}, "seed": 0}
    assert without_credentials(nested) == {"fetch": {"mirror": bare, "groups": [bare, 3]}, "seed": 0}
    assert flatten(nested)["fetch.mirror"] == bare
    assert Fetch(mirror=address).mirror == address
    assert Fetch(mirror=address).model_dump(mode="json")["mirror"] == bare


@pytest.mark.parametrize("name", ["\x1b]0;title\x07", "\x9b2J", "a\rb", "a\nb", "\u202egnp", "\udc9b"])
def test_names_that_would_steer_the_terminal_are_quoted(name):
    told = str(SettingError("teacher.weights", "tensors", f"'{name}'", "Look\nhere."))
    assert name not in told
    assert repr(name)[1:-1] in told
    assert told.endswith("Look\nhere.")


def test_names_in_all_languages_stay_as_they_are():
    assert printable("Größe, 数字, ± 1 – ok") == "Größe, 数字, ± 1 – ok"


@pytest.mark.parametrize("kind", [DamagedFileError, InterruptedRunError, StudyFailedError])
def test_every_error_for_users_quotes_names(kind):
    told = kind("files.pt\x1b[2J of http://user:secret@host:\n  - another")
    assert isinstance(told, UserError)
    assert str(told) == "files.pt\\x1b[2J of http://host:\n  - another"


def test_messages_of_logs_are_printable_and_keep_their_lines(caplog, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [caplog.handler])
    print_messages()
    logging.getLogger("skdcgn_pipeline").warning("%s at\n\t%s", "a\x1b[2J.png", "http://user:secret@host")
    assert caplog.messages == ["a\\x1b[2J.png at\n\thttp://host"]
