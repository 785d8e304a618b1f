"""The report: one HTML file with the pictures and tables of a run, readable without a network."""

from __future__ import annotations

import base64
import io
import platform
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from skdcgn_pipeline.classifiers.accuracy import BACKGROUND_GAP, SHAPE_BIAS, subset_of
from skdcgn_pipeline.classifiers.torchvision_classifier import HEADS, WITHOUT_BACKGROUND
from skdcgn_pipeline.parameters import flatten, without_anchors
from skdcgn_pipeline.reporting.pictures import encode_gif
from skdcgn_pipeline.reporting.templates import template

LEARNT = {
    "originals": "originals",
    "teacher": "teacher's counterfactuals",
    "students": "students' counterfactuals",
}
# Where and by which subset invariance is told as papers do, beside accuracy.
INVARIANCE = (
    ("cue_conflict", subset_of(SHAPE_BIAS, HEADS[0]), "shape bias of the shape head {} %"),
    ("imagenet9", subset_of(BACKGROUND_GAP, WITHOUT_BACKGROUND), "background gap {} points"),
)
PACKAGES = ("skdcgn_pipeline", "torch", "numpy", "kedro", "mlflow")


def embed(picture: np.ndarray, optimize: bool = True) -> str:
    """Return a picture [H, W, 3] uint8 as a PNG file in base64; `optimize` makes it as small as can be, slowly."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", optimize=optimize)
    return base64.b64encode(buffer.getvalue()).decode()


def _format(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "–"
    if isinstance(value, float) and value.is_integer() and abs(value) >= 1000:
        value = int(value)
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def _as_table(frame: pd.DataFrame) -> dict[str, Any]:
    rows = [[_format(value) for value in row] for row in frame.itertuples(index=False)]
    return {"columns": [str(name).replace("_", " ") for name in frame.columns], "rows": rows}


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


def _shown(picture: np.ndarray) -> dict[str, Any]:
    if picture.ndim == 4:
        data = base64.b64encode(encode_gif(picture)).decode()
        return {"kind": "gif", "data": data, "width": picture.shape[2]}
    return {"kind": "png", "data": embed(picture), "width": picture.shape[1]}


def _versions() -> str:
    """Say which versions of packages are installed; those that are not are left out."""
    versions = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions.append(f"{package} {version(package)}")
    return ", ".join(versions)


def command_of(this_run: Mapping[str, Any], pipeline: str = "", outputs: Sequence[str] = ()) -> str:
    """Return the command that makes something again, in the environment and with the overrides of a run.

    Args:
        this_run: `env` and `params` (nested) of the run; either may be missing.
        pipeline: The pipeline; empty for the whole chain.
        outputs: Datasets to stop at.
    """
    params = ",".join(f"{name}={value}" for name, value in flatten(this_run.get("params") or {}).items())
    options = {"env": this_run.get("env"), "pipelines": pipeline, "to-outputs": ",".join(outputs)}
    options["params"] = params and shlex.quote(params)
    return " ".join(["kedro run", *(f"--{name} {value}" for name, value in options.items() if value)])


def render_report(
    settings: Mapping[str, Any],
    pictures: Mapping[str, tuple[str, np.ndarray]],
    tables: Mapping[str, tuple[str, pd.DataFrame]],
    headline: str,
    chapter: str = "",
    facts: Mapping[str, str] | None = None,
    commands: Mapping[str, str] | None = None,
) -> str:
    """Render the report.

    Args:
        settings: Name -> value, as the configuration gives them; nested ones are shown under dotted names.
        pictures: Title -> (caption, RGB array [H, W, 3] or frames [T, H, W, 3], uint8).
        tables: Title -> (caption, frame).
        headline: The result in one sentence.
        chapter: HTML of the composition study, as `render_chapter` gives it.
        facts: What was run: name -> value.
        commands: Title of a picture or table -> the command that makes it again.

    Returns:
        The HTML text; it refers to no other file.
    """
    commands = commands or {}
    threads = torch.get_num_threads()
    machine = f"{platform.machine()}, {threads} thread{'s' * (threads > 1)}"
    return template("reporting/report.html.j2").render(
        headline=headline,
        chapter=chapter,
        settings={name: str(value) for name, value in flatten(without_anchors(settings)).items()},
        facts={**(facts or {}), "versions": _versions(), "machine": machine},
        commands=commands,
        pictures=[
            {"title": title, "caption": caption, **_shown(picture)} for title, (caption, picture) in pictures.items()
        ],
        tables=[{"title": title, "caption": caption, **_as_table(frame)} for title, (caption, frame) in tables.items()],
    )


def summarise_in_a_sentence(summary: pd.DataFrame) -> str:
    """Say what the classifiers reached on all images of the first test split, and how invariant they are."""
    keys = zip(summary["trained_on"], summary["split"], summary["subset"], strict=True)
    rows = dict(zip(keys, summary.to_dict("records"), strict=True))
    splits = [*summary.loc[summary["subset"] == "all", "split"]]
    split = "test" if "test" in splits else splits[0]

    def percent(row: Mapping[Any, Any]) -> str:
        half_width = 100 * (row["interval_high"] - row["mean_accuracy"])
        return f"{100 * row['mean_accuracy']:.1f}" + (f" ± {half_width:.1f}" if half_width >= 0 else "")

    def of_set(name: str) -> str:
        said = f"{percent(rows[name, split, 'all'])} % trained on {LEARNT.get(name, name)}"
        for at, subset, words in INVARIANCE:
            if (row := rows.get((name, at, subset))) and pd.notna(row["mean_accuracy"]):
                said += f", {words.format(percent(row))}"
        return said

    names = [*dict.fromkeys(summary["trained_on"])]
    number, images = int(summary["num_seeds"].iloc[0]), int(rows[names[0], split, "all"]["num_images"])
    of_seeds = f"mean and 95 % interval over {number} seeds" if number > 1 else "one seed"
    measure = "Unbiased test accuracy" if split == "test" else f"Accuracy on {split}"
    return f"{measure}: {'; '.join(map(of_set, names))} ({of_seeds}, {images:,} images)."
