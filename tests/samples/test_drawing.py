"""Samples: each image follows from its own record, whatever the shards, kills and damage."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from skdcgn_pipeline.artifacts import store as artifacts
from skdcgn_pipeline.artifacts.store import Artifact
from skdcgn_pipeline.mechanisms import MechanismImages, compose
from skdcgn_pipeline.networks.interface import GeneratorSize
from skdcgn_pipeline.parameters import Compute
from skdcgn_pipeline.runtime import progress
from skdcgn_pipeline.runtime.errors import InterruptedRunError, SettingError
from skdcgn_pipeline.samples.drawing import SampleShards, draw_composites
from skdcgn_pipeline.samples.pixels import decode_images, encode_images
from skdcgn_pipeline.samples.records import ROWS_PER_BLOCK
from skdcgn_pipeline.vocabulary import COMPOSITE, IMAGE_OF_MECHANISM, MECHANISMS
from tiny import TinyTeacher, draw_samples, tree_of

CPU = Compute(device="cpu")
RECORD = ("row", "labels", "noise", "foreground_offset", "background_offset")
NUM_PER_CLASS, ROWS_PER_SHARD = 50, 40  # 150 rows in four shards, three blocks


def draw(store: Path, teacher: object | None = None, rows_per_shard: int = ROWS_PER_SHARD, **changes) -> SampleShards:
    options = {"generator_identity": {"name": "tiny"}, "num_images_per_class": NUM_PER_CLASS, "seed": 0} | changes
    return draw_samples(store, teacher or TinyTeacher(), rows_per_shard=rows_per_shard, compute=CPU, **options)


class StopAfter(TinyTeacher):
    """Asks to stop while it renders a certain block."""

    def __init__(self, num_calls: int) -> None:
        super().__init__()
        self.stop_at = num_calls

    def render(self, noise, labels):
        images = super().render(noise, labels)
        if self.num_calls == self.stop_at:
            progress.request_stop()
        return images


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


# --- content -------------------------------------------------------------------------------------


def test_samples_of_a_teacher_without_a_module_have_the_promised_columns(tmp_path, tiny_teacher):
    assert not any(isinstance(value, torch.nn.Module) for value in vars(tiny_teacher).values())
    samples = draw(tmp_path, tiny_teacher)
    assert (samples.noise_dim, samples.num_classes, samples.image_size, samples.num_rows) == (4, 3, 8, 150)
    columns = samples.read(*RECORD, *IMAGE_OF_MECHANISM.values())
    assert columns["row"].tolist() == list(range(150))
    assert columns["labels"].tolist() == [row % 3 for row in range(150)]
    assert columns["noise"].shape == (150, 4)
    assert {name: columns[name].dtype for name in IMAGE_OF_MECHANISM.values()} == dict.fromkeys(
        IMAGE_OF_MECHANISM.values(), np.uint8
    )
    assert columns["mask"].shape == (150, 1, 8, 8)
    assert columns["foreground"].shape == columns["background"].shape == (150, 3, 8, 8)


def test_noise_is_standard_normal_and_never_repeated(tmp_path):
    noise = draw(tmp_path, num_images_per_class=400).read("noise")["noise"]
    assert noise.mean() == pytest.approx(0, abs=0.06)
    assert noise.std() == pytest.approx(1, abs=0.06)
    assert len(np.unique(noise, axis=0)) == len(noise)


def test_offsets_cover_the_image_and_are_independent(tmp_path):
    columns = draw(tmp_path, num_images_per_class=400).read("foreground_offset", "background_offset")
    for offsets in columns.values():
        assert sorted(np.unique(offsets)) == list(range(8))
    assert (columns["foreground_offset"] == columns["background_offset"]).mean() == pytest.approx(1 / 8, abs=0.04)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_every_image_is_regenerated_from_its_record(tmp_path, mechanism):
    samples = draw(tmp_path)
    columns = samples.read("noise", "labels", IMAGE_OF_MECHANISM[mechanism])
    teacher = TinyTeacher()
    for row in range(0, 150, 7):
        noise, label = torch.from_numpy(columns["noise"][row : row + 1]), torch.tensor([columns["labels"][row]])
        regenerated = encode_images(mechanism, teacher.render(noise, label).of(mechanism))[0]
        stored = columns[IMAGE_OF_MECHANISM[mechanism]][row]
        assert np.abs(regenerated.astype(int) - stored.astype(int)).max() <= 1


def test_the_pairs_of_a_student_are_the_rows_of_the_samples(tmp_path):
    samples = draw(tmp_path)
    columns = samples.read("noise", "labels", "foreground")
    noise, labels, images = samples.read_pairs("texture")
    assert np.array_equal(noise.numpy(), columns["noise"])
    assert np.array_equal(labels.numpy(), columns["labels"])
    assert np.array_equal(images.numpy(), columns["foreground"])
    assert torch.equal(samples.read_images().foreground, images)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_encoding_keeps_images_within_half_a_grey_level(mechanism):
    lowest, step = (0.0, 1 / 255) if mechanism == "shape" else (-1.0, 2 / 255)
    images = torch.linspace(lowest, 1, 1000).view(10, 1, 10, 10)
    decoded = decode_images(mechanism, torch.from_numpy(encode_images(mechanism, images)))
    assert (decoded - images).abs().max().item() <= step / 2 + 1e-6
    assert decoded.min().item() == pytest.approx(lowest, abs=1e-6)
    assert decoded.max().item() == pytest.approx(1, abs=1e-6)


# --- what images depend on -----------------------------------------------------------------------


@pytest.mark.parametrize("rows_per_shard", [1000, ROWS_PER_BLOCK, 37])
def test_images_do_not_depend_on_the_size_of_the_shards(tmp_path, rows_per_shard):
    names = (*RECORD, *IMAGE_OF_MECHANISM.values())
    expected = draw(tmp_path).read(*names)
    got = draw(tmp_path, rows_per_shard=rows_per_shard).read(*names)
    for name in names:
        assert np.array_equal(got[name], expected[name])


def test_more_images_begin_with_the_same_ones(tmp_path):
    few, many = draw(tmp_path, num_images_per_class=20), draw(tmp_path, num_images_per_class=50)
    assert np.array_equal(few.read("mask")["mask"], many.read("mask")["mask"][:60])


def test_the_same_settings_give_byte_identical_shards(tmp_path):
    first, second = draw(tmp_path / "a"), draw(tmp_path / "b")
    assert tree_of(first.artifact.directory) == tree_of(second.artifact.directory)


def test_finished_samples_are_not_drawn_again(tmp_path):
    draw(tmp_path)
    teacher = TinyTeacher()
    draw(tmp_path, teacher)
    assert teacher.num_calls == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"num_images_per_class": 51},
        {"generator_identity": {"name": "other"}},
        {"purpose": "heldout"},
        {"rows_per_shard": 41},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_changed_settings_go_to_another_directory(tmp_path, changes):
    first, second = draw(tmp_path), draw(tmp_path, **changes)
    assert first.artifact.directory != second.artifact.directory
    assert first.artifact.damaged_files() == []


@pytest.mark.parametrize("changes", [{"seed": 1}, {"purpose": "heldout"}])
def test_another_seed_or_purpose_draws_other_noise(tmp_path, changes):
    first, second = (samples.read("noise")["noise"] for samples in (draw(tmp_path), draw(tmp_path, **changes)))
    assert not np.isin(first, second).any()


# --- kills and damage ----------------------------------------------------------------------------


def test_interrupted_and_continued_samples_are_byte_identical(tmp_path):
    whole = draw(tmp_path / "whole")
    with pytest.raises(InterruptedRunError, match=r"samples: stopped at 40 of 150 rows, everything so far is saved"):
        draw(tmp_path / "killed", StopAfter(1))
    assert len(list((tmp_path / "killed").glob("*.partial/shard-*.parquet"))) == 1
    progress.clear_stop()
    teacher = TinyTeacher()
    continued = draw(tmp_path / "killed", teacher)
    assert teacher.num_calls == 3
    assert tree_of(continued.artifact.directory) == tree_of(whole.artifact.directory)


def test_only_a_damaged_shard_is_drawn_again_and_named(tmp_path, caplog):
    samples = draw(tmp_path)
    before = tree_of(samples.artifact.directory)
    shards = sorted(samples.artifact.directory.glob("shard-*.parquet"))
    modified = {path.name: path.stat().st_mtime_ns for path in shards}
    flip_a_byte(shards[2])
    teacher = TinyTeacher()
    with caplog.at_level(logging.WARNING):
        again = draw(tmp_path, teacher)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any("shard-00002.parquet" in warning for warning in warnings)
    assert not any(name in " ".join(warnings) for name in ("shard-00000", "shard-00001", "shard-00003"))
    assert tree_of(again.artifact.directory) == before
    for path in sorted(again.artifact.directory.glob("shard-*.parquet")):
        assert (path.stat().st_mtime_ns == modified[path.name]) == (path.name != "shard-00002.parquet")
    assert teacher.num_calls == 1  # rows 80 to 119 are in one block


def test_samples_are_invisible_before_they_are_complete(tmp_path):
    with pytest.raises(InterruptedRunError):
        draw(tmp_path, StopAfter(1))
    finished = [path for path in tmp_path.iterdir() if path.is_dir() and path.suffix != ".partial"]
    assert finished == []


def test_a_manifest_tells_what_samples_were_made_from(tmp_path):
    inputs = Artifact.open(draw(tmp_path).artifact.directory).inputs
    assert inputs["generator"] == {"name": "tiny"}
    assert (inputs["seed"], inputs["purpose"], inputs["num_images_per_class"]) == (0, "samples", NUM_PER_CLASS)


# --- refusals ------------------------------------------------------------------------------------


def test_a_disk_too_small_is_refused_before_the_teacher_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    teacher = TinyTeacher()
    with pytest.raises(SettingError, match="MiB free in"):
        draw(tmp_path, teacher)
    assert teacher.num_calls == 0


class BrokenTeacher(TinyTeacher):
    """Changes the foreground before it gives it away."""

    def __init__(self, change) -> None:
        super().__init__()
        self.change = change

    def render(self, noise, labels):
        images = super().render(noise, labels)
        return MechanismImages(images.mask, self.change(images.foreground), images.background)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images: images * torch.nan, "teacher foreground: expected finite values, got NaN"),
        (lambda images: images[:, :, :4], "teacher foreground: expected a tensor of shape"),
        (lambda images: images[:5], "teacher foreground: expected a tensor of shape"),
        (lambda images: images * 3, r"teacher foreground: expected values in \[-1, 1\]"),
        (lambda images: images.to(torch.uint8), "teacher foreground: expected floating point"),
        (lambda images: None, "teacher foreground: expected a tensor"),
    ],
    ids=["NaN", "wrong size", "too few", "wrong range", "bytes", "nothing"],
)
def test_a_teacher_that_breaks_its_contract_is_refused(tmp_path, change, message):
    with pytest.raises(SettingError, match=message):
        draw(tmp_path, BrokenTeacher(change))
    assert not list(tmp_path.glob("*/shard-*.parquet"))


# --- composites ----------------------------------------------------------------------------------


def test_composites_are_each_rows_own_images_composed(tmp_path):
    samples = draw(tmp_path)
    columns = {name: torch.from_numpy(values) for name, values in samples.read(*IMAGE_OF_MECHANISM.values()).items()}
    mask, foreground, background = (columns[IMAGE_OF_MECHANISM[m]].double() for m in MECHANISMS)
    expected = (mask * foreground + (255 - mask) * background) / 255  # in grey levels, never half way between two
    noise, labels, composites = samples.read_pairs(COMPOSITE)
    assert torch.equal(composites.double(), expected.round())
    assert composites.dtype == torch.uint8
    assert torch.equal(noise, samples.read_pairs("shape")[0])
    assert torch.equal(labels, samples.read_pairs("shape")[1])
    decoded = MechanismImages(*(decode_images(m, columns[IMAGE_OF_MECHANISM[m]]) for m in MECHANISMS))
    assert np.array_equal(encode_images(COMPOSITE, compose(decoded)), composites.numpy())


def test_composites_do_not_depend_on_shards(tmp_path):
    expected = draw(tmp_path / "a").read_pairs(COMPOSITE)
    got = draw(tmp_path / "b", rows_per_shard=37).read_pairs(COMPOSITE)
    assert all(torch.equal(*pair) for pair in zip(got, expected, strict=True))


class Waves(torch.nn.Module):
    """Stands for a student without mechanisms; asks to stop at a certain call."""

    def __init__(self, stop_at: int = 0, scale: float = 1.0) -> None:
        super().__init__()
        self.stop_at, self.scale = stop_at, scale
        self.batches: list[torch.Tensor] = []

    def forward(self, noise, labels):
        self.batches.append(noise)
        if len(self.batches) == self.stop_at:
            progress.request_stop()
        phases = noise.sum(1).view(-1, 1, 1, 1) + torch.arange(3 * 8 * 8).view(3, 8, 8)
        return self.scale * torch.sin((1 + labels.view(-1, 1, 1, 1)) * phases)


def draw_waves(network: Waves, num_images_per_class: int = NUM_PER_CLASS, seed: int = 0) -> tuple:
    return draw_composites(network, GeneratorSize(4, 3, 8), num_images_per_class, seed, CPU)


def test_drawn_composites_are_those_of_their_noise_and_label():
    network = Waves()
    images, labels = draw_waves(network)
    assert images.shape == (150, 3, 8, 8)
    assert images.dtype == torch.uint8
    assert labels.tolist() == [row % 3 for row in range(150)]
    assert [len(batch) for batch in network.batches] == [ROWS_PER_BLOCK] * 3
    noise = torch.cat(network.batches)[:150]
    assert len(noise.unique(dim=0)) == 150
    regenerated = encode_images(COMPOSITE, Waves()(noise, labels))
    assert np.abs(regenerated.astype(int) - images.numpy().astype(int)).max() <= 1


def test_drawn_composites_depend_on_the_seed_and_fewer_are_the_first_of_more():
    images, _ = draw_waves(Waves())
    assert torch.equal(draw_waves(Waves(), 20)[0], images[:60])
    assert not torch.equal(draw_waves(Waves(), seed=1)[0], images)


def test_drawing_composites_stops_when_asked():
    with pytest.raises(InterruptedRunError, match="composites: stopped at 64 of 150 rows"):
        draw_waves(Waves(stop_at=1))


def test_only_a_sound_student_of_composites_is_drawn_from():
    with pytest.raises(SettingError, match="composite student: expected finite values"):
        draw_waves(Waves(scale=float("nan")))
