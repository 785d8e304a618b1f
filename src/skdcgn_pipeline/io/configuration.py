"""Reading `conf/`: what is wrong with it is told in one line, with its file and line, before any work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from kedro.config import MissingConfigException
from omegaconf import OmegaConf

from skdcgn_pipeline.runtime.errors import SettingError, told_in_one_line

KINDS = ("globals", "parameters", "catalog", "mlflow")
READ = (*KINDS, "credentials")
SUFFIXES = {".yml", ".yaml", ".json"}
MERGE = "tag:yaml.org,2002:merge"
NAME_TAGS = {"tag:yaml.org,2002:str", MERGE}
TAGS = {
    f"tag:yaml.org,2002:{kind}" for kind in ("bool", "float", "int", "map", "null", "seq", "str", "timestamp", "value")
}
PARAMS = "--params"
REMEDY = "Nothing has been run; correct it."
DEEPEST = 50
MOST_VALUES = 100_000  # as far as anchors that name anchors are followed
# What file systems and Kedro's patterns of names take for something else.
NOT_IN_A_DATA_ROOT = "[]{}*?$"


def read_configuration(make_loader: Callable[[], Any], folders: Iterable[Path], params: Mapping[str, Any]) -> Any:
    """Return a loader that has read everything, once.

    Args:
        make_loader: Makes Kedro's `OmegaConfigLoader`.
        folders: Of the base and of the environment, where they are folders and not in an archive.
        params: Of the command line.

    Raises:
        SettingError: Naming what is wrong by file and line, or by the name of the setting.
    """
    places: dict[str, tuple[str, yaml.Node]] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            parts = path.relative_to(folder).parts
            if path.suffix in SUFFIXES and any(part.startswith(READ) for part in parts) and not path.is_dir():
                _check_text(str(path), _text_of(path), places)
    _check_text(PARAMS, OmegaConf.to_yaml(OmegaConf.create(dict(params))), places)
    try:
        loader = make_loader()
        for kind in KINDS:
            loader[kind] = loader[kind]  # each further reading would resolve all files anew
    except MissingConfigException as error:
        raise SettingError("--conf-source", "a folder with base/ and its files", str(error), REMEDY) from error
    except Exception as error:
        name = str(getattr(error, "full_key", None) or "configuration")
        where = f" ({places[name][0]})" if name in places else ""
        got = told_in_one_line(str(error).partition("\n    full_key")[0])
        raise SettingError(name + where, "a value that can be read", got, REMEDY) from error
    _check_data_root(loader["globals"].get("data"))
    return loader


def _check_data_root(data: Any) -> None:
    """Refuse a data root whose name would be taken for something else."""
    root, remedy = str(data or ""), "Choose another folder (SKDCGN_DATA, or data in globals.yml)."
    expected = f"a folder of this machine, its name without any of {' '.join(NOT_IN_A_DATA_ROOT)}"
    if not root.strip() or "://" in root or any(character in root for character in NOT_IN_A_DATA_ROOT):
        raise SettingError("data root", expected, repr(root), remedy)
    try:
        Path(root).exists()
    except OSError as error:
        raise SettingError("data root", expected, f"{root[:40]}...: {error.strerror}", remedy) from error


def _text_of(path: Path) -> str:
    if path.exists() and not path.is_file():
        raise SettingError(str(path), "a file that can be read", "a device or a pipe, which may never end", REMEDY)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        got = f"the byte {error.object[error.start]:#x}"
        raise SettingError(f"{path}, line {line}", "text in UTF-8", got, REMEDY) from error
    except OSError as error:
        raise SettingError(str(path), "a file that can be read", error.strerror, REMEDY) from error


def _check_text(file: str, text: str, places: dict[str, tuple[str, yaml.Node]]) -> None:
    """Refuse what is no YAML, or YAML of another form than names and values; adds the place of every name."""
    loader, depth = getattr(yaml, "CSafeLoader", yaml.SafeLoader), 0
    try:
        for event in yaml.parse(text, loader):  # which has no stack; what composes would end the process
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise SettingError(file, f"brackets at most {DEEPEST} deep", "deeper ones", REMEDY)
        root = yaml.compose(text, loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line if mark else text.count("\n", 0, getattr(error, "position", 0))
        got = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise SettingError(f"{file}, line {line + 1}", "YAML", told_in_one_line(got), REMEDY) from error
    if root is not None:
        _check_node(root, "", file, places, ())


def _place(file: str, node: yaml.Node) -> str:
    return file if file == PARAMS else f"{file}, line {node.start_mark.line + 1}"


def _word(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return f"'{told_in_one_line(node.value)}'"
    return "a section of names" if isinstance(node, yaml.MappingNode) else "a list"


def _check_node(
    node: yaml.Node, name: str, file: str, places: dict[str, tuple[str, yaml.Node]], above: tuple[yaml.Node, ...]
) -> None:
    """Check the mapping at a name, its names and what stands below them."""
    place = _place(file, node)
    if not above and not isinstance(node, yaml.MappingNode):
        raise SettingError(place, "names with their values", _word(node), REMEDY)
    if any(node is one for one in above):
        raise SettingError(place, "values that come to an end", f"{name}, which contains itself", REMEDY)
    if len(places) > MOST_VALUES:
        expected, got = f"at most {MOST_VALUES:,} values in all", "more, anchors counted anew"
        raise SettingError(f"{name.partition('[')[0]} ({file})", expected, got, REMEDY)
    _, earlier = places.get(name, ("", node))
    if {type(node), type(earlier)} == {yaml.MappingNode, yaml.SequenceNode}:
        raise SettingError(f"{name} ({place})", _word(earlier), _word(node), REMEDY)
    if node.tag not in TAGS:
        raise SettingError(f"{name} ({place})", "a plain value", f"one of the kind {node.tag}", REMEDY)
    if node.value == "???":
        raise SettingError(f"{name} ({place})", "a value", "???, which stands for a missing one", REMEDY)
    if name:
        places[name] = place, node
    if isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            _check_node(value, f"{name}[{number}]", file, places, (*above, node))
    elif isinstance(node, yaml.MappingNode):
        _check_names(node, name, file, places, (*above, node))


def _check_names(
    node: yaml.MappingNode, name: str, file: str, places: dict[str, tuple[str, yaml.Node]], above: tuple[yaml.Node, ...]
) -> None:
    names = set()
    for key, value in node.value:
        place = _place(file, key)
        if key.tag not in NAME_TAGS:
            raise SettingError(place, "a word as a name", f"{_word(key)}, which would be one in quotes", REMEDY)
        if key.value in names:
            raise SettingError(place, "each name once", f"'{key.value}' again", REMEDY)
        names.add(key.value)
        merged = value.value if isinstance(value, yaml.SequenceNode) else [value]
        if key.tag == MERGE and not all(isinstance(one, yaml.MappingNode) for one in merged):
            raise SettingError(place, "sections to merge", _word(value), REMEDY)
        _check_node(value, f"{name}.{key.value}".removeprefix("."), file, places, above)
