"""Networks as ONNX and `torch.export` programs for any number of images, compared with the network itself.

ONNX is run by onnxruntime: known operators on tensors, so that a stranger's file may be opened.
"""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.runtime.libraries import import_library

LIBRARIES = ("onnx", "onnxruntime", "onnxscript")
TOLERANCE = 1e-4
# Neither is the number of images of the example that programs are traced with.
CHECKED_NUMBERS = (1, 7)
EXAMPLE_NUMBER = 3
ROWS = "num_images"  # what programs call the size that may be any
FATAL = 4  # of onnxruntime's log, whose other lines go to the terminal past Python; errors are raised as well


def check_libraries() -> None:
    """Refuse an installation that cannot write or run ONNX.

    Raises:
        SettingError: Naming what is missing and the extra that brings it.
    """
    missing = [name for name in LIBRARIES if find_spec(name) is None]
    if missing:
        remedy = 'Install them: pip install "skdcgn_pipeline[export]".'
        raise SettingError("export", f"the libraries {', '.join(LIBRARIES)}", f"no {', '.join(missing)}", remedy)


def trace(network: nn.Module, example: Callable[[int], Sequence[Tensor]]) -> torch.export.ExportedProgram:
    """Trace a network for any number of images; the program does not say in which files it was traced.

    Args:
        network: In eval mode.
        example: Number of images -> arguments of the network, each with that many rows.
    """
    # Of weights that lie in memory in another layout, a program would keep what is around them, with a warning.
    network = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    rows = torch.export.Dim(ROWS, min=1)
    arguments = tuple(example(EXAMPLE_NUMBER))
    program = torch.export.export(network, arguments, dynamic_shapes=tuple({0: rows} for _ in arguments))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def save_program(program: torch.export.ExportedProgram, path: Path) -> None:
    """Write a `torch.export` program (.pt2)."""
    with path.open("wb") as file:
        torch.export.save(program, file)


def save_onnx(program: torch.export.ExportedProgram, inputs: Sequence[str], outputs: Sequence[str], path: Path) -> None:
    """Write a program as ONNX, with the weights inside and these names of inputs and outputs."""
    # Of what is only left unoptimised it would log a line for each operation.
    logging.getLogger("onnxscript.optimizer").setLevel(logging.ERROR)
    converted: Any = torch.onnx.export(
        program, dynamo=True, input_names=[*inputs], output_names=[*outputs], external_data=False, verbose=False
    )
    proto = converted.model_proto
    traced_as = proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param  # the tracer's own word
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            size.dim_param = re.sub(rf"\b{re.escape(traced_as)}\b", ROWS, size.dim_param)
    path.write_bytes(proto.SerializeToString())


class OnnxProgram:
    """An ONNX file as a function of tensors, on the CPU with as many threads as torch.

    No operators but onnxruntime's own are known, and weights that lie beside the file are not read: it is all that
    the outputs depend on.

    Args:
        path: The file.
        setting: That names it, for messages.

    Attributes:
        inputs, outputs: Their names, in order.

    Raises:
        SettingError: If onnxruntime is not installed.
        Exception: Of onnxruntime, if the file is damaged or needs more than it holds.
    """

    def __init__(self, path: Path, setting: str) -> None:
        onnxruntime = import_library("onnxruntime", "export", f"{setting} ({path})")
        onnxruntime.disable_telemetry_events()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), FATAL
        options.add_session_config_entry("session.load_model_format", "ONNX")
        with TemporaryDirectory() as alone:  # away from other files, which it could name as weights
            copy = copyfile(path, Path(alone) / "program.onnx")
            self._session: Any = onnxruntime.InferenceSession(str(copy), options, providers=["CPUExecutionProvider"])
        self.inputs = [node.name for node in self._session.get_inputs()]
        self.outputs = [node.name for node in self._session.get_outputs()]

    def __call__(self, *arguments: Tensor) -> Sequence[Tensor]:
        """Return the outputs for arguments in the order of the inputs."""
        values = {name: argument.numpy(force=True) for name, argument in zip(self.inputs, arguments, strict=True)}
        return tuple(torch.from_numpy(output) for output in self._session.run(None, values))


def run_program(path: Path, arguments: Sequence[Tensor]) -> list[Tensor]:
    """Run a program: ONNX (.onnx) by onnxruntime on the CPU, or one of `torch.export`."""
    if path.suffix == ".onnx":
        return list(OnnxProgram(path, "export")(*arguments))
    with path.open("rb") as file:
        return _listed(torch.export.load(file).module()(*arguments))


def compare(
    path: Path, network: nn.Module, example: Callable[[int], Sequence[Tensor]], outputs: Sequence[str]
) -> dict[str, float]:
    """Compare a written program with the network on other numbers of images than it was traced with.

    Returns:
        Output -> largest difference.

    Raises:
        SettingError: If a difference is above the tolerance.
    """
    largest: dict[str, float] = dict.fromkeys(outputs, 0.0)
    for number in CHECKED_NUMBERS:
        arguments = example(number)
        with torch.no_grad():
            expected = _listed(network(*arguments))
        for name, output, other in zip(outputs, run_program(path, arguments), expected, strict=True):
            difference = (output - other).abs().max().item() if output.shape == other.shape else float("inf")
            largest[name] = max(largest[name], difference)
    if not max(largest.values()) <= TOLERANCE:
        remedy = "The export's libraries do not fit together: install the versions of constraints.txt."
        raise SettingError(f"export: {path.suffix} program", f"outputs within {TOLERANCE:g}", largest, remedy)
    return largest


def _listed(outputs: Any) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)
