"""Counterfactuals: of the teacher, of its students, and mixed with originals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from skdcgn_pipeline.classifiers.methods.contract import Material, Method, Source
from skdcgn_pipeline.classifiers.training import Lesson, class_lesson
from skdcgn_pipeline.images.batches import draw_from_split, mix_batches
from skdcgn_pipeline.images.epochs import DrawBatch


def draw_counterfactuals(material: Material, source: str) -> DrawBatch:
    """Return a function that composes fresh counterfactuals with the labels [B, 3] of all mechanisms."""
    return material.pools[source]().draw_labelled_batch(
        material.composition, material.seed, "classifier-counterfactuals"
    )


@dataclass(frozen=True)
class TeacherCounterfactuals(Method):
    """L = E CE(f(x), y): x = m * t + (1 - m) * b with shape m of class y, texture t and background b of any class.

    Sauer and Geiger, "Counterfactual generative networks", ICLR 2021, arXiv 2101.06046. The generator has seen the
    run's own images, of which none need be in conflict with the bias; none are looked at here.
    """

    name = "teacher"
    title = "teacher's counterfactuals"
    paper = "Sauer and Geiger 2021, arXiv 2101.06046"
    uses: ClassVar[tuple[Source, ...]] = ("teacher",)

    def lesson(self, material: Material) -> Lesson:
        """Compose counterfactuals without end."""
        return class_lesson(draw_counterfactuals(material, self.name), material.fit)


@dataclass(frozen=True)
class StudentsCounterfactuals(TeacherCounterfactuals):
    """The same with images of three small students of the teacher (SKDCGN, arXiv 2208.04226)."""

    name = "students"
    title = "students' counterfactuals"
    paper = "SKDCGN 2022, arXiv 2208.04226"
    uses = ("students",)


@dataclass(frozen=True)
class MixedCounterfactuals(Method):
    """Batches of the students' counterfactuals of which a share are originals (see arXiv 2101.06046, section 4.1).

    Attributes:
        originals: That share.
    """

    name = "mixed"
    title = "originals and students' counterfactuals"
    paper = "Sauer and Geiger 2021, arXiv 2101.06046"
    uses = ("originals", "students")
    grid = ({"originals": 0.25}, {"originals": 0.5})

    originals: float = 0.5

    def lesson(self, material: Material) -> Lesson:
        """Compose counterfactuals and draw originals."""
        originals = draw_from_split(material.originals(), material.seed, "mixed-originals")
        mixed = mix_batches(draw_counterfactuals(material, "students"), originals, self.originals)
        return class_lesson(mixed, material.fit)
