"""Counterfactuals straight from a generator: samples, datasets and streams."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch.utils.data import DataLoader

from skdcgn_pipeline import CounterfactualDataset, CounterfactualStream, StudentCGN
from skdcgn_pipeline.counterfactuals.datasets import sample_counterfactuals
from skdcgn_pipeline.counterfactuals.pools import CounterfactualPool
from skdcgn_pipeline.mechanisms import compose
from skdcgn_pipeline.networks.interface import GeneratorSize
from skdcgn_pipeline.parameters import Composition, Counterfactual
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.samples.records import draw_records
from skdcgn_pipeline.vocabulary import MECHANISMS

RANDOM = Composition(
    transformations={
        "shape": [{"kind": "fade", "strength": 1}, {"kind": "rotation", "strength": 90}, {"kind": "affine"}],
        "texture": [{"kind": "gaussian_noise", "strength": 0.5}],
    }
)
FACTUAL = Composition(counterfactual=Counterfactual(shape="factual", texture="factual", background="factual"))


@pytest.fixture
def pool(tiny_samples) -> CounterfactualPool:
    return CounterfactualPool.of(tiny_samples)


def assert_same(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


# --- samples -------------------------------------------------------------------------------------


def test_a_sample_is_made_from_its_record(tiny_teacher):
    images, labels = sample_counterfactuals(tiny_teacher, 70, seed=5)
    for first, block in ((0, 0), (64, 1)):
        record = draw_records("counterfactuals", 5, block, GeneratorSize(4, 3, 8))
        rows = slice(first, min(first + 64, 70))
        own = {mechanism: getattr(labels, mechanism)[rows] for mechanism in MECHANISMS}
        count = len(own["shape"])
        rendered = tiny_teacher.render(record["noise"][:count], own)
        shifts = [record[name][:count].long() for name in ("foreground_offset", "background_offset")]
        assert_same(images[rows], compose(rendered, *shifts))


@pytest.mark.parametrize("composition", [None, RANDOM], ids=["plain", "transformed"])
def test_fewer_images_are_the_first_of_more(tiny_teacher, composition):
    more, _ = sample_counterfactuals(tiny_teacher, 200, seed=1, composition=composition)
    fewer, _ = sample_counterfactuals(tiny_teacher, 130, seed=1, composition=composition)
    assert_same(fewer, more[:130])


@pytest.mark.parametrize("composition", [None, RANDOM], ids=["plain", "transformed"])
def test_a_seed_of_its_own_gives_the_first_image_of_that_seed(tiny_teacher, composition):
    seeds = [7, 3, 7, 2**62]
    together, labels = sample_counterfactuals(tiny_teacher, 4, seeds, composition=composition)
    for row, seed in enumerate(seeds):
        alone, own = sample_counterfactuals(tiny_teacher, 1, seed, composition=composition)
        assert_same(together[row], alone[0])
        assert labels.texture[row] == own.texture[0]
    assert not torch.equal(together[0], together[1])


def test_random_classes_are_independent_and_of_all_kinds(tiny_teacher):
    _, labels = sample_counterfactuals(tiny_teacher, 3000)
    drawn = [getattr(labels, mechanism) for mechanism in MECHANISMS]
    for own in drawn:
        assert own.bincount(minlength=3).float().div(3000).tolist() == pytest.approx([1 / 3] * 3, abs=0.04)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert (drawn[first] == drawn[second]).float().mean().item() == pytest.approx(1 / 3, abs=0.04)


def test_factual_mechanisms_share_one_class(tiny_teacher):
    _, labels = sample_counterfactuals(tiny_teacher, 8, composition=FACTUAL)
    assert labels.shape.tolist() == labels.texture.tolist() == labels.background.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]


def test_the_same_row_is_the_class_of_the_shape(tiny_teacher):
    composition = Composition(counterfactual={"texture": "same"})
    _, free = sample_counterfactuals(tiny_teacher, 90, seed=5)
    _, labels = sample_counterfactuals(tiny_teacher, 90, seed=5, composition=composition)
    _, given = sample_counterfactuals(tiny_teacher, 90, 5, {"shape": 2}, composition)

    assert torch.equal(labels.shape, free.shape)
    assert torch.equal(labels.texture, free.shape)
    assert torch.equal(labels.background, free.background)
    assert set(given.texture.tolist()) == {2}


def test_classes_of_a_composition_are_drawn_from(tiny_teacher):
    composition = Composition(classes={"shape": [2], "texture": "0-1"})
    images, labels = sample_counterfactuals(tiny_teacher, 200, seed=5, composition=composition)
    _, unrestricted = sample_counterfactuals(tiny_teacher, 200, seed=5)
    dataset = CounterfactualDataset(tiny_teacher, 200, seed=5, composition=composition, all_labels=True)
    stream = CounterfactualStream(tiny_teacher, 50, 4, seed=5, composition=composition)

    assert set(labels.shape.tolist()) == {2}
    assert set(labels.texture.tolist()) == {0, 1}
    assert torch.equal(labels.background, unrestricted.background)
    assert [one.tolist() for _, one in dataset.__getitems__(range(200))] == torch.stack(
        [*vars(labels).values()], 1
    ).tolist()
    assert_same(torch.cat([batch for batch, _ in stream]), images)
    assert {label for _, of_batch in stream for label in of_batch.tolist()} == {2}


@pytest.mark.parametrize(
    ("classes", "told"),
    [
        ({"shape": [99]}, "composition.classes.shape: expected classes 0 to 2, got 99"),
        (
            {"texture": "no_such_list"},
            "composition.classes.texture: expected class numbers, got the name 'no_such_list'",
        ),
    ],
)
def test_classes_that_the_generator_does_not_know_are_refused(tiny_teacher, classes, told):
    composition = Composition(classes=classes)
    for use in (
        lambda: sample_counterfactuals(tiny_teacher, 1, composition=composition),
        lambda: CounterfactualDataset(tiny_teacher, 1, composition=composition),
        lambda: CounterfactualStream(tiny_teacher, 1, 1, composition=composition),
    ):
        with pytest.raises(SettingError, match=told):
            use()


def test_given_classes_change_nothing_but_their_mechanism(tiny_teacher):
    _, drawn = sample_counterfactuals(tiny_teacher, 6, seed=2)
    _, labels = sample_counterfactuals(tiny_teacher, 6, 2, {"shape": 1, "texture": [2, 1, 0, 0, 1, 2]})
    assert labels.shape.tolist() == [1] * 6
    assert labels.texture.tolist() == [2, 1, 0, 0, 1, 2]
    assert torch.equal(labels.background, drawn.background)


def test_the_composition_is_followed(tiny_teacher):
    shifted, _ = sample_counterfactuals(tiny_teacher, 6)
    unshifted, labels = sample_counterfactuals(tiny_teacher, 6, composition=Composition(patch_shift=False))
    noise = draw_records("counterfactuals", 0, 0, GeneratorSize(4, 3, 8))["noise"][:6]
    assert_same(unshifted, compose(tiny_teacher.render(noise, labels)))
    assert not torch.equal(shifted, unshifted)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_images": 0}, "num_images: expected a whole number from 1 on"),
        ({"seed": -1}, "seed: expected a whole number from 0 on"),
        ({"seed": 1.5}, "seed: expected a whole number from 0 on"),
        ({"seed": [1, 2]}, "seed: expected one seed, or 3, got 2 seeds"),
        ({"classes": {"shape": 3}}, "shape: expected classes 0 to 2, got 3 to 3"),
        ({"classes": {"texture": [0, 1]}}, "texture: expected a class or 3 integers"),
        ({"classes": {"background": 0.5}}, "background: expected a class or 3 integers"),
    ],
)
def test_impossible_samples_are_refused(tiny_teacher, arguments, message):
    with pytest.raises(SettingError, match=message):
        sample_counterfactuals(tiny_teacher, **({"num_images": 3} | arguments))


# --- datasets ------------------------------------------------------------------------------------


def test_a_dataset_has_the_images_of_its_seed(tiny_teacher):
    images, labels = sample_counterfactuals(tiny_teacher, 10, seed=4)
    dataset = CounterfactualDataset(tiny_teacher, num_images=10, seed=4)
    assert len(dataset) == 10
    for row, (image, label) in enumerate(dataset):
        assert_same(image, images[row])
        assert label == labels.shape[row]
        assert type(label) is int
    assert_same(dataset[-1][0], images[9])


@pytest.mark.parametrize("composition", [None, RANDOM], ids=["plain", "transformed"])
def test_a_dataset_gives_the_same_images_for_any_number_of_workers(tiny_teacher, composition):
    dataset = CounterfactualDataset(tiny_teacher, 11, seed=2, composition=composition)

    def batches(num_workers: int) -> list[list[torch.Tensor]]:
        shuffled = torch.Generator().manual_seed(1)
        return list(DataLoader(dataset, 4, shuffle=True, num_workers=num_workers, generator=shuffled))

    for own, other in zip(batches(0), batches(2), strict=True):
        assert torch.equal(own[0], other[0])
        assert torch.equal(own[1], other[1])


def test_the_order_of_a_dataset_changes_no_image(tiny_teacher):
    dataset = CounterfactualDataset(tiny_teacher, 200, composition=RANDOM)
    rows = torch.randperm(200, generator=torch.Generator().manual_seed(0)).tolist()
    for row, (image, label) in zip(rows[:20], dataset.__getitems__(rows)[:20], strict=True):
        assert_same(image, dataset[row][0])
        assert label == dataset[row][1]


def test_a_dataset_renders_a_batch_at_once(tiny_teacher):
    next(iter(DataLoader(CounterfactualDataset(tiny_teacher, 20), batch_size=20)))
    assert tiny_teacher.num_calls == 1


def test_all_labels_and_a_transform(tiny_teacher):
    plain = CounterfactualDataset(tiny_teacher, 5)
    dataset = CounterfactualDataset(tiny_teacher, 5, all_labels=True, transform=lambda image: (image + 1) / 2)
    image, labels = dataset[3]
    assert labels.shape == (3,)
    assert labels[0] == plain[3][1]
    assert_same(image, (plain[3][0] + 1) / 2)


def test_a_dataset_ends_and_refuses_what_is_beyond(tiny_teacher):
    dataset = CounterfactualDataset(tiny_teacher, 5)
    with pytest.raises(IndexError):
        dataset[5]
    with pytest.raises(SettingError, match="num_images"):
        CounterfactualDataset(tiny_teacher, 0)


def test_another_epoch_has_the_images_that_follow(tiny_teacher):
    images, labels = sample_counterfactuals(tiny_teacher, 20, seed=4)
    dataset = CounterfactualDataset(tiny_teacher, num_images=10, seed=4)
    stream = CounterfactualStream(tiny_teacher, 5, 2, seed=4)
    for epoch in (1, 0):
        dataset.set_epoch(epoch)
        stream.set_epoch(epoch)
        rows = slice(10 * epoch, 10 * epoch + 10)
        assert_same(torch.stack([image for image, _ in dataset]), images[rows])
        assert [label for _, label in dataset] == labels.shape[rows].tolist()
        assert_same(torch.cat([batch for batch, _ in stream]), images[rows])


def test_a_dataset_of_students_can_be_sent_to_another_process():
    students = StudentCGN.from_released("digits")
    dataset = CounterfactualDataset(students, 3)
    expected = dataset[1][0]  # fills what frozen students keep
    for other in (pickle.loads(pickle.dumps(dataset)), copy.deepcopy(dataset)):
        assert_same(other[1][0], expected)


# --- streams -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pool", "teacher"])
def test_a_stream_gives_the_same_batches_for_any_number_of_workers(pool, tiny_teacher, kind):
    stream = CounterfactualStream(pool if kind == "pool" else tiny_teacher, batch_size=6, num_batches=5, seed=2)
    alone = list(DataLoader(stream, batch_size=None))
    shared = list(DataLoader(stream, batch_size=None, num_workers=2))
    assert len(alone) == len(shared) == len(stream) == 5
    for (images, labels), (other_images, other_labels) in zip(alone, shared, strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)


@pytest.mark.parametrize("kind", ["pool", "teacher"])
def test_a_stream_follows_its_seed_and_composition(pool, tiny_teacher, kind):
    source = pool if kind == "pool" else tiny_teacher
    first = next(iter(CounterfactualStream(source, 6, 1, seed=0)))[0]
    assert torch.equal(first, next(iter(CounterfactualStream(source, 6, 1, seed=0)))[0])
    assert not torch.equal(first, next(iter(CounterfactualStream(source, 6, 1, seed=1)))[0])
    unshifted = Composition(patch_shift=False)
    assert not torch.equal(first, next(iter(CounterfactualStream(source, 6, 1, seed=0, composition=unshifted)))[0])


def test_a_stream_from_a_pool_has_other_batches_in_another_epoch(pool):
    stream, longer = CounterfactualStream(pool, 6, 2, seed=1), CounterfactualStream(pool, 6, 4, seed=1)
    stream.set_epoch(1)
    workers = DataLoader(stream, batch_size=None, num_workers=2)
    for batches in (list(stream), list(workers)):
        for (images, _), (expected, _) in zip(batches, list(longer)[2:], strict=True):
            assert torch.equal(images, expected)


def test_a_stream_from_a_generator_has_the_images_of_the_dataset(tiny_teacher):
    dataset = CounterfactualDataset(tiny_teacher, 12, seed=3)
    images = torch.cat([images for images, _ in CounterfactualStream(tiny_teacher, 4, 3, seed=3)])
    assert_same(images, torch.stack([image for image, _ in dataset]))
