"""WikiSQL as text: the table's columns and a question, answered by a query."""

from __future__ import annotations

from typing import Any

from tasks.prompts import Form
from tasks.rows import Row, are_texts, is_text, lost, not_parallel, not_text, shown


class WikiSQL(Form):
    """Appendix C of the paper: the context is the table's schema and the query, the target the SQL.

    How they are written down it does not say: the two labelled lines are ours, the target is human_readable.
    """

    def check(self, row: Row) -> str | None:
        """The row must have a question, a header, and SQL as text and as numbers that fit the header."""
        problem = not_text(row, "question") or lost(row, "table", "sql")
        if problem:
            return problem
        table, sql = row["table"], row["sql"]
        header = table.get("header") if isinstance(table, dict) else None
        if not isinstance(header, list) or not are_texts(header) or not header:
            return f"'table.header' is not a list of texts: {shown(header)}"
        if not isinstance(sql, dict) or not is_text(sql.get("human_readable")):
            return f"'sql.human_readable' is not text: {shown(sql)}"
        if not (_index(sql.get("sel"), len(header)) and _index(sql.get("agg"), 6)):
            return f"'sql' has no column 'sel' of the header or no aggregate 'agg' from 0 to 5: {shown(sql)}"
        return _conditions(sql, len(header))

    def fingerprint(self, row: Row) -> list[Any]:
        """Question, header, the query as text and as the numbers that it is scored by."""
        sql, conds = row["sql"], row["sql"]["conds"]
        return [row["question"], row["table"]["header"], sql["human_readable"], sql["sel"], sql["agg"],
                conds["column_index"], conds["operator_index"], conds["condition"]]

    def examples(self, row: Row) -> list[tuple[str, str]]:
        """One pair."""
        context = f"table: {', '.join(row['table']['header'])}\nquestion: {row['question']}\n"
        return [(context, row["sql"]["human_readable"])]


def _conditions(sql: dict[str, Any], columns: int) -> str | None:
    """What is wrong with the conditions of a query."""
    problem = lost(sql, "conds") or not_parallel(sql, "conds", "condition")
    if problem:
        return problem
    conds, count = sql["conds"], len(sql["conds"]["condition"])
    for name, size in (("column_index", columns), ("operator_index", 4)):
        values = conds.get(name)
        if not isinstance(values, list) or len(values) != count or not all(_index(value, size) for value in values):
            return f"'sql.conds.{name}' is not a list of {count} numbers from 0 to {size - 1}: {shown(values)}"
    return None


def _index(value: object, size: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < size
