"""Sheets of images and charts, as RGB arrays [H, W, 3] uint8."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from skdcgn_pipeline.classifiers.accuracy import DETAILS, summarise_accuracy
from skdcgn_pipeline.classifiers.classification import COUNTERFACTUALS
from skdcgn_pipeline.classifiers.corrupted import CLEAN
from skdcgn_pipeline.counterfactuals.pools import CounterfactualShards
from skdcgn_pipeline.images.image_set import Split
from skdcgn_pipeline.mechanisms import CounterfactualGenerator, MechanismImages, compose
from skdcgn_pipeline.metrics.counterfactual_quality import FACTUAL, INTERVENTIONS, intervene
from skdcgn_pipeline.metrics.pairs import first_images
from skdcgn_pipeline.reporting.tables import format_value
from skdcgn_pipeline.runtime.seeding import torch_generator
from skdcgn_pipeline.samples.drawing import SampleShards
from skdcgn_pipeline.samples.pixels import from_bytes
from skdcgn_pipeline.students.trio import StudentCGN
from skdcgn_pipeline.vocabulary import COMPOSITE, MECHANISMS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Picture = np.ndarray
SHOWN = (*MECHANISMS, COMPOSITE)
PIXELS_PER_PIXEL = 2  # small images are shown at twice their size
LARGEST_ENLARGED = 64
COLOUR_OF = {
    "originals": "#9a9a9a",
    "cutouts": "#4c956c",
    "teacher": "#3b6ea5",
    "students": "#d9822b",
    "baseline": "#7a5195",
}
DOTS_PER_INCH = 110
MILLISECONDS_PER_FRAME = 120  # GIF knows multiples of 10
MOST_CLASSES = 20  # of a confusion matrix that can be read
LONG_NAME = 3  # letters of a class name, beyond which it stands upright
FEW_GROUPS = 7  # of bars whose names stand side by side


def tile(images: Tensor) -> np.ndarray:
    """Put images [N, 1 or 3, H, W] in [-1, 1] in one row, with a thin border; small ones at twice their size."""
    scale = PIXELS_PER_PIXEL if images.shape[-1] <= LARGEST_ENLARGED else 1
    images = torch.nn.functional.pad(images.expand(-1, 3, -1, -1), (1, 1, 1, 1), value=1.0)
    row = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(2, 0, 3, 1).flatten(1, 2).numpy()
    return row.repeat(scale, 0).repeat(scale, 1)


def draw_sheet(rows: Sequence[tuple[str, Tensor]], title: str = "") -> Picture:
    """Draw labelled rows of images [N, 1 or 3, H, W] in [-1, 1]; where one has fewer, the rest of its row is white."""
    tiles = [tile(images) for _, images in rows]
    height, width = tiles[0].shape[0], max(row.shape[1] for row in tiles)
    tiles = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in tiles]
    margin = 150
    figure = new_figure(((width + margin) / DOTS_PER_INCH, (height * len(rows) + 30) / DOTS_PER_INCH), layout=None)
    sheet_height = height * len(rows)
    axes = figure.add_axes((margin / (width + margin), 0, width / (width + margin), sheet_height / (sheet_height + 30)))
    axes.imshow(np.concatenate(tiles), interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    for number, (label, _) in enumerate(rows):
        axes.text(-8, (number + 0.5) * height, label, ha="right", va="center", fontsize=8)
    figure.text(0.5, 1 - 8 / (sheet_height + 30), title, ha="center", va="top", fontsize=9)
    return rasterise(figure)


def new_figure(size: tuple[float, float], layout: Any = "constrained") -> Figure:
    """Return an empty figure of a size in inches; Matplotlib takes a second to import."""
    from matplotlib.figure import Figure

    return Figure(figsize=size, dpi=DOTS_PER_INCH, facecolor="white", layout=layout)


def rasterise(figure: Figure) -> Picture:
    """Turn a figure into pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def encode_gif(frames: np.ndarray) -> bytes:
    """Return frames [T, H, W, 3] uint8 as a GIF that repeats, each frame in the 256 colours that suit it best.

    Args:
        frames: RGB frames; equal neighbours become one that is shown longer.
    """
    buffer = io.BytesIO()
    first, *others = (Image.fromarray(frame) for frame in frames)
    first.save(buffer, format="GIF", save_all=True, append_images=others, duration=MILLISECONDS_PER_FRAME, loop=0)
    return buffer.getvalue()


