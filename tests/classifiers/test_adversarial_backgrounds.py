"""Objects that are recognised on every background, by classifiers whose answers are known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from skdcgn_pipeline.classifiers import accuracy
from skdcgn_pipeline.classifiers.adversarial_backgrounds import count_robust, robust_rows
from skdcgn_pipeline.classifiers.torchvision_classifier import MechanismLogits
from skdcgn_pipeline.images.image_set import ImagesInMemory, Split
from skdcgn_pipeline.runtime.errors import InterruptedRunError
from skdcgn_pipeline.runtime.progress import clear_stop, request_stop

SIZE, STEP = 4, 20
# Of ten classes, those of three groups; class 9 is of none.
GROUPS = {"in9": [torch.tensor([0, 3]), torch.tensor([1]), torch.tensor([2])]}


def grey(values: list[int]) -> Tensor:
    return (torch.tensor(values) * STEP).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, SIZE, SIZE).contiguous()


def objects_of(classes: list[int], wanted: list[int]) -> Split:
    """Images of one grey each, that of a class; the object is the upper half."""
    masks = torch.zeros(len(classes), 1, SIZE, SIZE, dtype=torch.uint8)
    masks[:, :, : SIZE // 2] = 255
    rows = ImagesInMemory(grey(classes))
    split = Split("objects", "test", rows, torch.full((len(classes),), -1), {"in9": torch.tensor(wanted)})
    return replace(split, masks=ImagesInMemory(masks))


class Deceived(nn.Module):
    """Says the class of the upper half, unless the lower half is one of some (class, background): then 9."""

    def __init__(self, *pairs: tuple[int, int]) -> None:
        super().__init__()
        self.pairs = pairs
        self.seen: list[tuple[int, int]] = []

    def forward(self, images: Tensor) -> Tensor:
        bytes_of = ((images + 1) * 127.5 / STEP).round().long()
        upper, lower = bytes_of[:, 0, 0, 0].tolist(), bytes_of[:, 0, -1, 0].tolist()
        pairs = [*zip(upper, lower, strict=True)]
        self.seen += pairs
        answers = [9 if pair in self.pairs else pair[0] for pair in pairs]
        return nn.functional.one_hot(torch.tensor(answers), 10).float()


def test_one_background_is_enough_to_deceive(cpu):
    objects, backgrounds = objects_of([0, 3, 1, 2, 2], [0, 0, 1, 2, 0]), grey([4, 5, 6, 7])
    classifier = Deceived((3, 7), (2, 4), (1, 8))

    # Right: 0, and 1, which 8 would deceive, if it were there. Of a wrong group on every background: the last.
    assert count_robust(classifier, objects, lambda: backgrounds, GROUPS, cpu) == {"": 2}
    assert count_robust(Deceived(), objects, lambda: backgrounds, GROUPS, cpu) == {"": 4}


def test_a_deceived_object_is_put_on_no_further_background_and_the_worst_come_first(cpu, monkeypatch):
    monkeypatch.setattr(accuracy, "BATCH_SIZE", 1)
    classifier = Deceived((0, 6), (1, 6))
    count = count_robust(classifier, objects_of([0, 1, 2], [0, 1, 2]), lambda: grey([4, 5, 6, 7]), GROUPS, cpu)

    assert count == {"": 1}
    assert classifier.seen == [(0, 4), (0, 5), (0, 6), (1, 6), (2, 6), (2, 4), (2, 5), (2, 7)]


@pytest.mark.parametrize("batch_size", [1, 3, 500])
def test_batches_change_nothing(cpu, monkeypatch, batch_size):
    monkeypatch.setattr(accuracy, "BATCH_SIZE", batch_size)
    generator = torch.Generator().manual_seed(0)
    pairs = [tuple(pair) for pair in torch.randint(10, (15, 2), generator=generator).tolist()]
    classes = [0, 1, 2, 3] * 3
    wanted = [0, 1, 2, 0] * 3
    expected = sum(all((label, scene) not in pairs for scene in range(4, 9)) for label in classes)

    count = count_robust(Deceived(*pairs), objects_of(classes, wanted), lambda: grey([*range(4, 9)]), GROUPS, cpu)
    assert count == {"": expected}
    assert 0 < expected < len(classes)


def test_every_prediction_of_heads_is_counted(cpu):
    class Heads(nn.Module):
        """The shape head is never deceived, the texture head by 5, the background head says the background."""

        def forward(self, images: Tensor) -> MechanismLogits:
            lower = ((images[:, 0, -1, 0] + 1) * 127.5 / STEP).round().long()
            background = nn.functional.one_hot(lower, 10).float()
            return MechanismLogits(3 * Deceived()(images), Deceived((1, 5))(images), background)

    objects = objects_of([0, 1], [0, 1])
    count = count_robust(Heads(), objects, lambda: grey([4, 5]), GROUPS, cpu)
    by_subset = {row["subset"]: row["accuracy"] for row in robust_rows([count, count], 4)}
    assert by_subset == {
        "on every background": 1.0,
        "on every background, without background": 1.0,
        "on every background, shape head": 1.0,
        "on every background, texture head": 0.5,
        "on every background, background head": 0.0,
    }


def test_a_stop_interrupts(cpu):
    request_stop()
    try:
        with pytest.raises(InterruptedRunError):
            count_robust(Deceived(), objects_of([0, 1], [0, 1]), lambda: grey([4]), GROUPS, cpu)
    finally:
        clear_stop()
