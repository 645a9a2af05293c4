"""Table 4: GPT-3 on WikiSQL, MNLI and SAMSum."""

from __future__ import annotations

from analysis import beside
from analysis.exhibit import Exhibit, Inputs

NEEDS = "no record for the printed rows; stand-ins by python run.py table=table4"
SAYS = """\
Logical-form accuracy on WikiSQL, accuracy on MNLI (matched), ROUGE on SAMSum, in points; the best validation
performance of each run. No number has a spread of its own; the paper says that they fluctuate by 0.5 (WikiSQL), 0.1
(MNLI) and 0.2, 0.2, 0.1 (SAMSum). The model is GPT-3, so ours are stand-ins: another model, in a table of its own."""
STAND_IN = "python run.py table=table4"
LAYOUT = beside.Layout("table4_gpt3", ("method", "trainable"), lambda number: (number.label, number.params),
                       lambda number: beside.HEADS[number.metric if number.task == "samsum" else number.task])


def make(inputs: Inputs) -> Exhibit:
    """The printed rows, and stand-ins."""
    return beside.table("Table 4: GPT-3", [SAYS], LAYOUT, inputs, STAND_IN)