def signed_images(images: MechanismImages, shown: str) -> Tensor:
    """Return the images of a mechanism, masks too, or the `COMPOSITE`, in [-1, 1]."""
    if shown == COMPOSITE:
        return compose(images)
    return images.mask * 2 - 1 if shown == "shape" else images.of(shown)


def draw_student_sheet(students: StudentCGN, heldout: SampleShards, num_examples: int) -> Picture:
    """Draw teacher above student for every mechanism and the composite, on held-out noise."""
    mine, theirs = first_images(students, heldout, num_examples)
    pairs = (("teacher", theirs), ("student", mine))
    rows = [(f"{what}, {role}", signed_images(images, what)) for what in SHOWN for role, images in pairs]
    return draw_sheet(rows, "The same noise through teacher and students, never trained on")


def draw_teacher_sheet(cgn: CounterfactualGenerator, num_examples: int, seed: int) -> Picture:
    """Draw what a trained teacher makes of random noise, class by class."""
    noise = torch.randn(num_examples, cgn.noise_dim, generator=torch_generator(seed, "teacher-sheet"))
    images = cgn.render(noise, torch.arange(num_examples) % cgn.num_classes)
    return draw_sheet([(what, signed_images(images, what)) for what in SHOWN], "The trained teacher")


def draw_counterfactual_sheet(sets: dict[str, CounterfactualShards], num_examples: int) -> Picture:
    """Draw stored counterfactuals of each source, two rows each."""
    rows = []
    for name, shards in sets.items():
        columns = shards.take(np.arange(min(2 * num_examples, shards.num_rows)), "images")
        images = from_bytes(torch.from_numpy(columns["images"]))
        rows += [(name, part) for part in images.split(num_examples)]
    return draw_sheet(rows, "Counterfactuals: shape, texture and background as composed")


def draw_interventions(
    generators: Mapping[str, CounterfactualGenerator], heldout: SampleShards, num_examples: int, seed: int
) -> Picture:
    """Draw the first held-out images of each generator, and these with another class of one mechanism."""
    rows = []
    for name, generator in generators.items():
        shown = [batch.composites for batch in intervene(generator, heldout, seed, "cpu", num_examples)]
        for intervention in INTERVENTIONS:
            label = name if intervention == FACTUAL else f"other {intervention}"
            rows.append((label, torch.cat([composites[intervention] for composites in shown])))
    return draw_sheet(rows, "Counterfactuals of held-out images: one mechanism of another class")


def draw_biased_sheet(splits: dict[str, Tensor], num_examples: int) -> Picture:
    """Draw uint8 images of each split: what a bias looks like and what the test asks for."""
    rows = [(name, from_bytes(images[:num_examples])) for name, images in splits.items()]
    return draw_sheet(rows, "Images of each split")


def draw_loss_curves(histories: dict[str, list[dict[str, float]]]) -> Picture:
    """Draw every loss term of every mechanism over the steps."""
    figure, axes = _panels(len(histories), 11 / len(histories), 3, sharey=True)
    for axis, (mechanism, history) in zip(axes, histories.items(), strict=True):
        frame = pd.DataFrame(history).set_index("step")
        for name in frame.columns:
            values = frame[name].dropna().abs()
            axis.plot(values.index, values, label=name, linewidth=1)
        axis.set(yscale="log", xlabel="step")
        axis.set_title(mechanism, fontsize=10)
        axis.legend(fontsize=7)
    axes[0].set_ylabel("unweighted term (absolute)")
    return rasterise(figure)


