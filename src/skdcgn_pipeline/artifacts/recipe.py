"""Recipes: what a kind of artifact is, how it is computed and how it is read; the store keeps what they make."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from skdcgn_pipeline.artifacts.store import Artifact, ArtifactWriter, artifact_path, build_artifact, is_finished
from skdcgn_pipeline.parameters import Compute
from skdcgn_pipeline.runtime.engine import Engine, LocalEngine, OpenWork, UnitT
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
    """Return what a recipe makes, kept in a folder; raises as `build_artifact`."""
    return recipe.read(build_artifact(folder, recipe.identity_inputs, recipe.build))


@dataclass(frozen=True)
class Store:
    """Where finished artifacts are kept: `<root>/<folder>/<identity>`.

    Attributes:
        root: The directory of all kinds.
    """

    root: Path

    def make(self, recipe: Recipe[ResultT]) -> ResultT:
        """Return what a recipe makes: reuse it, continue it, or build it; raises as `build_artifact`."""
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
        asked = zip(recipes, paths, strict=True)
        units = {f"{recipe.kind} {path.name}": recipe for recipe, path in asked if not is_finished(path)}
        self.work_side_by_side(partial(_open_store, self.store), units, "side by side", "artifacts")
        return paths

    def work_side_by_side(
        self, open_work: OpenWork[UnitT, object], units: Mapping[str, UnitT], title: str, counted: str
    ) -> None:
        """Work on units by the engine; what comes of them is in the store.

        Args:
            open_work: As in `Engine.outcomes`; it and the units are pickled for workers.
            units: By what errors call them.
            title, counted: What the progress is called, and what it counts.

        Raises:
            UnitFailedError: Naming the units that failed, once the others are done.
            InterruptedRunError: If a stop was requested; every unit keeps what it has.
        """
        names, progress, errors = [*units], Progress(title, len(units), counted), list[str]()
        with closing(self.engine.outcomes(partial(_open_quietly, open_work), [*units.values()])) as outcomes:
            for number, outcome in outcomes:
                progress.advance()
                if outcome.error:
                    errors.append(f"\n  - {names[number]}: {outcome.error}")
        progress.finish()
        if errors:
            raise UnitFailedError(f"{len(errors)} of {len(units)} failed; the others are done:{''.join(errors)}")


def _open_store(store: Store) -> Callable[[Recipe[Any]], object]:
    return store.make


def _open_quietly(open_work: OpenWork[UnitT, object]) -> Callable[[UnitT], None]:
    """Return what works on a unit where work is done, and gives nothing back: the result stays in the store."""
    work = open_work()

    def work_quietly(unit: UnitT) -> None:
        with without_progress():
            work(unit)

    return work_quietly
