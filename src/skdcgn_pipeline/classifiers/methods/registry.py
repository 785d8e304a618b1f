"""All methods by name, in the order in which they are told."""

from __future__ import annotations

from collections.abc import Sequence

from skdcgn_pipeline.classifiers.methods.colour_jitter import ColourJitter
from skdcgn_pipeline.classifiers.methods.contract import Method
from skdcgn_pipeline.classifiers.methods.counterfactuals import (
    MixedCounterfactuals,
    StudentsCounterfactuals,
    TeacherCounterfactuals,
)
from skdcgn_pipeline.classifiers.methods.dfr import DFR
from skdcgn_pipeline.classifiers.methods.erm import ERM, Unbiased
from skdcgn_pipeline.classifiers.methods.group_dro import GroupDRO
from skdcgn_pipeline.classifiers.methods.irm import IRM
from skdcgn_pipeline.classifiers.methods.jtt import JTT
from skdcgn_pipeline.classifiers.methods.lff import LfF
from skdcgn_pipeline.classifiers.methods.mixup import CutMix, Mixup
from skdcgn_pipeline.classifiers.methods.pairs import CounterfactualPairs
from skdcgn_pipeline.classifiers.methods.reweighting import Reweighting
from skdcgn_pipeline.runtime.errors import check_choice

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        ERM,
        ColourJitter,
        Mixup,
        CutMix,
        IRM,
        GroupDRO,
        JTT,
        LfF,
        DFR,
        Reweighting,
        TeacherCounterfactuals,
        StudentsCounterfactuals,
        MixedCounterfactuals,
        CounterfactualPairs,
        Unbiased,
    )
}


def methods_of(names: Sequence[str]) -> list[type[Method]]:
    """Return methods by name, each once; `all` stands for every one.

    Raises:
        SettingError: If there is no such method.
    """
    for name in names:
        check_choice("ablation.alternatives.methods", name, ("all", *METHODS))
    return [method for name, method in METHODS.items() if name in names or "all" in names]
