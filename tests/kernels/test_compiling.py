"""Compiled loops are kept for later processes, by their sources; nothing depends on what is kept."""

from __future__ import annotations

from typing import Any

import pytest

from skdcgn_pipeline.kernels import compiling


def add(first: Any, second: Any) -> Any:
    return first + second


def found(function: Any) -> bool:
    """Compile as a new process does, and tell whether what it needs was found."""
    dispatcher = compiling.compiled()(function)
    assert dispatcher(2, 3) == 5
    assert len(dispatcher.stats.cache_hits) + len(dispatcher.stats.cache_misses) == 1
    return bool(dispatcher.stats.cache_hits)


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """Where loops are kept."""
    monkeypatch.setattr(compiling.config, "CACHE_DIR", str(tmp_path / "kept"))
    yield tmp_path / "kept"
    assert str(tmp_path / "kept") == compiling.config.CACHE_DIR


@pytest.mark.parametrize("damaged", ["nbi", "nbc"])
def test_what_is_compiled_is_found_again_unless_it_is_damaged(kept, damaged):
    assert not found(add)
    assert found(add)
    (file,) = kept.rglob(f"*add*.{damaged}")
    file.write_bytes(file.read_bytes()[:20])
    assert not found(add)


def test_other_sources_have_another_folder(tmp_path, monkeypatch):
    for number, source in enumerate(("LANES = 8", "LANES = 16")):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "lanes.py").write_text(source)
        monkeypatch.setattr(compiling, "__file__", str(folder / "compiling.py"))
        assert not found(add)
        assert found(add)


def test_what_cannot_be_kept_is_compiled(monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compiling.FunctionCache, "save_overload", refuse)
    assert not found(add)
    assert not found(add)


def test_loops_are_compiled_where_there_is_no_folder_to_write_to(monkeypatch):
    def refuse(function):
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(compiling, "_Cache", refuse)
    assert compiling.compiled()(add)(2, 3) == 5


def test_a_function_made_inside_another_is_not_kept(kept):
    number = 2
    assert compiling.compiled()(lambda a: a + number)(3) == 5
    assert not list(kept.rglob("*.nb*"))
