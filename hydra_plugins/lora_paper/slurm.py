"""hydra/launcher=slurm: every run of a sweep is a job of an array, by submitit; dead ones are told, none is lost."""

from __future__ import annotations

import io
import logging
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from engine.contract import Refused
from hydra_plugins.lora_paper.watch import gather

ROOT = Path(__file__).resolve().parents[2]
ARRAY = 1000  # jobs of an array: Slurm's own limit (MaxArraySize) is 1001 unless a cluster says otherwise


class Slurm(Launcher):
    """Submits as submitit's own plugin does, and waits otherwise: that one raises at the first job that was cancelled
    or killed, and without accounting waits for it for ever. The settings are explained in conf/hydra/launcher."""

    def __init__(self, **settings: Any) -> None:
        self.settings: dict[str, Any] = {
            key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for key, value in settings.items()}
        self.task: Any = None
        self.config: Any = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Raises Refused where submitit or Slurm is missing."""
        try:
            from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher
        except ModuleNotFoundError:
            raise Refused("hydra/launcher=slurm needs submitit: pip install -e '.[launchers]'") from None
        self.config = config
        # What is pickled and called in each job: the plugin's own, whose checkpoint() puts a job back into the queue
        self.task = SlurmLauncher(**self.settings)
        self.task.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submits a run each and waits for all. A job without a result gives a FAILED return. Raises Refused when
        Slurm takes none."""
        jobs = self._submit(job_overrides, initial_job_idx)
        arrays = " ".join(dict.fromkeys(job.job_id.partition("_")[0] for job in jobs))
        hint = f"watch them: python -m analysis status, squeue; end them: scancel {arrays}"
        most = self.settings["array_parallelism"]
        print(f"submitted {len(jobs)} runs as Slurm job {arrays}, at most {most} at once; "
              f"logs: {jobs[0].paths.folder}/{arrays}_*_log.err\n{hint}", flush=True)
        logging.getLogger("submitit").setLevel(logging.ERROR)  # its words about missing accounting
        try:
            return gather(jobs, job_overrides, lambda news: print(news, flush=True))
        except KeyboardInterrupt:
            print(f"\nno longer waiting; the jobs go on without this process. {hint}", flush=True)
            raise

    def _submit(self, job_overrides: Sequence[Sequence[str]], first: int) -> list[Any]:
        import submitit

        settings = dict(self.settings)
        requeue = settings.pop("requeue")
        settings["additional_parameters"] = {"requeue" if requeue else "no-requeue": True,
                                             **(settings["additional_parameters"] or {})}
        settings["setup"] = [*_environment(settings), *(settings["setup"] or [])]
        folder, timeouts = settings.pop("submitit_folder"), settings.pop("max_num_timeout")
        shared = ("timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name",
                  "stderr_to_stdout")  # submitit names Slurm's own settings slurm_…
        jobs: list[Any] = []
        with _outside(), redirect_stderr(io.StringIO()):  # submitit prints what it raises
            try:
                executor = submitit.AutoExecutor(cluster="slurm", folder=folder, slurm_max_num_timeout=timeouts)
                executor.update_parameters(**{key if key in shared else f"slurm_{key}": value
                                              for key, value in settings.items() if key != "_target_"})
                for begin in range(0, len(job_overrides), ARRAY):
                    jobs += executor.map_array(self.task, *zip(*(
                        (list(words), "hydra.sweep.dir", first + i, f"job_id_for_{first + i}", Singleton.get_state())
                        for i, words in enumerate(job_overrides[begin:begin + ARRAY], begin)), strict=True))
            except (RuntimeError, OSError) as error:  # no srun, or sbatch said no
                if jobs:  # some are on their way
                    raise
                raise Refused(f"hydra/launcher=slurm: {_reason(str(error))}\n"
                              "try `sinfo`; without Slurm: hydra/launcher=joblib, or none") from None
        return jobs


def _reason(said: str) -> str:
    """sbatch's last word, which says it all: the lines before are of what it tried."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    for start in ("sbatch: fatal: ", "sbatch: error: "):
        lines = [line.removeprefix(start) for line in lines]
    return lines[-1][:200] if lines else "sbatch failed without a word"


def _environment(settings: dict[str, Any]) -> list[str]:
    """Lines of the job's script: where this code is, and one thread for each CPU of a task. srun does not take over
    sbatch's --cpus-per-task by itself since Slurm 22.05."""
    code = shlex.quote(str(ROOT))
    lines = [f"export PYTHONPATH={code}${{PYTHONPATH:+:$PYTHONPATH}}", "export OMP_WAIT_POLICY=PASSIVE"]
    if settings["cpus_per_task"]:
        cpus = int(settings["cpus_per_task"])
        lines += [f"export OMP_NUM_THREADS={cpus} SRUN_CPUS_PER_TASK={cpus}"]
    return lines


@contextmanager
def _outside() -> Iterator[None]:
    """Within, no trace of the allocation that we may be in (salloc): a job would take over its sizes."""
    kept = dict(os.environ)
    inside = {} if "SLURM_JOB_ID" not in kept else {
        key: value for key, value in kept.items()
        if key.startswith(("SLURM_", "SLURMD_", "SRUN_")) and key != "SLURM_CONF"}
    for key in inside:
        del os.environ[key]
    try:
        yield
    finally:
        os.environ |= inside
