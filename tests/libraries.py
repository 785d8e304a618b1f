"""Skip where a library is absent."""

from __future__ import annotations

from importlib.util import find_spec

import pytest


def needs(*libraries: str, extra: str) -> pytest.MarkDecorator:
    """Skip without one of these, which are not imported to find out: by every process that collects the tests."""
    absent = [name for name in libraries if find_spec(name) is None]
    return pytest.mark.skipif(bool(absent), reason=f"needs {', '.join(absent)} (the extra {extra}), which is absent")
