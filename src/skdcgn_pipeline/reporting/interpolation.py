"""What lies between two classes of a generator, and between two noise vectors, as a sheet and as an animation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skdcgn_pipeline.mechanisms import CounterfactualGenerator, MechanismImages, compose
from skdcgn_pipeline.networks.interface import MixesClasses
from skdcgn_pipeline.parameters import Compute, Interpolation
from skdcgn_pipeline.reporting.pictures import Picture, draw_sheet, signed_images, tile
from skdcgn_pipeline.runtime.compute import choose_device
from skdcgn_pipeline.runtime.seeding import torch_generator
from skdcgn_pipeline.vocabulary import COMPOSITE, IMAGE_OF_MECHANISM, MECHANISMS

# Pictures at the ends stay a little longer.
FRAMES_AT_ENDS = 3


def changing_mechanisms(settings: Interpolation) -> tuple[str, ...]:
    """Return the mechanisms whose class changes."""
    return MECHANISMS if settings.mechanism == "all" else (settings.mechanism,)


def mix_classes(generator: MixesClasses, noise: Tensor, share: float, settings: Interpolation) -> MechanismImages:
    """Render noise [N, noise_dim] with a share of the last class, in [0, 1], and the rest of the first."""
    first, last = settings.ends(generator.num_classes)
    ends = torch.eye(generator.num_classes, device=noise.device)[[first, last]]
    mixed = torch.lerp(ends[0], ends[1], share)
    changing = changing_mechanisms(settings)
    weights = {m: (mixed if m in changing else ends[0]).expand(len(noise), -1) for m in MECHANISMS}
    return generator.render_mixtures(noise, weights)


def turned(noise: Tensor, other: Tensor, share: float) -> Tensor:
    """Return noise [N, noise_dim] turned to another, all the way for a share of 1: cos(a) noise + sin(a) other.

    This keeps the noise N(0, I), which a straight line would not.
    """
    angle = share * math.pi / 2
    return math.cos(angle) * noise + math.sin(angle) * other


def turn_noise(
    generator: CounterfactualGenerator, noise: Tensor, other: Tensor, share: float, settings: Interpolation
) -> MechanismImages:
    """Render the first class with noise that turns from one vector to another, for a share in [0, 1].

    Mechanisms that do not change keep the noise.
    """
    first, _ = settings.ends(generator.num_classes)
    labels = torch.full((len(noise),), first, device=noise.device)
    moved = generator.render(turned(noise, other, share), labels)
    kept = generator.render(noise, labels)
    changing = changing_mechanisms(settings)
    images = {IMAGE_OF_MECHANISM[m]: (moved if m in changing else kept).of(m) for m in MECHANISMS}
    return MechanismImages(**images)


def render_steps(
    generator: CounterfactualGenerator, settings: Interpolation, seed: int, compute: Compute, turning: bool = False
) -> list[MechanismImages]:
    """Render every step from the first class to the last for a few noise vectors.

    A generator that takes nothing but class numbers has nothing between them: its noise turns instead.

    Args:
        generator: Whose images.
        settings: Which classes, of which mechanism, in how many steps.
        seed: Base seed of the noise.
        compute: Where networks run.
        turning: True turns the noise of every generator, and the class stays the first.

    Returns:
        `num_steps` times the images of `num_examples` noise vectors, on the CPU.
    """
    device = torch.device("cpu")
    if isinstance(generator, nn.Module):
        device = choose_device(compute.device)
        generator.to(device)
    shape = (2, settings.num_examples, generator.noise_dim)
    noise, other = torch.randn(shape, generator=torch_generator(seed, "interpolation")).to(device)
    steps = []
    for share in torch.linspace(0, 1, settings.num_steps).tolist():
        if isinstance(generator, MixesClasses) and not turning:
            images = mix_classes(generator, noise, share, settings)
        else:
            images = turn_noise(generator, noise, other, share, settings)
        steps.append(images.to("cpu"))
    return steps


def describe(generator: CounterfactualGenerator, settings: Interpolation) -> str:
    """Say what changes from step to step."""
    first, last = settings.ends(generator.num_classes)
    what = "all mechanisms" if settings.mechanism == "all" else settings.mechanism
    if isinstance(generator, MixesClasses):
        return f"class {first} to {last}, {what}"
    return f"noise of class {first} (it takes class numbers only), {what}"


def draw_interpolation(
    generators: Mapping[str, Any], settings: Interpolation, seed: int, compute: Compute
) -> tuple[Picture, np.ndarray]:
    """Draw what lies between two classes for each generator, on the same noise.

    Args:
        generators: By name, such as `teacher` and `students`.
        settings: Which classes, of which mechanism, in how many steps.
        seed: Base seed of the noise.
        compute: Where networks run.

    Returns:
        The sheet [H, W, 3]: for each generator the mechanisms that change and the composite, of one noise
        vector, step by step, and below them the composites while the noise turns, of generators that mix classes;
        and the animation [T, H, W, 3] of composites of several noise vectors, there and
        back, a row per generator. Both uint8.

    Raises:
        SettingError: If a generator has no such class.
    """
    steps = {name: render_steps(generator, settings, seed, compute) for name, generator in generators.items()}
    rows = []
    for name, images in steps.items():
        for mechanism in (*changing_mechanisms(settings), COMPOSITE):
            shown = [
                compose(one[:1]) if mechanism == COMPOSITE else signed_images(one[:1], mechanism) for one in images
            ]
            rows += [(f"{name}, {mechanism}", torch.cat(shown))]
    for name, generator in generators.items():
        if isinstance(generator, MixesClasses):
            turning = render_steps(generator, settings, seed, compute, turning=True)
            rows += [(f"{name}, noise", torch.cat([compose(one[:1]) for one in turning]))]
    told = {name: describe(generator, settings) for name, generator in generators.items()}
    if len({*told.values()}) == 1:
        title = next(iter(told.values()))
    else:
        title = "; ".join(f"{name}: {what}" for name, what in told.items())
    frames = [
        np.concatenate([tile(compose(images[step])) for images in steps.values()]) for step in range(settings.num_steps)
    ]
    there = [frames[0]] * FRAMES_AT_ENDS + frames[1:-1] + [frames[-1]] * FRAMES_AT_ENDS
    return draw_sheet(rows, title), np.stack([*there, *frames[-2:0:-1]])
