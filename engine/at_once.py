"""Cells that train at once: each goes its own way from its settings to its record, but for the training."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from engine.resolve import Base
    from engine.training import Run

T = TypeVar("T")


@dataclass(frozen=True)
class Wanted:
    """A training that a cell asks for: what fit() is given."""

    asked: Any  # member.Asked
    run: Run


@dataclass
class Shared:
    """What cells that train at once have in common, from the first of them that gets so far."""

    base: Base | None = None  # the data's rows, read and checked once
    model: Any = None  # whose frozen weights all use


Steps = Generator[Wanted | None, Any, T]  # asks for its training, and is sent what fit() made of it


def fit(wanted: Sequence[Wanted]) -> Sequence[Any]:
    """Trains what these cells ask for, at once: for each what train.fit made of it, or why it came to nothing."""
    from engine import train

    run = wanted[0].run
    cell, built, runtime = run.cell, run.built, run.cell.settings["runtime"]
    splits = cell.task.splits(run.at.raw, built.backbone.tokenizer, built.recipe, built.special,
                              cell.out / "cache")
    run.say(f"{len(splits.train):,} training examples, {built.recipe.epochs} epochs of batch {built.recipe.batch}"
            + (f"; {len(wanted)} runs at once" if wanted[1:] else ""))
    cut = getattr(splits.train, "cut", 0)
    if cut:
        run.say(f"note: {cut:,} of them are longer than length={built.recipe.length} and lose the beginning of their "
                "input")
    most = None
    if wanted[1:] and runtime["together"] is True:
        from engine import memory

        size = min(built.recipe.batch, runtime["micro_batch"] or built.recipe.batch)
        most = memory.fitting(cell, size, max(splits.train.lengths), run.at.device)
        if most is not None and most < len(wanted):
            run.say(f"memory for {most} of them at once")
    asked, rest = [each.asked for each in wanted], (cell.task, splits, run.at.device, runtime["micro_batch"])
    try:
        return train.fit(asked, *rest, most)
    except NotImplementedError as why:
        if not asked[1:]:
            raise
        run.say(f"note: one by one: {why}")
        return [made for each in asked for made in train.fit([each], *rest)]
