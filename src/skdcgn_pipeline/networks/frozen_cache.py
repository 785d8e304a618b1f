"""Memory of what a frozen network derives from its weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class FrozenCache:
    """Keep what a frozen module in eval mode would otherwise compute anew from its tensors in every call."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] | None = None
        self._value: Any = None

    def get(self, module: nn.Module, tensors: Sequence[Tensor], compute: Callable[[], Any]) -> Any:
        """Return `compute()`, or what it gave when the same tensors held the same values."""
        if module.training or any(tensor.requires_grad for tensor in tensors) or torch.compiler.is_compiling():
            return compute()
        key = tuple((tensor.data_ptr(), tensor._version, tensor.device, tensor.dtype) for tensor in tensors)
        if key != self._key:
            # Plain tensors, which serve inside and outside of inference mode.
            with torch.inference_mode(False), torch.no_grad():
                self._key, self._value = key, compute()
        return self._value

    def __reduce__(self) -> tuple[type[FrozenCache], tuple[()]]:
        # Copies, in another process too, have tensors of their own.
        return FrozenCache, ()
