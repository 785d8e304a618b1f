"""The report is one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from skdcgn_pipeline.pipelines.report.nodes import WORDS
from skdcgn_pipeline.reporting.headlines import Headline
from skdcgn_pipeline.reporting.report import Page, Part, Section, command_of, render_chapter, render_report


@pytest.fixture
def page() -> str:
    picture = np.zeros((4, 6, 3), np.uint8)
    picture[1, 2] = 200, 100, 50
    table = pd.DataFrame({"trained_on": ["students <x>"], "mean_accuracy": [0.8567], "num_images": [12345]})
    parts = [Part("Students", "What they render", picture, "kedro run"), Part("Accuracy", "On unbiased digits", table)]
    return render_report(
        Page(
            {"variant": "double_colored", "seed": 3},
            [Headline("accuracy <all>", "10.0 %", "85.7 %", "better, +75.7 points"), Headline("size", "", "12", "")],
            ["Students reach 85.7 %."],
            [Section("What <b> came out", ["Led & told."], {"collision": "a <test> image"}, parts)],
            facts={"name": "digits"},
            next_steps={"Look closer": "kedro explore"},
        )
    )


def test_headline_settings_pictures_and_tables_are_told(page):
    for text in ("Students reach 85.7 %.", "double_colored", "What they render", "On unbiased digits"):
        assert text in page
    for text in ("trained on", "mean accuracy", "0.8567", "12,345"):
        assert text in page


def test_the_page_refers_to_no_other_file(page):
    assert re.findall(r'(?:src|href)="(?!data:|#)', page) == []
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


def test_pictures_are_embedded_pixel_by_pixel(page):
    data = re.search(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page).group(1)
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.size == (6, 4)
        assert image.getpixel((2, 1)) == (200, 100, 50)


def test_text_is_escaped(page):
    for text in ("students &lt;x&gt;", "accuracy &lt;all&gt;", "What &lt;b&gt; came out", "a &lt;test&gt; image"):
        assert text in page
    assert not re.search("<(x|all|b|test)>", page)


def picture_of(colour: tuple[int, int, int]) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.uint8), (3, 5, 3)).copy()


def embedded_in(text: str) -> list[Image.Image]:
    found = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", text)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


FINDINGS = [("Sources <1>", ["students & teacher, p < 0.05", "a second sentence"]), ("Stage", ["nothing <b>bold</b>"])]


def test_passwords_in_addresses_are_not_told():
    mirror = "https://user:secret@host/assets"
    page = render_report(Page({"fetch": {"mirror": mirror}}))
    assert "https://host/assets" in page
    assert "secret" not in page + command_of({"params": {"fetch": {"mirror": mirror}}})


def test_a_chapter_tells_every_study_with_its_own_pictures():
    red, green = (picture_of(colour) for colour in ((200, 0, 0), (0, 200, 0)))
    chapter = render_chapter(FINDINGS, {"Sources <1>": [red, green], "unheard of": [red]})
    assert chapter.index("a second sentence") < chapter.index("base64") < chapter.index("Stage")
    pictures = embedded_in(chapter)
    assert [picture.getpixel((2, 1)) for picture in pictures] == [(200, 0, 0), (0, 200, 0)]
    assert "unheard of" not in chapter
    assert re.findall(r'(?:src|href)="(?!data:|#)', chapter) == []


def test_a_chapter_escapes_what_it_tells():
    chapter = render_chapter(FINDINGS, {"Sources <1>": [picture_of((1, 2, 3))]})
    for text in ("Sources &lt;1&gt;", "students &amp; teacher, p &lt; 0.05", "nothing &lt;b&gt;bold&lt;/b&gt;"):
        assert text in chapter
    assert 'alt="Sources &lt;1&gt;, in full size"' in chapter
    assert "<b>" not in chapter
    assert "<1>" not in chapter


def test_a_report_holds_the_chapter_as_it_is():
    chapter = render_chapter(FINDINGS, {"Stage": [picture_of((9, 8, 7))]})
    page = render_report(Page({"seed": 3}, sentences=["The <headline>."], chapter=chapter))
    assert chapter in page
    assert "The &lt;headline&gt;." in page
    assert embedded_in(page)[0].getpixel((0, 0)) == (9, 8, 7)
    without = render_report(Page({"seed": 3}, sentences=["The <headline>."]))
    assert "composition study" not in without
    assert len(without) < len(page)


# --- for every reader ---


class Outline(HTMLParser):
    """What a screen reader is told of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.fixture
def outline(page: str) -> Outline:
    return Outline(page)


def test_headings_are_nested_and_landmarks_are_there(outline: Outline) -> None:
    levels = [int(tag[1]) for tag, _ in outline.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert max(after - before for before, after in pairwise(levels)) == 1
    assert {"header", "nav", "main"} <= {tag for tag, _ in outline.tags}
    assert all("aria-labelledby" in attributes for tag, attributes in outline.tags if tag == "section")


def test_links_and_labels_lead_to_what_is_there(outline: Outline) -> None:
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    assert len(ids) == len({*ids})
    leads = [value for _, attributes in outline.tags if (value := attributes.get("aria-labelledby"))]
    leads += [(attributes["href"] or "").removeprefix("#") for tag, attributes in outline.tags if tag == "a"]
    assert leads
    assert {*leads} <= {*ids}


def test_pictures_have_words_and_tables_scroll_by_keyboard(page: str, outline: Outline) -> None:
    assert all(attributes["alt"] for tag, attributes in outline.tags if tag == "img")
    frames = [attributes for tag, attributes in outline.tags if attributes.get("class") == "table"]
    assert frames
    assert all(frame["tabindex"] == "0" and frame["role"] == "region" for frame in frames)
    headers = [attributes.get("scope") for tag, attributes in outline.tags if tag == "th"]
    assert {*headers} == {"col", "row"}
    assert page.count("<figcaption") == 2
    assert ":focus-visible { outline: 3px" in page


def luminance(colour: str) -> float:
    """Return that of `#rrggbb` as WCAG 2.2 defines it."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot((0.2126, 0.7152, 0.0722), linear))


def test_writing_stands_out_in_light_and_dark(page: str) -> None:
    palettes = [dict(re.findall(r"--(\w+): (#\w{6})", line)) for line in page.splitlines() if "--ground: #" in line]
    assert len(palettes) == 2
    for palette in palettes:
        for writing in ("ink", "quiet", "accent"):
            for ground in ("ground", "soft"):
                low, high = sorted(luminance(palette[name]) for name in (writing, ground))
                assert (high + 0.05) / (low + 0.05) >= 4.5, (writing, ground)


def test_words_mean_what_the_glossary_says() -> None:
    glossary = (Path(__file__).parents[2] / "docs" / "glossary.md").read_text(encoding="utf-8")
    meanings = dict(re.findall(r"^\| ([^|]+) \| (.+) \|$", glossary, re.MULTILINE))
    told = {word: meaning for words in WORDS.values() for word, meaning in words.items()}
    assert {"collision", "held-out noise", "teacher", "unbiased test"} <= told.keys()
    for word, meaning in told.items():
        assert meanings[word].startswith(meaning), word
