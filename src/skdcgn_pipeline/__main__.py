"""`python -m skdcgn_pipeline` is `kedro run`, in any folder; with `init FOLDER` it makes one for `kedro`."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.runtime.libraries import import_library

PACKAGE = Path(__file__).parent
LOGGING = "conf/logging.yml"
COMMAND = f"python -m {PACKAGE.name}"
PYPROJECT = """[tool.kedro]
package_name = "{package}"
project_name = "{package}"
kedro_init_version = "{version}"
source_dir = "."
"""


def write_project(folder: Path) -> None:
    """Write a folder in which `kedro` finds the project: its configuration, to be changed there.

    Raises:
        SettingError: If the folder has one already.
    """
    import kedro

    for name in ("conf", "pyproject.toml"):
        if (folder / name).exists():
            raise SettingError("init", f"a folder without '{name}'", folder, "Name another folder, or a new one.")
    shutil.copytree(PACKAGE / "conf", folder / "conf", ignore=shutil.ignore_patterns("local"))
    (folder / "conf" / "local").mkdir()
    (folder / ".telemetry").write_text("consent: false\n", encoding="utf-8")
    content = PYPROJECT.format(package=PACKAGE.name, version=kedro.__version__)
    (folder / "pyproject.toml").write_text(content, encoding="utf-8")


def main(*args: Any, **kwargs: Any) -> Any:
    """Run the project with the command line's arguments, or make a folder for it."""
    words = list(args[0] if args else kwargs.pop("args", None) or sys.argv[1:])
    if not Path(LOGGING).exists():  # Kedro looks for it in the working directory alone, when it is imported
        os.environ.setdefault("KEDRO_LOGGING_CONFIG", str(PACKAGE / LOGGING))
    try:
        import_library("kedro", "pipeline", COMMAND)
        if words[:1] == ["init"]:
            if len(words) != 2 or words[1].startswith("-"):
                got = " ".join(words[1:]) or "nothing"
                raise SettingError(f"{COMMAND} init", "one folder", got, f"Write: {COMMAND} init FOLDER")
            write_project(Path(words[1]))
            print(f"cd {words[1]} && kedro run")  # noqa: T201
            return None
    except (SettingError, OSError) as error:
        sys.exit(f"Error: {error}")
    from kedro.framework.cli.utils import find_run_command
    from kedro.framework.project import configure_project

    configure_project(PACKAGE.name)
    kwargs["standalone_mode"] = not hasattr(sys, "ps1")
    return find_run_command(PACKAGE.name)(words[1:] if words[:1] == ["run"] else words, **kwargs)


if __name__ == "__main__":
    main()
