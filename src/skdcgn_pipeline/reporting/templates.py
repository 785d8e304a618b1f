"""Pages and cards from the templates of the package."""

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


def in_markdown(value: Any) -> Any:
    """Return a text as a line of Markdown takes it, in a table, in code and outside: it ends none of them."""
    if not isinstance(value, str):
        return value
    return " ".join(value.splitlines()).replace("`", "'").replace("|", "\\|").replace("<", "&lt;")


@cache
def template(path: str) -> Template:
    """Return a template by its path in the package; it escapes what it is given, as HTML or as Markdown."""
    html = path.endswith(".html.j2")
    return Environment(
        loader=PackageLoader("skdcgn_pipeline", ""),
        autoescape=html,  # noqa: S701  (Markdown has its own)
        finalize=None if html else in_markdown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=not html,
    ).get_template(path)
