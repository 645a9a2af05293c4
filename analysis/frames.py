"""Records as data frames and as cells: what every table and figure starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from engine.record import VARIANT, Record, digest, value

SHOWN = ["scale", "data", "model", "label", "variant", "recipe", "changed", "task", "metric"]


@dataclass(frozen=True)
class Cell:
    """The runs of one entry of a table: one record a seed, ordered by seed, and how many older ones of these seeds
    were left out."""

    records: Sequence[Record]
    superseded: int

    @property
    def first(self) -> Record:
        """Any of them: they differ in their seed alone."""
        return self.records[0]

    @property
    def digests(self) -> str:
        """The runs' identities, with blanks between."""
        return " ".join(record.digest for record in self.records)


def real(records: Sequence[Record]) -> list[Cell]:
    """The cells of scale=paper on real data, sorted; generated text and other scales enter no table of the paper. Of
    two records of one cell and seed (a copy, or made again by another version) the later start counts."""
    found: dict[str, dict[int, Record]] = {}
    count: dict[str, int] = {}
    for record in sorted(records, key=lambda r: (r.started, r.digest)):
        if record.scale == "paper" and trained(record) and not record.data.startswith("synthetic"):
            key = _cell(record)
            found.setdefault(key, {})[record.seed] = record
            count[key] = count.get(key, 0) + 1
    made = [(key, Cell([seeds[seed] for seed in sorted(seeds)], count[key] - len(seeds)))
            for key, seeds in found.items()]

    def order(each: tuple[str, Cell]) -> tuple[str, ...]:
        first = each[1].first
        return first.model, first.label, first.variant, first.task, first.settings["recipe"]["name"], each[0]

    return [cell for _, cell in sorted(made, key=order)]


def runs(records: Sequence[Record]) -> pd.DataFrame:
    """One row a training run: what it was, its best and last value in the unit of the paper, and what it cost."""
    rows = [{
        "scale": r.scale, "data": data_of(r), "model": r.model, "label": r.label, "variant": r.variant,
        "recipe": r.settings["recipe"]["name"], "changed": changed(r), "task": r.task, "metric": r.metric,
        "cell": _cell(r), "seed": r.seed, "value": r.value, "last": r.outcome["last"].get(r.metric),
        "trainable": r.footprint["trainable"], "seconds": r.outcome["seconds"], "device": r.device,
        "collapsed": collapsed(r), "started": r.started,
    } for r in records if trained(r)]
    columns = [*SHOWN, "cell", "seed", "value", "last", "trainable", "seconds", "device", "collapsed", "started"]
    table = pd.DataFrame(rows, columns=columns).astype({"value": float, "last": float})
    return table.sort_values([*SHOWN, "cell", "seed", "started"], ignore_index=True)


def cells(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a cell, over its seeds: n, median (the paper's aggregate for GLUE), mean, spread, range, last epoch. What
    a cell is, its settings say, not how they were typed; of two runs of a seed the later counts."""
    first = {name: (name, "first") for name in SHOWN}
    once = runs.drop_duplicates(["cell", "seed"], keep="last")
    table = once.groupby("cell", dropna=False).agg(
        **first, n=("value", "size"), median=("value", "median"), mean=("value", "mean"), std=("value", "std"),
        min=("value", "min"), max=("value", "max"), last=("last", "median"), trainable=("trainable", "first"),
        seconds=("seconds", "median"), collapsed=("collapsed", "sum")).reset_index()
    return table.sort_values([*SHOWN, "cell"], ignore_index=True)


def trained(record: Record) -> bool:
    """Whether something was trained; a latency study has neither method nor recipe, and exhibits of its own."""
    return "recipe" in record.settings


def collapsed(record: Record) -> bool:
    """Whether the best epoch predicts one value for everything."""
    return any("collapsed" in note for note in record.outcome["notes"])


def _cell(record: Record) -> str:
    """What the runs of a cell share: every setting but the seed, the data, the base weights, and the file that they
    start from (of init_from=mnli the paper takes the best, which may change from seed to seed)."""
    settings = {key: value for key, value in record.settings.items() if key != "seed"}
    start = record.init_from if settings.get("init_from") == "file" else None
    return digest(settings, record.data_sha256, record.model_revision, start)


def data_of(record: Record) -> str:
    """Where the data came from, and how many examples where these are not all."""
    settings = record.settings
    sizes = [size for size in (settings["task"].get("limit"), settings["scale"].get("train")) if size is not None]
    some = min(sizes, default=None)
    return record.data + (f", {some} examples" if some else "")


def changed(record: Record) -> str:
    """The hyperparameters that the command line took out of the recipe's hands; of texts, how they were decoded."""
    said = sorted(key for key, source in record.sources.items() if source == "command line" and key not in VARIANT)
    how = record.settings.get("decode")  # texts: how they were searched for, and for which inputs
    texts = [f"decode={how['name']}", f"scored={record.settings['task']['scored']}"] if how else []
    return " ".join([*texts, *(f"{key}={setting(record, key)}" for key in said)])


def setting(record: Record, key: str) -> Any:
    """A setting by its dotted name; None where it is null, which records leave out of some."""
    try:
        return value(record.settings, key)
    except (KeyError, TypeError):
        return None
