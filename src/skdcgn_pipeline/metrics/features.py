"""Networks in whose features images are compared: the run's own classifier, a given network, or Inception."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from skdcgn_pipeline.artifacts.store import sha256_of_file
from skdcgn_pipeline.networks.weights_file import first_line, read_state
from skdcgn_pipeline.parameters import Compute
from skdcgn_pipeline.runtime.compute import autocast, choose_device
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.runtime.libraries import import_library

INCEPTION = "inception"
INCEPTION_FILE = "inception/weights-inception-2015-12-05-6726825d.pth"
INCEPTION_URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/" + Path(INCEPTION_FILE).name
SETTING = "report.generation_metrics.network"


class Seen(NamedTuple):
    """What a network sees in N images.

    Attributes:
        features: [N, D], float32.
        logits: [N, K], before the softmax; None where a network has no classes.
    """

    features: Tensor
    logits: Tensor | None


@dataclass(frozen=True)
class FeatureSpace:
    """A network in whose features images are compared.

    Attributes:
        look: Images [N, 3, H, W] in [-1, 1] on any device -> what it sees of them, on the CPU.
        identity: What its features depend on; JSON-able.
    """

    look: Callable[[Tensor], Seen]
    identity: Any


def space_of_network(
    network: Any, identity: Any, compute: Compute, head: Callable[[Tensor], Tensor] | None = None
) -> FeatureSpace:
    """Return the space of a network's pooled features, and of its logits where there is a head.

    Args:
        network: Has `features`: images [N, 3, H, W] in [-1, 1] -> [N, D].
        identity: What its features depend on; JSON-able.
        compute: Device and precision.
        head: Features -> logits; None takes the network's `head`, if it has one.
    """
    device, head = choose_device(compute.device), head or getattr(network, "head", None)

    @torch.no_grad()
    def look(images: Tensor) -> Seen:
        network.to(device)
        with autocast(compute, device):
            features = network.features(images.to(device))
            logits = None if head is None else head(features).float().cpu()
        return Seen(features.float().cpu(), logits)

    return FeatureSpace(look, identity)


def inception_path(assets: Path | str) -> Path:
    """Return where Inception's weights are; refuse when they are not.

    Raises:
        SettingError: Naming the file, where it comes from and the alternative; or the package that reads it.
    """
    path = Path(assets) / INCEPTION_FILE
    if not path.is_file():
        remedy = f"Download {INCEPTION_URL} and put it there, or use 'feature_network', the run's own digit classifier."
        raise SettingError(SETTING, f"the weights of Inception at {path}", "no such file", remedy)
    import_library("torch_fidelity", "inception", SETTING, "torch-fidelity")
    return path


def open_inception(assets: Path | str, compute: Compute) -> FeatureSpace:
    """Return the Inception network of FID: 2,048 features and 1,008 logits without bias, of the image at 299 px.

    It is that of torch-fidelity, which repeats the numbers of the original implementation; always fp32.

    Raises:
        SettingError: If the weights are missing, damaged, hold code or are of another network.
    """
    path = inception_path(assets)
    # torch-fidelity would execute what a weights file holds: it only gets one that has been read without.
    read_state(path, setting=SETTING)
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    names = ["2048", "logits_unbiased"]
    try:
        network = FeatureExtractorInceptionV3(INCEPTION, names, feature_extractor_weights_path=str(path))
    except RuntimeError as error:
        got = f"{path} ({first_line(error)})"
        remedy = f"Download {INCEPTION_URL} again."
        raise SettingError(SETTING, "the weights of torch-fidelity's Inception", got, remedy) from error
    device = choose_device(compute.device)

    @torch.no_grad()
    def look(images: Tensor) -> Seen:
        network.to(device)
        as_bytes = images.to(device).add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
        features, logits = network(as_bytes)
        return Seen(features.cpu(), logits.cpu())

    return FeatureSpace(look, {"network": INCEPTION, "sha256": sha256_of_file(path)})