def _panels(number: int, width: float, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """Return a figure of panels side by side, each of a size in inches."""
    figure = new_figure((width * number, height))
    return figure, [*figure.subplots(1, number, squeeze=False, **options)[0]]


def draw_accuracy_chart(summary: pd.DataFrame) -> Picture:
    """Draw mean accuracy by what the classifiers were trained on, with 95 % intervals; NaN is told as a dash.

    Of classifiers with several heads, what all heads together say, and by which invariance is told.
    """
    summary = summary[~summary["subset"].isin(DETAILS) | (summary["split"] == COUNTERFACTUALS)]
    summary = summary.assign(group=summary[["split", "subset"]].agg("\n".join, axis=1))
    groups, sources = summary["group"].unique(), summary["trained_on"].unique()
    are_many = len(groups) > FEW_GROUPS
    figure = new_figure((9, 5.6 if are_many else 3.6))
    axis = figure.subplots()
    width = 0.8 / len(sources)
    for number, source in enumerate(sources):
        of_source = summary[summary["trained_on"] == source].set_index("group").reindex(groups)
        means, highs = 100 * of_source["mean_accuracy"], 100 * of_source["interval_high"]
        positions = np.arange(len(groups)) + (number - (len(sources) - 1) / 2) * width
        options: dict[str, Any] = {"yerr": highs - means, "capsize": 3, "label": source, "color": COLOUR_OF[source]}
        bars = axis.bar(positions, means, width * 0.95, **options)
        numbers = ["–" if np.isnan(mean) else f"{mean:.1f}" for mean in means]
        axis.bar_label(bars, numbers, fontsize=7, label_type="center", color="white")
    tilted: dict[str, Any] = {"rotation": 45, "ha": "right"} if are_many else {}
    axis.set_xticks(range(len(groups)), groups, fontsize=8, **tilted)
    axis.set(ylabel="accuracy, %", ylim=(min(0, 105 * summary["mean_accuracy"].min()), 100))
    axis.set_title("Accuracy by training images (mean over seeds, 95 % interval)", fontsize=10)
    axis.legend(title="trained on", fontsize=8, title_fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return rasterise(figure)


def draw_corruptions(corrupted: pd.DataFrame) -> Picture:
    """Draw accuracy over the strength of each corruption, clean images at 0, with 95 % intervals; of the first split.

    Args:
        corrupted: As `measure_corruptions` gives it.
    """
    first = corrupted["split"].iloc[0]
    summary = summarise_accuracy(corrupted[corrupted["split"] == first], ["trained_on", "corruption", "strength"])
    names = [name for name in summary["corruption"].unique() if name != CLEAN]
    figure, axes = _panels(len(names), 2.6, 3, sharey=True)
    for axis, name in zip(axes, names, strict=True):
        for source, rows in summary[summary["corruption"].isin([CLEAN, name])].groupby("trained_on", sort=False):
            colour, strengths = COLOUR_OF[str(source)], rows["strength"]
            axis.plot(strengths, 100 * rows["mean_accuracy"], color=colour, marker="o", markersize=3, label=source)
            axis.fill_between(
                strengths, 100 * rows["interval_low"], 100 * rows["interval_high"], color=colour, alpha=0.2
            )
        axis.set(xlabel="strength", xticks=summary["strength"].unique(), ylim=(0, 100))
        axis.set_title(name, fontsize=10)
    axes[0].set_ylabel("accuracy, %")
    axes[-1].legend(title="trained on", fontsize=8, title_fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figure.suptitle(f"Corrupted images of split {first} (0: as they are; mean over seeds, 95 % interval)", fontsize=10)
    return rasterise(figure)


def draw_confusions(confusions: Mapping[str, np.ndarray], class_names: Sequence[str], title: str) -> Picture:
    """Draw confusion matrices side by side, each row as shares of the images of its class.

    Of more than `MOST_CLASSES` classes, those that are recognised worst.

    Args:
        confusions: Title of each -> images by true class (rows) and predicted class (columns).
        class_names: Name of each class.
        title: Above all of them.
    """
    figure, axes = _panels(len(confusions), 4.2, 4.2)
    for axis, (name, counts) in zip(axes, confusions.items(), strict=True):
        shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
        worst = np.sort(np.diagonal(shares).argsort(kind="stable")[:MOST_CLASSES])
        shares = shares[np.ix_(worst, worst)]
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (label, predicted), share in np.ndenumerate(shares):
            if share >= 0.01:
                colour = "white" if share > 0.5 else "black"
                axis.text(predicted, label, f"{100 * share:.0f}", ha="center", va="center", fontsize=6, color=colour)
        names = [class_names[label] for label in worst]
        axis.set_xticks(range(len(worst)), names, rotation=90 if max(map(len, names)) > LONG_NAME else 0)
        axis.set_yticks(range(len(worst)), names)
        axis.set_xlabel("predicted class")
        axis.tick_params(labelsize=7)
        axis.set_title(name, fontsize=10)
    axes[0].set_ylabel("true class")
    figure.suptitle(title, fontsize=9)
    return rasterise(figure)


def pick_examples(split: Split, num_examples: int) -> tuple[Tensor, Tensor]:
    """Return images [N, 3, H, W] in [-1, 1] and labels [N]: class after class, none that hides in its background."""
    visible = torch.nonzero(~split.collision)[:, 0]
    labels = split.labels[visible]
    classes = labels.unique()
    rows = []
    for number in range(num_examples):
        of_class = visible[labels == classes[number % len(classes)]]
        rows.append(of_class[(number // len(classes)) % len(of_class)])
    chosen = torch.stack(rows)
    return from_bytes(split.rows.take(chosen)), split.labels[chosen]


def draw_attention(
    images: Tensor, maps: Mapping[str, tuple[Tensor, Tensor]], labels: Tensor, class_names: Sequence[str]
) -> Picture:
    """Draw where classifiers look: the images, then under each classifier's heat what it predicts.

    Args:
        images: [N, 3, H, W] in [-1, 1].
        maps: What was trained on -> (predicted classes [N], heat [N, H, W] in [0, 1]).
        labels: True classes [N].
        class_names: Name of each class.
    """
    columns = len(images)
    figure = new_figure((1.05 * columns + 1.2, 1.2 * (1 + len(maps))))
    axes = figure.subplots(1 + len(maps), columns, squeeze=False)
    shown = ((images + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    for column in range(columns):
        axes[0, column].imshow(shown[column], interpolation="nearest")
        axes[0, column].set_title(class_names[int(labels[column])], fontsize=8)
    for row, (predicted, heat) in enumerate(maps.values(), 1):
        for column in range(columns):
            axis, right = axes[row, column], bool(predicted[column] == labels[column])
            axis.imshow(shown[column].mean(2), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.imshow(heat[column].numpy(), cmap="inferno", vmin=0, vmax=1, alpha=0.6)
            answer = class_names[int(predicted[column])]
            axis.set_title(f"says {answer}", fontsize=8, color="black" if right else "#c0504d")
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    for axis, name in zip(axes[:, 0], ["test images", *maps], strict=True):
        axis.set_ylabel(name, fontsize=8)
    return rasterise(figure)


def draw_benchmark(table: pd.DataFrame) -> Picture:
    """Draw a bar per ratio: green meets its target, red does not, grey has none.

    Args:
        table: As `benchmark.networks.tabulate` returns it; groups may be missing.
    """
    ratios = table[table["ratio"].notna()].to_dict("records")
    figure = new_figure((11, 1.4 + 0.26 * max(6, len(ratios))))
    axis = figure.subplots()
    colours = {True: "#4c9a5b", False: "#c0504d"}
    for place, row in enumerate(ratios):
        met = None if pd.isna(row["met"]) else bool(row["met"])
        axis.barh(place, row["ratio"], color="#9a9a9a" if met is None else colours[met], height=0.7)
        target = f", target {row['target']}" if row["target"] else ""
        text = f" {row['ratio']:.3g}x   ({format_value(row['value'])} {row['unit']}{target})"
        axis.text(max(row["ratio"], 1), place, text, va="center", fontsize=7)
    names = [f"{row['group']}: {row['what']}" for row in ratios]
    sizes = ["" if pd.isna(row["batch_size"]) else f" ({row['batch_size']:.0f})" for row in ratios]
    axis.set_yticks(range(len(ratios)), [name + size for name, size in zip(names, sizes, strict=True)], fontsize=7)
    axis.invert_yaxis()
    axis.axvline(1, color="black", linewidth=0.8)
    if ratios:
        values = [row["ratio"] for row in ratios]
        axis.set(xscale="log", xlim=(min(0.5, 0.8 * min(values)), 30 * max(2, *values)))
    axis.set_title("Ratio to the reference (right of 1 is better; in brackets the batch size)", fontsize=10)
    threads = [f"{int(n)} thread{'s' if n > 1 else ''}" for n in table["threads"].dropna().unique()]
    machine = " · ".join([*table["machine"].unique(), *threads])
    figure.suptitle(f"{machine}\n{' · '.join(table['versions'].unique())}", fontsize=8, color="#555555")
    return rasterise(figure)
