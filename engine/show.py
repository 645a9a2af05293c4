"""What runtime.show prints: a recipe with its sources, the recipes of a cell side by side, what a cell would train."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from engine.contract import Backbone
from engine.record import value


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
    return (f"task={first['task']['name']}\n" + _table(("", "", *recipes), rows)
            + ("\n\nwhere the differing numbers come from\n" + _table(("", "", ""), said) if said else ""))


def parameters(backbone: Backbone, trainable: int, head: int, total: int) -> str:
    """What would train, by kind of tensor: how many there are, of what shape, how many numbers in all."""
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for name, parameter in backbone.model.named_parameters():
        if parameter.requires_grad:
            where = "head" if name.startswith(backbone.head) else "body"
            kind = ".".join("*" if part.isdigit() else part for part in name.split("."))
            groups[f"{where} {kind}", " x ".join(map(str, parameter.shape))].append(parameter.numel())
    rows = [(kind, str(len(sizes)), shape, f"{sum(sizes):,}") for (kind, shape), sizes in groups.items()]
    rows += [("trainable (head left out, as the paper counts)", "", "", f"{trainable:,}"),
             ("head", "", "", f"{head:,}"),
             (f"all, of which {100 * trainable / total:.3f} % train beside the head", "", "", f"{total:,}")]
    return _table(("", "tensors", "shape", "parameters"), rows)


def _word(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "-" if value is None else ",".join(map(_word, value)) if isinstance(value, list) else str(value)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rows = [header, *rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(line for line in lines if line)
