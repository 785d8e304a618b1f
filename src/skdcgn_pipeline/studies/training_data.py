"""What the classifiers of a cell are trained on, made or opened, and what comes of training them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from skdcgn_pipeline.artifacts.recipe import Run
from skdcgn_pipeline.artifacts.store import Artifact, artifact_path, build_json, is_finished
from skdcgn_pipeline.classifiers.accuracy import measure_splits
from skdcgn_pipeline.classifiers.classification import Classification
from skdcgn_pipeline.classifiers.training import identity_of_network
from skdcgn_pipeline.classifiers.training_sets import TrainingSet
from skdcgn_pipeline.counterfactuals.pools import CounterfactualPool, map_pool
from skdcgn_pipeline.images.batches import draw_from_images, draw_from_split, mix_batches
from skdcgn_pipeline.images.epochs import DrawBatch
from skdcgn_pipeline.images.stored import StoredImages
from skdcgn_pipeline.metrics.cost import count_parameters
from skdcgn_pipeline.metrics.pairs import measure_likeness
from skdcgn_pipeline.parameters import Ablation, ClassifierFit, Classify, Distill, Parameters, Transformations
from skdcgn_pipeline.runtime.seeding import derive_seed
from skdcgn_pipeline.samples.drawing import SampleShards, SamplesRecipe, draw_composites
from skdcgn_pipeline.students.recipes import StudentArtifact, StudentRecipe, StudentsArtifact, StudentsRecipe
from skdcgn_pipeline.studies.contract import OWN, CellData, Unit
from skdcgn_pipeline.studies.method_units import MethodUnits
from skdcgn_pipeline.teachers.teacher import IdentifiedTeacher, open_identified_teacher, open_trained_teacher
from skdcgn_pipeline.teachers.training import TeacherRecipe
from skdcgn_pipeline.vocabulary import COMPOSITE, MECHANISMS

ROWS_PER_SHARD = 5000
NEEDED = {"biased_images", "teacher_samples", "student_samples", "heldout_samples"}
Facts = Callable[[], dict[str, Any]]  # measures a generator


@dataclass(frozen=True)
class Surroundings:
    """What cells start from; small and picklable, so that every process can open it.

    Attributes:
        run: Store, base seed, device and asset folder.
        folders: Of the artifacts `NEEDED`, those that are there; and that of a teacher that the run trained.
        parameters: All settings of the run.
    """

    run: Run
    folders: Mapping[str, Path]
    parameters: Parameters

    @property
    def ablation(self) -> Ablation:
        """The grids, and how classifiers are trained."""
        return self.parameters.ablation

    @property
    def complete(self) -> bool:
        """Whether everything is there."""
        return self.folders.keys() >= NEEDED


@dataclass(frozen=True)
class _Source:
    """Images of mechanisms that are there or can be made.

    Attributes:
        inputs: What they depend on; known without making them.
        samples: Makes or opens them; of a student without mechanisms, images and labels.
        facts: Measures that go with them; only called when they are made.
    """

    inputs: dict[str, Any]
    samples: Callable[[], Any]
    facts: Facts = dict


class Workplace:
    """What the units of one process need, opened once."""

    def __init__(self, surroundings: Surroundings) -> None:
        self.surroundings = surroundings
        self.store, self.seed = surroundings.run.store.folder, surroundings.run.seed
        self.fit, self.compute = surroundings.ablation.fit, surroundings.run.compute
        self.pool_size = surroundings.ablation.distill.num_pool_images_per_class, ROWS_PER_SHARD
        # Checked by the process that named them.
        opened = {name: Artifact.open(folder, verify=False) for name, folder in surroundings.folders.items()}
        images = self.images = StoredImages(opened["biased_images"])
        network = surroundings.parameters.classify.network
        settings = Classify(network=network, fit=self.fit)
        self.classification = Classification(surroundings.run, images, settings)
        # Choices are made on validation splits; of tests, the first is told.
        self.splits = {role: images.splits(role)[0] for role in ("validation", "test") if images.splits(role)}
        self.heldout = SampleShards(opened["heldout_samples"])
        self.samples = {
            "teacher": SampleShards(opened["teacher_samples"]),
            "students": SampleShards(opened["student_samples"]),
        }
        self.num_classes = self.samples["teacher"].num_classes
        self._pools: dict[tuple[str, ...], CounterfactualPool] = {}
        # Hashes a file of weights, perhaps: once for all units.
        self.network_identity = identity_of_network(network)

    @cached_property
    def teacher(self) -> IdentifiedTeacher:
        """The teacher of the run."""
        parameters, folders = self.surroundings.parameters, self.surroundings.folders
        if "trained_teacher" in folders:
            return open_trained_teacher(Artifact.open(folders["trained_teacher"]))
        return open_identified_teacher(parameters.teacher, parameters.variant, self.surroundings.run.assets)

    @cached_property
    def methods(self) -> MethodUnits:
        """What units of the study `alternatives` need."""
        return MethodUnits(self)

    # --- what a cell's classifiers are trained on ---------------------------------------------------

    def training_set(self, unit: Unit) -> tuple[TrainingSet, Facts]:
        """Return what the classifier of a unit is trained on, and what is measured of its generator.

        Nothing is made before `source` of the training set is called.
        """
        data = unit.cell.data
        names = data.sources._asdict() if data.sources else {COMPOSITE: OWN}
        sources = {name: self._source(name, data, unit.number) for name in dict.fromkeys(names.values())}
        inputs = {
            "sources": {image: sources[name].inputs for image, name in names.items()},
            "composition": data.composition.identity(),
        }
        if data.dataset_size:
            inputs["fixed"] = {"num_images": data.dataset_size, "per_shape": data.per_shape}
        if data.originals_share:
            inputs["originals"] = {"share": data.originals_share, "biased_images": self.images.artifact.identity}

        def draw(seed: int) -> DrawBatch:
            samples: dict[str, Any] = {image: sources[name].samples() for image, name in names.items()}
            if COMPOSITE in samples:
                images, labels = samples[COMPOSITE]
                return draw_from_images(images, labels, seed, "classifier-rows")
            pool, composition, purpose = self.pool(samples), data.composition, "classifier-counterfactuals"
            if data.dataset_size:
                return pool.draw_fixed_batch(composition, data.dataset_size, data.per_shape, seed, purpose)
            if not data.originals_share:
                return pool.draw_labelled_batch(composition, seed, purpose)
            originals = draw_from_split(self.classification.train_split(), seed, "mixed-originals")
            return mix_batches(pool.draw_labelled_batch(composition, seed, purpose), originals, data.originals_share)

        # Of a mixture nothing is measured: no number would be that of the whole.
        facts = [source.facts for source in sources.values()] if len(sources) == 1 else [dict]
        return TrainingSet(unit.cell.name, inputs, self.num_classes, draw), facts[0]

    def _source(self, name: str, data: CellData, number: int) -> _Source:
        if name == OWN:
            return self._distilled(MECHANISMS if data.sources else (COMPOSITE,), data.students, number)
        if name == "teacher" and data.teacher_transformations is not None:
            return self._teacher_trained_on(data.teacher_transformations, number)
        samples = self.samples[name]

        def facts() -> dict[str, Any]:
            return {"num_parameters": count_parameters(self.teacher.generator)} if name == "teacher" else {}

        return _Source({"samples": samples.artifact.identity}, lambda: samples, facts)

    def _distilled(self, images: Sequence[str], students: Sequence[Distill], number: int) -> _Source:
        """Return what students draw that the cell distils: a trio, or one of the finished image."""
        run, seed = self.surroundings.run, derive_seed(self.seed, "ablation-students", number)
        recipes = {
            image: StudentRecipe(image, self.samples["teacher"], distill, seed, run.compute, run.assets)
            for image, distill in zip(images, students, strict=True)
        }

        def made() -> StudentArtifact | StudentsArtifact:
            own = {image: run.make(recipe) for image, recipe in recipes.items()}
            return own[COMPOSITE] if COMPOSITE in own else run.make(StudentsRecipe(own))

        def samples() -> SampleShards | tuple[Tensor, Tensor]:
            drawn_by = made()
            if isinstance(drawn_by, StudentArtifact):
                return draw_composites(drawn_by.open(), drawn_by.size, self.pool_size[0], seed, self.compute)
            return self._draw_pool(drawn_by.open(), {"students": drawn_by.artifact.identity}, seed)

        def facts() -> dict[str, Any]:
            generator: Any = made().open()
            likeness = {} if COMPOSITE in recipes else measure_likeness(generator, self.heldout)
            return {"num_parameters": count_parameters(generator), **likeness}

        inputs = {
            "students": {image: recipe.identity_inputs for image, recipe in recipes.items()},
            "num_pool_images_per_class": self.pool_size[0],
            "heldout_samples": self.heldout.artifact.identity,
        }
        return _Source(inputs, samples, facts)

    def _teacher_trained_on(self, transformations: Transformations, number: int) -> _Source:
        """Return what the teacher draws when its training has gone on with transformations."""
        parameters, run = self.surroundings.parameters, self.surroundings.run
        seed = derive_seed(self.seed, "ablation-teacher", number)
        recipe = TeacherRecipe(
            self.images,
            parameters.teacher.fit.model_copy(update={"num_images": parameters.ablation.stage.num_images}),
            parameters.prepare.feature_network,
            seed,
            run.compute,
            run.assets,
            transformations=transformations,
            initial=self.teacher,
        )

        def samples() -> SampleShards:
            trained = run.make(recipe)
            return self._draw_pool(open_trained_teacher(trained).generator, {"trained teacher": trained.identity}, seed)

        inputs = {"teacher": recipe.identity_inputs, "num_pool_images_per_class": self.pool_size[0]}
        return _Source(inputs, samples)

    def _draw_pool(self, generator: Any, identity: dict[str, Any], seed: int) -> SampleShards:
        classes = self.samples["teacher"].classes
        recipe = SamplesRecipe(generator, identity, *self.pool_size, seed, self.compute, "pool", classes=classes)
        return self.surroundings.run.make(recipe)

    def pool(self, samples: Mapping[str, SampleShards]) -> CounterfactualPool:
        """Return samples by mechanism in memory."""
        key = tuple(shards.artifact.identity for shards in samples.values())
        if key in self._pools:
            return self._pools[key]
        pool = map_pool(self.surroundings.run.store, samples)
        # Only pools that several cells share stay in memory.
        if set(key) <= {shards.artifact.identity for shards in self.samples.values()}:
            self._pools[key] = pool
        return pool

    # --- units ---------------------------------------------------------------------------------------

    def inputs_of(self, unit: Unit) -> dict[str, Any]:
        """Return everything that the result of a unit depends on."""
        if unit.cell.data.method:
            return self.methods.inputs_of(unit)
        training = {"kind": "ablation cell", "training": self.training_set(unit)[0].inputs}
        return training | self.shared_inputs(unit.number, self.fit, [*self.splits.values()])

    def shared_inputs(self, number: int, fit: ClassifierFit, splits: list[str]) -> dict[str, Any]:
        """Return what the result of a unit depends on, whatever its classifier learns from."""
        return {
            "network": self.network_identity,
            "fit": fit.identity(),
            "seed": self.seed,
            "number": number,
            "compute": fit.computing(self.compute).model_dump(),
            "images": self.images.artifact.identity,
            "splits": splits,
        }

    def path_of(self, unit: Unit) -> Path:
        """Return the directory of a unit's result, whether it is there or not."""
        return artifact_path(self.store("cell"), self.inputs_of(unit))

    def is_done(self, unit: Unit) -> bool:
        """Tell whether a unit's result is there."""
        return is_finished(self.path_of(unit))

    def run(self, unit: Unit) -> dict[str, Any]:
        """Return the result of a unit: compute it, continue it, or reuse it.

        Raises:
            InterruptedRunError: If a stop was requested; what was done is saved.
        """

        def compute() -> dict[str, Any]:
            if unit.cell.data.method:
                return self.methods.choose_and_measure(unit)
            training_set, facts = self.training_set(unit)
            _, classifier = self.classification.train(training_set, unit.number, unit.title)
            splits = ((role, self.classification.splits[name]()) for role, name in self.splits.items())
            accuracy, confusion = measure_splits(classifier, splits, self.fit.computing(self.compute))
            return {"accuracy": accuracy, "confusion": confusion, "facts": facts()}

        return build_json(self.store("cell"), self.inputs_of(unit), compute)

    def draw_examples(self, unit: Unit, num_images: int) -> torch.Tensor:
        """Return some images [N, 3, H, W] in [-1, 1] that the classifiers of a cell are trained on."""
        # The same seed for all cells: where they share a pool, the same shapes, textures and backgrounds.
        seed = derive_seed(self.seed, "ablation-examples")
        if unit.cell.data.method:
            return self.methods.draw_examples(unit, num_images, seed)
        return self.training_set(unit)[0].source(seed)(0, num_images)[0]
