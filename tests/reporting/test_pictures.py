"""Sheets and charts are pictures of the size that their content asks for."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch

from skdcgn_pipeline.parameters import Composition, TrainingSetName
from skdcgn_pipeline.reporting.pictures import (
    MOST_CLASSES,
    PIXELS_PER_PIXEL,
    draw_accuracy_chart,
    draw_attention,
    draw_benchmark,
    draw_biased_sheet,
    draw_confusions,
    draw_corruptions,
    draw_counterfactual_sheet,
    draw_loss_curves,
    draw_sheet,
    draw_student_sheet,
    draw_teacher_sheet,
    tile,
)
from tiny import store_counterfactuals


def assert_is_a_picture(picture: np.ndarray) -> None:
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert picture.shape[2] == 3
    assert picture.min() < 100  # something dark on white
    assert picture.max() == 255


def test_a_tile_shows_pixels_as_they_are():
    images = torch.stack([torch.full((3, 4, 4), -1.0), torch.zeros(3, 4, 4)])
    shown = tile(images)
    assert shown.shape == (6 * PIXELS_PER_PIXEL, 12 * PIXELS_PER_PIXEL, 3)
    inside = slice(PIXELS_PER_PIXEL, 5 * PIXELS_PER_PIXEL)
    assert (shown[inside, inside] == 0).all()
    assert (shown[inside, 7 * PIXELS_PER_PIXEL : 11 * PIXELS_PER_PIXEL] == 128).all()
    assert (shown[0] == 255).all()


def test_large_images_are_shown_as_they_are():
    assert tile(torch.zeros(2, 3, 65, 65)).shape == (67, 134, 3)


def test_a_sheet_grows_with_its_rows_and_images():
    one = draw_sheet([("a", torch.zeros(3, 1, 8, 8))])
    two = draw_sheet([("a", torch.zeros(3, 1, 8, 8)), ("b", torch.zeros(3, 3, 8, 8))])
    wide = draw_sheet([("a", torch.zeros(9, 1, 8, 8))])
    assert two.shape[0] > one.shape[0]
    assert wide.shape[1] > one.shape[1]
    assert_is_a_picture(one)


def test_a_row_of_fewer_images_ends_white():
    assert_is_a_picture(draw_sheet([("a", torch.zeros(3, 1, 8, 8)), ("b", torch.zeros(1, 3, 8, 8))]))


def test_a_sheet_shows_its_images_without_blending():
    picture = draw_sheet([("", torch.full((4, 3, 16, 16), 0.2))])
    grey = (picture == round(1.2 * 127.5)).all(2).sum()
    assert grey == pytest.approx(4 * 32 * 32, rel=0.1)


def test_students_are_shown_below_their_teacher(tiny_teacher, tiny_samples):
    assert_is_a_picture(draw_student_sheet(tiny_teacher, tiny_samples, 5))


def test_a_teacher_is_shown_for_its_seed(tiny_teacher):
    first, again, other = (draw_teacher_sheet(tiny_teacher, 5, seed) for seed in (0, 0, 1))
    assert_is_a_picture(first)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_counterfactuals_of_every_source_are_shown(tmp_path, tiny_samples):
    shards = store_counterfactuals(tmp_path, tiny_samples, Composition(), 12, 12, 0)
    one = draw_counterfactual_sheet({"teacher": shards}, 4)
    two = draw_counterfactual_sheet({"teacher": shards, "students": shards}, 4)
    assert_is_a_picture(two)
    assert two.shape[0] > one.shape[0]


def test_splits_are_shown_by_name():
    images = torch.zeros(6, 3, 8, 8, dtype=torch.uint8)
    assert_is_a_picture(draw_biased_sheet({"train": images, "test": images}, 4))


def test_losses_that_are_not_noted_at_every_step_are_drawn():
    history = [{"step": 1, "pixel": 0.5}, {"step": 2, "pixel": 0.4, "kl": 0.1}, {"step": 3, "pixel": 0.3}]
    assert_is_a_picture(draw_loss_curves({"shape": history, "texture": history}))
    assert_is_a_picture(draw_loss_curves({"shape": history}))


def test_accuracies_are_drawn_by_split_and_source():
    rows = [
        {
            "trained_on": source,
            "split": "test",
            "subset": "all",
            "mean_accuracy": mean,
            "interval_low": mean - 0.1,
            "interval_high": mean + 0.1,
        }
        for source, mean in zip(get_args(TrainingSetName), (0.1, 0.6, 0.8, 0.7), strict=True)
    ]
    assert_is_a_picture(draw_accuracy_chart(pd.DataFrame(rows)))


def test_corruptions_are_drawn_in_a_panel_each():
    def drawn(*names: str) -> np.ndarray:
        rows = [
            (source, seed, "test", name, strength, 0.9 - 0.1 * strength + 0.01 * seed, 9)
            for source in get_args(TrainingSetName)
            for seed in (0, 1)
            for name, strengths in [("clean", [0]), *((name, range(1, 6)) for name in names)]
            for strength in strengths
        ]
        columns = ["trained_on", "seed", "split", "corruption", "strength", "accuracy", "num_images"]
        return draw_corruptions(pd.DataFrame(rows, columns=columns))

    one, two = drawn("noise"), drawn("noise", "blur")
    assert_is_a_picture(two)
    assert two.shape[1] > one.shape[1]


def test_the_chart_of_several_heads_shows_what_tells_invariance():
    def summary(*subsets: tuple[str, str, float]) -> pd.DataFrame:
        rows = [(source, *subset) for source in ("teacher", "students") for subset in subsets]
        table = pd.DataFrame(rows, columns=["trained_on", "split", "subset", "mean_accuracy"])
        return table.assign(interval_high=float("nan"))  # of one seed

    shown = [
        ("validation", "all", 0.7),
        ("cue_conflict", "shape bias", float("nan")),
        ("cue_conflict", "shape bias, shape head", 0.4),
        ("imagenet9", "background gap, without background", -0.03),
        ("counterfactuals", "shape head", 0.6),
    ]
    left_out = [
        ("validation", "top 5", 0.9),
        ("validation", "shape head", 0.1),
        ("validation", "without background", 0.2),
    ]
    picture = draw_accuracy_chart(summary(*shown))
    assert_is_a_picture(picture)
    assert np.array_equal(draw_accuracy_chart(summary(*shown, *left_out)), picture)
    assert not np.array_equal(draw_accuracy_chart(summary(*shown[:2])), picture)


def test_confusions_and_attention_name_the_classes():
    names, others = ["bird", "mammal", "fruit"], ["bird", "mammal", "fish"]
    counts = {"originals": np.array([[5, 1, 2], [3, 3, 3], [0, 0, 9]])}
    picture = draw_confusions(counts, names, "test")
    assert_is_a_picture(picture)
    assert not np.array_equal(draw_confusions(counts, others, "test"), picture)

    many = MOST_CLASSES + 5
    matrix = np.eye(many, dtype=int) * 4
    matrix[3] = 1  # the one that is recognised worst is among those that are shown
    numbers = [str(number) for number in range(many)]
    renamed = [name if number != 3 else "?" for number, name in enumerate(numbers)]
    all_of_them = draw_confusions({"originals": matrix}, numbers, "test")
    assert not np.array_equal(draw_confusions({"originals": matrix}, renamed, "test"), all_of_them)

    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    maps = {"originals": (torch.tensor([0, 2]), torch.rand(2, 8, 8))}
    sheet = draw_attention(images, maps, torch.tensor([0, 1]), names)
    assert_is_a_picture(sheet)
    assert not np.array_equal(draw_attention(images, maps, torch.tensor([0, 1]), others), sheet)


def benchmark_table() -> pd.DataFrame:
    common = {"threads": 2, "machine": "a processor, 2 cores", "versions": "torch", "target": "", "met": None}
    rates = [
        common | {"group": "throughput", "what": what, "value": value, "unit": "images/s", "batch_size": size}
        for what, value in (("teacher", 100.0), ("students", 900.0), ("students bf16", 800.0))
        for size in (16, 32)
    ]
    judged = {"ratio": 9.0, "target": ">= 10x", "met": False}
    rates.append(rates[2] | {"what": "students, best batch size"} | judged)
    others = [
        common | {"group": group, "what": group, "value": 3.0, "unit": "s", "ratio": ratio, "target": "<= 4 s"} | met
        for group, ratio, met in (
            ("composition", 60.0, {"met": True}),
            ("bias", 0.5, {"met": False}),
            ("sampling", 0.9, {"target": ""}),
        )
    ]
    published = common | {"group": "bias", "what": "published", "value": 122.0, "unit": "s", "ratio": None}
    return pd.DataFrame([*rates, *others, published])


def test_the_benchmark_is_drawn_with_a_bar_per_ratio():
    table = benchmark_table()
    whole = draw_benchmark(table)
    assert_is_a_picture(whole)
    more = pd.concat([table, *[table[table["group"] == "sampling"]] * 12])
    assert draw_benchmark(more).shape[0] > whole.shape[0]


@pytest.mark.parametrize("group", ["throughput", "composition"])
def test_one_group_of_the_benchmark_can_be_drawn_alone(group):
    table = benchmark_table()
    assert_is_a_picture(draw_benchmark(table[table["group"] == group]))
