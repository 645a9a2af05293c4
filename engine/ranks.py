"""The tasks of one Slurm job as the processes of one run."""

from __future__ import annotations

import os

PORTS = 20000, 12000  # the first, and how many: below those that Linux gives out by itself


def join() -> None:
    """Numbers this process as torch and accelerate read it (RANK, WORLD_SIZE, …), when submitit started it as one of
    several tasks of a Slurm job; elsewhere, and where a launcher has done so already, it does nothing.

    To be called before anything asks engine.words.main_process. Which GPUs a task sees is left as Slurm set it:
    accelerate takes number LOCAL_RANK of those, modulo how many there are.
    """
    world = int(os.environ.get("SLURM_NTASKS", "1"))
    if world <= 1 or os.environ.get("SUBMITIT_EXECUTOR") != "slurm" or "RANK" in os.environ:
        return
    from submitit import JobEnvironment

    job = JobEnvironment()
    first, number = PORTS
    os.environ |= {
        "RANK": str(job.global_rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(job.local_rank),
        "LOCAL_WORLD_SIZE": str(world // job.num_nodes),
        "MASTER_ADDR": job.hostnames[0] if job.num_nodes > 1 else "127.0.0.1",
        "MASTER_PORT": str(first + int(job.raw_job_id) % number),  # of one node's jobs, each has its own
    }
