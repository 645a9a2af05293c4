"""Exhibits in Markdown that can be read as they are."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from analysis.exhibit import Exhibit


def page(exhibit: Exhibit) -> str:
    """The whole exhibit: what it says, its tables, its figures by their place beside the tables, what is missing."""
    lines = [f"# {exhibit.title}", ""]
    for paragraph in exhibit.says:
        lines += [paragraph, ""]
    for table in exhibit.tables:
        lines += [f"**{table.title}**", "", *grid([table.columns, *table.rows], table.right), ""]
    for figure in exhibit.figures:
        lines += [f"![{figure.name}](../figures/{figure.name}.svg)", "", figure.caption, ""]
    if exhibit.missing:
        lines += ["Not there:", "", *(f"- {what}" for what in exhibit.missing), ""]
    return "\n".join(lines)


def many(count: int, what: str) -> str:
    """1 run, 2 runs."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def grid(rows: Sequence[Sequence[str]], right: Collection[int]) -> list[str]:
    """The lines of a table, the first row its head; the columns in `right` are set flush right."""
    safe = [[cell.replace("|", r"\|").replace("*", r"\*") for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in safe) for i in range(len(safe[0]))]
    lines = ["| " + " | ".join(cell.rjust(width) if i in right else cell.ljust(width)
                               for i, (cell, width) in enumerate(zip(row, widths, strict=True))) + " |" for row in safe]
    rule = ["-" * (width + 1) + (":" if i in right else "-") for i, width in enumerate(widths)]
    return [lines[0], f"|{'|'.join(rule)}|", *lines[1:]]
