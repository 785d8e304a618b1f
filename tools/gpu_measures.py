"""The parts of `gpu_check.py` that measure: full-size networks, steps of training, a long distillation."""

from __future__ import annotations

import copy
import logging
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_parts import SEED, Part, Run, SkippedError, draw_noise, read_settings
from torch import Tensor
from torchvision import models

from skdcgn_pipeline.artifacts.recipe import build_in
from skdcgn_pipeline.benchmark import networks as network_benchmark
from skdcgn_pipeline.classifiers import training
from skdcgn_pipeline.classifiers.torchvision_classifier import TORCHVISION_CLASSES
from skdcgn_pipeline.metrics import cost
from skdcgn_pipeline.metrics.cost import measure_rates, peak_gpu_bytes, wait_for_device
from skdcgn_pipeline.metrics.likeness import mask_iou, mean_absolute_difference
from skdcgn_pipeline.networks.interface import GeneratorSize
from skdcgn_pipeline.parameters import ClassifierFit, Compute, ImageEncoding, Precision
from skdcgn_pipeline.runtime import compute as computing
from skdcgn_pipeline.runtime.compute import choose_device, compiled, place
from skdcgn_pipeline.runtime.recording import listening
from skdcgn_pipeline.runtime.seeding import seeded, torch_generator
from skdcgn_pipeline.samples.drawing import SamplesRecipe
from skdcgn_pipeline.samples.loading import StreamedPairs, fetch_by_epochs
from skdcgn_pipeline.students.distillation import Distillation
from skdcgn_pipeline.students.trio import StudentCGN
from skdcgn_pipeline.teachers.teacher import load_teacher
from skdcgn_pipeline.vocabulary import IMAGE_OF_MECHANISM, MECHANISMS

# Name, precision and layout; the first is how networks are commonly run.
MODES: tuple[tuple[str, Precision, torch.memory_format], ...] = (
    ("fp32", "fp32", torch.contiguous_format),
    ("bf16", "bf16", torch.contiguous_format),
    ("bf16, channels last", "bf16", torch.channels_last),
)
(TRAINED,) = network_benchmark.Networks.trained
STEPS_PER_DRAW = 64  # of a long distillation, so that drawing samples costs few calls

logger = logging.getLogger("gpu_check")


def measure_throughput(run: Run, part: Part) -> None:
    """Measure images/s of ImageNet's teacher and students by batch size, precision, layout and compilation."""
    sizes = sorted(run.networks.settings.batch_sizes)
    roles = {"teacher": run.networks.teacher, "students": run.networks.students}
    for mode, precision, layout in MODES:
        for role, network in roles.items():
            place(network, run.device, layout)  # type: ignore[type-var]
            for size in sizes:
                if not _measure_rate(run, part, network, f"{role}, {mode}", precision, size):
                    break
    rates = [row for row in part.rows if row.unit == "images/s"]
    best = {role: max((row for row in rates if row.what.startswith(role)), key=lambda row: row.value) for role in roles}
    ratio = best["students"].value / best["teacher"].value
    part.add("students, ratio to the teacher, each at its best", ratio, "x", target=">= 10x", met=ratio >= 10)
    twins = {role: _compiled_parts(network, run.device) for role, network in roles.items()}
    own_best = {role: best[role].batch_size or sizes[0] for role in roles}
    # The best sizes come first: compiling may take all of the time that is left.
    order = [(role, own_best[role]) for role in ("students", "teacher")]
    order += [(role, size) for role in ("students", "teacher") for size in sizes if size != own_best[role]]
    for role, size in order:
        torch._dynamo.reset()  # each size is compiled for itself
        try:
            _measure_rate(run, part, twins[role], f"{role}, {MODES[-1][0]}, compiled", MODES[-1][1], size)
        except Exception as error:
            logger.exception("%s cannot be compiled", role)
            part.notes.append(f"{role}, compiled, batch {size}: {type(error).__name__}: {str(error)[:300]}")


def _compiled_parts(network: Any, device: torch.device) -> Any:
    """Return a copy whose mechanisms are compiled; what is around them checks its arguments."""
    twin = copy.deepcopy(network)
    owner = twin.students if isinstance(twin, StudentCGN) else twin
    for name, module in list(owner.named_children()):
        owner.add_module(name, compiled(module, device))
    return twin


def _measure_rate(run: Run, part: Part, network: Any, what: str, precision: Precision, size: int) -> bool:
    """Measure one batch size; False where memory cannot hold it."""
    try:
        call = run.networks.render_batch(network, size, precision)
        rate = measure_rates({"": call}, size, 0.001 if run.miniature else 0.15)[""]
        part.add(what, rate, "images/s", batch_size=size, precision=precision)
        peak = peak_gpu_bytes(network, call)
        if peak is not None:
            part.add(f"{what}, peak memory", peak / 1e9, "GB", batch_size=size, precision=precision)
    except torch.OutOfMemoryError:
        part.notes.append(f"{what}: no memory for a batch of {size}")
        return False
    finally:
        torch.cuda.empty_cache()
    return True


