"""Table 13: DART with GPT-2 medium and large."""

from __future__ import annotations

from analysis import beside
from analysis.exhibit import Exhibit, Inputs

NEEDS = "records of DART; python run.py table=table13-dart makes them"
SAYS = """\
On the test set: BLEU in points, METEOR and TER from 0 to 1 (of TER, less is better). The mean over three seeds, as in
Table 3. For METEOR and TER the paper only says that they vary by less than 0.01, which is taken as their spread."""
LAYOUT = beside.Layout(
    "dart", ("model", "method", "trainable"),
    lambda number: (number.model, number.label, number.params),
    lambda number: beside.HEADS[number.metric])


def make(inputs: Inputs) -> Exhibit:
    """The printed rows, ours under each."""
    return beside.table("Table 13: DART", [SAYS], LAYOUT, inputs)
