"""Slurm jobs on their way: which wait, run, are done or dead, whatever accounting the cluster has."""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus

# Slurm's words for jobs that may still give a result; all others are ends. PREEMPTED, NODE_FAIL and the like are ends
# unless the job is put back into the queue, and then it is PENDING within seconds.
ALIVE = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING",
         "STAGE_OUT", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
GRACE = 30.0  # seconds for which a job is dead before it is given up: a shared disk may show its result later
OFTEN, SELDOM = 2.0, 15.0  # seconds between two looks, at first and in the long run
NEWS = 60.0  # seconds between two lines about the jobs, at least

State = tuple[str, str]  # Slurm's state and reason
Ask = Callable[[Iterable[str]], Mapping[str, State] | None]
Say = Callable[[str], None]


class Lost(RuntimeError):
    """A job that ended without a result: cancelled, killed, out of time or of memory, or with its node."""


def states(ids: Iterable[str]) -> dict[str, State] | None:
    """What Slurm says of these jobs (17_3, or 17): those that it knows no longer are left out; None: no answer.

    squeue, and not sacct: it is there without accounting, and knows a job for some minutes after its end (MinJobAge).
    """
    found: dict[str, State] = {}
    for array in sorted({one.partition("_")[0] for one in ids}):
        command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%r", f"--jobs={array}"]
        try:
            asked = subprocess.run(command, capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            return None
        if asked.returncode and "Invalid job id" not in asked.stderr:
            return None  # the controller is away: that says nothing of the jobs
        for line in asked.stdout.splitlines():
            name, state, reason = line.strip().split("|", 2)
            found[name] = state, reason
    return found


def gather(jobs: Sequence[Any], overrides: Sequence[Sequence[str]], say: Say, ask: Ask = states) -> list[JobReturn]:
    """Waits for all of submitit's jobs and gives what each returned, in their order. One that ended without a result
    is a FAILED return whose exception is Lost, with Slurm's state, the job's number and its log. Says now and then how
    many wait, run and are done."""
    returns: dict[int, JobReturn] = {}
    dead: dict[int, float] = {}  # since when
    began, told, last = time.monotonic(), -NEWS, ""
    while True:
        found = ask([jobs[i].job_id for i in range(len(jobs)) if i not in returns])
        for i, job in enumerate(jobs):
            if i in returns:
                continue
            state = None if found is None else found.get(job.job_id, ("", ""))
            if _has_result(job):
                returns[i] = _collected(job, overrides[i])
            elif state is None or state[0] in ALIVE:
                dead.pop(i, None)
            elif time.monotonic() - dead.setdefault(i, time.monotonic()) >= GRACE:
                returns[i] = _failed(overrides[i], Lost(_obituary(job, *state)))
        now = time.monotonic()
        news = _news(jobs, returns, found)
        if news != last and (now - told >= NEWS or len(returns) == len(jobs)):
            say(news)
            told, last = now, news
        if len(returns) == len(jobs):
            return [returns[i] for i in range(len(jobs))]
        time.sleep(min(SELDOM, max(OFTEN, (now - began) / 20)))


def _has_result(job: Any) -> bool:
    """Whether every task of the job left its result. Listing the folder makes a network disk look again."""
    paths = [job.task(k).paths.result_pickle for k in range(job.num_tasks)]
    try:
        return {path.name for path in paths} <= set(os.listdir(paths[0].parent))
    except FileNotFoundError:
        return False


def _collected(job: Any, words: Sequence[str]) -> JobReturn:
    """The return of the first task, or of the first that failed."""
    made: list[JobReturn] = []
    for k in range(job.num_tasks):
        try:
            made.append(job.task(k).result())
        except Exception as error:  # raised around our run, or a result that cannot be read here
            made.append(_failed(words, Lost(f"job {job.job_id}: {str(error).strip()}")))
    return next((one for one in made if one.status != JobStatus.COMPLETED), made[0])


def _failed(words: Sequence[str], error: Exception) -> JobReturn:
    return JobReturn(overrides=list(words), status=JobStatus.FAILED, _return_value=error)


def _obituary(job: Any, state: str, reason: str) -> str:
    """How a job ended, in a line: Slurm's word, its log and the last thing it wrote there."""
    word = f"ended as {state}" if state else "is known to Slurm no longer, and left no result"
    why = f" ({reason})" if reason not in ("", "None") else ""
    log: Path = job.task(0).paths.stderr
    return f"Slurm job {job.job_id} {word}{why}; its log: {log}{_last_line(log)}"


def _last_line(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 2000))
            lines = file.read().decode(errors="replace").replace("\r", "\n").split("\n")
    except OSError:
        return " (it wrote none)"
    said = [line.strip() for line in lines if line.strip() and "Force Terminated" not in line]  # srun's last, always
    return f" (last line: {said[-1][:200]})" if said else ""


def _news(jobs: Sequence[Any], returns: Mapping[int, JobReturn], found: Mapping[str, State] | None) -> str:
    """How many wait (and for what), run, are done and failed."""
    arrays = ", ".join(dict.fromkeys(job.job_id.partition("_")[0] for job in jobs))
    failed = sum(one.status != JobStatus.COMPLETED for one in returns.values())
    parts = [f"{len(returns) - failed} done"] + ([f"{failed} failed"] if failed else [])
    if found is None:
        return f"Slurm job {arrays}: {', '.join(parts)}; Slurm does not answer, the others may be running"
    left = [found[job.job_id] for i, job in enumerate(jobs) if i not in returns and job.job_id in found]
    waiting = Counter(reason for state, reason in left if state in WAITING)
    running = sum(state in ALIVE - WAITING for state, _ in left)
    if waiting:
        reasons = ", ".join(sorted(reason for reason in waiting if reason != "None"))
        parts.insert(0, f"{waiting.total()} queued{f' ({reasons})' if reasons else ''}")
    return f"Slurm job {arrays}: {', '.join([f'{running} running', *parts])}"
