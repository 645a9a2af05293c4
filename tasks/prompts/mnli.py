"""MNLI answered in words, by a model that only continues text."""

from __future__ import annotations

from typing import Any

from tasks.prompts import lost, not_text, shown

LABELS = ("entailment", "neutral", "contradiction")  # by GLUE's numbers


class MNLI:
    """The paper fine-tunes GPT-3 on MNLI and prints no prompt: the two labelled lines are ours, and so is the answer,
    the name of the label."""

    def check(self, row: dict[str, Any]) -> str | None:
        """The row must have both sentences and a label from 0 to 2."""
        problem = not_text(row, "premise", "hypothesis") or lost(row, "label")
        if problem:
            return problem
        label = row["label"]
        good = isinstance(label, int) and not isinstance(label, bool) and label in range(len(LABELS))
        return None if good else f"label {shown(label)} is not one of 0 to {len(LABELS) - 1}"

    def fingerprint(self, row: dict[str, Any]) -> list[Any]:
        """Sentences and label."""
        return [row["premise"], row["hypothesis"], row["label"]]

    def examples(self, row: dict[str, Any]) -> list[tuple[str, str]]:
        """One pair."""
        return [(f"premise: {row['premise']}\nhypothesis: {row['hypothesis']}\n", LABELS[row["label"]])]

    def part(self, row: dict[str, Any]) -> str | None:
        """None: either validation set is scored as a whole."""
        return None
