"""A cell's work folder, OUT/work/<scale>/<task>/<stem>: what there is of it while it is unfinished.

Who runs it (`claim-<n>`: engine/claim.py says what that is worth on which file system), how far it is
(`progress.json`), its checkpoints (engine/checkpoint.py), why it failed last (`failed.json`). The folder goes when the
record is there: the record comes first, and whoever claims a cell looks for its record then, so none is run twice.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import claim, holder
from engine.claim import Claim
from engine.contract import Elsewhere, Stopped
from engine.files import whole_text
from engine.holder import Holder

EVERY = 5.0  # seconds between two writings of progress.json
POINT = re.compile(r"step-(\d+)\.json", re.ASCII)


def folder_of(out: Path, record: Path) -> Path:
    """OUT/runs/<scale>/<task>/<stem>.json, or the same relative to OUT -> OUT/work/<scale>/<task>/<stem>"""
    below = record.relative_to(out) if record.is_relative_to(out) else record
    return out.joinpath("work", *below.parts[1:-1], below.name.removesuffix(".json"))


class Work:
    """A cell that this process has claimed."""

    def __init__(self, folder: Path, held: Claim) -> None:
        self.folder = folder
        self._claim, self._written = held, -EVERY

    @property
    def lost(self) -> str | None:
        """Why another process has the cell by now, in words: this one must stop and write nothing. Null: it has not.
        Cheap enough for every step."""
        return self._claim.lost

    def progress(self, numbers: Mapping[str, Any]) -> None:
        """Says how far the run is: epoch, epochs, step, steps, seconds. Cheap enough for every step: written at most
        every 5 s. A disk that does not take it stops nothing."""
        clock = time.monotonic()
        if clock - self._written >= EVERY and self.lost is None:
            self._written = clock
            with suppress(OSError):
                whole_text(self.folder / "progress.json", json.dumps(dict(numbers)) + "\n")


@contextmanager
def claimed(folder: Path, wait: float = 0.0, say: Callable[[str], object] = print) -> Iterator[Work]:
    """Holds the cell with this work folder for the block. Its record is to be looked for inside.

    Raises Elsewhere when a live process has it (still, after `wait` seconds). At the end the folder is removed. An
    exception leaves it, released, and unless it is Stopped, Elsewhere or KeyboardInterrupt, says why in failed.json.
    """
    held = claim.take(folder, wait, say)
    work = Work(folder, held)
    try:
        (folder / "failed.json").unlink(missing_ok=True)
        yield work
    except BaseException as error:
        if isinstance(error, Exception) and not isinstance(error, (Stopped, Elsewhere)) and held.lost is None:
            with suppress(OSError):
                fail(folder, said(error), "".join(traceback.format_exception(error)))
        held.release()
        raise
    _remove(held)


def _remove(held: Claim) -> None:
    """Moves the folder aside in one step, so that nobody finds half of it, and deletes it: it and what others left."""
    held.stop()
    if held.lost is not None:
        return
    folder = held.folder
    try:
        folder.rename(folder.with_name(f".gone-{held.mine.token}"))
    except OSError:
        return held.release()
    for gone in folder.parent.glob(".gone-*"):
        shutil.rmtree(gone, ignore_errors=True)


def said(error: BaseException) -> str:
    """An error in a line."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def fail(folder: Path, error: str, text: str) -> None:
    """Writes failed.json (the error in a line, its traceback), also for a run that died without. Raises OSError."""
    mine = holder.here(0)
    content = {"error": error, "traceback": text, "when": holder.now(), "host": mine.host, "job": mine.job}
    whole_text(folder / "failed.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")


@dataclass(frozen=True)
class State:
    """What a work folder says. Unknown is null."""

    kind: str  # running · silent (held; no sign of life) · failed · died · interrupted (a checkpoint) · free
    holder: Holder | None  # who runs it, or did when it died
    quiet: float | None  # seconds since the holder's last sign of life
    failed: Mapping[str, Any] | None  # failed.json
    progress: Mapping[str, Any] | None  # progress.json
    point: Mapping[str, Any] | None  # the newest checkpoint's JSON: it goes on there
    broken: tuple[str, ...]  # files that cannot be read, and why


def state(folder: Path) -> State:
    """How a cell without a record stands. Only reads; a folder that is half gone is free."""
    broken: list[str] = []
    try:
        names, seen = os.listdir(folder), claim.top(folder)
    except FileNotFoundError:
        names, seen = [], None
    except OSError as error:
        names, seen = [], None
        broken.append(f"{folder}: {error.strerror}")
    failed, progress = (_json(folder / name, broken) if name in names else None
                        for name in ("failed.json", "progress.json"))
    steps = [int(found[1]) for found in map(POINT.fullmatch, names) if found and f"step-{found[1]}.pt" in names]
    points = (_json(folder / f"step-{step}.json", broken) for step in sorted(steps, reverse=True))
    point = next(filter(None, points), None)
    over = seen is None or seen.holder.gone()
    if seen is not None and not over and seen.quiet <= seen.lease:
        kind = "running"
    elif failed is not None:
        kind = "failed"
    elif seen is not None and not over:
        kind = "silent"
    elif seen is not None and not seen.holder.released:
        kind = "died"
    else:
        kind = "interrupted" if point else "free"
    return State(kind, None if seen is None or seen.holder.released else seen.holder,
                 None if seen is None or over else seen.quiet, failed, progress, point, tuple(broken))


def _json(path: Path, broken: list[str]) -> Mapping[str, Any] | None:
    """An object from a file that may vanish at any time."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("not an object")
        return content
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        broken.append(f"{path}: {error}")
        return None
