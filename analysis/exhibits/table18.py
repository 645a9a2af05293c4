"""Table 18: LoRA's rank in GPT-2 medium on E2E."""

from __future__ import annotations

from analysis import beside
from analysis.exhibit import Exhibit, Inputs

NEEDS = "records of E2E with LoRA; python run.py table=table18 makes them"
SAYS = """\
Validation loss (ours in nats a token; the paper names no unit) and the test metrics: BLEU in points, METEOR and
ROUGE-L from 0 to 1. The paper trained for 26,000 steps and tuned some hyperparameters at r=4; how many seeds it had
it does not say, and it prints no spread. Ours are means."""
LAYOUT = beside.Layout("rank_gpt2_e2e", ("rank",), lambda number: (number.label,),
                       lambda number: beside.HEADS[number.metric])


def make(inputs: Inputs) -> Exhibit:
    """The printed rows, ours under each."""
    return beside.table("Table 18: rank, GPT-2 medium on E2E", [SAYS], LAYOUT, inputs)
