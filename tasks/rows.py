"""The rows of a data set, the checks that each has to pass, and the lines of text that identify them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

Row = Mapping[str, Any]
Rows = Sequence[Row]

_SURROGATE = re.compile("[\ud800-\udfff]")
_encode = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps would make such an encoder anew for every row


class Table(Sequence[Row]):
    """Rows that are kept as columns, as a Parquet file has them: columns[name][i] is table[i][name]. Hundreds of
    thousands of dictionaries would take as much memory as their texts, and seconds to check one by one."""

    def __init__(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Columns of one length."""
        self.columns = columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def __iter__(self) -> Iterator[Row]:
        return (dict(zip(self.columns, values, strict=True)) for values in zip(*self.columns.values(), strict=True))

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> Table: ...
    def __getitem__(self, place: int | slice) -> Row | Table:
        found = {name: values[place] for name, values in self.columns.items()}
        return Table(found) if isinstance(place, slice) else found


def column(rows: Rows, name: str) -> Sequence[Any]:
    """The values of one column. Raises KeyError if a row lacks it."""
    return rows.columns[name] if isinstance(rows, Table) else [row[name] for row in rows]


class RowFormat:
    """What a task needs of its rows. Subclasses say it of one row; what is asked of all rows follows from that."""

    @property
    def columns(self) -> Sequence[str] | None:
        """The columns that every row must have and no others are read; None: all are read, check() knows."""
        return None

    def check(self, row: Row) -> str | None:
        """What is wrong with the row, in a few words, or None."""
        raise NotImplementedError

    def fingerprint(self, row: Row) -> list[Any]:
        """Everything that is used of a row that passed check(), as JSON: the same for Parquet and for JSON Lines."""
        raise NotImplementedError

    def first_wrong(self, rows: Rows) -> tuple[int, str] | None:
        """The place of the first row that does not pass check(), from 0, and what is wrong with it."""
        for place, row in enumerate(rows):
            problem = self.check(row)
            if problem is not None:
                return place, problem
        return None

    def lines(self, rows: Rows) -> Iterator[str]:
        """json.dumps(fingerprint(row), ensure_ascii=False) of each row, with a line break behind."""
        return (f"{_encode(self.fingerprint(row))}\n" for row in rows)


@dataclass(frozen=True)
class TextRows(RowFormat):
    """Rows of one or more texts, and of a label if there are classes or a highest score. Nothing of a row depends on
    two columns at once, so all is done a column at a time: MNLI's 393,000 rows pass in a fifth of a second."""

    texts: Sequence[str]
    classes: int | None = None  # the label is one of 0 to classes - 1
    highest: int | None = None  # the label is a score from 0 to this

    @property
    def columns(self) -> Sequence[str]:
        """The texts, and the label if there is one."""
        return [*self.texts, "label"] if self._labelled else [*self.texts]

    @property
    def _labelled(self) -> bool:
        return self.classes is not None or self.highest is not None

    def check(self, row: Row) -> str | None:
        """No column may be missing, texts must be texts, and a label one of the classes or a score."""
        problem = lost(row, *self.columns) or not_text(row, *self.texts)
        if problem or not self._labelled or self._is_label(row["label"]):
            return problem
        return f"label {shown(row['label'])} is not " + (
            f"a score from 0 to {self.highest}" if self.classes is None else f"one of 0 to {self.classes - 1}")

    def fingerprint(self, row: Row) -> list[Any]:
        """Texts and label."""
        return [*(row[name] for name in self.texts), *([self._number(row["label"])] if self._labelled else [])]

    def first_wrong(self, rows: Rows) -> tuple[int, str] | None:
        """As check() finds it, which is asked only where something is wrong."""
        try:
            sound = all(all(map(is_text, column(rows, name))) for name in self.texts)
            sound = sound and (not self._labelled or all(map(self._is_label, column(rows, "label"))))
        except KeyError:
            sound = False
        return None if sound else super().first_wrong(rows)

    def lines(self, rows: Rows) -> Iterator[str]:
        """The same lines, put together of values: an encoder is quick with a text, and slow to begin with a list."""
        values: list[Iterator[str]] = [map(_encode, column(rows, name)) for name in self.texts]
        if self._labelled:
            values.append(repr(self._number(label)) for label in column(rows, "label"))  # as json writes numbers
        return (f"[{', '.join(each)}]\n" for each in zip(*values, strict=True))

    def _is_label(self, value: object) -> bool:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            return False
        if self.classes is not None:
            return value in range(self.classes)
        return self.highest is not None and 0 <= value <= self.highest

    def _number(self, label: float) -> float:
        """A class as an integer; a score as the hub keeps it, in float32."""
        return float(np.float32(label)) if self.classes is None else int(label)


def is_text(value: object) -> bool:
    """Whether it is a string that can be written as UTF-8."""
    return isinstance(value, str) and (value.isascii() or not _SURROGATE.search(value))


def are_texts(values: object) -> bool:
    """Whether it is a list of such strings."""
    return isinstance(values, list) and all(map(is_text, values))


def lost(row: Row, *columns: str) -> str | None:
    """What is wrong if the row lacks one of the columns."""
    missing = [name for name in columns if name not in row]
    return f"no column '{missing[0]}' (it has {', '.join(map(str, row))})" if missing else None


def not_text(row: Row, *columns: str) -> str | None:
    """What is wrong if one of the columns is missing or holds no text."""
    return lost(row, *columns) or next((f"'{name}' is not text: {shown(row[name])}" for name in columns
                                        if not is_text(row[name])), None)


def not_parallel(row: Row, column: str, *fields: str) -> str | None:
    """What is wrong if a column is not a set of text lists (the fields) of one length."""
    value = row[column]
    if not isinstance(value, dict):
        return f"'{column}' is not a table of {', '.join(fields)}: {shown(value)}"
    for name in fields:
        if not are_texts(value.get(name)):
            return f"'{column}.{name}' is not a list of texts: {shown(value.get(name))}"
    if len({len(value[name]) for name in fields}) > 1:
        return f"the lists in '{column}' differ in length"
    return None


def shown(value: object) -> str:
    """A value for a message of one line: ASCII, at most 60 signs."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
