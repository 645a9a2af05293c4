"""SAMSum as text: a chat, summarised."""

from __future__ import annotations

import re
from typing import Any

from tasks.prompts import not_text


class SAMSum:
    """Appendix C of the paper: utterances joined by "\\n", then "\\n\\n"; the target is the summary.

    Ours: the data's \\r\\n are line ends like \\n, and blanks around the whole chat and the summary are left out.
    """

    def check(self, row: dict[str, Any]) -> str | None:
        """The row must have a dialogue and a summary. A dialogue that is null counts as empty: copies made by CSV
        do not tell them apart."""
        return not_text({**row, "dialogue": row["dialogue"] or ""} if "dialogue" in row else row, "dialogue", "summary")

    def fingerprint(self, row: dict[str, Any]) -> list[Any]:
        """Both columns."""
        return [row["dialogue"] or "", row["summary"]]

    def examples(self, row: dict[str, Any]) -> list[tuple[str, str]]:
        """One pair; an empty dialogue (the training set has one) is a context of line ends alone."""
        return [(f"{_lines(row['dialogue'] or '')}\n\n", _lines(row["summary"]))]

    def part(self, row: dict[str, Any]) -> str | None:
        """None: the test set is scored as a whole."""
        return None


def _lines(text: str) -> str:
    return re.sub(r"\r\n?", "\n", text).strip()
