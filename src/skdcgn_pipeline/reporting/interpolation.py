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


def turned(noise: Tensor, other: Tensor, share: float) -> Tensor:
    """Return noise [N, noise_dim] turned to another, all the way for a share of 1: cos(a) noise + sin(a) other.

    This keeps the noise N(0, I), which a straight line would not.
    """
    angle = share * math.pi / 2
    return math.cos(angle) * noise + math.sin(angle) * other


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
    first, last = settings.ends(generator.num_classes)
    labels = torch.full((settings.num_examples,), first, device=device)
    first_weights, last_weights = torch.eye(generator.num_classes, device=device)[[first, last]]
    steps = []
    for share in torch.linspace(0, 1, settings.num_steps).tolist():
        if isinstance(generator, MixesClasses) and not turning:
            mixed = torch.lerp(first_weights, last_weights, share)
            weights = {m: (mixed if m in settings.changing else first_weights) for m in MECHANISMS}
            images = generator.render_mixtures(noise, {m: own.expand(len(noise), -1) for m, own in weights.items()})
        else:
            moved, still = (generator.render(start, labels) for start in (turned(noise, other, share), noise))
            sources = {m: moved if m in settings.changing else still for m in MECHANISMS}
            images = MechanismImages(**{IMAGE_OF_MECHANISM[m]: source.of(m) for m, source in sources.items()})
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
        settings, seed, compute: As of `render_steps`.

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
        rows += [
            (f"{name}, {what}", torch.cat([signed_images(step[:1], what) for step in images]))
            for what in (*settings.changing, COMPOSITE)
        ]
    for name, generator in generators.items():
        if isinstance(generator, MixesClasses):
            turning = render_steps(generator, settings, seed, compute, turning=True)
            rows.append((f"{name}, noise", torch.cat([compose(step[:1]) for step in turning])))
    changes = {name: describe(generator, settings) for name, generator in generators.items()}
    title, *others = dict.fromkeys(changes.values())
    if others:
        title = "; ".join(f"{name}: {what}" for name, what in changes.items())
    frames = [
        np.concatenate([tile(compose(images[step])) for images in steps.values()]) for step in range(settings.num_steps)
    ]
    there = [frames[0]] * FRAMES_AT_ENDS + frames[1:-1] + [frames[-1]] * FRAMES_AT_ENDS
    return draw_sheet(rows, title), np.stack([*there, *frames[-2:0:-1]])
