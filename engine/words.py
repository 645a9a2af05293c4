"""What a run says of itself on the screen: what trains, on what, how it came out, where its record is."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TypeVar

from tqdm.auto import tqdm

from engine.record import Record

Item = TypeVar("Item")


def main_process() -> bool:
    """Whether this process speaks and writes for all: the first of several, as the launchers number them in RANK."""
    return int(os.environ.get("WORLD_SIZE", "1")) <= 1 or os.environ.get("RANK", "0") == "0"


def progress(items: Sequence[Item], what: str) -> tqdm[Item]:
    """The items with a bar on the terminal of the main process; in a log file, where each step would be a line, the
    first after half a minute and then one a minute."""
    terminal = sys.stderr is not None and sys.stderr.isatty()
    return tqdm(items, desc=what, leave=False, disable=not main_process(), delay=0 if terminal else 30,
                mininterval=0.1 if terminal else 60, maxinterval=10 if terminal else 60)


def counted(trainable: int, head: int, total: int) -> str:
    """How many parameters train, the head left out as the paper does."""
    return f"trains {trainable:,} parameters ({100 * trainable / total:.2f} % of {total:,}) beside a head of {head:,}"


def two(value: float | None) -> str:
    """Two decimals; undefined for the correlation of a constant."""
    return "undefined" if value is None or value != value else f"{value:.2f}"


def _fine(value: float | None) -> str:
    """Losses and the metrics that run from 0 to 1 need more digits."""
    return f"{value:.4f}" if value is not None and abs(value) < 10 else two(value)


def summary(done: Record) -> str:
    """The result of a run: what the collapse detector saw, the number, what it took."""
    others = ", ".join(f"{name} {_fine(value)}" for name, value in done.numbers.items() if name != done.metric)
    outcome, counts = done.outcome, done.footprint
    lines = [f"note: {note}" for note in outcome["notes"]]
    best = f"best epoch {outcome['best_epoch']} of {len(outcome['curve'])}"
    if "decoded" in outcome:
        how, count = done.settings["decode"], outcome["decoded"]["inputs"]
        lines.append(f"{done.metric} {two(done.value)} over {count:,} inputs of {done.settings['task']['scored']}, "
                     f"decode={how['name']} with the {how['checkpoint']} epoch ({best})"
                     f"{f'; {others}' if others else ''}")
    else:
        lines.append(f"{done.metric} {two(done.value)} in points of 100, {best} (last "
                     f"{two(outcome['last'][done.metric])}){f'; {others}' if others else ''}")
    several = outcome.get("together", 1)
    before = "trained before, in " if outcome.get("trained", {}).get("started", done.started) != done.started else ""
    lines.append(f"{counted(counts['trainable'], counts['head'], counts['total'])}; {before}{outcome['seconds']:.0f} s"
                 + (f" for {several} runs at once" if several > 1 else "")
                 + f", {outcome['tokens_per_second']:,.0f} tokens/s" + (" each" if several > 1 else "")
                 + (f"; decoding {outcome['decoded']['seconds']:.0f} s" if "decoded" in outcome else ""))
    return "\n".join(lines)
