"""Sharing networks in folders and on the Hub, without a network."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.students.trio import StudentCGN
from skdcgn_pipeline.vocabulary import MECHANISMS

SMALL = {"architecture": "compact", "width": [4, 6, 4], "embedding_dim": 4}


@pytest.fixture
def students() -> StudentCGN:
    return StudentCGN(4, 3, 8, dict.fromkeys(MECHANISMS, SMALL)).eval()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A Hub that is a folder."""
    library = pytest.importorskip("huggingface_hub", reason="needs huggingface_hub (the hub extra), which is absent")
    root = tmp_path / "hub"

    class FolderApi:
        def __init__(self, token=None) -> None:
            pass

        def create_repo(self, repo_id, private=None, exist_ok=False):
            (root / repo_id).mkdir(parents=True, exist_ok=exist_ok)
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, *, repo_id, folder_path, commit_message, **options):
            shutil.copytree(folder_path, root / repo_id, dirs_exist_ok=True)
            return f"commit: {commit_message}"

    def download(repo_id, filename, revision=None):
        if not (root / repo_id / filename).exists():
            raise FileNotFoundError(f"no {filename} in {repo_id} at {revision}")
        return str(root / repo_id / filename)

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", FolderApi)
    monkeypatch.setattr(library, "hf_hub_download", download)
    return root


def test_what_was_pushed_is_loaded_by_its_id(students, hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert students.push_to_hub("owner/students", commit_message="first") == "commit: first"
    assert sorted(path.name for path in (hub / "owner/students").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    card = (hub / "owner/students/README.md").read_text()
    assert 'StudentCGN.from_pretrained("owner/students")' in card
    assert card.startswith("---\nlibrary_name: skdcgn_pipeline\nlicense: mit\n")
    loaded = StudentCGN.from_pretrained("owner/students", revision="main")
    torch.testing.assert_close(loaded.sample(3, seed=1)[0], students.sample(3, seed=1)[0])
    assert StudentCGN.from_pretrained(hub / "owner/students").num_classes == 3


def test_a_folder_comes_before_a_repository_of_the_same_name(students, hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    students.save_pretrained("owner/students")
    assert StudentCGN.from_pretrained("owner/students").noise_dim == 4


def test_an_absent_repository_is_told_with_its_reason(hub):
    with pytest.raises(SettingError, match=r"'owner/absent' on the Hub, got FileNotFoundError: no config\.json"):
        StudentCGN.from_pretrained("owner/absent")


def test_without_the_library_the_extra_is_named(students, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(SettingError, match=r"pip install \"skdcgn_pipeline\[hub\]\""):
        students.push_to_hub("owner/students")
    with pytest.raises(SettingError, match=r"pip install \"skdcgn_pipeline\[hub\]\""):
        StudentCGN.from_pretrained("owner/students")


def test_what_is_no_id_is_a_folder(monkeypatch):
    monkeypatch.setattr(socket, "socket", lambda *args, **options: pytest.fail("the network was asked"))
    for name in ("absent", "/absent/folder", "a/b/c", Path("owner/absent")):
        with pytest.raises(SettingError, match="students: expected pretrained students in"):
            StudentCGN.from_pretrained(name)


def test_importing_students_does_not_import_the_hub():
    code = "import skdcgn_pipeline.students.trio, sys; print('huggingface_hub' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert run.stdout.strip() == "False", run.stderr
