"""The project's Kedro session: names checked with the nearest valid one, errors told in one line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kedro.framework.project import pipelines
from kedro.framework.session import KedroSession
from kedro.pipeline import Pipeline

from skdcgn_pipeline.io.terminal import errors_in_one_line
from skdcgn_pipeline.parameters import check_parameters
from skdcgn_pipeline.runtime.errors import SettingError, check_choice, told_in_one_line
from skdcgn_pipeline.vocabulary import BASELINE, MECHANISMS, RUNNERS

NAMESPACES = (*MECHANISMS, BASELINE)
# Where the feature network is given, these pipelines need no images, and what makes and shows them is left out.
WITHOUT_IMAGES = {"sample", "distill", "compose", "benchmark"}
OF_IMAGES = {"prepare_biased_images", "show_biased_images"}
# What a pipeline becomes where the settings ask for it.
VARIANTS = {
    "ablation": ("ablation_plan", lambda settings: settings.ablation.plan),
    "benchmark": ("network_benchmark", lambda settings: settings.benchmark.networks == "random"),
    "classify": ("classify_originals", lambda settings: settings.classify.trained_on == ("originals",)),
    "export": ("export_released", lambda settings: settings.export.students != "run"),
}


# What chooses nodes of a pipeline, beside their names' ends.
CHOOSING = ("node_names", "from_nodes", "from_inputs", "to_outputs", "tags")


def environments(conf_source: str | Path) -> list[str]:
    """Return the names of the configured environments."""
    return sorted(path.name for path in Path(conf_source).iterdir() if path.is_dir())


@contextmanager
def told_as(setting: str, expected: str) -> Iterator[None]:
    """Tell whatever fails inside the block, before any work, as an error of a setting."""
    try:
        yield
    except SettingError:
        raise
    except Exception as error:
        raise SettingError(setting, expected, told_in_one_line(error), "Nothing has been run; correct it.") from error


class ProjectSession(KedroSession):
    """A session that refuses unknown names before any work and runs a namespace with what it needs."""

    _loader: Any = None

    def _get_config_loader(self) -> Any:
        """Return the one loader of this session; what it has read is not read again."""
        if self._loader is None:
            env = self.store.get("env")
            with errors_in_one_line(), told_as("configuration", "files that can be read"):
                if env and Path(self._conf_source).is_dir():
                    check_choice("--env", env, environments(self._conf_source))
                loader: Any = super()._get_config_loader()
                for kind in ("parameters", "catalog", "mlflow"):
                    loader[kind] = loader[kind]
                self._loader = loader
        return self._loader

    def load_context(self) -> Any:
        """Load the context; wrong settings are told in one message."""
        with errors_in_one_line():
            return super().load_context()

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
        from skdcgn_pipeline.io.datasets import claim_run
        from skdcgn_pipeline.runtime.compute import keep_freed_memory

        keep_freed_memory()
        with errors_in_one_line():
            settings = check_parameters(self._get_config_loader()["parameters"])
            wanted = [*(pipeline_names or ()), kwargs.pop("pipeline_name", None)]
            names = [name for name in wanted if name] or [*filter(None, [settings.default_pipeline])]
            for name in names:
                check_choice("--pipeline", name, pipelines.keys())
            names = [VARIANTS[name][0] if name in VARIANTS and VARIANTS[name][1](settings) else name for name in names]
            targets = [*(to_nodes or ()), *_nodes_of(namespaces or (), names)]
            runner = kwargs.get("runner")
            check_choice("--runner", type(runner).__name__ if runner else RUNNERS[0], RUNNERS)
            with told_as("kedro run", "names of nodes, datasets and tags that the pipelines have"):
                chosen = {option: kwargs.get(option) for option in CHOOSING}
                sum((pipelines[name] for name in names or ["__default__"]), Pipeline([])).filter(
                    to_nodes=targets or None, **chosen
                )
            if settings.prepare.given_features and names and {*names} <= WITHOUT_IMAGES:
                nodes = {node.name for name in names for node in pipelines[name].nodes} - OF_IMAGES
                kwargs["node_names"] = [
                    check_choice("--nodes", name, nodes) for name in kwargs.get("node_names") or sorted(nodes)
                ]
            self.session_id = self._store["session_id"] = claim_run(
                Path(str(self._get_config_loader()["globals"]["data"]))
            )
            return super().run(to_nodes=targets, pipeline_names=names, **kwargs)


def _nodes_of(namespaces: Iterable[str], names: list[str]) -> list[str]:
    """Return the nodes of namespaces in pipelines.

    Raises:
        SettingError: If a namespace is unknown, or not in these pipelines.
    """
    chosen = [node for name in names or ["__default__"] for node in pipelines[name].nodes]
    nodes = []
    for namespace in namespaces:
        check_choice("--namespaces", namespace, NAMESPACES)
        inside = [node.name for node in chosen if node.namespace == namespace]
        if not inside:
            raise SettingError(
                "--namespaces",
                f"a mechanism that the pipeline {', '.join(names)} trains",
                repr(namespace),
                "Leave out --pipelines, or name distill or a later stage.",
            )
        nodes += inside
    return nodes
