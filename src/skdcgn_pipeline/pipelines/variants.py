"""What the settings make of a pipeline that is asked for by name."""

from __future__ import annotations

from collections.abc import Callable

from skdcgn_pipeline.parameters import Parameters

VARIANTS: dict[str, tuple[str, Callable[[Parameters], bool]]] = {
    "ablation": ("ablation_plan", lambda settings: settings.ablation.plan),
    "benchmark": ("network_benchmark", lambda settings: settings.benchmark.networks == "random"),
    "classify": ("classify_originals", lambda settings: settings.classify.trained_on == ("originals",)),
    "export": ("export_released", lambda settings: settings.export.students != "run"),
}


def variant_of(name: str, settings: Parameters) -> str:
    """Return the name of the pipeline that takes the place of another where the settings ask for it."""
    variant, is_asked_for = VARIANTS.get(name, (name, lambda settings: True))
    return variant if is_asked_for(settings) else name
