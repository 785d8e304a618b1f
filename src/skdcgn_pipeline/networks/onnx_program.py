"""Networks as ONNX files, run by onnxruntime: known operators on tensors, so that a stranger's file may be opened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from skdcgn_pipeline.runtime.libraries import import_library

FATAL = 4  # of onnxruntime's log, whose other lines go to the terminal past Python; errors are raised as well


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
