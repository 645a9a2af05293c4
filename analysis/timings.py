"""What `python -m benchmarks` wrote about training steps: results/benchmarks/*.json, checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from analysis.pace import Joint, Measured, Step, Timed


def devices(results: Path) -> tuple[list[Measured], list[str]]:
    """Every device of RESULTS/benchmarks whose steps were timed, and the files that cannot be used, a line each."""
    found, broken = [], []
    for path in sorted((results / "benchmarks").glob("*.json")):
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            if said.get("quick") is not True:  # toy sizes say nothing
                found.append(_device(said))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
            broken.append(f"results/benchmarks/{path.name}: left out, no benchmark of training steps ({why})")
    return found, broken


def _device(said: Mapping[str, Any]) -> Measured:
    """What a file says. Raises ValueError, KeyError, TypeError or AttributeError where it is none."""
    steps, joint = said["rows"].get("step", []), said["rows"].get("together", [])
    timed = [Timed(_step(row), (row["model"], str(row["layers"]), row["method"], f"{row['batch']} x {row['length']}",
                                row["precision"]), _positive(row["ms"]) / 1000)
             for row in steps if row["way"] == "ours"]
    if not timed:
        raise ValueError("no step of ours in it")
    several = [Joint(_step({**row, "method": "lora"}), int(_positive(row["runs"])),
                     _positive(row["ms_together"]) / _positive(row["ms_in_turn"])) for row in joint if row["runs"] != 1]
    if said["kind"] not in ("cuda", "cpu"):
        raise ValueError(f"kind {said['kind']!r}")
    return Measured(str(said["device"]), said["kind"], timed, several)


def _step(row: Mapping[str, Any]) -> Step:
    known = _words(row)
    step = Step(known["model"], int(_positive(row["layers"])), _positive(row["batch"]) * _positive(row["length"]),
                known["method"] == "ft", known["precision"] != "fp32",
                int(_positive(row["words"])) if "words" in row else None)
    assert step.operations  # KeyError for a model that conf/ does not have
    return step


def _words(row: Mapping[str, Any]) -> dict[str, str]:
    words = {key: row[key] for key in ("model", "method", "precision")}
    if not all(isinstance(word, str) for word in words.values()):
        raise TypeError(f"{words}")
    return words


def _positive(value: Any) -> float:
    """Raises ValueError for what is no positive number."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not isfinite(value) or value <= 0:
        raise ValueError(f"{value!r} is no positive number")
    return float(value)
