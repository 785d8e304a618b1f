"""Work of several threads."""

from __future__ import annotations

import pickle
import threading
import time

import pytest
import torch

from skdcgn_pipeline.runtime.engine import run_side_by_side
from skdcgn_pipeline.runtime.seeding import seeded
from skdcgn_pipeline.runtime.threads import once

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def meet(barrier: threading.Barrier, number: int) -> tuple[int, int]:
    barrier.wait(30)  # nobody passes alone
    return number, torch.get_num_threads()


def test_as_many_calls_as_threads_run_at_a_time_on_one_thread_each():
    barrier = threading.Barrier(4)
    calls = [lambda number=number: meet(barrier, number) for number in range(8)]
    assert run_side_by_side(calls, CPU) == [(number, 1) for number in range(8)]
    assert torch.get_num_threads() == 4


def test_a_single_call_runs_here_on_one_thread_too():
    results = run_side_by_side([lambda: (threading.current_thread(), torch.get_num_threads())], CPU)
    assert results == [(threading.current_thread(), 1)]
    assert torch.get_num_threads() == 4


def test_a_gpu_works_on_one_after_the_other():
    calls = [lambda: (threading.current_thread(), torch.get_num_threads())] * 2
    assert run_side_by_side(calls, torch.device("cuda")) == [(threading.current_thread(), 4)] * 2


def test_nothing_to_do_is_no_work():
    assert run_side_by_side([], CPU) == []


def test_what_has_started_ends_and_the_rest_is_left_out_after_an_error():
    torch.set_num_threads(2)
    failing, ended = threading.Event(), []

    def fail() -> None:
        failing.set()
        raise ValueError("no disk")

    def work(number: int) -> None:
        failing.wait(30)
        time.sleep(0.4 if number else 0.2)  # the one that started with the failing call ends first
        ended.append(number)

    calls = [lambda: work(0), fail, *[lambda number=number: work(number) for number in range(2, 30)]]
    with pytest.raises(ValueError, match="no disk"):
        run_side_by_side(calls, CPU)
    assert ended[0] == 0
    assert len(ended) < 5
    assert torch.get_num_threads() == 2


def test_the_error_of_a_single_call_leaves_the_threads_as_they_were():
    with pytest.raises(ZeroDivisionError):
        run_side_by_side([lambda: 1 / 0], CPU)
    assert torch.get_num_threads() == 4


def test_what_several_threads_ask_for_is_made_once():
    made = []

    def make() -> object:
        time.sleep(0.05)
        made.append(object())
        return made[-1]

    give = once(make)
    given = run_side_by_side([give] * 4, CPU)
    assert made == [given[0]]
    assert all(one is given[0] for one in given)


def test_what_was_made_is_left_out_of_a_pickle():
    give = once(object)
    made = give()
    assert give() is made
    again = pickle.loads(pickle.dumps(give))
    assert again() is again()
    assert again() is not made


def test_what_could_not_be_made_is_tried_again():
    tries = []

    def make() -> int:
        tries.append(None)
        if len(tries) == 1:
            raise OSError("not yet")
        return 7

    give = once(make)
    with pytest.raises(OSError, match="not yet"):
        give()
    assert (give(), give(), len(tries)) == (7, 7, 2)


def test_threads_seed_the_global_generator_one_at_a_time():
    def draw(seed: int) -> torch.Tensor:
        with seeded(seed, "test"):
            drawn = []
            for _ in range(20):
                drawn.append(torch.rand(3))
                time.sleep(0.001)
            return torch.stack(drawn)

    alone = [draw(seed) for seed in range(4)]
    together = run_side_by_side([lambda seed=seed: draw(seed) for seed in range(4)], CPU)
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))
