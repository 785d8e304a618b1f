"""Where and how networks run: the device, the precision, and the layout of images."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from skdcgn_pipeline.parameters import Compute
from skdcgn_pipeline.runtime.errors import SettingError, check_choice

DEVICES = ("auto", "cpu", "cuda", "mps")
COMPILER = "inductor"  # of torch.compile
# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """Keep the memory that one training step frees for the next.

    By default glibc gives large blocks back to the system, which clears every page of them again: up to a fifth of
    the time of a small network's step. For processes that train; a library leaves its host's memory alone. Elsewhere
    than on glibc this does nothing.
    """
    if (mallopt := _of_glibc("mallopt")) is not None:
        mallopt(M_MMAP_THRESHOLD, 2**30)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def give_back_freed_memory() -> None:
    """Give the memory that a request took back to the system, where glibc would keep it; for processes that serve."""
    if (malloc_trim := _of_glibc("malloc_trim")) is not None:
        malloc_trim(0)


def _of_glibc(function: str) -> Any:
    return getattr(ctypes.CDLL(None), function, None) if sys.platform == "linux" else None


class _Uninitialised(TorchFunctionMode):
    """Leaves parameters as they are: filling those on `meta` imports torch's compiler and takes seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextmanager
def sizes_alone() -> Iterator[None]:
    """Let networks that are built inside have the sizes of their parameters and no memory for them."""
    with torch.device("meta"), _Uninitialised():
        yield


def choose_device(device: str) -> torch.device:
    """Return the device that a setting stands for, if it is there; `auto` takes cuda, then mps, then cpu."""
    check_choice("compute.device", device, DEVICES)
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return torch.device(next(name for name in ("cuda", "mps", "cpu") if available[name]))
    if not available[device]:
        wanted = f"a device of this machine ({', '.join(name for name, there in available.items() if there)})"
        raise SettingError("compute.device", wanted, repr(device), "Use 'auto' or 'cpu'.")
    return torch.device(device)


ModuleT = TypeVar("ModuleT", bound=nn.Module)


def place(network: ModuleT, device: torch.device | str, layout: torch.memory_format) -> ModuleT:
    """Move a network to a device and lay out its weights; returns the same network."""
    network.to(device)
    network.to(memory_format=layout)  # type: ignore[call-overload]
    return network


@contextmanager
def on_device(device: torch.device, *generators: Any) -> Iterator[torch.device]:
    """Have networks on a device for a while, then on the CPU; gives the device, the CPU where the first is no network.

    What is no network stays where it is and takes its input on the CPU.
    """
    networks = [generator for generator in generators if isinstance(generator, nn.Module)]
    place = device if isinstance(generators[0], nn.Module) else torch.device("cpu")
    try:
        for network in networks:
            network.to(place)
        yield place
    finally:
        for network in networks:
            network.to("cpu")


def autocast(compute: Compute, device: torch.device) -> AbstractContextManager:
    """Return the context in which networks run at the precision asked for."""
    if compute.precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


@cache
def check_compiler(device: torch.device, compiler: str = COMPILER) -> None:
    """Refuse to compile where it cannot be done, with the compiler's reason, by compiling next to nothing."""
    try:
        torch.compile(torch.nn.functional.relu, backend=compiler)(torch.ones(2, device=device))
    except Exception as error:  # of many kinds: no C++ compiler, no Triton, an unknown processor
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
        remedy = "Set it to false, or install what is missing (a C++ compiler; Triton for a GPU)."
        raise SettingError("distill.compile", "a working torch.compile", reason, remedy) from error


def compiled(network: ModuleT, device: torch.device) -> Any:
    """Return a network compiled by `torch.compile`, which shares the weights; raises like `check_compiler`."""
    check_compiler(device, COMPILER)
    return torch.compile(network, backend=COMPILER)
