"""Students to take away: a folder for `StudentCGN.from_pretrained`, the same as ONNX and `torch.export`, a card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from shutil import copyfile
from typing import Any

import pandas as pd
import torch

from skdcgn_pipeline.artifacts.recipe import Recipe
from skdcgn_pipeline.artifacts.store import Artifact, ArtifactWriter
from skdcgn_pipeline.export.cards import versions, write_export
from skdcgn_pipeline.metrics.cost import untimed
from skdcgn_pipeline.networks.pretrained import CONFIG_FILE, WEIGHTS_FILE
from skdcgn_pipeline.networks.rounded_weights import restore_state, round_state
from skdcgn_pipeline.parameters import Parameters
from skdcgn_pipeline.reporting.release import records_of, training_of
from skdcgn_pipeline.runtime.compute import place
from skdcgn_pipeline.students.program import INPUTS, OUTPUTS, StudentProgram, example_of
from skdcgn_pipeline.students.recipes import StudentsArtifact
from skdcgn_pipeline.students.released import released_card


def origin_of_run(parameters: Parameters, comparison: pd.DataFrame) -> dict[str, Any]:
    """Return name, settings and figures of the students of a run."""
    return {
        "name": parameters.run_name,
        "released": False,
        "variant": parameters.variant,
        "source": parameters.images.source,
        "training": training_of(parameters),
        "fidelity_and_costs": records_of(untimed(comparison)),
    }


def origin_of_release(name: str) -> dict[str, Any]:
    """Return name, settings and figures of released students, from their card."""
    card = released_card(name)
    told = {key: card[key] for key in ("name", "sha256", "teacher", "training", "command")}
    return {**told, "released": True, "fidelity_and_costs": card["figures"]["fidelity_and_costs"]}


@dataclass(frozen=True)
class StudentsExport(Recipe[Artifact]):
    """Students as safetensors, ONNX and `torch.export`, the programs checked, with a card.

    The artifact has `config.json` and `model.safetensors` (for `StudentCGN.from_pretrained`), `students.onnx`,
    `students.pt2`, `card.json` and `README.md`.

    Attributes:
        students: The students.
        origin: What `origin_of_run` or `origin_of_release` returns.
        bits: Of each weight, which all forms then share; None keeps float32.
    """

    students: StudentsArtifact
    origin: Mapping[str, Any]
    bits: int | None = None

    kind = "exported students"
    folder = "export"
    version = 3  # ONNX calls the number of images `num_images`; cards say what they are to the Hub

    def inputs(self) -> dict[str, Any]:
        """Return everything that the files depend on."""
        inputs = {"students": self.students.artifact.identity, "origin": dict(self.origin), "versions": versions()}
        return inputs if self.bits is None else inputs | {"bits": self.bits}

    def build(self, writer: ArtifactWriter) -> None:
        """Write all files; raises SettingError if a program differs from the students by more than 1e-4."""
        # In the plain layout: a program's file keeps each tensor as it lies in memory.
        network = place(self.students.open(), "cpu", torch.contiguous_format)
        if self.bits is None:
            for name in (CONFIG_FILE, WEIGHTS_FILE):
                writer.write(name, partial(copyfile, self.students.artifact.path(name)))
        else:
            network.write_into(writer, bits=self.bits)
            network.load_state_dict(restore_state(round_state(network, self.bits), network))
        card = {
            "kind": "students",
            "name": self.origin["name"],
            "origin": dict(self.origin),
            "interface": {key: getattr(network, key) for key in ("noise_dim", "num_classes", "image_size")},
            "inputs": list(INPUTS),
            "outputs": list(OUTPUTS),
        } | ({} if self.bits is None else {"bits": self.bits})
        write_export(writer, "students", StudentProgram(network).eval(), partial(example_of, network), card)
