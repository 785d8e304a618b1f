"""The report: one HTML file with the pictures and tables of a run, readable without a network."""

from __future__ import annotations

import base64
import io
import json
import platform
import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from skdcgn_pipeline.classifiers.accuracy import BACKGROUND_GAP, SHAPE_BIAS, WORST_GROUP, subset_of
from skdcgn_pipeline.classifiers.classification import COUNTERFACTUALS, ORIGINALS
from skdcgn_pipeline.classifiers.torchvision_classifier import HEADS, WITHOUT_BACKGROUND
from skdcgn_pipeline.metrics.statistics import compare_pairs
from skdcgn_pipeline.parameters import flatten, without_anchors
from skdcgn_pipeline.reporting.pictures import encode_gif
from skdcgn_pipeline.reporting.templates import template
from skdcgn_pipeline.vocabulary import MECHANISMS

LEARNT = {
    "originals": "originals",
    "cutouts": "counterfactuals of cut-outs",
    "teacher": "teacher's counterfactuals",
    "students": "students' counterfactuals",
}
# Where and by which subset invariance is told as papers do, beside accuracy.
INVARIANCE = (
    ("cue_conflict", subset_of(SHAPE_BIAS, HEADS[0]), "shape bias of the shape head {} %"),
    ("imagenet9", subset_of(BACKGROUND_GAP, WITHOUT_BACKGROUND), "background gap {} points"),
)
# What YAML reads as something else than the word.
NO_WORDS = {"null", "none", "true", "false", "yes", "no", "on", "off", "y", "n", "nan", "inf"}
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
    params = ",".join(f"{name}={_written(value)}" for name, value in flatten(this_run.get("params") or {}).items())
    options = {"env": this_run.get("env"), "pipelines": pipeline, "to-outputs": ",".join(outputs)}
    options["params"] = params and shlex.quote(params)
    return " ".join(["kedro run", *(f"--{name} {value}" for name, value in options.items() if value)])


def _written(value: Any) -> str:
    """Return a setting as `--params` reads it back: a word as it stands, everything else in JSON, which is YAML."""
    is_word = isinstance(value, str) and re.fullmatch(r"[A-Za-z/][\w./:*@%+-]*", value)
    return value if is_word and value.lower() not in NO_WORDS else json.dumps(value)


