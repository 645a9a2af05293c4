"""How rows of a data set become a text to go on from and the text that should follow: one class a data set."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Protocol

Row = Mapping[str, Any]


class Form(Protocol):
    """Rows of one data set, in the hub's columns, as (context, completion); signs that part the two are not added here.

    Only a row that `check` passes may be given to the other methods; they then never raise.
    """

    def check(self, row: dict[str, Any]) -> str | None:
        """What is wrong with the row, in a few words, or None."""

    def fingerprint(self, row: dict[str, Any]) -> list[Any]:
        """Everything that is used of the row, as JSON: the same for a Parquet file and for JSON Lines."""

    def examples(self, row: dict[str, Any]) -> list[tuple[str, str]]:
        """One (context, completion) for each reference of the row, in its order."""

    def part(self, row: dict[str, Any]) -> str | None:
        """Which part of the data set is scored apart (WebNLG: seen or unseen); None: no parts."""


def is_text(value: object) -> bool:
    """Whether it is a string that can be written as UTF-8."""
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


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
