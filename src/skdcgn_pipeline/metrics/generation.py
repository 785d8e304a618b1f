"""How good generated images are: FID, KID and IS in the features of a network, and what the masks look like.

Sources: FID (arXiv 1706.08500), KID (arXiv 1801.01401), IS (arXiv 1606.03498), the mean mask (CGN, arXiv
2101.06046, section 4.2). Images stream by: beyond a few bytes per image, memory depends on the settings and the
number of classes alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from skdcgn_pipeline.artifacts.store import build_json, sha256_of_file
from skdcgn_pipeline.classifiers.classifier import DigitClassifier
from skdcgn_pipeline.images.batches import from_bytes
from skdcgn_pipeline.images.biased import BiasedImages
from skdcgn_pipeline.losses.mechanism import mask_entropy_loss
from skdcgn_pipeline.mechanisms import CounterfactualGenerator, MechanismImages, compose
from skdcgn_pipeline.metrics.cost import peak_gpu_bytes
from skdcgn_pipeline.metrics.fidelity import StreamedGaussian, frechet_distance
from skdcgn_pipeline.networks.interface import check_same_interface
from skdcgn_pipeline.networks.weights_file import first_line, read_state
from skdcgn_pipeline.parameters import Compute, GenerationMetrics
from skdcgn_pipeline.runtime.compute import autocast, choose_device
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.runtime.seeding import torch_generator
from skdcgn_pipeline.samples.drawing import SampleShards, decode_images
from skdcgn_pipeline.teachers.teacher import IdentifiedTeacher
from skdcgn_pipeline.vocabulary import IMAGE_OF_MECHANISM, MECHANISMS, STUDENTS

ALL = "all"
TEACHER, TRAINING = "teacher", "training images"
COLUMNS = ["images", "measure", "reference", "label", "value", "sd", "num_images"]
INCEPTION_FILE = "inception/weights-inception-2015-12-05-6726825d.pth"
INCEPTION_URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/" + Path(INCEPTION_FILE).name
# Features of this many images are kept for KID, a random sample of them all.
KID_MAX_IMAGES = 10_000
# A mask whose mean is outside hides one of the two images nearly everywhere.
COLLAPSED_BELOW, COLLAPSED_ABOVE = 0.05, 0.95
BATCH = 64
MAX_CLASS_BYTES = 4 * 2**30


# --- networks ------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """What a network sees in N images.

    Attributes:
        features: [N, D], float32.
        logits: [N, K], before the softmax.
    """

    features: Tensor
    logits: Tensor


@dataclass(frozen=True)
class JudgeNetwork:
    """A network in whose features images are compared.

    Attributes:
        look: Images [N, 3, H, W] in [-1, 1] on any device -> what it sees of them, on the CPU.
        identity: What its features depend on; JSON-able.
    """

    look: Callable[[Tensor], Seen]
    identity: Any


def judge_of_classifier(network: DigitClassifier, identity: Any, compute: Compute) -> JudgeNetwork:
    """Return a digit classifier as a judge: its pooled features [N, 64] and its logits."""
    device = choose_device(compute.device)

    @torch.no_grad()
    def look(images: Tensor) -> Seen:
        network.to(device)
        with autocast(compute, device):
            features = network.features(images.to(device))
            logits = network.head(features)
        return Seen(features.float().cpu(), logits.float().cpu())

    return JudgeNetwork(look, identity)


def inception_path(assets: Path | str) -> Path:
    """Return where Inception's weights are; refuse when they are not.

    Raises:
        SettingError: Naming the file, where it comes from and the alternative; or the package that reads it.
    """
    path = Path(assets) / INCEPTION_FILE
    if not path.is_file():
        raise SettingError(
            "report.generation_metrics.network",
            f"the weights of Inception at {path}",
            "no such file",
            f"Download {INCEPTION_URL} and put it there, or use 'feature_network', the run's own digit classifier.",
        )
    try:
        import torch_fidelity  # noqa: F401
    except ImportError as error:
        raise SettingError(
            "report.generation_metrics.network",
            "the package torch-fidelity for 'inception'",
            f"'{error}'",
            "Install it: pip install torch-fidelity, or the extra 'inception' of this package.",
        ) from error
    return path


def open_inception(assets: Path | str, compute: Compute) -> JudgeNetwork:
    """Return the Inception network of FID: 2,048 features and 1,008 logits without bias, of the image at 299 px.

    It is that of torch-fidelity, which repeats the numbers of the original implementation; always fp32.

    Raises:
        SettingError: If the weights are missing, damaged, hold code or are of another network.
    """
    path = inception_path(assets)
    # torch-fidelity would execute what a weights file holds: it only gets one that has been read without.
    read_state(path, setting="report.generation_metrics.network")
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    names = ["2048", "logits_unbiased"]
    try:
        network = FeatureExtractorInceptionV3("inception", names, feature_extractor_weights_path=str(path))
    except RuntimeError as error:
        raise SettingError(
            "report.generation_metrics.network",
            "the weights of torch-fidelity's Inception",
            f"{path} ({first_line(error)})",
            f"Download {INCEPTION_URL} again.",
        ) from error
    device = choose_device(compute.device)

    @torch.no_grad()
    def look(images: Tensor) -> Seen:
        network.to(device)
        as_bytes = images.to(device).add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
        features, logits = network(as_bytes)
        return Seen(features.cpu(), logits.cpu())

    return JudgeNetwork(look, {"network": "inception", "sha256": sha256_of_file(path)})


# --- measures ------------------------------------------------------------------------------------


class SplitScores:
    """Inception score by splits, exp(E_x KL(p(y|x) || p(y))) (arXiv 1606.03498, section 4).

    Images go to splits of equal size at random; of each split two sums are kept.

    Args:
        num_images: How many will come.
        num_splits: How many splits; at most as many as images.
        seed: Of the assignment.
    """

    def __init__(self, num_images: int, num_splits: int, seed: int) -> None:
        num_splits = min(num_splits, num_images)
        order = torch.randperm(num_images, generator=torch_generator(seed, "inception-splits"))
        self._split_of = order % num_splits
        self._seen = 0
        self._count = torch.zeros(num_splits, dtype=torch.double)
        self._negative_entropy = torch.zeros(num_splits, dtype=torch.double)
        self._probability = torch.zeros(num_splits, 0, dtype=torch.double)

    def update(self, logits: Tensor) -> None:
        """Add the logits [N, K] of the next N images."""
        log_p = logits.double().log_softmax(1)
        if not self._seen:
            self._probability = torch.zeros(len(self._count), logits.shape[1], dtype=torch.double)
        split = self._split_of[self._seen : self._seen + len(logits)]
        self._seen += len(logits)
        self._count.index_add_(0, split, torch.ones(len(split), dtype=torch.double))
        self._negative_entropy.index_add_(0, split, (log_p.exp() * log_p).sum(1))
        self._probability.index_add_(0, split, log_p.exp())

    def score(self) -> tuple[float, float]:
        """Return mean and standard deviation over the splits; 1 is the worst score, K the best."""
        mean = self._probability / self._count[:, None]
        # entr is -p log p, and 0 where p is.
        divergence = self._negative_entropy / self._count + torch.special.entr(mean).sum(1)
        scores = divergence.clamp_min(0).exp()
        return scores.mean().item(), scores.std(correction=0).item()


def polynomial_mmd(first: Tensor, second: Tensor) -> float:
    """Return the unbiased squared MMD of features [m, D] and [n, D] with the kernel (x.y / D + 1)^3.

    Source: arXiv 1801.01401, equation 4. It can be negative where the two are alike.
    """

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    first, second = first.double(), second.double()
    within = 0.0
    for features in (first, second):
        products = kernel(features, features)
        # An image is not compared with itself.
        within += (products.sum() - products.trace()).item() / (len(features) * (len(features) - 1))
    return within - 2 * kernel(first, second).mean().item()


def kernel_distance(
    first: Tensor, second: Tensor, num_subsets: int, subset_size: int, seed: int
) -> tuple[float, float]:
    """Return mean and standard deviation of `polynomial_mmd` over random subsets: KID.

    Args:
        first, second: Features [N, D] and [M, D] of at least two images each.
        num_subsets: How many subsets of both.
        subset_size: Images of each; at most half of what there is, so that subsets differ.
        seed: Of the subsets.
    """
    size = max(2, min(subset_size, len(first) // 2, len(second) // 2))
    values = []
    for number in range(num_subsets):
        generator = torch_generator(seed, "kid-subset", number)
        mine, theirs = (x[torch.randperm(len(x), generator=generator)[:size]] for x in (first, second))
        values.append(polynomial_mmd(mine, theirs))
    return fmean(values), pstdev(values)


class ImageBatch(NamedTuple):
    """Some images of a stream.

    Attributes:
        images: [N, 3, H, W] in [-1, 1].
        labels: [N], the class of each.
        mask: [N, 1, H, W] in [0, 1] where images are composed, else None.
    """

    images: Tensor
    labels: Tensor
    mask: Tensor | None = None


class ImageStatistics:
    """What is kept of a stream of images: sums, and the features of some.

    Args:
        num_images: How many will come.
        num_classes: Number of classes.
        settings: What is measured.
        seed: Of everything random.

    Raises:
        SettingError: From `update`, if the statistics of the classes would need too much memory.
    """

    def __init__(self, num_images: int, num_classes: int, settings: GenerationMetrics, seed: int) -> None:
        self.num_images = num_images
        classes = range(num_classes) if settings.classes == "all" else settings.classes
        self.gaussian = StreamedGaussian()
        self.of_class = {label: StreamedGaussian() for label in classes if label < num_classes}
        self.scores = SplitScores(num_images, settings.num_splits, seed)
        order = torch.randperm(num_images, generator=torch_generator(seed, "kid-sample"))
        self._is_kept = torch.zeros(num_images, dtype=torch.bool)
        self._is_kept[order[:KID_MAX_IMAGES]] = True
        self._kept: list[Tensor] = []
        self._seen = 0
        self._mask_means: list[Tensor] = []
        self._mask_entropy = 0.0

    def update(self, batch: ImageBatch, judge: JudgeNetwork) -> None:
        """Add the next images."""
        seen = judge.look(batch.images)
        if not self._seen:
            self._check_memory(seen.features.shape[1])
        self.gaussian.update(seen.features)
        for label, gaussian in self.of_class.items():
            gaussian.update(seen.features[batch.labels == label])
        self.scores.update(seen.logits)
        self._kept.append(seen.features[self._is_kept[self._seen : self._seen + len(seen.features)]])
        self._seen += len(batch.images)
        if batch.mask is not None:
            self._mask_means.append(batch.mask.double().mean((1, 2, 3)).cpu())
            self._mask_entropy += mask_entropy_loss(batch.mask.double()).item() * len(batch.mask)

    def _check_memory(self, num_features: int) -> None:
        needed = 8 * num_features**2 * len(self.of_class)
        if needed > MAX_CLASS_BYTES:
            raise SettingError(
                "report.generation_metrics.classes",
                f"at most {MAX_CLASS_BYTES // (8 * num_features**2)} classes with {num_features} features",
                f"{len(self.of_class)} classes, which need {needed / 2**30:.0f} GiB",
                "Name fewer classes, or none: [].",
            )

    @property
    def kept(self) -> Tensor:
        """Features of a random sample of the images, at most `KID_MAX_IMAGES`."""
        return torch.cat(self._kept)

    def mask_measures(self) -> dict[str, tuple[float, float | None]]:
        """Return what tells of collapsed masks, value and standard deviation over masks; empty without masks."""
        if not self._mask_means:
            return {}
        means = torch.cat(self._mask_means)
        collapsed = (means < COLLAPSED_BELOW) | (means > COLLAPSED_ABOVE)
        return {
            "mean_mask": (means.mean().item(), means.std(correction=0).item()),
            "mask_entropy": (self._mask_entropy / len(means), None),
            "collapsed_masks": (collapsed.double().mean().item(), None),
        }


def gather_statistics(
    batches: Iterable[ImageBatch],
    num_images: int,
    num_classes: int,
    judge: JudgeNetwork,
    settings: GenerationMetrics,
    seed: int,
) -> ImageStatistics:
    """Look at every image of a stream once."""
    gathered = ImageStatistics(num_images, num_classes, settings, seed)
    for batch in batches:
        gathered.update(batch, judge)
    return gathered


def describe_images(name: str, statistics: ImageStatistics) -> list[dict[str, Any]]:
    """Return the rows of what needs no reference: `inception_score` and the measures of masks."""
    measures: dict[str, tuple[float, float | None]] = {"inception_score": statistics.scores.score()}
    measures |= statistics.mask_measures()
    count = statistics.num_images
    return [_row(name, measure, None, ALL, value, sd, count) for measure, (value, sd) in measures.items()]


def compare_images(
    name: str,
    statistics: ImageStatistics,
    reference_name: str,
    reference: ImageStatistics,
    settings: GenerationMetrics,
    seed: int,
) -> list[dict[str, Any]]:
    """Return the rows of `fid`, over all images and per class, and `kid`; classes with one image are left out."""
    distance = frechet_distance(statistics.gaussian.statistics(), reference.gaussian.statistics())
    rows = [_row(name, "fid", reference_name, ALL, distance, None, statistics.num_images)]
    for label, gaussian in statistics.of_class.items():
        other = reference.of_class[label]
        if min(gaussian.count, other.count) > 1:
            distance = frechet_distance(gaussian.statistics(), other.statistics())
            rows.append(_row(name, "fid", reference_name, str(label), distance, None, gaussian.count))
    kid = kernel_distance(statistics.kept, reference.kept, settings.num_subsets, settings.subset_size, seed)
    rows.append(_row(name, "kid", reference_name, ALL, *kid, statistics.num_images))
    return rows


def _row(
    images: str, measure: str, reference: str | None, label: str, value: float, sd: float | None, num_images: int
) -> dict[str, Any]:
    return dict(zip(COLUMNS, (images, measure, reference, label, value, sd, num_images), strict=True))


# --- streams -------------------------------------------------------------------------------------

OFFSETS = ("foreground_offset", "background_offset")


def stored_composites(samples: SampleShards) -> Iterator[ImageBatch]:
    """Compose stored samples with the patch shifts that are recorded with them."""
    for shard in samples.stream(["labels", *OFFSETS, *IMAGE_OF_MECHANISM.values()]):
        columns = {name: torch.from_numpy(values) for name, values in shard.items()}
        for start in range(0, len(columns["labels"]), BATCH):
            part = {name: values[start : start + BATCH] for name, values in columns.items()}
            images = MechanismImages(*(decode_images(m, part[IMAGE_OF_MECHANISM[m]]) for m in MECHANISMS))
            yield ImageBatch(compose(images, *(part[name].long() for name in OFFSETS)), part["labels"], images.mask)


def rendered_composites(
    generator: CounterfactualGenerator, samples: SampleShards, compute: Compute
) -> Iterator[ImageBatch]:
    """Render the noise and classes of samples anew and compose with the same patch shifts."""
    device = choose_device(compute.device) if isinstance(generator, nn.Module) else torch.device("cpu")
    if isinstance(generator, nn.Module):
        generator.to(device)
    for shard in samples.stream(["noise", "labels", *OFFSETS]):
        columns = {name: torch.from_numpy(values) for name, values in shard.items()}
        for start in range(0, len(columns["labels"]), BATCH):
            part = {name: values[start : start + BATCH] for name, values in columns.items()}
            images = generator.render(part["noise"].to(device), part["labels"].to(device)).to("cpu")
            yield ImageBatch(compose(images, *(part[name].long() for name in OFFSETS)), part["labels"], images.mask)
    if isinstance(generator, nn.Module):
        generator.to("cpu")


def labelled_images(images: Tensor, labels: Tensor) -> Iterator[ImageBatch]:
    """Give uint8 images [N, 3, H, W] of classes [N]."""
    for part, own in zip(images.split(BATCH), labels.split(BATCH), strict=True):
        yield ImageBatch(from_bytes(part), own)


def measure_generation(
    store: Path,
    teacher: IdentifiedTeacher,
    students: CounterfactualGenerator,
    students_identity: str,
    heldout: SampleShards,
    biased_images: BiasedImages | None,
    judge: JudgeNetwork,
    settings: GenerationMetrics,
    seed: int,
    compute: Compute,
    name: str = STUDENTS,
) -> pd.DataFrame:
    """Measure the composites of students and teacher on held-out noise, or reuse what was measured.

    Args:
        store: Directory of measures.
        teacher: The teacher.
        students: The students, or anything with their interface.
        students_identity: What their images depend on.
        heldout: The teacher's samples on noise that was never trained on.
        biased_images: The training images that the teacher imitates; None leaves them out.
        judge: In whose features images are compared.
        settings: What is measured.
        seed: Of subsets and splits.
        compute: Device and precision.
        name: What the table calls the students.

    Returns:
        A row per measure: `images` (`name` or teacher), `measure`, `reference` (teacher or training images,
        where there is one), `label` (`all` or a class), `value`, `sd` (over subsets, splits or masks),
        `num_images`. Measures: fid, kid, inception_score, mean_mask, mask_entropy (bits), collapsed_masks
        (share of the masks), peak_gpu_bytes (where there is a GPU; of a batch of 64).

    Raises:
        SettingError: If the students were made for another interface, or classes need too much memory.
    """
    check_same_interface(heldout, students)
    inputs = {
        "kind": "generation",
        "teacher": teacher.identity,
        "students": students_identity,
        "heldout": heldout.artifact.identity,
        "biased_images": None if biased_images is None else biased_images.artifact.identity,
        "judge": judge.identity,
        "settings": settings.model_dump(mode="json"),
        "seed": seed,
        "compute": compute.model_dump(),
    }

    def gather(batches: Iterable[ImageBatch], num_images: int) -> ImageStatistics:
        return gather_statistics(batches, num_images, heldout.num_classes, judge, settings, seed)

    def measure() -> Any:
        mine = gather(rendered_composites(students, heldout, compute), heldout.num_rows)
        theirs = gather(stored_composites(heldout), heldout.num_rows)
        rows = describe_images(STUDENTS, mine) + describe_images(TEACHER, theirs)
        rows += compare_images(STUDENTS, mine, TEACHER, theirs, settings, seed)
        if biased_images is not None:
            # As many training images as composites: the distances of two samples depend on their sizes.
            split = biased_images.split("train")
            images, labels = split.images[: heldout.num_rows], split.labels[: heldout.num_rows]
            real = gather(labelled_images(images, labels), len(images))
            for own, statistics in ((STUDENTS, mine), (TEACHER, theirs)):
                rows += compare_images(own, statistics, TRAINING, real, settings, seed)
        rows += _memory_rows({STUDENTS: students, TEACHER: teacher.generator}, compute)
        return json.loads(pd.DataFrame(rows, columns=COLUMNS).to_json(orient="records", double_precision=10))

    # Names are no part of what is measured.
    table = pd.DataFrame(build_json(store, inputs, measure), columns=COLUMNS)
    return table.assign(images=table["images"].replace(STUDENTS, name), sd=table["sd"].astype(float))


def _memory_rows(generators: dict[str, Any], compute: Compute) -> list[dict[str, Any]]:
    """Return the rows of the GPU memory of a batch; none without a GPU."""
    device = choose_device(compute.device)
    rows: list[dict[str, Any]] = []
    if device.type != "cuda":
        return rows
    for name, generator in generators.items():
        if hasattr(generator, "state_dict"):  # not every teacher is a module
            generator.to(device)
            noise = torch.randn(BATCH, generator.noise_dim, generator=torch_generator(0, "cost")).to(device)
            labels = (torch.arange(BATCH) % generator.num_classes).to(device)
            peak = peak_gpu_bytes(generator, partial(generator.render, noise, labels))
            rows.append(_row(name, "peak_gpu_bytes", None, ALL, float(peak or 0), None, BATCH))
            generator.to("cpu")
    return rows


def measures_of_all(table: pd.DataFrame) -> pd.DataFrame:
    """Return the measures over all images side by side.

    Args:
        table: As `measure_generation` gives it.

    Returns:
        A row per measure and reference; `teacher` and `students` (or who painted the images) hold the value, with
        `± sd` where the measure has one; `num_images`.
    """
    overall = table[table["label"] == ALL]
    overall = overall.assign(
        measure=overall["measure"].str.replace("_", " "),
        told=[
            f"{value:.4g}" if pd.isna(sd) else f"{value:.4g} ± {sd:.2g}"
            for value, sd in zip(overall["value"], overall["sd"], strict=True)
        ],
        reference=overall["reference"].fillna(""),
    )
    beside = overall.pivot(index=["measure", "reference", "num_images"], columns="images", values="told")
    order = ["measure", "reference", *sorted(beside.columns, key=lambda name: name != TEACHER), "num_images"]
    return beside.fillna("").rename_axis(columns=None).reset_index()[order]


def distances_by_class(table: pd.DataFrame) -> pd.DataFrame:
    """Return the Frechet distances of each class: a row per class, a column per pair that is compared.

    Args:
        table: As `measure_generation` gives it.
    """
    own = table[(table["measure"] == "fid") & (table["label"] != ALL)]
    named = own.assign(pair=own["images"] + " to " + own["reference"], label=own["label"].astype(int))
    columns = named["pair"].drop_duplicates()
    return named.pivot(index="label", columns="pair", values="value")[columns].rename_axis(columns=None).reset_index()


def generation_metrics(table: pd.DataFrame) -> dict[str, float]:
    """Return the measures over all images by name, such as `generation/students/fid/teacher`, and their `_sd`."""
    metrics = {}
    for row in table[table["label"] == ALL].to_dict("records"):
        parts = ["generation", row["images"], row["measure"]]
        if isinstance(row["reference"], str):
            parts.append(row["reference"])
        name = "/".join(str(part).replace(" ", "_") for part in parts)
        metrics[name] = float(row["value"])
        if pd.notna(row["sd"]):
            metrics[f"{name}_sd"] = float(row["sd"])
    return metrics
