"""Who holds a claim (engine/claim.py): a process, said so that people and processes can tell whether it still lives."""

from __future__ import annotations

import json
import os
import secrets
import socket
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Holder:
    """Who made a claim. Unknown is null; all of it is unknown of a claim that cannot be read."""

    host: str | None = None
    pid: int | None = None
    job: str | None = None  # Slurm's, 17 or 17_3
    restart: int = 0  # how often Slurm has started that job again
    since: str | None = None  # ISO, UTC
    place: str | None = None  # where its process id means something
    born: int | None = None  # when its process started, in the kernel's ticks
    token: str | None = None  # of this claim alone
    lease: float = 0.0  # seconds without a sign of life after which it may be taken over
    released: str | None = None  # ISO, UTC: it is over

    def __str__(self) -> str:
        since = f"since {self.since[:16].replace('T', ' ')} UTC" if self.since else ""
        return ", ".join(filter(None, [self.host or "an unknown process", f"pid {self.pid}" if self.pid else "",
                                       f"Slurm job {self.job}" if self.job else "", since]))

    def gone(self) -> bool:
        """Whether it is certain that it holds nothing any more; where nothing is known, it is not."""
        if self.released:
            return True
        if self.job is not None and self.job == _job() and self.restart < _restart():
            return True
        return self.place is not None and self.place == place() and not alive(self.pid, self.born)


def here(lease: float) -> Holder:
    """This process, from now on."""
    return Holder(socket.gethostname(), os.getpid(), _job(), _restart(), now(), place(), _born(os.getpid()),
                  secrets.token_hex(8), lease)


def read(text: bytes) -> Holder:
    """What a claim says. One that is cut off (its maker was killed while writing it) has an unknown holder."""
    try:
        said = json.loads(text)
        made = Holder(**{field.name: said[field.name] for field in fields(Holder)})
    except (ValueError, KeyError, TypeError, RecursionError):
        return Holder()
    words = (made.host, made.job, made.since, made.place, made.token, made.released)
    numbers = (made.pid, made.born)
    whole = (all(isinstance(each, (str, type(None))) for each in words)
             and all(isinstance(each, (int, type(None))) for each in numbers)
             and isinstance(made.restart, int) and isinstance(made.lease, (int, float)))
    return made if whole else Holder()


def now() -> str:
    """ISO, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _job() -> str | None:
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID") or None


def _restart() -> int:
    count = os.environ.get("SLURM_RESTART_COUNT", "0")
    return int(count) if count.isdecimal() else 0


@cache
def place() -> str | None:
    """Host, its boot, its namespaces of process ids and of time: containers often share a host's name, never all four.
    Null where the kernel does not say (not Linux): nobody is known to be gone there."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        spaces = [os.readlink("/proc/self/ns/pid")]
    except OSError:
        return None
    if os.path.lexists("/proc/self/ns/time"):
        spaces.append(os.readlink("/proc/self/ns/time"))
    return " ".join([socket.gethostname(), boot, *spaces])


def alive(pid: int | None, born: int | None) -> bool:
    """Whether the process of this place that had this id, and started then, may still run. A zombie does not."""
    if pid is None or pid < 1:
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # another user's; whose start may be hidden too
    started = _born(pid)
    return started is None or born is None or started == born


def _born(pid: int) -> int | None:
    """When a process started (ticks since boot), -1 for a zombie, null where that is hidden."""
    try:
        words = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return -1 if words[0] in (b"Z", b"X") else int(words[19])
    except (OSError, ValueError, IndexError):
        return None
