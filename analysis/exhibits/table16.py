"""Table 16: MNLI with few examples (GPT-3)."""

from __future__ import annotations

from analysis import beside
from analysis.exhibit import Exhibit, Inputs

NEEDS = "no record for the printed rows; stand-ins by python run.py table=table16"
SAYS = """\
Accuracy on the whole matched validation set after training on so many examples (Appendix F.3), in points; the paper
says that seeds move MNLI-1k and MNLI-10k by 0.3. The model is GPT-3, so ours are stand-ins: another model, in a table
of its own."""
STAND_IN = "python run.py table=table16"
LAYOUT = beside.Layout("low_data_mnli", ("method",), lambda number: (number.label,),
                       lambda number: number.split)


def make(inputs: Inputs) -> Exhibit:
    """The printed rows, and stand-ins."""
    return beside.table("Table 16: MNLI with few examples", [SAYS], LAYOUT, inputs, STAND_IN)
