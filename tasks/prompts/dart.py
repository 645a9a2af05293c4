"""DART as the official repository has it: triples with relations in small letters, every text of a row."""

from __future__ import annotations

from typing import Any

from tasks.prompts import Form
from tasks.rows import Row, are_texts, lost, not_parallel, shown


class DART(Form):
    """`subject : relation : object | …` and a text, one pair for each."""

    def check(self, row: Row) -> str | None:
        """The row must have triples of three texts, and a list of texts."""
        problem = lost(row, "tripleset", "annotations") or not_parallel(row, "annotations", "text")
        if problem:
            return problem
        triples = row["tripleset"]
        if isinstance(triples, list) and triples and all(are_texts(each) and len(each) == 3 for each in triples):
            return None
        return f"'tripleset' is not a list of triples of text: {shown(triples)}"

    def fingerprint(self, row: Row) -> list[Any]:
        """Triples and texts."""
        return [row["tripleset"], row["annotations"]["text"]]

    def examples(self, row: Row) -> list[tuple[str, str]]:
        """One pair for each text."""
        context = " | ".join(f"{subject} : {relation.lower()} : {item}" for subject, relation, item in row["tripleset"])
        return [(context, text) for text in row["annotations"]["text"]]
