"""The explorer's page: gradio, on this machine alone, with nothing from elsewhere."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor

from skdcgn_pipeline.explorer import DEFAULT_PORT
from skdcgn_pipeline.explorer.bundle import TRAINED_ON, Explorer
from skdcgn_pipeline.explorer.scene import SECONDS_PER_TURN, TEACHER, Choice, Opinion, Scene, Timing, View, check_seed
from skdcgn_pipeline.reporting.pictures import signed_images
from skdcgn_pipeline.reporting.report import embed
from skdcgn_pipeline.reporting.templates import template
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.samples.pixels import encode_images
from skdcgn_pipeline.vocabulary import COMPOSITE, IMAGE_OF_MECHANISM, MECHANISMS, STUDENTS

logger = logging.getLogger(__name__)

HOST, PORTS_TRIED = "127.0.0.1", 100
NUM_STEPS = 9
SHOWN_PIXELS = 192  # of small images, enlarged by whole pixels
TOP_CLASSES = 3
# What is shown at first: in double_colored, colours that differ.
FIRST_SEED, FIRST_CLASSES = 0, (3, 0, 1)
LAST_SEED, LAST_CLASSES = 1, (8, 4, 6)
SHOWN = (*MECHANISMS, COMPOSITE)
TITLES = {**{mechanism: IMAGE_OF_MECHANISM[mechanism] for mechanism in MECHANISMS}, COMPOSITE: COMPOSITE}
CLASSIFIERS = {TRAINED_ON[0]: "biased originals", TRAINED_ON[1]: "the students' counterfactuals"}

PACKAGE = "skdcgn_pipeline.explorer"


def words() -> Any:
    """Return the macros of the page's template, which escape what they are given."""
    return template("explorer/page.html.j2").module


def import_gradio() -> Any:
    """Return gradio, told to report nothing to anybody.

    Raises:
        SettingError: If it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio
    except ImportError as error:
        remedy = 'Install it: pip install "skdcgn_pipeline[explore]".'
        raise SettingError("explorer", "the library gradio", "an installation without", remedy) from error
    return gradio


# --- pictures and words ----------------------------------------------------------------------------


def encoded(image: Tensor) -> str:
    """Return an image [1, 1 or 3, H, W] in [-1, 1] as a PNG file in base64, enlarged without smoothing."""
    pixels = encode_images(COMPOSITE, image.expand(-1, 3, -1, -1))[0].transpose(1, 2, 0)
    scale = max(1, SHOWN_PIXELS // pixels.shape[0])
    return embed(pixels.repeat(scale, 0).repeat(scale, 1), optimize=False)


def image_of(view: View, shown: str) -> Tensor:
    """Return a mechanism's image or the composite, in [-1, 1]."""
    return view.composite if shown == COMPOSITE else signed_images(view.images, shown)


def tell_view(name: str, view: View, choice: Choice, scene: Scene) -> str:
    """Return the four pictures of a generator."""
    pictures = []
    for shown in SHOWN:
        of_class = "" if shown == COMPOSITE else f": {shown} of {scene.classes[choice.class_of(shown)]}"
        pictures.append((encoded(image_of(view, shown)), TITLES[shown] + of_class))
    return str(words().view(name, pictures))


def mark_of(opinion: Opinion) -> str:
    """Return the class of the style that stands for what is read."""
    return opinion.reads[0] if opinion.reads else "nothing"


def tell_opinion(opinion: Opinion, trained_on: str) -> str:
    """Return in words what a classifier reads."""
    return str(words().opinion(opinion, CLASSIFIERS[trained_on], mark_of(opinion)))


def tell_strip(views: Mapping[str, Sequence[View]], shown: str) -> str:
    """Return the pictures between two choices and what the classifiers say about each composite."""
    num_steps = len(next(iter(views.values())))
    rows = []
    for name, steps in views.items():
        opinions = {
            CLASSIFIERS[trained_on]: [(mark_of(view.opinions[trained_on]), view.opinions[trained_on]) for view in steps]
            for trained_on in steps[0].opinions
        }
        pictures = [encoded(image_of(view, shown)) for view in steps]
        rows.append({"name": name, "shown": TITLES[shown], "pictures": pictures, "opinions": opinions})
    return str(words().strip([step / (num_steps - 1) for step in range(num_steps)], rows))


