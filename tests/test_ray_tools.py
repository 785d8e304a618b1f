"""What the tools that kill workers and compare engines compute; they run Ray for minutes, on demand."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

pytest.importorskip("mlflow", reason="cells tell MLflow how long they took")

import engine_overhead
import kill_workers


def test_units_start_in_order_on_the_worker_that_is_free_first() -> None:
    seconds = [3.0, 1.0, 1.0, 1.0, 2.0]
    walls = {workers: engine_overhead.list_schedule(seconds, workers) for workers in (1, 2, 3, 64)}
    assert walls == {1: 8.0, 2: 5.0, 3: 3.0, 64: 3.0}
    assert engine_overhead.list_schedule([], 2) == 0.0


def test_ratios_are_those_inside_a_turn() -> None:
    engines = ["processes", "ray", "ray"]
    turns = [
        pd.DataFrame({"turn": turn, "engine": engines, "workers": [2, 2, 1], "command": [10.0, 11.0, 20.0]})
        for turn in range(2)
    ]
    turns[1]["command"] *= 3  # the machine was busy
    told = engine_overhead.summarise(pd.concat(turns).assign(cells=1.0, busy=0.5)).set_index(["engine", "workers"])
    assert told.loc[("ray", 2), "command to processes"] == "1.10 (1.10 to 1.10)"
    assert told.loc[("ray", 2), "command"] == "22.00 (11.00 to 33.00)"
    assert told.loc[("ray", 1), "command to processes"] == "nan (nan to nan)"


def test_what_one_side_lacks_is_a_difference_too(tmp_path: Path) -> None:
    place = kill_workers.Place(tmp_path / "data")
    for version in ("2020", "2021"):
        table = place.data / "07_tables" / "colored" / "ablation.csv" / version / "ablation.csv"
        table.parent.mkdir(parents=True)
        table.write_text(version)
    (place.data / "stores" / "cell" / "1.partial").mkdir(parents=True)
    (place.data / "stores" / "cell" / "1.partial" / "cell.json").write_text("{}")
    (place.data / "stores" / "cell" / ".1.lock").touch()
    assert place.unfinished() == ["cell"]

    before = place.digests()
    assert set(before) == {"07_tables/colored/ablation.csv", "stores/cell/1.partial/cell.json"}
    table.write_text("changed")
    (place.data / "stores" / "cell" / "1.partial").rename(place.data / "stores" / "cell" / "1")
    assert kill_workers.differences(before, place.digests()) == [
        "07_tables/colored/ablation.csv",
        "stores/cell/1.partial/cell.json",
        "stores/cell/1/cell.json",
    ]
    assert kill_workers.differences(before, before) == []
