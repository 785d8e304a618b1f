"""The CGN of ImageNet: three BigGAN-deep-256 and a U^2-Net, with the published names of their tensors.

Architecture: CGN (arXiv 2101.06046, section 3.2), BigGAN-deep (arXiv 1809.11096) and U^2-Net (arXiv
2005.09007). BigGAN is that of the package `pytorch-pretrained-biggan` (extra `imagenet`), imported where it
is needed.

Precision: the network runs under `compute.autocast` and is loaded channels last. In bf16 its images differ
from those in fp32 by at most 0.2 (masks in [0, 1], images in [-1, 1]): class embedding, convolutions and
attention run in bf16, spectral norms, batch statistics, the sigmoid and the clamp in fp32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.spectral_norm import SpectralNorm

from skdcgn_pipeline.networks.frozen_cache import FrozenCache
from skdcgn_pipeline.networks.interface import MechanismGenerator
from skdcgn_pipeline.networks.weights_file import check_tensors, read_state
from skdcgn_pipeline.runtime.compute import ModuleT, place
from skdcgn_pipeline.runtime.errors import SettingError, check_choice
from skdcgn_pipeline.runtime.libraries import import_library
from skdcgn_pipeline.runtime.seeding import seeded
from skdcgn_pipeline.teachers.cgn import MASK_MAX, MASK_MIN
from skdcgn_pipeline.teachers.u2net import U2NET_DECODER, U2NET_ENCODER, Stage, U2Net
from skdcgn_pipeline.vocabulary import MECHANISMS

# One file, or several by name, see `files_of_parts`.
Weights = Path | str | Mapping[str, Path | str]

PREFIX_OF_MECHANISM = {"shape": "f_shape", "texture": "f_text", "background": "f_bg"}
PREFIXES = ("", *(f"{prefix}." for prefix in PREFIX_OF_MECHANISM.values()))
# The published checkpoint also holds the BigGAN that only the training of a CGN needs.
UNUSED_PREFIX = "biggan_GT."

DEFAULT_TRUNCATION = 0.5  # of the published code
NOISE_BOUND = 2.0  # BigGAN's noise is normal, truncated at two standard deviations

# Arguments of BigGANConfig. Of a layer: whether it doubles the size, its channels in and out as multiples of
# channel_width.
BIGGAN_DEEP_256: Mapping[str, Any] = {
    "output_dim": 256,
    "z_dim": 128,
    "class_embed_dim": 128,
    "channel_width": 128,
    "num_classes": 1000,
    "layers": (
        (False, 16, 16),
        (True, 16, 16),
        (False, 16, 16),
        (True, 16, 8),
        (False, 8, 8),
        (True, 8, 8),
        (False, 8, 8),
        (True, 8, 4),
        (False, 4, 4),
        (True, 4, 2),
        (False, 2, 2),
        (True, 2, 1),
    ),
    "attention_layer_position": 8,
    "eps": 1e-4,
    "n_stats": 51,
}
BIGGAN_MINIATURE: Mapping[str, Any] = {
    "output_dim": 32,
    "z_dim": 4,
    "class_embed_dim": 4,
    "channel_width": 3,
    "num_classes": 10,
    "layers": ((False, 16, 8), (True, 8, 4), (True, 4, 4), (True, 4, 2), (False, 2, 1)),
    "attention_layer_position": 2,
    "eps": 1e-4,
    "n_stats": 51,
}
# What `ImageNetCGN` is built with: the published network (211 M parameters), and one of the same classes for
# tests and small machines.
SIZES: dict[str, dict[str, Any]] = {
    "deep_256": {"biggan": BIGGAN_DEEP_256, "encoder": U2NET_ENCODER, "decoder": U2NET_DECODER},
    "miniature": {
        "biggan": BIGGAN_MINIATURE,
        "encoder": (Stage(4, 2, 4), Stage(3, 2, 4), Stage(3, 2, 4, dilated=True)),
        "decoder": (Stage(3, 2, 4), Stage(4, 2, 4)),
    },
}
POWER_ITERATIONS = 5


def truncate_normal(noise: Tensor) -> Tensor:
    """Map standard normal numbers of any shape to float32 of a normal distribution truncated at +- `NOISE_BOUND`.

    The map keeps quantiles, F_truncated(z) = F_normal(noise), which is z = sqrt(2) erfinv(erf(noise / sqrt(2))
    erf(bound / sqrt(2))). So it is deterministic, increasing, odd and differentiable, and normal noise becomes
    exactly truncated normal: a teacher of truncated noise takes N(0, I) like every other generator.
    """
    root = math.sqrt(2)
    quantile = torch.erf(noise.float() / root) * math.erf(NOISE_BOUND / root)
    return (torch.erfinv(quantile) * root).clamp(-NOISE_BOUND, NOISE_BOUND)


class _KeptSpectralNorm(SpectralNorm):
    """Torch's spectral norm, which a frozen network computes once, and in fp32 under autocast too."""

    def __init__(self, original: SpectralNorm) -> None:
        super().__init__(original.name, original.n_power_iterations, original.dim, original.eps)
        self._weights = FrozenCache()

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        tensors = [getattr(module, f"{self.name}_{part}") for part in ("orig", "u", "v")]
        # A matrix-vector product in bf16 would scale every layer of a mechanism by its rounding.
        with torch.autocast(tensors[0].device.type, enabled=False):
            weight = self._weights.get(module, tensors, lambda: self.compute_weight(module, module.training))
        setattr(module, self.name, weight)

    @classmethod
    def take_over(cls, network: nn.Module) -> None:
        """Replace torch's own in all layers of a network; names and values of its tensors stay."""
        for module in network.modules():
            hooks = module._forward_pre_hooks
            for key, hook in hooks.items():
                if type(hook) is SpectralNorm:
                    hooks[key] = cls(hook)


