"""How rows of a data set become a text to go on from and the text that should follow: one class a data set."""

from __future__ import annotations

from tasks.rows import Row, RowFormat


class Form(RowFormat):
    """Rows of one data set, in the hub's columns, as (context, completion); signs that part the two are not added here.

    Only a row that `check` passes may be given to the other methods; they then never raise.
    """

    def examples(self, row: Row) -> list[tuple[str, str]]:
        """One (context, completion) for each reference of the row, in its order."""
        raise NotImplementedError

    def part(self, row: Row) -> str | None:
        """Which part of the data set is scored apart (WebNLG: seen or unseen); None: no parts."""
        return None
