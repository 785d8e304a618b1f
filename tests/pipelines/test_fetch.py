"""The fetch stage: what an environment needs, from a mirror or by hand. No network."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pandas as pd
import pytest

from pipelines.running import Place
from skdcgn_pipeline.artifacts.recipe import Run, Store
from skdcgn_pipeline.images import assets
from skdcgn_pipeline.images.assets import refuse_missing
from skdcgn_pipeline.parameters import Fetch
from skdcgn_pipeline.pipelines.fetch.nodes import fetch_assets
from skdcgn_pipeline.runtime.errors import SettingError

CONTENT = b"weights"
URL = "http://127.0.0.1:9/never-asked"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Settings of a table of one file, which the mirror has, and one that must be got by hand."""
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "weights.bin").write_bytes(CONTENT)
    digest = hashlib.sha256(CONTENT).hexdigest()
    entries = {
        "weights.bin": {"group": "free", "licence": "MIT", "url": URL, "sha256": digest, "size": len(CONTENT)},
        "images.tar": {"group": "account", "licence": "terms", "by_hand": "Sign in. Put it into {folder}."},
    }
    lines = [
        f'["{name}"]\n' + "\n".join(f"{key} = {json.dumps(value)}" for key, value in entry.items())
        for name, entry in entries.items()
    ]
    (tmp_path / "own.toml").write_text("\n".join(lines))
    monkeypatch.setattr(assets, "PACKAGED_TABLE", tmp_path / "own.toml")
    return {"mirror": str(tmp_path / "mirror")}


def saved(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as the catalog gives it to the next node."""
    table.to_csv(path, index=False)
    return pd.read_csv(path)


def test_the_nodes_fetch_and_refuse_what_is_missing(own, tmp_path):
    table = fetch_assets(
        Run(Store(tmp_path / "stores"), assets=str(tmp_path / "assets")), Fetch(groups=("free", "account"), **own)
    )
    assert table["state"].tolist() == ["downloaded", "by hand"]
    assert (tmp_path / "assets" / "weights.bin").read_bytes() == CONTENT
    with pytest.raises(SettingError, match=r"images\.tar, which must be got by hand") as caught:
        refuse_missing(saved(tmp_path / "table.csv", table))
    assert f"Sign in. Put it into {tmp_path / 'assets'}." in str(caught.value)
    (tmp_path / "assets" / "images.tar").write_bytes(b"images")
    table = fetch_assets(
        Run(Store(tmp_path / "stores"), assets=str(tmp_path / "assets")), Fetch(groups=("free", "account"), **own)
    )
    refuse_missing(saved(tmp_path / "table.csv", table))
    assert table["state"].tolist() == ["there", "there"]


def test_an_environment_that_needs_nothing_is_done(tmp_path):
    table = fetch_assets(Run(Store(tmp_path / "stores"), assets=str(tmp_path / "assets")), Fetch())
    refuse_missing(saved(tmp_path / "table.csv", table))
    assert len(table) == 0
    assert not (tmp_path / "assets").exists()


@pytest.mark.slow
def test_the_table_is_kept_and_logged_even_if_something_must_be_got_by_hand(place: Place, own, tmp_path):
    params = {"fetch": {"groups": ["free", "account"], **own}}
    with pytest.raises(SettingError, match="must be got by hand"):
        place.run(params=params, assets=tmp_path / "assets", pipeline_names=["fetch"])
    table = pd.read_csv(place.saved("07_tables/assets.csv"))
    assert dict(zip(table["name"], table["state"], strict=True)) == {
        "weights.bin": "downloaded",
        "images.tar": "by hand",
    }
    (run,) = (run for run in place.runs() if run.data.params.get("fetch.mirror") == own["mirror"])
    assert run.info.status == "FAILED"
    assert (tmp_path / "assets" / "weights.bin").read_bytes() == CONTENT
