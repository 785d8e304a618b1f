"""Samples in many shards: encoded by threads, of some classes, drawn by several processes, read by row."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from skdcgn_pipeline.artifacts import store as artifacts
from skdcgn_pipeline.artifacts.recipe import Run, Store, build_in
from skdcgn_pipeline.counterfactuals.pools import CounterfactualPool, MappedSamplesRecipe
from skdcgn_pipeline.parameters import Composition, Compute, ImageEncoding
from skdcgn_pipeline.runtime import progress
from skdcgn_pipeline.runtime.errors import DamagedFileError, InterruptedRunError, SettingError, UnitFailedError
from skdcgn_pipeline.samples import encoding, shards
from skdcgn_pipeline.samples.drawing import SampleShards, SamplesRecipe, draw_side_by_side
from skdcgn_pipeline.samples.loading import StreamedPairs
from skdcgn_pipeline.samples.records import ROWS_PER_BLOCK
from skdcgn_pipeline.samples.shards import BlockRows, RowGroups, ahead
from skdcgn_pipeline.vocabulary import COMPOSITE, IMAGE_OF_MECHANISM, MECHANISMS
from tiny import PicklingEngine, TinyTeacher, draw_samples, num_rows_kept, tree_of

CPU = Compute(device="cpu")
PNG = ImageEncoding(encoding="png")
JPEG = ImageEncoding(encoding="jpeg")
NAMES = ("row", "labels", "noise", *IMAGE_OF_MECHANISM.values())


def draw(store: Path, teacher: object | None = None, per_class: int = 50, rows_per_shard: int = 40, **options):
    """150 rows in four shards and three blocks."""
    identity = {"name": "tiny"}
    return draw_samples(store, teacher or TinyTeacher(), identity, per_class, rows_per_shard, 0, CPU, **options)


def shards_of(samples: SampleShards) -> list[str]:
    return sorted(path.name for path in samples.artifact.directory.glob("*.parquet"))


# --- encoded images --------------------------------------------------------------------------------


def test_lossless_images_are_those_of_raw_shards(tmp_path):
    raw, encoded = draw(tmp_path), draw(tmp_path, storing=PNG)
    for name in NAMES:
        assert np.array_equal(encoded.read(name)[name], raw.read(name)[name])
    assert encoded.artifact.identity != raw.artifact.identity


def test_every_reader_decodes(tmp_path):
    samples = draw(tmp_path, storing=JPEG)
    images = samples.read_images()
    assert torch.equal(samples.read_pairs("shape")[2], images.mask)
    streamed = [part["foreground"] for part in samples.stream_parts(["foreground"])]
    assert [len(part) for part in streamed] == [40, 40, 40, 30]
    assert np.array_equal(np.concatenate(streamed), images.foreground.numpy())
    assert torch.equal(build_in(tmp_path / "mapped", MappedSamplesRecipe(samples))["background"], images.background)
    assert torch.equal(CounterfactualPool.of(samples).images.mask, images.mask)
    assert samples.read_pairs(COMPOSITE)[2].shape == (150, 3, 8, 8)
    raw = draw(tmp_path).read_images()
    for mechanism in MECHANISMS:
        difference = (images.of(mechanism).float() - raw.of(mechanism).float()).abs()
        assert 0 < difference.mean() < 8


@pytest.mark.parametrize("num_threads", [1, 3, 40])
def test_bytes_do_not_depend_on_the_number_of_threads(tmp_path, num_threads):
    expected = draw(tmp_path / "expected", storing=PNG)
    how = PNG.model_copy(update={"encoding_threads": num_threads})
    got = draw(tmp_path / "got", storing=how)
    assert tree_of(got.artifact.directory) == tree_of(expected.artifact.directory)


def test_raw_samples_of_all_classes_name_neither_encoding_nor_classes_in_their_identity(tmp_path):
    inputs = draw(tmp_path).artifact.inputs
    assert set(inputs) == {
        "format",
        "kind",
        "version",
        "generator",
        "num_images_per_class",
        "rows_per_shard",
        "seed",
        "precision",
        "purpose",
    }
    assert set(draw(tmp_path).index) == {"noise_dim", "num_classes", "image_size", "shards"}
    assert draw(tmp_path).artifact.identity == draw(tmp_path / "elsewhere").artifact.identity


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (JPEG, ImageEncoding(encoding="jpeg", quality=95), True),
        (JPEG, ImageEncoding(encoding="jpeg", quality=90), False),
        (PNG, JPEG, False),
        (PNG, ImageEncoding(encoding="png", encoding_threads=9), True),
        (ImageEncoding(), ImageEncoding(encoding_threads=9), True),
    ],
)
def test_the_identity_depends_on_what_images_depend_on(one, other, same):
    assert (one.stored_as == other.stored_as) == same


def test_images_are_encoded_outside_of_the_thread_that_renders(tmp_path, monkeypatch):
    threads = {"render": set(), "encode": set()}
    fromarray = encoding.Image.fromarray

    class Watched(TinyTeacher):
        def render(self, noise, labels):
            threads["render"].add(threading.get_ident())
            return super().render(noise, labels)

    def watched(pixels):
        threads["encode"].add(threading.get_ident())
        return fromarray(pixels)

    monkeypatch.setattr(encoding.Image, "fromarray", watched)
    draw(tmp_path, Watched(), storing=PNG)
    assert len(threads["render"]) == 1
    assert not threads["render"] & threads["encode"]


def test_few_blocks_are_ahead_of_the_one_that_is_written():
    computed, finished = [], threading.Semaphore(0)

    def compute(block: int) -> dict[str, np.ndarray]:
        computed.append(block)
        finished.release()
        return {"row": np.arange(block * 8, block * 8 + 8)}

    rows = BlockRows(compute, 8, PNG).rows([range(800)])
    for _ in range(10):
        next(rows)
    rows.close()
    # The ten, two ahead and the one that was begun.
    assert len(computed) <= 10 + 2 + 1


@pytest.mark.parametrize("count", [1, 3])
def test_what_is_computed_ahead_comes_in_order_and_so_do_errors(count):
    def squares():
        for number in range(5):
            yield number**2
        raise KeyError("broken")

    found = []
    with pytest.raises(KeyError, match="broken"):
        found.extend(ahead(squares(), count))
    assert found == [] or found == [0, 1, 4, 9, 16]
    assert list(ahead(iter(range(7)), count)) == list(range(7))


def test_an_error_of_the_teacher_comes_out_of_the_threads(tmp_path):
    class Broken(TinyTeacher):
        def render(self, noise, labels):
            images = super().render(noise, labels)
            return type(images)(images.mask * torch.nan, images.foreground, images.background)

    with pytest.raises(SettingError, match="teacher mask: expected finite values"):
        draw(tmp_path, Broken(), storing=PNG)


def test_encoded_samples_continue_in_the_same_bytes(tmp_path):
    class StopAtOnce(TinyTeacher):
        def render(self, noise, labels):
            progress.request_stop()
            return super().render(noise, labels)

    whole = draw(tmp_path / "whole", storing=PNG)
    with pytest.raises(InterruptedRunError, match="stopped at 40 of 150 rows"):
        draw(tmp_path / "killed", StopAtOnce(), storing=PNG)
    progress.clear_stop()
    continued = draw(tmp_path / "killed", storing=PNG)
    assert tree_of(continued.artifact.directory) == tree_of(whole.artifact.directory)


# --- rows ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storing", [ImageEncoding(), PNG], ids=["raw", "png"])
def test_rows_are_read_in_any_order(tmp_path, storing):
    samples = draw(tmp_path, storing=storing)
    rows = torch.tensor([149, 0, 40, 39, 40, 80, 119])
    for mechanism in (*MECHANISMS, COMPOSITE):
        whole = samples.read_pairs(mechanism)
        for got, expected in zip(StreamedPairs(samples, mechanism).take(rows), whole, strict=True):
            assert torch.equal(got, expected[rows])


def test_row_groups_end_with_their_shards(tmp_path):
    assert [group.num_rows for group in draw(tmp_path).row_groups()] == [40, 40, 40, 30]
    large = draw(tmp_path, rows_per_shard=1200, per_class=800)
    assert [group.num_rows for group in large.row_groups()] == [1000, 200, 1000, 200]


def test_row_groups_that_were_read_last_are_kept(tmp_path, monkeypatch):
    samples, read = draw(tmp_path), []
    read_stored = shards.read_stored

    def reading(path, names, group, num_rows):
        read.append(path.name)
        return read_stored(path, names, group, num_rows)

    monkeypatch.setattr(shards, "read_stored", reading)
    groups = RowGroups(samples, ["mask"], 2)
    for row, number, num_kept in ((0, 0, 40), (80, 2, 80), (39, None, 80), (149, 3, 70), (41, 1, 70), (0, 0, 80)):
        groups.take(np.array([row]))
        assert [name[6:11] for name in read] == ([] if number is None else [f"{number:05}"])
        assert num_rows_kept(groups) == num_kept
        read.clear()


def test_a_row_group_that_could_not_be_read_is_read_again(tmp_path, monkeypatch):
    samples = draw(tmp_path)
    groups = RowGroups(samples, ["mask"], 2)

    def fail(*arguments):
        raise DamagedFileError("shard-00002.parquet is away")

    with monkeypatch.context() as patch:
        patch.setattr(shards, "read_stored", fail)
        with pytest.raises(DamagedFileError, match="is away"):
            groups.take(np.array([100]))
    assert np.array_equal(groups.take(np.array([100]))["mask"], samples.read("mask")["mask"][[100]])


def test_several_threads_may_read_rows(tmp_path):
    samples = draw(tmp_path, storing=PNG)
    images = samples.read_images().foreground
    orders = [torch.randperm(150, generator=torch.Generator().manual_seed(seed))[:30] for seed in range(6)]
    with ThreadPoolExecutor(3) as pool:
        for order, got in zip(
            orders, pool.map(lambda o: StreamedPairs(samples, "texture").take(o)[2], orders), strict=True
        ):
            assert torch.equal(got, images[order])


@pytest.mark.parametrize("rows", [[-1], [150], [3, 999]])
def test_rows_that_are_not_there_are_refused(tmp_path, rows):
    with pytest.raises(IndexError, match="expected rows 0 to 149"):
        draw(tmp_path).take(np.array(rows), "mask")


# --- classes ---------------------------------------------------------------------------------------


def test_only_the_chosen_classes_are_drawn(tmp_path):
    samples = draw(tmp_path, classes=[0, 2])
    columns = samples.read("labels", "noise", "mask")
    assert samples.num_rows == 100
    assert columns["labels"].tolist() == [0, 2] * 50
    assert (samples.num_classes, samples.classes) == (3, (0, 2))
    rendered = TinyTeacher().render(torch.from_numpy(columns["noise"]), torch.from_numpy(columns["labels"]))
    difference = rendered.mask * 255 - torch.from_numpy(columns["mask"])
    assert difference.abs().max() <= 0.51
    assert samples.artifact.identity != draw(tmp_path).artifact.identity


def test_all_classes_are_the_default(tmp_path):
    assert draw(tmp_path, classes=[0, 1, 2]).artifact.identity == draw(tmp_path).artifact.identity


def test_a_class_that_the_teacher_lacks_is_refused(tmp_path):
    with pytest.raises(SettingError, match=r"sample\.classes: expected classes 0 to 2, got 3 \(2 such\)"):
        draw(tmp_path, classes=[1, 3, 7])


def test_counterfactuals_are_made_of_the_classes_drawn(tmp_path):
    pool = CounterfactualPool.of(draw(tmp_path, classes=[0, 2]))
    batch = pool.draw(60, Composition(), torch.Generator().manual_seed(0))
    assert set(batch.labels.flatten().tolist()) == {0, 2}
    record = pool.draw_records(60, 5, Composition(), torch.Generator().manual_seed(0))
    assert set(record.labels.flatten().tolist()) == {0, 2}


# --- ranges of shards ------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"storing": JPEG, "classes": [0, 2]}], ids=["raw", "encoded, of two classes"])
def test_two_ranges_together_are_the_single_run(tmp_path, options):
    whole = draw(tmp_path / "whole", per_class=70, **options)
    here = draw(tmp_path / "here", per_class=70, shard_range=(0, 2), **options)
    there = draw(tmp_path / "there", per_class=70, shard_range=(2, 9), **options)
    assert shards_of(here) == ["shard-00000.parquet", "shard-00001.parquet"]
    assert sorted(shards_of(here) + shards_of(there)) == shards_of(whole)
    assert here.artifact.identity != there.artifact.identity
    # What another machine made is copied into the store as it is.
    there.artifact.directory.rename(tmp_path / "here" / there.artifact.identity)
    teacher = TinyTeacher()
    union = draw(tmp_path / "here", teacher, per_class=70, **options)
    assert teacher.num_calls == 0
    assert union.artifact.identity == whole.artifact.identity
    assert tree_of(union.artifact.directory) == tree_of(whole.artifact.directory)


def test_the_shards_of_a_range_are_samples_of_their_own(tmp_path):
    whole, part = draw(tmp_path / "whole"), draw(tmp_path / "part", shard_range=(1, 3))
    assert part.num_rows == 80
    assert np.array_equal(part.read("row")["row"], np.arange(40, 120))
    assert np.array_equal(part.read("mask")["mask"], whole.read("mask")["mask"][40:120])
    assert np.array_equal(part.take(np.array([79]), "mask")["mask"], whole.take(np.array([119]), "mask")["mask"])


def test_what_no_range_has_is_drawn(tmp_path):
    whole = draw(tmp_path / "whole")
    draw(tmp_path / "store", shard_range=(3, 4))
    teacher = TinyTeacher()
    union = draw(tmp_path / "store", teacher)
    assert teacher.num_calls == 2  # rows 0 to 119 are in two blocks
    assert tree_of(union.artifact.directory) == tree_of(whole.artifact.directory)


def test_a_damaged_shard_of_a_range_is_not_taken_over(tmp_path, caplog):
    whole = draw(tmp_path / "whole")
    part = draw(tmp_path / "store", shard_range=(0, 4))
    path = part.artifact.path("shard-00001.parquet")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))
    teacher = TinyTeacher()
    with caplog.at_level(logging.WARNING):
        union = draw(tmp_path / "store", teacher)
    assert "shard-00001.parquet no longer matches" in caplog.text
    assert teacher.num_calls == 2  # rows 40 to 79
    assert tree_of(union.artifact.directory) == tree_of(whole.artifact.directory)


@pytest.mark.parametrize("other", [{"purpose": "heldout"}, {"storing": PNG}, {"classes": [0, 1]}, {"per_class": 60}])
def test_shards_of_other_samples_are_left_alone(tmp_path, other):
    draw(tmp_path, shard_range=(0, 4), **other)
    teacher = TinyTeacher()
    draw(tmp_path, teacher)
    assert teacher.num_calls == 3


def test_shards_are_copied_where_no_link_is_possible(tmp_path, monkeypatch):
    def refuse(source, path):
        raise OSError("another disk")

    monkeypatch.setattr(artifacts.os, "link", refuse)
    whole = draw(tmp_path / "whole")
    draw(tmp_path / "store", shard_range=(0, 4))
    teacher = TinyTeacher()
    union = draw(tmp_path / "store", teacher)
    assert teacher.num_calls == 0
    assert tree_of(union.artifact.directory) == tree_of(whole.artifact.directory)


# --- shards as units of an engine -------------------------------------------------------------------


class Stubborn(TinyTeacher):
    """A teacher that renders three blocks, those of the first two shards, and no more."""

    def render(self, noise, labels):
        images = super().render(noise, labels)
        if self.num_calls > 3:
            raise MemoryError("no room")
        return images


def draw_by_engine(store: Path, here: TinyTeacher, open_again, **options) -> tuple[SampleShards, list[int]]:
    """Draw as `draw` does; returns the numbers of shards that were units, too."""
    engine = PicklingEngine()
    recipe = SamplesRecipe(here, {"name": "tiny"}, 50, 40, 0, CPU, **options)
    return draw_side_by_side(Run(Store(store), engine=engine), recipe, open_again), engine.units


@pytest.mark.parametrize("options", [{}, {"storing": JPEG, "shard_range": (1, 4)}], ids=["raw", "encoded, a range"])
def test_shards_drawn_elsewhere_are_the_single_run(tmp_path, options):
    draw(tmp_path / "whole" / "sample", **options)
    teacher = TinyTeacher()
    _, units = draw_by_engine(tmp_path / "store", teacher, TinyTeacher, **options)
    assert units == [*range(*options.get("shard_range", (0, 4)))]
    assert teacher.num_calls == 0
    assert tree_of(tmp_path / "store") == tree_of(tmp_path / "whole")
    assert draw_by_engine(tmp_path / "store", teacher, TinyTeacher, **options)[1] == []


def test_shards_that_were_drawn_elsewhere_are_kept_where_others_fail(tmp_path):
    whole = draw(tmp_path / "whole")
    with pytest.raises(UnitFailedError, match=r"2 of 4 failed[^$]*samples, shard 2: MemoryError: no room"):
        draw_by_engine(tmp_path, TinyTeacher(), Stubborn)
    teacher = TinyTeacher()
    samples = draw(tmp_path / "sample", teacher)
    assert teacher.num_calls == 2  # rows 80 to 149
    assert tree_of(samples.artifact.directory) == tree_of(whole.artifact.directory)


def test_a_single_shard_is_drawn_here(tmp_path):
    draw(tmp_path / "sample", shard_range=(0, 3))
    teacher = TinyTeacher()
    samples, units = draw_by_engine(tmp_path, teacher, TinyTeacher)
    assert (units, samples.num_rows, teacher.num_calls) == ([], 150, 2)  # rows 120 to 149


# --- the disk --------------------------------------------------------------------------------------


def test_the_need_is_told_before_the_work(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        draw(tmp_path)
        draw(tmp_path, storing=JPEG)
    told = [record.getMessage() for record in caplog.records if "need about" in record.getMessage()]
    assert len(told) == 2
    assert told[0].startswith("samples: 150 rows of about 488 bytes need about 0 MiB; ")


@pytest.mark.parametrize("setting", ["num_images_per_class", "sample.encoding", "sample.quality"])
def test_a_disk_too_small_for_encoded_samples_is_refused_after_one_block(tmp_path, monkeypatch, setting):
    monkeypatch.setattr(artifacts.shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000))
    monkeypatch.setattr(artifacts, "FULL_BYTES", 0)
    with pytest.raises(SettingError, match=f"MiB free in .*{setting}"):
        draw(tmp_path, per_class=500, storing=JPEG)
    assert not list(tmp_path.glob("*/shard-*.parquet"))


def test_only_what_is_missing_needs_space(tmp_path, monkeypatch):
    draw(tmp_path, shard_range=(0, 3))
    monkeypatch.setattr(artifacts.shutil, "disk_usage", lambda path: SimpleNamespace(free=30 * 488 + 10))
    monkeypatch.setattr(artifacts, "FULL_BYTES", 0)
    assert draw(tmp_path).num_rows == 150


def test_memory_of_a_shard_is_that_of_a_few_blocks(tmp_path, monkeypatch):
    sizes = []
    write_table = module_columns_write_table()

    def watched(self, table, *args):
        sizes.append(table.num_rows)
        return write_table(self, table, *args)

    monkeypatch.setattr("pyarrow.parquet.ParquetWriter.write_table", watched)
    monkeypatch.setattr("skdcgn_pipeline.samples.columns.ROW_GROUP_BYTES", 20 * 488)
    draw(tmp_path, rows_per_shard=150)
    assert sum(sizes) == 150
    assert max(sizes) <= ROWS_PER_BLOCK // 3


def module_columns_write_table():
    from pyarrow.parquet import ParquetWriter

    return ParquetWriter.write_table
