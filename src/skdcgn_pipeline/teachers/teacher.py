"""Load a teacher: a published or shipped CGN, or anything with the generator's interface."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skdcgn_pipeline.artifacts.store import Artifact, identity_of, sha256_of_file
from skdcgn_pipeline.images.assets import DEFAULT_ASSETS, published_teacher_name, require_assets
from skdcgn_pipeline.images.assets import variant_of_published_teacher as published_variant
from skdcgn_pipeline.mechanisms import (
    CounterfactualGenerator,
    LabelsLike,
    MechanismImages,
    MechanismLabels,
    check_images,
)
from skdcgn_pipeline.networks.programs import OnnxProgram
from skdcgn_pipeline.networks.weights_file import check_tensors, first_line, read_state
from skdcgn_pipeline.parameters import Teacher
from skdcgn_pipeline.parameters.teacher import IMAGENET_CGN
from skdcgn_pipeline.runtime.errors import SettingError, check_choice
from skdcgn_pipeline.runtime.extensions import call, sha256_of_source
from skdcgn_pipeline.runtime.seeding import torch_generator
from skdcgn_pipeline.teachers.cgn import MnistCGN
from skdcgn_pipeline.teachers.imagenet_cgn import DEFAULT_TRUNCATION, Weights, files_of_parts, load_imagenet_cgn
from skdcgn_pipeline.vocabulary import CUTOUTS, MECHANISMS

TEACHERS = ("cgn", "mnist_cgn", "digits_cgn", "imagenet_cgn", "custom")
RENDERED_AGAIN = 1e-3  # by how much a pixel in [-1, 1] may differ in another batch
NUM_FINGERPRINTED = 8
UNTRUSTED = (
    "If you trust whoever made it, say so: teacher.trust_program=true (in Python trust_program=True, to the explorer "
    "--trust). Otherwise ask for it in ONNX."
)
REMEDY = "See docs/own_teacher.md."
TRAINED_WEIGHTS = "teacher.safetensors"  # of the artifact of a training
SHIPPED_DIGITS_TEACHER = Path(__file__).parents[1] / "released" / "cgn_digits_double_colored.safetensors"


class FunctionTeacher:
    """A function of noise and three label tensors as a teacher.

    Args:
        function: (noise [N, noise_dim], shape, texture and background labels [N]) -> mask, foreground,
            background.
        noise_dim, num_classes, image_size: What the function takes and gives.
    """

    def __init__(
        self, function: Callable[..., tuple[Tensor, Tensor, Tensor]], noise_dim: int, num_classes: int, image_size: int
    ) -> None:
        self.function = function
        self.noise_dim, self.num_classes, self.image_size = noise_dim, num_classes, image_size

    def render(self, noise: Tensor, labels: LabelsLike) -> MechanismImages:
        """Render the mechanisms before the patch shift, without gradients."""
        labels = MechanismLabels.of(labels)
        with torch.no_grad():
            return MechanismImages(*self.function(noise, labels.shape, labels.texture, labels.background))


def _load_cgn(path: Path, variant: str | None) -> MnistCGN:
    state, metadata = read_state(path)
    trained_on = metadata.get("variant") or published_variant(sha256_of_file(path))
    if variant and trained_on and trained_on != variant:
        raise SettingError(
            "teacher.weights",
            f"a teacher of the variant '{variant}'",
            f"{path}, a teacher of '{trained_on}'",
            f"Give the file of '{variant}', or set variant={trained_on}.",
        )
    model = MnistCGN.like(state)
    # Older files lack the counters of batch-norm, which nothing reads.
    counters = [n for n in model.state_dict() if n.endswith("num_batches_tracked") and n not in state]
    expected = {name: tensor for name, tensor in model.state_dict().items() if name not in counters}
    remedy = "Give the weights of a CGN with this architecture, or use teacher.name=custom."
    check_tensors(path, state, expected, "the MNIST CGN", remedy)
    model.load_state_dict(state, strict=not counters)
    # Channels last is the faster layout of these convolutions on a CPU.
    return model.to(memory_format=torch.channels_last).requires_grad_(False).eval()


def _load_program(path: Path, interface: Mapping[str, int], trust_program: bool) -> FunctionTeacher:
    """Open a file that renders: operators in ONNX for everybody, code in other forms where it is trusted."""
    loaders: dict[str, Callable[[], Callable[..., Any]]] = {
        ".onnx": lambda: OnnxProgram(path, "teacher.weights"),
        ".pt2": lambda: torch.export.load(path).module(),
        ".pt": lambda: torch.jit.load(str(path), map_location="cpu").eval(),
    }
    if not path.is_file():
        raise SettingError("teacher.weights", "a file", f"nothing at {path}", "Correct the path.")
    if path.suffix in loaders and path.suffix != ".onnx" and not trust_program:
        got = f"{path}, a form that can run any code on this machine; nothing of it was opened"
        raise SettingError("teacher.weights", "an ONNX program (.onnx)", got, UNTRUSTED)
    try:
        function = loaders[path.suffix]()
    except SettingError:
        raise
    except Exception as error:  # many kinds, all meaning the same to the user
        remedy = "Give a file in ONNX, or one of torch.export.save (.pt2) or torch.jit.save (.pt)."
        raise SettingError("teacher.weights", "a program", f"{path} ({first_line(error)})", remedy) from error
    if isinstance(function, OnnxProgram) and (len(function.inputs), len(function.outputs)) != (4, 3):
        expected = "4 inputs (noise, three labels) and 3 outputs (mask, foreground, background)"
        got = f"{path} with {len(function.inputs)} and {len(function.outputs)}"
        raise SettingError("teacher.weights", expected, got, REMEDY)
    return FunctionTeacher(function, **interface)


def load_teacher(
    name: str,
    weights: Weights | None = None,
    *,
    factory: str | None = None,
    variant: str | None = None,
    assets: Path | str = DEFAULT_ASSETS,
    noise_dim: int | None = None,
    num_classes: int | None = None,
    image_size: int | None = None,
    truncation: float | None = None,
    trust_program: bool = False,
) -> CounterfactualGenerator:
    """Load a teacher and check that it keeps the interface.

    Args:
        name: `cgn` (weights of the `teacher` pipeline), `mnist_cgn` (published weights), `digits_cgn`
            (shipped with the package), `imagenet_cgn` or `custom`.
        weights: The file; by default the published one of `variant` in the asset folder, or the
            shipped one. For `imagenet_cgn`, the published checkpoint or several files by name, see
            `load_imagenet_cgn`. For `custom`, an ONNX program of noise [N, noise_dim] and three label
            tensors [N] that returns mask, foreground and background, or, where trusted, one of `torch.export`
            (.pt2) or TorchScript (.pt).
        factory: For `custom`: `module:function` that returns an object with the interface; it is imported and called.
        variant: Refuse a teacher that is known to be of another variant.
        assets: The asset folder.
        noise_dim, num_classes, image_size: For a `custom` file.
        truncation: For `imagenet_cgn`, in (0, 1]; 0.5 by default.
        trust_program: Open a `custom` file that can run any code, because whoever made it is trusted.

    Returns:
        A teacher; only its interface is ever used.

    Raises:
        SettingError: If the file is missing, damaged, of another architecture or variant, holds code
            that nobody trusts, or the teacher's images break the contract. Nothing is executed but the operators of
            an ONNX program, a factory, and what `trust_program` allows.
    """
    check_choice("teacher.name", name, TEACHERS)
    teacher: CounterfactualGenerator
    if name == "custom":
        if factory:
            teacher = call("teacher.factory", factory)
        elif isinstance(weights, (Path, str)) and noise_dim and num_classes and image_size:
            interface = {"noise_dim": noise_dim, "num_classes": num_classes, "image_size": image_size}
            teacher = _load_program(Path(weights), interface, trust_program)
        else:
            raise SettingError(
                "teacher",
                "'factory', or 'weights' with 'noise_dim', 'num_classes' and 'image_size'",
                "neither",
                REMEDY,
            )
    elif name == IMAGENET_CGN:
        teacher = load_imagenet_cgn(weights, DEFAULT_TRUNCATION if truncation is None else truncation)
    else:
        teacher = _load_cgn(teacher_path(name, weights, variant, assets), variant)
    check_teacher(teacher)
    return teacher


def teacher_path(name: str, weights: Weights | None, variant: str | None, assets: Path | str) -> Path:
    """Return the weights file of a `cgn`, `mnist_cgn` or `digits_cgn` teacher.

    Raises:
        SettingError: If the default file is absent or no variant says which it is.
    """
    if isinstance(weights, Mapping):
        remedy = "Only an ImageNet CGN has several files."
        raise SettingError("teacher.weights", "one file", f"{sorted(weights)}", remedy)
    if weights is not None:
        return Path(weights)
    if name == "digits_cgn":
        return SHIPPED_DIGITS_TEACHER
    if variant is None:
        raise SettingError("teacher.weights", "a file", None, "Give the file or a variant.")
    return require_assets(assets, [published_teacher_name(variant)])[0]


def check_teacher(teacher: Any) -> None:
    """Refuse an object that does not keep the interface, by rendering a few images in two batch sizes.

    Raises:
        SettingError: Naming the attribute or image that is wrong, or that an image depends on more than its noise
            and labels: on the images beside it, on what was rendered before, on chance.
    """
    for attribute in ("noise_dim", "num_classes", "image_size"):
        value = getattr(teacher, attribute, None)
        if not isinstance(value, int) or value < 1:
            raise SettingError(f"teacher.{attribute}", "a positive integer attribute", repr(value), REMEDY)
    if not callable(getattr(teacher, "render", None)):
        raise SettingError("teacher.render", "a method render(noise, labels)", type(teacher).__name__, REMEDY)
    if isinstance(teacher, nn.Module) and any(part.training for part in teacher.modules()):
        got = "a network in training mode, which looking at it would change"
        raise SettingError("teacher", "a network in eval mode", got, "Call its eval() before it is returned.")
    noise, labels = _probe(teacher, 3)
    rendered = []
    for num_images in (2, 3):
        try:
            images = teacher.render(noise[:num_images], labels[:num_images])
        except Exception as error:
            got = f"{type(error).__name__} for {num_images} images: {first_line(error)}"
            raise SettingError("teacher.render", "images for any batch size", got, REMEDY) from error
        check_images(images, num_images, teacher.image_size)
        rendered.append(images)
    for mechanism in MECHANISMS:
        first, again = (images.of(mechanism)[:2] for images in rendered)
        difference = (first - again).abs().max().item()
        if difference > RENDERED_AGAIN:
            expected = "images that depend on their noise and labels alone"
            got = (
                f"the same noise and labels rendered again, beside another image, with a difference of {difference:.3g}"
            )
            raise SettingError("teacher.render", expected, got, "Draw nothing at random but from the noise given.")
    _check_influence(teacher)


def _check_influence(teacher: Any) -> None:
    """Refuse a teacher that cannot render its last class, or whose noise or labels change nothing."""
    last = teacher.num_classes - 1
    noise, labels = _probe(teacher, 2)[0][[0, 1, 0]], torch.tensor([last, last, 0])
    try:
        images = teacher.render(noise, labels)
    except Exception as error:
        got = f"{type(error).__name__} for class {last}: {first_line(error)}"
        raise SettingError("teacher.render", f"images of the classes 0 to {last}", got, REMEDY) from error
    check_images(images, len(noise), teacher.image_size)
    for what, row in {"noise": 1, "labels": 2 if last else 1}.items():
        if all(torch.equal(images.of(mechanism)[0], images.of(mechanism)[row]) for mechanism in MECHANISMS):
            got = f"the same mask, foreground and background for other {what}"
            raise SettingError("teacher.render", f"images that follow their {what}", got, REMEDY)


def _probe(teacher: CounterfactualGenerator, num_images: int) -> tuple[Tensor, Tensor]:
    """Return noise [N, noise_dim] and labels [N] by which a teacher is looked at."""
    noise = torch.randn(num_images, teacher.noise_dim, generator=torch_generator(0, "teacher-check"))
    return noise, torch.arange(num_images) % teacher.num_classes


def _content_of(teacher: CounterfactualGenerator) -> dict[str, str]:
    """Return hashes of what a teacher renders and of the tensors that it holds, if it is a network.

    Of the images count the mean and spread of each channel to three decimals, which all machines agree on.
    """
    with torch.no_grad():
        images = teacher.render(*_probe(teacher, NUM_FINGERPRINTED))
    channels = torch.cat([images.of(mechanism).cpu().double() for mechanism in MECHANISMS], 1)
    statistics = channels.mean((2, 3)), channels.std((2, 3))
    content = {"renders": identity_of({"statistics": [(1000 * s).round().int().tolist() for s in statistics]})}
    if isinstance(teacher, nn.Module):
        digest = hashlib.sha256()
        for name, tensor in teacher.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        content["weights"] = digest.hexdigest()
    return content


def identify_teacher(
    settings: Teacher,
    generator: CounterfactualGenerator | None = None,
    variant: str | None = None,
    assets: Path | str = DEFAULT_ASSETS,
) -> dict[str, Any]:
    """Return what the images of the teacher that settings name depend on.

    That is the SHA-256 of its weights; of a factory, what its source, the tensors that `generator`, which it has made,
    holds and the images that it renders are, for a factory may read files and call other modules.
    """
    name, weights = settings.name, settings.weights
    if settings.factory:
        assert generator is not None
        of_source = sha256_of_source("teacher.factory", settings.factory)
        return {"name": name, "factory": settings.factory, "sha256": of_source, **_content_of(generator)}
    if name == IMAGENET_CGN:
        files = files_of_parts(weights)
        digests = {path: sha256_of_file(path) for path in set(files.values())}
        sha256 = {prefix: digests[path] for prefix, path in files.items()}
        return {"name": name, "sha256": sha256, "truncation": float(settings.truncation or DEFAULT_TRUNCATION)}
    interface = settings.model_dump(include={"noise_dim", "num_classes", "image_size"}, exclude_none=True)
    return {"name": name, "sha256": sha256_of_file(teacher_path(name, weights, variant, assets)), **interface}


def teacher_file(settings: Teacher, variant: str, assets: str) -> Path | None:
    """Return the one file that a teacher is; None for what a factory makes or several files.

    Raises:
        SettingError: If it is absent.
    """
    if settings.factory or isinstance(settings.weights, dict) or settings.name == IMAGENET_CGN:
        return None
    return teacher_path(settings.name, settings.weights, variant, assets)


@dataclass(frozen=True)
class IdentifiedTeacher:
    """A teacher with what its images depend on.

    Attributes:
        generator: The teacher.
        identity: JSON-able; the same for the same images.
        settings: What names it; None where only a run's artifact does.
        open_again: Opens it again, in another process too, to which it is not sent; None where nothing can.
    """

    generator: CounterfactualGenerator
    identity: dict[str, Any]
    settings: Teacher | None = None
    open_again: Callable[[], CounterfactualGenerator] | None = None


def open_identified_teacher(settings: Teacher, variant: str | None, assets: str) -> IdentifiedTeacher:
    """Load the teacher that the settings name; raises like `load_teacher`."""
    options = settings.model_dump(exclude={"cutouts", "fit"})
    opened = partial(load_teacher, variant=variant, assets=assets, **options)
    generator = opened()
    return IdentifiedTeacher(generator, identify_teacher(settings, generator, variant, assets), settings, opened)


def open_trained_teacher(trained_teacher: Artifact) -> IdentifiedTeacher:
    """Load the teacher that the teacher stage has trained, or cut out."""
    if trained_teacher.inputs["kind"] == CUTOUTS:
        from skdcgn_pipeline.teachers.cutouts import CutoutsRecipe, open_cutouts  # which reads tables

        cutouts = open_cutouts(trained_teacher)
        check_teacher(cutouts)
        identity = {"name": CutoutsRecipe.kind, "cutouts": trained_teacher.identity}
        return IdentifiedTeacher(cutouts, identity, open_again=partial(open_cutouts, trained_teacher))
    settings = Teacher(name="cgn", weights=str(trained_teacher.path(TRAINED_WEIGHTS)))
    return open_identified_teacher(settings, None, DEFAULT_ASSETS)
