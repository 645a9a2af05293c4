"""hydra/launcher=joblib and =ray: Hydra's own, in which a worker that dies costs its own run and not the others'."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from engine.contract import Refused


class OursByName(SearchPathPlugin):
    """Takes the plugins' own settings for these names away: Hydra would merge them with ours of the same name, and warn
    at every sweep that it does."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra when all plugins are known; the search path stays as it is."""
        known = ConfigStore.instance().repo.get("hydra", {}).get("launcher", {})
        for name in ("joblib", "ray"):
            known.pop(f"{name}.yaml", None)


class Joblib(Launcher):
    """Several runs at once on this machine, a process each."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.plugin: Any = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Raises Refused where the plugin is missing."""
        try:
            from hydra_plugins.hydra_joblib_launcher.joblib_launcher import JoblibLauncher
        except ModuleNotFoundError:
            raise Refused("hydra/launcher=joblib needs joblib: pip install -e '.[launchers]'") from None
        self.plugin = JoblibLauncher(**self.settings)
        self.plugin.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """What the plugin gives. When a process is killed, joblib ends all the others and raises."""
        return self.plugin.launch(job_overrides, initial_job_idx)


class Ray(Launcher):
    """Runs as tasks of Ray, here or on a cluster (ray.init.address)."""

    def __init__(self, ray: DictConfig) -> None:
        self.settings = ray
        self.context: Any = None
        self.function: Any = None
        self.config: Any = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Raises Refused where the plugin is missing."""
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # no token under the home folder; said before import
        try:
            import hydra_plugins.hydra_ray_launcher.ray_launcher  # noqa: F401
        except ModuleNotFoundError:
            raise Refused("hydra/launcher=ray needs Ray: pip install -c constraints.txt -e '.[ray]'") from None
        self.context, self.function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Waits for all, as the plugin's own does not: a task whose worker died for good is a FAILED return."""
        import ray
        from hydra_plugins.hydra_ray_launcher._launcher_util import launch_job_on_ray, start_ray

        setup_globals()
        start_ray(self.settings.init)
        tasks = []
        for number, words in enumerate(job_overrides, initial_job_idx):
            one = self.context.config_loader.load_sweep_config(self.config, list(words))
            with open_dict(one):
                one.hydra.job.id, one.hydra.job.num = f"ray_{number}", number
            state = Singleton.get_state()
            tasks.append(launch_job_on_ray(self.context, self.settings.remote, one, self.function, state))
        returns = []
        for words, task in zip(job_overrides, tasks, strict=True):
            try:
                returns.append(ray.get(task))
            except Exception as error:  # Ray's own: what the run raised is in its return
                lost = RuntimeError(f"Ray lost this run: {str(error).strip()}")
                returns.append(JobReturn(overrides=list(words), status=JobStatus.FAILED, _return_value=lost))
        return returns
