"""In a process that runs cells beside others: each line says whose it is, and a signal is remembered."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any

from engine.contract import Stopped
from engine.stop import NUMBERS, Stop

RAYS = (":task_name:", ":actor_name:", ":job_id:")  # lines of Ray's own that its log reader takes out again
SIGNALS = Stop(follows=True)  # of a worker, from its first moment to its last


class NotBegun(Stopped):
    """A run that was still to begin when its sweep was stopped."""


class Lines(io.TextIOBase):
    """A stream that puts a label before every line, and leaves out empty lines and progress bars: of several runs at
    once they would write over each other."""

    def __init__(self, under: Any) -> None:
        self.under, self.label, self.drop = under, "", ""
        self._rest = ""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """What it is written in."""
        return str(getattr(self.under, "encoding", None) or "utf-8")

    def write(self, text: str) -> int:
        """Whole lines at once; a bar begins with a carriage return. drop: what a line need not begin with."""
        if not text.startswith("\r"):
            *lines, self._rest = (self._rest + text).split("\n")
            said = "".join(f"{'' if line.startswith(RAYS) else self.label}{line.removeprefix(self.drop)}\n"
                           for line in lines if line.strip())
            if said:
                self.under.write(said)
                self.under.flush()
        return len(text)

    def flush(self) -> None:
        """Nothing: what is no whole line yet waits."""

    def fileno(self) -> int:
        """Of what is below, for programs that are started here."""
        return int(self.under.fileno())


@contextmanager
def held() -> Iterator[None]:
    """A process that is started within gets no signal before it calls begin(): they wait for it."""
    resource_tracker.ensure_running()  # whoever starts it within lets the signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, NUMBERS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def begin() -> None:
    """First thing in a worker of joblib's: from here on signals are remembered."""
    SIGNALS.__enter__()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, NUMBERS)
    label("", "")


def label(place: str, name: str) -> None:
    """What the lines begin with that are printed from here on. For good, since loggers keep the stream they met."""
    for stream in ("stdout", "stderr"):
        if not isinstance(getattr(sys, stream), Lines):
            setattr(sys, stream, Lines(getattr(sys, stream)))
        lines = getattr(sys, stream)
        lines.label, lines.drop = f"[{place} {name}".strip() + "] " if place else "", f"[{place}] "
