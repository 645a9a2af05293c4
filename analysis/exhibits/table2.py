"""Table 2: GLUE with RoBERTa base, RoBERTa large and DeBERTa XXL."""

from __future__ import annotations

from analysis import beside
from analysis.exhibit import Exhibit, Inputs

NEEDS = "records of GLUE; python run.py table=table2-roberta-base makes those of its rows of RoBERTa base"
SAYS = """\
On the validation sets, in points: accuracy (MNLI: matched and mismatched together), Matthews correlation for CoLA,
Pearson correlation for STS-B. The median over five seeds, of each run's best epoch; an epoch chosen on the set that
is reported flatters (see splitdev). Avg. is the mean of the eight, ours only where all eight are there. An
asterisk: taken from earlier work, where fine-tuning has no MNLI start, while LoRA's MRPC, RTE and STS-B have one (see
control). A dagger: the restricted setup, with length 128, one batch size for all tasks and no MNLI start."""
LAYOUT = beside.Layout("table2_glue", ("model and method", "trainable"), lambda number: (number.label, number.params),
                       lambda number: beside.HEADS[number.task])


def make(inputs: Inputs) -> Exhibit:
    """The printed rows, ours under each."""
    return beside.table("Table 2: GLUE", [SAYS], LAYOUT, inputs)
