"""Table 14: WebNLG with GPT-2 medium and large, on unseen and seen categories and on all."""

from __future__ import annotations

from analysis import beside
from analysis.exhibit import Exhibit, Inputs

NEEDS = "records of WebNLG; python run.py table=table14-webnlg makes them"
SAYS = """\
On the test set: BLEU in points, METEOR and TER from 0 to 1 (of TER, less is better). The mean over three seeds, as in
Table 3. U: categories that training does not have, S: those it has, A: all. For METEOR and TER the paper only says
that they vary by less than 0.01, which is taken as their spread."""
PARTS = {"test_unseen": "U", "test_seen": "S", "test_all": "A"}
LAYOUT = beside.Layout("webnlg", ("model", "method"), lambda number: (number.model, number.label),
                       lambda number: f"{beside.HEADS[number.metric]} {PARTS[number.split]}")


def make(inputs: Inputs) -> Exhibit:
    """The printed rows, ours under each."""
    return beside.table("Table 14: WebNLG", [SAYS], LAYOUT, inputs)
