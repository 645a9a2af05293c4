"""Signals that ask a run to stop: they only set a flag, which the loop looks at, so that it can save first."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from engine.contract import Elsewhere, Stopped
from engine.words import main_process

# Ctrl-C; what kill, Slurm and every container runtime send first; what Slurm sends some time before its limit.
NUMBERS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)]
TWICE = 1.0  # seconds within which a second Ctrl-C is the same: torchrun passes on what the terminal sent already


class Signalled(Exception):
    """Raised between two batches of an evaluation or of decoding: fit() catches it, saves and raises Stopped."""


def stopped(said: str, number: int | None) -> Stopped:
    """What a run or a sweep ends with: number, of the signal (null: another process knows it), is the exit status's."""
    error = Stopped(f"{signal.Signals(number).name if number else 'another process'}: {said}")
    vars(error)["number"] = number or int(signal.SIGTERM)
    return error


class Stop:
    """`with Stop() as stop:` catches the signals within, in the main thread; elsewhere it does nothing. What is ignored
    (nohup) stays ignored. A second Ctrl-C is a KeyboardInterrupt. Within another Stop, it sees what that one sees.

    A signal that came too late for anything to stop takes its usual way when the block ends without an error. lost:
    says when another process has taken the cell over (Work.lost), so that the run must end without writing.
    """

    def __init__(self, follows: bool = False, over: Stop | None = None) -> None:
        """follows: in a process whose parent gets the same signals, speaks of them and ends it when it must be. over:
        sees what that one sees, and need not be entered."""
        self.lost: Callable[[], str | None] = lambda: None
        self.follows = follows
        self._over, self._seen = over, list[int]()
        self._when = 0.0  # of the first Ctrl-C
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            outer = [stop for number in NUMBERS
                     if isinstance(stop := getattr(signal.getsignal(number), "__self__", None), Stop)]
            self._over = outer[0] if outer else self._over
            for number in [] if outer else NUMBERS:
                before = signal.getsignal(number)
                if before != signal.SIG_IGN:
                    self._before[number] = signal.SIG_DFL if before is None else before
                    signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._restore()
        if kind is None and self.seen and self._before and not self.follows:
            signal.raise_signal(self.seen[0])

    @property
    def seen(self) -> list[int]:
        """The signals that came, in their order."""
        return self._over.seen if self._over else self._seen

    @property
    def asked(self) -> str | None:
        """The name of the signal that asked, if one did."""
        return signal.Signals(self.seen[0]).name if self.seen else None

    @property
    def wanted(self) -> bool:
        """Whether the run must end: a signal came, or the cell was lost."""
        return bool(self.seen or self.lost())

    def check(self) -> None:
        """Raises Signalled when the run must end."""
        if self.wanted:
            raise Signalled

    @contextmanager
    def leaving(self, said: str) -> Iterator[None]:
        """Within, where nothing needs to be saved, Signalled becomes Stopped, with what to say, or Elsewhere."""
        try:
            yield
        except Signalled:
            lost = self.lost()
            raise (Elsewhere(lost) if lost else self.stopped(said)) from None

    def stopped(self, said: str) -> Stopped:
        """The exception that says what the signal led to."""
        return stopped(said, self.seen[0] if self.seen else None)

    def hand_over(self) -> None:
        """Calls whoever waited for these signals before (submitit puts the job back into Slurm's queue and exits);
        returns when there is nobody. For when all is saved and the claims are released."""
        for number in self.seen:
            before = self._before.get(number)
            if callable(before) and before is not signal.default_int_handler:
                before(number, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        again = signal.SIGINT in self.seen and time.monotonic() - self._when > TWICE
        if number == signal.SIGINT and again and not self.follows:
            self._restore()
            raise KeyboardInterrupt
        if number == signal.SIGINT and number not in self.seen:
            self._when = time.monotonic()
        if not self.seen and not self.follows and main_process():  # print() may be what was interrupted
            how = " (Ctrl-C again: at once, without saving)" if number == signal.SIGINT else ""
            os.write(2, f"\n{signal.Signals(number).name}: stops as soon as all is saved{how}\n".encode())
        if number not in self.seen:
            self.seen.append(number)

    def _restore(self) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
