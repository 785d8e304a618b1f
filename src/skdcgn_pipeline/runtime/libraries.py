"""Libraries that only some installations have."""

from __future__ import annotations

import importlib
from typing import Any

from skdcgn_pipeline.runtime.errors import SettingError, told_in_one_line


def import_library(module: str, extra: str, setting: str, library: str | None = None) -> Any:
    """Import a library of one of the package's extras.

    Args:
        module: What is imported.
        extra: The extra that installs it.
        setting: What needs it, for the message.
        library: Its name where it is installed from, if that is another one than the module's.

    Raises:
        SettingError: If it is not installed, with the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        remedy = f'Install it: pip install "skdcgn_pipeline[{extra}]".'
        raise SettingError(setting, f"the library {library or module}", told_in_one_line(error), remedy) from error
