"""Batches fetched ahead: the same for any number of threads, and what waiting for them costs."""

from __future__ import annotations

import threading

import pytest
import torch

from skdcgn_pipeline.parameters import Compute, ImageEncoding
from skdcgn_pipeline.samples import loading
from skdcgn_pipeline.samples.drawing import SampleShards
from skdcgn_pipeline.samples.loading import BatchLoader, PairsInMemory, StreamedPairs, fetch_by_epochs, open_pairs
from skdcgn_pipeline.training.parallel import Processes
from skdcgn_pipeline.vocabulary import COMPOSITE, MECHANISMS
from tiny import TinyTeacher, draw_samples, num_rows_kept


def pairs() -> PairsInMemory:
    images = torch.arange(10, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4).contiguous()
    return PairsInMemory(torch.arange(20.0).view(10, 2), torch.arange(10), images)


def batches(num_threads: int, num_steps: int = 9) -> list[list[int]]:
    fetch = fetch_by_epochs(pairs(), 4, 0, "test")
    with BatchLoader(fetch, num_steps, num_threads=num_threads) as load:
        return [load(step)[1].tolist() for step in range(num_steps)]


def test_a_batch_holds_the_noise_label_and_image_of_its_rows():
    noise, labels, images = pairs().take(torch.tensor([7, 2]))
    assert (noise.tolist(), labels.tolist()) == ([[14.0, 15.0], [4.0, 5.0]], [7, 2])
    assert images[:, 0, 0, 0].tolist() == [7, 2]
    assert len(pairs()) == 10


@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_batches_do_not_depend_on_the_number_of_threads(num_threads):
    expected = batches(0)
    assert batches(num_threads) == expected
    # Nine batches of four cross three ends of an epoch; each epoch has every row once.
    flat = [row for batch in expected for row in batch]
    assert sorted(flat[:10]) == sorted(flat[10:20]) == list(range(10))
    assert flat[:10] != flat[10:20]


def test_a_part_of_every_batch_can_be_fetched_alone():
    fetch = fetch_by_epochs(pairs(), 4, 0, "test")
    second_half = fetch_by_epochs(pairs(), 4, 0, "test", lambda rows: rows.chunk(2)[1])
    for step in range(5):
        assert second_half(step)[1].tolist() == fetch(step)[1].tolist()[2:]


def test_batches_to_come_are_fetched_while_the_last_is_in_use():
    fetched: dict[int, threading.Event] = {step: threading.Event() for step in range(6)}

    def fetch(step: int) -> tuple[torch.Tensor]:
        fetched[step].set()
        return (torch.tensor(step),)

    with BatchLoader(fetch, 6, num_threads=1, num_ahead=2) as load:
        assert load(0)[0] == 0
        assert fetched[1].wait(60)
        assert fetched[2].wait(60)
        assert not fetched[3].is_set()
        assert load(1)[0] == 1
        assert fetched[3].wait(60)


def test_nothing_is_fetched_beyond_the_end_nor_before_the_start():
    steps = []

    def fetch(step: int) -> tuple[torch.Tensor]:
        steps.append(step)
        return (torch.tensor(step),)

    with BatchLoader(fetch, 5, num_threads=2, num_ahead=8) as load:
        assert [int(load(step)[0]) for step in (3, 4)] == [3, 4]
    assert sorted(steps) == [3, 4]


def test_a_batch_that_was_passed_over_can_still_be_asked_for():
    with BatchLoader(lambda step: (torch.tensor(step),), 9, num_threads=2) as load:
        assert [int(load(step)[0]) for step in (0, 5, 1, 8)] == [0, 5, 1, 8]


def test_an_error_of_a_thread_reaches_the_training():
    def fetch(step: int) -> tuple[torch.Tensor]:
        if step == 2:
            raise OSError("shard 2 is damaged")
        return (torch.tensor(step),)

    with BatchLoader(fetch, 4, num_threads=2) as load:
        load(0)
        load(1)
        with pytest.raises(OSError, match="shard 2 is damaged"):
            load(2)


def test_the_share_of_waiting_is_that_of_the_clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("skdcgn_pipeline.samples.loading.time.perf_counter", lambda: now[0])

    def fetch(step: int) -> tuple[torch.Tensor]:
        now[0] += 5.0 if step == 0 else 1.0
        return (torch.tensor(step),)

    load = BatchLoader(fetch, 3)
    assert load.data_wait == 0
    for step in range(3):
        load(step)
        now[0] += 3.0  # the step's own work
    # The first batch is not counted: 2 s of waiting in 2 s + 3 x 3 s.
    assert load.data_wait == pytest.approx(2 / 11)


