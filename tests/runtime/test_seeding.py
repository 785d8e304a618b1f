"""Every random number comes from (seed, purpose, index) alone."""

from __future__ import annotations

import numpy as np
import torch

from skdcgn_pipeline.runtime.seeding import derive_seed, numpy_generator, seeded, torch_generator


def test_a_seed_depends_on_base_purpose_and_index():
    seeds = {
        derive_seed(base, purpose, index) for base in (0, 1, 11) for purpose in ("a", "b") for index in (0, 1, 10, 110)
    }
    assert len(seeds) == 24


def test_a_seed_does_not_change_between_releases():
    assert derive_seed(0, "samples", 3) == 1816973668223010418
    assert derive_seed(7, "classifier") == derive_seed(7, "classifier", 0) == 1929094593533496455


def test_a_seed_fits_a_signed_64_bit_number():
    assert all(0 <= derive_seed(0, "range", index) < 2**63 for index in range(200))


def test_generators_of_one_purpose_repeat_and_of_two_differ():
    first = torch.randn(8, generator=torch_generator(0, "noise", 1))
    assert torch.equal(first, torch.randn(8, generator=torch_generator(0, "noise", 1)))
    assert not torch.equal(first, torch.randn(8, generator=torch_generator(0, "noise", 2)))
    numbers = numpy_generator(0, "noise", 1).random(8)
    assert np.array_equal(numbers, numpy_generator(0, "noise", 1).random(8))
    assert not np.array_equal(numbers, numpy_generator(0, "colours", 1).random(8))


def test_drawing_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    torch.randn(3, generator=torch_generator(0, "noise"))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_seeded_block_repeats_and_restores_the_global_generator():
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    with seeded(0, "init"):
        inside = torch.randn(4)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(6)
    with seeded(0, "init"):
        assert torch.equal(torch.randn(4), inside)


def test_a_seeded_block_restores_the_generator_after_an_error():
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    try:
        with seeded(0, "init"):
            torch.randn(4)
            raise KeyError
    except KeyError:
        pass
    assert torch.equal(torch.random.get_rng_state(), state)
