"""Fast stand-ins for torch's operations: loops that Numba compiles, imported when they are first needed.

Where Numba is absent or the environment variable SKDCGN_KERNELS is 0, torch's operations serve instead: images are
taken to the same bits, and training steps in bfloat16 differ by their rounding.
"""

from __future__ import annotations

import os
from functools import cache

SWITCH = "SKDCGN_KERNELS"


def enabled() -> bool:
    """Tell whether the loops are used: they are not switched off, and Numba is there."""
    return os.environ.get(SWITCH, "1") != "0" and numba_is_there()


@cache
def numba_is_there() -> bool:
    """Tell whether Numba can be imported."""
    try:
        import numba  # noqa: F401
    except ImportError:  # absent, or made for another NumPy
        return False
    return True
