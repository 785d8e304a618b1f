"""What the parts of `gpu_check.py` share, and those that check numbers: goldens, and steps on two devices."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from settings_files import merge
from torch import Tensor, nn

from skdcgn_pipeline.benchmark.frame import Row
from skdcgn_pipeline.benchmark.networks import Networks, make_networks
from skdcgn_pipeline.networks.interface import GeneratorSize
from skdcgn_pipeline.parameters import Benchmark, Compute, Distill, Parameters, Precision, Student, check_parameters
from skdcgn_pipeline.runtime.compute import choose_device
from skdcgn_pipeline.runtime.seeding import torch_generator
from skdcgn_pipeline.students.distillation import Distillation
from skdcgn_pipeline.teachers.imagenet_cgn import ImageNetCGN
from skdcgn_pipeline.teachers.teacher import load_teacher
from skdcgn_pipeline.teachers.u2net import U2Net
from skdcgn_pipeline.vocabulary import IMAGE_OF_MECHANISM, MECHANISMS

ROOT = Path(__file__).resolve().parents[1]
SEED = 0
logger = logging.getLogger("gpu_check")


class SkippedError(Exception):
    """A part cannot be done here, and why."""


@dataclass
class Part:
    """What is known of one part, filled in while it runs."""

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def add(self, what: str, value: float, unit: str = "", at_most: float | None = None, **more: Any) -> None:
        """Record a figure, and whether it is as small as it has to be."""
        if at_most is not None:
            more |= {"target": f"<= {at_most:g}", "met": bool(value <= at_most)}
        self.rows.append(Row("", what, float(value), unit, **more))
        logger.info("%s: %.5g %s", what, value, unit)


@dataclass
class Run:
    """What is asked for, and what several parts use."""

    miniature: bool
    variant: str
    out: Path
    end: float
    train_s: float | None

    @property
    def left(self) -> float:
        """Seconds until everything has to be done."""
        return self.end - time.monotonic()

    @property
    def device(self) -> torch.device:
        """The GPU, or the CPU where there is none."""
        return choose_device("cpu" if self.miniature else "auto")

    def compute(self, precision: Precision = "fp32", device: torch.device | None = None) -> Compute:
        """Return how networks run."""
        return Compute(device=(device or self.device).type, precision=precision, sampling_precision=precision)

    @cached_property
    def mnist(self) -> Parameters:
        """Settings of the variant on MNIST."""
        return read_settings("mnist", self.variant)

    @cached_property
    def imagenet(self) -> Parameters:
        """Settings of ImageNet."""
        return read_settings("imagenet", "imagenet")

    @cached_property
    def networks(self) -> Networks:
        """Teacher and students of ImageNet with random weights."""
        distill = {mechanism: getattr(self.imagenet, mechanism).distill for mechanism in MECHANISMS}
        settings = self.imagenet.benchmark.model_copy(update={"num_distillation_steps": 10})
        if self.miniature:
            tiny = {"student": Student(architecture="tinygan", width=1, embedding_dim=2), "discriminator_width": 2}
            tiny |= {"batch_size": 2, "fetch_threads": 1}
            distill = {mechanism: own.model_copy(update=tiny) for mechanism, own in distill.items()}
            settings = Benchmark(networks="random", random_size="miniature", batch_sizes=(2,), num_distillation_steps=2)
        return make_networks(settings, distill, SEED, self.compute("bf16"))


def read_settings(env: str, variant: str) -> Parameters:
    """Read `conf/base` and an environment as Kedro does, which need not be there."""
    words = {"variant": variant, "_variant": variant, "_trio": variant, "_source": "mnist", "mirror": "null"}
    words["assets"] = os.environ["SKDCGN_ASSETS"]

    def chosen(match: re.Match[str]) -> str:
        return words.get(match[1], match[2] or match[0])

    merged: dict[str, Any] = {}
    for path in [*sorted((ROOT / "conf/base").glob("parameters*.yml")), *sorted((ROOT / "conf" / env).glob("param*"))]:
        text = path.read_text(encoding="utf-8")
        for _ in range(2):  # one stands inside another
            text = re.sub(r"\$\{(?:globals:|runtime_params:)?([\w.]+)(?:,([^{}]*))?\}", chosen, text)
        merge(merged, yaml.safe_load(text))

    def resolved(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: resolved(own) for key, own in value.items()}
        if isinstance(value, list):
            return [resolved(own) for own in value]
        if not (asked := re.fullmatch(r"\$\{oc\.select:([\w.]+),(.*)\}", str(value))):
            return value
        found: Any = merged
        for key in asked[1].split("."):
            found = found.get(key) if isinstance(found, dict) else None
        return resolved(yaml.safe_load(asked[2]) if found is None else found)

    return check_parameters(resolved(merged))


@contextmanager
def exact_fp32() -> Iterator[None]:
    """Compute in full single precision inside the block: no TF32."""
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    try:
        yield
    finally:  # what follows a part that was stopped is measured as usual
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


def check_goldens(run: Run, part: Part) -> None:
    """Compare the published teacher and U^2-Net with the golden files, on the CPU and on the device."""
    folder = Path(os.environ["SKDCGN_GOLDEN"])
    checks = {"cgn_double_colored_mnist.npz": _check_cgn, "u2net_crc32_fill.npz": _check_u2net}
    checks |= {"biggan_deep_256_state_dict_shapes.json": _check_shapes, "u2net_state_dict_shapes.json": _check_shapes}
    present = {name: check for name, check in checks.items() if (folder / name).is_file()}
    part.notes += [f"no {name} in SKDCGN_GOLDEN" for name in checks if name not in present]
    if not present:
        raise SkippedError("no golden file in SKDCGN_GOLDEN")
    with exact_fp32(), torch.no_grad():
        for name, check in present.items():
            check(run, part, folder / name)


def _compare(run: Run, part: Part, what: str, network: nn.Module, call: Callable[[], Tensor], golden: Tensor) -> None:
    """Record how far what `call` gives is from a golden tensor on the CPU and the device, and these apart."""
    outputs, bound = {}, 2e-3 if what.startswith("CGN") else 1e-3
    for device in {torch.device("cpu"): None, run.device: None}:
        network.to(device)
        outputs[device.type] = call().float().cpu()
        difference = (outputs[device.type] - golden).abs().max()
        part.add(f"{what}, {device.type} against the golden file", difference, at_most=bound)
    for name, output in outputs.items():
        if name != "cpu":
            part.add(f"{what}, {name} against cpu", (output - outputs["cpu"]).abs().max(), at_most=bound)


def _check_cgn(run: Run, part: Part, path: Path) -> None:
    if not (Path(os.environ["SKDCGN_ASSETS"]) / "cgn_mnist/cgn_double_colored_mnist.pth").is_file():
        part.notes.append("no cgn_mnist/cgn_double_colored_mnist.pth in SKDCGN_ASSETS")
        return
    teacher: Any = load_teacher("mnist_cgn", variant="double_colored", assets=os.environ["SKDCGN_ASSETS"])
    golden = {name: torch.from_numpy(values) for name, values in np.load(path).items()}
    for mechanism, name in zip(MECHANISMS, ("mask", "foreground_patch", "background_patch"), strict=True):

        def call(mechanism: str = mechanism) -> Tensor:
            where = next(teacher.parameters()).device
            return teacher.render(golden["noise"].to(where), golden["label"].long().to(where)).of(mechanism)

        _compare(run, part, f"CGN, {IMAGE_OF_MECHANISM[mechanism]}", teacher, call, golden[name].float())


def _check_u2net(run: Run, part: Part, path: Path) -> None:
    network = U2Net().eval()
    for name, tensor in network.state_dict().items():
        drawn = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
        own = name.rpartition(".")[2]
        # The rule of the golden file: filters scaled by fan-in, norms near the identity, small biases.
        if own == "num_batches_tracked":
            continue
        if tensor.ndim == 4:
            drawn *= math.sqrt(2 / math.prod(tensor.shape[1:]))
        elif "bn" in name and own in ("running_var", "weight"):
            drawn = 1 + 0.1 * (drawn.abs() if own == "running_var" else drawn)
        else:
            drawn *= 0.1 if own == "running_mean" else 0.05
        tensor.copy_(drawn)
    golden = {name: torch.from_numpy(values) for name, values in np.load(path).items()}

    def call() -> Tensor:
        return network(golden["input"].to(next(network.parameters()).device))

    _compare(run, part, "U^2-Net", network, call, golden["output"])


def _check_shapes(run: Run, part: Part, path: Path) -> None:
    with torch.device("meta"):
        network: nn.Module = U2Net() if path.name.startswith("u2net") else ImageNetCGN().network_of("texture")
    found = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    expected = json.loads(path.read_text(encoding="utf-8"))
    wrong = sum(found.get(name) != expected.get(name) for name in found.keys() | expected.keys())
    part.add(f"{path.stem}, tensors of another name or shape", wrong, at_most=0)


def check_steps(run: Run, part: Part) -> None:
    """Distil on the CPU and on the device from one seed and compare the losses of every step."""
    teacher: Any = load_teacher("digits_cgn")
    num_steps = 2 if run.miniature else 40
    for mechanism in ("shape", "texture"):  # one learns with Adam, the other with Muon
        settings = getattr(run.mnist, mechanism).distill
        by_device = {}
        for device in (torch.device("cpu"), run.device):
            with exact_fp32():
                by_device[device.type] = _losses(mechanism, teacher, settings, num_steps, run.compute(device=device))
        part.details[mechanism] = by_device
        last = by_device[run.device.type]
        differences = [abs(a - b) / max(abs(a), 1e-9) for a, b in zip(by_device["cpu"], last, strict=True)]
        what = f"{mechanism}, relative difference of the loss, cpu and {run.device.type}"
        part.add(f"{what}, at step 1", differences[0], at_most=1e-4)
        part.add(f"{what}, at most in {num_steps} steps", max(differences), at_most=0.05)


def _losses(mechanism: str, teacher: Any, settings: Distill, num_steps: int, compute: Compute) -> list[float]:
    """Return the total loss of every step on fresh samples of a teacher on the CPU."""
    train = Distillation(mechanism, GeneratorSize.of(teacher), settings, SEED, compute)
    losses = []
    for step in range(num_steps):
        noise, labels = draw_noise(teacher, settings.batch_size, "gpu-check-steps", step)
        images = teacher.render_mechanism(mechanism, noise, labels)
        batch = (noise.to(train.device), labels.to(train.device), images.to(train.device))
        losses.append(train.update(step, batch, noted=True)["total"])
    return losses


def draw_noise(teacher: Any, num_images: int, purpose: str, index: int = 0) -> tuple[Tensor, Tensor]:
    """Return noise and classes for a teacher, on the CPU."""
    generator = torch_generator(SEED, purpose, index)
    noise = torch.randn(num_images, teacher.noise_dim, generator=generator)
    return noise, torch.randint(teacher.num_classes, (num_images,), generator=generator)