def tell_times(timings: Sequence[Timing]) -> str:
    """Return the times per image as a table, with how they were taken."""
    rows = []
    for timing in timings:
        what = "all, composed" if timing.what == COMPOSITE else TITLES[timing.what]
        costs = [_milliseconds(timing.milliseconds[name]) for name in (TEACHER, STUDENTS)]
        faster = "" if timing.ratio is None else f"{timing.ratio:.1f} times"
        rows.append([what, timing.batch_size, *costs, faster])
    return str(words().times(rows, torch.get_num_threads(), round(1000 * SECONDS_PER_TURN)))


def _milliseconds(value: float | None) -> str:
    return "not alone" if value is None else f"{value:.3g} ms"


def tell_speed(timings: Sequence[Timing], name: str) -> str:
    """Return in a few words what an image of a generator costs, alone and in the largest batch."""
    whole = [timing for timing in timings if timing.what == COMPOSITE]
    costs = ", ".join(
        f"{_milliseconds(timing.milliseconds[name])} "
        + ("alone" if timing.batch_size == 1 else f"of {timing.batch_size} at once")
        for timing in whole
    )
    return str(words().speed(name, costs, whole[-1].ratio if name == STUDENTS else None))


def tell_figures(card: Mapping[str, Any]) -> str:
    """Return fidelity and size of the students, and accuracy of the classifiers, as the run measured them."""
    rows = []
    for row in card["fidelity_and_costs"]:
        counts = [row[f"{role}_parameters"] for role in ("teacher", "student")]
        rows.append(
            [
                TITLES.get(row["mechanism"], "all"),
                *("unknown" if count is None else f"{count:,}" for count in counts),
                f"{row['l1']:.3f}" if row["mechanism"] != "all" else "",
                "" if row["mask_iou"] is None else f"{row['mask_iou']:.3f}",
            ]
        )
    accuracies = [
        (CLASSIFIERS[name], next(row["accuracy"] for row in classifier["accuracy"] if _is_whole_test(row)))
        for name, classifier in card["classifiers"].items()
    ]
    return str(words().figures(rows, accuracies, card["seed"]))


def _is_whole_test(row: Mapping[str, Any]) -> bool:
    return row["split"] == "test" and row["subset"] == "all"


# --- the page --------------------------------------------------------------------------------------


