"""Table 15: every method at several sizes (GPT-3); the points of Figure 2."""

from __future__ import annotations

from analysis import beside
from analysis.exhibit import Exhibit, Inputs

NEEDS = "no record for the printed rows; stand-ins by python run.py table=table15"
SAYS = """\
Validation accuracy in points. The model is GPT-3, so ours are stand-ins: another model, in a table of its own."""
STAND_IN = "python run.py table=table15"
LAYOUT = beside.Layout(
    "gpt3_hyperparameter_analysis", ("method", "settings", "trainable"),
    lambda number: (number.label, number.variant.replace(";", ", "), number.params),
    lambda number: beside.HEADS[number.task])


def make(inputs: Inputs) -> Exhibit:
    """The printed rows, and stand-ins."""
    return beside.table("Table 15: methods and sizes, GPT-3", [SAYS], LAYOUT, inputs, STAND_IN)
