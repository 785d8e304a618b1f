"""Students: one small conditional generator per mechanism, and the network of all three."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skdcgn_pipeline.artifacts.store import sha256_of_file
from skdcgn_pipeline.counterfactuals.datasets import ClassesLike, sample_counterfactuals
from skdcgn_pipeline.mechanisms import LabelsLike, MechanismImages, MechanismLabels
from skdcgn_pipeline.networks.class_mixing import check_mixtures, look_up, pick
from skdcgn_pipeline.networks.pretrained import PretrainedModel
from skdcgn_pipeline.parameters import Composition
from skdcgn_pipeline.runtime.errors import SettingError, check_choice
from skdcgn_pipeline.students.upsampling import (
    instance_norm_channels_last,
    phase_weights,
    pixel_shuffle,
    upsampled_convolution,
)
from skdcgn_pipeline.vocabulary import COMPOSITE, MECHANISMS, channels_of

RELEASED = Path(__file__).parents[1] / "released"
RELEASE_PREFIX = "students_"


class FrozenCache:
    """Keep what a frozen module in eval mode would otherwise compute anew from its tensors in every call."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] | None = None
        self._value: Any = None

    def get(self, module: nn.Module, tensors: Sequence[Tensor], compute: Callable[[], Any]) -> Any:
        """Return `compute()`, or what it gave when the same tensors held the same values."""
        if module.training or any(tensor.requires_grad for tensor in tensors) or torch.compiler.is_compiling():
            return compute()
        key = tuple((tensor.data_ptr(), tensor._version, tensor.device, tensor.dtype) for tensor in tensors)
        if key != self._key:
            # Plain tensors, which serve inside and outside of inference mode.
            with torch.inference_mode(False), torch.no_grad():
                self._key, self._value = key, compute()
        return self._value

    def __reduce__(self) -> tuple[type[FrozenCache], tuple[()]]:
        # Copies, in another process too, have tensors of their own.
        return FrozenCache, ()


class UpsampledConvolution(nn.Conv2d):
    """Nearest x2, then Conv3x3 with padding 1 and without bias, see `upsampled_convolution`."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, 3, padding=1, bias=False)
        self._phases = FrozenCache()

    def forward(self, images: Tensor) -> Tensor:
        """Return [N, channels_out, 2H, 2W] for images [N, channels_in, H, W]."""
        phases = self._phases.get(self, (self.weight,), lambda: phase_weights(self.weight))
        return upsampled_convolution(images, phases)


class ConditionalNorm(nn.Module):
    """Batch-norm whose scale (initially 1) and shift (initially 0) belong to the class.

    Args:
        channels: Channels of the images.
        num_classes: Number of classes.
        embedding_dim: With it, scale and shift are linear in a class embedding, as in TinyGAN;
            without, each class has its own.
        per_image: Instance norm instead of batch-norm.
    """

    def __init__(
        self, channels: int, num_classes: int, embedding_dim: int | None = None, per_image: bool = False
    ) -> None:
        super().__init__()
        self._table = FrozenCache()
        self.norm = nn.InstanceNorm2d(channels) if per_image else nn.BatchNorm2d(channels, affine=False)
        self.affine: nn.Module
        if embedding_dim is None:
            self.affine = nn.Embedding(num_classes, 2 * channels)
        else:
            self.affine = nn.Linear(embedding_dim, 2 * channels)
        nn.init.zeros_(self.affine.weight)  # type: ignore[arg-type]
        if embedding_dim is not None:
            nn.init.zeros_(self.affine.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor, condition: Tensor) -> Tensor:
        """Normalise [N, C, H, W].

        `condition` is classes [N], weights [N, num_classes] of classes, or embeddings [N, embedding_dim].
        """
        norm = self.norm
        if self.training or isinstance(norm, nn.InstanceNorm2d):
            affine = (
                look_up(self.affine, condition) if isinstance(self.affine, nn.Embedding) else self.affine(condition)
            )
            scale, shift = affine[:, :, None, None].to(images.dtype).chunk(2, 1)
            return torch.addcmul(shift, norm(images), scale + 1)
        mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
        if isinstance(self.affine, nn.Embedding):
            table = self.affine.weight
            tensors = (table, mean, variance)
            scale, shift = self._table.get(self, tensors, lambda: self._fused(table, mean, variance))
            scale, shift = pick(scale, condition), pick(shift, condition)
        else:
            scale, shift = self._fused(self.affine(condition), mean, variance)
        return torch.addcmul(shift[:, :, None, None].to(images.dtype), images, scale[:, :, None, None].to(images.dtype))

    def _fused(self, affine: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Return scale and shift [N, C] of both affine maps in one, which is one pass over the images."""
        assert isinstance(self.norm, nn.BatchNorm2d)
        scale, shift = affine.float().chunk(2, 1)
        scale = (scale + 1) * torch.rsqrt(variance + self.norm.eps)
        return scale, shift - mean * scale


