"""The one way to seed: every random number comes from (base seed, purpose, index).

Purposes are words, so adding a new one never moves the numbers of the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

import numpy as np
import torch

_global_generator = RLock()


def derive_seed(base_seed: int, purpose: str, index: int = 0) -> int:
    """Return a 63-bit seed for one purpose, independent of every other purpose and index."""
    digest = hashlib.sha256(f"{base_seed}/{purpose}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def torch_generator(base_seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """Return a CPU generator for one purpose.

    Numbers are always drawn on the CPU and then moved, so that they do not depend on the device.
    """
    return torch.Generator().manual_seed(derive_seed(base_seed, purpose, index))


def numpy_generator(base_seed: int, purpose: str, index: int = 0) -> np.random.Generator:
    """Return a NumPy generator for one purpose."""
    return np.random.default_rng(derive_seed(base_seed, purpose, index))


@contextmanager
def seeded(base_seed: int, purpose: str, index: int = 0) -> Iterator[None]:
    """Seed torch's global generator inside the block and restore it afterwards; one thread at a time.

    Meant for the initialisation of modules and for dropout, which know no other generator.
    """
    with _global_generator, torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(base_seed, purpose, index))
        yield
