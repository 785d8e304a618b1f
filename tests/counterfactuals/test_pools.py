"""Counterfactuals from pools: labels, rows, transformations, and storage."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from skdcgn_pipeline.artifacts import store as artifacts
from skdcgn_pipeline.artifacts.recipe import Store, build_in
from skdcgn_pipeline.counterfactuals import pools
from skdcgn_pipeline.counterfactuals.pools import CounterfactualPool, compose_in_memory, map_pool, open_pool
from skdcgn_pipeline.mechanisms import MechanismImages, compose
from skdcgn_pipeline.parameters import Composition, Counterfactual, Transformation, Transformations
from skdcgn_pipeline.runtime import progress
from skdcgn_pipeline.runtime.errors import InterruptedRunError, SettingError
from skdcgn_pipeline.runtime.seeding import torch_generator
from skdcgn_pipeline.samples.drawing import SampleShards
from skdcgn_pipeline.samples.pixels import decode_images
from skdcgn_pipeline.transformations import transform_mechanism
from skdcgn_pipeline.vocabulary import IMAGE_OF_MECHANISM, MECHANISMS
from tiny import draw_samples, store_counterfactuals, tree_of

FACTUAL = Counterfactual(shape="factual", texture="factual", background="factual")


@pytest.fixture
def pool(tiny_samples) -> CounterfactualPool:
    return CounterfactualPool.of(tiny_samples)


def draw(pool: CounterfactualPool, num_images: int = 600, seed: int = 0, **composition):
    return pool.draw(num_images, Composition(**composition), torch_generator(seed, "test"))


@pytest.fixture
def pool_labels(tiny_samples) -> torch.Tensor:
    """The class of every row of the pool."""
    return torch.from_numpy(tiny_samples.read("labels")["labels"])


def test_labels_are_those_of_the_pool_rows(pool, pool_labels):
    batch = draw(pool)
    assert torch.equal(pool_labels[batch.rows], batch.labels)


def test_factual_mechanisms_share_one_class(pool):
    labels = draw(pool, counterfactual=FACTUAL).labels
    assert torch.equal(labels[:, 0], labels[:, 1])
    assert torch.equal(labels[:, 1], labels[:, 2])


def test_factual_mechanisms_still_draw_rows_of_their_own(pool):
    rows = draw(pool, counterfactual=FACTUAL).rows
    assert (rows[:, 0] == rows[:, 1]).float().mean() < 0.3


def test_counterfactual_classes_are_independent(pool):
    labels = draw(pool, 3000).labels
    for first, second in ((0, 1), (0, 2), (1, 2)):
        share = (labels[:, first] == labels[:, second]).float().mean().item()
        assert share == pytest.approx(1 / 3, abs=0.04)


@pytest.mark.parametrize("same", [{"texture"}, {"background"}, {"texture", "background"}])
def test_the_same_row_is_that_of_the_shape_and_changes_no_other(pool, same):
    batch, free = draw(pool, counterfactual=dict.fromkeys(same, "same")), draw(pool)
    for column, mechanism in enumerate(MECHANISMS):
        taken_from = 0 if mechanism in same else column
        assert torch.equal(batch.rows[:, column], free.rows[:, taken_from])
        assert torch.equal(batch.labels[:, column], free.labels[:, taken_from])
    assert torch.equal(batch.background_offset, free.background_offset)


def test_the_same_row_of_everything_is_the_image_that_was_drawn(pool, tiny_samples):
    batch = draw(pool, 20, counterfactual={"texture": "same", "background": "same"}, patch_shift=False)
    stored = tiny_samples.read_images()
    parts = MechanismImages(*(decode_images(m, stored.of(m)[batch.rows[:, 0]]) for m in MECHANISMS))
    assert torch.equal(batch.images, compose(parts))


def test_a_row_that_sources_do_not_share_is_refused(pool, pool_labels):
    mixed = CounterfactualPool(pool.images, dict.fromkeys(MECHANISMS, pool_labels), 3)
    with pytest.raises(SettingError, match=r"counterfactual\.texture: expected 'class' or 'factual', got 'same'"):
        draw(mixed, counterfactual={"texture": "same"})


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_one_counterfactual_mechanism_leaves_the_others_factual(pool, mechanism):
    labels = draw(pool, counterfactual=FACTUAL.model_copy(update={mechanism: "class"})).labels
    own = MECHANISMS.index(mechanism)
    first, second = (index for index in range(3) if index != own)
    assert torch.equal(labels[:, first], labels[:, second])
    assert (labels[:, own] == labels[:, first]).float().mean().item() == pytest.approx(1 / 3, abs=0.08)


def test_every_row_of_every_class_is_drawn(pool):
    rows = draw(pool, 3000).rows
    for column in range(3):
        assert sorted(rows[:, column].unique().tolist()) == list(range(30))


def test_a_composite_is_made_of_its_rows_and_offsets(pool, tiny_samples):
    batch = draw(pool, 20)
    stored = tiny_samples.read_images()
    parts = [decode_images(m, stored.of(m)[batch.rows[:, i]]) for i, m in enumerate(MECHANISMS)]
    expected = compose(MechanismImages(*parts), batch.foreground_offset, batch.background_offset)
    assert torch.equal(batch.images, expected)
    assert batch.foreground_offset.max() > 0


def test_without_patch_shift_the_offsets_are_zero(pool, tiny_samples):
    batch = draw(pool, 20, patch_shift=False)
    stored = tiny_samples.read_images()
    parts = [decode_images(m, stored.of(m)[batch.rows[:, i]]) for i, m in enumerate(MECHANISMS)]
    assert torch.equal(batch.images, compose(MechanismImages(*parts)))
    assert not batch.foreground_offset.any()
    assert not batch.background_offset.any()


@pytest.mark.parametrize(("patch_shift", "shifted"), [("texture", (True, False)), ("background", (False, True))])
def test_a_patch_shift_of_one_mechanism_leaves_the_other_where_it_is(pool, tiny_samples, patch_shift, shifted):
    batch = draw(pool, 20, patch_shift=patch_shift)
    both = draw(pool, 20)
    stored = tiny_samples.read_images()
    parts = [decode_images(m, stored.of(m)[batch.rows[:, i]]) for i, m in enumerate(MECHANISMS)]
    offsets = [batch.foreground_offset, batch.background_offset]
    assert [bool(own.any()) for own in offsets] == list(shifted)
    assert torch.equal(batch.images, compose(MechanismImages(*parts), *offsets))
    # What is shifted is shifted as without the restriction, so that cells differ in this alone.
    moved = shifted.index(True)
    assert torch.equal(offsets[moved], [both.foreground_offset, both.background_offset][moved])
    assert torch.equal(batch.rows, both.rows)


def test_transformations_are_applied_to_their_mechanism(pool):
    invisible = Transformations(shape=(Transformation(kind="opacity", strength=0.0),))
    batch = draw(pool, 20, transformations=invisible, patch_shift=False)
    backgrounds = decode_images("background", pool.images.background[batch.rows[:, 2]])
    assert torch.equal(batch.images, backgrounds)


def test_the_same_generator_draws_the_same_counterfactuals(pool):
    first, again, other = (draw(pool, 50, seed) for seed in (0, 0, 1))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.rows, again.rows)
    assert not torch.equal(first.rows, other.rows)


def test_training_batches_are_labelled_by_all_mechanisms(pool):
    composition = Composition()
    images, labels = pool.draw_labelled_batch(composition, 3, "purpose")(5, 16)
    expected = pool.draw(16, composition, torch_generator(3, "purpose", 5))
    assert torch.equal(images, expected.images)
    assert torch.equal(labels, expected.labels)


def draw_plainly(
    pool: CounterfactualPool,
    pool_labels: torch.Tensor,
    num_images: int,
    composition: Composition,
    generator: torch.Generator,
):
    """Compose one mechanism after the other, as floats, without any shortcut."""
    image_class = torch.randint(pool.num_classes, (num_images,), generator=generator)
    rows, images = [], []
    for mechanism in MECHANISMS:
        own_class = torch.randint(pool.num_classes, (num_images,), generator=generator)
        label = own_class if getattr(composition.counterfactual, mechanism) == "class" else image_class
        shares = torch.rand(num_images, generator=generator)
        candidates = [(pool_labels == one).nonzero()[:, 0] for one in label]
        rows.append(torch.stack([c[int(share * len(c))] for c, share in zip(candidates, shares, strict=True)]))
        image = decode_images(mechanism, pool.images.of(mechanism)[rows[-1]])
        images.append(transform_mechanism(image, mechanism, composition.transformations.of(mechanism), generator))
    offsets = (None, None)
    if composition.patch_shift:
        offsets = torch.randint(pool.image_size, (2, num_images, 2), generator=generator)
    return compose(MechanismImages(*images), *offsets), torch.stack(rows, 1)


NOISY = Transformation(kind="gaussian_noise", strength=0.2)
GREY = Transformation(kind="grey", strength=0.5)
AFFINE = Transformation(kind="affine", strength=2.0)


@pytest.mark.parametrize("patch_shift", [True, False])
@pytest.mark.parametrize(
    "transformations",
    [{}, {"shape": (AFFINE,)}, {"texture": (NOISY,)}, {"shape": (NOISY,), "background": (GREY, NOISY)}],
)
@pytest.mark.parametrize("num_images", [1, 37, 300])
def test_what_is_drawn_is_bit_for_bit_what_the_plain_way_draws(
    pool, pool_labels, transformations, patch_shift, num_images
):
    composition = Composition(transformations=Transformations(**transformations), patch_shift=patch_shift)
    batch = pool.draw(num_images, composition, torch_generator(7, "test"))
    images, rows = draw_plainly(pool, pool_labels, num_images, composition, torch_generator(7, "test"))
    assert torch.equal(batch.rows, rows)
    assert torch.equal(batch.images, images)


@pytest.mark.parametrize("images_per_pass", [1, 7, 1000])
def test_what_is_drawn_does_not_depend_on_how_many_are_composed_at_a_time(pool, monkeypatch, images_per_pass):
    expected = draw(pool, 50)
    monkeypatch.setattr(pools, "IMAGES_PER_PASS", images_per_pass)
    assert torch.equal(draw(pool, 50).images, expected.images)


def test_drawing_does_not_change_the_pool(pool):
    before = pool.images.foreground.clone()
    draw(pool, 50)
    assert torch.equal(pool.images.foreground, before)


def test_a_pool_without_images_of_a_class_is_refused():
    images = MechanismImages(*(torch.zeros(4, c, 8, 8, dtype=torch.uint8) for c in (1, 3, 3)))
    with pytest.raises(SettingError, match=r"pool: expected images of every class, got none of \[1, 3\]"):
        CounterfactualPool(images, torch.tensor([0, 2, 2, 0]), 4)


# --- mechanisms from different samples ------------------------------------------------------------


@pytest.fixture
def several_samples(tiny_samples, tiny_teacher, tmp_path, cpu) -> dict[str, SampleShards]:
    """Samples of three sizes, one per mechanism."""
    sizes = {"texture": 4, "background": 7}
    others = {
        mechanism: draw_samples(tmp_path / "samples", tiny_teacher, {"name": "tiny"}, size, 11, 1, cpu)
        for mechanism, size in sizes.items()
    }
    return {"shape": tiny_samples, **others}


def test_mechanisms_of_different_pools_are_drawn_from_their_own_rows(several_samples):
    images = {IMAGE_OF_MECHANISM[m]: own.read_images().of(m) for m, own in several_samples.items()}
    labels = {m: torch.from_numpy(own.read("labels")["labels"]) for m, own in several_samples.items()}
    pool = CounterfactualPool(MechanismImages(**images), labels, 3)
    batch = draw(pool, 2000)
    for column, (mechanism, size) in enumerate(zip(MECHANISMS, (30, 12, 21), strict=True)):
        assert torch.equal(labels[mechanism][batch.rows[:, column]], batch.labels[:, column])
        assert sorted(batch.rows[:, column].unique().tolist()) == list(range(size))
    part = slice(0, 50)
    parts = [decode_images(m, images[IMAGE_OF_MECHANISM[m]][batch.rows[part, i]]) for i, m in enumerate(MECHANISMS)]
    offsets = batch.foreground_offset[part], batch.background_offset[part]
    assert torch.equal(batch.images[part], compose(MechanismImages(*parts), *offsets))


def test_a_class_that_one_mechanism_lacks_is_refused():
    images = MechanismImages(*(torch.zeros(4, c, 8, 8, dtype=torch.uint8) for c in (1, 3, 3)))
    whole = torch.tensor([0, 1, 2, 0])
    labels = {"shape": whole, "texture": torch.tensor([0, 0, 2, 2]), "background": whole}
    with pytest.raises(SettingError, match=r"images of every class, got none of \[1\]"):
        CounterfactualPool(images, labels, 3)


@pytest.mark.parametrize("transformations", [{}, {"shape": (AFFINE,), "texture": (GREY,)}])
def test_a_mapped_pool_draws_what_a_pool_in_memory_draws(tmp_path, pool, tiny_samples, transformations):
    mapped = map_pool(Store(tmp_path), dict.fromkeys(MECHANISMS, tiny_samples))
    own = {"transformations": Transformations(**transformations)}
    mine, theirs = draw(mapped, 200, 5, **own), draw(pool, 200, 5, **own)
    for name in vars(theirs):
        assert torch.equal(getattr(mine, name), getattr(theirs, name)), name


def test_mapped_files_are_written_once_for_each_samples(tmp_path, several_samples, monkeypatch):
    folder = tmp_path / "mapped"
    first = map_pool(Store(tmp_path), several_samples)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.npy")}
    assert len(before) == 3 * 4

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("written again")

    monkeypatch.setattr(pools, "_save_column", refuse)
    again = map_pool(Store(tmp_path), several_samples)
    map_pool(Store(tmp_path), dict.fromkeys(MECHANISMS, several_samples["texture"]))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.npy")} == before
    assert torch.equal(draw(first, 100).images, draw(again, 100).images)


def test_interrupted_mapping_continues_with_the_files_that_are_missing(tmp_path, tiny_samples, monkeypatch):
    real, written = pools._save_column, []

    def fail_at_the_third(samples, name, path) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        real(samples, name, path)
        written.append(path.name)

    with monkeypatch.context() as patch:
        patch.setattr(pools, "_save_column", fail_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            build_in(tmp_path / "mapped", pools.MappedSamplesRecipe(tiny_samples))
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "mapped").rglob("*.npy")}
    assert len(kept) == 2
    arrays = build_in(tmp_path / "mapped", pools.MappedSamplesRecipe(tiny_samples))
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "mapped").rglob("*.npy")}
    assert {name: after[name] for name in kept} == kept
    assert torch.equal(arrays["mask"], tiny_samples.read_images().mask)


def test_a_pool_too_large_for_memory_is_mapped_and_gives_the_same_images(tmp_path, tiny_samples, monkeypatch):
    read = open_pool(Store(tmp_path), tiny_samples)
    assert not (tmp_path / "mapped").exists()
    monkeypatch.setattr(pools, "MAPPED_BEYOND_BYTES", pools.bytes_of(tiny_samples) - 1)
    mapped = open_pool(Store(tmp_path), tiny_samples)
    assert len([*(tmp_path / "mapped").rglob("*.npy")]) == 4
    assert torch.equal(draw(read, 50).images, draw(mapped, 50).images)


# --- fixed sets ----------------------------------------------------------------------------------


def draw_set(pool, num_images: int, per_shape: int, seed: int = 0, **composition):
    return pool.draw_records(num_images, per_shape, Composition(**composition), torch_generator(seed, "test"))


@pytest.mark.parametrize(("num_images", "per_shape"), [(12, 1), (12, 4), (10, 4), (3, 5)])
def test_each_mask_of_a_set_has_its_number_of_counterfactuals(pool, pool_labels, num_images, per_shape):
    record = draw_set(pool, num_images, per_shape)
    assert record.rows.shape == record.labels.shape == (num_images, 3)
    assert record.foreground_offset.shape == record.background_offset.shape == (num_images, 2)
    assert torch.equal(pool_labels[record.rows], record.labels)
    shapes = record.rows[:, 0].split(per_shape)
    assert all((own == own[0]).all() for own in shapes)
    assert len(shapes) == -(-num_images // per_shape)
    if per_shape == 1:
        assert len(record.rows[:, 0].unique()) > num_images // 2


def test_counterfactuals_of_one_mask_differ_in_everything_else(pool):
    record = draw_set(pool, 40, 20)
    for column in (1, 2):
        for own in record.rows[:, column].split(20):
            assert len(own.unique()) > 5
    assert len(record.foreground_offset[:20].unique(dim=0)) > 5


def test_factual_mechanisms_of_a_set_have_the_class_of_their_mask(pool):
    free = FACTUAL.model_copy(update={"background": "class"})
    labels = draw_set(pool, 300, 7, counterfactual=free).labels
    assert torch.equal(labels[:, 0], labels[:, 1])
    assert (labels[:, 0] == labels[:, 2]).float().mean().item() == pytest.approx(1 / 3, abs=0.1)
    factual = draw_set(pool, 301, 7, counterfactual=FACTUAL)
    assert torch.equal(factual.labels[:, 0], factual.labels[:, 2])
    assert len(factual.rows[:7, 1].unique()) > 1


@pytest.mark.parametrize(
    ("patch_shift", "shifted"),
    [(True, (True, True)), (False, (False, False)), ("texture", (True, False)), ("background", (False, True))],
)
def test_a_set_is_shifted_as_the_composition_says(pool, patch_shift, shifted):
    record = draw_set(pool, 30, 3, patch_shift=patch_shift)
    assert (bool(record.foreground_offset.any()), bool(record.background_offset.any())) == shifted


def test_composed_records_are_made_of_their_rows_and_offsets(pool, tiny_samples):
    record = draw_set(pool, 25, 4)
    images = pool.compose_records(record, Composition(), torch_generator(9, "test"))
    stored = tiny_samples.read_images()
    parts = [decode_images(m, stored.of(m)[record.rows[:, i]]) for i, m in enumerate(MECHANISMS)]
    expected = compose(MechanismImages(*parts), record.foreground_offset, record.background_offset)
    assert torch.equal(images, expected)


@pytest.mark.parametrize(("num_images", "per_shape"), [(24, 4), (22, 5)])
def test_a_fixed_set_shows_each_image_once_per_epoch(pool, num_images, per_shape):
    source = pool.draw_fixed_batch(Composition(), num_images, per_shape, 3, "purpose")
    record = pool.draw_records(num_images, per_shape, Composition(), torch_generator(3, "purpose-set"))
    expected = pool.compose_records(record, Composition(), torch_generator(0, "unused"))
    known = {image.numpy().tobytes(): int(label) for image, label in zip(expected, record.labels[:, 0], strict=True)}
    assert len(known) == num_images
    half = num_images // 2
    orders = []
    for epoch in range(3):
        batches = [source(2 * epoch + part, half) for part in range(2)]
        seen = [image.numpy().tobytes() for images, _ in batches for image in images]
        labels = [int(label) for _, own in batches for label in own]
        assert set(seen) == set(known)
        assert len(seen) == len(known)
        assert labels == [known[image] for image in seen]
        orders.append(seen)
    assert orders[0] != orders[1]


def test_a_fixed_set_follows_its_seed_and_its_step_alone(pool):
    noisy = Composition(transformations=Transformations(texture=(NOISY,)))
    first, again, other = (pool.draw_fixed_batch(noisy, 20, 2, seed, "purpose") for seed in (0, 0, 1))
    for step in (4, 0, 9):
        assert torch.equal(first(step, 6)[0], again(step, 6)[0])
    assert torch.equal(first(4, 6)[0], again(4, 6)[0])
    assert not torch.equal(first(0, 6)[0], other(0, 6)[0])


def test_transformations_of_a_fixed_set_are_drawn_anew(pool):
    noisy = Composition(transformations=Transformations(texture=(NOISY,)))
    source = pool.draw_fixed_batch(noisy, 6, 2, 0, "purpose")
    plain = pool.draw_fixed_batch(Composition(), 6, 2, 0, "purpose")
    (first, labels), (second, _) = source(0, 6), source(1, 6)
    assert torch.equal(labels, plain(0, 6)[1])
    assert not any(torch.equal(one, another) for one in first for another in second)
    assert {one.numpy().tobytes() for one in plain(0, 6)[0]} == {one.numpy().tobytes() for one in plain(1, 6)[0]}


# --- storage -------------------------------------------------------------------------------------


def store(folder, samples, rows_per_shard=40, num_images=90, seed=0, composition=None):
    return store_counterfactuals(folder, samples, composition or Composition(), num_images, rows_per_shard, seed)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(pools, "ROWS_PER_BLOCK", 32)


@pytest.mark.parametrize("rows_per_shard", [32, 50, 1000])
def test_stored_counterfactuals_do_not_depend_on_the_size_of_the_shards(
    tmp_path, tiny_samples, small_blocks, rows_per_shard
):
    names = ("images", "labels", "rows", "foreground_offset", "background_offset")
    expected = store(tmp_path, tiny_samples).read(*names)
    got = store(tmp_path, tiny_samples, rows_per_shard).read(*names)
    for name in names:
        assert np.array_equal(got[name], expected[name])


def test_a_stored_counterfactual_is_regenerated_from_its_record(tmp_path, tiny_samples, small_blocks):
    columns = store(tmp_path, tiny_samples).read("images", "rows", "labels", "foreground_offset", "background_offset")
    stored = tiny_samples.read_images()
    rows = torch.from_numpy(columns["rows"])
    parts = [decode_images(m, stored.of(m)[rows[:, i]]) for i, m in enumerate(MECHANISMS)]
    offsets = (torch.from_numpy(columns[f"{name}_offset"]) for name in ("foreground", "background"))
    composites = compose(MechanismImages(*parts), *offsets)
    assert (torch.from_numpy(columns["images"]) / 127.5 - 1 - composites).abs().max() <= 1 / 127.5
    labels = tiny_samples.read("labels")["labels"]
    assert np.array_equal(labels[columns["rows"]], columns["labels"])


@pytest.mark.parametrize("num_images", [5, 32, 90])
def test_in_memory_the_same_counterfactuals_are_composed_as_are_stored(
    tmp_path, tiny_samples, pool, small_blocks, num_images
):
    stored = store(tmp_path, tiny_samples, num_images=num_images, seed=4).read("images", "labels")
    images, labels = compose_in_memory(pool, Composition(), num_images, 4)
    assert images.dtype == np.uint8
    assert np.array_equal(images, stored["images"])
    assert np.array_equal(labels, stored["labels"])


def test_stored_counterfactuals_are_read_with_their_labels(tmp_path, tiny_samples, small_blocks):
    images, labels = store(tmp_path, tiny_samples).read_labelled()
    assert images.shape == (90, 3, 8, 8)
    assert images.dtype == torch.uint8
    assert labels.shape == (90, 3)


def test_interrupted_counterfactuals_continue_to_the_same_bytes(tmp_path, tiny_samples, small_blocks, monkeypatch):
    whole = store(tmp_path / "whole", tiny_samples)
    real = CounterfactualPool.draw

    def stop_at_the_second(self, num_images, composition, generator):
        if len(calls) == 1:
            progress.request_stop()
        calls.append(1)
        return real(self, num_images, composition, generator)

    calls: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(CounterfactualPool, "draw", stop_at_the_second)
        with pytest.raises(InterruptedRunError, match="counterfactuals: stopped at 40 of 90"):
            store(tmp_path / "killed", tiny_samples)
    progress.clear_stop()
    continued = store(tmp_path / "killed", tiny_samples)
    assert tree_of(continued.artifact.directory) == tree_of(whole.artifact.directory)


@pytest.mark.parametrize("changes", [{"seed": 1}, {"num_images": 91}, {"composition": Composition(patch_shift=False)}])
def test_changed_settings_store_elsewhere(tmp_path, tiny_samples, small_blocks, changes):
    first, second = store(tmp_path, tiny_samples), store(tmp_path, tiny_samples, **changes)
    assert first.artifact.directory != second.artifact.directory


def test_a_disk_too_small_for_counterfactuals_is_refused(tmp_path, tiny_samples, monkeypatch):
    monkeypatch.setattr(artifacts.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(SettingError, match="MiB free in"):
        store(tmp_path, tiny_samples)


@pytest.mark.parametrize("several", [1, 3])
def test_mechanisms_draw_from_the_classes_chosen_for_them(tiny_samples, several):
    pool = CounterfactualPool.of(tiny_samples)
    composition = Composition(classes={"shape": 1, "texture": [0, 2]})
    labels = pool.draw(80, composition, torch.Generator().manual_seed(0)).labels
    if several > 1:
        labels = pool.draw_records(80, several, composition, torch.Generator().manual_seed(0)).labels
    assert [sorted(set(own.tolist())) for own in labels.unbind(1)] == [[1], [0, 2], [0, 1, 2]]


@pytest.mark.parametrize(
    ("classes", "message"), [([1, 7], r"classes\.texture: .* got 7 \(1 such\)"), ("best", "the name 'best'")]
)
def test_classes_that_a_pool_lacks_are_refused(tiny_samples, classes, message):
    pool = CounterfactualPool.of(tiny_samples)
    with pytest.raises(SettingError, match=message):
        pool.draw(4, Composition(classes={"texture": classes}), torch.Generator())
