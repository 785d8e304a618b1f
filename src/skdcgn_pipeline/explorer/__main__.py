"""`python -m skdcgn_pipeline.explorer FOLDER` shows what `kedro explore` has written, without Kedro."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from skdcgn_pipeline.explorer import DEFAULT_PORT
from skdcgn_pipeline.explorer.bundle import open_explorer
from skdcgn_pipeline.explorer.page import check_port, import_gradio, launch
from skdcgn_pipeline.runtime.errors import exit_status, print_messages


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the page until Ctrl+C; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m skdcgn_pipeline.explorer", description=__doc__)
    parser.add_argument("folder", type=Path, help="the folder that `kedro explore` names")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="the next free one if it is taken")
    parser.add_argument(
        "--trust", action="store_true", help="run a teacher that can be any code (.pt2, .pt, a factory): not by default"
    )
    parser.add_argument("--no-browser", action="store_true", help="only tell the address")
    options = parser.parse_args(arguments)
    print_messages(logging.WARNING)
    logging.getLogger("skdcgn_pipeline").setLevel(logging.INFO)

    def explore() -> None:
        import_gradio()
        check_port(options.port)
        launch(open_explorer(options.folder, options.trust), options.port, not options.no_browser)

    return exit_status(explore)


if __name__ == "__main__":
    sys.exit(main())
