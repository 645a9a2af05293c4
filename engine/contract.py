"""The types that pass between the rooms (who makes them and who uses them: README, map of the house).

Light on purpose: nothing heavy is imported here, so that a wrong request is answered before torch is loaded.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import nn

    from engine.backbone import Backbone

Batch = dict[str, Any]  # name -> tensor, as the model's forward wants them; "labels" (n,) is the task's own
Numbers = dict[str, float]  # named results in the unit that the paper prints


class Refused(Exception):
    """A request that cannot be served: what is wrong and what to type instead, in at most two lines."""


class Elsewhere(Exception):
    """The cell is being run by another live process: who, where and since when, in a line."""


class Unfinished(Exception):
    """Cells of a sweep that failed, or wait for one that did: a line each, and how to run what is missing."""


class Stopped(BaseException):
    """A signal asked the run to stop, and all is saved: at which step, and that the same command goes on. No Exception,
    so that a sweep ends too instead of going on to its next cell."""


BITS = 1000  # a whole number of more is above what float64 holds, or near


def number(name: str, value: object, low: float, high: float = math.inf, whole: bool = False, open_low: bool = False,
           none: bool = False) -> None:
    """Refuse a setting that is not a (whole) number in [low, high], or ]low, high] with open_low."""
    if none and value is None:
        return
    if isinstance(value, int) and abs(value).bit_length() > BITS:
        raise Refused(f"{name}: a number of more than 300 digits; give a smaller one")
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    if numeric and isinstance(value, int if whole else (int, float)) and math.isfinite(value) and (
            low < value if open_low else low <= value) and value <= high:
        return
    bounds = f"{'above' if open_low else 'at least'} {low:g}"
    bounds += f" and at most {high:,}" if math.isfinite(high) else ""
    raise Refused(f"{name}={value}: {name} must be a {'whole ' if whole else ''}number {bounds}")


def one_of(name: str, value: object, options: Sequence[object]) -> None:
    """Refuse a setting that is none of the options."""
    if value not in options:
        spelt: dict[object, str] = {None: "null", True: "true", False: "false"}
        raise Refused(f"{name}={value}: {name} must be one of {', '.join(spelt.get(o) or str(o) for o in options)}")


def generator(seed: int, stream: str) -> torch.Generator:
    """A random stream of a run, from its seed and the stream's name alone.

    Streams are independent of each other, so the head and the data order of a seed do not depend on how many numbers
    a method draws. Streams in use: adapter, head, order, dropout, limit, halves; weights and tokens (latency), control
    (analysis).
    """
    import torch

    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@dataclass(frozen=True)
class Special:
    """Ids outside the vocabulary, of the tokens that a prefix method puts in front of and behind every prompt."""

    prefix: Sequence[int]
    infix: Sequence[int]


class Method(Protocol):
    """An adaptation method: swaps modules in or turns parameters on, and never turns anything off."""

    name: str
    label: str

    @property
    def tokens(self) -> tuple[int, int]:
        """How many special tokens it puts in front of and behind every prompt (the paper's l_p, l_i); most: (0, 0)."""

    def apply(self, backbone: Backbone, generator: torch.Generator) -> None: ...


class Split(Protocol):
    """Tokenised examples of one part of a data set."""

    lengths: Sequence[int]  # tokens of each example

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> Batch: ...

    def weight(self, indices: Sequence[int]) -> float:
        """What the sum of these examples' losses is divided by: their number, or that of their tokens."""


@dataclass(frozen=True)
class Splits:
    """What a run trains on and is judged on."""

    train: Split
    validation: Mapping[str, Split]


@dataclass(frozen=True)
class Origin:
    """Where the rows come from: the hub, a folder in its layout, or the synthetic generator (with its sizes)."""

    kind: str  # hub · folder · synthetic
    root: str | None
    train: int  # rows to generate; 0 where rows are read
    validation: int


Step = Callable[["nn.Module", Batch], "torch.Tensor"]


class Predict(Protocol):
    """The step's outputs for a split, one row an example, in its order; size: examples at once."""

    def __call__(self, split: Split, step: Step, size: int = ...) -> torch.Tensor: ...


class Task(Protocol):
    """Data in, named numbers out."""

    name: str
    metric: str  # the number that the paper prints
    criterion: str  # the number of evaluate() by which the best epoch is chosen
    higher_is_better: bool  # of the criterion
    version: int
    outputs: int  # size of the head's last layer; 0: no fresh head, a language model

    def losses(self, model: nn.Module, batch: Batch, smoothing: float) -> torch.Tensor:
        """Each example's loss (n,); their sum over Split.weight of them is what a step goes down."""

    def evaluate(self, predict: Predict, validation: Mapping[str, Split]) -> Numbers: ...
