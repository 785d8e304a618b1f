"""The CGN of the MNIST variants, with the published names of its tensors (660 k parameters), at 32 px and larger.

Architecture: CGN (arXiv 2101.06046), appendix on the MNIST experiments.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from skdcgn_pipeline.networks.interface import MechanismGenerator, look_up
from skdcgn_pipeline.runtime.errors import SettingError

MASK_MIN, MASK_MAX = 1e-4, 0.9999
NARROWEST = 16  # channels of the highest resolutions


def levels_of(image_size: int) -> tuple[int, int]:
    """Return the side of the first feature map and how often it is doubled: 8 and 2 at 32 px, 6 and 3 at 48.

    Raises:
        SettingError: If the size cannot be reached by doubling.
    """
    num_doublings = max(2, int(math.log2(max(1, image_size / 6))))
    start, rest = divmod(image_size, 2**num_doublings)
    if rest:
        expected = f"a multiple of {2**num_doublings}, such as 32, 48, 64, 96 or 128"
        raise SettingError("images.image_size", expected, image_size, "A CGN is trained at such a size; choose one.")
    return start, num_doublings


def _widths(width: int, num_doublings: int) -> list[int]:
    """Return the channels at first and after each doubling: [64, 64, 32, 16] for three at width 32."""
    return [2 * width, *(max(min(width, NARROWEST), 2 * width >> level) for level in range(num_doublings))]


def _network(
    input_dim: int, widths: Sequence[int], start: int, last: Sequence[nn.Module] = (), *, per_image: bool = False
) -> nn.Sequential:
    """Return a network from noise and class to images.

    Args:
        input_dim: Length of noise and class embedding.
        widths: Channels at first and after each doubling.
        start: Height and width at first.
        last: Layers that take the channels of the highest resolution.
        per_image: Normalise the channels of each image by itself, too.
    """
    layers: list[nn.Module] = [
        nn.Linear(input_dim, widths[0] * start**2),
        nn.Unflatten(1, (widths[0], start, start)),
        *([nn.InstanceNorm2d(widths[0])] if per_image else []),
    ]
    for before, after in pairwise(widths):
        layers += [
            nn.Upsample(scale_factor=2),
            nn.Conv2d(before, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.LeakyReLU(0.2),
            *([nn.InstanceNorm2d(after)] if per_image else []),
        ]
    return nn.Sequential(*layers, *last)


class MnistCGN(MechanismGenerator):
    """Three independent conditional generators of one noise vector and a class each.

    Args:
        noise_dim: Length of the noise.
        num_classes: Number of classes; the class embedding is square.
        image_size: Height and width, see `levels_of`.
        width: Channels before the last layer at 32 px; higher resolutions have fewer.
        learnt_masks: Masks are a sigmoid, which can be any mask, as those learnt from true masks are; else a
            normalised image that is clamped, as published, whose area is nearly fixed.
    """

    def __init__(
        self,
        noise_dim: int = 32,
        num_classes: int = 10,
        image_size: int = 32,
        width: int = 32,
        learnt_masks: bool = False,
    ) -> None:
        super().__init__()
        self.noise_dim, self.num_classes, self.image_size = noise_dim, num_classes, image_size
        start, num_doublings = levels_of(image_size)
        input_dim, widths = noise_dim + num_classes, _widths(width, num_doublings)
        self.label_emb = nn.Embedding(num_classes, num_classes)
        self.f_shape = (
            _network(input_dim, widths, start, [nn.Conv2d(widths[-1], 1, 3, padding=1), nn.Sigmoid()])
            if learnt_masks
            else _network(input_dim, [*widths[1:], 1], start, per_image=True)
        )
        self.f_text1, self.f_text2 = (
            _network(input_dim, widths, start, [nn.Conv2d(widths[-1], 3, 3, padding=1), nn.BatchNorm2d(3), nn.Tanh()])
            for _ in range(2)
        )

    @classmethod
    def like(cls, state: Mapping[str, Tensor]) -> MnistCGN:
        """Return an untrained one of the sizes that a state tells; the published ones where it tells none."""
        learnt_masks = "f_shape.3.weight" in state
        try:
            num_classes, embedding_dim = state["label_emb.weight"].shape
            num_values, input_dim = state["f_text1.0.weight"].shape
            twice_width = state["f_text1.3.weight"].shape[1]
            num_convolutions = sum(t.ndim == 4 for name, t in state.items() if name.startswith("f_text1."))
            image_size = math.isqrt(num_values // twice_width) << (num_convolutions - 1)
            return cls(input_dim - embedding_dim, num_classes, image_size, twice_width // 2, learnt_masks)
        except (KeyError, IndexError, ValueError, ZeroDivisionError, RuntimeError, SettingError):
            return cls()

    def network_of(self, mechanism: str) -> nn.Module:
        """Return the network of one mechanism, without the class embedding that all share."""
        return {"shape": self.f_shape, "texture": self.f_text1, "background": self.f_text2}[mechanism]

    def paint(self, mechanism: str, noise: Tensor, classes: Tensor) -> Tensor:
        """Return a mechanism's images, see `MechanismGenerator.paint`."""
        images = self.network_of(mechanism)(torch.cat([noise, look_up(self.label_emb, classes)], 1)).float()
        # Clamped in float: 0.9999 is 1 in bfloat16, and the mask's entropy would be infinite.
        return images.clamp(MASK_MIN, MASK_MAX) if mechanism == "shape" else images
