"""An asset folder of ImageNet in miniature: index tables, folders of images, weights with the published names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.utils.spectral_norm import SpectralNorm
from torchvision import models

from skdcgn_pipeline.runtime.compute import place
from skdcgn_pipeline.runtime.seeding import seeded
from skdcgn_pipeline.teachers.imagenet_cgn import ImageNetCGN, make_random

SIZE = 32
WNIDS = [f"n{number:08d}" for number in range(10)]
IN9 = ("dog", "bird", "vehicle")
CATEGORIES = {"cat": [0, 1], "dog": [2, 3, 4], "car": [9]}
ARCHITECTURE = "shufflenet_v2_x0_5"


@torch.no_grad()
def make_miniature(truncation: float = 0.5, seed: int = 0) -> ImageNetCGN:
    """Return a small CGN of the same classes whose images vary: 32 px, 10 classes, noise of length 4.

    Its random weights are orthogonal, and its spectral norms exact.
    """
    cgn = place(make_random("miniature", truncation), "cpu", torch.contiguous_format)
    with seeded(seed, "imagenet-miniature"):
        for module in cgn.modules():
            for parameter in module.parameters(recurse=False):
                if parameter.ndim > 1:
                    torch.nn.init.orthogonal_(parameter)
            for hook in module._forward_pre_hooks.values():
                if isinstance(hook, SpectralNorm):
                    matrix = hook.reshape_weight_to_matrix(getattr(module, f"{hook.name}_orig"))
                    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
                    getattr(module, f"{hook.name}_u").copy_(left[:, 0])
                    getattr(module, f"{hook.name}_v").copy_(right[0])
    return place(cgn, "cpu", torch.channels_last)


def write_images(folder: Path, names: list[str], seed: int = 0) -> None:
    generator = np.random.default_rng(seed)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(256, size=(SIZE, SIZE, 3), dtype=np.uint8)).save(path)


def write_checkpoint(path: Path) -> None:
    """Write a CGN as it is published: with the BigGAN that only training needs, and with `module.`."""
    state = make_miniature().state_dict()
    unused = {name.replace("f_bg.", "biggan_GT."): t.clone() for name, t in state.items() if name.startswith("f_bg.")}
    torch.save({f"module.{name}": tensor for name, tensor in (state | unused).items()}, path)


def make_assets(root: Path) -> Path:
    """Fill a folder with everything that `conf/imagenet` looks for, and a folder `sketch` of some classes."""
    own = root / "imagenet"
    own.mkdir(parents=True)
    write_checkpoint(own / "cgn.pth")
    torch.manual_seed(0)
    torch.save(models.get_model(ARCHITECTURE).state_dict(), own / "resnet50.pth")
    (own / "imagenet_wnids_sorted.json").write_text(json.dumps(WNIDS))
    (own / "in_to_in9.json").write_text(json.dumps({str(k): k % 4 if k % 4 < 3 else -1 for k in range(10)}))
    (own / "in9_classes.txt").write_text("".join(f"{name} {number}\n" for number, name in enumerate(IN9)))
    (own / "human16_imagenet_indices.json").write_text(json.dumps(CATEGORIES))
    for split, count in (("train", 3), ("val", 2)):
        write_images(own / "ilsvrc2012" / split, [f"{wnid}/{n}.png" for wnid in WNIDS for n in range(count)])
    pairs = [(shape, texture) for shape in CATEGORIES for texture in CATEGORIES]
    write_images(own / "cue_conflict", [f"{shape}/{shape}1-{texture}2.png" for shape, texture in pairs])
    in9 = [f"{number:02}_{group}/{n}.png" for number, group in enumerate(IN9) for n in "ab"]
    for seed, name in enumerate(("mixed_same", "mixed_rand", "original", "only_bg_t")):
        write_images(own / "in9" / name / "val", in9, seed)
    for name in in9:
        path = (own / "in9" / "fg_mask" / "val" / name).with_suffix(".npy")
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.pad(np.ones((SIZE // 2, SIZE // 2), dtype=bool), SIZE // 4))
    write_images(root / "sketch", [f"{wnid}/a.png" for wnid in WNIDS[:3]])
    return root


def tiny_settings(assets: Path) -> dict[str, Any]:
    """Settings that make `conf/imagenet` a matter of seconds."""
    distill = {
        "student": {"width": 4, "embedding_dim": 4},
        "num_steps": 2,
        "batch_size": 4,
        "discriminator_width": 4,
        "checkpoint_every_steps": 1,
        "log_every_steps": 1,
    }
    return {
        "compute": {"device": "cpu", "precision": "fp32", "sampling_precision": "fp32"},
        "prepare": {"given_features": {"architecture": ARCHITECTURE}},
        "sample": {"num_images_per_class": 3, "num_heldout_per_class": 1, "rows_per_shard": 20},
        **{mechanism: {"distill": distill} for mechanism in ("shape", "texture", "background")},
        "baseline": {
            "students": {m: {"width": 1, "embedding_dim": 2} for m in ("shape", "texture", "background")},
            "num_steps": 2,
            "batch_size": 2,
            "weights": {"style": 0, "texture": 0},  # VGG16 is half a gigabyte
            "patch_size": 4,
            "checkpoint_every_steps": 1,
            "log_every_steps": 1,
        },
        "compose": {"num_pool_images_per_class": 2, "num_images": 12, "rows_per_shard": 10},
        "images": {
            "folders": {"sketch": str(assets / "sketch")},
            "image_size": SIZE,
            "resize": SIZE,
        },
        "classify": {
            "num_counterfactuals": 6,
            "network": {"architecture": ARCHITECTURE},
            "fit": {
                "num_images": 8,
                "batch_size": 4,
                "counterfactual_batch_size": 4,
                "learning_rate": 1e-5,
                "checkpoint_every_steps": 1,
            },
        },
        "ablation": {
            "study": "transformations",
            "transformations": {"shape": [{"kind": "opacity", "strengths": [0.75]}]},
            "fit": {"num_images": 4, "batch_size": 4, "counterfactual_batch_size": 4, "learning_rate": 1e-5},
        },
        "report": {"num_examples": 2, "benchmark_batch_size": 2, "benchmark_seconds": 0.01},
    }
