"""Tables in Markdown that can be read as they are."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def grid(rows: Sequence[Sequence[str]], right: Collection[int]) -> list[str]:
    """The lines of a table, the first row its head; the columns in `right` are set flush right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.rjust(width) if i in right else cell.ljust(width)
                               for i, (cell, width) in enumerate(zip(row, widths, strict=True))) + " |" for row in rows]
    rule = ["-" * (width + 1) + (":" if i in right else "-") for i, width in enumerate(widths)]
    return [lines[0], f"|{'|'.join(rule)}|", *lines[1:]]