def draw_page(explorer: Explorer) -> Any:
    """Time teacher and students, which takes some seconds, and return the page as gradio `Blocks`.

    Raises:
        SettingError: If gradio is not installed.
    """
    gr = import_gradio()
    scene, timings = explorer.scene, explorer.scene.measure()
    numbers = list(scene.classes)
    choices = [(name, number) for number, name in scene.classes.items()]
    first = Choice(FIRST_SEED, *(numbers[place % len(numbers)] for place in FIRST_CLASSES))
    last = Choice(LAST_SEED, *(numbers[place % len(numbers)] for place in LAST_CLASSES))

    def draw(*values: Any) -> list[Any]:
        choice = Choice(*values)
        views = scene.draw(choice)
        shown: list[Any] = []
        for name, view in views.items():
            shown.append(tell_view(name, view, choice, scene))
            for trained_on, opinion in view.opinions.items():
                shown += [tell_opinion(opinion, trained_on), dict(opinion.probabilities)]
        return shown

    def interpolate(*values: Any) -> str:
        here, there, shown = Choice(*values[:4]), Choice(*values[4:8]), values[8]
        return tell_strip(scene.interpolate(here, there, NUM_STEPS), shown)

    def measure() -> list[str]:
        measured = scene.measure()
        return [tell_times(measured), *(tell_speed(measured, name) for name in scene.generators)]

    def told(function: Callable[..., Any]) -> Callable[..., Any]:
        """Tell on the page what is wrong with an input, and leave what is shown."""

        def call(*values: Any) -> Any:
            try:
                return function(*values)
            except SettingError as error:
                gr.Warning(escape(str(error)), title="This cannot be drawn")
                return gr.skip()

        return call

    def html(value: Any, **options: Any) -> Any:
        return gr.HTML(str(value), elem_classes="explorer", **options)

    def inputs_of(choice: Choice, suffix: str) -> list[Any]:
        seed = gr.Number(choice.seed, label=f"Noise{suffix}", precision=0, min_width=110)
        return [
            seed,
            *(
                gr.Dropdown(
                    choices, value=choice.class_of(mechanism), label=f"{mechanism.capitalize()}{suffix}", min_width=110
                )
                for mechanism in MECHANISMS
            ),
        ]

    drawn = draw(*vars(first).values())
    with gr.Blocks(title=f"Explorer: {explorer.card['name']}", analytics_enabled=False) as page:
        html(words().introduction(explorer.card, all(scene.mixes_classes(name) for name in (TEACHER, STUDENTS))))
        with gr.Row():
            chosen = inputs_of(first, "")
            new_noise = gr.Button("New noise", variant="primary", min_width=110, elem_classes="press")
        outputs, speeds = [], []
        values = iter(drawn)
        for name in scene.generators:
            with gr.Column(elem_id=name, elem_classes="one-of-two"):
                speeds.append(html(tell_speed(timings, name)))
                with gr.Row():
                    with gr.Column(scale=5, min_width=320):
                        outputs.append(html(next(values)))
                    for _ in scene.classifiers:
                        with gr.Column(scale=2, min_width=210):
                            outputs.append(html(next(values)))
                            outputs.append(
                                gr.Label(
                                    next(values), num_top_classes=TOP_CLASSES, show_heading=False, show_label=False
                                )
                            )
        html(words().interpolation_title(MECHANISMS))
        with gr.Row():
            target = inputs_of(last, " at the end")
        shown = gr.Radio(
            [(TITLES[one], one) for one in (COMPOSITE, *MECHANISMS)], value=COMPOSITE, label="Show", container=False
        )
        strip = html(interpolate(*vars(first).values(), *vars(last).values(), COMPOSITE), elem_id="strip")
        html("<h2>What an image costs</h2>")
        times = html(tell_times(timings), elem_id="times")
        again = gr.Button("Measure again", size="sm", elem_classes="press")
        html(tell_figures(explorer.card))

        quietly = {"show_progress": "hidden", "api_visibility": "private"}
        new_noise.click(told(lambda seed: check_seed(seed) + 1), chosen[0], chosen[0], **quietly)
        gr.on([one.change for one in chosen], told(draw), chosen, outputs, trigger_mode="always_last", **quietly)
        everything = [*chosen, *target, shown]
        gr.on(
            [one.change for one in everything],
            told(interpolate),
            everything,
            strip,
            trigger_mode="always_last",
            **quietly,
        )
        again.click(measure, None, [times, *speeds], api_visibility="private")
    return page


def free_port(port: int) -> int:
    """Return a port on which nobody listens, the wanted one or the next.

    Raises:
        SettingError: If all that may be tried are taken, or the port is none.
    """
    if not 0 < port < 65536:
        raise SettingError("--port", "a number from 1 to 65535", port, f"Leave it out for {DEFAULT_PORT}.")
    for one in range(port, min(port + PORTS_TRIED, 65536)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            try:
                probe.bind((HOST, one))
            except OSError as error:
                if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    raise
                continue
        if one != port:
            logger.warning("Port %d is taken or not ours to use: the explorer is on %d.", port, one)
        return one
    raise SettingError("--port", "a free port", f"{port} and the next, all taken", "Name another one.")


def launch(explorer: Explorer, port: int = DEFAULT_PORT, browser: bool = True) -> None:
    """Serve the page on this machine alone, until Ctrl+C.

    Args:
        explorer: What is shown.
        port: Where; the next free one if it is taken.
        browser: Open it in the browser.

    Raises:
        SettingError: If gradio is not installed or no port is free.
    """
    gr = import_gradio()
    page, port = draw_page(explorer), free_port(port)
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    page.launch(
        server_name=HOST,
        server_port=port,
        inbrowser=browser,
        prevent_thread_lock=True,
        share=False,
        quiet=True,
        ssr_mode=False,
        enable_monitoring=False,
        footer_links=[],
        theme=gr.themes.Default(**fonts),
        css=files(PACKAGE).joinpath("page.css").read_text(encoding="utf-8"),
    )
    logger.info("The explorer is at http://%s:%d; Ctrl+C ends it.", HOST, port)
    page.block_thread()