def render_report(
    settings: Mapping[str, Any],
    pictures: Mapping[str, tuple[str, np.ndarray]],
    tables: Mapping[str, tuple[str, pd.DataFrame]],
    headlines: Sequence[str],
    chapter: str = "",
    facts: Mapping[str, str] | None = None,
    commands: Mapping[str, str] | None = None,
) -> str:
    """Render the report.

    Args:
        settings: Name -> value, as the configuration gives them; nested ones are shown under dotted names.
        pictures: Title -> (caption, RGB array [H, W, 3] or frames [T, H, W, 3], uint8).
        tables: Title -> (caption, frame).
        headlines: The results, in a sentence each.
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
        headlines=headlines,
        chapter=chapter,
        settings={name: str(value) for name, value in flatten(without_anchors(settings)).items()},
        facts={**(facts or {}), "versions": _versions(), "machine": machine},
        commands=commands,
        pictures=[
            {"title": title, "caption": caption, **_shown(picture)} for title, (caption, picture) in pictures.items()
        ],
        tables=[{"title": title, "caption": caption, **_as_table(frame)} for title, (caption, frame) in tables.items()],
    )


def percent(value: float, high: float, sign: str = "") -> str:
    """Write a share and half the width of its interval, if it has one (`high` is a number), in percent."""
    half_width = 100 * (high - value)
    return f"{100 * value:{sign}.1f}" + (f" ± {half_width:.1f}" if half_width >= 0 else "")


def _accuracy(row: Mapping[Any, Any]) -> str:
    return percent(row["mean_accuracy"], row["interval_high"])


def _over(num_seeds: int) -> str:
    return f"mean and 95 % interval over {num_seeds} seeds" if num_seeds > 1 else "one seed"


def headline_split(summary: pd.DataFrame) -> str:
    """Return the split that headlines tell of a table of accuracies: the test, or the first one."""
    splits = [*summary.loc[summary["subset"] == "all", "split"]]
    return "test" if "test" in splits else splits[0]


def summarise_in_a_sentence(summary: pd.DataFrame) -> str:
    """Say what the classifiers reached on all images of the first test split, and how invariant they are."""
    keys = zip(summary["trained_on"], summary["split"], summary["subset"], strict=True)
    rows = dict(zip(keys, summary.to_dict("records"), strict=True))
    split = headline_split(summary)

    def of_set(name: str) -> str:
        said = f"{_accuracy(rows[name, split, 'all'])} % trained on {LEARNT.get(name, name)}"
        for at, subset, words in INVARIANCE:
            if (row := rows.get((name, at, subset))) and pd.notna(row["mean_accuracy"]):
                said += f", {words.format(_accuracy(row))}"
        return said

    names = [*dict.fromkeys(summary["trained_on"])]
    number, images = int(summary["num_seeds"].iloc[0]), int(rows[names[0], split, "all"]["num_images"])
    return f"Accuracy on {split}: {'; '.join(map(of_set, names))} ({_over(number)}, {images:,} images)."


def tell_gains(accuracy: pd.DataFrame) -> str:
    """Say what counterfactuals bought against training on the originals, seed by seed, on every test split.

    Args:
        accuracy: Rows of `trained_on`, `seed`, `split`, `subset` and `accuracy`.

    Returns:
        A sentence; empty where nothing was trained on the originals, or nothing else.
    """
    by_set = accuracy.pivot_table("accuracy", ["split", "subset", "seed"], "trained_on", sort=False)
    others = [str(name) for name in by_set if name != ORIGINALS]
    if ORIGINALS not in by_set or not others:
        return ""
    splits = [name for name in dict.fromkeys(accuracy["split"]) if name not in ("validation", COUNTERFACTUALS)]
    measured, sentences = {*zip(accuracy["split"], accuracy["subset"], strict=True)}, []
    for split in splits or ["validation"]:
        told = []
        for subset, words in (("all", "accuracy"), (WORST_GROUP, "accuracy in the worst group")):
            if (split, subset) not in measured:
                continue
            of_seeds = by_set.loc[(split, subset)]
            for name in others:
                gain = compare_pairs(of_seeds[name], of_seeds[ORIGINALS])
                points = percent(gain["difference"], gain["difference_high"], "+")
                ends = f"{100 * of_seeds[ORIGINALS].mean():.1f} to {100 * of_seeds[name].mean():.1f} %"
                told.append(f"{LEARNT.get(name, name)} {points} points of {words} ({ends})")
        if told:
            sentences.append(f"on {split} {'; '.join(told)}")
    if not sentences:
        return ""
    number = accuracy["seed"].nunique()
    return f"What counterfactuals bought against training on originals ({_over(number)}): {'. '.join(sentences)}."


def tell_likeness(comparison: pd.DataFrame) -> str:
    """Say how like their teacher students are, where nothing is classified.

    Args:
        comparison: Rows of `mechanism`, `l1` and `mask_iou`.
    """
    rows = {str(row["mechanism"]): row for row in comparison.to_dict("records")}
    shape, *others = MECHANISMS
    differences = " and ".join(f"{mechanism} {rows[mechanism]['l1']:.3f}" for mechanism in others)
    return (
        f"The students' masks agree with their teacher's with an IoU of {rows[shape]['mask_iou']:.3f}; mean L1 of "
        f"{differences}, on held-out noise. Without real images nothing is classified, and no features are measured."
    )


def by_class(confusion: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracy of every class by split (rows) and by what was trained on (columns)."""
    table = confusion.pivot_table("accuracy", ["split", "label"], "trained_on", sort=False)
    return table.reset_index().rename(columns={"label": "class"}).rename_axis(columns=None)
