"""The report is one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from skdcgn_pipeline.reporting.report import (
    _format,
    by_class,
    command_of,
    render_chapter,
    render_report,
    summarise_in_a_sentence,
    tell_gains,
    tell_likeness,
)


@pytest.fixture
def page() -> str:
    picture = np.zeros((4, 6, 3), np.uint8)
    picture[1, 2] = 200, 100, 50
    table = pd.DataFrame({"trained_on": ["students <x>"], "mean_accuracy": [0.8567], "num_images": [12345]})
    return render_report(
        {"variant": "double_colored", "seed": 3},
        {"Students": ("What they render", picture)},
        {"Accuracy": ("On unbiased digits", table)},
        ["Students reach 85.7 %."],
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
    assert "students &lt;x&gt;" in page
    assert "<x>" not in page


def picture_of(colour: tuple[int, int, int]) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.uint8), (3, 5, 3)).copy()


def embedded_in(text: str) -> list[Image.Image]:
    found = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", text)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


FINDINGS = [("Sources <1>", ["students & teacher, p < 0.05", "a second sentence"]), ("Stage", ["nothing <b>bold</b>"])]


def test_passwords_in_addresses_are_not_told():
    mirror = "https://user:secret@host/assets"
    page = render_report({"fetch": {"mirror": mirror}}, {}, {}, [])
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
    assert 'alt="Sources &lt;1&gt;"' in chapter
    assert "<b>" not in chapter
    assert "<1>" not in chapter


def test_a_report_holds_the_chapter_as_it_is():
    chapter = render_chapter(FINDINGS, {"Stage": [picture_of((9, 8, 7))]})
    page = render_report({"seed": 3}, {}, {}, ["The <headline>."], chapter)
    assert chapter in page
    assert "The &lt;headline&gt;." in page
    assert embedded_in(page)[0].getpixel((0, 0)) == (9, 8, 7)
    without = render_report({"seed": 3}, {}, {}, ["The <headline>."])
    assert "composition study" not in without
    assert len(without) < len(page)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (1234567, "1,234,567"),
        (20092.0, "20,092"),
        (0.123456, "0.1235"),
        (1234.5, "1,234"),
        ("shape", "shape"),
        (True, "True"),
    ],
)
def test_values_are_told_in_a_readable_way(value, text):
    assert _format(value) == text


def test_the_result_is_told_in_one_sentence():
    rows = [
        {
            "trained_on": source,
            "split": split,
            "subset": subset,
            "mean_accuracy": mean,
            "interval_high": mean + 0.012,
            "num_seeds": 3,
            "num_images": 1790,
        }
        for source, mean in (("originals", 0.105), ("teacher", 0.86), ("students", 0.855))
        for split, subset in (("validation", "all"), ("test", "all"), ("test", "without collisions"))
    ]
    sentence = summarise_in_a_sentence(pd.DataFrame(rows))
    assert "10.5 ± 1.2 % trained on originals" in sentence
    assert "86.0 ± 1.2 % trained on teacher's" in sentence
    assert "85.5 ± 1.2 % trained on students'" in sentence
    assert "3 seeds, 1,790 images" in sentence


def accuracy_of_seeds(**of_sets: tuple[float, ...]) -> pd.DataFrame:
    """Accuracy by what was trained on: all, then the worst group a tenth lower, on two splits."""
    return pd.DataFrame(
        {"trained_on": name, "seed": seed, "split": split, "subset": subset, "accuracy": value - lower}
        for name, values in of_sets.items()
        for seed, value in enumerate(values)
        for split in ("validation", "test", "sketches")
        for subset, lower in (("all", 0.0), ("worst group", 0.1))
    )


def test_what_counterfactuals_bought_is_told_by_split_with_paired_intervals():
    told = tell_gains(accuracy_of_seeds(originals=(0.2, 0.3, 0.4), students=(0.5, 0.6, 0.7)))
    assert told.startswith(
        "What counterfactuals bought against training on originals (mean and 95 % interval over 3 seeds): on test"
    )
    assert "students' counterfactuals +30.0 ± 0.0 points of accuracy (30.0 to 60.0 %)" in told
    assert "+30.0 ± 0.0 points of accuracy in the worst group (20.0 to 50.0 %). on sketches" in told
    assert "validation" not in told
    assert "+30.0 points" in tell_gains(accuracy_of_seeds(originals=(0.2,), students=(0.5,)))


def test_nothing_was_bought_where_nothing_is_compared():
    assert tell_gains(accuracy_of_seeds(originals=(0.2, 0.3))) == ""
    assert tell_gains(accuracy_of_seeds(teacher=(0.2, 0.3), students=(0.5, 0.5))) == ""


def test_without_images_the_students_likeness_is_the_result():
    table = pd.DataFrame(
        {
            "mechanism": ["shape", "texture", "background", "all"],
            "l1": [0.1, 0.02, 0.03, 0.1],
            "mask_iou": [0.9] + 3 * [np.nan],
        }
    )
    told = tell_likeness(table)
    assert "IoU of 0.900; mean L1 of texture 0.020 and background 0.030" in told
    assert "Without real images nothing is classified" in told


def test_accuracy_by_class_has_a_column_for_each_training_set():
    rows = [("originals", "test", "cat", 0.1), ("originals", "test", "dog", 0.2), ("students", "test", "cat", 0.5)]
    table = by_class(pd.DataFrame(rows, columns=["trained_on", "split", "label", "accuracy"]))
    assert list(table.columns) == ["split", "class", "originals", "students"]
    assert table["class"].tolist() == ["cat", "dog"]
    assert table["students"].fillna(-1).tolist() == [0.5, -1]
