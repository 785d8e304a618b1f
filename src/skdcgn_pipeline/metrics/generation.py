"""How good generated images are, measured in one pass: fidelity by mechanism, FID, IS and what masks look like.

Sources: FID (arXiv 1706.08500), IS (arXiv 1606.03498), the mean mask (CGN, arXiv
2101.06046, section 4.2). Images stream by: of each a few bytes are kept.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from skdcgn_pipeline.artifacts.recipe import Recipe
from skdcgn_pipeline.artifacts.store import Artifact, ArtifactWriter
from skdcgn_pipeline.images.stored import StoredImages
from skdcgn_pipeline.losses.mechanism import mask_entropy_loss
from skdcgn_pipeline.mechanisms import CounterfactualGenerator
from skdcgn_pipeline.metrics.features import FeatureSpace
from skdcgn_pipeline.metrics.likeness import SplitScores, StreamedGaussian, frechet_distance
from skdcgn_pipeline.metrics.pairs import BATCH, Differences, heldout_pairs
from skdcgn_pipeline.parameters import Compute, GenerationMetrics
from skdcgn_pipeline.samples.drawing import SampleShards
from skdcgn_pipeline.samples.pixels import from_bytes
from skdcgn_pipeline.teachers.teacher import IdentifiedTeacher
from skdcgn_pipeline.vocabulary import MECHANISMS, STUDENTS

ALL = "all"
TEACHER, TRAINING = "teacher", "training images"
COLUMNS = ["images", "measure", "reference", "value", "sd", "num_images"]
FIDELITY_COLUMNS = ["mechanism", "l1", "mask_iou", "frechet", "frechet_teacher", "frechet_ratio", "num_images"]
# A mask whose mean is outside hides one of the two images nearly everywhere.
COLLAPSED_BELOW, COLLAPSED_ABOVE = 0.05, 0.95


# --- one stream of images ------------------------------------------------------------------------


class ImageStatistics:
    """What is kept of a stream of images: sums.

    Args:
        num_images: How many will come.
        space: In whose features; None measures masks alone.
        settings: What is measured.
        seed: Of everything random.
    """

    def __init__(self, num_images: int, space: FeatureSpace | None, settings: GenerationMetrics, seed: int) -> None:
        self.num_images = num_images
        self._space = space
        self.gaussian = StreamedGaussian()
        self._scores: SplitScores | None = SplitScores(num_images, settings.num_splits, seed)
        self._mask_means: list[Tensor] = []
        self._mask_entropy = 0.0

    def update(self, images: Tensor, mask: Tensor | None = None) -> None:
        """Add the next images [N, 3, H, W] in [-1, 1], and masks [N, 1, H, W] where images are composed."""
        if self._space is not None:
            features, logits = self._space.look(images)
            self.gaussian.update(features)
            if logits is None:
                self._scores = None
            elif self._scores is not None:
                self._scores.update(logits)
        if mask is not None:
            self._mask_means.append(mask.double().mean((1, 2, 3)).cpu())
            self._mask_entropy += mask_entropy_loss(mask.double()).item() * len(mask)

    def describe(self, name: str) -> list[dict[str, Any]]:
        """Return the rows of what needs no reference: `inception_score` and the measures of masks."""
        measures: dict[str, tuple[float, float | None]] = {}
        if self._space is not None and self._scores is not None:
            measures["inception_score"] = self._scores.score()
        if self._mask_means:
            means = torch.cat(self._mask_means)
            collapsed = (means < COLLAPSED_BELOW) | (means > COLLAPSED_ABOVE)
            measures["mean_mask"] = means.mean().item(), means.std(correction=0).item()
            measures["mask_entropy"] = self._mask_entropy / len(means), None
            measures["collapsed_masks"] = collapsed.double().mean().item(), None
        return [_row(name, measure, None, value, sd, self.num_images) for measure, (value, sd) in measures.items()]


def compare_images(
    name: str, statistics: ImageStatistics, reference_name: str, reference: ImageStatistics
) -> dict[str, Any]:
    """Return the row of `fid`."""
    fid = frechet_distance(statistics.gaussian.gaussian(), reference.gaussian.gaussian())
    return _row(name, "fid", reference_name, fid, None, statistics.num_images)


def _row(
    images: str, measure: str, reference: str | None, value: float, sd: float | None, num_images: int
) -> dict[str, Any]:
    return dict(zip(COLUMNS, (images, measure, reference, value, sd, num_images), strict=True))


# --- the whole -----------------------------------------------------------------------------------


class Generation(NamedTuple):
    """What was measured of students and their teacher.

    Attributes:
        fidelity: A row per mechanism and one for `all` (the factual composites with their patch shifts): `l1` in
            units of the image's range, `mask_iou` (shape only), `frechet` between student and teacher, `num_images`;
            for `all` also `frechet_teacher` between the teacher's composites and the training images and
            `frechet_ratio`, the first distance over the second.
        measures: A row per measure of the composites: `images` (students or teacher), `measure`, `reference`
            (teacher or training images, where there is one), `value`, `sd` (over splits or masks),
            `num_images`. Measures: fid, inception_score, mean_mask, mask_entropy (bits),
            collapsed_masks (share of the masks).
    """

    fidelity: pd.DataFrame
    measures: pd.DataFrame

    def named(self, name: str) -> pd.DataFrame:
        """Return the measures with another name for the students."""
        return self.measures.assign(images=self.measures["images"].replace(STUDENTS, name))


@dataclass(frozen=True)
class GenerationRecipe(Recipe[Generation]):
    """Students and teacher compared on held-out noise, every image looked at once.

    Attributes:
        teacher: The teacher.
        students: The students, or anything with their interface.
        students_identity: What their images depend on.
        heldout: The teacher's samples on noise that was never trained on.
        biased_images: The training images that the teacher imitates; None leaves them out.
        space: In whose features images are compared; None leaves out what needs one.
        settings: What is measured.
        seed: Of splits.
        compute: Device and precision.
    """

    teacher: IdentifiedTeacher
    students: CounterfactualGenerator
    students_identity: str
    heldout: SampleShards
    biased_images: StoredImages | None
    space: FeatureSpace | None
    settings: GenerationMetrics
    seed: int
    compute: Compute

    kind = "generation"
    folder = "measure"

    def inputs(self) -> dict[str, Any]:
        """Return everything that the measures depend on; names are no part of it."""
        return {
            "teacher": self.teacher.identity,
            "students": self.students_identity,
            "heldout": self.heldout.artifact.identity,
            "biased_images": None if self.biased_images is None else self.biased_images.artifact.identity,
            "space": None if self.space is None else self.space.identity,
            "settings": self.settings.model_dump(mode="json"),
            "seed": self.seed,
            "compute": self.compute.model_dump(),
        }

    def build(self, writer: ArtifactWriter) -> None:
        """Measure; raises SettingError for another interface."""
        for name, rows in zip(Generation._fields, self._measure(), strict=True):
            writer.write_json(
                f"{name}.json", json.loads(pd.DataFrame(rows).to_json(orient="records", double_precision=10))
            )

    def read(self, artifact: Artifact) -> Generation:
        """Return the two tables."""
        fidelity = pd.DataFrame(artifact.read_json("fidelity.json"), columns=FIDELITY_COLUMNS)
        measures = pd.DataFrame(artifact.read_json("measures.json"), columns=COLUMNS)
        return Generation(fidelity, measures.assign(sd=measures["sd"].astype(float)))

    def _statistics(self, num_images: int) -> ImageStatistics:
        return ImageStatistics(num_images, self.space, self.settings, self.seed)

    def _measure(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        differences = Differences()
        streams = self._statistics(self.heldout.num_rows), self._statistics(self.heldout.num_rows)
        by_mechanism = {m: (StreamedGaussian(), StreamedGaussian()) for m in MECHANISMS}
        for pair in heldout_pairs(self.students, self.heldout, self.compute.device):
            images = {m: (pair.students.of(m), pair.teacher.of(m)) for m in MECHANISMS}
            composites = pair.composites
            differences.update(images | {ALL: composites})
            for stream, composed, mask in zip(streams, composites, images["shape"], strict=True):
                stream.update(composed, mask)
            if self.space is not None:
                for mechanism, gaussians in by_mechanism.items():
                    for gaussian, part in zip(gaussians, images[mechanism], strict=True):
                        signed = part * 2 - 1 if mechanism == "shape" else part
                        gaussian.update(self.space.look(signed.expand(-1, 3, -1, -1)).features)
        mine, theirs = streams
        rows = mine.describe(STUDENTS) + theirs.describe(TEACHER)
        fidelity = {name: {"mechanism": name, **differences.of(name)} for name in (*MECHANISMS, ALL)}
        if self.space is not None:
            for mechanism, gaussians in (by_mechanism | {ALL: (mine.gaussian, theirs.gaussian)}).items():
                fidelity[mechanism]["frechet"] = frechet_distance(*(own.gaussian() for own in gaussians))
            rows.append(compare_images(STUDENTS, mine, TEACHER, theirs))
            if self.biased_images is not None:
                real = self._training_images(self.biased_images)
                of_teacher = compare_images(TEACHER, theirs, TRAINING, real)
                rows += [compare_images(STUDENTS, mine, TRAINING, real), of_teacher]
                fidelity[ALL]["frechet_teacher"] = of_teacher["value"]
                fidelity[ALL]["frechet_ratio"] = fidelity[ALL]["frechet"] / of_teacher["value"]
        return [row | {"num_images": differences.num_images} for row in fidelity.values()], rows

    def _training_images(self, biased_images: StoredImages) -> ImageStatistics:
        """Look at as many training images as there are composites: distances of samples depend on their sizes."""
        split = biased_images.split("train")
        rows = torch.arange(min(len(split), self.heldout.num_rows))
        statistics = self._statistics(len(rows))
        for batch in split.rows.take(rows).split(BATCH):
            statistics.update(from_bytes(batch))
        return statistics


# --- tables --------------------------------------------------------------------------------------


def generation_metrics(table: pd.DataFrame) -> dict[str, float]:
    """Return the measures by name, such as `generation/students/fid/teacher`, and their `_sd`."""
    metrics = {}
    for row in table.to_dict("records"):
        parts = ["generation", row["images"], row["measure"]]
        if isinstance(row["reference"], str):
            parts.append(row["reference"])
        name = "/".join(str(part).replace(" ", "_") for part in parts)
        metrics[name] = float(row["value"])
        if pd.notna(row["sd"]):
            metrics[f"{name}_sd"] = float(row["sd"])
    return metrics
