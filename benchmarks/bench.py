"""What a row is given: the device, how many rounds, a clock that lets the ways take turns. And what it hands back."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from engine import device as devices
from engine import timing

Cells = dict[str, Any]  # a line of a table: column -> number, word, or None for what was not measured


class CannotRun(Exception):
    """A row that this machine cannot measure: what it lacks, in a line for the reader of the file."""


class Unequal(Exception):
    """Two ways that should compute the same do not, so that their times mean nothing: which, and how far apart."""


@dataclass(frozen=True)
class Table:
    """Lines of numbers under a name, by which the JSON has them. about: what a reader must know, a sentence each."""

    name: str
    rows: Sequence[Cells]
    about: Sequence[str] = field(default=())


@dataclass(frozen=True)
class Bench:
    """One run of the rows."""

    device: torch.device
    rounds: int
    quick: bool  # toy sizes: whether it works, not how fast
    data: Path | None  # a folder with real data in the hub's layout

    @property
    def cuda(self) -> bool:
        """Whether the device is a GPU: then whole models, else some of their layers."""
        return self.device.type == "cuda"

    def precisions(self) -> list[str]:
        """fp32, and bf16 where the device computes it faster."""
        fast = devices.pick("auto" if self.cuda else "cpu", "auto")[1]
        return ["fp32", *([fast] if fast != "fp32" else [])]

    def wait(self) -> None:
        """Returns when the device has nothing left to do."""
        if self.cuda:
            torch.cuda.synchronize()

    def measure(self, what: str, calls: Sequence[Callable[[], object]], warmup: int = 1,
                rounds: int | None = None) -> list[list[float]]:
        """Milliseconds of each call, a number a round; the calls take turns (engine/timing.py)."""
        trials = rounds or self.rounds
        with tqdm(total=len(calls) * (warmup + trials), desc=what, leave=False, disable=None, file=sys.stderr) as bar:
            return timing.interleaved(calls, warmup, trials, self.wait, time.perf_counter, partial(bar.update, 1))


def spread(times: Sequence[float], unit: str = "ms", divide: float = 1.0) -> Cells:
    """The median and the quartiles of a call's times over the rounds, as columns ms, ms_low, ms_high."""
    low, middle, high = quartiles([each / divide for each in times])
    return {unit: middle, f"{unit}_low": low, f"{unit}_high": high}


def ratio(slow: Sequence[float], fast: Sequence[float], name: str = "ratio") -> Cells:
    """How many times as long the one takes as the other: median and quartiles over the rounds, each of which compares
    two neighbours in time. Columns ratio, low, high."""
    low, middle, high = quartiles([one / other for one, other in zip(slow, fast, strict=True)])
    return {name: middle, "low": low, "high": high}


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile; of one value, that value."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def same(what: str, one: torch.Tensor, other: torch.Tensor, within: float) -> None:
    """Raises Unequal unless the two tensors differ by at most `within` times the largest number of the first."""
    furthest, size = float((one - other).abs().max()), float(one.abs().max())
    if not furthest <= within * size:
        raise Unequal(f"{what}: {furthest:.2e} apart, of at most {size:.2e}")


def columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns of a table, in the order in which its lines bring them up."""
    return list(dict.fromkeys(key for row in rows for key in row))
