"""Where a sweep's runs are launched: Slurm's jobs in every state, a run of several tasks, each launcher's settings."""

from __future__ import annotations

import importlib.util
import io
import itertools
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from engine import ranks, worker
from engine.contract import Refused
from engine.stop import Stop
from hydra_plugins.lora_paper import beside, local, slurm, watch

needs_submitit = pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="needs the extra [launchers]")
State = tuple[str, str]


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time that passes only by sleeping."""
    now = [0.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(watch.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def job(folder: Path, number: str, tasks: int = 1) -> Any:
    """A job of submitit's, made as submitit makes it."""
    from submitit.slurm.slurm import SlurmJob

    return SlurmJob(folder=folder, job_id=number, tasks=list(range(tasks)))


def leaves(one: Any, result: Any, outcome: str = "success", task: int = 0) -> None:
    """The result file that submitit writes at the end of a task."""
    path = one.task(task).paths.result_pickle
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps((outcome, result)))


def returned(value: Any) -> JobReturn:
    failed = isinstance(value, Exception)
    return JobReturn(status=JobStatus.FAILED if failed else JobStatus.COMPLETED, _return_value=value)


def says(*looks: Mapping[str, State] | None) -> Callable[..., Mapping[str, State] | None]:
    """Slurm's answers, one after the other, the last for ever."""
    answers = itertools.chain(looks, itertools.repeat(looks[-1]))
    return lambda ids: next(answers)


def gathered(jobs: Sequence[Any], *looks: Mapping[str, State] | None) -> tuple[list[JobReturn], list[str]]:
    news: list[str] = []
    return watch.gather(jobs, [[f"seed={i}"] for i in range(len(jobs))], news.append, says(*looks)), news


@needs_submitit
@pytest.mark.parametrize("state, reason", [
    ("CANCELLED", "None"), ("TIMEOUT", "TimeLimit"), ("NODE_FAIL", "NodeDown"), ("FAILED", "NonZeroExitCode"),
    ("OUT_OF_MEMORY", "OutOfMemory"), ("COMPLETED", "None"), ("BOOT_FAIL", "None"), ("DEADLINE", "DeadLine")])
def test_a_dead_job_is_told_and_the_others_kept(tmp_path: Path, clock: list[float], state: str, reason: str) -> None:
    jobs = [job(tmp_path, f"17_{i}") for i in range(3)]
    leaves(jobs[0], returned("first"))
    leaves(jobs[2], returned("third"))
    jobs[1].paths.stderr.write_text("training\nslurmstepd: error: oom-kill\nsrun: Force Terminated StepId=2.0\n\n")
    found, _ = gathered(jobs, {"17_1": (state, reason)})
    assert [one.status for one in found] == [JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.COMPLETED]
    assert found[2].return_value == "third" and found[1].overrides == ["seed=1"]
    said = str(found[1]._return_value)
    assert f"job 17_1 ended as {state}" in said and str(jobs[1].paths.stderr) in said and "oom-kill" in said
    assert ("(None)" not in said) and (reason == "None" or reason in said)
    assert watch.GRACE <= clock[0] < 2 * watch.GRACE  # a result may come late, but is not waited for for ever


@needs_submitit
def test_what_the_run_raised_is_its_return(tmp_path: Path) -> None:
    jobs = [job(tmp_path, "17_0"), job(tmp_path, "17_1")]
    leaves(jobs[0], returned(ValueError("the loss is nan")))
    leaves(jobs[1], "Traceback …\nImportError: no torch", outcome="error")
    found, _ = gathered(jobs, {})
    assert isinstance(found[0]._return_value, ValueError) and found[0].status == JobStatus.FAILED
    assert isinstance(found[1]._return_value, watch.Lost) and "no torch" in str(found[1]._return_value)


