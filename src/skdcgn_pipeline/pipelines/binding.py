"""Node functions with some arguments fixed."""

from collections.abc import Callable
from functools import partial, update_wrapper
from typing import Any


def given(function: Callable[..., Any], **fixed: Any) -> Callable[..., Any]:
    """Return a function with arguments fixed by name, which Kedro shows under its own name."""
    return update_wrapper(partial(function, **fixed), function)
