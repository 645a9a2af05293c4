"""WebNLG 2017 as the official repository has it: the modified triples, and only the texts that are marked good."""

from __future__ import annotations

from typing import Any

from tasks.prompts import Form
from tasks.rows import Row, are_texts, is_text, lost, not_parallel, shown

SEEN = ("Airport", "Astronaut", "Building", "City", "ComicsCharacter", "Food", "Monument", "SportsTeam", "University",
        "WrittenWork")  # the official script's; the paper counts nine
REPEATED = "testdata_unseen_with_lex"  # the hub's test split has these rows a second time, among testdata_with_lex


class WebNLG(Form):
    """`subject : property : object | …` and a text, one pair for each good one.

    The hub's training rows rebuild the official train.json byte for byte. Its test split joins three files of the
    challenge: testdata_with_lex, all that is scored; testdata_no_lex, the same without texts; and once more the unseen
    categories, which give no examples here, or they would count twice.
    """

    def check(self, row: Row) -> str | None:
        """The row must have one modified triple set of 's | p | o' strings, and texts with comments."""
        problem = lost(row, "category", "modified_triple_sets", "lex") or not_parallel(row, "lex", "comment", "text")
        if problem:
            return problem
        if not is_text(row["category"]):
            return f"'category' is not text: {shown(row['category'])}"
        if not is_text(row.get("test_category", "")):
            return f"'test_category' is not text: {shown(row['test_category'])}"
        sets = row["modified_triple_sets"]
        triples = sets.get("mtriple_set") if isinstance(sets, dict) else None
        if not isinstance(triples, list) or len(triples) != 1 or not are_texts(triples[0]) or not triples[0]:
            return f"'modified_triple_sets' is not one list of triples under 'mtriple_set': {shown(sets)}"
        wrong = [triple for triple in triples[0] if triple.count(" | ") != 2]
        return f"not a triple 'subject | property | object': {shown(wrong[0])}" if wrong else None

    def fingerprint(self, row: Row) -> list[Any]:
        """Category, part of the test set, triples, and texts with their comments."""
        return [row["category"], row.get("test_category", ""), row["modified_triple_sets"]["mtriple_set"],
                row["lex"]["comment"], row["lex"]["text"]]

    def examples(self, row: Row) -> list[tuple[str, str]]:
        """One pair for each good text: none for a row that has none."""
        if row.get("test_category") == REPEATED:
            return []
        context = " | ".join(triple.replace(" | ", " : ") for triple in row["modified_triple_sets"]["mtriple_set"][0])
        return [(context, text) for comment, text in zip(row["lex"]["comment"], row["lex"]["text"], strict=True)
                if comment == "good"]

    def part(self, row: Row) -> str | None:
        """Whether the category is one of training: seen or unseen."""
        return "seen" if row["category"] in SEEN else "unseen"
