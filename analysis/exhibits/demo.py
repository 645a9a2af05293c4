"""Runs on generated text (scale=demo), a line a cell; they enter no other exhibit."""

from __future__ import annotations

from analysis.exhibit import Exhibit, Inputs
from analysis.exhibits import runs

NEEDS = "a record of scale=demo; python run.py task=mnli method=lora r=8 scale=demo makes one"


def make(inputs: Inputs) -> Exhibit:
    """What the demo's runs gave."""
    return runs.listed("Runs on generated text", inputs, generated=True, hint=NEEDS)
