"""Recipes: what a kind of artifact is, how it is computed and how it is read; the store keeps what they make."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from skdcgn_pipeline.artifacts.store import Artifact, ArtifactWriter, artifact_path, build_artifact, is_finished
from skdcgn_pipeline.parameters import Compute
from skdcgn_pipeline.runtime.engine import Engine, LocalEngine
from skdcgn_pipeline.runtime.errors import UnitFailedError
from skdcgn_pipeline.runtime.progress import Progress, without_progress

ResultT = TypeVar("ResultT")


class Recipe(ABC, Generic[ResultT]):
    """How one kind of artifact is made; subclasses are frozen dataclasses whose fields say what this one is made of.

    Attributes:
        kind: Name of the kind, part of every identity.
        folder: Where in the store it is kept, beside what belongs to it; by default in a folder of its kind.
        version: Raised whenever `build` computes something else from the same inputs.
        reader: Makes of a finished artifact what users of this kind work with; by default it stays as it is.
    """

    kind: ClassVar[str]
    folder: ClassVar[str] = ""
    version: ClassVar[int] = 1
    reader: ClassVar[Any] = staticmethod(lambda artifact: artifact)

    @abstractmethod
    def inputs(self) -> dict[str, Any]:
        """Return everything that the content depends on, JSON-able."""

    @abstractmethod
    def build(self, writer: ArtifactWriter) -> None:
        """Compute the content; files that the writer has already are skipped, checkpoints continue."""

    def read(self, artifact: Artifact) -> ResultT:
        """Return the finished artifact as what users of this kind work with."""
        return self.reader(artifact)

    @property
    def identity_inputs(self) -> dict[str, Any]:
        """The inputs with kind and version: what the store names the artifact after."""
        return {"kind": self.kind, "version": self.version, **self.inputs()}


def build_in(folder: Path, recipe: Recipe[ResultT]) -> ResultT:
    """Return what a recipe makes, kept in a folder; raises like `Store.make`."""
    return recipe.read(build_artifact(folder, recipe.identity_inputs, recipe.build))


@dataclass(frozen=True)
class Store:
    """Where finished artifacts are kept: `<root>/<folder>/<identity>`.

    Attributes:
        root: The directory of all kinds.
    """

    root: Path

    def make(self, recipe: Recipe[ResultT]) -> ResultT:
        """Return what a recipe makes: reuse it, continue it, or build it.

        Raises:
            SettingError: If the disk is full or the store cannot be written.
        """
        return build_in(self._folder_of(recipe), recipe)

    def folder(self, name: str) -> Path:
        """Return a folder of artifacts."""
        return self.root / name

    def _folder_of(self, recipe: Recipe[Any]) -> Path:
        return self.folder(recipe.folder or recipe.kind)

    def path(self, recipe: Recipe[Any]) -> Path:
        """Return where `make` keeps what a recipe makes, whether it is there or not."""
        return artifact_path(self._folder_of(recipe), recipe.identity_inputs)


@dataclass(frozen=True)
class Run:
    """What every computation of a run shares, passed as one value.

    Attributes:
        store: Where finished work is kept.
        seed: Base seed.
        compute: Device and precision.
        assets: The asset folder.
        engine: Runs independent units of work.
    """

    store: Store
    seed: int = 0
    compute: Compute = field(default_factory=Compute)
    assets: str = ""
    engine: Engine = field(default_factory=LocalEngine)

    def make(self, recipe: Recipe[ResultT]) -> ResultT:
        """Return what a recipe makes, see `Store.make`."""
        return self.store.make(recipe)

    def make_side_by_side(self, recipes: Sequence[Recipe[Any]]) -> list[Path]:
        """Make what is not there yet of some recipes by the engine; returns where each is kept.

        Recipes are pickled for workers, so they hold artifacts, no images and networks.

        Raises:
            UnitFailedError: Naming the recipes that failed, once the others are done.
            InterruptedRunError: If a stop was requested; every recipe keeps what it has.
        """
        paths = [self.store.path(recipe) for recipe in recipes]
        to_do = [recipe for recipe, path in zip(recipes, paths, strict=True) if not is_finished(path)]
        progress = Progress("side by side", len(to_do), "artifacts")
        errors: list[str] = []
        with closing(self.engine.outcomes(partial(_open_store, self.store), to_do)) as outcomes:
            for number, outcome in outcomes:
                progress.advance()
                if outcome.error:
                    errors.append(f"\n  - {to_do[number].kind} {self.store.path(to_do[number]).name}: {outcome.error}")
        progress.finish()
        if errors:
            raise UnitFailedError(f"{len(errors)} of {len(recipes)} failed; the others are done:{''.join(errors)}")
        return paths


def _open_store(store: Store) -> Callable[[Recipe[Any]], None]:
    """Return what makes a recipe where work is done, which is all that comes of it: the result stays in the store."""

    def make(recipe: Recipe[Any]) -> None:
        with without_progress():
            store.make(recipe)

    return make
