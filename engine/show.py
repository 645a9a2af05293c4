"""What runtime.show prints (a recipe with its sources, several side by side, what would train); what a sweep gave."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import record
from engine.contract import Refused
from engine.record import value

if TYPE_CHECKING:  # the first two load torch
    from engine.backbone import Backbone
    from engine.memory import Memory
    from engine.plan import Planned


def recipe(settings: Mapping[str, Any]) -> str:
    """Every hyperparameter of a cell, its value and where that comes from."""
    sources = settings["_sources"]
    rows = [(key, _word(value(settings, key)), source) for key, source in sources.items()]
    return f"recipe {settings['recipe']['name']} for task={settings['task']['name']}\n" + _table(
        ("", "value", "source"), rows)


def diff(recipes: Mapping[str, Mapping[str, Any]]) -> str:
    """The recipes side by side, a line a hyperparameter; * marks the lines on which they differ."""
    first = next(iter(recipes.values()))
    rows = []
    for key in first["_sources"]:
        values = [_word(value(settings, key)) for settings in recipes.values()]
        rows.append(("*" if len(set(values)) > 1 else "", key, *values))
    differing = [key for mark, key, *_ in rows if mark]
    said = [(key, name, settings["_sources"][key]) for key in differing for name, settings in recipes.items()]
    alone = "" if len(recipes) > 1 else "\n\nthere is no other recipe to compare it with"
    return (f"task={first['task']['name']}\n" + _table(("", "", *recipes), rows)
            + ("\n\nwhere the differing numbers come from\n" + _table(("", "", ""), said) if said else "") + alone)


def parameters(backbone: Backbone, trainable: int, head: int, total: int) -> str:
    """What would train, by kind of tensor: how many there are, of what shape, how many numbers in all, and their share
    of the model."""
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for name, parameter in backbone.model.named_parameters():
        if parameter.requires_grad:
            where = "head" if name.startswith(backbone.head) else "body"
            kind = ".".join("*" if part.isdigit() else part for part in name.split("."))
            groups[f"{where} {kind}", " x ".join(map(str, parameter.shape))].append(parameter.numel())
    rows = [(kind, str(len(sizes)), shape, sum(sizes)) for (kind, shape), sizes in groups.items()]
    rows += [("trainable (head left out, as the paper counts)", "", "", trainable), ("head", "", "", head),
             ("the whole model", "", "", total)]
    return _table(("", "tensors", "shape", "parameters", "share"),
                  [(*row, f"{count:,}", f"{100 * count / total:.4f} %") for *row, count in rows])


def memory(needed: Memory, examples: int, tokens: int) -> str:
    """What a training step is expected to hold on one device, item by item."""
    rows = [("weights", needed.weights, "fp32, all of them"),
            ("gradients", needed.gradients, "fp32, of what trains, head included"),
            ("optimiser", needed.optimiser, "AdamW's two moments in fp32, of what trains, head included"),
            ("activations", needed.activations, f"what the backward pass needs of {examples} x {tokens} tokens, in "
             "fp32, attention weights written out"),
            ("together", needed.sum, "bf16 or fp16 about halve the activations, runtime.micro_batch=N cuts them")]
    return "expected in training, on one device\n" + _table(
        ("", "GB", ""), [(name, f"{count / 1e9:.3f}", what) for name, count, what in rows])


def outcome(done: Sequence[tuple[Planned, Path]]) -> str:
    """What a sweep's cells gave, a row for all that differ in task and seed alone: the mean, and over how many."""
    values: dict[str, dict[str, list[float | None]]] = {}
    for cell, path in done:
        try:
            found = record.read(path)
        except Refused:
            continue  # python -m analysis says what is wrong with it
        row = values.setdefault(f"{cell.about['model']} · {cell.row}", {})
        row.setdefault(f"{found.task} ({found.metric})", []).append(found.value)
    columns = list(dict.fromkeys(column for row in values.values() for column in row))

    def word(numbers: Sequence[float | None]) -> str:
        known = [number for number in numbers if number is not None]
        return f"{sum(known) / len(known):.2f} n={len(known)}" if known else "-"

    rows = [(name, *(word(row.get(column, ())) for column in columns)) for name, row in values.items()]
    return _table(("mean over seeds", *columns), rows) + "\n" if rows else ""


def _word(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ",".join(map(_word, value))
    return "-" if value is None else str(value).replace("\n", "\\n")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rows = [header, *rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(line for line in lines if line)
