"""The card that goes with what is exported, and its page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import nn

from skdcgn_pipeline.artifacts.store import ArtifactWriter
from skdcgn_pipeline.export.programs import TOLERANCE
from skdcgn_pipeline.metrics.cost import count_parameters

CARD_FILE, PAGE_FILE = "card.json", "README.md"


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


def write_card(
    writer: ArtifactWriter,
    template: str,
    network: nn.Module,
    differences: Mapping[str, Mapping[str, float]],
    versions: Mapping[str, str],
    own: Mapping[str, Any],
) -> None:
    """Write the card of an export, when all its other files are there, and the card's page.

    Args:
        writer: Has the files.
        template: Of the page.
        network: What is exported.
        differences: The largest of each program from the network, by output.
        versions: Of the libraries.
        own: What only this kind of export has on its card.
    """
    card = {
        **own,
        "parameters": count_parameters(network),
        "largest_differences": dict(differences),
        "tolerance": TOLERANCE,
        "versions": dict(versions),
        "sha256": dict(writer.files),
    }
    writer.write_json(CARD_FILE, card)
    page = render_card(template, card)
    writer.write(PAGE_FILE, lambda path: path.write_text(page, encoding="utf-8"))
