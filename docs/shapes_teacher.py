"""Seven shapes, drawn by a formula: a teacher of 48 pixels that needs no weights and no images."""

import math

import torch
from torch import Tensor

from skdcgn_pipeline import MechanismImages, MechanismLabels

NUM_CLASSES, IMAGE_SIZE, NOISE_DIM = 7, 48, 16


def _distance(x: Tensor, y: Tensor, labels: Tensor) -> Tensor:
    """Signed distance [N, S, S] to the edge of each shape, below 0 inside: ring, disc, bar, 3 to 5 corners, cross."""
    radius, angle = (x**2 + y**2).sqrt(), torch.atan2(y, x)
    ring = (radius - 0.75).abs() - 0.2
    disc = radius - 0.8
    bar = torch.maximum(x.abs() - 0.95, y.abs() - 0.3)

    def polygon(corners: int) -> Tensor:
        sector = 2 * math.pi / corners
        return radius * torch.cos(torch.remainder(angle + sector / 2, sector) - sector / 2) - 0.62

    cross = torch.minimum(torch.maximum(x.abs() - 0.95, y.abs() - 0.28), torch.maximum(x.abs() - 0.28, y.abs() - 0.95))
    shapes = torch.stack([ring, disc, bar, polygon(3), polygon(4), polygon(5), cross], 1)
    return shapes[torch.arange(len(labels)), labels]


def _colour(labels: Tensor, shift: Tensor) -> Tensor:
    """A colour [N, 3] in [-1, 1] for each class, a little changed by the noise."""
    phase = 2 * math.pi * (labels[:, None] / NUM_CLASSES + torch.tensor([0.0, 1 / 3, 2 / 3])) + 0.3 * shift[:, None]
    return 0.7 * torch.cos(phase)


class ShapesTeacher:
    """What a teacher must have: three numbers and `render`."""

    noise_dim, num_classes, image_size = NOISE_DIM, NUM_CLASSES, IMAGE_SIZE

    def render(self, noise: Tensor, labels: MechanismLabels | dict[str, Tensor] | Tensor) -> MechanismImages:
        """Draw masks [N, 1, 48, 48] in [0, 1], foregrounds and backgrounds [N, 3, 48, 48] in [-1, 1]."""
        labels, unit = MechanismLabels.of(labels), noise.tanh()
        axis = torch.linspace(-1.6, 1.6, IMAGE_SIZE)
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        size = (1 + 0.25 * unit[:, 0])[:, None, None]
        turn = 0.6 * unit[:, 1][:, None, None]
        moved = (x - 0.4 * unit[:, 2][:, None, None]) / size, (y - 0.4 * unit[:, 3][:, None, None]) / size
        turned = moved[0] * turn.cos() + moved[1] * turn.sin(), moved[1] * turn.cos() - moved[0] * turn.sin()
        mask = torch.sigmoid(-_distance(*turned, labels.shape) * size * 25)[:, None]
        stripes = torch.sin(4 * x * unit[:, 4:5, None] + 4 * y * unit[:, 5:6, None] + 3 * unit[:, 6:7, None])
        foreground = _colour(labels.texture, unit[:, 7])[..., None, None] + 0.25 * stripes[:, None]
        slope = x * unit[:, 8:9, None] + y * unit[:, 9:10, None]
        background = _colour(labels.background, unit[:, 10])[..., None, None] * 0.6 + 0.2 * slope[:, None]
        return MechanismImages(mask, foreground.clamp(-1, 1), background.clamp(-1, 1))


def make_teacher() -> ShapesTeacher:
    """What `teacher.factory=shapes_teacher:make_teacher` calls."""
    return ShapesTeacher()
