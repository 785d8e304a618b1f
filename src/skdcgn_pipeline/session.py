"""The project's Kedro session: names checked with the nearest valid one, errors told in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.framework.session import KedroSession
from kedro.pipeline import Pipeline
from kedro.runner import ParallelRunner

from skdcgn_pipeline.io.configuration import read_configuration
from skdcgn_pipeline.io.terminal import errors_in_one_line, written_for_users
from skdcgn_pipeline.parameters import check_parameters
from skdcgn_pipeline.pipeline_registry import names_of_pipelines, register_pipelines
from skdcgn_pipeline.pipelines.binding import namespaces_of
from skdcgn_pipeline.pipelines.variants import Variants
from skdcgn_pipeline.runtime.errors import SettingError, check_choice, told_in_one_line
from skdcgn_pipeline.vocabulary import RUNNERS

# What of a pipeline an option of `kedro run` names, and the option.
CHOSEN: dict[str, tuple[str, Callable[[Pipeline], Iterable[str]]]] = {
    "node_names": ("--nodes", lambda pipeline: [node.name for node in pipeline.nodes]),
    "from_nodes": ("--from-nodes", lambda pipeline: [node.name for node in pipeline.nodes]),
    "to_nodes": ("--to-nodes", lambda pipeline: [node.name for node in pipeline.nodes]),
    "from_inputs": ("--from-inputs", Pipeline.datasets),
    "to_outputs": ("--to-outputs", Pipeline.all_outputs),
    "load_versions": ("--load-versions", Pipeline.datasets),
    "tags": ("--tags", lambda pipeline: {tag for node in pipeline.nodes for tag in node.tags}),
    "namespaces": ("--namespaces", lambda pipeline: {name for node in pipeline.nodes for name in namespaces_of(node)}),
}


class Beginning:
    """Knows whether work has begun: until then, whatever fails was caused by what was asked for."""

    has_come = False

    @hook_impl(trylast=True)
    def before_pipeline_run(self) -> None:
        """Everything is checked."""
        self.has_come = True


class ProjectSession(KedroSession):
    """A session that refuses unknown names before any work and runs a namespace with what it needs."""

    _loader: Any = None

    def _get_config_loader(self) -> Any:
        """Return the one loader of this session, which has read everything."""
        if self._loader is None:
            source, env = Path(self._conf_source), self.store.get("env")
            with errors_in_one_line():
                if env and source.is_dir():
                    check_choice("--env", env, sorted(path.name for path in source.iterdir() if path.is_dir()))
                folders = [source / "base", source / (env or "local")]
                params = self.store.get("runtime_params") or {}
                self._loader = read_configuration(super()._get_config_loader, folders, params)
        return self._loader

    def load_context(self) -> Any:
        """Load the context; wrong settings are told in one message."""
        with errors_in_one_line():
            return super().load_context()

    def run(self, **options: Any) -> dict[str, Any]:  # type: ignore[override]  # the same arguments, by name only
        """Run pipelines; `namespaces` runs these with everything that they need upstream.

        Raises:
            SettingError: If something unknown or impossible is asked for (`click.ClickException` on the command line).
        """
        beginning = Beginning()
        self._hook_manager.register(beginning)
        with errors_in_one_line():
            try:
                checked = self._checked(options)
                from skdcgn_pipeline.io.datasets import claim_run  # seconds, which a typing error need not take
                from skdcgn_pipeline.runtime.compute import keep_freed_memory

                keep_freed_memory()
                data_root = Path(str(self._get_config_loader()["globals"]["data"]))
                self.session_id = self._store["session_id"] = claim_run(data_root)
                return super().run(**checked)
            except Exception as error:
                if beginning.has_come or written_for_users(error):
                    raise
                got, remedy = told_in_one_line(error), "Nothing has been run. SKDCGN_TRACEBACK=1 shows where."
                raise SettingError("kedro run", "what can be run", f"{type(error).__name__}: {got}", remedy) from error

    def _checked(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of Kedro's own session, every name of which is known."""
        settings = check_parameters(self._get_config_loader()["parameters"])
        asked_for = [*(options.pop("pipeline_names", None) or []), options.pop("pipeline_name", None)]
        names = [name for name in asked_for if name]
        for name in names:
            check_choice("--pipeline", name, names_of_pipelines())
        pipelines = register_pipelines(Variants.of(settings))
        whole = sum((pipelines[name] for name in names or ["__default__"]), Pipeline([]))
        if not whole.nodes:
            remedy = "Name images (images.folder, images.source), or another pipeline."
            raise SettingError("--pipeline", "what needs no real images", f"{', '.join(names)} without any", remedy)
        if isinstance(options.get("runner"), ParallelRunner):
            remedy = "Leave out --runner; nodes use several cores themselves."
            raise SettingError("--runner", " or ".join(RUNNERS), "ParallelRunner", remedy)
        for option, (setting, choices) in CHOSEN.items():
            for name in options.get(option) or ():
                check_choice(setting, name, sorted(choices(whole)))
        namespaces, targets = set(options.pop("namespaces", None) or ()), list(options.pop("to_nodes", None) or ())
        targets += [node.name for node in whole.nodes if not namespaces.isdisjoint(namespaces_of(node))]
        return options | {"to_nodes": targets, "pipeline_names": names}
