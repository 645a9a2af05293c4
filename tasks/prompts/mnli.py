"""MNLI answered in words, by a model that only continues text."""

from __future__ import annotations

from tasks.prompts import Form
from tasks.rows import Row, TextRows

LABELS = ("entailment", "neutral", "contradiction")  # by GLUE's numbers


class MNLI(TextRows, Form):
    """The paper fine-tunes GPT-3 on MNLI and prints no prompt: the two labelled lines are ours, and so is the answer,
    the name of the label."""

    def __init__(self) -> None:
        super().__init__(("premise", "hypothesis"), classes=len(LABELS))

    def examples(self, row: Row) -> list[tuple[str, str]]:
        """One pair."""
        return [(f"premise: {row['premise']}\nhypothesis: {row['hypothesis']}\n", LABELS[int(row["label"])])]