# --- samples that are read as they are needed ------------------------------------------------------

NUM_ROWS, GROUP = 240, 5


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> SampleShards:
    """Encoded samples in 48 shards of five rows, each a row group."""
    arguments = TinyTeacher(), {"name": "tiny"}, NUM_ROWS // 3, GROUP, 0, Compute(device="cpu")
    return draw_samples(tmp_path_factory.mktemp("samples"), *arguments, storing=ImageEncoding(encoding="png"))


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for ten row groups of masks."""
    monkeypatch.setattr(loading, "STREAMED_BEYOND_BYTES", 0)
    monkeypatch.setattr(loading, "KEPT_BYTES", 10 * GROUP * 8 * 8)


@pytest.mark.parametrize("mechanism", [*MECHANISMS, COMPOSITE])
def test_rows_are_the_same_in_memory_and_streamed(samples, little_memory, monkeypatch, mechanism):
    streamed = open_pairs(samples, mechanism)
    monkeypatch.setattr(loading, "STREAMED_BEYOND_BYTES", 3 * 8 * 8 * NUM_ROWS)
    kept = open_pairs(samples, mechanism)
    assert (type(streamed), type(kept)) == (StreamedPairs, PairsInMemory)
    assert len(streamed) == len(kept)
    rows = torch.tensor([239, 0, 7, 7, 100])
    for got, expected in zip(streamed.take(rows), kept.take(rows), strict=True):
        assert torch.equal(got, expected)


def test_images_are_streamed_by_the_bytes_of_their_mechanism(samples, monkeypatch):
    monkeypatch.setattr(loading, "STREAMED_BEYOND_BYTES", 2 * 8 * 8 * NUM_ROWS)
    assert isinstance(open_pairs(samples, "shape"), PairsInMemory)
    assert isinstance(open_pairs(samples, "texture"), StreamedPairs)


@pytest.mark.parametrize("num_threads", [0, 3])
def test_memory_stays_bounded_while_every_row_is_seen_once_per_epoch(samples, little_memory, monkeypatch, num_threads):
    from skdcgn_pipeline.samples import shards

    read, most, seen = [], 0, []
    read_stored = shards.read_stored
    monkeypatch.setattr(shards, "read_stored", lambda path, *rest: read.append(path.name) or read_stored(path, *rest))
    source = open_pairs(samples, "shape")
    assert isinstance(source, StreamedPairs)
    assert source.layout == {"rows_per_group": GROUP, "mixed_groups": 8}
    noise = [tuple(row) for row in samples.read_pairs("shape")[0].tolist()]
    with BatchLoader(fetch_by_epochs(source, 6, 0, "test"), 80, num_threads=num_threads, num_ahead=2) as load:
        for step in range(80):
            seen += [noise.index(tuple(row)) for row in load(step)[0].tolist()]
            most = max(most, num_rows_kept(source.groups))
    assert sorted(seen[:NUM_ROWS]) == sorted(seen[NUM_ROWS:]) == list(range(NUM_ROWS))
    assert most <= 10 * GROUP
    # Two epochs read every group twice, and few once more: far fewer than one for each row.
    assert 2 * NUM_ROWS // GROUP - 10 <= len(read) <= 1.2 * 2 * NUM_ROWS // GROUP


def test_streamed_batches_do_not_depend_on_threads_nor_on_what_was_asked_before(samples, little_memory):
    def labels_of(steps: range, num_threads: int) -> list[list[float]]:
        fetch = fetch_by_epochs(open_pairs(samples, "texture"), 7, 0, "test")
        with BatchLoader(fetch, 50, num_threads=num_threads) as load:
            return [load(step)[0].flatten().tolist() for step in steps]

    expected = labels_of(range(50), 0)
    assert labels_of(range(50), 4) == expected
    assert labels_of(range(33, 50), 2) == expected[33:]


def test_processes_share_the_batches_of_streamed_rows(samples, little_memory):
    class Second(Processes):
        rank, size = 1, 2

    whole, part = (
        fetch_by_epochs(open_pairs(samples, "shape"), 6, 0, "test", processes.part)
        for processes in (Processes(), Second())
    )
    for step in (0, 9, 41):
        for got, expected in zip(part(step), whole(step), strict=True):
            assert torch.equal(got, expected[3:])
