"""Originals and counterfactuals in one dataset."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset

from skdcgn_pipeline import CounterfactualDataset, mix
from skdcgn_pipeline.runtime.errors import SettingError


class Originals(Dataset):
    """Images of one colour, which says which image it is; labels are int, as those of torchvision's folders."""

    def __init__(self, num_images: int = 40, value: float = 2.0, label: object = 1) -> None:
        self.num_images, self.value, self.label = num_images, value, label

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, index: int) -> tuple[torch.Tensor, object]:
        return torch.full((3, 8, 8), self.value + range(self.num_images)[index]), self.label


def numbers_of(dataset: Dataset, epoch: int) -> list[float]:
    dataset.set_epoch(epoch)
    return [image[0, 0, 0].item() for image, _ in dataset.__getitems__(range(len(dataset)))]


def test_originals_and_counterfactuals_go_into_one_batch(tiny_teacher):
    both = ConcatDataset([Originals(6), CounterfactualDataset(tiny_teacher, 6)])
    images, labels = next(iter(DataLoader(both, 12, shuffle=True)))
    assert images.shape == (12, 3, 8, 8)
    assert labels.dtype == torch.int64


@pytest.mark.parametrize("share", [0, 0.3, 1])
def test_a_mixture_has_its_share_in_every_epoch(tiny_teacher, share):
    mixture = mix(Originals(), CounterfactualDataset(tiny_teacher, 10), share)
    assert len(mixture) == 40
    for epoch in range(3):
        originals = [number for number in numbers_of(mixture, epoch) if number >= 2]
        assert len(originals) == 40 - round(40 * share)
        assert max(map(originals.count, originals), default=0) <= 1 + (epoch > 0)


def test_all_originals_come_equally_often(tiny_teacher):
    mixture = mix(Originals(40), CounterfactualDataset(tiny_teacher, 10), 0.75)
    seen = [number for epoch in range(4) for number in numbers_of(mixture, epoch) if number >= 2]
    assert sorted(seen) == [2 + row for row in range(40)]


def test_a_mixture_is_spread_and_follows_seed_and_epoch(tiny_teacher):
    def kinds(seed: int, epoch: int) -> list[bool]:
        mixture = mix(Originals(), CounterfactualDataset(tiny_teacher, 10), 0.5, seed)
        return [number >= 2 for number in numbers_of(mixture, epoch)]

    assert kinds(0, 0) == kinds(0, 0)
    assert len({tuple(kinds(*which)) for which in ((0, 0), (0, 1), (1, 0))}) == 3
    assert 0 < sum(kinds(0, 0)[:20]) < 20


def test_counterfactuals_of_another_epoch_are_others(tiny_teacher):
    mixture = mix(Originals(), CounterfactualDataset(tiny_teacher, 40), 1)
    assert not set(numbers_of(mixture, 0)) & set(numbers_of(mixture, 1))


def test_workers_that_live_on_follow_the_epoch(tiny_teacher):
    mixture = mix(Originals(20), CounterfactualDataset(tiny_teacher, 20), 0.5)
    loader = DataLoader(mixture, 5, num_workers=2, persistent_workers=True)
    for epoch in (0, 1, 0):
        mixture.set_epoch(epoch)
        together = torch.cat([images for images, _ in loader])
        torch.testing.assert_close(together[:, 0, 0, 0].tolist(), numbers_of(mixture, epoch), rtol=0, atol=1e-5)


def test_a_mixture_can_be_sent_to_another_process(tiny_teacher):
    mixture = mix(Originals(), CounterfactualDataset(tiny_teacher, 20), 0.5)
    numbers_of(mixture, 2)
    other = pickle.loads(pickle.dumps(mixture))
    assert numbers_of(other, 2) == numbers_of(mixture, 2)


@pytest.mark.parametrize(
    ("originals", "share", "told"),
    [
        (Originals(), 1.5, r"share: expected a number in \[0, 1\], got 1.5"),
        (Originals(), True, "share: expected"),
        (Originals(0), 0.5, "originals: expected at least one image, got none"),
        (Originals(label=torch.tensor(1)), 0.5, "counterfactuals: expected .* other labels, got .* a class"),
        ([("a picture", 1)], 0.5, "originals: expected tensors, got str"),
        ([(torch.zeros(3, 9, 9), 1)], 0.5, r"counterfactuals: expected torch.float32 \[3, 9, 9\]"),
        ([(torch.zeros(3, 8, 8, dtype=torch.uint8), 1)], 0.5, "counterfactuals: expected torch.uint8"),
    ],
)
def test_what_does_not_fit_together_is_refused(tiny_teacher, originals, share, told):
    with pytest.raises(SettingError, match=told):
        mix(originals, CounterfactualDataset(tiny_teacher, 5), share)


@pytest.mark.parametrize("epoch", [-1, 0.5, True, None])
def test_an_epoch_is_a_whole_number(tiny_teacher, epoch):
    with pytest.raises(SettingError, match="epoch: expected a whole number from 0 on"):
        CounterfactualDataset(tiny_teacher, 5).set_epoch(epoch)