class CompactGenerator(nn.Module):
    """A plain network whose convolutions all run at an eighth to a half of the image size.

    Linear -> 1/8 size -> nearest x2, Conv3x3 -> 1/4 size -> nearest x2, Conv3x3 -> 1/2 size ->
    Conv3x3 -> pixel shuffle x2. Class-conditional batch-norm and LeakyReLU in between. Small widths
    make plain convolutions faster than depthwise ones on a CPU.

    Args:
        channels: 1 for masks (values in [0, 1]), 3 for images (values in [-1, 1]).
        noise_dim: Length of the noise.
        num_classes: Number of classes.
        image_size: Height and width, a multiple of 8.
        width: Channels at 1/8, 1/4 and 1/2 of the image size. The first hold most parameters, in the
            linear layer; the last cost most arithmetic.
        embedding_dim: Length of the class embedding that joins the noise.
    """

    def __init__(
        self,
        channels: int,
        noise_dim: int,
        num_classes: int,
        image_size: int,
        width: Sequence[int],
        embedding_dim: int,
    ) -> None:
        super().__init__()
        if image_size % 8:
            raise SettingError("image_size", "a multiple of 8", image_size, "Use the 'tinygan' architecture.")
        first, middle, last = width
        self.start, self.first, self.is_mask = image_size // 8, first, channels == 1
        self.embedding = nn.Embedding(num_classes, embedding_dim)
        self.stem = nn.Linear(noise_dim + embedding_dim, first * self.start**2, bias=False)
        self.norms = nn.ModuleList(ConditionalNorm(c, num_classes) for c in (first, middle, last))
        self.convolutions = nn.ModuleList(
            UpsampledConvolution(c_in, c_out) for c_in, c_out in ((first, middle), (middle, last))
        )
        self.output = nn.Conv2d(last, 4 * channels, 3, padding=1)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Return images [N, channels, image_size, image_size] for noise [N, noise_dim], labels [N]."""
        hidden = self.stem(torch.cat([noise, look_up(self.embedding, labels)], 1))
        hidden = hidden.view(-1, self.first, self.start, self.start)
        hidden = F.leaky_relu_(self.norms[0](hidden, labels), 0.2)
        for convolution, norm in zip(self.convolutions, self.norms[1:], strict=True):  # type: ignore[call-overload]
            hidden = F.leaky_relu_(norm(convolution(hidden), labels), 0.2)
        return _sub_pixels(self.output, hidden, self.is_mask)


class BasisGenerator(nn.Module):
    """A shallow network whose linear layer speaks in learnt spatial patterns.

    Linear -> coefficients of shared patterns at 1/4 size -> instance norm -> nearest x2, Conv3x3 -> 1/2
    size -> batch-norm, LeakyReLU, instance norm -> Conv3x3 -> pixel shuffle x2 -> for masks, another
    instance norm. Scales and shifts of the norms belong to the class.

    The mask of the MNIST CGN is little more than a linear map of noise and class to many channels at 1/4
    size, which holds most of its parameters, and instance norms, which decide how far the strokes reach.
    Channels that share their spatial patterns need a fraction of the parameters, and with the instance
    norms masks come out sharper than from a `CompactGenerator` of the same size.

    Args:
        channels: 1 for masks (values in [0, 1]), 3 for images (values in [-1, 1]).
        noise_dim: Length of the noise.
        num_classes: Number of classes.
        image_size: Height and width, a multiple of 4.
        width: Channels at 1/4 size, number of patterns, channels at 1/2 size.
        embedding_dim: Length of the class embedding that joins the noise.
    """

    def __init__(
        self,
        channels: int,
        noise_dim: int,
        num_classes: int,
        image_size: int,
        width: Sequence[int],
        embedding_dim: int,
    ) -> None:
        super().__init__()
        if image_size % 4:
            raise SettingError("image_size", "a multiple of 4", image_size, "Use the 'tinygan' architecture.")
        first, num_patterns, last = width
        self.start, self.first, self.is_mask = image_size // 4, first, channels == 1
        self.embedding = nn.Embedding(num_classes, embedding_dim)
        self.stem = nn.Linear(noise_dim + embedding_dim, first * num_patterns, bias=False)
        self.patterns = nn.Parameter(torch.randn(num_patterns, self.start**2) / self.start)
        self.norms = nn.ModuleList(
            [ConditionalNorm(first, num_classes, per_image=True), ConditionalNorm(last, num_classes)]
        )
        self.convolution = UpsampledConvolution(first, last)
        self.output = nn.Conv2d(last, 4 * channels, 3, padding=1)
        self.is_fused = False
        if self.is_mask:
            # A steep sigmoid around the mean stands for the teacher's clamp to [0, 1].
            self.gain, self.shift = nn.Parameter(torch.tensor(4.0)), nn.Parameter(torch.tensor(-2.0))

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Return images [N, channels, image_size, image_size] for noise [N, noise_dim], labels [N]."""
        coefficients = self.stem(torch.cat([noise, look_up(self.embedding, labels)], 1))
        hidden = coefficients.view(-1, self.first, self.patterns.shape[0]) @ self.patterns
        hidden = hidden.view(-1, self.first, self.start, self.start)
        hidden = self.convolution(self.norms[0](hidden, labels))
        hidden = F.leaky_relu_(self.norms[1](hidden, labels), 0.2)
        hidden = instance_norm_channels_last(hidden) if self.is_fused else F.instance_norm(hidden)
        if not self.is_mask:
            return _colours(self.output, hidden)
        logits = F.instance_norm(pixel_shuffle(self.output(hidden).float()))
        return (logits * self.gain + self.shift).sigmoid_()


