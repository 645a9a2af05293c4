"""WikiSQL queries as text: every published one reads back, and only what asks for the same counts."""

import gzip
import json
from typing import Any

import pytest
from conftest import ROOT

from engine.contract import Refused
from tasks.metrics.logical_form import Query, gold, parse, score, write

SHARED = ROOT.parent / "shared" / "data" / "wikisql"
HEADER = ["Year", "Played AND Won", "Goals/Game", "Max Goals", "From", "Goals", "Year = Season"]


def sql(sel: int, agg: int, *conditions: tuple[int, int, str]) -> dict[str, Any]:
    names = ("column_index", "operator_index", "condition")
    return {"sel": sel, "agg": agg,
            "conds": {name: [each[place] for each in conditions] for place, name in enumerate(names)}}


TWO = sql(5, 4, (0, 1, "1900"), (1, 0, "Bill AND Ben = two"))


def right(text: str, query: dict[str, Any], header: list[str] = HEADER) -> bool:
    return score([text], [header], [query]).numbers["logical_form_accuracy"] == 100


@pytest.mark.parametrize(("text", "meaning"), [
    ("SELECT Year FROM table", Query(0, 0, frozenset())),
    ("SELECT MAX Goals FROM table", Query(5, 1, frozenset())),
    ("SELECT Max Goals FROM table", Query(3, 0, frozenset())),
    ("SELECT COUNT From FROM table WHERE From = table", Query(4, 3, frozenset({(4, 0, "table")}))),
    ("SELECT goals/game  FROM table WHERE  year < 1900 ", Query(2, 0, frozenset({(0, 2, "1900")}))),
    ("SELECT Year FROM table WHERE Played AND Won = a AND b AND Goals OP 3",
     Query(0, 0, frozenset({(1, 0, "a and b"), (5, 3, "3")}))),
    ("SELECT Year FROM table WHERE Year = Season = 2 AND Goals > 1",
     Query(0, 0, frozenset({(6, 0, "2"), (5, 1, "1")}))),
    ("SELECT Year FROM table WHERE Year =", Query(0, 0, frozenset({(0, 0, "")}))),
    ("SELECT Year FROM table WHERE", None), ("SELECT Year", None), ("SELECT Colour FROM table", None), ("", None),
    ("SELECT Year FROM table WHERE Colour = red", None), ("SELECT Year FROM table LIMIT 3", None),
    ("Year FROM table", None),
])
def test_reading(text: str, meaning: Query | None) -> None:
    assert parse(text, HEADER) == meaning


@pytest.mark.parametrize(("text", "same"), [
    ("SELECT SUM Goals FROM table WHERE Year > 1900 AND Played AND Won = Bill AND Ben = two", True),
    ("SELECT SUM goals FROM table WHERE played and won = bill and ben = TWO AND year > 1900", True),
    ("SELECT SUM Goals FROM table WHERE Year >  1900 AND Played AND Won = Bill  AND Ben = two\n", True),
    ("SELECT AVG Goals FROM table WHERE Year > 1900 AND Played AND Won = Bill AND Ben = two", False),
    ("SELECT Goals FROM table WHERE Year > 1900 AND Played AND Won = Bill AND Ben = two", False),
    ("SELECT SUM Year FROM table WHERE Year > 1900 AND Played AND Won = Bill AND Ben = two", False),
    ("SELECT SUM Goals FROM table WHERE Year = 1900 AND Played AND Won = Bill AND Ben = two", False),
    ("SELECT SUM Goals FROM table WHERE Year > 1900", False),
    ("SELECT SUM Goals FROM table WHERE Year > 1900 AND Played AND Won = Bill AND Ben", False),
])
def test_only_the_same_query_counts(text: str, same: bool) -> None:
    assert right(text, TWO) is same


def test_the_golden_text_counts_even_where_it_can_be_read_in_two_ways() -> None:
    query = sql(0, 0, (0, 0, "1 AND Goals = 2"))
    assert parse(write(query, HEADER), HEADER) != gold(query, HEADER)
    assert right(write(query, HEADER), query)
    assert not right("SELECT Year FROM table WHERE Goals = 2 AND Year = 1", query)


def test_columns_of_one_name_are_one_and_a_column_may_have_none() -> None:
    header = ["Pos", "pos", "", "Name"]
    assert right("SELECT POS FROM table WHERE = 3", sql(1, 0, (2, 0, "3")), header)
    assert right("SELECT FROM table WHERE Name = 3", sql(2, 0, (3, 0, "3")), header)


def test_points_and_refusals() -> None:
    texts = ["SELECT Year FROM table", "SELECT Goals FROM table", "nonsense", "SELECT Year FROM table"]
    assert score(texts, [HEADER] * 4, [sql(0, 0)] * 4).numbers == {"logical_form_accuracy": 50.0}
    with pytest.raises(Refused, match="1 outputs, 2 headers and 1 queries"):
        score(["x"], [HEADER] * 2, [sql(0, 0)])
    with pytest.raises(Refused, match="no outputs"):
        score([], [], [])


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data is not beside the checkout")
def test_every_published_query_reads_back() -> None:
    texts, headers, queries = [], [], []
    for split in ("validation", "test", "train"):
        with gzip.open(SHARED / f"{split}.jsonl.gz", "rt", encoding="utf-8") as file:
            for row in map(json.loads, file):
                texts.append(row["sql"]["human_readable"])
                headers.append(row["table"]["header"])
                queries.append(row["sql"])
    wanted = [gold(query, header) for query, header in zip(queries, headers, strict=True)]
    assert [parse(text, header) for text, header in zip(texts, headers, strict=True)] == wanted and len(texts) == 80334
    some = slice(0, 8000)
    assert list(map(write, queries[some], headers[some])) == texts[some]
    assert score(texts[some], headers[some], queries[some]).numbers == {"logical_form_accuracy": 100.0}
    assert score(texts[-8000:], headers[some], queries[some]).numbers["logical_form_accuracy"] < 0.1
