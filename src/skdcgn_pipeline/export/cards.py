"""What every export has: checked programs, a card that tells of them, and the card's page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from skdcgn_pipeline import __version__
from skdcgn_pipeline.artifacts.store import ArtifactWriter
from skdcgn_pipeline.metrics.cost import count_parameters
from skdcgn_pipeline.networks.pretrained import PAGE_FILE, front_matter
from skdcgn_pipeline.networks.programs import LIBRARIES, TOLERANCE, compare, save_onnx, save_program, trace
from skdcgn_pipeline.reporting.templates import template

CARD_FILE = "card.json"


def versions() -> dict[str, str]:
    """Return the versions that an export depends on."""
    libraries = {name: version(name) for name in LIBRARIES}
    return {"skdcgn_pipeline": __version__, "torch": torch.__version__, **libraries}


def write_export(
    writer: ArtifactWriter,
    stem: str,
    network: nn.Module,
    example: Callable[[int], Sequence[Tensor]],
    card: Mapping[str, Any],
) -> None:
    """Write a network's programs, the card of all files that are there then, and the card's page.

    Args:
        writer: Has the weights.
        stem: Name of the programs and of the page's template.
        network: What is exported, in eval mode.
        example: Number of images -> arguments of the network.
        card: What only this kind of export tells, with the names of `inputs` and `outputs`.

    Raises:
        SettingError: If a program differs from the network by more than 1e-4.
    """
    program, outputs = trace(network, example), card["outputs"]
    writer.write(f"{stem}.onnx", lambda path: save_onnx(program, card["inputs"], outputs, path))
    writer.write(f"{stem}.pt2", lambda path: save_program(program, path))
    programs = (f"{stem}.onnx", f"{stem}.pt2")
    differences = {name: compare(writer.directory / name, network, example, outputs) for name in programs}
    whole_card = {
        **card,
        "parameters": count_parameters(network),
        "largest_differences": differences,
        "tolerance": TOLERANCE,
        "versions": versions(),
        "sha256": dict(writer.files),
    }
    writer.write_json(CARD_FILE, whole_card)
    page = template(f"export/{stem}.md.j2").render(**whole_card)
    page = f"{front_matter(stem)}\n{page}"
    writer.write(PAGE_FILE, lambda path: path.write_text(page, encoding="utf-8"))
