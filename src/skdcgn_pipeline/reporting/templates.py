"""Pages and cards from the templates of the package."""

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


@cache
def template(path: str) -> Template:
    """Return a template by its path in the package; HTML escapes what it is given, Markdown does not."""
    html = path.endswith(".html.j2")
    return Environment(
        loader=PackageLoader("skdcgn_pipeline", ""),
        autoescape=html,  # noqa: S701  (Markdown is of our own numbers)
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=not html,
    ).get_template(path)
