"""The latency study (Table 1, Figure 5): which forward passes are timed beside each other, and how often."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.contract import Method, Refused, number, one_of


@dataclass(frozen=True)
class Variant:
    """One way to run the model. method None: as it is, without an adapter."""

    name: str  # none · lora-merged · lora · adapter-h · adapter-l
    label: str
    r: int  # rank or bottleneck; 0 without a method
    method: Method | None
    merged: bool  # whether the method's update goes into the weights, and its modules away


@dataclass(frozen=True)
class Latency:
    """The grid of batch sizes, lengths and bottlenecks, with the methods that are compared on it."""

    name: str
    version: int
    run: Callable[..., Path]  # what times it: (study, settings, words said, root of the code) -> the record's path
    batches: Sequence[int]
    lengths: Sequence[int]
    ranks: Sequence[int]
    table1: Sequence[Mapping[str, int]]  # bottlenecks by adapter that are timed at this batch and length alone
    trials: int
    warmup: int
    precision: str
    lora: Method
    adapters: Mapping[str, Callable[..., Method]]  # r -> the adapter

    def __post_init__(self) -> None:
        for key in ("batches", "lengths", "ranks"):
            values = getattr(self, key)
            if not isinstance(values, (list, tuple)) or (not values and key != "ranks"):
                raise Refused(f"task.{key}={values}: task.{key} must be a list such as [1,2]")
            for value in values:
                number(f"task.{key}", value, 1, whole=True)
            if list(values) != sorted(set(values)):  # one study, one spelling
                raise Refused(f"task.{key}={values}: name each once, smallest first")
        number("task.trials", self.trials, 2, whole=True)
        number("task.warmup", self.warmup, 0, whole=True)
        one_of("task.precision", self.precision, ("fp32", "bf16", "fp16"))
        keys = {"batch", "length", *self.adapters}
        if not isinstance(self.table1, (list, tuple)) or any(
                not isinstance(column, Mapping) or set(column) != keys for column in self.table1):
            raise Refused(f"task.table1={self.table1}: a list, empty or of {{{', '.join(sorted(keys))}}}")
        for column in self.table1:
            for key, value in column.items():
                number(f"task.table1.{key}", value, 1, whole=True)

    def cells(self) -> list[tuple[int, int]]:
        """Every (batch, length), the least tokens first."""
        return sorted(((batch, length) for batch in self.batches for length in self.lengths),
                      key=lambda cell: (cell[0] * cell[1], cell))

    def variants(self, batch: int, length: int) -> list[Variant]:
        """What is timed in one cell, no adapter first."""
        own: Any = self.lora
        made = [Variant("none", "no adapter", 0, None, False), Variant("lora-merged", "LoRA, merged", own.r, own, True),
                Variant("lora", "LoRA, not merged", own.r, own, False)]
        columns = [column for column in self.table1 if (column["batch"], column["length"]) == (batch, length)]
        for name, adapter in self.adapters.items():
            for r in sorted({*self.ranks, *(column[name] for column in columns)}):
                method = adapter(r=r)
                made.append(Variant(name, method.label, r, method, False))
        return made
