"""A teacher of images with masks: which row noise chooses, how it is put, and what is kept."""

from __future__ import annotations

import pickle

import pytest
import torch

from images.pictures import make_folder
from skdcgn_pipeline.artifacts.recipe import Store
from skdcgn_pipeline.images.listing import list_folder
from skdcgn_pipeline.images.recipes import FolderImagesRecipe
from skdcgn_pipeline.images.stored import StoredImages
from skdcgn_pipeline.mechanisms import CounterfactualGenerator, MechanismImages, check_images, compose
from skdcgn_pipeline.parameters import CutoutSettings
from skdcgn_pipeline.runtime import progress
from skdcgn_pipeline.runtime.errors import InterruptedRunError, SettingError
from skdcgn_pipeline.samples.pixels import from_bytes
from skdcgn_pipeline.teachers.cutouts import DIRECTIONS, Cutouts, CutoutsRecipe, open_cutouts, order_rows
from skdcgn_pipeline.teachers.teacher import open_trained_teacher
from skdcgn_pipeline.vocabulary import MECHANISMS

PER_CLASS = 6
MOVED = CutoutSettings(mirror=True, scale=0.2, shift=0.2)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> StoredImages:
    """Images of three classes of 48 x 48 pixels, with masks."""
    place = tmp_path_factory.mktemp("cutouts")
    folder = make_folder(place / "own", {"train": PER_CLASS, "validation": 1})
    return Store(place / "store").make(FolderImagesRecipe(list_folder(folder, 0.1, 0), image_size=48))


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def cutouts(images, store) -> Cutouts:
    return open_cutouts(store.make(CutoutsRecipe(images, CutoutSettings())))


def many(counts: list[int]) -> Cutouts:
    """Cut-outs of 8 x 8 pixels that are nothing but their number."""
    numbers = torch.arange(sum(counts), dtype=torch.uint8).view(-1, 1, 1, 1)
    colours = numbers.expand(-1, 3, 8, 8)
    return Cutouts(MechanismImages(numbers.expand(-1, 1, 8, 8), colours, colours), torch.tensor(counts), MOVED)


