"""The words and pictures of the page, and what is said where it cannot be shown; the page itself is in `browser`."""

from __future__ import annotations

import base64
import io
import os
import re
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from skdcgn_pipeline.explorer import page
from skdcgn_pipeline.explorer.__main__ import main
from skdcgn_pipeline.explorer.bundle import Explorer
from skdcgn_pipeline.explorer.scene import Choice, Opinion, Scene, Timing, View
from skdcgn_pipeline.mechanisms import MechanismImages
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.students.trio import StudentCGN
from skdcgn_pipeline.teachers.teacher import load_teacher
from tiny import explorer_card, untrained_classifiers

TIMINGS = [
    Timing("shape", 1, {"teacher": None, "students": 0.5}),
    Timing("composite", 1, {"teacher": 3.0, "students": 1.0}),
    Timing("composite", 64, {"teacher": 2.0, "students": 0.125}),
]


def pixels_of(element: str) -> np.ndarray:
    (content,) = re.findall(r"base64,([^\"]+)", element)
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        return np.asarray(image)


def test_pictures_are_enlarged_without_smoothing():
    mask = (torch.tensor([-1.0, 0.0, 0.5, 1.0]).view(1, 1, 2, 2) + 1) / 2
    view = View(MechanismImages(mask, *(torch.zeros(1, 3, 2, 2) for _ in range(2))), {})
    shown = pixels_of(page.tell("picture", page.encoded(view, "shape"), "a 'mask' & more"))

    assert shown.shape == (192, 192, 3)
    assert [int(shown[row, column, 0]) for row in (0, 95) for column in (0, 95)] == [0, 0, 0, 0]
    assert [int(shown[row, column, 2]) for row, column in ((0, 96), (96, 0), (191, 191))] == [128, 191, 255]
    assert 'alt="a &#39;mask&#39; &amp; more"' in page.tell("picture", "", "a 'mask' & more")


def test_large_pictures_stay_as_they_are():
    view = View(MechanismImages(*(torch.zeros(1, n, 256, 256) for n in (1, 3, 3))), {})
    assert pixels_of(page.tell("picture", page.encoded(view, "composite"), "")).shape == (256, 256, 3)


def test_times_say_how_they_were_taken():
    told = page.tell("times", TIMINGS, torch.get_num_threads(), 50)
    assert f"{torch.get_num_threads()} thread" in told
    assert "median of five turns" in told
    for cell in ("not alone", "0.5 ms", "3.0 times faster", "16.0 times faster", "64", "all, composed"):
        assert f"<td>{cell}</td>" in told
    assert "1 ms alone, 0.125 ms of 64 at once; 16.0 times faster" in page.tell("speed", "students", TIMINGS)
    assert "faster" not in page.tell("speed", "teacher", TIMINGS)
    slower = [Timing("composite", 64, {"teacher": 1.0, "students": 3.6})]
    assert "; 3.6 times slower" in page.tell("speed", "students", slower)
    assert page.tell("speed", "students", []).strip() == '<h2 class="row-title">Students</h2>'


def test_what_a_bundle_names_is_escaped():
    opinion = Opinion({"<b>": 1.0}, "<b>", ())
    assert "says &lt;b&gt;, reads none" in page.tell("opinion", opinion, "students")
    view = View(MechanismImages(*(torch.zeros(1, n, 4, 4) for n in (1, 3, 3))), {"students": opinion})
    strip = page.tell("strip", {"teacher": [view, view]}, "composite")
    assert strip.count("&lt;b&gt;") == 2
    assert "<b>" not in strip
    assert "&lt;i&gt;" in page.tell("introduction", {"name": "<i>", "classifiers": {}}, True)
    assert "shape of &lt;u&gt;" in page.tell("view", "teacher", view, Choice(0, 0, 0, 0), {0: "<u>"})


def test_the_whole_page_is_drawn():
    pytest.importorskip("gradio", reason="needs gradio (the extra explore), which is absent")
    scene = Scene(load_teacher("digits_cgn"), StudentCGN.from_released("digits"), untrained_classifiers())
    drawn = page.draw_page(Explorer(scene, explorer_card()))
    shown = " ".join(str(component.value) for component in drawn.blocks.values() if hasattr(component, "value"))
    for text in (
        "Explorer: digits",
        "timed on this machine when you ask",
        "59,116",
        "trained on the originals, 10.0 %",
    ):
        assert text in shown


def test_without_gradio_nothing_is_started(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(SettingError, match=re.escape('pip install "skdcgn_pipeline[explore]"')):
        page.import_gradio()
    assert main(["a folder that nobody looks at"]) == 1
    assert "expected the library gradio" in capsys.readouterr().err


def test_a_folder_that_is_none_is_told_in_one_line(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", object())
    assert main([str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("explorer: expected the folder of a finished explorer")
    assert len(error.splitlines()) == 1


def test_a_taken_port_gives_the_next_one(caplog):
    with socket.socket() as taken:
        taken.bind((page.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = page.free_port(port)
    assert found > port
    assert f"Port {port} is taken" in caplog.text


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/", {}, 200),
        ("/", {"origin": "http://127.0.0.1:7860"}, 200),
        ("/", {"host": "localhost:7860", "origin": "http://localhost:7860"}, 200),
        ("/", {"host": "rebound.example:7860"}, 400),
        ("/", {"host": "rebound.example:7860", "origin": "http://rebound.example:7860"}, 400),
        ("/", {"origin": "http://elsewhere.example"}, 403),
        ("/", {"origin": "http://127.0.0.1:8000"}, 403),
        ("/", {"origin": "null"}, 403),
        ("/gradio_api/upload", {}, 403),
        ("/upload/", {"origin": "http://127.0.0.1:7860"}, 403),
    ],
)
def test_only_the_page_itself_is_answered(path, headers, status):
    pytest.importorskip("gradio", reason="needs gradio (the extra explore), which is absent")
    import asyncio

    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def answer(request):
        return PlainTextResponse("the page")

    app = Starlette(routes=[Route("/{path:path}", answer, methods=["POST"])], middleware=page.middleware())
    statuses = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        statuses.extend([message["status"]] if "status" in message else [])

    sent = [(n.encode(), v.encode()) for n, v in ({"host": "127.0.0.1:7860"} | headers).items()]
    scope = {"type": "http", "method": "POST", "path": path, "headers": sent, "query_string": b"", "scheme": "http"}
    asyncio.run(app(scope | {"root_path": "", "http_version": "1.1"}, receive, send))
    assert statuses == [status]


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_what_is_no_port_is_refused(port):
    with pytest.raises(SettingError, match="--port: expected a number from 1 to 65535"):
        page.free_port(port)


def test_a_number_that_is_no_port_is_refused_before_anything_is_opened(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", object())
    assert main([str(tmp_path), "--port", "99999"]) == 1
    assert capsys.readouterr().err.startswith("--port: expected a number from 1 to 65535, got 99999")


def test_gradio_reports_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", object())
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "True")
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "0")
    page.import_gradio()
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"
