"""How good counterfactuals are: composition, effectiveness and minimality.

The measures of Melistas et al. (arXiv 2403.20287), the first two after Monteiro et al. (arXiv 2303.01274), the third
after Sanchez and Tsaftaris (arXiv 2202.10166). There an encoder guesses the noise of an image; here the noise is known,
so nothing but the generator is measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from skdcgn_pipeline.artifacts.recipe import Recipe
from skdcgn_pipeline.artifacts.store import Artifact, ArtifactWriter
from skdcgn_pipeline.classifiers.accuracy import ENOUGH_IMAGES
from skdcgn_pipeline.mechanisms import CounterfactualGenerator, MechanismLabels, compose
from skdcgn_pipeline.metrics.features import FeatureSpace
from skdcgn_pipeline.metrics.likeness import mean_absolute_difference
from skdcgn_pipeline.metrics.pairs import heldout_batches
from skdcgn_pipeline.networks.interface import check_same_interface
from skdcgn_pipeline.parameters import Compute
from skdcgn_pipeline.runtime.compute import choose_device, on_device
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.runtime.seeding import torch_generator
from skdcgn_pipeline.samples.drawing import SampleShards
from skdcgn_pipeline.vocabulary import MECHANISMS

FACTUAL = "none"  # the intervention that changes nothing
INTERVENTIONS = (FACTUAL, *MECHANISMS)
COLUMNS = ["images", "intervention", "measure", "mechanism", "value", "num_images"]
# Of images of the counterfactual's class and of the factual's, as the benchmark's code has them.
DIVERGENCE_WEIGHTS = 0.8, 0.2
ROWS_AT_ONCE = 250


class Intervened(NamedTuple):
    """Images of the same noise after each intervention.

    Attributes:
        teacher: The teacher's factual composites as they are stored, [N, 3, H, W] in [-1, 1].
        composites: By intervention, `none` first, composites [N, 3, H, W] in [-1, 1].
        labels: The class of every mechanism [N, 3] by intervention.
    """

    teacher: Tensor
    composites: dict[str, Tensor]
    labels: dict[str, Tensor]


def intervene(
    generator: CounterfactualGenerator, heldout: SampleShards, seed: int, device: str, num_images: int = ENOUGH_IMAGES
) -> Iterator[Intervened]:
    """Render held-out noise as it was labelled, and with another class of one mechanism, batch by batch.

    Args:
        generator: A teacher or students.
        heldout: The teacher's samples on noise that was never trained on, and with their patch shifts.
        seed: Of the other classes, which are drawn from those that there are samples of.
        device: Where to render.
        num_images: The first so many rows at most.

    Raises:
        SettingError: If there is one class alone, or the generator has another interface than the samples.
    """
    check_same_interface(heldout, generator)
    classes = torch.tensor(heldout.classes)
    if len(classes) < 2:
        raise SettingError("sample.classes", "two classes to change one into", "one", "Sample another class, too.")
    draws = {mechanism: torch_generator(seed, f"intervention-{mechanism}") for mechanism in MECHANISMS}
    with on_device(choose_device(device), generator) as place:
        for noise, factual, teacher, offsets in heldout_batches(heldout, num_images):
            own, labels, composites = torch.searchsorted(classes, factual), {}, {}
            for intervention in INTERVENTIONS:
                labels[intervention] = factual[:, None].repeat(1, len(MECHANISMS))
                if intervention in draws:
                    steps = torch.randint(1, len(classes), own.shape, generator=draws[intervention])
                    changed = classes[(own + steps) % len(classes)]
                    labels[intervention][:, MECHANISMS.index(intervention)] = changed
                rendered = generator.render(noise.to(place), MechanismLabels.of(labels[intervention].to(place)))
                composites[intervention] = compose(rendered.to("cpu"), *offsets)
            yield Intervened(compose(teacher, *offsets), composites, labels)


def latent_divergence(
    factual: Tensor, counterfactual: Tensor, reference: Tensor, is_of_new: Tensor, is_of_own: Tensor
) -> Tensor:
    """Return how far counterfactuals went for what they changed: counterfactual latent divergence, arXiv 2202.10166.

    With d = |counterfactual - factual|, log(0.8 exp P(S* <= d) + 0.2 exp P(S >= d)), where S* and S are the distances
    of the factual to images of the new class and of its own. Low where a counterfactual is nearer to its factual than
    images of the new class are, and farther than those of its own: it changed what it had to, and little else.

    Args:
        factual, counterfactual: Features [N, D].
        reference: Features of real images [M, D].
        is_of_new, is_of_own: [N, M], which of these are of each row's new class and of its own.

    Returns:
        [N], from 0, which is best, to 1.
    """
    distance = torch.cdist(factual, reference, p=1)
    gone = (counterfactual - factual).abs().sum(1, keepdim=True)
    nearer = ((distance <= gone) & is_of_new).sum(1) / is_of_new.sum(1)
    farther = ((distance >= gone) & is_of_own).sum(1) / is_of_own.sum(1)
    return torch.log(DIVERGENCE_WEIGHTS[0] * nearer.exp() + DIVERGENCE_WEIGHTS[1] * farther.exp())


@dataclass(frozen=True)
class CounterfactualQuality(Recipe[list[dict[str, Any]]]):
    """The measures of one generator's counterfactuals, rows with `COLUMNS` but `images`.

    `composition`: L1 distance between factual images and the teacher's, in units of pixels in [-1, 1]; the teacher's
    own is what storing costs. `effectiveness`: share of the images whose new class the reader of the changed mechanism
    names. `preservation`: the same of the other mechanisms and their own class, and of all where nothing was changed.
    `minimality`: mean of `latent_divergence` in the readers' features among the teacher's factual images.

    Attributes:
        generator: A teacher or students.
        generator_identity: What their images depend on.
        heldout: The teacher's samples on noise that was never trained on.
        readers: By mechanism, what names its class in a composite.
        seed: Of the new classes.
        compute: Where images are rendered.
    """

    kind: ClassVar[str] = "counterfactual quality"
    folder: ClassVar[str] = "measure"

    generator: CounterfactualGenerator
    generator_identity: Any
    heldout: SampleShards
    readers: Mapping[str, FeatureSpace]
    seed: int
    compute: Compute

    def inputs(self) -> dict[str, Any]:
        """Return everything that the measures depend on."""
        return {
            "generator": self.generator_identity,
            "heldout": self.heldout.artifact.identity,
            "readers": {mechanism: reader.identity for mechanism, reader in self.readers.items()},
            "seed": self.seed,
            "num_images": ENOUGH_IMAGES,
            "compute": self.compute.model_dump(),
        }

    def build(self, writer: ArtifactWriter) -> None:
        """Measure; raises SettingError like `intervene`."""
        writer.write_json("rows.json", self._measure())

    def read(self, artifact: Artifact) -> list[dict[str, Any]]:
        """Return the rows."""
        return artifact.read_json("rows.json")

    def _look(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features of all readers [N, D], and the class that each names [N, 3]."""
        seen = [self.readers[mechanism].look(images) for mechanism in MECHANISMS]
        answers = [each.logits.argmax(1) for each in seen if each.logits is not None]
        return torch.cat([each.features for each in seen], 1), torch.stack(answers, 1)

    def _measure(self) -> list[dict[str, Any]]:
        features: dict[str, list[Tensor]] = {name: [] for name in ("teacher", *INTERVENTIONS)}
        right: dict[str, list[Tensor]] = {name: [] for name in INTERVENTIONS}
        labels: dict[str, list[Tensor]] = {name: [] for name in INTERVENTIONS}
        difference = 0.0
        for batch in intervene(self.generator, self.heldout, self.seed, self.compute.device):
            difference += mean_absolute_difference(batch.composites[FACTUAL], batch.teacher) * len(batch.teacher)
            features["teacher"].append(self._look(batch.teacher)[0])
            for name, composites in batch.composites.items():
                seen, answers = self._look(composites)
                features[name].append(seen)
                labels[name].append(batch.labels[name])
                right[name].append(answers == batch.labels[name])
        joined = {name: torch.cat(parts) for name, parts in features.items()}
        classes = {name: torch.cat(parts) for name, parts in labels.items()}
        num_images = len(joined["teacher"])
        rows: list[tuple[Any, ...]] = [(FACTUAL, "composition", None, difference / num_images)]
        for name in INTERVENTIONS:
            shares = torch.cat(right[name]).double().mean(0).tolist()
            for mechanism, share in zip(MECHANISMS, shares, strict=True):
                rows.append((name, "effectiveness" if mechanism == name else "preservation", mechanism, share))
        for column, name in enumerate(MECHANISMS):
            rows.append((name, "minimality", None, self._minimality(joined, classes, name, column)))
        return [dict(zip(COLUMNS[1:], (*row, num_images), strict=True)) for row in rows]

    def _minimality(
        self, features: Mapping[str, Tensor], classes: Mapping[str, Tensor], intervention: str, column: int
    ) -> float:
        own, new = classes[FACTUAL][:, 0], classes[intervention][:, column]
        parts = [
            latent_divergence(
                features[FACTUAL][rows],
                features[intervention][rows],
                features["teacher"],
                new[rows, None] == own,
                own[rows, None] == own,
            )
            for rows in (slice(start, start + ROWS_AT_ONCE) for start in range(0, len(own), ROWS_AT_ONCE))
        ]
        return torch.cat(parts).double().mean().item()


def quality_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row per measure, and a column per generator, to four decimals."""
    whole = table.fillna({"mechanism": ""})
    keys = ["intervention", "measure", "mechanism"]
    wide = whole.pivot_table("value", keys, "images", sort=False).reset_index()
    return wide.rename_axis(columns=None).round(4)


def quality_metrics(table: pd.DataFrame) -> dict[str, float]:
    """Return the measures by name, such as `quality/students/shape/effectiveness` and `.../preservation/texture`."""
    metrics = {}
    for row in table.to_dict("records"):
        parts = ["quality", row["images"], row["intervention"], row["measure"]]
        if row["measure"] == "preservation":
            parts.append(row["mechanism"])
        metrics["/".join(map(str, parts))] = float(row["value"])
    return metrics
