"""Tables of settings in the documentation, made from the typed parameters.

A page says where and which by two comments, between which the table is written:

    <!-- settings: sample -->
    <!-- /settings -->

`<!-- transformations -->` and `<!-- /transformations -->` hold the table of the transformations likewise.
`python tools/settings_pages.py` (`make settings`) fills the pages below `docs/`. Settings of one type, such as those
of the three mechanisms, share a table.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from skdcgn_pipeline import transformations
from skdcgn_pipeline.parameters import Parameters

SETTINGS = re.compile(r"(<!-- settings: ([\w, ]+?) -->\n).*?(<!-- /settings -->)", re.DOTALL)
TRANSFORMATIONS = re.compile(r"(<!-- transformations -->\n).*?(<!-- /transformations -->)", re.DOTALL)
WORDS: Mapping[Any, str] = {int: "integer", float: "number", str: "text", bool: "`true` or `false`", NoneType: "`null`"}
BOUNDS = {"gt": "> {}", "ge": "≥ {}", "lt": "< {}", "le": "≤ {}", "multiple_of": "a multiple of {}"}
MISSING = object()


@dataclass(frozen=True)
class Setting:
    """One row of a table.

    Attributes:
        name: Dotted; `[]` stands for each entry of a list, `<name>` for each name of a mapping.
        values: Type and range, in words.
        default: What the code takes where nothing is given; `MISSING` where a value is needed.
        meaning: What the docstring says.
    """

    name: str
    values: str
    default: Any
    meaning: str


def documented_attributes(model: type[BaseModel]) -> dict[str, str]:
    """Return what a model's docstring, or that of a model it extends, says of each attribute, in one line."""
    found: dict[str, str] = {}
    for one in reversed(model.__mro__):
        section = re.search(r"^Attributes:\n(.*?)(?=^\S|\Z)", inspect.getdoc(one) or "", re.DOTALL | re.MULTILINE)
        entries = re.findall(
            r"^    (\w[\w, ]*): (.*?)(?=^    \w|\Z)", section[1] if section else "", re.DOTALL | re.MULTILINE
        )
        found |= {name: " ".join(text.split()) for names, text in entries for name in names.split(", ")}
    return found


def _constraints(metadata: Sequence[Any]) -> str:
    """Return ranges and lengths in words."""
    told = []
    for one in metadata:
        if isinstance(one, FieldInfo):
            told.append(_constraints(one.metadata))
        elif hasattr(one, "min_length"):
            told.append(f"at least {one.min_length} of them")
        elif hasattr(one, "max_length"):
            told.append(f"at most {one.max_length} of them")
        else:
            told += [text.format(f"{getattr(one, name):g}") for name, text in BOUNDS.items() if hasattr(one, name)]
    return ", ".join(filter(None, told))


def _values(annotation: Any) -> str:
    """Return type and range of an annotation in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return ", ".join(filter(None, (_values(arguments[0]), _constraints(arguments[1:]))))
    if origin is Literal:
        return ", ".join(f"`{one}`" for one in arguments)
    if origin in (Union, UnionType):
        return " or ".join(_values(one) for one in arguments)
    if origin is tuple and arguments[1:] == (...,):
        return f"list of: {_values(arguments[0])}"
    if origin is tuple:
        parts = [_values(one) for one in arguments]
        return f"{len(parts)} times: {parts[0]}" if len(set(parts)) == 1 else f"[{'; '.join(parts)}]"
    if origin is dict:
        return "mapping of names to " + _values(arguments[1])
    if _is_model(annotation):
        return "settings, see below"
    return WORDS.get(annotation) or str(getattr(annotation, "__name__", annotation))


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _model_in(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    """Return the settings that an annotation holds, and `[]` or `.<name>` for each list or mapping around them."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _model_in(arguments[0])
    if origin in (Union, UnionType):
        return next((found for one in arguments if (found := _model_in(one))[0]), (None, ""))
    if origin is tuple and arguments[1:] == (...,):
        model, brackets = _model_in(arguments[0])
        return model, f"[]{brackets}"
    if origin is dict:
        model, brackets = _model_in(arguments[1])
        return model, f".<name>{brackets}"
    return (annotation if _is_model(annotation) else None), ""


def settings_of(model: type[BaseModel], prefix: str = "", given: BaseModel | None = None) -> Iterator[Setting]:
    """Yield the settings of a model and of those inside it.

    Args:
        model: A model of `parameters.py`.
        prefix: Stands before each name, with its dot.
        given: Where the model is itself a default: what it holds.
    """
    meanings, hints = documented_attributes(model), get_type_hints(model, include_extras=True)
    for name, field in model.model_fields.items():
        default = MISSING if field.is_required() else field.get_default(call_default_factory=True)
        if given is not None:
            default = getattr(given, name)
        inner, brackets = _model_in(hints[name])
        if not _is_model(hints[name]):
            yield Setting(f"{prefix}{name}", _values(hints[name]), default, meanings.get(name, ""))
        if inner is not None:
            own = default if isinstance(default, BaseModel) else None
            yield from settings_of(inner, f"{prefix}{name}{brackets}.", own)


