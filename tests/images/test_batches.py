"""The rows of every step depend on the seed and the step alone."""

from __future__ import annotations

import pytest
import torch

from skdcgn_pipeline.images import reading
from skdcgn_pipeline.images.batches import crop_randomly_from, draw_ahead, draw_from_images
from skdcgn_pipeline.images.epochs import EpochSampler, WindowSampler
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.runtime.seeding import numpy_generator
from skdcgn_pipeline.samples.pixels import from_bytes


def test_bytes_stand_for_the_range_from_minus_one_to_one():
    values = from_bytes(torch.tensor([0, 255, 51], dtype=torch.uint8))
    torch.testing.assert_close(values, torch.tensor([-1.0, 1.0, -0.6]))


def test_every_row_is_seen_once_per_epoch():
    sampler = EpochSampler(12, 0, "rows")
    first = torch.cat([sampler.rows(step, 4) for step in range(3)])
    second = torch.cat([sampler.rows(step, 4) for step in range(3, 6)])
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(12))
    assert first.tolist() != second.tolist()


def test_a_batch_may_span_two_epochs():
    sampler = EpochSampler(10, 0, "rows")
    rows = torch.cat([sampler.rows(step, 4) for step in range(5)])
    assert sorted(rows[:10].tolist()) == sorted(rows[10:].tolist()) == list(range(10))


def test_a_batch_may_be_longer_than_an_epoch():
    rows = EpochSampler(3, 0, "rows").rows(0, 8)
    assert len(rows) == 8
    assert sorted(rows[:3].tolist()) == sorted(rows[3:6].tolist()) == [0, 1, 2]


def test_a_step_has_the_same_rows_whatever_was_asked_before():
    sampler = EpochSampler(10, 0, "rows")
    expected = [sampler.rows(step, 4).tolist() for step in range(6)]
    assert EpochSampler(10, 0, "rows").rows(5, 4).tolist() == expected[5]
    assert sampler.rows(1, 4).tolist() == expected[1]


def test_rows_differ_by_seed_and_by_purpose():
    rows = EpochSampler(100, 0, "rows").rows(0, 50).tolist()
    assert rows != EpochSampler(100, 1, "rows").rows(0, 50).tolist()
    assert rows != EpochSampler(100, 0, "other").rows(0, 50).tolist()


# --- rows whose neighbours share row groups ---

SIZES = torch.tensor([5] * 19 + [3])


@pytest.mark.parametrize("window", [1, 4, 100])
def test_every_row_of_every_group_is_seen_once_per_epoch(window):
    sampler = WindowSampler(SIZES, window, 0, "rows")
    rows = torch.cat([sampler.rows(step, 8) for step in range(25)])
    first, second = rows[:98].tolist(), rows[98:196].tolist()
    assert sorted(first) == sorted(second) == list(range(98))
    assert first != second
    assert WindowSampler(SIZES, window, 0, "rows").rows(24, 8).tolist() == rows[192:].tolist()
    assert WindowSampler(SIZES, window, 1, "rows").rows(0, 98).tolist() != first


def test_rows_of_few_groups_are_asked_for_at_a_time():
    sizes = torch.full((200,), 18)
    groups = WindowSampler(sizes, 10, 0, "rows").rows(0, 3600) // 18
    spans = [(places[0], places[-1]) for places in (torch.where(groups == group)[0] for group in range(200))]
    open_groups = [sum(first <= place <= last for first, last in spans) for place in range(0, 3600, 50)]
    assert max(open_groups) <= 11
    # Mixed all the same: of the neighbours of a row, few are of its own group.
    assert (groups[1:] == groups[:-1]).float().mean() < 0.2


def test_groups_come_in_another_order_every_epoch():
    sampler = WindowSampler(torch.full((50,), 4), 2, 0, "rows")
    first, second = (sampler.rows(step, 200) // 4 for step in (0, 1))
    assert (first - second).abs().float().mean() > 10


def test_a_batch_keeps_images_with_their_labels():
    labels = torch.arange(20) % 4
    images = (labels * 60).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    batch, batch_labels = draw_from_images(images, labels, 0, "rows")(3, 8)
    assert batch.shape == (8, 3, 2, 2)
    torch.testing.assert_close(batch, from_bytes(images[:1] * 0 + (batch_labels * 60).view(-1, 1, 1, 1).byte()))


def assert_same(first, second) -> None:
    for (images, labels), (other_images, other_labels) in zip(first, second, strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)


def gradient_batch(step: int, batch_size: int):
    """Images that grow from left to right, the value of the step in the third channel."""
    ramp = torch.linspace(-1, 1, 40).expand(batch_size, 3, 34, 40).clone()
    ramp[:, 2] = step / 100
    return ramp, torch.arange(batch_size)


def test_counterfactuals_are_cropped_and_mirrored_by_step():
    draw = crop_randomly_from(gradient_batch, 16, 0, "cf")
    images, labels = draw(3, 40)
    assert images.shape == (40, 3, 16, 16)
    assert torch.equal(labels, torch.arange(40))
    torch.testing.assert_close(images[:, 2], torch.full((40, 16, 16), 0.03))
    mirrored = images[:, 0, 8, 0] > images[:, 0, 8, -1]
    assert 10 < mirrored.sum() < 30
    assert len(images[:, 0, 8, 0].unique()) > 30
    assert torch.equal(crop_randomly_from(gradient_batch, 16, 0, "cf")(3, 40)[0], images)
    assert not torch.equal(draw(4, 40)[0][:, 0], images[:, 0])


def test_a_whole_image_that_is_not_scaled_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(reading, "draw_crop", lambda height, width, generator: (0, 0, height, width))
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    drawn, _ = crop_randomly_from(lambda step, size: (image, torch.zeros(1)), 16, 0, "cf")(0, 1)
    assert torch.allclose(drawn, image) or torch.allclose(drawn, image.flip(-1))


def test_drawing_ahead_changes_nothing_and_ends_with_the_last_step():
    drawn: list[int] = []

    def draw(step: int, batch_size: int):
        drawn.append(step)
        generator = numpy_generator(0, "ahead", step)
        return torch.from_numpy(generator.random(batch_size)), torch.tensor(step)

    ahead = draw_ahead(draw, 4)
    found = [ahead(step, 2) for step in range(4)]
    assert drawn == [0, 1, 2, 3]
    assert_same(found, [draw(step, 2) for step in range(4)])
    # A training that goes on elsewhere is served too.
    assert torch.equal(draw_ahead(draw, 4)(2, 2)[0], found[2][0])


def test_what_fails_ahead_is_raised_when_it_is_asked_for():
    def draw(step: int, batch_size: int):
        if step == 1:
            raise SettingError("image", "a sound one", "a broken one", "Replace it.")
        return torch.zeros(1), torch.zeros(1)

    ahead = draw_ahead(draw, 3)
    ahead(0, 1)
    with pytest.raises(SettingError, match="a broken one"):
        ahead(1, 1)
