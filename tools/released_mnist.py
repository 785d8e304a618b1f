"""Released students of MNIST and the teachers that they imitate."""

from __future__ import annotations

import os

from skdcgn_pipeline.mechanisms import CounterfactualGenerator
from skdcgn_pipeline.students.released import released_students
from skdcgn_pipeline.teachers.teacher import load_teacher

MARK = "_mnist"
NAMES = [name for name in released_students() if MARK in name]


def teacher_of(name: str) -> CounterfactualGenerator:
    """Return the published teacher, of the folder that SKDCGN_ASSETS names, of a release."""
    return load_teacher("mnist_cgn", variant=name.partition(MARK)[0], assets=os.environ["SKDCGN_ASSETS"])
