"""hydra/launcher=joblib and =ray: Hydra's own, in which a worker that dies costs its own run and not the others'."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor, Future, wait
from contextlib import suppress
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from engine import worker
from engine.contract import Refused, Stopped
from engine.stop import Stop
from hydra_plugins.lora_paper import beside

IDLE = 60  # seconds after which a process without work ends
LOOK = 0.2  # seconds between two looks at whether a signal came
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "BLIS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class OursByName(SearchPathPlugin):
    """Takes the plugins' own settings for these names away: Hydra would merge them with ours of the same name, and warn
    at every sweep that it does."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra when all plugins are known; the search path stays as it is."""
        known = ConfigStore.instance().repo.get("hydra", {}).get("launcher", {})
        for name in ("joblib", "ray"):
            known.pop(f"{name}.yaml", None)


class Joblib(Launcher):
    """Several runs at once on this machine, a process each. The processes are joblib's own (loky), which are kept for
    the next wave; joblib.Parallel would kill them at a Ctrl-C."""

    def __init__(self, n_jobs: int) -> None:
        self.n_jobs = n_jobs
        self.pool: Any = None
        self.size = 0  # of the pool
        self.arguments: tuple[Any, ...] = ()

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Raises Refused where the plugin is missing."""
        try:
            import hydra_plugins.hydra_joblib_launcher.joblib_launcher  # noqa: F401
        except ModuleNotFoundError:
            raise Refused("hydra/launcher=joblib needs joblib: pip install -e '.[launchers]'") from None
        if not isinstance(self.n_jobs, int) or self.n_jobs == 0:
            raise Refused(f"hydra.launcher.n_jobs={self.n_jobs}: a number of processes, or -1: one for each CPU")
        self.arguments = hydra_context, config, task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """What each run gave. Raises Stopped after a signal, when all that had begun has saved and ended, and
        KeyboardInterrupt after a second Ctrl-C. When a process is killed, loky ends all others, and this raises its
        BrokenExecutor."""
        from hydra_plugins.hydra_joblib_launcher._core import execute_job

        setup_globals()
        named = beside.names(job_overrides, initial_job_idx)
        with Stop() as stop:
            try:
                self._prepare(len(job_overrides))
                with worker.held():
                    futures = [
                        self.pool.submit(beside.run, name, os.getpid(), list(words), execute_job, number, list(words),
                                         *self.arguments, Singleton.get_state())
                        for number, (words, name) in enumerate(zip(job_overrides, named, strict=True), initial_job_idx)]
                _wait(futures, stop)
                returns = [_returned(words, one) for words, one in zip(job_overrides, futures, strict=True)]
                if stop.seen:
                    raise beside.summary(returns, stop.seen[0])
            except BaseException as error:
                self._end(kill=not isinstance(error, Stopped))
                if stop.seen and isinstance(error, BrokenExecutor):  # while it was given runs
                    raise beside.summary([beside.ended([], error)], stop.seen[0]) from None
                raise
        for one in returns:
            if isinstance(one._return_value, BrokenExecutor):
                self._end(kill=True)
                raise one._return_value
        return returns

    def _prepare(self, runs: int) -> None:
        """Processes for so many runs at once, at most n_jobs, which share the CPUs: those of the wave before, if they
        are enough."""
        import joblib
        from joblib.externals.loky import ProcessPoolExecutor
        from joblib.externals.loky.backend import resource_tracker

        cpus = joblib.cpu_count()
        most = self.n_jobs if self.n_jobs > 0 else max(1, cpus + 1 + self.n_jobs)
        threads = str(max(1, cpus // most))
        if self.size < min(most, runs):
            self._end(kill=False)
            self.size = min(most, runs)
            self.pool = ProcessPoolExecutor(self.size, timeout=IDLE, initializer=worker.begin,
                                            env={name: os.environ.get(name, threads) for name in THREADS})
            resource_tracker.ensure_running()  # see worker.held

    def _end(self, kill: bool) -> None:
        """The processes, at once or when each has ended its run."""
        pool, self.pool, self.size = self.pool, None, 0
        if pool is not None:
            pool.shutdown(wait=True, kill_workers=kill)


def _wait(futures: Sequence[Future[JobReturn]], stop: Stop) -> None:
    """Until all have ended. Every process is told once of the signal that came to this one (it may not have reached
    it), also one that starts only now."""
    told: set[int] = set()
    while left := wait(futures, timeout=LOOK).not_done:
        if stop.seen:
            for one in left:
                one.cancel()  # those that no process has taken
            for process in multiprocessing.active_children():
                if process.pid is not None and process.pid not in told:
                    told.add(process.pid)
                    with suppress(ProcessLookupError):
                        os.kill(process.pid, stop.seen[0])


def _returned(words: Sequence[str], one: Future[JobReturn]) -> JobReturn:
    if one.cancelled():
        return beside.ended(words, worker.NotBegun())
    error = one.exception()
    return one.result() if error is None else beside.ended(words, error)


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
        os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # else it swallows lines that differ in their numbers alone
        try:
            import hydra_plugins.hydra_ray_launcher.ray_launcher  # noqa: F401
        except ModuleNotFoundError:
            raise Refused("hydra/launcher=ray needs Ray: pip install -c constraints.txt -e '.[ray]'") from None
        self.context, self.function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Waits for all, as the plugin's own does not: a task whose worker died for good is a FAILED return. Raises
        Stopped after a signal, when all that had begun has saved and ended."""
        import ray
        from hydra_plugins.hydra_ray_launcher._launcher_util import _run_job, start_ray

        setup_globals()
        start_ray(self.settings.init)
        options: Any = OmegaConf.to_container(self.settings.remote, resolve=True)
        task = ray.remote(**options)(beside.on_ray)
        named, tasks = beside.names(job_overrides, initial_job_idx), []
        for i, words in enumerate(job_overrides):
            one = self.context.config_loader.load_sweep_config(self.config, list(words))
            with open_dict(one):
                one.hydra.job.id, one.hydra.job.num = f"ray_{initial_job_idx + i}", initial_job_idx + i
            state = Singleton.get_state()
            tasks.append(task.remote(named[i], list(words), _run_job, self.context, one, self.function, state))
        with Stop() as stop:
            left, told = tasks, False
            while left:
                left = ray.wait(left, num_returns=len(left), timeout=LOOK)[1]
                for one in left if stop.seen and not told else ():
                    ray.cancel(one, recursive=False)
                told = bool(stop.seen)
            returns = [_gotten(words, one) for words, one in zip(job_overrides, tasks, strict=True)]
            if stop.seen:
                raise beside.summary(returns, stop.seen[0])
        return returns


def _gotten(words: Sequence[str], task: Any) -> JobReturn:
    import ray

    try:
        return ray.get(task)
    except ray.exceptions.TaskCancelledError:
        return beside.ended(words, worker.NotBegun())
    except Exception as error:  # Ray's own: what the run raised is in its return
        return beside.ended(words, RuntimeError(f"Ray lost this run: {str(error).strip()}"))
