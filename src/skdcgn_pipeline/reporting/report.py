"""The report: one HTML file with the pictures and tables of a run, readable without a network."""

from __future__ import annotations

import base64
import io
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from skdcgn_pipeline.parameters import flatten, without_anchors
from skdcgn_pipeline.reporting.headlines import Headline
from skdcgn_pipeline.reporting.pictures import encode_gif
from skdcgn_pipeline.reporting.tables import format_value
from skdcgn_pipeline.reporting.templates import template

# What YAML reads as something else than the word.
NO_WORDS = {"null", "none", "true", "false", "yes", "no", "on", "off", "y", "n", "nan", "inf"}


def embed(picture: np.ndarray) -> str:
    """Return a picture [H, W, 3] uint8 as a PNG file in base64."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def render_chapter(findings: Sequence[tuple[str, Sequence[str]]], pictures: Mapping[str, Sequence[np.ndarray]]) -> str:
    """Render the composition study as a part of a report.

    Args:
        findings: Title and sentences of each study, as `write_findings` gives them.
        pictures: Title -> pictures.

    Returns:
        HTML; it refers to no other file.
    """
    studies = [
        {"title": title, "sentences": sentences, "pictures": [_shown(one) for one in pictures.get(title, ())]}
        for title, sentences in findings
    ]
    return template("reporting/chapter.html.j2").render(studies=studies)


def _shown(content: np.ndarray | pd.DataFrame) -> dict[str, Any]:
    """Return what the templates show of a picture, an animation or a table."""
    if isinstance(content, pd.DataFrame):
        rows = [[format_value(value) for value in row] for row in content.itertuples(index=False)]
        return {"columns": [str(name).replace("_", " ") for name in content.columns], "rows": rows}
    if content.ndim == 4:
        data = base64.b64encode(encode_gif(content)).decode()
        return {"kind": "gif", "data": data, "width": content.shape[2]}
    return {"kind": "png", "data": embed(content), "width": content.shape[1]}


def command_of(this_run: Mapping[str, Any], pipeline: str = "", outputs: Sequence[str] = ()) -> str:
    """Return the command that makes something again, in the environment and with the overrides of a run.

    Args:
        this_run: `env` and `params` (nested) of the run; either may be missing.
        pipeline: The pipeline; empty for the whole chain.
        outputs: Datasets to stop at.
    """
    params = ",".join(f"{name}={_written(value)}" for name, value in flatten(this_run.get("params") or {}).items())
    options = {"env": this_run.get("env"), "pipelines": pipeline, "to-outputs": ",".join(outputs)}
    options["params"] = params and shlex.quote(params)
    return " ".join(["kedro run", *(f"--{name} {value}" for name, value in options.items() if value)])


def _written(value: Any) -> str:
    """Return a setting as `--params` reads it back: a word as it stands, everything else in JSON, which is YAML."""
    is_word = isinstance(value, str) and re.fullmatch(r"[A-Za-z/][\w./:*@%+-]*", value)
    return value if is_word and value.lower() not in NO_WORDS else json.dumps(value)


@dataclass(frozen=True)
class Part:
    """A picture or a table of a report.

    Attributes:
        title: Above it.
        caption: What is seen.
        content: RGB array [H, W, 3] or frames [T, H, W, 3], uint8, or a table as `reporting.tables` makes it.
        command: Makes it again; empty for none.
    """

    title: str
    caption: str
    content: np.ndarray | pd.DataFrame
    command: str = ""


@dataclass(frozen=True)
class Section:
    """Parts of a report that belong together.

    Attributes:
        title: Above them.
        lead: What they show, in a sentence each.
        words: Words that are not everyday ones -> what they mean here.
        parts: In reading order.
    """

    title: str
    lead: Sequence[str]
    words: Mapping[str, str]
    parts: Sequence[Part]


@dataclass(frozen=True)
class Page:
    """What a report tells.

    Attributes:
        settings: Name -> value, as the configuration gives them; nested ones are shown under dotted names.
        figures: What people look at first.
        sentences: What comes next, a paragraph each.
        sections: Pictures and tables.
        chapter: HTML of the composition study, as `render_chapter` gives it.
        facts: What was run: name -> value.
        next_steps: What can be done next -> the command.
    """

    settings: Mapping[str, Any]
    figures: Sequence[Headline] = ()
    sentences: Sequence[str] = ()
    sections: Sequence[Section] = ()
    chapter: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    next_steps: Mapping[str, str] = field(default_factory=dict)


def render_report(page: Page) -> str:
    """Return a report as HTML; it refers to no other file."""
    settings = {name: str(value) for name, value in flatten(without_anchors(page.settings)).items()}
    return template("reporting/report.html.j2").render(page=page, settings=settings, shown=_shown)
