"""Table 5: which weight matrices to adapt, at the same number of parameters (GPT-3)."""

from __future__ import annotations

from analysis import beside
from analysis.exhibit import Exhibit, Inputs

NEEDS = "no record for the printed rows; stand-ins by python run.py table=table5"
SAYS = """\
LoRA with 18M trainable parameters in all, on one, two or all four matrices of the attention. The model is GPT-3, so
ours are stand-ins: another model, in a table of its own."""
STAND_IN = "python run.py table=table5"
LAYOUT = beside.Layout("table5_weight_types", ("task",), lambda number: (number.label,),
                       lambda number: number.variant.replace(";", ", "))


def make(inputs: Inputs) -> Exhibit:
    """The printed rows, and stand-ins."""
    return beside.table("Table 5: which matrices", [SAYS], LAYOUT, inputs, STAND_IN)
