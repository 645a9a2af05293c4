"""What a run says of itself on the screen: what trains, on what, how it came out, where its record is."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import torch

from engine.record import Record


def device_name(device: torch.device) -> str:
    """What a reader needs to place a time: the GPU's name, or the CPU's and its threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {torch.get_num_threads()} threads"


def counted(trainable: int, head: int, total: int) -> str:
    return f"trains {trainable:,} parameters ({100 * trainable / total:.2f} % of {total:,}) beside a head of {head:,}"


def two(value: float | None) -> str:
    return "undefined" if value is None or value != value else f"{value:.2f}"


def summary(done: Record, path: Path) -> str:
    """The last lines of a run: the number first, the record last."""
    others = ", ".join(f"{name} {two(value)}" for name, value in done.numbers.items() if name != done.metric)
    outcome, counts = done.outcome, done.footprint
    lines = [f"note: {note}" for note in outcome["notes"]]
    lines.append(f"{done.metric} {two(done.value)} in points of 100, best epoch {outcome['best_epoch']} of "
                 f"{len(outcome['curve'])} (last {two(outcome['last'][done.metric])})"
                 + (f"; {others}" if others else ""))
    lines.append(f"{counted(counts['trainable'], counts['head'], counts['total'])}; {outcome['seconds']:.0f} s, "
                 f"{outcome['tokens_per_second']:,.0f} tokens/s")
    return "\n".join([*lines, f"record {path}"])
