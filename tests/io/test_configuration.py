"""Whatever is wrong with a file of `conf/`, one line says which, where and what."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from kedro.config import OmegaConfigLoader

from skdcgn_pipeline.io.configuration import KINDS, read_configuration
from skdcgn_pipeline.runtime.errors import SettingError

FILES = {
    "globals": "data: somewhere\n",
    "parameters": "prepare:\n  copies: 1\nseed: 0\n",
    "catalog": "students: {type: MemoryDataset}\n",
    "mlflow": "server: {mlflow_tracking_uri: nowhere}\n",
}


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """Configuration with all kinds of files, and an environment without any."""
    (tmp_path / "base").mkdir()
    (tmp_path / "local").mkdir()
    for kind, text in FILES.items():
        (tmp_path / "base" / f"{kind}.yml").write_text(text)
    return tmp_path


def read(conf: Path, params: dict[str, object] | None = None) -> OmegaConfigLoader:
    def make() -> OmegaConfigLoader:
        strategy = dict.fromkeys(KINDS, "soft")
        return OmegaConfigLoader(
            str(conf),
            runtime_params=params,
            base_env="base",
            default_run_env="local",
            config_patterns={"mlflow": ["mlflow*"]},
            merge_strategy=strategy,
        )

    return read_configuration(make, [conf / "base", conf / "local"], params or {})


def test_pipe_among_the_files_is_refused(conf: Path) -> None:
    os.mkfifo(conf / "local" / "parameters_pipe.yml")
    with pytest.raises(SettingError, match=r"parameters_pipe\.yml: expected a file that can be read"):
        read(conf)


LAUGHS = "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9}]\n" for n in range(1, 9))


@pytest.mark.parametrize(
    ("content", "told"), [(LAUGHS, "at most 100,000 values"), ("a: " + 100_000 * "[", "at most 50 deep")]
)
def test_file_that_grows_without_end_is_refused(conf: Path, content: str, told: str) -> None:
    (conf / "local" / "parameters.yml").write_text(content)
    with pytest.raises(SettingError, match=told):
        read(conf)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("content", "line", "told"),
    [
        (b"a: 1\n\tb: 2\n", 2, "tab"),
        (b"a: {b: 1\n", 2, "expected YAML"),
        (b"a:\n  b: 1\n c: 2\n", 3, "expected YAML"),
        (b"seed: 1\nseed: 2\n", 2, "'seed' again"),
        (b"a: 1\n---\nb: 2\n", 2, "another document"),
        (b"a: *nowhere\n", 1, "undefined alias"),
        (b"a:\n  <<: [1, 2]\n", 2, "expected sections to merge, got a list"),
        (b"5\n", 1, "expected names with their values, got '5'"),
        (b"- 1\n", 1, "expected names with their values, got a list"),
        (b"hello\n", 1, "got 'hello'"),
        ("a: 1\n".encode("utf-16"), 1, "expected text in UTF-8, got the byte 0xff"),
        (b"a: 1\nb: \xe9\n", 2, "expected text in UTF-8, got the byte 0xe9"),
        (b"a: \0\n", 1, "control characters are not allowed"),
        (b"a: &a [*a]\n", 1, "contains itself"),
        (b"a: 1\n5: 1\n", 2, "expected a word as a name, got '5'"),
        (b"null: 1\n", 1, "got 'null'"),
        (b"a:\n  yes: 1\n", 2, "got 'yes'"),
        (b"a: !mine 3\n", 1, "expected a plain value, got one of the kind !mine"),
        (b"a: !!python/name:os.getcwd\n", 1, "got one of the kind tag:yaml.org,2002:python/name:os.getcwd"),
        (b"a: !!binary aGk=\n", 1, "2002:binary"),
        (b"a: ???\n", 1, "expected a value, got ???"),
        (b"a:\n  - ???\n", 2, "expected a value, got ???"),
        (b"a: ${nowhere}\n", 1, "Interpolation key 'nowhere' not found"),
        (b"a: ${nowhere\n", 1, "${nowhere"),
        (b"a: ${nowhere:1}\n", 1, "Unsupported interpolation type nowhere"),
        (b"a: ${oc.env:NOWHERE}\n", 1, "Unsupported interpolation type oc.env"),
        (b"a: ${b}\nb: ${a}\n", 1, "Recursive interpolation"),
    ],
)
def test_file_that_cannot_be_read_is_named_with_its_line(
    conf: Path, kind: str, content: bytes, line: int, told: str
) -> None:
    path = conf / "local" / f"{kind}.yml"
    path.write_bytes(content)

    with pytest.raises(SettingError) as caught:
        read(conf)

    message = str(caught.value)
    assert f"{path}, line {line}" in message
    assert told in message
    assert "\n" not in message


def test_what_is_right_is_read_once(conf: Path) -> None:
    loader = read(conf, {"seed": 3})

    (conf / "base" / "parameters.yml").unlink()
    assert loader["parameters"] == {"prepare": {"copies": 1}, "seed": 3}


def test_list_in_the_place_of_a_section_is_named(conf: Path) -> None:
    (conf / "local" / "parameters.yml").write_text("prepare: [1]\n")
    with pytest.raises(SettingError, match=r"prepare \(.*line 1\): expected a section of names, got a list"):
        read(conf)
    (conf / "local" / "parameters.yml").unlink()
    with pytest.raises(SettingError, match=r"prepare \(--params.*\): expected a section of names, got a list"):
        read(conf, {"prepare": [1]})


def test_link_that_leads_nowhere_is_named(conf: Path) -> None:
    path = conf / "local" / "parameters.yml"
    path.symlink_to(path)

    with pytest.raises(SettingError, match="expected a file that can be read"):
        read(conf)


def test_folder_without_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="--conf-source: expected a folder with base/"):
        read(tmp_path)


@pytest.mark.parametrize(
    "root", ["a[b", "a{b}", "'${a}'", "s3://bucket/data", "file:///data", "'a*'", "n" * 300, "''", "null"]
)
def test_data_root_that_is_no_plain_folder_is_refused(conf: Path, root: str) -> None:
    (conf / "local" / "globals.yml").write_text(f"data: {root}\n")

    with pytest.raises(SettingError) as caught:
        read(conf)
    assert str(caught.value).startswith("data") or "interpolation" in str(caught.value).lower()
