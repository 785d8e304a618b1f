"""The project's Kedro session: names checked with the nearest valid one, errors told in one line."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from kedro.framework.project import pipelines
from kedro.framework.session import KedroSession

from skdcgn_pipeline.runtime.errors import (
    DamagedFileError,
    InterruptedRunError,
    SettingError,
    StudyFailedError,
    check_choice,
)
from skdcgn_pipeline.vocabulary import BASELINE, MECHANISMS

NAMESPACES = (*MECHANISMS, BASELINE)
# Where the feature network is given, these pipelines need no images, and what makes and shows them is left out.
WITHOUT_IMAGES = {"sample", "distill", "compose", "benchmark"}
OF_IMAGES = {"prepare_biased_images", "show_biased_images"}


def environments(conf_source: str | Path) -> list[str]:
    """Return the names of the configured environments."""
    return sorted(path.name for path in Path(conf_source).iterdir() if path.is_dir())


class ProjectSession(KedroSession):
    """A session that refuses unknown names before any work and runs a namespace with what it needs."""

    def _get_config_loader(self) -> Any:
        env = self.store.get("env")
        if env and Path(self._conf_source).is_dir():
            _told(lambda: check_choice("--env", env, environments(self._conf_source)))
        return super()._get_config_loader()

    def load_context(self) -> Any:
        """Load the context; wrong settings are told in one message."""
        return _told(super().load_context)

    def run(  # type: ignore[override]  # the same arguments, by name only
        self,
        *,
        namespaces: Iterable[str] | None = None,
        to_nodes: Iterable[str] | None = None,
        pipeline_names: list[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Run pipelines; `namespaces` runs these with everything that they need upstream.

        Raises:
            SettingError: If a pipeline or namespace is unknown (`click.ClickException` on the command line).
        """
        from skdcgn_pipeline.runtime.compute import keep_freed_memory

        keep_freed_memory()
        names = list(pipeline_names or [])
        if kwargs.get("pipeline_name"):
            names.append(kwargs.pop("pipeline_name"))
        default = self._get_config_loader()["parameters"].get("default_pipeline")
        names = names or ([default] if default else [])
        _told(lambda: [check_choice("--pipeline", name, pipelines.keys()) for name in names])
        if "benchmark" in names and self._parameter("benchmark").get("networks") == "random":
            names[names.index("benchmark")] = "network_benchmark"
        if "export" in names and self._parameter("export").get("students", "run") != "run":
            names = ["export_released" if name == "export" else name for name in names]
        wanted = list(to_nodes or [])
        for namespace in namespaces or ():
            _told(lambda namespace=namespace: check_choice("--namespaces", namespace, NAMESPACES))
            chosen = [pipelines[name] for name in names or ["__default__"]]
            found = [node.name for pipe in chosen for node in pipe.nodes if node.namespace == namespace]
            if not found:
                _told(lambda namespace=namespace: _refuse_namespace(namespace, names))
            wanted += found
        if self._parameter("prepare").get("given_features") and names and {*names} <= WITHOUT_IMAGES:
            there = {node.name for name in names for node in pipelines[name].nodes} - OF_IMAGES
            kwargs["node_names"] = _told(lambda: _narrowed(kwargs.get("node_names"), sorted(there)))
        if [*self._parameter("classify").get("trained_on", ())] == ["originals"]:
            names = ["classify_originals" if name == "classify" else name for name in names]
        if "ablation" in names and self._parameter("ablation").get("plan"):
            from skdcgn_pipeline.pipelines.ablation.pipeline import PLAN

            kwargs["node_names"] = PLAN
        return _told(lambda: super(ProjectSession, self).run(to_nodes=wanted, pipeline_names=names, **kwargs))

    def _parameter(self, name: str) -> dict[str, Any]:
        """Return the settings of one stage, not yet checked."""
        value = self._get_config_loader()["parameters"].get(name)
        return value if isinstance(value, dict) else {}


def _narrowed(wanted: Iterable[str] | None, there: list[str]) -> list[str]:
    """Return the nodes that are wanted, or all that there are.

    Raises:
        SettingError: If one is not there.
    """
    for name in wanted or ():
        check_choice("--nodes", name, there)
    return list(wanted or there)


def _refuse_namespace(namespace: str, names: list[str]) -> None:
    raise SettingError(
        "--namespaces",
        f"a mechanism that the pipeline {', '.join(names)} trains",
        repr(namespace),
        "Leave out --pipelines, or name distill or a later stage.",
    )


def _told(work: Any) -> Any:
    """Do work; on the command line, tell errors that a user can act on in one line instead of a traceback."""
    try:
        return work()
    except Exception as error:
        cause = _actionable(error)
        if cause is None or click.get_current_context(silent=True) is None or os.environ.get("SKDCGN_TRACEBACK"):
            raise
        raise click.ClickException(str(cause)) from error


def _actionable(error: BaseException | None) -> BaseException | None:
    """Return the error in the chain of causes that was written for the user, if any."""
    while error is not None:
        if isinstance(error, SettingError | InterruptedRunError | DamagedFileError | StudyFailedError):
            return error
        error = error.__cause__ or error.__context__
    return None
