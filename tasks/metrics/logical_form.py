"""WikiSQL's logical-form accuracy: is the query, written as text, the one that was asked for?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from engine.contract import Refused
from tasks.metrics import Scores

AGGREGATES = ("", "MAX", "MIN", "COUNT", "SUM", "AVG")  # by WikiSQL's numbers
OPERATORS = ("=", ">", "<", "OP")
Columns = tuple[tuple[str, int], ...]


class Query(NamedTuple):
    """A query by its meaning: two texts that give equal ones ask for the same, in whatever order the conditions stand.

    Columns are numbers in the header, of equal names the first; values are in small letters with single blanks.
    """

    column: int
    aggregate: int
    conditions: frozenset[tuple[int, int, str]]


def score(hypotheses: Sequence[str], headers: Sequence[Sequence[str]], queries: Sequence[Mapping[str, Any]]) -> Scores:
    """logical_form_accuracy: the share of right queries in points. queries: the hub's `sql`; headers: column names.

    Equality is that of WikiSQL's own Query: select column, aggregate and the set of conditions, values without regard
    to case. Beyond it, white space and the case of column names do not count either. Raises Refused where there is
    nothing to score or the lengths differ.
    """
    if not len(hypotheses) == len(headers) == len(queries):
        raise Refused(f"{len(hypotheses):,} outputs, {len(headers):,} headers and {len(queries):,} queries: give as "
                      "many of each")
    if not hypotheses:
        raise Refused("no outputs to score")
    right = sum(map(_right, hypotheses, headers, queries))
    return Scores({"logical_form_accuracy": 100 * right / len(hypotheses)}, {})


def parse(text: str, header: Sequence[str]) -> Query | None:
    """The query that a text of the form `SELECT [MAX] column FROM table [WHERE column = value AND …]` spells, or None.

    Keywords must be in capitals where a column could be meant (the aggregate). A name from the header may hold any of
    them; ` AND ` begins a condition only where a column and an operator follow, so values may hold it too.
    """
    text = " ".join(text.split())
    columns = _columns(tuple(header))
    for number in _aggregates(text):
        start = len("SELECT ") + len(AGGREGATES[number]) + bool(number)
        lower = f"{text[start:].lower()} "
        for name, column in columns:
            opening = f"{name} from table ".lstrip()
            if lower.startswith(opening):
                conditions = _conditions(lower[len(opening):], columns)
                if conditions is not None:
                    return Query(column, number, frozenset(conditions))
    return None


def gold(query: Mapping[str, Any], header: Sequence[str]) -> Query:
    """The meaning of a query in the hub's columns."""
    first = dict(_columns(tuple(header)))
    names = [_plain(name) for name in header]
    conds = query["conds"]
    conditions = zip(conds["column_index"], conds["operator_index"], conds["condition"], strict=True)
    return Query(first[names[query["sel"]]], query["agg"],
                 frozenset((first[names[column]], operator, _plain(value)) for column, operator, value in conditions))


def write(query: Mapping[str, Any], header: Sequence[str]) -> str:
    """A query in the hub's columns as WikiSQL's human_readable has it."""
    conds = query["conds"]
    conditions = [f"{header[column]} {OPERATORS[operator]} {value}" for column, operator, value in
                  zip(conds["column_index"], conds["operator_index"], conds["condition"], strict=True)]
    aggregate = AGGREGATES[query["agg"]]
    select = f"SELECT {aggregate}{' ' if aggregate else ''}{header[query['sel']]} FROM table"
    return f"{select} WHERE {' AND '.join(conditions)}" if conditions else select


def _right(hypothesis: str, header: Sequence[str], query: Mapping[str, Any]) -> bool:
    """By meaning, or by the text itself where that has more than one reading."""
    return parse(hypothesis, header) == gold(query, header) or hypothesis.split() == write(query, header).split()


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


@lru_cache(maxsize=64)  # a table's questions follow each other
def _columns(header: tuple[str, ...]) -> Columns:
    """Names in small letters with their numbers (of equal names the first), long ones first: one may begin another."""
    numbers = {_plain(name): column for column, name in reversed(list(enumerate(header)))}
    return tuple(sorted(numbers.items(), key=lambda item: (-len(item[0]), item[1])))


def _aggregates(text: str) -> list[int]:
    """The aggregates that the text may begin with, the named one before none; nothing where it is no SELECT."""
    if not text.startswith("SELECT "):
        return []
    return [number for number in (1, 2, 3, 4, 5) if text.startswith(f"SELECT {AGGREGATES[number]} ")] + [0]


def _conditions(rest: str, columns: Columns) -> list[tuple[int, int, str]] | None:
    """What stands behind FROM table, in small letters with a blank at the end; None: it is no list of conditions."""
    if not rest:
        return []
    if not rest.startswith("where "):
        return None
    found: list[tuple[int, int, str]] = []
    head = _head(rest, len("where "), columns)
    while head:
        column, operator, begin = head
        end, head = _next(rest, begin - 1, columns)
        found.append((column, operator, rest[begin:end].strip()))
    return found or None


def _next(rest: str, place: int, columns: Columns) -> tuple[int, tuple[int, int, int] | None]:
    """Where the value ends, and the head of the condition behind it, if there is one."""
    while (place := rest.find(" and ", place)) >= 0:
        head = _head(rest, place + len(" and "), columns)
        if head:
            return place, head
        place += 1
    return len(rest), None


def _head(rest: str, place: int, columns: Columns) -> tuple[int, int, int] | None:
    """Column, operator and the beginning of the value of a condition that begins at place."""
    for name, column in columns:
        if rest.startswith(name, place):
            for number, operator in enumerate(OPERATORS):
                sign = f" {operator.lower()} " if name else f"{operator.lower()} "
                if rest.startswith(sign, place + len(name)):
                    return column, number, place + len(name) + len(sign)
    return None