def _make_biggan(options: Mapping[str, Any]) -> nn.Module:
    library = import_library("pytorch_pretrained_biggan", "imagenet", "teacher.name", "pytorch-pretrained-biggan")
    biggan = library.BigGAN(library.BigGANConfig(**options))
    _KeptSpectralNorm.take_over(biggan)
    return biggan


def draw_biggan(biggan: Any, noise: Tensor, classes: Tensor, truncation: float) -> Tensor:
    """Return a BigGAN's images [N, 3, H, W] in [-1, 1] for noise and classes [N], or weights [N, num_classes]."""
    latent = truncation * truncate_normal(noise)
    # The class enters as a one-hot vector, in whose place weights mix classes.
    weights = classes if classes.ndim == 2 else F.one_hot(classes.long(), biggan.embeddings.in_features)
    return biggan(latent, weights.to(latent.dtype), truncation)


class ImageNetCGN(MechanismGenerator):
    """Three independent BigGANs of one noise vector and a class each; a U^2-Net makes the mask.

    mask = clamp(U^2-Net(f_shape(z, shape)), 1e-4, 0.9999), foreground = f_text(z, texture), background =
    f_bg(z, background), with z = truncation * `truncate_normal(noise)` (CGN, equations 3 and 4).

    Args:
        biggan: Arguments of `BigGANConfig`, such as `BIGGAN_DEEP_256`.
        encoder, decoder: Stages of the U^2-Net.
        truncation: In (0, 1]: scale of the noise and the set of batch statistics. The package knows those of
            multiples of 0.02 and mixes neighbouring ones in between.

    Raises:
        SettingError: If the truncation is outside (0, 1], or the package is missing.
    """

    def __init__(
        self,
        biggan: Mapping[str, Any] = BIGGAN_DEEP_256,
        encoder: Sequence[Stage] = U2NET_ENCODER,
        decoder: Sequence[Stage] = U2NET_DECODER,
        truncation: float = DEFAULT_TRUNCATION,
    ) -> None:
        super().__init__()
        if not isinstance(truncation, (int, float)) or not 0 < truncation <= 1:
            raise SettingError("teacher.truncation", "a number in (0, 1]", truncation, "The published one is 0.5.")
        self.truncation = float(truncation)
        self.noise_dim, self.num_classes, self.image_size = (biggan[k] for k in ("z_dim", "num_classes", "output_dim"))
        self.f_shape = _make_biggan(biggan)
        self.f_text = _make_biggan(biggan)
        self.f_bg = _make_biggan(biggan)
        self.u2net = U2Net(encoder, decoder)

    def network_of(self, mechanism: str) -> nn.Module:
        """Return the networks of one mechanism: a BigGAN, for `shape` with the U^2-Net."""
        network = getattr(self, PREFIX_OF_MECHANISM[mechanism])
        return nn.ModuleList([network, self.u2net]) if mechanism == "shape" else network

    def paint(self, mechanism: str, noise: Tensor, classes: Tensor) -> Tensor:
        """Return a mechanism's images, see `MechanismGenerator.paint`."""
        images = draw_biggan(getattr(self, PREFIX_OF_MECHANISM[mechanism]), noise, classes, self.truncation)
        return self.u2net(images).float().clamp(MASK_MIN, MASK_MAX) if mechanism == "shape" else images.float()


def make_random(size: str, truncation: float = DEFAULT_TRUNCATION, seed: int = 0) -> ImageNetCGN:
    """Return a frozen CGN of a size in `SIZES` with random weights, on the CPU, to measure what it costs.

    Its images are finite and follow noise and class, but show nothing.
    """
    with seeded(seed, "imagenet-random"):
        cgn = ImageNetCGN(**SIZES[check_choice("size", size, SIZES)], truncation=truncation)
        _initialise(cgn)
    return _ready(cgn)


@torch.no_grad()
def _initialise(cgn: ImageNetCGN) -> None:
    """Draw weights whose images vary, which the defaults of torch and of the package do not."""
    for module in cgn.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
            else:
                # Before the last layer all channels can be off, and the image grey: lift them.
                lift = 2 if hasattr(module, "running_vars") else 0
                nn.init.constant_(parameter, lift if name == "bias" else 1)
        # Lower variances than those of the random features, so that values do not fade from layer to layer.
        for name, buffer in module.named_buffers(recurse=False):
            if name == "running_vars":
                buffer.fill_(0.6 if module.conditional else 0.1)
            elif name == "running_var":
                buffer.fill_(0.4)
        # Nearly the vectors of the highest singular value; exact ones take minutes for the published size.
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, SpectralNorm):
                for _ in range(POWER_ITERATIONS):
                    hook.compute_weight(module, do_power_iteration=True)