@needs_submitit
def test_a_result_that_comes_late_counts(tmp_path: Path) -> None:
    one = job(tmp_path, "17")
    asks = 0

    def ask(ids: Any) -> Mapping[str, State]:
        nonlocal asks
        asks += 1
        if asks == 4:
            leaves(one, returned("late"))
        return {"17": ("COMPLETED", "None")}

    [found] = watch.gather([one], [[]], lambda news: None, ask)
    assert found.return_value == "late"


@needs_submitit
def test_a_job_put_back_into_the_queue_is_not_dead(tmp_path: Path, clock: list[float]) -> None:
    """Dead for a moment again and again, for longer than the grace in all."""
    one = job(tmp_path, "17")
    looks: list[Mapping[str, State] | None] = []
    for _ in range(30):
        looks += [{"17": ("PREEMPTED", "None")}, {"17": ("PENDING", "BeginTime")}, {"17": ("RUNNING", "None")}]
    [found], _ = gathered([one], *looks, {})
    assert "knows no longer" in str(found._return_value).replace("known to Slurm no longer", "knows no longer")
    assert clock[0] > 90 * watch.OFTEN + watch.GRACE


@needs_submitit
def test_no_answer_from_slurm_is_no_death(tmp_path: Path, clock: list[float]) -> None:
    one = job(tmp_path, "17")
    [found], news = gathered([one], *[None] * 100, {"17": ("CANCELLED", "None")})
    assert clock[0] > 100 * watch.OFTEN + watch.GRACE and "CANCELLED" in str(found._return_value)
    assert "does not answer" in news[0]


@needs_submitit
def test_every_task_of_a_run_must_be_done(tmp_path: Path) -> None:
    good, half, broken = (job(tmp_path, f"17_{i}", tasks=2) for i in range(3))
    for task in range(2):
        leaves(good, returned(f"of {task}"), task=task)
        leaves(broken, returned("fine" if task == 0 else RuntimeError("gloo")), task=task)
    leaves(half, returned("alone"))
    found, _ = gathered([good, half, broken], {"17_1": ("FAILED", "NonZeroExitCode")})
    assert found[0].return_value == "of 0"
    assert isinstance(found[1]._return_value, watch.Lost) and "ended as FAILED" in str(found[1]._return_value)
    assert isinstance(found[2]._return_value, RuntimeError)


@needs_submitit
def test_the_news(tmp_path: Path) -> None:
    jobs = [job(tmp_path, f"17_{i}") for i in range(5)]
    leaves(jobs[3], returned("x"))
    leaves(jobs[4], returned(KeyError("x")))
    first = {"17_0": ("RUNNING", "None"), "17_1": ("PENDING", "Resources"), "17_2": ("PENDING", "JobArrayTaskLimit")}
    _, news = gathered(jobs, first, {})
    assert news == ["Slurm job 17: 1 running, 2 queued (JobArrayTaskLimit, Resources), 1 done, 1 failed",
                    "Slurm job 17: 0 running, 1 done, 4 failed"]


def squeue(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "squeue").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_what_squeue_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squeue(tmp_path, f'echo "$*" >> {tmp_path}/asked; echo "17_0|RUNNING|None"; echo "17_1|NODE_FAIL|a|b"', monkeypatch)
    assert watch.states(["17_0", "17_1"]) == {"17_0": ("RUNNING", "None"), "17_1": ("NODE_FAIL", "a|b")}
    [asked] = (tmp_path / "asked").read_text().splitlines()  # once for the whole array
    assert "--jobs=17" in asked and "--states=all" in asked
    squeue(tmp_path, "echo slurm_load_jobs error: Invalid job id specified >&2; exit 1", monkeypatch)
    assert watch.states(["17_0"]) == {}
    squeue(tmp_path, "echo slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1", monkeypatch)
    assert watch.states(["17_0"]) is None
    monkeypatch.setenv("PATH", "")
    assert watch.states(["17_0"]) is None


