"""Who runs a cell: at most one live process, on any number of hosts that share a folder.

A claim is a file `claim-<n>` that says in words who made it. Whoever holds the highest number has the cell. Taking a
cell over means creating the next number, which a file system gives to exactly one (O_CREAT | O_EXCL). A claim is never
moved, and deleted only when a higher one is there: no two can undo each other's work, and a holder that slept through
its end finds its claim gone. The holder touches its file every BEAT seconds. Another takes over

- at once: what its holder released; on Linux, what was held by a process of this machine, boot and container that is
  gone (told from its id and start time); what an earlier start of this same Slurm job held;
- else after LEASE seconds, by its own clock, in which it saw no touch. Clocks of two hosts are never compared for this.

What holds where (tried on local file systems; for the others it is what their rules promise). Local file systems,
Lustre, and NFS from version 3 on: two processes never create the same number. A claim is opened to be looked at, so
NFS asks its server for the last touch; mounted with `nocto` it is seen up to acregmax late (60 s unless set otherwise),
and LEASE is longer than that and BEAT together. Where O_EXCL is not kept (NFS 2, some FUSE mounts) nothing here holds.
Everywhere it is no fence: a holder that was frozen for longer than LEASE learns of its end when it next asks (`lost`: a
second old at most; NFS keeps names for up to acdirmax, 60 s), and what it writes before that lands. So files are
written whole, under names of their own content. Across hosts, in another container, and without Linux, the cell of a
killed process is free after LEASE seconds.

filelock's SoftFileLease was tried first: it takes over only where a file system can exchange two names in one step. NFS
cannot, so a killed job would keep its cell there for ever.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from engine import holder
from engine.contract import Elsewhere
from engine.files import whole_text
from engine.holder import Holder

LEASE = 120.0  # seconds without a touch after which a claim may be taken over; a claim names its own, the longer counts
BEAT = 20.0  # seconds between touches
FRESH = 1.0  # seconds for which an answer of `lost` is kept
NAME = re.compile(r"claim-(\d{1,9})", re.ASCII)
_seen: dict[str, tuple[object, float, bool]] = {}  # claim -> as last seen, since when, if it changed


@dataclass(frozen=True)
class Sight:
    """The claim that counts, as just seen."""

    number: int
    holder: Holder
    watched: float  # seconds in which this process has seen no touch, by its own clock
    quiet: float  # seconds since the last touch: `watched` where a touch was seen, else by the two hosts' clocks

    @property
    def lease(self) -> float:
        """Seconds without a touch after which it may be taken over."""
        return max(LEASE, self.holder.lease)


def top(folder: Path) -> Sight | None:
    """The claim that counts; null: there is none. Only reads. Raises OSError where the folder cannot be read."""
    try:
        number = max((int(found[1]) for name in os.listdir(folder) if (found := NAME.fullmatch(name))), default=None)
        if number is None:
            return None
        path = folder / f"claim-{number}"
        with path.open("rb") as file:
            status, text = os.fstat(file.fileno()), file.read(4096)
    except (FileNotFoundError, NotADirectoryError):
        return None
    clock, key = time.monotonic(), (status.st_mtime_ns, status.st_ino, text)
    before = _seen.get(str(path))
    if before is None or before[0] != key:
        before = _seen[str(path)] = (key, clock, before is not None)
    watched = clock - before[1]
    quiet = watched if before[2] else max(watched, time.time() - status.st_mtime)
    return Sight(number, holder.read(text), watched, quiet)


def take(folder: Path, wait: float, say: Callable[[str], object]) -> Claim:
    """Claims the cell whose work folder this is. Raises Elsewhere when a live process has it for longer than `wait`
    seconds, and OSError. A holder that seems dead is watched for as long as it takes, whatever `wait` is."""
    until, told = time.monotonic() + wait, False
    while True:
        seen = top(folder)
        if seen is None or seen.holder.gone() or seen.watched > seen.lease:
            made = _next(folder, seen.number if seen else 0)
            if made is not None:
                return made
            continue  # another was faster
        silent = seen.quiet > seen.lease
        if not silent and time.monotonic() >= until:
            raise Elsewhere(f"it is being run by {seen.holder}")
        if silent and not told:
            say(f"no sign of life for {seen.quiet:,.0f} s from {seen.holder}; "
                f"waiting {seen.lease - seen.watched:.0f} s to be sure")
            told = True
        time.sleep(min(1.0, LEASE / 20))


def _next(folder: Path, number: int) -> Claim | None:
    """The claim after this number, if nobody else has made it."""
    mine = holder.here(LEASE)
    path = folder / f"claim-{number + 1}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except (FileExistsError, FileNotFoundError):
        return None
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(json.dumps(asdict(mine)) + "\n")
        numbers = sorted(int(found[1]) for name in os.listdir(folder) if (found := NAME.fullmatch(name)))
    except OSError:
        path.unlink(missing_ok=True)
        raise
    if number and number not in numbers:  # the folder is another one by now: its cell was finished, and begun again
        path.unlink(missing_ok=True)
        return None
    for old in numbers:
        if old <= number:
            (folder / f"claim-{old}").unlink(missing_ok=True)
    return Claim(folder, number + 1, mine)


class Claim:
    """A cell held by this process, until release() or until it is lost. A thread keeps it alive."""

    def __init__(self, folder: Path, number: int, mine: Holder) -> None:
        self.folder, self.number, self.mine = folder, number, mine
        self._lost: str | None = None
        self._sure = self._asked = time.monotonic()  # when the file system last said that it is ours; was last asked
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="claim", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> str | None:
        """Why this process holds the cell no more, in words: it must write nothing then. Null: it does."""
        if time.monotonic() - self._asked >= FRESH:
            self._ask()
        return self._lost

    def _ask(self) -> None:
        if self._lost is not None:
            return
        self._asked = clock = time.monotonic()
        try:
            seen = top(self.folder)
        except OSError as error:  # a server that does not answer takes nothing away, until another may have taken over
            if clock - self._sure > LEASE - BEAT:
                self._lost = f"{self.folder} cannot be read: {error.strerror}"
            return
        if seen is None:
            self._lost = f"the claim in {self.folder} is gone"
        elif seen.holder.token != self.mine.token and (seen.number != self.number or seen.holder.token is not None):
            self._lost = f"it was taken over by {seen.holder}"
        else:
            self._sure = clock

    def _keep(self) -> None:
        while not self._end.wait(BEAT) and self._lost is None:
            with suppress(OSError):
                os.utime(self.folder / f"claim-{self.number}")
            self._ask()

    def stop(self) -> None:
        """Touches it no more, and asks one last time whether it is lost."""
        self._end.set()
        self._thread.join()
        self._ask()

    def release(self) -> None:
        """Lets the next one have it at once."""
        self.stop()
        if self._lost is None:
            with suppress(OSError):  # it expires then
                over = replace(self.mine, released=holder.now())
                whole_text(self.folder / f"claim-{self.number}", json.dumps(asdict(over)) + "\n")
