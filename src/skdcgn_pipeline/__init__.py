"""Distil counterfactual generative networks and train invariant classifiers with them.

The names below work where neither Kedro nor MLflow is installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:  # under their own names, by which type checkers know what is public
    from skdcgn_pipeline.classifiers.invariant_classifier import InvariantClassifier as InvariantClassifier
    from skdcgn_pipeline.counterfactuals.datasets import CounterfactualDataset as CounterfactualDataset
    from skdcgn_pipeline.counterfactuals.datasets import CounterfactualStream as CounterfactualStream
    from skdcgn_pipeline.counterfactuals.mixing import mix as mix
    from skdcgn_pipeline.images.loading import load_biased as load_biased
    from skdcgn_pipeline.images.loading import load_folder as load_folder
    from skdcgn_pipeline.mechanisms import MechanismImages as MechanismImages
    from skdcgn_pipeline.mechanisms import MechanismLabels as MechanismLabels
    from skdcgn_pipeline.mechanisms import compose as compose
    from skdcgn_pipeline.parameters import Composition as Composition
    from skdcgn_pipeline.students.released import released_students as released_students
    from skdcgn_pipeline.students.trio import StudentCGN as StudentCGN
    from skdcgn_pipeline.teachers.teacher import load_teacher as load_teacher

_HOME = {
    "Composition": "skdcgn_pipeline.parameters",
    "CounterfactualDataset": "skdcgn_pipeline.counterfactuals.datasets",
    "CounterfactualStream": "skdcgn_pipeline.counterfactuals.datasets",
    "InvariantClassifier": "skdcgn_pipeline.classifiers.invariant_classifier",
    "MechanismImages": "skdcgn_pipeline.mechanisms",
    "MechanismLabels": "skdcgn_pipeline.mechanisms",
    "StudentCGN": "skdcgn_pipeline.students.trio",
    "compose": "skdcgn_pipeline.mechanisms",
    "load_biased": "skdcgn_pipeline.images.loading",
    "load_folder": "skdcgn_pipeline.images.loading",
    "load_teacher": "skdcgn_pipeline.teachers.teacher",
    "mix": "skdcgn_pipeline.counterfactuals.mixing",
    "released_students": "skdcgn_pipeline.students.released",
}
__all__ = [*_HOME]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    # Lazy, so that Kedro's command line, which imports this package, starts without torch.
    if name in _HOME:
        import importlib

        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