def measure_distillation(run: Run, part: Part) -> None:
    """Measure the step of ImageNet's distillation against a plain fp32 loop, and the wait for stored samples."""
    part.add("share of the time that waits for stored samples", _stored_wait(run), "%", at_most=5)
    own = run.networks.distill[TRAINED].batch_size
    for network in (run.networks.teacher, run.networks.students):
        network.to("cpu")  # the memory of a step is its own
    larger = () if run.miniature else ((2 * own, True), (4 * own, True))
    for size, compiling in ((own, False), (own, True), *larger):
        torch._dynamo.reset()  # each size is compiled for itself
        settings = run.networks.distill[TRAINED].model_copy(update={"batch_size": size, "compile": compiling})
        networks = replace(run.networks, distill={**run.networks.distill, TRAINED: settings})
        try:
            measured = network_benchmark.measure_distillation(networks)
        except torch.OutOfMemoryError:
            part.notes.append(f"distillation: no memory for a batch of {size}")
            break
        finally:
            torch.cuda.empty_cache()
        for row in measured:
            how = "" if "plain" in row.what else ", bf16, channels last" + (", compiled" if compiling else "")
            row = replace(row, group="", what=row.what + how)
            # The plain loop beside the compiled step is measured again, at that time.
            if "plain" not in row.what or not any((old.what, old.batch_size) == (row.what, size) for old in part.rows):
                part.rows.append(row)
                logger.info("%s, batch %d: %.5g %s", row.what, size, row.value, row.unit)


def _stored_wait(run: Run) -> float:
    """Return the percentage of a distillation's time that it waits for samples, stored as the settings say."""
    networks, sample = run.networks, run.imagenet.sample
    storing = ImageEncoding(**{name: getattr(sample, name) for name in ImageEncoding.model_fields})
    settings, num_steps = networks.distill[TRAINED], networks.settings.num_distillation_steps * 3
    classes, per_class = (range(3), 4) if run.miniature else (range(64), 8)
    teacher = place(networks.teacher, run.device, torch.channels_last)  # type: ignore[type-var]
    with tempfile.TemporaryDirectory() as folder:
        identity, compute = {"name": "random"}, networks.compute
        recipe = SamplesRecipe(teacher, identity, per_class, 128, SEED, compute, storing=storing, classes=classes)
        samples = build_in(Path(folder), recipe)
        fetch = fetch_by_epochs(StreamedPairs(samples, TRAINED), settings.batch_size, SEED, "gpu-check-data")
        task = Distillation(TRAINED, GeneratorSize.of(networks.teacher), settings, SEED, compute)
        network_benchmark.distil(task, fetch, num_steps)  # warms up
        return network_benchmark.distil(task, fetch, num_steps)


def measure_ensemble(run: Run, part: Part) -> None:
    """Measure images/s of training a classifier with a head per mechanism, images on the device, fp32 and bf16."""
    name, size, batch = ("shufflenet_v2_x0_5", 32, 2) if run.miniature else ("resnet50", 224, 128)
    generator = torch_generator(SEED, "gpu-check-ensemble")
    images = (torch.rand(batch, 3, size, size, generator=generator) * 2 - 1).to(run.device)
    labels = torch.arange(batch, device=run.device)
    rates = {}
    with tempfile.TemporaryDirectory() as folder:
        # Blocks that start as the identity keep random weights from overflowing under frozen statistics.
        with seeded(SEED, "gpu-check-ensemble"):
            trunk = models.get_model(name, weights=None, **({} if run.miniature else {"zero_init_residual": True}))
        torch.save(trunk.state_dict(), weights := Path(folder) / "trunk.pth")
        changes = {"architecture": name, "weights": str(weights)}
        settings = run.imagenet.classify.fit.model_dump() | {
            "batch_size": batch,
            "counterfactual_batch_size": batch,
            "num_images": (4 if run.miniature else 60) * batch,
        }
        of_network = run.imagenet.classify.network.model_copy(update=changes)
        for precision in ("fp32", "bf16"):
            noted: list[tuple[int, float]] = []
            with listening(lambda _, step, losses, noted=noted: noted.append((step, time.perf_counter()))):
                fit = ClassifierFit(**settings | {"precision": precision})
                lessons = [
                    training.real_lesson(lambda step, size: (images, labels), fit),
                    training.counterfactual_lesson(
                        lambda step, size: (images, labels[:, None].expand(-1, len(MECHANISMS))), fit
                    ),
                ]
                network = training.initial_classifier(of_network, TORCHVISION_CLASSES, SEED)
                training.fit(training.ClassifierTask(network, lessons, fit, SEED, run.compute()))
            (first, start), (last, end) = noted[0], noted[-1]
            rates[precision] = (last - first) * 2 * batch / (end - start)
            what = f"{name}, {size} px, channels last"
            ratio = rates["bf16"] / rates["fp32"] if precision == "bf16" else None
            part.add(what, rates[precision], "images/s", batch_size=batch, precision=precision, ratio=ratio)


