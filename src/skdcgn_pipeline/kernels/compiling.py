"""Compile loops with Numba, once for all processes of a user."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from numba import config as numba_config
from numba import njit
from numba.core.caching import FunctionCache
from numba.misc.appdirs import AppDirs

NAME = "skdcgn_pipeline"
config: Any = numba_config  # its names are set by Numba as it reads the environment


def cache_folder() -> Path:
    """Return where compiled loops are kept: a folder of the user's cache for what all sources here say together.

    Numba itself looks at the file of a function alone, whose constants come from others.
    """
    caches = Path(config.CACHE_DIR or AppDirs(NAME, False).user_cache_dir)
    return caches / f"{NAME}_kernels_{_hash_of_sources(Path(__file__).parent)}"


@cache
def _hash_of_sources(folder: Path) -> str:
    sources = sha256()
    for source in sorted(folder.glob("*.py")):
        sources.update(source.read_bytes())
    return sources.hexdigest()[:16]


class _Cache(FunctionCache):  # type: ignore[misc]  # untyped in Numba
    """What cannot be read or written, of a full disk for instance, is compiled."""

    def load_overload(self, *asked: Any) -> Any:
        with suppress(Exception):
            return super().load_overload(*asked)
        return None

    def save_overload(self, *compiled: Any) -> None:
        with suppress(Exception):
            super().save_overload(*compiled)


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator as Numba's `njit` with these options; loops run without the lock of the interpreter.

    The first process compiles (seconds), later ones of the same processor and sources read what it has kept, but for
    functions made inside others.
    """

    def compile_(function: Callable[..., Any]) -> Any:
        dispatcher, usual = njit(nogil=True, **options)(function), config.CACHE_DIR
        if function.__closure__:  # what it closes over may have another name in each process, and never be found
            return dispatcher
        config.CACHE_DIR = str(cache_folder())
        try:
            dispatcher._cache = _Cache(dispatcher.py_func)
        except RuntimeError:  # there is no folder to write to
            pass
        finally:
            config.CACHE_DIR = usual
        return dispatcher

    return compile_
