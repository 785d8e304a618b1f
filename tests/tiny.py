"""Things small enough to test with: a teacher that is no network, and a look at a folder."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from skdcgn_pipeline.mechanisms import LabelsLike, MechanismImages, MechanismLabels


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
