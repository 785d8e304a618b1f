"""Students as finished work: one of a mechanism, a trio of them, and those that come with the package."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from skdcgn_pipeline.artifacts.recipe import Recipe, Store
from skdcgn_pipeline.artifacts.store import Artifact, ArtifactWriter, sha256_of_file
from skdcgn_pipeline.networks.interface import GeneratorSize
from skdcgn_pipeline.networks.vgg16 import open_vgg16_features, require_vgg16
from skdcgn_pipeline.networks.weights_file import write_state
from skdcgn_pipeline.parameters import Compute, Distill
from skdcgn_pipeline.runtime.compute import choose_device
from skdcgn_pipeline.runtime.errors import check_choice
from skdcgn_pipeline.samples.drawing import SampleShards
from skdcgn_pipeline.samples.loading import BatchLoader, fetch_by_epochs, identity_of_order, open_pairs
from skdcgn_pipeline.students.architectures import StudentGenerator, make_student
from skdcgn_pipeline.students.distillation import PERCEPTUAL_SETTING, Distillation
from skdcgn_pipeline.students.released import released_path, released_students
from skdcgn_pipeline.students.trio import StudentCGN
from skdcgn_pipeline.training.checkpointing import History
from skdcgn_pipeline.training.parallel import ALONE, Processes
from skdcgn_pipeline.training.task import fit
from skdcgn_pipeline.vocabulary import MECHANISMS

STUDENT_FILE, CARD_FILE, HISTORY_FILE = "student.safetensors", "student.json", "history.json"


@dataclass
class StudentArtifact:
    """A distilled student of one mechanism, or of `COMPOSITE`, on disk.

    Attributes:
        artifact: Where it is stored.
    """

    artifact: Artifact

    @property
    def card(self) -> dict[str, Any]:
        """The mechanism, its architecture and the sizes it was made for."""
        return self.artifact.read_json(CARD_FILE)

    @property
    def history(self) -> History:
        """Losses by step."""
        return self.artifact.read_json(HISTORY_FILE)

    @property
    def size(self) -> GeneratorSize:
        """The sizes that it was made for."""
        return GeneratorSize(*(self.card[name] for name in GeneratorSize._fields))

    def open(self) -> StudentGenerator:
        """Load the student, frozen and in eval mode."""
        card = self.card
        student = make_student(card["mechanism"], card["architecture"], self.size)
        student.load_state_dict(load_file(self.artifact.path(STUDENT_FILE)))
        return student.requires_grad_(False).eval()


@dataclass(frozen=True)
class StudentRecipe(Recipe[StudentArtifact]):
    """The student of one mechanism, or of `COMPOSITE`.

    Samples that are too many for memory are read while it learns, in an order of their own (`open_pairs`).
    How many processes train it is no part of its identity: a training may go on with more or fewer.

    Attributes:
        mechanism, settings, compute: As in `Distillation`.
        samples: Of the teacher.
        seed: Base seed.
        assets: The asset folder, for the perceptual loss.
        processes: Those that train together; the first one saves.
    """

    mechanism: str
    samples: SampleShards
    settings: Distill
    seed: int
    compute: Compute
    assets: str = ""
    processes: Processes = ALONE

    kind = "student"
    reader = StudentArtifact

    def inputs(self) -> dict[str, Any]:
        """Return mechanism, samples, settings, seed and precision, and the weights of VGG16 where they are used."""
        inputs = {
            "mechanism": self.mechanism,
            "samples": self.samples.artifact.identity,
            "settings": self.settings.identity(),
            "seed": self.seed,
            "precision": self.compute.precision,
            **identity_of_order(self.samples, self.mechanism),
        }
        if self.settings.weights.perceptual:
            inputs["vgg16"] = sha256_of_file(require_vgg16(self.assets, PERCEPTUAL_SETTING))
        return inputs

    @contextmanager
    def opened(self) -> Iterator[tuple[Distillation, BatchLoader]]:
        """Open the training and what loads its batches.

        Raises:
            SettingError: As `Distillation`, or if the perceptual loss lacks its weights.
        """
        settings, name, processes = self.settings, self.mechanism, self.processes
        perceive = open_vgg16_features(self.assets, PERCEPTUAL_SETTING) if settings.weights.perceptual else None
        pairs = open_pairs(self.samples, name)
        fetch = fetch_by_epochs(pairs, settings.batch_size, self.seed, f"distil-{name}", processes.part)
        device, size = choose_device(self.compute.device), GeneratorSize.of(self.samples)
        with BatchLoader(fetch, settings.num_steps, device, settings.fetch_threads) as load:
            options: dict[str, Any] = {"load": load, "perceive": perceive, "processes": processes}
            yield Distillation(name, size, settings, self.seed, self.compute, **options), load

    def distil(self, checkpoint_path: Path | None = None) -> tuple[StudentGenerator, History]:
        """Train the student, see `Distillation`, or continue.

        Returns:
            The averaged student in eval mode, on the CPU, and the history of its losses.

        Raises:
            SettingError: As `opened`.
            InterruptedRunError: If a stop was requested; the state is saved.
        """
        with self.opened() as (task, load):
            return fit(
                task,
                checkpoint_path,
                read_only=self.processes.rank != 0,
                remark=lambda: f", {load.data_wait:.1%} waiting for data",
                agree=self.processes.agree,
            )

    def build(self, writer: ArtifactWriter) -> None:
        """Train the student, together with the processes that wait for it."""
        checkpoint_path = writer.scratch("checkpoint.pt")
        self.processes.tell(checkpoint_path)
        student, history = self.distil(checkpoint_path)
        writer.write(STUDENT_FILE, partial(write_state, student))
        writer.write_json(HISTORY_FILE, history)
        card = {"mechanism": self.mechanism, "architecture": self.settings.student.arguments()}
        writer.write_json(CARD_FILE, card | GeneratorSize.of(self.samples)._asdict())


def distil_together(store: Store, recipe: StudentRecipe) -> StudentArtifact:
    """Return a student that all `recipe.processes` train, each of which calls this with the same recipe.

    The first one reuses or builds it as if it were alone; the others take part in its training, if there is one, and
    write nothing. All must see the same files.

    Raises:
        SettingError, InterruptedRunError: As `StudentRecipe.distil`; a stop reaches all of them after the same step.
    """
    if recipe.processes.rank == 0:
        student = store.make(recipe)
        recipe.processes.tell(None)
        return student
    while (checkpoint_path := recipe.processes.hear()) is not None:
        recipe.distil(checkpoint_path)
    return recipe.read(Artifact.open(store.path(recipe)))


@dataclass
class StudentsArtifact:
    """Three students in one folder that `StudentCGN.from_pretrained` reads.

    Attributes:
        artifact: Where they are stored.
    """

    artifact: Artifact

    @property
    def history(self) -> History:
        """Losses and measures by step, of students that were trained together."""
        return self.artifact.read_json(HISTORY_FILE)

    def open(self) -> StudentCGN:
        """Load the students, frozen and in eval mode."""
        return StudentCGN.from_pretrained(self.artifact.directory)


class TrioRecipe(Recipe[StudentsArtifact]):
    """How three students in one folder are made."""

    kind = "students"
    folder = "student"
    reader = StudentsArtifact


@dataclass(frozen=True)
class StudentsRecipe(TrioRecipe):
    """Three distilled mechanisms put together.

    Attributes:
        students: By mechanism.
    """

    students: Mapping[str, StudentArtifact]

    def inputs(self) -> dict[str, Any]:
        """Return the identity of each student."""
        return {mechanism: self.students[mechanism].artifact.identity for mechanism in MECHANISMS}

    def build(self, writer: ArtifactWriter) -> None:
        """Put the three behind the teacher's interface."""
        architectures = {mechanism: self.students[mechanism].card["architecture"] for mechanism in MECHANISMS}
        trio = StudentCGN(*self.students["shape"].size, architectures)
        for mechanism in MECHANISMS:
            trio.network_of(mechanism).load_state_dict(self.students[mechanism].open().state_dict())
        trio.write_into(writer)


@dataclass(frozen=True)
class ReleasedStudentsRecipe(TrioRecipe):
    """The students that come with the package, where a run's own students are.

    Attributes:
        name: A name in `released_students()`.
    """

    name: str

    def inputs(self) -> dict[str, Any]:
        """Return name and SHA-256 of the weights.

        Raises:
            SettingError: If there is no such release.
        """
        check_choice("students", self.name, released_students())
        return {"released": self.name, "sha256": sha256_of_file(released_path(self.name, ".safetensors"))}

    def build(self, writer: ArtifactWriter) -> None:
        """Copy the release."""
        StudentCGN.from_released(self.name).write_into(writer)