def _ready(network: ModuleT) -> ModuleT:
    # Channels last is the faster layout of these convolutions, above all in bf16.
    return place(network, "cpu", torch.channels_last).requires_grad_(False).eval()


# --- weights ---------------------------------------------------------------------------------------


def load_imagenet_cgn(weights: Weights | None, truncation: float = DEFAULT_TRUNCATION) -> ImageNetCGN:
    """Load an ImageNet CGN, strictly; its size is that of the weights, one of `SIZES`.

    Args:
        weights: The published checkpoint as one file, with or without `module.` before its names and with or
            without `biggan_GT`, which is left out; or separate files, see `files_of_parts`. State dicts
            (.pth, .bin) or safetensors.
        truncation: In (0, 1].

    Returns:
        The network on the CPU, frozen, in eval mode, channels last.

    Raises:
        SettingError: If a file is missing, damaged, holds code, or lacks or adds tensors, of which the first are
            named.
    """
    files = files_of_parts(weights)
    by_path = {path: _read(path) for path in dict.fromkeys(files.values())}
    parts = {prefix: by_path[path] for prefix, path in files.items()}
    return _load(parts, files, lambda size: ImageNetCGN(**size, truncation=truncation))


def load_biggan(path: Path) -> nn.Module:
    """Load the BigGAN that a CGN is trained to imitate, strictly; see `draw_biggan`.

    Args:
        path: The published CGN, of which `biggan_GT` is read, or a file of BigGAN-deep alone.

    Returns:
        The network on the CPU, frozen, in eval mode, channels last.

    Raises:
        SettingError: If the file is missing, damaged, holds code, or lacks or adds tensors.
    """
    state = _read(path, with_unused=True)
    if any(name.startswith(UNUSED_PREFIX) for name in state):
        state = {n.removeprefix(UNUSED_PREFIX): t for n, t in state.items() if n.startswith(UNUSED_PREFIX)}
    return _load({"": state}, {"": path}, lambda size: _make_biggan(size["biggan"]))


def files_of_parts(weights: Weights | None) -> dict[str, Path]:
    """Return the files of an ImageNet CGN, by the prefix that their tensors have in the whole network.

    Args:
        weights: One file; or by name `biggan`, or `shape`, `texture` and `background` each, and `u2net`.

    Raises:
        SettingError: If there is none, or a name is missing or unknown.
    """
    if isinstance(weights, (str, Path)):
        return {"": Path(weights)}
    given = {name: Path(path) for name, path in (weights or {}).items()}
    biggans = {"biggan"} if "biggan" in given else set(MECHANISMS)
    if given.keys() != biggans | {"u2net"}:
        raise SettingError(
            "teacher.weights",
            "one file, or the files 'biggan' (or 'shape', 'texture' and 'background') and 'u2net'",
            sorted(given) or "none",
            "Download cgn.pth as the repository autonomousvision/counterfactual_generative_networks says.",
        )
    files = {f"{PREFIX_OF_MECHANISM[m]}.": given["biggan" if "biggan" in given else m] for m in MECHANISMS}
    return files | {"u2net.": given["u2net"]}


def _read(path: Path, with_unused: bool = False) -> dict[str, Tensor]:
    def is_wanted(name: str) -> bool:
        return with_unused or not name.removeprefix("module.").startswith(UNUSED_PREFIX)

    return {name.removeprefix("module."): tensor for name, tensor in read_state(path, is_wanted)[0].items()}


def _load(
    parts: Mapping[str, Mapping[str, Tensor]], files: Mapping[str, Path], make: Callable[[dict[str, Any]], ModuleT]
) -> ModuleT:
    """Return a network with the weights of its parts, by the prefix of their names in it."""
    name = _size_of(parts.values())
    # The large one is spared initial values; the small one is made faster with them.
    with torch.device("meta" if name == "deep_256" else "cpu"):
        network = make(SIZES[name])
    remedy = "Give the published checkpoint, or BigGAN-deep-256 and U^2-Net as separate files."
    for prefix, state in parts.items():
        of_part = {n.removeprefix(prefix): t for n, t in network.state_dict().items() if n.startswith(prefix)}
        check_tensors(files[prefix], state, of_part, "the ImageNet CGN or of its part", remedy)
    network.to_empty(device="cpu")
    network.load_state_dict(
        {prefix + name: tensor for prefix, state in parts.items() for name, tensor in state.items()}
    )
    return _ready(network)


def _size_of(states: Iterable[Mapping[str, Tensor]]) -> str:
    """Return the size whose class embedding is that of the weights; the published one where none fits."""
    embeddings = [state[n] for state in states for n in (f"{p}embeddings.weight" for p in PREFIXES) if n in state]
    for name, size in SIZES.items():
        if embeddings and embeddings[0].shape == (size["biggan"]["z_dim"], size["biggan"]["num_classes"]):
            return name
    return "deep_256"
