"""Tables in LaTeX, to be \\input; they need booktabs and graphicx."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.exhibit import Table

SIGNS = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
         "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "—": "---", "–": "--", "−": "$-$", "±": r"$\pm$",
         "†": r"$\dagger$", "×": r"$\times$", "Δ": r"$\Delta$", "φ": r"$\phi$", "α": r"$\alpha$", "√": r"$\surd$",
         "²": "$^2$", "≤": r"$\le$", "≥": r"$\ge$", "<": r"$<$", ">": r"$>$", "…": r"\ldots{}", "·": r"$\cdot$",
         "→": r"$\to$", "‖": r"$\|$", "ᵀ": "$^T$", "✓": "yes", "✗": "no",
         "σ": r"$\sigma$", "Σ": r"$\Sigma$", "∞": r"$\infty$", "₀": "$_0$", "≈": r"$\approx$"}
HEAD = r"% \usepackage{booktabs,graphicx} and UTF-8; what the columns mean stands in the Markdown of the same name"


def page(name: str, tables: Sequence[Table]) -> str:
    """The tables of an exhibit, labelled tab:<name>-1 and so on."""
    return "\n\n".join([HEAD, *(tabular(table, f"tab:{name}-{n}") for n, table in enumerate(tables, 1))]) + "\n"


def tabular(table: Table, label: str) -> str:
    """The table as a LaTeX environment with its title as caption, made smaller where it is wider than the text."""
    kinds = "".join("r" if i in table.right else "l" for i in range(len(table.columns)))
    return "\n".join([r"\begin{table}", r"\centering", rf"\caption{{{escape(table.title)}}}\label{{{label}}}",
                      rf"\setbox0=\hbox{{\begin{{tabular}}{{{kinds}}}", r"\toprule", line(table.columns), r"\midrule",
                      *map(line, table.rows), r"\bottomrule", r"\end{tabular}}%",
                      r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\box0}\else\box0\fi", r"\end{table}"])


def line(row: Sequence[str]) -> str:
    """A row; a cell that begins with [ would otherwise be read as an option of the line end before it."""
    return " & ".join(("{}" if cell.startswith("[") else "") + escape(cell) for cell in row) + r" \\"


def escape(text: str) -> str:
    """Every sign that LaTeX would read as a command, and those that its fonts lack."""
    return "".join(SIGNS.get(sign, sign) for sign in text)
