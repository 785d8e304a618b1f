"""What every export has: checked programs, a card that tells of them, and the card's page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import Tensor, nn

from skdcgn_pipeline import __version__
from skdcgn_pipeline.artifacts.store import ArtifactWriter
from skdcgn_pipeline.export.programs import TOLERANCE, checked_programs, library_versions
from skdcgn_pipeline.metrics.cost import count_parameters

CARD_FILE, PAGE_FILE = "card.json", "README.md"


def versions() -> dict[str, str]:
    """Return the versions that an export depends on."""
    return {"skdcgn_pipeline": __version__, **library_versions()}


def render_card(template: str, card: Mapping[str, Any]) -> str:
    """Return a card as a page in Markdown."""
    environment = Environment(
        loader=PackageLoader("skdcgn_pipeline", "export"),
        autoescape=False,  # noqa: S701  (Markdown of our own numbers)
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
    )
    return environment.get_template(template).render(**card)


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
    differences = checked_programs(stem, network, example, card["inputs"], card["outputs"], writer)
    card = {
        **card,
        "parameters": count_parameters(network),
        "largest_differences": differences,
        "tolerance": TOLERANCE,
        "versions": versions(),
        "sha256": dict(writer.files),
    }
    writer.write_json(CARD_FILE, card)
    page = render_card(f"{stem}.md.j2", card)
    writer.write(PAGE_FILE, lambda path: path.write_text(page, encoding="utf-8"))