def launcher(name: str, *words: str) -> Any:
    """hydra.launcher as a sweep gets it."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", [f"hydra/launcher={name}", "scale=demo", *words], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    return config.hydra.launcher


@pytest.mark.filterwarnings("error")  # that a plugin has settings of the same name
@pytest.mark.parametrize("name, ours", [("slurm", slurm.Slurm), ("joblib", local.Joblib), ("ray", local.Ray)])
def test_each_launcher_is_ours_by_its_name(name: str, ours: type) -> None:
    chosen = launcher(name)
    assert chosen._target_ == f"{ours.__module__}.{ours.__name__}"


@needs_submitit
def test_slurm_has_every_setting_of_the_plugin() -> None:
    from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf

    theirs = OmegaConf.structured(SlurmQueueConf)
    assert set(launcher("slurm")) == {*theirs, "requeue"}


def script(settings: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, list[list[str]]]:
    """What sbatch gets for two runs, and the words that are pickled for each."""
    from submitit.core import utils

    (folder / "bin").mkdir()
    for name, does in {"srun": "", "sbatch": f'cp "$1" {folder}/script; env > {folder}/env; echo job 17'}.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{does}\n")
        (folder / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}/bin:{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "gather", lambda jobs, overrides, say: jobs)
    monkeypatch.chdir(folder)
    made = slurm.Slurm(**OmegaConf.to_container(settings))  # type: ignore[arg-type]
    made.setup(hydra_context=None, task_function=print, config=OmegaConf.create())  # type: ignore[arg-type]
    jobs = made.launch([["seed=0"], ["seed=1"]], 5)
    words = [list(utils.DelayedSubmission.load(one.paths.submitted_pickle).args[0]) for one in jobs]  # type: ignore
    return (folder / "script").read_text(), words


@needs_submitit
def test_what_sbatch_is_told(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Every setting gets there, and nothing of an allocation that we sit in."""
    monkeypatch.setenv("SLURM_JOB_ID", "3")
    monkeypatch.setenv("SLURM_NTASKS", "8")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm/other.conf")
    text, words = script(launcher(
        "slurm", "hydra.launcher.partition=gpu", "hydra.launcher.tasks_per_node=2", "hydra.launcher.gpus_per_node=2",
        "hydra.launcher.cpus_per_task=3", "hydra.launcher.mem_gb=5", "hydra.launcher.timeout_min=7",
        "hydra.launcher.account=lab", "hydra.launcher.constraint='a|b'", "hydra.launcher.signal_delay_s=9",
        "hydra.launcher.array_parallelism=1", "hydra.launcher.setup=['module load cuda']",
        "hydra.launcher.additional_parameters={mail-type: FAIL}"), tmp_path, monkeypatch)
    flags = {line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")}
    assert flags >= {"partition=gpu", "ntasks-per-node=2", "gpus-per-node=2", "cpus-per-task=3", "mem=5GB", "time=7",
                     "account=lab", "constraint='a|b'", "signal=USR2@9", "array=0-1%1", "requeue", "mail-type=FAIL",
                     "open-mode=append"}
    lines = text.splitlines()
    assert lines.index("export OMP_NUM_THREADS=3 SRUN_CPUS_PER_TASK=3") < lines.index("module load cuda")
    assert any(line.startswith(f"export PYTHONPATH={ROOT}") for line in lines)
    assert words == [["seed=0"], ["seed=1"]]
    told = (tmp_path / "env").read_text().splitlines()
    assert "SLURM_CONF=/etc/slurm/other.conf" in told and not [one for one in told if one.startswith("SLURM_NTASKS")]
    assert os.environ["SLURM_NTASKS"] == "8"
    assert "scancel 17" in capsys.readouterr().out


@needs_submitit
def test_no_requeue_when_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, _ = script(launcher("slurm", "hydra.launcher.requeue=false"), tmp_path, monkeypatch)
    assert "#SBATCH --no-requeue" in text and "--requeue" not in text


@needs_submitit
@pytest.mark.parametrize("sbatch", [
    None, "echo sbatch: error: invalid partition specified: gpx >&2; exit 1",
    "printf 'sbatch: error: a try\\nsbatch: error: another\\nsbatch: fatal: no gpx\\n' >&2; exit 1"])
def test_without_slurm_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sbatch: str | None,
                                     capfd: pytest.CaptureFixture[str]) -> None:
    for name, does in {"srun": "", "sbatch": sbatch}.items() if sbatch else ():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin" if sbatch else str(tmp_path))
    monkeypatch.chdir(tmp_path)
    made = slurm.Slurm(**OmegaConf.to_container(launcher("slurm")))  # type: ignore[arg-type]
    made.setup(hydra_context=None, task_function=print, config=OmegaConf.create())  # type: ignore[arg-type]
    with pytest.raises(Refused, match="gpx" if sbatch else "srun") as refused:
        made.launch([["seed=0"], ["seed=1"]], 0)
    assert str(refused.value).count("\n") == 1
    assert capfd.readouterr().err == ""  # submitit prints what it raises


