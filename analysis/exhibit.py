"""What every exhibit is made from (Inputs) and made of (Exhibit): records and printed numbers in, tables, figures out.

Nothing else passes between the files of this room."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from analysis import frames
from engine.record import Record, read_all

PRINTED = Path(__file__).parents[1] / "results" / "paper"  # what the paper prints: facts, never edited


@dataclass(frozen=True)
class Inputs:
    """All that an exhibit may read, beside the printed numbers: a results folder's records and the files they name."""

    results: Path
    records: Sequence[Record]  # every readable one, sorted by path
    broken: Sequence[str]  # what was wrong with the others, a line each

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row a run (analysis.frames.runs)."""
        return frames.runs(self.records)

    def weights(self, record: Record) -> Path | None:
        """The trained tensors of a run's best epoch (safetensors, adapter.json beside); None: they are not there."""
        path = self.results / (record.weights or "") / "best.safetensors"
        inside = path.resolve().is_relative_to(self.results.resolve())  # a record may come from anyone
        return path if record.weights and inside and path.is_file() else None


def inputs(results: Path) -> Inputs:
    """Everything under a results folder."""
    records, broken = read_all(results)
    return Inputs(results, records, broken)


def printed(name: str) -> pd.DataFrame:
    """results/paper/<name>.csv as it stands: every value a string, so that no printed digit is lost; empty: ''."""
    return pd.read_csv(PRINTED / f"{name}.csv", dtype=str, keep_default_na=False)


@dataclass(frozen=True)
class Table:
    """Words in rows and columns, ready to be read; the columns in `right` hold numbers and are set flush right."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Collection[int]


@dataclass(frozen=True)
class Figure:
    """A picture: name becomes its file name (figure3-cola-minilm), svg comes from analysis.plots.svg."""

    name: str
    caption: str  # what is shown, of which runs, and what the reader should see
    svg: str

    def __post_init__(self) -> None:
        """The name, in which a record's words may be, is one file's, whatever these are."""
        object.__setattr__(self, "name", re.sub(r"[^\w.-]+|^\.+", "-", self.name)[:120])


@dataclass(frozen=True)
class Exhibit:
    """One table or figure of the paper, ours beside theirs; or one that the paper should have had."""

    title: str  # Table 2: GLUE with RoBERTa and DeBERTa
    says: Sequence[str]  # paragraphs: what is shown, how it is aggregated, what was found
    tables: Sequence[Table]
    figures: Sequence[Figure]
    data: pd.DataFrame | None  # the same numbers unrounded, one a row: written as CSV
    missing: Sequence[str]  # what is not there, and the command that would make it