def _sub_pixels(convolution: nn.Conv2d, hidden: Tensor, is_mask: bool) -> Tensor:
    """Convolve, shuffle pixels, and return a mask's sigmoid or an image's tanh."""
    return pixel_shuffle(convolution(hidden).float()).sigmoid_() if is_mask else _colours(convolution, hidden)


def _colours(convolution: nn.Conv2d, hidden: Tensor) -> Tensor:
    """Convolve, shuffle pixels and return their tanh, as 2 sigmoid(2x) - 1.

    Torch's sigmoid is several times faster on a CPU, and doubling the weights spares a pass over the images.
    """
    assert convolution.bias is not None
    doubled = F.conv2d(hidden, 2 * convolution.weight, 2 * convolution.bias, padding=1)
    return torch.rsub(pixel_shuffle(doubled.float()).sigmoid_(), -1, alpha=-2)


class _TinyBlock(nn.Module):
    """TinyGAN's residual block: doubles the resolution with depthwise and pointwise convolutions."""

    def __init__(self, channels_in: int, channels_out: int, num_classes: int, embedding_dim: int) -> None:
        super().__init__()
        self.norm1 = ConditionalNorm(channels_in, num_classes, embedding_dim)
        self.conv1 = _separable(channels_in, channels_out)
        self.norm2 = ConditionalNorm(channels_out, num_classes, embedding_dim)
        self.conv2 = _separable(channels_out, channels_out)
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, images: Tensor, embedding: Tensor) -> Tensor:
        """Return images of twice the height and width."""

        def double(x: Tensor) -> Tensor:
            return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)

        hidden = self.conv1(double(F.relu(self.norm1(images, embedding))))
        hidden = self.conv2(F.relu(self.norm2(hidden, embedding)))
        return hidden + self.shortcut(double(images))


def _separable(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_in, 3, padding=1, groups=channels_in), nn.Conv2d(channels_in, channels_out, 1)
    )


