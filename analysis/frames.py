"""Records as data frames: what every table and figure starts from."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from engine.record import VARIANT, Record, digest, value

SHOWN = ["scale", "data", "model", "label", "variant", "recipe", "changed", "task", "metric"]


def runs(records: Sequence[Record]) -> pd.DataFrame:
    """One row a run: what it was, its best and last value in the unit of the paper, and what it cost."""
    rows = [{
        "scale": r.scale, "data": _data(r), "model": r.model, "label": r.label, "variant": r.variant,
        "recipe": r.settings["recipe"]["name"], "changed": _changed(r), "task": r.task, "metric": r.metric,
        "cell": _cell(r), "seed": r.seed, "value": r.value, "last": r.outcome["last"].get(r.metric),
        "trainable": r.footprint["trainable"], "seconds": r.outcome["seconds"], "device": r.device,
        "collapsed": any("collapsed" in note for note in r.outcome["notes"]),
    } for r in records]
    columns = [*SHOWN, "cell", "seed", "value", "last", "trainable", "seconds", "device", "collapsed"]
    return pd.DataFrame(rows, columns=columns).sort_values([*SHOWN, "cell", "seed"], ignore_index=True)


def cells(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a cell, over its seeds: n, median (the paper's aggregate for GLUE), mean, spread, range, last epoch. What
    a cell is, its settings say, not how they were typed."""
    first = {name: (name, "first") for name in SHOWN}
    table = runs.groupby("cell", dropna=False).agg(
        **first, n=("value", "size"), median=("value", "median"), mean=("value", "mean"), std=("value", "std"),
        min=("value", "min"), max=("value", "max"), last=("last", "median"), trainable=("trainable", "first"),
        seconds=("seconds", "median"), collapsed=("collapsed", "sum")).reset_index()
    return table.sort_values([*SHOWN, "cell"], ignore_index=True)


def _cell(record: Record) -> str:
    """What the runs of a cell share: every setting but the seed, the data and the base weights."""
    settings = {key: value for key, value in record.settings.items() if key != "seed"}
    return digest(settings, record.data_sha256, record.model_revision, None)


def _data(record: Record) -> str:
    settings = record.settings
    some = settings["scale"].get("train") if record.data == "synthetic" else settings["task"].get("limit")
    return record.data + (f", {some} examples" if some else "")


def _changed(record: Record) -> str:
    """The hyperparameters that the command line took out of the recipe's hands; of texts, how they were decoded."""
    said = sorted(key for key, source in record.sources.items() if source == "command line" and key not in VARIANT)
    how = record.settings.get("decode")  # texts: how they were searched for, and for which inputs
    texts = [f"decode={how['name']}", f"scored={record.settings['task']['scored']}"] if how else []
    return " ".join([*texts, *(f"{key}={value(record.settings, key)}" for key in said)])
