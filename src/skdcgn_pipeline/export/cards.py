"""The page that goes with what is exported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

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
