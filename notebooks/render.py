"""Run the notebooks and write them down as pages of the documentation: `python notebooks/render.py [NAME ...]`.

Notebooks keep their outputs, pictures in few colours; `docs/notebooks/<name>.md` shows the same.
"""

from __future__ import annotations

import base64
import io
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

NOTEBOOKS = Path(__file__).resolve().parent
PAGES = NOTEBOOKS.parent / "docs" / "notebooks"
COLOURS = 64  # of the pictures, which keeps them small
# Far above what any cell, or the start on a busy machine, takes: only something that hangs is ended.
MAX_SECONDS = 3600
PICTURE = "image/png"


def read(path: Path) -> NotebookNode:
    """Return a notebook as it is kept."""
    return nbformat.read(path, as_version=4)


def executed(path: Path) -> NotebookNode:
    """Run a notebook in an empty directory and return it with its outputs.

    Raises:
        CellExecutionError: If a cell fails.
    """
    notebook = read(path)
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        seconds = {"timeout": MAX_SECONDS, "startup_timeout": MAX_SECONDS}
        client = NotebookClient(notebook, **seconds, record_timing=False, resources=resources)
        return client.execute()


def texts(notebook: NotebookNode) -> Iterator[str]:
    """Yield what the cells printed and returned, pictures aside."""
    for output in (output for cell in notebook.cells for output in cell.get("outputs", ())):
        if output.output_type == "stream":
            yield output.text
        elif PICTURE not in output.data:
            yield output.data["text/plain"]


def pictures(notebook: NotebookNode) -> list[bytes]:
    """Return the pictures that the cells returned, as PNG files."""
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", ()))
    return [base64.b64decode(output.data[PICTURE]) for output in outputs if PICTURE in output.get("data", {})]


def _reduced(png: bytes) -> bytes:
    """Return a picture in few colours."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(
        buffer, "PNG", optimize=True
    )
    return buffer.getvalue()


def reduced(notebook: NotebookNode) -> NotebookNode:
    """Return an executed notebook with pictures in few colours and without what depends on the machine."""
    for output in (output for cell in notebook.cells for output in cell.get("outputs", ())):
        if PICTURE in output.get("data", {}):
            output.data.pop("image/jpeg", None)  # the same once more
            output.data[PICTURE] = base64.b64encode(_reduced(base64.b64decode(output.data[PICTURE]))).decode()
    notebook.metadata.pop("widgets", None)
    return notebook


def prose(markdown: str) -> str:
    """Return a text cell as the page has it, with links from `docs/notebooks` to other pages."""
    return markdown.replace("](../docs/", "](../").replace(".ipynb)", ".md)")


def fenced(code: str) -> str:
    """Return a code cell as the page has it."""
    return f"```python\n{code}\n```"


def as_page(notebook: NotebookNode, name: str) -> str:
    """Return an executed notebook in Markdown; its pictures are `<name>_<number>.png`."""
    parts, number = [], 0
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(prose(cell.source))
            continue
        parts.append(fenced(cell.source))
        printed = "".join(texts(NotebookNode(cells=[cell]))).rstrip()
        if printed:
            parts.append(f"```text\n{printed}\n```")
        for _ in pictures(NotebookNode(cells=[cell])):
            number += 1
            parts.append(f"![Output]({name}_{number}.png)")
    return "\n\n".join(parts) + "\n"


def main(names: list[str]) -> None:
    """Run notebooks, all by default, and write their pages."""
    PAGES.mkdir(parents=True, exist_ok=True)
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        if names and path.stem not in names:
            continue
        notebook = reduced(executed(path))
        nbformat.write(notebook, path)
        for old in PAGES.glob(f"{path.stem}_*.png"):
            old.unlink()
        for number, png in enumerate(pictures(notebook), 1):
            (PAGES / f"{path.stem}_{number}.png").write_bytes(png)
        (PAGES / f"{path.stem}.md").write_text(as_page(notebook, path.stem), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