def _at(values: Any, name: str) -> Any:
    """Return what nested mappings hold under a dotted name, or `MISSING`."""
    for part in name.split("."):
        values = values.get(part, MISSING) if isinstance(values, Mapping) else MISSING
    return values


def _written(value: Any) -> str:
    """Return a value as it would be written in YAML, on one line."""
    if value is MISSING:
        return "–"
    if isinstance(value, str):
        return f"`{value}`"
    plain = json.dumps(value, default=lambda one: one.model_dump(mode="json"), ensure_ascii=False)
    return f"`{plain.replace(chr(34), '')}`"


def _shared(values: Mapping[str, Any]) -> str:
    """Return the values of settings of one type: one where all agree, else the first and who differs."""
    written = {name: _written(value) for name, value in values.items()}
    if len(set(written.values())) == 1:
        return next(iter(written.values()))
    return "; ".join(
        f"{value} ({', '.join(name for name, own in written.items() if own == value)})"
        for value in dict.fromkeys(written.values())
    )


def settings_table(names: Sequence[str], values: Mapping[str, Any]) -> str:
    """Return the table of top-level settings in Markdown.

    Args:
        names: Top-level settings. Those that follow one another and have one type are told once.
        values: What the base environment gives, nested.

    Raises:
        KeyError: If there is no such setting.
    """
    hints = get_type_hints(Parameters, include_extras=True)
    lines = []
    for model, group in groupby(names, key=lambda name: _model_in(hints[name])[0]):
        own = list(group)
        if model is None:
            told = {row.name: row for row in settings_of(Parameters)}
            rows = [told[name] for name in own]
            base = {name: _written(_at(values, name)) for name in own}
        else:
            default = Parameters.model_fields[own[0]].default
            rows = list(settings_of(model, f"{own[0]}.", default if isinstance(default, BaseModel) else None))
            inner = {row.name: row.name.removeprefix(f"{own[0]}.") for row in rows}
            base = {row.name: _shared({one: _at(values, f"{one}.{inner[row.name]}") for one in own}) for row in rows}
            lines.append(" ".join((inspect.getdoc(model) or "").split("\n\n")[0].split()))
            if len(own) > 1:
                lines[-1] += f" The same for {' and '.join(f'`{one}`' for one in own[1:])}."
            lines.append("")
        lines += ["| setting | values | default | in `conf/base` | meaning |", "|---|---|---|---|---|"]
        for row in rows:
            default_text = "needed" if row.default is MISSING else _written(row.default)
            cells = (f"`{row.name}`", row.values, default_text, base[row.name], row.meaning)
            lines.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def transformations_table() -> str:
    """Return the table of the transformations of a mechanism in Markdown."""
    rows = [
        f"| `{name}` | {', '.join(kind.mechanisms)} | {kind.lowest:g} to {kind.highest:g} | {kind.unit} |"
        for name, kind in transformations.TRANSFORMATIONS.items()
    ]
    return "\n".join(["| kind | of | strength | which is |", "|---|---|---|---|", *rows])


def filled(page: str, values: Mapping[str, Any]) -> str:
    """Return a page with the table between every pair of marks made anew."""

    def table(mark: re.Match[str]) -> str:
        return f"{mark[1]}\n{settings_table(marked_names(mark[2]), values)}\n\n{mark[3]}"

    page = SETTINGS.sub(table, page)
    return TRANSFORMATIONS.sub(lambda mark: f"{mark[1]}\n{transformations_table()}\n\n{mark[2]}", page)


def marked_names(mark: str) -> list[str]:
    """Return the settings that a mark names."""
    return [name.strip() for name in mark.split(",")]


def base_values(conf: Path) -> dict[str, Any]:
    """Return the parameters of the base environment as they are written, interpolations and all."""
    from omegaconf import OmegaConf  # Kedro's own reader

    files = [OmegaConf.load(path) for path in sorted((conf / "base").glob("parameters*.yml"))]
    merged = OmegaConf.to_container(OmegaConf.merge(*files), resolve=False)
    assert isinstance(merged, dict)
    return {str(name): value for name, value in merged.items()}


def main(root: Path) -> None:
    """Fill all pages of the project at `root`."""
    values = base_values(root / "conf")
    for path in sorted((root / "docs").rglob("*.md")):
        page = path.read_text(encoding="utf-8")
        if (new := filled(page, values)) != page:
            path.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
