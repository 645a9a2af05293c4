"""Table 3: E2E NLG with GPT-2 medium and large."""

from __future__ import annotations

from analysis import beside
from analysis.exhibit import Exhibit, Inputs

NEEDS = "records of E2E; python run.py table=table3-gpt2-medium makes those of GPT-2 medium"
SAYS = """\
On the test set, by the challenge's own scorer: BLEU, METEOR and ROUGE-L in points, NIST and CIDEr as they are. The
mean over three seeds, each decoded from its best epoch with ten beams. An asterisk: taken from earlier work. The
paper calls its spread a confidence interval; ours is a standard deviation."""
LAYOUT = beside.Layout("table3_e2e", ("model and method", "trainable"), lambda number: (number.label, number.params),
                       lambda number: beside.HEADS[number.metric])


def make(inputs: Inputs) -> Exhibit:
    """The printed rows, ours under each."""
    return beside.table("Table 3: E2E NLG", [SAYS], LAYOUT, inputs)
