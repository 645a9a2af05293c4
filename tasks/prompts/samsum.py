"""SAMSum as text: a chat, summarised."""

from __future__ import annotations

import re

from tasks.prompts import Form
from tasks.rows import Row, TextRows


class SAMSum(TextRows, Form):
    """Appendix C of the paper: utterances joined by "\\n", then "\\n\\n"; the target is the summary.

    Ours: the data's \\r\\n are line ends like \\n, and blanks around the whole chat and the summary are left out.
    """

    def __init__(self) -> None:
        super().__init__(("dialogue", "summary"))

    def examples(self, row: Row) -> list[tuple[str, str]]:
        """One pair; an empty dialogue (the training set has one) is a context of line ends alone."""
        return [(f"{_lines(row['dialogue'])}\n\n", _lines(row["summary"]))]


def _lines(text: str) -> str:
    return re.sub(r"\r\n?", "\n", text).strip()
