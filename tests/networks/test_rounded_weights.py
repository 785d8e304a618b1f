"""Weights rounded to few bits: what a file holds, what comes back, and what is refused."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from skdcgn_pipeline.metrics.likeness import mask_iou
from skdcgn_pipeline.networks.rounded_weights import BITS, restore_state, round_state
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.students.trio import StudentCGN


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(3, 5)
        self.linear = nn.Linear(7, 6)
        self.convolution = nn.Conv2d(2, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        nn.init.zeros_(self.linear.weight[2])
        self.norm.running_var.fill_(5e7)  # beyond float16
        self.norm.num_batches_tracked.fill_(100_000)


@pytest.fixture
def network():
    torch.manual_seed(0)
    with torch.no_grad():
        return Network()


@pytest.mark.parametrize("bits", BITS)
def test_rounded_weights_are_within_half_a_step_or_their_row_is_cut(network, bits):
    stored, expected = round_state(network, bits), network.state_dict()
    restored = restore_state(stored, network)
    assert restored.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (restored[name].shape, restored[name].dtype) == (tensor.shape, tensor.dtype)
        if name in ("linear.weight", "convolution.weight"):
            rows, others = tensor.flatten(1), restored[name].flatten(1)
            error = (rows - others).square().mean(1).sqrt()
            assert (error <= rows.abs().amax(1) / (2 ** (bits - 1) - 1)).all()
            assert not others[(rows == 0).all(1)].any()
        else:
            torch.testing.assert_close(restored[name], tensor, rtol=1e-3, atol=1e-4)
    network.load_state_dict(restored)


def test_more_bits_are_nearer_and_longer(network):
    weight = network.linear.weight
    states = {bits: round_state(network, bits) for bits in (3, 5, 8)}
    errors = [(restore_state(state, network)["linear.weight"] - weight).abs().mean() for state in states.values()]
    assert errors == sorted(errors, reverse=True)
    assert [len(state["rounded"]) for state in states.values()] == [-(-96 * bits // 8) for bits in states]


@pytest.mark.parametrize("bits", [0, 2, 9, True])
def test_bits_that_are_not_meant_are_refused(network, bits):
    with pytest.raises(SettingError, match="bits: expected 3 to 8 bits, or none for float32"):
        round_state(network, bits)


def test_a_table_beyond_float16_is_refused(network):
    nn.init.constant_(network.table.weight, 1e5)
    with pytest.raises(SettingError, match="bits: expected class tables within float16"):
        round_state(network, 8)


def test_released_students_in_seven_bits_keep_their_masks_in_a_quarter_of_the_bytes(tmp_path):
    students = StudentCGN.from_released("wildlife_mnist")
    students.save_pretrained(tmp_path, bits=7)
    rounded = StudentCGN.from_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size <= 66_000
    noise, labels = torch.randn(100, 32, generator=torch.manual_seed(0)), torch.arange(100) % 10
    images = [own.render(noise, labels) for own in (rounded, students)]
    assert mask_iou(images[0].mask, images[1].mask) > 0.97
    assert (images[0].foreground - images[1].foreground).abs().mean() < 0.02


@pytest.mark.parametrize("damage", ["rounded", "scales", "tables", "plain", "counts", "bits"])
def test_a_damaged_rounded_file_is_refused_in_one_sentence(tmp_path, damage):
    StudentCGN.from_released("digits").save_pretrained(tmp_path, bits=8)
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    for content in (state[damage][1:], None):
        damaged = {name: tensor for name, tensor in state.items() if name != damage}
        save_file(damaged if content is None else damaged | {damage: content}, path)
        with pytest.raises(SettingError, match="students: expected pretrained students in") as caught:
            StudentCGN.from_pretrained(tmp_path)
        assert "\n" not in str(caught.value)
