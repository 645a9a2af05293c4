"""Table 6: which rank (GPT-3)."""

from __future__ import annotations

from analysis import beside
from analysis.exhibit import Exhibit, Inputs

NEEDS = "no record for the printed rows; stand-ins by python run.py table=table6"
SAYS = """\
LoRA at ranks from 1 to 64, on W_q, on W_q and W_v, and on all four matrices of the attention. The model is GPT-3, so
ours are stand-ins: another model, in a table of its own."""
STAND_IN = "python run.py table=table6"
LAYOUT = beside.Layout("table6_rank", ("task and matrices",), lambda number: (number.label,),
                       lambda number: number.variant.partition(";")[2])


def make(inputs: Inputs) -> Exhibit:
    """The printed rows, and stand-ins."""
    return beside.table("Table 6: rank", [SAYS], LAYOUT, inputs, STAND_IN)
