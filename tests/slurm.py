"""A sweep on a real Slurm, disturbed: jobs cancelled, killed, requeued, out of time. A script, not collected.

    python tests/slurm.py FOLDER [--words "method=lora,ft seed=0 …"] [--launchers slurm,joblib,ray] [--python PYTHON]

It brings up a Slurm of one node (tests/slurm.sh; root), runs the cells one after the other without any launcher, then
through each launcher, with Slurm disturbed and launched again, and compares numbers, curves and the weights' bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CELLS = ("task=sst2 method=lora,bitfit,adapter-h,prelayer seed=0 scale=demo scale.train=2048 scale.validation=64 "
         "epochs=5 length=32")
ONE_CPU = ["hydra.launcher.gpus_per_node=null", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=2"]
LAUNCHERS = {
    "slurm": ["hydra/launcher=slurm", *ONE_CPU, "hydra.launcher.array_parallelism=2", "hydra.launcher.timeout_min=60"],
    "submitit_local": ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=60"],
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "ray": ["hydra/launcher=ray", "hydra.launcher.ray.init.num_cpus=2"],
}


def asked(*command: str) -> str:
    """What a command of Slurm's prints; nothing when it fails."""
    return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout


def process_of(job: str) -> int:
    """The Python process of a Slurm job's task."""
    for line in asked("squeue", "-h", "-r", "-o", "%i %A").splitlines():
        name, raw = line.split()
        for folder in Path("/proc").glob("[0-9]*") if name == job else ():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
                if f"SLURM_JOB_ID={raw}".encode() in (folder / "environ").read_bytes().split(b"\0") \
                        and b"submitit.core._submit" in words and b"python" in words[0] and b"srun" not in words[0]:
                    return int(folder.name)
            except OSError:  # it has just gone
                continue
    raise LookupError(f"job {job} has no Python process here")


def out_of_time(job: str) -> None:
    """A limit of one minute, which Slurm announces before it is reached; lifted when the job is back in the queue."""
    asked("scontrol", "update", f"JobId={job}", "TimeLimit=1")
    for _ in range(120):
        time.sleep(1)
        if f"{job} PENDING" in asked("squeue", "-h", "-r", "-o", "%i %T"):
            asked("scontrol", "update", f"JobId={job}", "TimeLimit=60")
            return
    raise TimeoutError(f"job {job} did not go back into the queue")


DISTURB: dict[str, Callable[[str], object]] = {
    "out of time": out_of_time,                                         # SIGUSR2: saves, queued again by itself
    "cancelled": lambda job: asked("scancel", job),
    "killed": lambda job: os.kill(process_of(job), signal.SIGKILL),     # what the kernel does when memory is short
    "requeued": lambda job: asked("scontrol", "requeue", job),          # as when it is preempted, or a node dies
}


def trained_an_epoch(folder: Path) -> Iterator[str]:
    """The running jobs that have something to lose."""
    for line in asked("squeue", "-h", "-r", "-t", "RUNNING", "-o", "%i").split():
        for log in folder.glob(f"multirun/*/slurm/{line}_0_log.err"):
            if "epoch 1/" in log.read_text(errors="replace"):
                yield line


def disturbed(sweep: subprocess.Popen[bytes], folder: Path) -> list[str]:
    """Does to the sweep's jobs what happens on clusters, each thing once, a job each; says what it did."""
    left, hit = dict(DISTURB), set[str]()
    while sweep.poll() is None and left:
        for job in trained_an_epoch(folder):
            if job not in hit and left:
                what = next(iter(left))
                left.pop(what)(job)
                hit.add(job)
                print(f"  job {job}: {what}", flush=True)
        time.sleep(0.5)
    return [what for what in DISTURB if what not in left]


def run(python: str, words: list[str], folder: Path, launcher: str, disturb: bool = False) -> int:
    """A sweep in a folder of its own, its exit status; what it printed is added to log.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [python, str(ROOT / "run.py"), *words, "runtime.out=out", *LAUNCHERS.get(launcher, [])]
    with (folder / "log.txt").open("ab") as log:
        began = time.monotonic()
        sweep = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        if disturb:
            print(f"  disturbed by: {', '.join(disturbed(sweep, folder))}", flush=True)
        status = sweep.wait()
    print(f"{launcher}: exit status {status} after {time.monotonic() - began:.0f} s", flush=True)
    return status


def results(folder: Path) -> dict[str, Any]:
    """Of each record what must not depend on how it was made: the numbers, the curve, the weights' bytes."""
    found = {}
    for path in sorted(folder.glob("out/runs/*/*/*.json")):
        record = json.loads(path.read_text())
        weights = {file.name: hashlib.sha256(file.read_bytes()).hexdigest()
                   for file in sorted(path.with_suffix("").glob("*.safetensors"))}
        found[path.name] = {"numbers": record["numbers"], "curve": record["outcome"]["curve"], "weights": weights}
    return found


def check(folder: Path, reference: dict[str, Any], name: str) -> None:
    """Raises AssertionError where the sweep's records differ, or a work folder is left."""
    ours = results(folder)
    assert ours.keys() == reference.keys(), f"{name}: {sorted(ours.keys() ^ reference.keys())} are not in both"
    wrong = [f"{stem}: {part}" for stem in ours for part in ours[stem] if ours[stem][part] != reference[stem][part]]
    assert not wrong, f"{name}: these differ: {wrong}"
    assert all(one["weights"] for one in ours.values()), f"{name}: no weights"
    left = [path for path in folder.glob("out/work/*/*/*") if path.is_dir()]
    assert not left, f"{name}: left behind: {left}"
    print(f"{name}: {len(ours)} records, all as without a launcher", flush=True)


def on_slurm(python: str, words: list[str], folder: Path, reference: dict[str, Any]) -> None:
    """The sweep, disturbed, then the same command again."""
    scratch, script = folder.with_name("cluster"), str(ROOT / "tests" / "slurm.sh")
    started = subprocess.run([script, "start", str(scratch)], capture_output=True, text=True, check=True)
    os.environ["SLURM_CONF"] = started.stdout.strip().removeprefix("export SLURM_CONF=")
    try:
        assert run(python, words, folder, "slurm", disturb=True) == 1, "a cancelled run is a failed one"
        assert run(python, words, folder, "slurm") == 0
        check(folder, reference, "slurm")
    finally:
        subprocess.run([script, "stop", str(scratch)], check=False, timeout=60)


def main() -> int:
    """0, or an AssertionError."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=lambda path: Path(path).resolve())
    parser.add_argument("--words", default=CELLS, help="what to run: settings with several values, or table=demo …")
    parser.add_argument("--launchers", default="slurm,joblib")
    parser.add_argument("--python", default=sys.executable, help="with the extra that a launcher needs")
    given = parser.parse_args()
    words = given.words.split()
    words = words if any(word.startswith("table=") for word in words) else ["-m", *words]
    assert run(given.python, words, given.folder / "basic", "basic") == 0
    reference = results(given.folder / "basic")
    for name in given.launchers.split(","):
        if name == "slurm":
            on_slurm(given.python, words, given.folder / name, reference)
        else:
            assert run(given.python, words, given.folder / name, name) == 0
            check(given.folder / name, reference, name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
