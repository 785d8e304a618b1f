"""The ranges in which images are given."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms import Normalize

from skdcgn_pipeline import CounterfactualDataset, CounterfactualStream
from skdcgn_pipeline.counterfactuals.value_range import to_value_range
from skdcgn_pipeline.runtime.errors import SettingError

MEAN, DEVIATION = (0.1, 0.2, 0.3), (0.5, 0.4, 0.3)
IMAGES = torch.linspace(-1, 1, 2 * 3 * 4 * 4).view(2, 3, 4, 4)


def test_images_stay_as_they_are_by_default():
    assert to_value_range(IMAGES, (-1, 1)) is IMAGES
    assert to_value_range(IMAGES, [-1.0, 1.0]) is IMAGES


@pytest.mark.parametrize(
    ("value_range", "expected"),
    [
        ((0, 1), (IMAGES + 1) / 2),
        ((0, 255), (IMAGES + 1) * 127.5),
        ("imagenet", Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))((IMAGES + 1) / 2)),
        ((MEAN, DEVIATION), Normalize(MEAN, DEVIATION)((IMAGES + 1) / 2)),
        (np.array([MEAN, DEVIATION]), Normalize(MEAN, DEVIATION)((IMAGES + 1) / 2)),
    ],
    ids=["unit", "bytes", "imagenet", "network", "array"],
)
def test_images_in_another_range(value_range, expected):
    torch.testing.assert_close(to_value_range(IMAGES, value_range), expected)


def test_whole_numbers():
    as_bytes = to_value_range(IMAGES, "uint8")
    assert as_bytes.dtype == torch.uint8
    torch.testing.assert_close(as_bytes, ((IMAGES + 1) * 127.5).round().byte())


@pytest.mark.parametrize("kind", [CounterfactualDataset, CounterfactualStream])
@pytest.mark.parametrize("value_range", [None, 3, (1, 0), (0, float("nan")), "imagnet", "01", (MEAN,), (MEAN, (1, 1))])
def test_what_is_no_value_range_is_refused_before_work(tiny_teacher, kind, value_range):
    with pytest.raises(SettingError, match=r"value_range: expected .* got .*Give what the network takes"):
        kind(tiny_teacher, 5, 5, value_range=value_range)


def test_datasets_and_streams_give_what_was_asked_for(tiny_teacher):
    plain = CounterfactualDataset(tiny_teacher, 4)[1][0]
    for value_range in ("uint8", (0, 1), (MEAN, DEVIATION)):
        expected = to_value_range(plain, value_range)
        dataset = CounterfactualDataset(tiny_teacher, 4, value_range=value_range)
        (images, _), *_ = CounterfactualStream(tiny_teacher, 4, 1, value_range=value_range)
        torch.testing.assert_close(dataset[1][0], expected, rtol=0, atol=1e-4)
        torch.testing.assert_close(images[1], expected, rtol=0, atol=1e-4)
