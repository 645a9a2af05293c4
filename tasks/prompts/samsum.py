"""SAMSum as text: a chat, summarised."""

from __future__ import annotations

import re
from typing import Any

from tasks.prompts import Form
from tasks.rows import Row, RowFormat, TextRows


class SAMSum(TextRows, Form):
    """Appendix C of the paper: utterances joined by "\\n", then "\\n\\n"; the target is the summary.

    Ours: the data's \\r\\n are line ends like \\n, and blanks around the whole chat and the summary are left out.
    """

    def __init__(self) -> None:
        super().__init__(("dialogue", "summary"))

    def check(self, row: Row) -> str | None:
        """The row must have a dialogue and a summary."""
        return super().check(_given(row))

    def fingerprint(self, row: Row) -> list[Any]:
        """Both texts."""
        return super().fingerprint(_given(row))

    first_wrong, lines = RowFormat.first_wrong, RowFormat.lines  # by check() and fingerprint(), a row at a time

    def examples(self, row: Row) -> list[tuple[str, str]]:
        """One pair; an empty dialogue (the training set has one) is a context of line ends alone."""
        return [(f"{_lines(_given(row)['dialogue'])}\n\n", _lines(row["summary"]))]


def _given(row: Row) -> Row:
    """The row, its dialogue empty where it is null: copies made by way of CSV do not tell the two apart."""
    return {**row, "dialogue": ""} if "dialogue" in row and row["dialogue"] is None else row


def _lines(text: str) -> str:
    return re.sub(r"\r\n?", "\n", text).strip()