def train_students(run: Run, part: Part) -> None:
    """Distil a trio of MNIST on samples drawn fresh, for as long as there is time, and measure it."""
    seconds = (run.left - 30 if run.train_s is None else min(run.train_s, run.left - 30)) if not run.miniature else 5
    if seconds <= 0:
        raise SkippedError(f"{run.left:.0f} s are too few")
    teacher = open_teacher(run.miniature, run.variant)
    train = partial(train_student, run.miniature, run.variant, seconds)
    if run.miniature:
        trained = [*map(train, MECHANISMS)]
    else:
        # Small networks are a matter of launching kernels: three processes launch three times as many.
        with ProcessPoolExecutor(3, multiprocessing.get_context("spawn")) as pool:
            trained = [*pool.map(train, MECHANISMS)]
    architectures = {mechanism: getattr(run.mnist, mechanism).distill.student.model_dump() for mechanism in MECHANISMS}
    students = StudentCGN(teacher.noise_dim, teacher.num_classes, teacher.image_size, architectures)
    for mechanism, (state, figures) in zip(MECHANISMS, trained, strict=True):
        students.network_of(mechanism).load_state_dict(state)
        part.add(f"{mechanism}, steps", figures["steps"], "steps")
        part.add(f"{mechanism}, steps of the settings", getattr(run.mnist, mechanism).distill.num_steps, "steps")
        part.add(f"{mechanism}, training", figures["rate"], "steps/s")
    students.save_pretrained(run.out / f"students_{run.variant}")
    noise, labels = draw_noise(teacher, 100 if run.miniature else 10_000, "gpu-check-heldout")
    compared = {"new students": students.eval()}
    if not run.miniature:
        compared["released students"] = StudentCGN.from_released(f"{run.variant}_mnist")
    for name, network in compared.items():
        target, found = (
            one.to(run.device).render(noise.to(run.device), labels.to(run.device)) for one in (teacher, network)
        )
        part.add(f"{name}, mask IoU", mask_iou(found.mask, target.mask))
        for mechanism in MECHANISMS:
            l1 = mean_absolute_difference(found.of(mechanism), target.of(mechanism))
            part.add(f"{name}, {IMAGE_OF_MECHANISM[mechanism]} L1", l1)


def open_teacher(miniature: bool, variant: str) -> Any:
    """Return the published teacher of a variant, in miniature the shipped one."""
    if miniature:
        return load_teacher("digits_cgn")
    if not (Path(os.environ["SKDCGN_ASSETS"]) / f"cgn_mnist/cgn_{variant}_mnist.pth").is_file():
        raise SkippedError(f"no cgn_mnist/cgn_{variant}_mnist.pth in SKDCGN_ASSETS")
    return load_teacher("mnist_cgn", variant=variant, assets=os.environ["SKDCGN_ASSETS"])


def train_student(
    miniature: bool, variant: str, seconds: float, mechanism: str
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Distil one mechanism in its own process: as many steps as fit, annealed to their end."""
    start = time.monotonic()
    teacher, device = open_teacher(miniature, variant), choose_device("cpu" if miniature else "auto")
    teacher.to(device)
    size, compute = GeneratorSize.of(teacher), Compute(device=device.type)
    settings = getattr(read_settings("mnist", variant), mechanism).distill

    def train(num_steps: int, seconds: float) -> tuple[Distillation, int]:
        step_of = Distillation(mechanism, size, settings.model_copy(update={"num_steps": num_steps}), SEED, compute)
        until = time.monotonic() + seconds
        for step in range(num_steps):
            number, within = divmod(step, STEPS_PER_DRAW)
            if within == 0:
                if time.monotonic() > until:
                    return step_of, step
                drawn = draw_noise(teacher, STEPS_PER_DRAW * settings.batch_size, f"gpu-check-{mechanism}", number)
                noise, labels = (own.to(device) for own in drawn)
                images = teacher.render_mechanism(mechanism, noise, labels)
            rows = slice(within * settings.batch_size, (within + 1) * settings.batch_size)
            step_of.update(step, (noise[rows], labels[rows], images[rows]))
        wait_for_device()
        return step_of, num_steps

    rates = []
    for num_steps in (2, 2) if miniature else (STEPS_PER_DRAW, 4 * STEPS_PER_DRAW):  # the first one warms up
        begun = time.perf_counter()
        _, done = train(num_steps, seconds / 8)
        rates.append(done / (time.perf_counter() - begun))
    left = seconds - (time.monotonic() - start)
    planned = 2 if miniature else max(STEPS_PER_DRAW, int(0.85 * left * rates[-1]))
    begun = time.perf_counter()
    trained, done = train(planned, left)
    rate = done / (time.perf_counter() - begun)
    state = {name: tensor.contiguous().cpu() for name, tensor in trained.result.state_dict().items()}
    return state, {"steps": done, "rate": rate}


def make_brief() -> None:
    """Time each thing once, and compile without code generation."""
    cost.NUM_REPEATS, cost.SECONDS_PER_REPEAT, computing.COMPILER = 1, 0.001, "eager"
    training.LOG_EVERY_STEPS = 1
    globals()["STEPS_PER_DRAW"] = 2
