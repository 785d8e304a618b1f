"""The composition study: run its cells side by side, remember what is done, compare with the reference."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from skdcgn_pipeline.artifacts.recipe import build_in
from skdcgn_pipeline.artifacts.store import MANIFEST, Artifact, artifact_path, build_json, write_json
from skdcgn_pipeline.classifiers.accuracy import measure_classifier
from skdcgn_pipeline.classifiers.classification import TrainingSet, classifier_seed, splits_of
from skdcgn_pipeline.classifiers.ensemble_study import (
    EnsembleImages,
    ensemble_cell_inputs,
    judge_with_ensemble,
    read_images,
)
from skdcgn_pipeline.classifiers.training import build_classifier
from skdcgn_pipeline.counterfactuals.pools import CounterfactualPool
from skdcgn_pipeline.images.batches import DrawBatch, draw_from_images, draw_from_split
from skdcgn_pipeline.images.biased import BiasedImages
from skdcgn_pipeline.metrics.cost import count_parameters
from skdcgn_pipeline.metrics.generation import measure_likeness
from skdcgn_pipeline.parameters import ClassifierFit, Compute, Ensemble, Teacher, Transformations
from skdcgn_pipeline.runtime.compute import keep_freed_memory
from skdcgn_pipeline.runtime.errors import InterruptedRunError, SettingError
from skdcgn_pipeline.runtime.progress import Progress, clear_stop, request_stop, stop_requested, without_progress
from skdcgn_pipeline.runtime.seeding import derive_seed
from skdcgn_pipeline.runtime.threads import computing_on
from skdcgn_pipeline.samples.drawing import SampleShards, draw_composites, draw_samples
from skdcgn_pipeline.students.recipes import StudentRecipe, StudentsArtifact, StudentsRecipe
from skdcgn_pipeline.studies.cells import Cell, CellData
from skdcgn_pipeline.teachers.cgn import MnistCGN
from skdcgn_pipeline.teachers.teacher import IdentifiedTeacher, load_teacher, open_identified_teacher
from skdcgn_pipeline.teachers.training import WEIGHTS_FILE, build_teacher
from skdcgn_pipeline.vocabulary import COMPOSITE, MECHANISMS, STUDIES

logger = logging.getLogger(__name__)

ROWS_PER_SHARD = 5000
# Their training images, or some of them, have the label of the shape alone.
STUDIES_OF_ONE_LABEL = frozenset({"counts", "mixing", "stage", "monolith"})
POLL_SECONDS = 0.2
DURATIONS_FILE = "cell_durations.json"
# What one core of a current server does, for estimates where nothing of the kind has been done yet.
CLASSIFIER_IMAGES_PER_SECOND = 2500
DISTILLATION_STEPS_PER_SECOND = 40
TEACHER_IMAGES_PER_SECOND = 400


@dataclass(frozen=True)
class Surroundings:
    """Where everything is that cells need; small and picklable, so that every process can open it.

    Attributes:
        stores: Directory of all stores.
        biased_images, teacher_samples, student_samples, heldout_samples: Directories of artifacts; None
            where they are not there yet.
        teacher: Which teacher, for the study that trains it on.
        style_fit: How the style network of such a training is trained.
        variant: The bias variant.
        assets: The asset folder.
        fit: How classifiers are trained.
        num_pool_images_per_class: Of pools that are drawn for a cell.
        num_teacher_images: Of a training of the teacher that goes on.
        seed: Base seed.
        compute: Device and precision.
        ensemble: How ensembles are trained and what on, where these judge cells instead of digit classifiers.
    """

    stores: Path
    biased_images: Path | None
    teacher_samples: Path | None
    student_samples: Path | None
    heldout_samples: Path | None
    teacher: Teacher
    style_fit: ClassifierFit
    variant: str
    assets: str
    fit: ClassifierFit
    num_pool_images_per_class: int
    num_teacher_images: int
    seed: int
    compute: Compute
    ensemble: Ensemble | None = None

    @property
    def complete(self) -> bool:
        """Whether everything is there."""
        samples = (self.teacher_samples, self.student_samples, self.heldout_samples)
        return None not in samples and (self.biased_images is not None or self.ensemble is not None)

    @property
    def fit_of_ensemble(self) -> Ensemble | None:
        """How a cell's ensemble is trained: as all are, at the budget of the study."""
        if self.ensemble is None:
            return None
        budget = {
            "num_images": self.fit.num_images,
            "batch_size": self.fit.batch_size,
            "counterfactual_batch_size": self.fit.batch_size,
            "checkpoint_every_steps": self.fit.checkpoint_every_steps,
        }
        return self.ensemble.model_copy(update={"fit": self.ensemble.fit.model_copy(update=budget)})


