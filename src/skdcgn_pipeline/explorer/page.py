"""The explorer's page: gradio, on this machine alone, with nothing from elsewhere."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

import torch

from skdcgn_pipeline.explorer import DEFAULT_PORT
from skdcgn_pipeline.explorer.bundle import TRAINED_ON, Explorer
from skdcgn_pipeline.explorer.scene import SECONDS_PER_TURN, Choice, Scene, View, check_seed
from skdcgn_pipeline.reporting.pictures import signed_images
from skdcgn_pipeline.reporting.report import embed
from skdcgn_pipeline.reporting.templates import template
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.runtime.libraries import import_library
from skdcgn_pipeline.samples.pixels import encode_images
from skdcgn_pipeline.vocabulary import COMPOSITE, IMAGE_OF_MECHANISM, MECHANISMS

logger = logging.getLogger(__name__)

HOST, PORTS_TRIED = "127.0.0.1", 100
NUM_STEPS = 9
SHOWN_PIXELS = 192  # of small images, enlarged by whole pixels
TOP_CLASSES = 3
# Seed and classes of what is shown at first: in double_colored, colours that differ.
FIRST, LAST = (0, (3, 0, 1)), (1, (8, 4, 6))
TITLES = {**{mechanism: IMAGE_OF_MECHANISM[mechanism] for mechanism in MECHANISMS}, COMPOSITE: COMPOSITE}
CLASSIFIERS = {TRAINED_ON[0]: "the originals", TRAINED_ON[1]: "the students' counterfactuals"}

PACKAGE = "skdcgn_pipeline.explorer"


@cache
def _macros() -> Any:
    shared = {"encoded": encoded, "titles": TITLES, "classifiers": CLASSIFIERS, "mechanisms": MECHANISMS}
    return template("explorer/page.html.j2").make_module(shared)


def tell(macro: str, *values: Any) -> str:
    """Return what a macro of the page's template makes of values, which it escapes."""
    return str(getattr(_macros(), macro)(*values))


