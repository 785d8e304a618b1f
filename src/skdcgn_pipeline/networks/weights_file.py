"""Read and write tensors in a weights file; nothing in the file is executed."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from skdcgn_pipeline.networks.rounded_weights import round_state
from skdcgn_pipeline.runtime.errors import SettingError

METADATA = "__metadata__"  # as safetensors calls it


def read_state(
    path: Path, wanted: Callable[[str], bool] | None = None, setting: str = "teacher.weights"
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and metadata of a .safetensors or .pth file.

    A file in today's format is mapped, so that a tensor's values enter memory when they are first used.

    Args:
        path: The file.
        wanted: Tells by name which tensors to return; all by default.
        setting: That names the file, for messages.

    Raises:
        SettingError: If the file is missing, damaged, holds code or no state dict.
    """
    remedy = "Download it again, or give a file of plain tensors (safetensors or a state dict)."
    if path.is_fifo() or path.is_char_device():
        raise SettingError(setting, "a file", f"the device or pipe {path}, which may never end", "Correct the path.")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                names = [name for name in file.keys() if wanted is None or wanted(name)]  # noqa: SIM118
                return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
        # Files from before torch 1.6 are no archives and cannot be mapped.
        state = torch.load(path, weights_only=True, map_location="cpu", mmap=zipfile.is_zipfile(path))
    except FileNotFoundError as error:
        raise SettingError(setting, "a file", f"nothing at {path}", "Correct the path.") from error
    except pickle.UnpicklingError as error:
        got = f"{path}, which holds more than tensors or is not a weights file; nothing of it was executed"
        raise SettingError(setting, "a file of plain tensors", got, remedy) from error
    except Exception as error:  # many kinds, all meaning the same to the user
        got = f"{path}, which is truncated or no weights file ({first_line(error)})"
        raise SettingError(setting, "a complete weights file", got, remedy) from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise SettingError(setting, "a state dict of tensors", f"{type(state).__name__} in {path}", remedy)
    return {name: tensor for name, tensor in state.items() if wanted is None or wanted(name)}, {}


def check_tensors(
    path: Path, state: Mapping[str, Tensor], expected: Mapping[str, Tensor], network: str, remedy: str
) -> None:
    """Refuse tensors of a file that have other names or shapes than those of a network.

    Raises:
        SettingError: Counting what is missing, unexpected and of another shape, with the first name of each.
    """
    missing = [name for name in expected if name not in state]
    unknown = [name for name in state if name not in expected]
    shapes = {n: (tuple(state[n].shape), tuple(t.shape)) for n, t in expected.items() if n in state}
    other = [f"'{name}' {got} instead of {wanted}" for name, (got, wanted) in shapes.items() if got != wanted]
    faults = [f"{len(missing)} missing, first '{missing[0]}'"] if missing else []
    faults += [f"{len(unknown)} unexpected, first '{unknown[0]}'"] if unknown else []
    faults += [f"{len(other)} of another shape, first {other[0]}"] if other else []
    if faults:
        got = f"{path} with {'; '.join(faults)}"
        raise SettingError("teacher.weights", f"the {len(expected)} tensors of {network}", got, remedy)


def write_state(
    network: nn.Module, path: Path, metadata: Mapping[str, str] | None = None, bits: int | None = None
) -> None:
    """Write the tensors of a network as safetensors, wherever it is and however they lie in memory.

    The bytes depend on the content alone: the library would write metadata in another order in each process. With
    `bits` the weights are rounded, see `rounded_weights`.
    """
    state = network.state_dict() if bits is None else round_state(network, bits)
    state = {name: tensor.contiguous().cpu() for name, tensor in state.items()}
    content = bytearray(save(state, None if metadata is None else dict(metadata)))
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    if METADATA in header:
        header[METADATA] = dict(sorted(header[METADATA].items()))
        content[8:end] = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(end - 8)
    path.write_bytes(content)  # the library's own file could be read by its owner alone


def first_line(error: BaseException) -> str:
    """Return the beginning of an error's message, or its kind where it has none."""
    return str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
