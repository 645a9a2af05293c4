"""Runs beside others in worker processes: what they are called, and what they give when they are told to stop."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor
from typing import Any

from hydra.core.utils import JobReturn, JobStatus

from engine import worker  # its state is there: Hydra loads the modules of this folder more than once
from engine.contract import Stopped
from engine.stop import Stop, stopped

LONGEST = 48  # characters of a run's name


def names(runs: Sequence[Sequence[str]], first: int) -> list[tuple[str, str]]:
    """The number and the short name of each of these command lines: task, method, seed and whatever else tells them
    apart. The number is the run's place in its sweep where it says that (3-7/108: those of a bundle), else counted from
    first."""
    said = [dict(word.lstrip("+").partition("=")[::2] for word in words) for words in runs]
    same = {key for key in said[0] if all(one.get(key) == said[0][key] for one in said)} if said else set()
    found = []
    for number, one in enumerate(said, first):
        place = one.pop("runtime.place", "").strip("'") or str(number)
        begin, _, end = place.partition("/")[0].partition("-")  # of a bundle's cells (engine/kin.py)
        known = [one[key] for key in ("task", "method") if key in one]
        known += [f"s{one['seed']}"] if "seed" in one else []
        known += [f"and {int(end) - int(begin)} more"] if end else []
        others = [f"{key}={_short(one[key])}" for key in one
                  if key not in same and key not in ("task", "method", "seed", "runtime.parent", "runtime.beside")]
        name = " ".join([*known, *others])
        found.append((place, name if len(name) <= LONGEST else f"{name[:LONGEST - 1]}…"))
    return found


def _short(value: str) -> str:
    try:
        return value if len(value) < 8 else f"{float(value):.3g}"
    except ValueError:
        return value


def run(named: tuple[str, str], parent: int, words: Sequence[str], call: Callable[..., JobReturn],
        *arguments: Any) -> JobReturn:
    """What call() returns in a worker of joblib's; once the process was asked to stop, or its parent is gone, a FAILED
    return with Stopped."""
    if worker.SIGNALS.seen or os.getppid() != parent:
        return ended(words, worker.NotBegun())
    worker.label(*named)
    try:
        return call(*arguments)
    except (Stopped, KeyboardInterrupt) as error:
        print(error if str(error) else "interrupted", file=sys.stderr)
        return ended(words, error)


def on_ray(named: tuple[str, str], words: Sequence[str], call: Callable[..., JobReturn], *arguments: Any) -> JobReturn:
    """What call() returns in a worker of Ray's, whose cancel() comes as SIGINT; then a FAILED return with Stopped."""
    worker.label(*named)
    try:
        with Stop(follows=True):
            return call(*arguments)
    except (Stopped, KeyboardInterrupt) as error:
        print(error if str(error) else "interrupted", file=sys.stderr)
        return ended(words, error)


def ended(words: Sequence[str], error: BaseException) -> JobReturn:
    """The FAILED return of a run that raised this."""
    return JobReturn(overrides=list(words), status=JobStatus.FAILED, _return_value=error)


def summary(returns: Sequence[JobReturn], number: int) -> Stopped:
    """What a launcher raises after a signal, when all of its runs have ended."""
    errors = [one._return_value for one in returns]
    idle = sum(isinstance(error, worker.NotBegun) for error in errors)
    halted = sum(isinstance(error, (Stopped, KeyboardInterrupt)) for error in errors) - idle
    parts = [f"{halted} run{'s' if halted != 1 else ''} stopped"] if halted else []
    parts += [f"{idle} not begun"] if idle else []
    died = sum(isinstance(error, BrokenExecutor) for error in errors)
    parts += ["a process died; its runs are at their last checkpoints"] if died else []
    return stopped(", ".join(parts) or "nothing was left to stop", number)