def encoded(view: View, shown: str) -> str:
    """Return a view's picture of a mechanism or the composite, as a PNG file in base64, enlarged without smoothing."""
    pixels = encode_images(COMPOSITE, signed_images(view.images, shown).expand(-1, 3, -1, -1))[0].transpose(1, 2, 0)
    scale = max(1, SHOWN_PIXELS // pixels.shape[0])
    return embed(pixels.repeat(scale, 0).repeat(scale, 1))


def import_gradio() -> Any:
    """Return gradio, told to report nothing to anybody.

    Raises:
        SettingError: If it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    return import_library("gradio", "explore", "explorer")


class Handlers:
    """What the page's controls call: each takes values of the controls and returns what is shown.

    Args:
        scene: What is shown.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    def draw(self, *values: Any) -> list[Any]:
        """Draw a choice: for each generator its pictures, then for each classifier the verdict and probabilities."""
        choice = Choice(*values)
        shown: list[Any] = []
        for name, view in self.scene.draw(choice).items():
            shown.append(tell("view", name, view, choice, self.scene.classes))
            for trained_on, opinion in view.opinions.items():
                shown += [tell("opinion", opinion, trained_on), dict(opinion.probabilities)]
        return shown

    def interpolate(self, *values: Any) -> str:
        """Draw what lies between two choices."""
        return tell("strip", self.scene.interpolate(Choice(*values[:4]), Choice(*values[4:8]), NUM_STEPS), values[8])

    def measure(self) -> list[str]:
        """Time all generators: the table, then each one's in a few words."""
        timings = self.scene.measure()
        times = tell("times", timings, torch.get_num_threads(), round(1000 * SECONDS_PER_TURN))
        return [times, *(tell("speed", name, timings) for name in self.scene.generators)]


def _inputs_of(scene: Scene, choice: Choice, suffix: str) -> list[Any]:
    gr = import_gradio()
    classes = [(name, number) for number, name in scene.classes.items()]
    inputs = [gr.Number(choice.seed, label=f"Noise{suffix}", precision=0, min_width=110)]
    for mechanism in MECHANISMS:
        label = f"{mechanism.capitalize()}{suffix}"
        inputs.append(gr.Dropdown(classes, value=choice.class_of(mechanism), label=label, min_width=110))
    return inputs


def _html(text: str, **options: Any) -> Any:
    return import_gradio().HTML(text, elem_classes="explorer", **options)


def _generator(name: str, values: Iterator[Any], speed: str, num_classifiers: int) -> tuple[Any, list[Any]]:
    """Lay out what a generator draws; returns where its speed is, and where what `Handlers.draw` gives of it."""
    gr = import_gradio()
    outputs = []
    with gr.Column(elem_id=name, elem_classes="one-of-two"):
        speed_output = _html(speed)
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                outputs.append(_html(next(values)))
            for _ in range(num_classifiers):
                with gr.Column(scale=2, min_width=210):
                    outputs.append(_html(next(values)))
                    shown = {"num_top_classes": TOP_CLASSES, "show_heading": False, "show_label": False}
                    outputs.append(gr.Label(next(values), **shown))
    return speed_output, outputs


def _address_script(what: str, classes: Sequence[int]) -> str:
    """Return the function `read` or `write` of `address.js`, which takes the values of all controls."""
    script = files(PACKAGE).joinpath("address.js").read_text(encoding="utf-8")
    return f"(...values) => {{ {script} return {what}(values, {json.dumps([*classes])}); }}"


def _told(function: Callable[..., Any]) -> Callable[..., Any]:
    """Tell on the page what is wrong with an input, and leave what is shown."""
    gr = import_gradio()

    def call(*values: Any) -> Any:
        try:
            return function(*values)
        except SettingError as error:
            gr.Warning(escape(str(error)), title="This cannot be drawn")
            return gr.skip()

    return call


def draw_page(explorer: Explorer) -> Any:
    """Return the page as gradio `Blocks`: what it shows first is drawn, and nothing is timed before that is asked for.

    Raises:
        SettingError: If gradio is not installed.
    """
    gr = import_gradio()
    scene, handlers = explorer.scene, Handlers(explorer.scene)
    numbers = list(scene.classes)
    first, last = (Choice(seed, *(numbers[n % len(numbers)] for n in classes)) for seed, classes in (FIRST, LAST))
    drawn = iter(handlers.draw(*vars(first).values()))
    with gr.Blocks(title=f"Explorer: {explorer.card['name']}", analytics_enabled=False) as page:
        mixes_classes = all(scene.mixes_classes(name) for name in scene.generators)
        _html(tell("introduction", explorer.card, mixes_classes))
        with gr.Row():
            chosen = _inputs_of(scene, first, "")
            new_noise = gr.Button("New noise", variant="primary", min_width=110, elem_classes="press")
        rows = [_generator(name, drawn, tell("speed", name, []), len(scene.classifiers)) for name in scene.generators]
        _html(tell("interpolation_title", explorer.card))
        with gr.Row():
            target = _inputs_of(scene, last, " at the end")
        titles = [(TITLES[what], what) for what in (COMPOSITE, *MECHANISMS)]
        shown = gr.Radio(titles, value=COMPOSITE, label="Show", container=False)
        strip = _html(handlers.interpolate(*vars(first).values(), *vars(last).values(), COMPOSITE), elem_id="strip")
        _html("<h2>What an image costs</h2>")
        times = _html(
            "<p class='muted'>Teacher and students are timed on this machine when you ask for it.</p>", elem_id="times"
        )
        measure = gr.Button("Measure", size="sm", elem_classes="press")
        _html(tell("figures", explorer.card))

        quietly = {"show_progress": "hidden", "api_visibility": "private"}
        latest = {"trigger_mode": "always_last", **quietly}
        new_noise.click(_told(lambda seed: check_seed(seed) + 1), chosen[0], chosen[0], **quietly)
        outputs = [output for _, of_generator in rows for output in of_generator]
        gr.on([control.change for control in chosen], _told(handlers.draw), chosen, outputs, **latest)
        controls = [*chosen, *target, shown]
        gr.on([control.change for control in controls], _told(handlers.interpolate), controls, strip, **latest)
        # The address names what is shown, and shows what it names.
        page.load(None, controls, controls, js=_address_script("read", numbers), **quietly)
        gr.on(
            [control.change for control in controls],
            None,
            controls,
            None,
            js=_address_script("write", numbers),
            **quietly,
        )
        measure.click(handlers.measure, None, [times, *(speed for speed, _ in rows)], api_visibility="private")
    return page


def check_port(port: int) -> None:
    """Refuse a number that is no port."""
    if not 0 < port < 65536:
        raise SettingError("--port", "a number from 1 to 65535", port, f"Leave it out for {DEFAULT_PORT}.")


def free_port(port: int) -> int:
    """Return a port on which nobody listens, the wanted one or the next.

    Raises:
        SettingError: If all that may be tried are taken, or the port is none.
    """
    check_port(port)
    for candidate in range(port, min(port + PORTS_TRIED, 65536)):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            probe.bind((HOST, candidate))
            if candidate != port:
                logger.warning("Port %d is taken or not ours to use: the explorer is on %d.", port, candidate)
            return candidate
    raise SettingError("--port", "a free port", f"{port} and the next, all taken", "Name another one.")


def own_requests(app: Any) -> Any:
    """Return an ASGI app that refuses files, which the page never takes, and what pages of other origins ask for."""
    from starlette.datastructures import Headers
    from starlette.responses import PlainTextResponse

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        chosen = app
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            is_foreign = "origin" in headers and urlsplit(headers["origin"]).netloc != headers.get("host")
            if is_foreign or scope["path"].rstrip("/").endswith("/upload"):
                chosen = PlainTextResponse("The explorer takes no files and no requests of other pages.", 403)
        await chosen(scope, receive, send)

    return answer


def middleware() -> list[Any]:
    """Return what stands before the page: this machine's own names and own requests alone come through."""
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    return [Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"]), Middleware(own_requests)]


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
        app_kwargs={"middleware": middleware()},
        footer_links=[],
        theme=gr.themes.Default(**fonts),
        css=files(PACKAGE).joinpath("page.css").read_text(encoding="utf-8"),
    )
    logger.info("The explorer is at http://%s:%d; Ctrl+C ends it.", HOST, port)
    page.block_thread()
