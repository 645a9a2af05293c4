"""results/benchmarks/<device>.json, and the Markdown that is made of it. Each is written whole or not at all.

Rows that are not measured this time stay, if they are of the same machine and libraries; else they go."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.bench import Bench, Cells, columns
from engine import device as devices
from engine import record
from engine.contract import Refused
from engine.files import whole_text

Machine = dict[str, Any]
Parts = dict[str, dict[str, Any]]  # row -> what measured.part made
SAME = ("device", "kind", "threads", "versions", "quick")  # what numbers of one file share
PEAK = ("model", "layers", "way", "method", "batch", "length", "precision")


def begin(results: Path, bench: Bench) -> tuple[Machine, Parts]:
    """What is measured on, and the rows that a file of the same machine already has. Raises Refused where the folder or
    what is there cannot be used, before anything is measured."""
    machine: Machine = {
        "device": devices.name_of(bench.device), "kind": bench.device.type, "threads": torch.get_num_threads(),
        "versions": dict(record.versions()), "quick": bench.quick,
        "started": datetime.now(UTC).isoformat(timespec="seconds")}
    path = paths(results, machine)[0]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        there = {part["row"]: part for part in old.get("parts", [])}
    except OSError as error:
        raise Refused(f"--results {results}: {error.strerror} ({error.filename})") from None
    except (ValueError, AttributeError, KeyError, TypeError):
        raise Refused(f"{path}: not one of our files any more; move it away") from None
    return machine, there if all(old.get(key) == machine[key] for key in SAME) else {}


def paths(results: Path, machine: Machine) -> tuple[Path, Path]:
    """The JSON and the Markdown of a machine: cpu-intel-r-xeon-r-processor-2-threads.json"""
    name = re.sub(r"[^a-z0-9]+", "-", f"{machine['kind']} {machine['device']}".lower()).strip("-")
    folder = results / "benchmarks"
    return tuple(folder / f"{name}{'-quick' if machine['quick'] else ''}.{end}"  # type: ignore[return-value]
                 for end in ("json", "md"))


def write(results: Path, machine: Machine, kept: Parts, part: dict[str, Any]) -> Parts:
    """Puts a row beside the others into both files; returns all of them. Raises Refused when the disk does not take
    it."""
    parts = dict(sorted((kept | {part["row"]: part}).items(), key=lambda item: item[1]["letter"]))
    said = machine | {"rows": _joined(parts), "parts": list(parts.values())}
    try:
        data, text = paths(results, machine)
        whole_text(data, json.dumps(said, indent=1) + "\n")
        whole_text(text, markdown(said))
    except OSError as error:
        raise Refused(f"--results {results}: {error.strerror} ({error.filename})") from None
    return parts


def _joined(parts: Parts) -> dict[str, list[Cells]]:
    """Every table by its name; the bytes of the row `memory` also stand where the same step was timed."""
    tables = {name: [dict(line) for line in lines] for part in parts.values() for name, lines in part["tables"].items()}
    peaks = {tuple(line[key] for key in PEAK): line["peak_bytes"] for line in tables.get("memory", [])}
    for line in tables.get("step", []):
        line["peak_bytes"] = peaks.get(tuple(line[key] for key in PEAK))
    return tables


def markdown(said: Mapping[str, Any]) -> str:
    """The file for people."""
    versions = ", ".join(f"{name} {version}" for name, version in said["versions"].items() if version)
    lines = ["# Benchmarks", "", f"{said['device']} ({said['kind']}, {said['threads']} threads). {versions}.", "",
             "`python -m benchmarks` made this file. Medians; `low` and `high` are the quartiles over the rounds, in "
             "which the ways that are compared took turns in one process."]
    if said["quick"]:
        lines += ["", "**Toy sizes (`--quick`): these numbers say nothing.**"]
    for part in said["parts"]:
        lines += ["", f"## ({part['letter']}) {part['title']}", ""]
        if part["missing"]:
            lines.append(f"Not measured here: {part['missing']}")
            continue
        lines.append(f"{part['rounds']} rounds, {part['started'][:10]}, {part['seconds']:.0f} s.")
        for name, about in part["about"].items():
            lines += ["", f"### {name}", "", *_table(said["rows"][name]), "", *(f"- {each}" for each in about)]
    return "\n".join(lines).rstrip() + "\n"


def _table(rows: Sequence[Cells]) -> list[str]:
    names = columns(rows)
    words = [name for name in names if any(isinstance(row.get(name), str) for row in rows)]
    return ["| " + " | ".join(names) + " |", "|" + "|".join("---" if name in words else "---:" for name in names) + "|",
            *("| " + " | ".join(_cell(row.get(name)) for name in names) + " |" for row in rows)]


def _cell(value: Any) -> str:
    """Four significant digits at most; a bar would end the cell."""
    if value is None:
        return "—"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "\\|")
