"""The explorer's page: gradio, on this machine alone, with nothing from elsewhere."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import torch
from torch import Tensor

from skdcgn_pipeline.explorer import DEFAULT_PORT
from skdcgn_pipeline.explorer.bundle import TRAINED_ON, Explorer
from skdcgn_pipeline.explorer.scene import SECONDS_PER_TURN, TEACHER, Choice, Opinion, Scene, Timing, View, check_seed
from skdcgn_pipeline.reporting.pictures import signed_images
from skdcgn_pipeline.reporting.report import embed
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.samples.drawing import encode_images
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

# Colours are the theme's, which follows the system from light to dark; marks keep theirs on either ground.
STYLE = """
.gradio-container { max-width: 1180px !important; width: 100%; margin: 0 auto !important; }
.explorer .html-container { padding: 0; }
.explorer h3 { margin: 0; }
.explorer p { margin: .2rem 0 .6rem; line-height: 1.5; max-width: 58rem; }
.explorer .muted { opacity: .75; font-size: .9rem; }
.one-of-two { border: 1px solid var(--border-color-primary); border-radius: 8px; padding: .8rem; gap: .3rem; }
.one-of-two .column { gap: .4rem; }
.press { white-space: nowrap; width: fit-content; flex-grow: 0 !important; }
.row > .press { align-self: flex-end; }
.explorer .pictures { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: .6rem; }
.explorer figure { margin: 0; }
.explorer img { display: block; width: 100%; max-width: 12rem; aspect-ratio: 1; image-rendering: pixelated;
  border: 1px solid var(--border-color-primary); border-radius: 4px; }