@needs_submitit
def test_ctrl_c_leaves_the_jobs_and_says_how_to_end_them(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(slurm, "gather", interrupted)
    monkeypatch.setattr(slurm.Slurm, "_submit", lambda *_: [job(tmp_path, "17_0"), job(tmp_path, "17_1")])
    with pytest.raises(KeyboardInterrupt):
        slurm.Slurm(array_parallelism=4).launch([[], []], 0)
    said = capsys.readouterr().out
    assert "go on" in said and "scancel 17\n" in said and "analysis status" in said


@pytest.mark.parametrize("ours, plugin, extra", [
    (slurm.Slurm(), "hydra_submitit_launcher", "launchers"), (local.Joblib(1), "hydra_joblib_launcher", "launchers"),
    (local.Ray(ray=None), "hydra_ray_launcher", "ray")])  # type: ignore[arg-type]
def test_a_missing_plugin_is_named(ours: Any, plugin: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [one for one in sys.modules if one.startswith(f"hydra_plugins.{plugin}")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, f"hydra_plugins.{plugin}", None)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(Refused, match=rf"pip install .*\[{extra}\]"):
        ours.setup(hydra_context=None, task_function=print, config=OmegaConf.create())


def test_every_line_says_whose_it_is() -> None:
    """Also what tqdm draws and writes itself, and a line that is printed in pieces."""
    from tqdm.auto import tqdm

    screen = io.StringIO()
    lines = worker.Lines(screen)
    lines.label, lines.drop = "[3/7 rte lora s0] ", "[3/7] "
    print("[3/7] rte · tiny\n\ntwo ", end="", file=lines)
    print("words", file=lines)
    with tqdm(total=3, file=lines, mininterval=0) as bar:
        bar.update()
        bar.write("epoch 1/2", file=lines)
        bar.update()
        list(tqdm(range(3), file=lines, mininterval=0, disable=None))
    print("end", file=lines)
    assert screen.getvalue() == "".join(
        f"[3/7 rte lora s0] {line}\n" for line in ("rte · tiny", "two words", "epoch 1/2", "end"))


def test_what_runs_are_called() -> None:
    shared = ["task=rte", "method=lora", "scale=demo"]
    placed = [[*shared, "seed=0", "runtime.place='3/7'"], [*shared, "seed=1", "runtime.place='4/7'"]]
    assert beside.names(placed, 2) == [
        ("3/7", "rte lora s0"), ("4/7", "rte lora s1")]
    assert beside.names([[*shared, "lr=0.002415259568860878", "batch=8"], [*shared, "lr=0.001", "batch=8"]], 5) == [
        ("5", "rte lora lr=0.00242"), ("6", "rte lora lr=0.001")]
    assert beside.names([], 0) == []
    assert max(len(name) for _, name in beside.names([["a=" + "b" * 99], ["a=c"]], 0)) == beside.LONGEST


def test_a_worker_remembers_a_signal_for_every_run() -> None:
    """What came before a run, and twice, stops it as it stops the one that is under way; nothing is said or raised."""
    with Stop(follows=True) as first:
        signal.raise_signal(signal.SIGINT)
        with Stop() as run:
            assert run.asked == "SIGINT"
            first._when -= 10
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert first.seen == [signal.SIGINT, signal.SIGTERM]
    error = first.stopped("there")
    assert str(error) == "SIGINT: there" and getattr(pickle.loads(pickle.dumps(error)), "number", 15) == 2


def test_a_worker_that_is_told_to_stop_begins_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def begun() -> JobReturn:
        raise AssertionError

    signals = Stop()
    monkeypatch.setattr(worker, "SIGNALS", signals)
    orphan = beside.run(("0", "rte"), -1, ["task=rte"], begun)
    signals.seen.append(signal.SIGTERM)
    idle = beside.run(("0", "rte"), os.getppid(), ["task=rte"], begun)
    halted = beside.ended([], signals.stopped("at step 3"))
    assert idle.status == orphan.status == JobStatus.FAILED
    said = beside.summary([halted, idle, orphan, returned(1)], signal.SIGTERM)
    assert str(said) == "SIGTERM: 1 run stopped, 2 not begun" and vars(said)["number"] == 15


def test_joblib_is_refused_without_processes() -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    with pytest.raises(Refused, match="n_jobs=0"):
        local.Joblib(n_jobs=0).setup(hydra_context=None, task_function=print,  # type: ignore[arg-type]
                                     config=OmegaConf.create())


TASK = {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "30017", "SLURM_NTASKS": "4", "SLURM_PROCID": "3",
        "SLURM_LOCALID": "1", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "gpu[07-08]", "SLURM_NODEID": "1"}
NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def joined(monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> dict[str, str]:
    plain = {k: v for k, v in os.environ.items() if not k.startswith("SLURM") and k not in NUMBERS}
    environment = plain | dict(variables)
    monkeypatch.setattr(ranks, "os", SimpleNamespace(environ=environment))
    for key, text in environment.items():
        monkeypatch.setenv(key, text)  # submitit reads the real one
    ranks.join()
    return {key: environment[key] for key in NUMBERS if key in environment}


@needs_submitit
def test_the_tasks_of_a_job_are_numbered_as_torch_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = joined(monkeypatch, TASK)
    assert found.pop("MASTER_PORT").isdigit()
    assert found == {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "gpu07"}
    assert joined(monkeypatch, TASK | {"SLURM_JOB_NUM_NODES": "1"})["MASTER_ADDR"] == "127.0.0.1"
    port, after = (joined(monkeypatch, TASK | {"SLURM_JOB_ID": one})["MASTER_PORT"] for one in ("30017", "30018"))
    assert port != after and 1024 < int(port) < 32768


@pytest.mark.parametrize("change", [{"SLURM_NTASKS": "1"}, {"SUBMITIT_EXECUTOR": ""}, {"RANK": "0", "WORLD_SIZE": "2"}])
def test_nothing_is_numbered_elsewhere(monkeypatch: pytest.MonkeyPatch, change: dict[str, str]) -> None:
    assert joined(monkeypatch, TASK | change) == {k: v for k, v in change.items() if k in NUMBERS}


@pytest.mark.slow
@needs_submitit
@pytest.mark.skipif(not (shutil.which("slurmctld") and shutil.which("munged")) or os.geteuid() != 0,
                    reason="needs slurm-wlm and munge, and root")
def test_a_disturbed_sweep_on_slurm(tmp_path: Path) -> None:
    with socket.socket() as port:
        if port.connect_ex(("127.0.0.1", 16817)) == 0:
            pytest.skip("another scratch Slurm is up")
    subprocess.run([sys.executable, str(ROOT / "tests" / "slurm.py"), str(tmp_path)], check=True, timeout=3000)