def noise_for(generator: CounterfactualGenerator, num_images: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(num_images, generator.noise_dim, generator=torch.Generator().manual_seed(seed))


def test_they_are_a_generator_without_holes(cutouts):
    assert isinstance(cutouts, CounterfactualGenerator)
    assert (cutouts.num_classes, cutouts.image_size) == (3, 48)
    noise, labels = noise_for(cutouts, 20), torch.arange(20) % 3
    check_images(cutouts.render(noise, labels), 20, 48)


def test_one_class_for_all_mechanisms_gives_the_photographs(cutouts, images):
    split = images.split("train")
    composites = compose(cutouts.render(noise_for(cutouts, 60), torch.arange(60) % 3))
    photographs = from_bytes(split.images)
    distances = (composites[:, None] - photographs).abs().mean((2, 3, 4))
    nearest, of_rows = distances.min(1)
    assert nearest.max() < 0.1, "but for a rim of a few pixels"
    assert torch.equal(split.labels[of_rows], torch.arange(60) % 3)
    assert len(of_rows.unique()) > 2 * PER_CLASS


def test_each_mechanism_is_of_its_own_class_and_depends_on_no_other(cutouts):
    noise, labels = noise_for(cutouts, 30), torch.stack([torch.arange(30) // k % 3 for k in (1, 3, 9)], 1)
    mixed = cutouts.render(noise, labels)
    for column, mechanism in enumerate(MECHANISMS):
        alone = cutouts.render(noise, labels[:, column])
        assert torch.equal(mixed.of(mechanism), alone.of(mechanism))


@pytest.mark.parametrize("moved", [False, True])
def test_an_image_depends_on_its_own_noise_alone(cutouts, moved):
    generator = Cutouts(cutouts.images, torch.tensor([PER_CLASS] * 3), MOVED) if moved else cutouts
    noise, labels = noise_for(generator, 33), torch.arange(33) % 3
    together = compose(generator.render(noise, labels))
    alone = torch.cat([compose(generator.render(noise[i : i + 1], labels[i : i + 1])) for i in range(33)])
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 5, 100])
def test_every_row_of_a_class_is_as_likely(count):
    generator = many([3, count])
    rows = generator.rows(noise_for(generator, 20_000), torch.ones(20_000, dtype=torch.long))
    shares = torch.bincount(rows - 3, minlength=count) / 20_000
    assert rows.min() >= 3
    assert shares.tolist() == pytest.approx([1 / count] * count, rel=0.35)


def test_rows_of_two_classes_are_independent():
    generator = many([4, 4])
    noise = noise_for(generator, 16_000)
    first, second = (generator.rows(noise, torch.full((16_000,), label)) for label in (0, 1))
    pairs = torch.bincount(first * 4 + second - 4, minlength=16)
    assert pairs.tolist() == pytest.approx([1000] * 16, rel=0.15)


def test_rows_that_lie_together_are_chosen_by_noise_that_does():
    codes = torch.randn(200, DIRECTIONS, generator=torch.Generator().manual_seed(0))
    order = order_rows(codes)
    generator = many([200])
    noise = noise_for(generator, 500)
    chosen = codes[order[generator.rows(noise, torch.zeros(500, dtype=torch.long))]]
    for direction in range(DIRECTIONS):
        together = torch.corrcoef(torch.stack([chosen[:, direction], noise[:, direction]]))[0, 1]
        assert together > 0.45
    assert order.sort().values.tolist() == list(range(200))


def test_a_mask_moves_with_what_it_shows_and_the_background_stays(cutouts):
    moved = Cutouts(cutouts.images, torch.tensor([PER_CLASS] * 3), MOVED)
    noise, labels = noise_for(cutouts, 12), torch.arange(12) % 3
    still, there = cutouts.render(noise, labels), moved.render(noise, labels)
    assert torch.equal(still.background, there.background)
    assert not torch.equal(still.mask, there.mask)
    # What a mask shows has the same colours wherever it is put.
    shown = [(i.mask * i.foreground).sum((2, 3)) / i.mask.sum((2, 3)) for i in (still, there)]
    assert torch.allclose(*shown, atol=0.2)
    check_images(there, 12, 48)


def test_another_process_opens_them_again(images, store, cutouts):
    teacher = open_trained_teacher(store.make(CutoutsRecipe(images, CutoutSettings())))
    sent = pickle.dumps(teacher.open_again)
    assert len(sent) < 5_000
    again = pickle.loads(sent)()
    noise, labels = noise_for(cutouts, 6), torch.arange(6) % 3
    assert all(torch.equal(again.render(noise, labels).of(m), cutouts.render(noise, labels).of(m)) for m in MECHANISMS)


def test_nothing_is_cut_out_twice_and_settings_make_others(images, store, monkeypatch):
    recipe = CutoutsRecipe(images, CutoutSettings())
    few = open_cutouts(store.make(CutoutsRecipe(images, CutoutSettings(num_images_per_class=2))))
    assert len(few.images) == 6
    monkeypatch.setattr("skdcgn_pipeline.teachers.cutouts.fill_unknown", None)
    assert len(open_cutouts(store.make(recipe)).images) == 3 * PER_CLASS
    paths = {store.path(CutoutsRecipe(images, settings)) for settings in (CutoutSettings(), MOVED)}
    assert len(paths) == 2


def test_whole_classes_survive_an_interruption(images, cutouts, tmp_path, monkeypatch):
    recipe, place = CutoutsRecipe(images, CutoutSettings()), Store(tmp_path)
    with monkeypatch.context() as stopping:
        stopping.setattr(progress, "stop_requested", lambda: len([*tmp_path.rglob("*.parquet")]) > 0)
        with pytest.raises(InterruptedRunError, match="cutting out: stopped at"):
            place.make(recipe)
    again = open_cutouts(place.make(recipe))
    assert all(torch.equal(again.images.of(m), cutouts.images.of(m)) for m in MECHANISMS)


@pytest.mark.parametrize("value", [0, 255], ids=["nothing shown", "nothing hidden"])
def test_masks_that_tell_nothing_are_left_out(images, tmp_path, monkeypatch, value):
    split = images.split("train")
    split.masks.images[0] = value
    monkeypatch.setattr(images, "split", lambda name: split)
    assert len(open_cutouts(Store(tmp_path).make(CutoutsRecipe(images, CutoutSettings()))).images) == 17
    split.masks.images[split.labels == 1] = value
    with pytest.raises(SettingError, match="expected an image of 'square' with a mask"):
        Store(tmp_path / "other").make(CutoutsRecipe(images, CutoutSettings()))


def test_images_without_masks_are_refused(tmp_path):
    folder = make_folder(tmp_path / "own", {"train": 2, "validation": 1}, tables=False)
    images = Store(tmp_path / "store").make(FolderImagesRecipe(list_folder(folder, 0.1, 0), image_size=48))
    with pytest.raises(SettingError, match="cutouts: expected a mask for every training image, got images without"):
        Store(tmp_path / "store").make(CutoutsRecipe(images, CutoutSettings()))