.explorer figcaption { font-size: .85rem; margin-top: .2rem; line-height: 1.3; }
.explorer .verdict { margin: 0; font-size: .9rem; line-height: 1.4; }
.explorer .mark { display: inline-block; padding: .05rem .45rem; border-radius: 4px; color: #fff; font-weight: 600; }
.explorer .verdict .mark { font-size: .82rem; }
.explorer .shape { background: #1d7a46; }
.explorer .texture { background: #a8480b; }
.explorer .background { background: #6b3fa0; }
.explorer .nothing { background: #5d6470; }
.explorer .wide { overflow-x: auto; }
.explorer .wide table { border-collapse: collapse; font-variant-numeric: tabular-nums; border: 0; width: auto; }
.explorer .wide tr { border: 0; }
.explorer .wide td, .explorer .wide th { border: 0; }
.explorer .strip td, .explorer .strip th { padding: .15rem .2rem; text-align: center; min-width: 4.2rem;
  font-size: .85rem; font-weight: 400; }
.explorer .strip th:first-child { text-align: left; min-width: 6.5rem; line-height: 1.25; position: sticky; left: 0;
  background: var(--body-background-fill); }
.explorer .strip img { max-width: 6rem; margin: 0 auto; }
.explorer .figures td, .explorer .figures th { padding: .25rem .6rem; text-align: right;
  border-bottom: 1px solid var(--border-color-primary); }
.explorer .figures th:first-child, .explorer .figures td:first-child { text-align: left; padding-left: 0; }
@media (max-width: 640px) {
  .explorer .pictures { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .explorer .strip td, .explorer .strip th { min-width: 3.4rem; }
  .explorer .strip th:first-child { min-width: 5.2rem; font-size: .75rem; }
  .explorer .figures td, .explorer .figures th { padding: .25rem .3rem; font-size: .85rem; }
}
"""


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


def picture(image: Tensor, description: str) -> str:
    """Return an image [1, 1 or 3, H, W] in [-1, 1] as an HTML element, enlarged without smoothing."""
    pixels = encode_images(COMPOSITE, image.expand(-1, 3, -1, -1))[0].transpose(1, 2, 0)
    scale = max(1, SHOWN_PIXELS // pixels.shape[0])
    content = embed(pixels.repeat(scale, 0).repeat(scale, 1), optimize=False)
    return f'<img src="data:image/png;base64,{content}" alt="{escape(description)}">'


def image_of(view: View, shown: str) -> Tensor:
    """Return a mechanism's image or the composite, in [-1, 1]."""
    return view.composite if shown == COMPOSITE else signed_images(view.images, shown)


def tell_view(name: str, view: View, choice: Choice, scene: Scene) -> str:
    """Return the four pictures of a generator."""
    figures = []
    for shown in SHOWN:
        caption = TITLES[shown]
        if shown != COMPOSITE:
            caption += f": {shown} of {scene.classes[choice.class_of(shown)]}"
        image = picture(image_of(view, shown), f"{name}, {caption}")
        figures.append(f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>")
    return f'<div class="pictures">{"".join(figures)}</div>'


def mark_of(opinion: Opinion) -> str:
    """Return the class of the style that stands for what is read."""
    return opinion.reads[0] if opinion.reads else "nothing"


def legend() -> str:
    """Return what the colours stand for."""
    told = {**{mechanism: f"the {mechanism}" for mechanism in MECHANISMS}, "nothing": "none of them"}
    return " ".join(f'<span class="mark {name}">{words}</span>' for name, words in told.items())


def tell_opinion(opinion: Opinion, trained_on: str) -> str:
    """Return in words what a classifier reads."""
    said = f"says {escape(opinion.says)}, {escape(opinion.verdict)}"
    return (
        f'<p class="verdict">Trained on {CLASSIFIERS[trained_on]}'
        f'<br><span class="mark {mark_of(opinion)}">{said}</span></p>'
    )


def tell_strip(views: Mapping[str, Sequence[View]], shown: str) -> str:
    """Return the pictures between two choices and what the classifiers say about each composite."""
    num_steps = len(next(iter(views.values())))
    head = "".join(f"<td>{step / (num_steps - 1):.3g}</td>" for step in range(num_steps))
    rows = [f"<tr><th></th>{head}</tr>"]
    for name, own in views.items():
        cells = [picture(image_of(view, shown), f"{name}, {TITLES[shown]}, step {n}") for n, view in enumerate(own)]
        rows.append(f"<tr><th>{name}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
        for trained_on in own[0].opinions:
            said = [view.opinions[trained_on] for view in own]
            marks = [
                f'<td><span class="mark {mark_of(one)}" title="{escape(one.verdict)}">{escape(one.says)}</span></td>'
                for one in said
            ]
            rows.append(f'<tr><th class="muted">{CLASSIFIERS[trained_on]}</th>{"".join(marks)}</tr>')
    return f'<div class="wide"><table class="strip">{"".join(rows)}</table></div>'


def tell_times(timings: Sequence[Timing]) -> str:
    """Return the times per image as a table, with how they were taken."""
    rows = []
    for timing in timings:
        teacher, students = (timing.milliseconds[name] for name in (TEACHER, STUDENTS))
        what = "all, composed" if timing.what == COMPOSITE else TITLES[timing.what]
        cells = [what, str(timing.batch_size), _milliseconds(teacher), _milliseconds(students)]
        cells.append("" if timing.ratio is None else f"{timing.ratio:.1f} times")
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = "".join(f"<th>{name}</th>" for name in ("", "images at once", "teacher", "students", "faster"))
    threads = torch.get_num_threads()
    how = (
        f"Milliseconds per image on this machine's CPU, {threads} thread{'s' if threads > 1 else ''}; after a first "
        f"call, the median of five turns of at least {1000 * SECONDS_PER_TURN:.0f} ms that teacher and students "
        "took one after the other. One image at a time, most of it is what calling a network costs at all."
    )
    table = f'<div class="wide"><table class="figures"><tr>{head}</tr>{"".join(rows)}</table></div>'
    return f'<p class="muted">{how}</p>{table}'


def _milliseconds(value: float | None) -> str:
    return "not alone" if value is None else f"{value:.3g} ms"


def tell_speed(timings: Sequence[Timing], name: str) -> str:
    """Return in a few words what an image of a generator costs, alone and in the largest batch."""
    whole = [timing for timing in timings if timing.what == COMPOSITE]
    told = ", ".join(
        f"{_milliseconds(timing.milliseconds[name])} "
        + ("alone" if timing.batch_size == 1 else f"of {timing.batch_size} at once")
        for timing in whole
    )
    faster = whole[-1].ratio
    ratio = f"; {faster:.1f} times faster" if name == STUDENTS and faster else ""
    return f'<h3>{name.capitalize()}</h3><p class="muted">Time per image: {told}{ratio}</p>'


def tell_figures(card: Mapping[str, Any]) -> str:
    """Return fidelity and size of the students, and accuracy of the classifiers, as the run measured them."""
    rows = []
    for row in card["fidelity_and_costs"]:
        cells = [
            TITLES.get(row["mechanism"], "all"),
            _count(row["teacher_parameters"]),
            _count(row["student_parameters"]),
            f"{row['l1']:.3f}" if row["mechanism"] != "all" else "",
            "" if row["mask_iou"] is None else f"{row['mask_iou']:.3f}",
        ]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    names = ("", "teacher's parameters", "students' parameters", "mean L1", "mask IoU")
    head = "".join(f"<th>{name}</th>" for name in names)
    accuracies = "; ".join(
        f"trained on {CLASSIFIERS[name]}, {100 * _test_accuracy(own['accuracy']):.1f} %"
        for name, own in card["classifiers"].items()
    )
    return (
        f'<div class="wide"><table class="figures"><tr>{head}</tr>{"".join(rows)}</table></div>'
        f'<p class="muted">Students and teacher differ by this on held-out noise. Accuracy on unbiased test images: '
        f"{accuracies}. Both are the first of their kind (classifier 0 of seed {card['seed']}).</p>"
    )


def _count(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"


def _test_accuracy(rows: Sequence[Mapping[str, Any]]) -> float:
    return next(row["accuracy"] for row in rows if row["split"] == "test" and row["subset"] == "all")


def introduce(card: Mapping[str, Any], scene: Scene) -> str:
    """Return what is seen."""
    text = (
        "<p>A counterfactual takes its shape, texture and background from independent classes: mask, foreground and "
        "background are drawn apart and put together as mask × foreground + (1 − mask) × background. The students "
        "learnt to draw like their teacher, here on the same noise. Each composite is shown to two classifiers; one "
        "that reads the shape is right.</p>"
    )
    if not all(scene.mixes_classes(name) for name in (TEACHER, STUDENTS)):
        text += "<p>This teacher takes class numbers only: they change half way through an interpolation.</p>"
    return f"<h1>Explorer: {escape(card['source'])}, {escape(card['variant'])}</h1>{text}"


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

    def html(value: str, **options: Any) -> Any:
        return gr.HTML(value, elem_classes="explorer", **options)

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
        html(introduce(explorer.card, scene))
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
        html(
            "<h2>Interpolate</h2><p>From the choice above to this one: the noise turns, classes mix. Below the "
            "pictures, what each classifier says about the composite, in the colour of what it reads: "
            f"{legend()}</p>"
        )
        with gr.Row():
            target = inputs_of(last, " at the end")
        shown = gr.Radio(
            [(TITLES[one], one) for one in (COMPOSITE, *MECHANISMS)], value=COMPOSITE, label="Show", container=False
        )
        strip = html(interpolate(*vars(first).values(), *vars(last).values(), COMPOSITE), elem_id="strip")
        html("<h2>What an image costs</h2>")
        times = html(tell_times(timings), elem_id="times")
        again = gr.Button("Measure again", size="sm", elem_classes="press")
        html(f"<h2>What the run measured</h2>{tell_figures(explorer.card)}")

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
        css=STYLE,
    )
    logger.info("The explorer is at http://%s:%d; Ctrl+C ends it.", HOST, port)
    page.block_thread()
