"""Code of a user's own, named `module:function` in their own configuration.

What was downloaded (a folder of students, a classifier, an explorer) never names what is imported here.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from skdcgn_pipeline.runtime.errors import SettingError, told_in_one_line

_FORM = re.compile(r"(?!timm:)[A-Za-z_][\w.]*:[A-Za-z_]\w*")  # timm: stands before the names of a library


class UntrustedCodeError(SettingError):
    """Code that a folder of somebody else's names; nothing of it was imported.

    Args:
        setting: What the folder is opened as.
        expected: What it may bring.
        name: `module:function`.
    """

    def __init__(self, setting: str, expected: str, name: str) -> None:
        remedy = "If you trust whoever made it, say so: trust_code=True, to the explorer --trust."
        super().__init__(setting, expected, f"{name}, code that would be imported; nothing of it was", remedy)


def is_extension(name: object) -> bool:
    """Tell whether a name is one of a user's own code, `module:function`; imports nothing."""
    return isinstance(name, str) and _FORM.fullmatch(name) is not None


def check_extension(name: str) -> str:
    """Return a name that is one of a user's own code; raises `ValueError` if it is not."""
    if not is_extension(name):
        raise ValueError(f"must look like module:function, got {name!r}")
    return name


def look_in(folder: Path) -> None:
    """Let modules of a folder be found, after all that are installed."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
        importlib.invalidate_caches()


def resolve(setting: str, name: str, *arguments: str) -> Callable[..., Any]:
    """Import what `module:function` names, from the working folder too.

    Args:
        setting: Name of the setting that names it.
        name: `module:function`.
        arguments: What it is called with, by position.

    Raises:
        SettingError: If there is no such module or function, or it takes other arguments.
    """
    look_in(Path.cwd())
    module_name, _, function_name = name.partition(":")
    expected = "an importable module:function" + (f" that takes ({', '.join(arguments)})" if arguments else "")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
        inspect.signature(function).bind(*arguments)
    except (Exception, SystemExit) as error:  # whatever the module does; an exit would look like a finished run
        remedy = "Put the module into the working folder or the project's, or install it."
        got = f"{name!r} ({type(error).__name__}: {told_in_one_line(error)})"
        raise SettingError(setting, expected, got, remedy) from error
    return function


def call(setting: str, name: str, **arguments: Any) -> Any:
    """Return what a function named `module:function` makes of arguments, which it gets by position.

    Raises:
        SettingError: If it cannot be imported or called, or fails.
    """
    function = resolve(setting, name, *arguments)
    try:
        return function(*arguments.values())
    except SettingError:
        raise
    except (Exception, SystemExit) as error:
        got = f"{name!r} ({type(error).__name__}: {told_in_one_line(error)})"
        raise SettingError(setting, "a function that returns what it makes", got, "Correct its code.") from error


def sha256_of_source(setting: str, name: str, *arguments: str) -> str:
    """Return a hash of the module of `module:function` and of those beside it that it uses.

    Of installed libraries it knows nothing, but of the package that the module is in. Raises like `resolve`.
    """
    resolve(setting, name, *arguments)
    home = sys.modules[name.partition(":")[0]]
    sources: dict[str, str] = {}

    def visit(module: ModuleType | None) -> None:
        path = Path(getattr(module, "__file__", None) or "")
        if module is None or module.__name__ in sources or not path.is_file() or not _belongs_to(module, path, home):
            return
        sources[module.__name__] = hashlib.sha256(path.read_bytes()).hexdigest()
        for value in [*vars(module).values()]:
            owner = getattr(value, "__module__", None)
            visit(
                value if isinstance(value, ModuleType) else sys.modules.get(owner) if isinstance(owner, str) else None
            )

    visit(home)
    if len(sources) == 1:
        return sources[home.__name__]
    return hashlib.sha256(repr(sorted(sources.items())).encode()).hexdigest()


def _belongs_to(module: ModuleType, path: Path, home: ModuleType) -> bool:
    """Tell whether a module is of the same package as another one, or lies beside it."""
    package = home.__name__.partition(".")[0]
    beside = path.parent == Path(str(home.__file__)).parent and "site-packages" not in path.parts
    return beside or module.__name__ == package or module.__name__.startswith(f"{package}.")
