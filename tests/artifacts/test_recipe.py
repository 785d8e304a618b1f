"""Recipes: where in the store their artifacts are kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from skdcgn_pipeline.artifacts.recipe import Recipe, Run, Store
from skdcgn_pipeline.artifacts.store import Artifact, ArtifactWriter


@dataclass(frozen=True)
class Note(Recipe[Artifact]):
    kind: ClassVar[str] = "note"

    text: str

    def inputs(self) -> dict[str, str]:
        return {"text": self.text}

    def build(self, writer: ArtifactWriter) -> None:
        writer.write_json("note.json", self.text)


class NoteOfStudents(Note):
    folder: ClassVar[str] = "student"


def test_an_artifact_is_kept_by_its_kind_or_beside_what_it_belongs_to(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for recipe, folder in ((Note("a"), "note"), (NoteOfStudents("a"), "student")):
        artifact = Run(store).make(recipe)
        assert artifact.directory == store.path(recipe)
        assert artifact.directory.parent == tmp_path / folder
        assert artifact.read_json("note.json") == "a"
    assert Note("a").identity_inputs == NoteOfStudents("a").identity_inputs
