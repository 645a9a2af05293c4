"""A cell's files before and after its run: who has it, what an earlier life left, what force puts in its place."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from engine import work
from engine.contract import Elsewhere
from engine.processes import first
from engine.words import main_process

DAY = 86400.0  # seconds after which nobody writes a file any more that has not got its name
FORCED = "forced"  # in a work folder: which record runtime.force=true is to replace, by its sha256
BEFORE = "before.json"  # in a work folder: that record, from when its weights are overwritten until there is a new one


class Held(Protocol):
    """What a run needs of its claim."""

    @property
    def lost(self) -> str | None: ...

    def progress(self, numbers: Mapping[str, Any]) -> None: ...


class Follower:
    """The claim as the other processes of a run have it: the first one looks after it."""

    lost: str | None = None

    def progress(self, numbers: Mapping[str, Any]) -> None:
        """Nothing: the first process tells."""


@contextmanager
def claimed(out: Path, record: Path, device: Any) -> Iterator[Held]:
    """The cell with this record, or the training of that name, is this run's for the block; see work.claimed. Clears
    away what a killed process wrote half. Raises Elsewhere in all of its processes."""
    with ExitStack() as stack:
        taken: list[Held] = []

        def take() -> None:
            folder = work.folder_of(out, record)
            taken.append(stack.enter_context(work.claimed(folder)))
            for place in (folder, record.with_suffix("")):  # nobody else writes there
                _sweep(place, 0.0)
            _sweep(record.parent, DAY)

        first(take, device)
        yield taken[0] if taken else Follower()


def goes_on(out: Path, record: Path) -> bool:
    """Whether a forced run of this cell was interrupted, and is to go on instead of beginning anew: one that is to
    replace the record as it is now, or that has moved it aside."""
    folder = work.folder_of(out, record)
    try:
        said = (folder / FORCED).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    return said == _sha256(record) or replacing(out, record) and said == _sha256(folder / BEFORE)


def replacing(out: Path, record: Path) -> bool:
    """Whether the record was moved aside, so that the weights are those of the run that replaces it."""
    return not record.exists() and (work.folder_of(out, record) / BEFORE).exists()


def force(out: Path, record: Path) -> None:
    """Notes that the run that holds the cell is to replace its record, as it is now."""
    (work.folder_of(out, record) / FORCED).write_text(_sha256(record), encoding="utf-8")


def aside(out: Path, record: Path) -> None:
    """Moves a record into its work folder, just before other weights take the place of those it tells of: a process
    that is killed between the two leaves no record beside wrong weights, and no number is lost."""
    if main_process() and record.exists():
        os.replace(record, work.folder_of(out, record) / BEFORE)


def tidy(out: Path, record: Path) -> None:
    """Removes the work folder of a cell whose record is there: the process was killed between the two. Not that of a
    forced run that was interrupted."""
    folder = work.folder_of(out, record)
    if main_process() and folder.exists() and not goes_on(out, record):
        with suppress(Elsewhere, OSError), work.claimed(folder):
            pass


def _sha256(path: Path) -> str:
    """Of the file; of nothing where there is none."""
    return hashlib.sha256(path.read_bytes() if path.exists() else b"").hexdigest()


def _sweep(folder: Path, age: float) -> None:
    """Deletes what processes that are gone did not finish writing: the parts (engine/files.py) older than age, in
    seconds."""
    for part in folder.glob(".part-*"):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime >= age:
                part.unlink()
