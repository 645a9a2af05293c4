"""Table 8: fine-tuned against few-shot GPT-3."""

from __future__ import annotations

from analysis import beside
from analysis.exhibit import Exhibit, Inputs

NEEDS = "no record for the printed rows; stand-ins by python run.py table=table4 task=mnli-lm method=ft"
SAYS = """\
Validation accuracy. Few-shot, six examples in the prompt for MNLI, trains nothing, and this suite does not run it. Of
RTE the suite has the form for encoders alone, which is another task. The model is GPT-3, so ours are stand-ins:
another model, in a table of its own."""
STAND_IN = "python run.py table=table4 task=mnli-lm method=ft"
LAYOUT = beside.Layout("table8_fewshot", ("method",), lambda number: (number.label,),
                       lambda number: beside.HEADS[number.task])


def make(inputs: Inputs) -> Exhibit:
    """The printed rows, and stand-ins."""
    return beside.table("Table 8: few-shot against fine-tuning", [SAYS], LAYOUT, inputs, STAND_IN)
