"""Things small enough to test with: a teacher that is no network, and a look at a folder."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from skdcgn_pipeline.artifacts.recipe import build_in
from skdcgn_pipeline.counterfactuals.pools import CounterfactualShards, CounterfactualsRecipe
from skdcgn_pipeline.images.image_set import ImagesInMemory, Split
from skdcgn_pipeline.images.recipes import image_set_recipe
from skdcgn_pipeline.images.stored import StoredImages
from skdcgn_pipeline.mechanisms import LabelsLike, MechanismImages, MechanismLabels
from skdcgn_pipeline.parameters import Images, Prepare
from skdcgn_pipeline.runtime.engine import LocalEngine, Outcome
from skdcgn_pipeline.samples.drawing import SampleShards, SamplesRecipe

if TYPE_CHECKING:
    from skdcgn_pipeline.classifiers.invariant_classifier import InvariantClassifier
    from skdcgn_pipeline.samples.shards import RowGroups


class TinyTeacher:
    """A plain object with the generator's interface: no module, no state, no randomness.

    The mask is a soft blob whose centre and size follow the noise and the shape's class; foreground and
    background are waves whose phase follows the noise and whose frequency follows their class.
    """

    noise_dim = 4
    num_classes = 3
    image_size = 8

    def __init__(self) -> None:
        self.num_calls = 0

    def render(self, noise: Tensor, labels: LabelsLike) -> MechanismImages:
        """Render the three mechanisms, each from the noise and its own class alone."""
        self.num_calls += 1
        labels = MechanismLabels.of(labels)
        axis = torch.linspace(-1, 1, self.image_size)
        vertical, horizontal = torch.meshgrid(axis, axis, indexing="ij")
        noise = noise.tanh()[:, :, None, None]
        centre = 0.4 * noise
        distance = (vertical - centre[:, 0]) ** 2 + (horizontal - centre[:, 1]) ** 2
        radius = 0.3 + 0.3 * labels.shape[:, None, None].float()
        mask = torch.sigmoid(8 * (radius - distance))[:, None]

        def waves(label: Tensor, direction: Tensor, phase: Tensor) -> Tensor:
            shifts = torch.tensor([0.0, 1.0, 2.0]).view(1, 3, 1, 1)
            frequency = 1 + label.view(-1, 1, 1, 1).float()
            return torch.sin(frequency * direction + shifts + phase)

        return MechanismImages(
            mask,
            waves(labels.texture, vertical, noise[:, 2:3]),
            waves(labels.background, horizontal, noise[:, 3:4]),
        )


def tree_of(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file below a folder, lock files aside."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def draw_samples(store: Path, *of_recipe: Any, **options: Any) -> SampleShards:
    """Make a `SamplesRecipe` in a folder."""
    return build_in(store, SamplesRecipe(*of_recipe, **options))


def store_counterfactuals(store: Path, *of_recipe: Any) -> CounterfactualShards:
    """Make a `CounterfactualsRecipe` in a folder."""
    return build_in(store, CounterfactualsRecipe(*of_recipe))


def build_biased_images(store: Path, assets: str, settings: Prepare, variant: str, seed: int) -> StoredImages:
    """Make the biased digits in a folder."""
    return build_in(store, image_set_recipe(Images(), settings, variant, assets, seed))


def biased_split(
    images: Tensor, labels: Tensor, foreground_index: Tensor, background_index: Tensor, collision: Tensor
) -> Split:
    """Return coloured shapes, [N, 3, H, W] uint8, as a split, as `apply_bias` does."""
    attributes = {
        "foreground_index": foreground_index,
        "background_index": background_index,
        "collision": collision.long(),
    }
    return Split("test", "test", ImagesInMemory(images), labels, attributes)


def num_rows_kept(groups: RowGroups) -> int:
    """Return the rows of the groups that are kept, read or being read."""
    return sum(groups.groups[number].num_rows for number in list(groups._kept))


def untrained_classifiers() -> dict[str, InvariantClassifier]:
    """Classifiers of digits by what they would have been trained on; each has opinions of its own."""
    from skdcgn_pipeline.classifiers.invariant_classifier import InvariantClassifier

    classifiers = {}
    for seed, name in enumerate(("originals", "students")):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            classifiers[name] = InvariantClassifier([str(label) for label in range(10)]).eval()
    return classifiers


def explorer_card() -> dict[str, Any]:
    """The card of an explorer with the released students of the digits, their teacher and untrained classifiers."""
    from skdcgn_pipeline.parameters import Teacher
    from skdcgn_pipeline.students.released import released_card
    from skdcgn_pipeline.teachers.teacher import identify_teacher

    accuracy = [{"split": "test", "subset": "all", "accuracy": 0.1, "num_images": 100}]
    return {
        "name": "digits",
        "variant": "double_colored",
        "source": "digits",
        "seed": 0,
        "teacher": {
            "identity": identify_teacher(Teacher(name="digits_cgn")),
            "options": {"name": "digits_cgn"},
            "file": "teacher.safetensors",
        },
        "classes": None,
        "fidelity_and_costs": released_card("digits")["figures"]["fidelity_and_costs"],
        "classifiers": {name: {"number": 0, "accuracy": accuracy} for name in ("originals", "students")},
    }


class PicklingEngine(LocalEngine):
    """Works here, as elsewhere: on what comes through a pickle, which is small."""

    elsewhere: ClassVar[bool] = True

    def __init__(self) -> None:
        object.__setattr__(self, "units", [])

    def outcomes(
        self, open_work: Callable[[], Callable[[Any], Any]], units: Sequence[Any]
    ) -> Generator[tuple[int, Outcome[Any]], None, None]:
        """Work on the units; notes them in `units`."""
        self.units.extend(units)
        sent = pickle.dumps((open_work, units))
        assert len(sent) < 20_000
        yield from super().outcomes(*pickle.loads(sent))


def halve(number: int) -> tuple[int, int, int]:
    """Return half of a number, and where that was computed: threads and process; odd ones fail."""
    if number % 2:
        raise ValueError(f"{number} is odd")
    return number // 2, torch.get_num_threads(), os.getpid()


def open_halving() -> Callable[[int], tuple[int, int, int]]:
    """Return `halve`: here, so that other processes can import it."""
    return halve