@dataclass(frozen=True)
class Unit:
    """One classifier of one cell: what is computed, kept and repeated as a whole.

    Attributes:
        cell: The cell.
        number: Number of the seed, from 0.
    """

    cell: Cell
    number: int


@dataclass(frozen=True)
class UnitResult:
    """What came of a unit.

    Attributes:
        unit: Which.
        result: `accuracy` (rows of split, subset, accuracy, num_images), `confusion` per split and `facts`;
            empty where it failed.
        error: Why it failed; empty where it did not.
        seconds: How long it took; None where it was done before.
    """

    unit: Unit
    result: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    seconds: float | None = None


@dataclass(frozen=True)
class _Source:
    """Images of mechanisms that are there or can be made.

    Attributes:
        inputs: What they depend on; known without making them.
        samples: Makes or opens them.
        facts: Measures that go with them; only called when they are made.
    """

    inputs: dict[str, Any]
    samples: Callable[[], SampleShards]
    facts: Callable[[], dict[str, Any]] = dict


class Workplace:
    """What the units of one process need, opened once.

    Args:
        surroundings: Where everything is.
    """

    def __init__(self, surroundings: Surroundings) -> None:
        self.surroundings = surroundings

        def opened(directory: Path | None) -> Artifact:
            assert directory is not None
            # Checked by the process that named the directories.
            return Artifact.open(directory, verify=False)

        self.ensemble = surroundings.fit_of_ensemble
        if self.ensemble is None:
            self.biased_images = BiasedImages(opened(surroundings.biased_images))
            self.splits = splits_of(self.biased_images)
        self.samples = {
            "teacher": SampleShards(opened(surroundings.teacher_samples)),
            "students": SampleShards(opened(surroundings.student_samples)),
        }
        self.heldout = SampleShards(opened(surroundings.heldout_samples))
        self.num_classes = self.samples["teacher"].num_classes
        self._pools: dict[tuple[str, ...], CounterfactualPool] = {}
        self._train_split = cache(lambda: self.biased_images.split("train"))

    def store(self, kind: str) -> Path:
        """Return the directory of one kind of artifacts."""
        return self.surroundings.stores / kind

    # --- what a cell's classifiers are trained on ---------------------------------------------------

    def training_set(self, unit: Unit) -> tuple[TrainingSet, Callable[[], dict[str, Any]]]:
        """Return what the classifier of a unit is trained on, and what is measured of its generator.

        Nothing is made before `source` of the training set is called.
        """
        data, number = unit.cell.data, unit.number
        if data.monolith is not None:
            return self._monolith_set(unit)
        assert data.sources is not None
        sources = {m: self._source(getattr(data.sources, m), data, number) for m in MECHANISMS}
        inputs = {
            "sources": {mechanism: source.inputs for mechanism, source in sources.items()},
            "composition": data.composition.identity(),
        }
        if data.dataset_size:
            inputs["fixed"] = {"num_images": data.dataset_size, "per_shape": data.per_shape}
        if data.originals_share:
            inputs["originals"] = {"share": data.originals_share, "biased_images": self.biased_images.artifact.identity}

        def source(seed: int) -> DrawBatch:
            pool = self._pool({mechanism: own.samples() for mechanism, own in sources.items()})
            purpose = "classifier-counterfactuals"
            if data.dataset_size:
                draw = pool.draw_fixed_batch(data.composition, data.dataset_size, data.per_shape, seed, purpose)
            elif self.ensemble is not None:  # whose heads learn the labels of all mechanisms
                draw = pool.draw_labelled_batch(data.composition, seed, purpose)
            else:
                draw = pool.draw_batch(data.composition, seed, purpose)
            if not data.originals_share:
                return draw
            return mix_batches(
                draw, draw_from_split(self._train_split(), seed, "mixed-originals"), data.originals_share
            )

        training_set = TrainingSet(unit.cell.name, inputs, self.num_classes, source)
        # Of a mixture nothing is measured: no number would be that of the whole.
        whole = len({getattr(data.sources, mechanism) for mechanism in MECHANISMS}) == 1
        return training_set, sources["shape"].facts if whole else dict

    def _source(self, name: str, data: CellData, number: int) -> _Source:
        if name == "own":
            return self._own_students(data, number)
        if name == "teacher" and data.teacher_transformations is not None:
            return self._teacher_trained_on(data.teacher_transformations, number)
        samples = self.samples[name]
        return _Source({"samples": samples.artifact.identity}, lambda: samples, partial(self._facts_of, name))

    @cached_property
    def images(self) -> EnsembleImages:
        """The real images that ensembles learn from and are measured on."""
        assert self.ensemble is not None
        return read_images(self.store("measure"), self.ensemble, self.surroundings.assets)

    def _facts_of(self, name: str) -> dict[str, Any]:
        if name == "teacher":
            return {"num_parameters": count_parameters(self._teacher.generator)}
        return {}

    @cached_property
    def _teacher(self) -> IdentifiedTeacher:
        own = self.surroundings
        return open_identified_teacher(own.teacher, own.variant, own.assets)

    def _own_students(self, data: CellData, number: int) -> _Source:
        own, teacher_samples = self.surroundings, self.samples["teacher"]
        assert data.students is not None
        settings = {mechanism: getattr(data.students, mechanism) for mechanism in MECHANISMS}
        seed = derive_seed(own.seed, "ablation-students", number)

        def students() -> StudentsArtifact:
            store = self.store("student")
            trio = {
                mechanism: build_in(
                    store, StudentRecipe(mechanism, teacher_samples, settings[mechanism], seed, own.compute, own.assets)
                )
                for mechanism in MECHANISMS
            }
            return build_in(store, StudentsRecipe(trio))

        def samples() -> SampleShards:
            trio = students()
            return self._draw_pool(trio.open(), {"students": trio.artifact.identity}, seed)

        def facts() -> dict[str, Any]:
            opened = students().open()
            return {"num_parameters": count_parameters(opened), **measure_likeness(opened, self.heldout)}

        inputs = {
            "teacher_samples": teacher_samples.artifact.identity,
            "students": {m: settings[m].identity() for m in MECHANISMS},
            "num_pool_images_per_class": own.num_pool_images_per_class,
            "heldout_samples": self.heldout.artifact.identity,
            "seed": seed,
        }
        return _Source(inputs, samples, facts)

    def _teacher_trained_on(self, transformations: Transformations, number: int) -> _Source:
        own = self.surroundings
        fit = own.teacher.fit.model_copy(update={"num_images": own.num_teacher_images})
        seed = derive_seed(own.seed, "ablation-teacher", number)
        initial = self._teacher

        def samples() -> SampleShards:
            trained = build_teacher(
                self.store("teacher"),
                self.biased_images,
                fit,
                own.style_fit,
                seed,
                own.compute,
                own.assets,
                transformations=transformations,
                initial=initial,
            )
            generator = load_teacher("mnist_cgn", trained.path(WEIGHTS_FILE))
            return self._draw_pool(generator, {"trained teacher": trained.identity}, seed)

        inputs = {
            "biased_images": self.biased_images.artifact.identity,
            "initial": initial.identity,
            "fit": fit.model_dump(mode="json", exclude={"checkpoint_every_steps"}),
            "style_fit": own.style_fit.model_dump(mode="json", exclude={"checkpoint_every_steps"}),
            "transformations": transformations.model_dump(mode="json"),
            "num_pool_images_per_class": own.num_pool_images_per_class,
            "seed": seed,
        }
        return _Source(inputs, samples)

    def _draw_pool(self, generator: Any, identity: dict[str, Any], seed: int) -> SampleShards:
        own = self.surroundings
        sizes = own.num_pool_images_per_class, ROWS_PER_SHARD
        classes = self.samples["teacher"].classes
        return draw_samples(
            self.store("sample"), generator, identity, *sizes, seed, own.compute, "pool", classes=classes
        )

    def _pool(self, samples: Mapping[str, SampleShards]) -> CounterfactualPool:
        key = tuple(own.artifact.identity for own in samples.values())
        if key not in self._pools:
            # Only pools that several cells share are kept.
            kept = {own.artifact.identity for own in self.samples.values()}
            pool = CounterfactualPool.mapped(self.store("mapped"), samples)
            if not set(key) <= kept:
                return pool
            self._pools[key] = pool
        return self._pools[key]

    def _monolith_set(self, unit: Unit) -> tuple[TrainingSet, Callable[[], dict[str, Any]]]:
        own, settings = self.surroundings, unit.cell.data.monolith
        assert settings is not None
        teacher_samples = self.samples["teacher"]
        seed = derive_seed(own.seed, "ablation-students", unit.number)
        recipe = StudentRecipe(COMPOSITE, teacher_samples, settings, seed, own.compute, own.assets)
        build = partial(build_in, self.store("student"), recipe)

        def source(classifier_seed: int) -> DrawBatch:
            sizes = own.num_pool_images_per_class, ROWS_PER_SHARD
            images, labels = draw_composites(self.store("sample"), build(), *sizes, seed, own.compute).read_labelled()
            return draw_from_images(images, labels, classifier_seed, "classifier-rows")

        inputs = {
            "monolith": settings.identity(),
            "teacher_samples": teacher_samples.artifact.identity,
            "num_pool_images_per_class": own.num_pool_images_per_class,
            "seed": seed,
        }
        training_set = TrainingSet(unit.cell.name, inputs, self.num_classes, source)
        return training_set, lambda: {"num_parameters": count_parameters(build().open())}

    # --- units ---------------------------------------------------------------------------------------

    def inputs_of(self, unit: Unit) -> dict[str, Any]:
        """Return everything that the result of a unit depends on."""
        own, training = self.surroundings, self.training_set(unit)[0].inputs
        seed = classifier_seed(own.seed, unit.number)
        if self.ensemble is not None:
            return ensemble_cell_inputs(self.images, training, self.ensemble, seed, own.compute)
        return {
            "kind": "ablation cell",
            "training": training,
            "fit": own.fit.model_dump(mode="json", exclude={"checkpoint_every_steps"}),
            "seed": seed,
            "compute": own.fit.computing(own.compute).model_dump(),
            "biased_images": self.biased_images.artifact.identity,
            "splits": sorted(self.splits),
        }

    def path_of(self, unit: Unit) -> Path:
        """Return the directory of a unit's result, whether it is there or not."""
        return artifact_path(self.store("cell"), self.inputs_of(unit))

    def is_done(self, unit: Unit) -> bool:
        """Tell whether a unit's result is there."""
        return (self.path_of(unit) / MANIFEST).is_file()

    def run(self, unit: Unit) -> dict[str, Any]:
        """Return the result of a unit: compute it, continue it, or reuse it.

        Raises:
            InterruptedRunError: If a stop was requested; what was done is saved.
        """
        own = self.surroundings

        def compute() -> dict[str, Any]:
            training_set, facts = self.training_set(unit)
            seed = classifier_seed(own.seed, unit.number)
            title = f"{unit.cell.study}, {unit.cell.name}, seed {unit.number}"
            if self.ensemble is not None:
                draw = partial(training_set.source, seed)
                rows = judge_with_ensemble(
                    self.store("ensemble"),
                    self.images,
                    training_set.inputs,
                    draw,
                    self.ensemble,
                    seed,
                    own.compute,
                    title,
                )
                return {"accuracy": rows, "confusion": {}, "facts": facts()}
            _, classifier = build_classifier(
                self.store("classifier"),
                training_set.inputs,
                partial(training_set.source, seed),
                own.fit,
                seed,
                own.compute,
                training_set.num_classes,
                title=title,
            )
            computing = own.fit.computing(own.compute)
            accuracy: list[dict[str, Any]] = []
            confusion = {}
            for name, read in self.splits.items():
                rows, confusion[name] = measure_classifier(classifier, read(), computing, self.num_classes)
                accuracy += [{"split": name, **row} for row in rows]
            return {"accuracy": accuracy, "confusion": confusion, "facts": facts()}

        return build_json(self.store("cell"), self.inputs_of(unit), compute)

    def draw_examples(self, unit: Unit, num_images: int) -> torch.Tensor:
        """Return some images [N, 3, H, W] in [-1, 1] that the classifiers of a cell are trained on."""
        training_set, _ = self.training_set(unit)
        # The same seed for all cells: where they share a pool, the same shapes, textures and backgrounds.
        return training_set.source(derive_seed(self.surroundings.seed, "ablation-examples"))(0, num_images)[0]