class TinyGenerator(nn.Module):
    """TinyGAN's generator (arXiv 2009.13829, section 3.1), with a learnt class embedding.

    The widths start at 16 * width, stay for the first block and halve with every further one.

    Args:
        channels: 1 for masks, 3 for images.
        noise_dim: Length of the noise.
        num_classes: Number of classes.
        image_size: Height and width, a power of two from 8 on.
        width: c of the paper.
        embedding_dim: Length of the class embedding.
    """

    def __init__(
        self, channels: int, noise_dim: int, num_classes: int, image_size: int, width: int, embedding_dim: int
    ) -> None:
        super().__init__()
        num_blocks = min(5, int(math.log2(image_size // 4)))
        if image_size != 2 ** int(math.log2(image_size)) or num_blocks < 1:
            raise SettingError("image_size", "a power of two from 8 on", image_size, "Resize the teacher's images.")
        self.start, self.first, self.is_mask = image_size // 2**num_blocks, 16 * width, channels == 1
        widths = [self.first] + [self.first // 2**block for block in range(num_blocks)]
        self.embedding = nn.Embedding(num_classes, embedding_dim)
        self.stem = nn.Linear(noise_dim, self.first * self.start**2)
        self.blocks = nn.ModuleList(
            _TinyBlock(c_in, c_out, num_classes, embedding_dim) for c_in, c_out in pairwise(widths)
        )
        self.norm = nn.BatchNorm2d(widths[-1])
        self.output = nn.Conv2d(widths[-1], channels, 3, padding=1)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1 and "affine" not in name:
                nn.init.xavier_uniform_(parameter)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Return images [N, channels, image_size, image_size] for noise [N, noise_dim], labels [N]."""
        embedding = look_up(self.embedding, labels)
        hidden = self.stem(noise).view(-1, self.first, self.start, self.start)
        for block in self.blocks:
            hidden = block(hidden, embedding)
        images = self.output(F.relu(self.norm(hidden))).float()
        return images.sigmoid() if self.is_mask else images.tanh()


class _PlainBlock(nn.Module):
    """A residual block that doubles the resolution with plain convolutions."""

    def __init__(self, channels_in: int, channels_out: int, num_classes: int, embedding_dim: int) -> None:
        super().__init__()
        self.norm1 = ConditionalNorm(channels_in, num_classes, embedding_dim)
        self.conv1 = UpsampledConvolution(channels_in, channels_out)
        self.norm2 = ConditionalNorm(channels_out, num_classes, embedding_dim)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, images: Tensor, embedding: Tensor) -> Tensor:
        """Return images of twice the height and width."""
        hidden = self.conv1(F.relu(self.norm1(images, embedding)))
        hidden = self.conv2(F.relu(self.norm2(hidden, embedding)))
        # At the small size, where the projection costs a quarter.
        return hidden + F.interpolate(self.shortcut(images), scale_factor=2.0)


class PlainGenerator(nn.Module):
    """Residual blocks of plain convolutions, each resolution as wide as its share of the time allows.

    What `TinyGenerator` saves in multiplications it pays in passes over memory: depthwise convolutions and
    bilinear interpolation at the full size. Here the parameters are in wide, dense convolutions at small
    sizes, which matrix units are made for, the first of each block runs before its enlargement, and a
    sub-pixel output spares the largest size altogether.

    Args:
        channels: 1 for masks, 3 for images.
        noise_dim: Length of the noise.
        num_classes: Number of classes.
        image_size: Height and width, a multiple of 2 ** len(width).
        width: Channels at each size, from the smallest, image_size / 2 ** len(width), to a half of the
            image size.
        embedding_dim: Length of the class embedding.
    """

    def __init__(
        self,
        channels: int,
        noise_dim: int,
        num_classes: int,
        image_size: int,
        width: Sequence[int],
        embedding_dim: int,
    ) -> None:
        super().__init__()
        if image_size % 2 ** len(width):
            remedy = "Give fewer widths, one for each size from the smallest to a half of the image size."
            raise SettingError(
                "image_size", f"a multiple of {2 ** len(width)}, for {len(width)} widths", image_size, remedy
            )
        self.start, self.first, self.is_mask = image_size // 2 ** len(width), width[0], channels == 1
        self.embedding = nn.Embedding(num_classes, embedding_dim)
        self.stem = nn.Linear(noise_dim, self.first * self.start**2)
        self.blocks = nn.ModuleList(
            _PlainBlock(c_in, c_out, num_classes, embedding_dim) for c_in, c_out in pairwise(width)
        )
        self.norm = nn.BatchNorm2d(width[-1])
        self.output = nn.Conv2d(width[-1], 4 * channels, 3, padding=1)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1 and "affine" not in name:
                nn.init.xavier_uniform_(parameter)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Return images [N, channels, image_size, image_size] for noise [N, noise_dim], labels [N]."""
        embedding = look_up(self.embedding, labels)
        hidden = self.stem(noise).view(-1, self.first, self.start, self.start)
        for block in self.blocks:
            hidden = block(hidden, embedding)
        hidden = F.relu(self.norm(hidden))
        return _sub_pixels(self.output, hidden, self.is_mask)


ARCHITECTURES: dict[str, type[CompactGenerator] | type[BasisGenerator] | type[TinyGenerator] | type[PlainGenerator]] = {
    "compact": CompactGenerator,
    "basis": BasisGenerator,
    "tinygan": TinyGenerator,
    "plain": PlainGenerator,
}


def make_student(
    mechanism: str, architecture: Mapping[str, Any], noise_dim: int, num_classes: int, image_size: int
) -> nn.Module:
    """Return an untrained student of one mechanism.

    Args:
        mechanism: shape, texture or background, or `COMPOSITE` for a student of the whole image.
        architecture: `architecture` (a name in `ARCHITECTURES`), `width` and `embedding_dim`.
        noise_dim, num_classes, image_size: Those of the teacher.
    """
    check_choice("mechanism", mechanism, (*MECHANISMS, COMPOSITE))
    options = dict(architecture)
    name = check_choice("student.architecture", options.pop("architecture"), ARCHITECTURES)
    return ARCHITECTURES[name](channels_of(mechanism), noise_dim, num_classes, image_size, **options)


class StudentCGN(PretrainedModel):
    """Three distilled mechanisms behind the teacher's interface.

    Args:
        noise_dim: Length of the noise.
        num_classes: Number of classes.
        image_size: Height and width.
        architectures: For each mechanism, what `make_student` takes.
    """

    KIND = "students"
    CONFIG_KEYS = ("noise_dim", "num_classes", "image_size", "architectures")

    def __init__(
        self, noise_dim: int, num_classes: int, image_size: int, architectures: Mapping[str, Mapping[str, Any]]
    ) -> None:
        super().__init__()
        self.noise_dim, self.num_classes, self.image_size = noise_dim, num_classes, image_size
        self.architectures = {mechanism: dict(architectures[mechanism]) for mechanism in MECHANISMS}
        self.students = nn.ModuleDict(
            {m: make_student(m, self.architectures[m], noise_dim, num_classes, image_size) for m in MECHANISMS}
        )

    def network_of(self, mechanism: str) -> nn.Module:
        """Return the student of one mechanism."""
        return self.students[mechanism]

    def forward(self, noise: Tensor, labels: LabelsLike) -> MechanismImages:
        """Render with gradients; noise [N, noise_dim], labels as in `MechanismLabels.of`."""
        labels = MechanismLabels.of(labels)
        check_request(self, noise, labels)
        return MechanismImages(*(self.students[m](noise, getattr(labels, m)) for m in MECHANISMS))

    @torch.no_grad()
    def render(self, noise: Tensor, labels: LabelsLike) -> MechanismImages:
        """Render the mechanisms before the patch shift, without gradients."""
        return self(noise, labels)

    @torch.no_grad()
    def render_mixtures(self, noise: Tensor, weights: Mapping[str, Tensor]) -> MechanismImages:
        """Render mixtures of classes, see `MixesClasses`."""
        check_mixtures(self, noise, weights)
        return MechanismImages(*(self.students[m](noise, weights[m]) for m in MECHANISMS))

    @torch.no_grad()
    def render_mechanism(self, mechanism: str, noise: Tensor, label: Tensor) -> Tensor:
        """Render one mechanism's image for noise [N, noise_dim] and classes [N]."""
        return self.students[mechanism](noise, label)

    def fused(self) -> StudentCGN:
        """Return a copy for rendering that makes fewer passes over memory.

        It computes the same function in another order of summation: masks and images differ by
        rounding, less than 1e-4. Work that is addressed by its inputs (pools, samples) takes the
        network as it was trained, so that its bits do not depend on this.
        """
        students = copy.deepcopy(self)
        for module in students.modules():
            if isinstance(module, BasisGenerator):
                module.is_fused = True
        return students.eval()

    def sample(
        self,
        num_images: int,
        seed: int | Sequence[int] = 0,
        shape: ClassesLike | None = None,
        texture: ClassesLike | None = None,
        background: ClassesLike | None = None,
        composition: Composition | None = None,
    ) -> tuple[Tensor, MechanismLabels]:
        """Render and compose counterfactuals.

        Args:
            num_images: How many.
            seed: With one seed, image i depends on the seed and i alone; with one per image, each is the first
                image of its seed.
            shape, texture, background: One class or one per image; None draws them at random.
            composition: Transformations, patch shift, and how classes that are not given are drawn, see
                `sample_counterfactuals`.

        Returns:
            Composites [N, 3, H, W] in [-1, 1] and the class of each mechanism; a classifier learns the
            `shape` of them.

        Raises:
            SettingError: If a number, a seed or a class is impossible.
        """
        classes = {"shape": shape, "texture": texture, "background": background}
        return sample_counterfactuals(self, num_images, seed, classes, composition)

    @classmethod
    def from_released(cls, name: str) -> StudentCGN:
        """Load students that come with the package; frozen and in eval mode.

        Args:
            name: A name in `released_students()`, such as `wildlife_mnist`.

        Raises:
            SettingError: If there is no such release, or its weights are not those of its card.
        """
        check_choice("students", name, released_students())
        weights = released_path(name, ".safetensors")
        remedy = "Install the package again."
        card = released_card(name)
        if (sha256 := sha256_of_file(weights)) != card["sha256"]:
            raise SettingError(f"students '{name}'", f"weights with SHA-256 {card['sha256']}", sha256, remedy)
        return cls._load(released_path(name, ".json"), weights, f"the released students '{name}'", remedy)


def released_path(name: str, suffix: str) -> Path:
    """Return a file of a release: `.safetensors` (weights), `.json` (card) or `.md` (card to read)."""
    return RELEASED / f"{RELEASE_PREFIX}{name}{suffix}"


def released_card(name: str) -> dict[str, Any]:
    """Return what belongs to a release: teacher, training, command and figures."""
    return json.loads(released_path(name, ".json").read_text(encoding="utf-8"))


def released_students() -> list[str]:
    """Return the names of the students that come with the package."""
    paths = sorted(RELEASED.glob(f"{RELEASE_PREFIX}*.safetensors"))
    return [path.stem.removeprefix(RELEASE_PREFIX) for path in paths]


def check_request(generator: Any, noise: Tensor, labels: MechanismLabels) -> None:
    """Refuse noise and labels that a generator cannot render.

    Raises:
        SettingError: Naming what the generator takes and what came.
    """
    if noise.ndim != 2 or noise.shape[1] != generator.noise_dim:
        raise SettingError(
            "noise", f"shape [N, {generator.noise_dim}]", list(noise.shape), "Draw noise of the generator's noise_dim."
        )
    for mechanism in MECHANISMS:
        label = getattr(labels, mechanism)
        if label.shape != noise.shape[:1]:
            raise SettingError(
                f"labels of {mechanism}", f"shape [{len(noise)}]", list(label.shape), "Give one class per image."
            )
        if len(label) and not (int(label.min()) >= 0 and int(label.max()) < generator.num_classes):
            raise SettingError(
                f"labels of {mechanism}",
                f"classes 0 to {generator.num_classes - 1}",
                f"{int(label.min())} to {int(label.max())}",
                "Use classes that the generator knows.",
            )


def check_same_interface(teacher: Any, students: Any) -> None:
    """Refuse students of another noise size, class count or image size than the teacher's.

    Raises:
        SettingError: Naming every attribute that differs.
    """
    names = ("noise_dim", "num_classes", "image_size")
    expected = {name: getattr(teacher, name) for name in names}
    got = {name: getattr(students, name) for name in names}
    if expected != got:
        raise SettingError("students", f"the teacher's {expected}", got, "Distil students from this teacher.")
