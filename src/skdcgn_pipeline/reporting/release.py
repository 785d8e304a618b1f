"""Make a release of distilled students: weights, a card of everything that belongs to them, a page to read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from shutil import copyfile
from typing import Any

import pandas as pd
import torch

from skdcgn_pipeline import __version__
from skdcgn_pipeline.artifacts.recipe import Recipe
from skdcgn_pipeline.artifacts.store import Artifact, ArtifactWriter, sha256_of_file
from skdcgn_pipeline.benchmark.frame import BEST
from skdcgn_pipeline.networks.pretrained import CONFIG_FILE, WEIGHTS_FILE
from skdcgn_pipeline.parameters import Parameters
from skdcgn_pipeline.reporting.report import command_of
from skdcgn_pipeline.reporting.templates import template
from skdcgn_pipeline.students.recipes import StudentsArtifact
from skdcgn_pipeline.students.released import RELEASE_PREFIX
from skdcgn_pipeline.vocabulary import MECHANISMS


def release_command(parameters: Parameters) -> str:
    """Return the command that makes this release again."""
    environment = None if parameters.images.source == "digits" else parameters.images.source
    settings = {"variant": environment and parameters.variant, "name": parameters.name}
    told = {name: value for name, value in settings.items() if value}
    return command_of({"env": environment, "params": told}, "release")


def training_of(parameters: Parameters) -> dict[str, Any]:
    """Return the settings that the students of a run come from."""
    settings = parameters.model_dump(mode="json")
    return {
        "seed": parameters.seed,
        "compute": settings["compute"],
        "sample": settings["sample"],
        **{mechanism: settings[mechanism]["distill"] for mechanism in MECHANISMS},
    }


def records_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as a card has them."""
    return json.loads(table.to_json(orient="records", double_precision=6))


def release_card(
    parameters: Parameters,
    students: StudentsArtifact,
    teacher_identity: Mapping[str, Any],
    comparison: pd.DataFrame,
    accuracy: pd.DataFrame,
    benchmark: pd.DataFrame,
) -> dict[str, Any]:
    """Return what belongs to released students, as plain JSON.

    Args:
        teacher_identity: The teacher that they were distilled from, with the SHA-256 of its weights.
        comparison: Fidelity and costs by mechanism.
        accuracy: Accuracy of classifiers by training set, split and subset, over seeds.
        benchmark: The benchmark's table.

    Returns:
        Interface and architectures (what `StudentCGN` takes), SHA-256 of the weights, teacher, settings of
        the training, command, versions and figures.
    """
    settings = parameters.model_dump(mode="json")
    throughput = benchmark[(benchmark["group"] == "throughput") & benchmark["what"].str.endswith(BEST)]
    return {
        **students.artifact.read_json(CONFIG_FILE),
        "name": parameters.run_name,
        "sha256": sha256_of_file(students.artifact.path(WEIGHTS_FILE)),
        "teacher": dict(teacher_identity),
        "training": training_of(parameters),
        "command": release_command(parameters),
        "versions": {"skdcgn_pipeline": __version__, "torch": torch.__version__},
        "figures": {
            "fidelity_and_costs": records_of(comparison),
            "accuracy": records_of(accuracy),
            "classify": settings["classify"],
            "composition": settings["compose"]["composition"],
            "throughput": records_of(throughput),
        },
    }


def render_model_card(card: Mapping[str, Any]) -> str:
    """Return the card as a page in Markdown."""
    fidelity = {row["mechanism"]: row for row in card["figures"]["fidelity_and_costs"]}
    page = template("reporting/model_card.md.j2")
    return page.render(**card, mechanisms=MECHANISMS, fidelity=fidelity, whole=fidelity["all"])


@dataclass(frozen=True)
class Release(Recipe[Artifact]):
    """Students as files that can be copied into the package: `students_<name>.safetensors`, `.json` and `.md`.

    Attributes:
        card: What `release_card` returns; its times belong to the machine that it names.
    """

    students: StudentsArtifact
    card: Mapping[str, Any]

    kind = "release"

    def inputs(self) -> dict[str, Any]:
        """Return the card."""
        return {"card": dict(self.card)}

    def build(self, writer: ArtifactWriter) -> None:
        """Write weights, card and page."""
        stem, card = f"{RELEASE_PREFIX}{self.card['name']}", dict(self.card)
        writer.write(f"{stem}.safetensors", partial(copyfile, self.students.artifact.path(WEIGHTS_FILE)))
        writer.write_json(f"{stem}.json", card)
        writer.write(f"{stem}.md", lambda path: path.write_text(render_model_card(card), encoding="utf-8"))