def mix_batches(first: DrawBatch, second: DrawBatch, share: float) -> DrawBatch:
    """Return a function that draws batches of which `share` come from `second`, rounded to whole images."""

    def draw(step: int, batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
        num_second = round(share * batch_size)
        parts = [
            draw_part(step, size)
            for draw_part, size in ((first, batch_size - num_second), (second, num_second))
            if size
        ]
        images, labels = zip(*parts, strict=True)
        return torch.cat(images), torch.cat(labels)

    return draw


# --- running -----------------------------------------------------------------------------------------

_workplace: Workplace | None = None  # of a worker process


def run_units(
    units: Sequence[Unit],
    surroundings: Surroundings,
    workers: int,
    tell: Callable[[UnitResult], None],
    title: str = "ablation",
) -> list[UnitResult]:
    """Run units, several at a time in processes of their own; each computes on one thread.

    So results do not depend on the number of workers. A unit that fails is told and the rest go on.

    Args:
        units: What to run.
        surroundings: Where everything is.
        workers: Number of processes; 1 works in this one.
        tell: Called in this process with every result as it comes.
        title: Shown in the progress.

    Returns:
        The results in the order of `units`.

    Raises:
        InterruptedRunError: If a stop was requested; every unit keeps what it has.
    """
    workplace = Workplace(surroundings)
    results: dict[int, UnitResult] = {}
    to_do = []
    for number, unit in enumerate(units):
        if workplace.is_done(unit):
            results[number] = UnitResult(unit, workplace.run(unit))
            tell(results[number])
        else:
            to_do.append(number)
    progress = Progress(title, len(units), "classifiers", len(results))
    run = _run_here if workers == 1 else partial(_run_side_by_side, workers=workers)
    for number, result in run([(number, units[number]) for number in to_do], workplace):
        results[number] = result
        if result.error:
            logger.error("%s, %s, seed %d failed: %s", title, result.unit.cell.name, result.unit.number, result.error)
        elif result.seconds is not None:
            _remember_duration(surroundings, result)
        tell(result)
        progress.advance()
        if stop_requested() and len(results) < len(units):
            progress.interrupt()
    progress.finish()
    return [results[number] for number in range(len(units))]


def _attempt(workplace: Workplace, unit: Unit) -> UnitResult:
    """Run one unit and return what came of it.

    Raises:
        InterruptedRunError: If a stop was requested.
    """
    start = time.perf_counter()
    try:
        result = workplace.run(unit)
    except InterruptedRunError:
        raise
    except Exception as error:  # noqa: BLE001  (whatever it is, the other cells go on)
        return UnitResult(unit, error=f"{type(error).__name__}: {error}")
    return UnitResult(unit, result, seconds=time.perf_counter() - start)


def _run_here(units: list[tuple[int, Unit]], workplace: Workplace) -> Iterator[tuple[int, UnitResult]]:
    for number, unit in units:
        # The progress is left to the study.
        with computing_on(1), without_progress():
            result = _attempt(workplace, unit)
        yield number, result


def _run_side_by_side(
    units: list[tuple[int, Unit]], workplace: Workplace, workers: int
) -> Iterator[tuple[int, UnitResult]]:
    if not units:
        return
    context = multiprocessing.get_context("spawn")
    stopping = context.Event()
    executor = ProcessPoolExecutor(
        min(workers, len(units)), context, _start_worker, (workplace.surroundings, stopping, os.getpid())
    )
    try:
        waiting: dict[Future[UnitResult], int] = {executor.submit(_work, unit): number for number, unit in units}
        while waiting:
            if stop_requested() and not stopping.is_set():
                stopping.set()
                for future in waiting:
                    future.cancel()
            done, _ = wait(waiting, POLL_SECONDS, FIRST_COMPLETED)
            interrupted: InterruptedRunError | None = None
            for future in done:
                number = waiting.pop(future)
                if future.cancelled():
                    continue
                try:
                    result = future.result()
                except InterruptedRunError as error:
                    interrupted = error
                except BrokenProcessPool as error:
                    raise SettingError(
                        "ablation.workers",
                        "processes that live as long as their work",
                        "one that was killed, perhaps for want of memory",
                        "Use fewer workers and repeat the same command; what is done is kept.",
                    ) from error
                else:
                    yield number, result
            if interrupted is not None and not waiting:
                raise interrupted
        if stopping.is_set():
            raise InterruptedRunError(
                "The study was stopped; everything so far is saved. Repeat the same command to go on from here."
            )
    finally:
        stopping.set()
        executor.shutdown(wait=True, cancel_futures=True)


def _start_worker(surroundings: Surroundings, stopping: Any, parent: int) -> None:
    """Prepare a worker process: one thread, no signals of its own, an end when its parent ends."""
    global _workplace
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    keep_freed_memory()
    logging.getLogger("skdcgn_pipeline").setLevel(logging.WARNING)
    clear_stop()

    def watch() -> None:
        while True:
            if stopping.wait(POLL_SECONDS):
                request_stop()
                return
            if os.getppid() != parent:
                os._exit(1)  # killed: files are written aside, so nothing is torn

    threading.Thread(target=watch, daemon=True).start()
    _workplace = Workplace(surroundings)


def _work(unit: Unit) -> UnitResult:
    assert _workplace is not None
    return _attempt(_workplace, unit)


# --- what it will cost -------------------------------------------------------------------------------


def _kind_of(unit: Unit, surroundings: Surroundings) -> str:
    """Return a word for units that take about the same time."""
    data, fit = unit.cell.data, surroundings.fit
    parts = [f"{fit.num_images} images of {fit.batch_size}"]
    if data.students:
        parts.append(f"students {data.students.model_dump_json()}")
    if data.monolith:
        parts.append(f"monolith {data.monolith.model_dump_json()}")
    if data.teacher_transformations is not None:
        parts.append(f"teacher {surroundings.num_teacher_images}")
    return ", ".join(parts)


def read_durations(surroundings: Surroundings) -> dict[str, list[float]]:
    """Return how many seconds the units that were computed here took, by kind."""
    path = surroundings.stores / DURATIONS_FILE
    return json.loads(path.read_text()) if path.exists() else {}


def _remember_duration(surroundings: Surroundings, result: UnitResult) -> None:
    known = read_durations(surroundings)
    seconds = known.setdefault(_kind_of(result.unit, surroundings), [])
    seconds.append(round(result.seconds or 0.0, 2))
    write_json(surroundings.stores / DURATIONS_FILE, known)


def estimate_seconds(unit: Unit, surroundings: Surroundings, known: Mapping[str, Sequence[float]]) -> float:
    """Estimate how long a unit takes on one core: as long as its like did here, or as a usual core does."""
    if seconds := known.get(_kind_of(unit, surroundings)):
        return statistics.median(seconds)
    data = unit.cell.data
    estimate = surroundings.fit.num_images / CLASSIFIER_IMAGES_PER_SECOND
    if data.students:
        steps = sum(getattr(data.students, mechanism).num_steps for mechanism in MECHANISMS)
        estimate += steps / DISTILLATION_STEPS_PER_SECOND
    if data.monolith:
        estimate += data.monolith.num_steps / DISTILLATION_STEPS_PER_SECOND
    if data.teacher_transformations is not None:
        estimate += surroundings.num_teacher_images / TEACHER_IMAGES_PER_SECOND
    return estimate


def plan_units(units: Sequence[Unit], surroundings: Surroundings) -> pd.DataFrame:
    """Say which units are done and how long the others will take.

    Args:
        units: What would be run.
        surroundings: Where everything is, or will be.

    Returns:
        A row per cell: `study`, `cell`, `seeds`, `done`, `seconds` (of one core, for what is left).
    """
    workplace = Workplace(surroundings) if surroundings.complete else None
    known = read_durations(surroundings)
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for unit in units:
        row = rows.setdefault(
            (unit.cell.study, unit.cell.name),
            {"study": unit.cell.study, "cell": unit.cell.name, "seeds": 0, "done": 0, "seconds": 0.0},
        )
        row["seeds"] += 1
        if workplace is not None and workplace.is_done(unit):
            row["done"] += 1
        else:
            row["seconds"] += estimate_seconds(unit, surroundings, known)
    return pd.DataFrame(list(rows.values()))


def describe_plan(plan: pd.DataFrame, surroundings: Surroundings, workers: int, cells: bool) -> str:
    """Put a plan into words: a line per cell, where they are asked for, and per study, and the sum."""
    lines = []

    def said(name: str, rows: pd.DataFrame) -> str:
        seconds = rows["seconds"].sum()
        left = f", about {seconds:.0f} s of one core left" if seconds else ""
        return f"{name}: {rows['done'].sum()} of {rows['seeds'].sum()} classifiers done{left}"

    for study, rows in plan.groupby("study", sort=False):
        lines.append(said(f"{study}, {len(rows)} cells", rows))
        if cells:
            lines += [said(f"  {name}", rows) for name, rows in rows.groupby("cell", sort=False)]
    minutes = plan["seconds"].sum() / workers / 60
    lines.append(said(f"In all, {len(plan)} cells", plan) + f", {minutes:.0f} min with {workers} workers")
    if not surroundings.complete:
        lines.append("Teacher samples and students are not there yet; they come first and are not counted.")
    return "\n".join(lines)


def units_of(cells: Sequence[Cell], num_seeds: int) -> list[Unit]:
    """Return a unit per cell and seed."""
    return [Unit(cell, number) for cell in cells for number in range(num_seeds)]


# --- tables ------------------------------------------------------------------------------------------

CELL_COLUMNS = [
    "study", "cell", "reference", "mechanism", "transformation", "strength", "source", "counterfactual", "stage",
    "per_shape", "dataset_size", "originals_share", "losses", "num_parameters", "mask_iou", "l1_foreground",
    "l1_background", "seed", "split", "subset", "accuracy", "num_images", "num_training_images", "batch_size",
    "distillation_steps", "confusion", "error",
]  # fmt: skip


def tabulate(results: Sequence[UnitResult], fit: ClassifierFit) -> pd.DataFrame:
    """Return the results as a tidy table.

    Returns:
        A row per unit, split and subset with the columns `CELL_COLUMNS`; `confusion` is JSON (rows: true
        class, columns: predicted class) and the same for all subsets of a split. A failed unit has one
        row, with its `error` and without accuracy.
    """
    rows = []
    for result in results:
        described = {
            **result.unit.cell.describe(),
            **result.result.get("facts", {}),
            "seed": result.unit.number,
            "num_training_images": fit.num_images,
            "batch_size": fit.batch_size,
            "error": result.error,
        }
        for row in result.result.get("accuracy", [{}]):
            confusion = result.result["confusion"].get(row["split"]) if row else None
            rows.append({**described, **row, "confusion": json.dumps(confusion) if confusion else None})
    table = pd.DataFrame(rows).reindex(columns=CELL_COLUMNS)
    numbers = [
        "strength", "per_shape", "dataset_size", "originals_share", "num_parameters", "mask_iou", "l1_foreground",
        "l1_background", "accuracy", "num_images", "distillation_steps",
    ]  # fmt: skip
    return table.astype(dict.fromkeys(numbers, float))


def check_possible(cells: Sequence[Cell], teacher: Any, by_ensembles: bool = False) -> None:
    """Refuse cells that this teacher cannot serve, or this classifier not judge, before any work.

    Args:
        cells: What would be run.
        teacher: The teacher.
        by_ensembles: Whether ensembles judge the cells; they need the labels of all mechanisms.

    Raises:
        SettingError: If the study `stage` is asked for and the teacher cannot be trained on, or a study of
            images that have one label is to be judged by ensembles.
    """
    unfit = sorted({cell.study for cell in cells} & STUDIES_OF_ONE_LABEL) if by_ensembles else []
    if unfit:
        raise SettingError(
            "ablation.study",
            "studies whose training images have a class for every mechanism",
            ", ".join(f"'{study}'" for study in unfit),
            f"Choose among {', '.join(study for study in STUDIES if study not in STUDIES_OF_ONE_LABEL)}.",
        )
    if any(cell.study == "stage" for cell in cells) and not isinstance(teacher, MnistCGN):
        raise SettingError(
            "ablation.study",
            "studies that the teacher can serve",
            f"'stage' with a {type(teacher).__name__}, whose training cannot go on",
            "Leave out 'stage', or use a teacher of the MNIST CGN's architecture.",
        )
