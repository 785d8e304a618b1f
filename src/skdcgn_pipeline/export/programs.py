"""Networks as ONNX and `torch.export` programs for any number of images, compared with the network itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skdcgn_pipeline.artifacts.store import ArtifactWriter
from skdcgn_pipeline.runtime.errors import SettingError

LIBRARIES = ("onnx", "onnxruntime", "onnxscript")
TOLERANCE = 1e-4
# Neither is the number of images of the example that programs are traced with.
CHECKED_NUMBERS = (1, 7)
EXAMPLE_NUMBER = 3


def check_libraries() -> None:
    """Refuse an installation that cannot write or run ONNX.

    Raises:
        SettingError: Naming what is missing and the extra that brings it.
    """
    missing = [name for name in LIBRARIES if find_spec(name) is None]
    if missing:
        remedy = 'Install them: pip install "skdcgn_pipeline[export]".'
        raise SettingError("export", f"the libraries {', '.join(LIBRARIES)}", f"no {', '.join(missing)}", remedy)


def library_versions() -> dict[str, str]:
    """Return the versions of what writes and checks programs."""
    return {"torch": torch.__version__, **{name: version(name) for name in LIBRARIES}}


def trace(network: nn.Module, example: Callable[[int], Sequence[Tensor]]) -> torch.export.ExportedProgram:
    """Trace a network for any number of images.

    Args:
        network: In eval mode.
        example: Number of images -> arguments of the network, each with that many rows.
    """
    rows = torch.export.Dim("num_images", min=1)
    arguments = tuple(example(EXAMPLE_NUMBER))
    return torch.export.export(network, arguments, dynamic_shapes=tuple({0: rows} for _ in arguments))


def save_program(program: torch.export.ExportedProgram, path: Path) -> None:
    """Write a `torch.export` program (.pt2)."""
    with path.open("wb") as file:
        torch.export.save(program, file)


def save_onnx(program: torch.export.ExportedProgram, inputs: Sequence[str], outputs: Sequence[str], path: Path) -> None:
    """Write a program as ONNX, with the weights inside and these names of inputs and outputs."""
    with _without_hints_of_the_optimiser():
        converted: Any = torch.onnx.export(
            program, dynamo=True, input_names=[*inputs], output_names=[*outputs], external_data=False, verbose=False
        )
    path.write_bytes(converted.model_proto.SerializeToString())


@contextmanager
def _without_hints_of_the_optimiser() -> Iterator[None]:
    """Keep to errors the log of what is only left unoptimised: a line for each operation."""
    logger = logging.getLogger("onnxscript.optimizer")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def run_program(path: Path, arguments: Sequence[Tensor]) -> list[Tensor]:
    """Run a `torch.export` program."""
    with path.open("rb") as file:
        return _listed(torch.export.load(file).module()(*arguments))


def run_onnx(path: Path, arguments: Sequence[Tensor]) -> list[Tensor]:
    """Run an ONNX program with onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    values = {name: argument.numpy() for name, argument in zip(names, arguments, strict=True)}
    return [torch.from_numpy(output) for output in session.run(None, values)]


def compare(
    run: Callable[[Path, Sequence[Tensor]], list[Tensor]],
    path: Path,
    network: nn.Module,
    example: Callable[[int], Sequence[Tensor]],
    outputs: Sequence[str],
    tolerance: float = TOLERANCE,
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
        for name, own, other in zip(outputs, run(path, arguments), expected, strict=True):
            difference = (own - other).abs().max().item() if own.shape == other.shape else float("inf")
            largest[name] = max(largest[name], difference)
    if not max(largest.values()) <= tolerance:
        remedy = "The export's libraries do not fit together: install the versions of constraints.txt."
        raise SettingError(f"export: {path.suffix} program", f"outputs within {tolerance:g}", largest, remedy)
    return largest


def checked_programs(
    stem: str,
    network: nn.Module,
    example: Callable[[int], Sequence[Tensor]],
    inputs: Sequence[str],
    outputs: Sequence[str],
    writer: ArtifactWriter,
) -> dict[str, dict[str, float]]:
    """Write `<stem>.onnx` and `<stem>.pt2` and compare both with the network.

    Args:
        stem: Name of the files.
        network: In eval mode.
        example: As in `trace`.
        inputs, outputs: Names, in the order of arguments and results.
        writer: Of the artifact that the files belong to.

    Returns:
        File -> output -> largest difference.
    """
    program = trace(network, example)
    writer.write(f"{stem}.onnx", lambda path: save_onnx(program, inputs, outputs, path))
    writer.write(f"{stem}.pt2", lambda path: save_program(program, path))
    return {
        name: compare(run, writer.directory / name, network, example, outputs)
        for name, run in ((f"{stem}.onnx", run_onnx), (f"{stem}.pt2", run_program))
    }


def _listed(outputs: Any) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)
