"""Figure 2: validation accuracy against trainable parameters, GPT-3 on WikiSQL and MNLI (the points of Table 15)."""

from __future__ import annotations

from collections.abc import Sequence
from math import log10

import pandas as pd

from analysis import beside, frames, plots
from analysis.aggregate import stand_ins
from analysis.claims import value
from analysis.exhibit import Exhibit, Figure, Inputs
from analysis.exhibits.table15 import STAND_IN
from analysis.protocol import numbers

NEEDS = "no record for the printed points; stand-ins by python run.py table=table15-stand-in"
SERIES = {"FT": "Fine-Tune", "PreEmbed": "PrefixEmbed", "PreLayer": "PrefixLayer", "Adapter-H": "Adapter(H)",
          "LoRA": "LoRA"}
TASKS = {"wikisql": "WikiSQL", "mnli-lm": "MultiNLI-matched"}
SAYS = """\
Each point is a row of Table 15: how many parameters trained, and the validation accuracy. LoRA holds its accuracy
over two orders of magnitude, while both prefix methods fall off when they get many special tokens. LoRA+PE and
LoRA+PL of Table 15 are not in the paper's figure. Runs of stand-ins, other models and sizes, have a figure of their
own."""
Point = tuple[str, str, str, float, float]  # model, series, task, log10 of the parameters, accuracy


def make(inputs: Inputs) -> Exhibit:
    """The paper's two panels, and those of each stand-in."""
    everything = numbers("gpt3_hyperparameter_analysis")
    printed = [number for number in everything if number.method in SERIES]
    points: list[Point] = [(n.model, n.method, n.task, log10(value(n.params)), float(n.value)) for n in printed]
    figures = [Figure("figure2", "As printed: GPT-3, validation accuracy against log10 of the trainable parameters.",
                      _drawn(points, hollow=False))]
    ours: list[Point] = []
    for entry in stand_ins(frames.real(inputs.records), printed, []):
        if entry.cell and entry.ours and not entry.cell.first.settings["task"].get("limit"):
            run = entry.cell.first
            ours.append((run.model, run.label, run.task, log10(run.footprint["trainable"]), entry.ours.value))
    for model in sorted({point[0] for point in ours}):
        figures.append(Figure(
            f"figure2-{model}", f"Stand-in {model}, on axes of its own: not comparable with the paper's points.",
            _drawn([point for point in ours if point[0] == model], hollow=True)))
    data = pd.DataFrame([("paper", *p) for p in points] + [("ours", *p) for p in ours],
                        columns=["whose", "model", "method", "task", "log10_trainable", "accuracy"])
    return Exhibit("Figure 2: accuracy and trainable parameters", [SAYS], [], figures, data,
                   [] if ours else [f"{beside.NEVER}: `{STAND_IN}`"])


def _drawn(points: Sequence[Point], hollow: bool) -> str:
    """A panel a task, a colour and marker a method."""
    with plots.panels(1, len(TASKS), 3.6, 2.8) as (figure, axes):
        for axis, (task, title) in zip(axes[0], TASKS.items(), strict=True):
            for (method, name), colour, marker in zip(SERIES.items(), plots.COLOURS, plots.MARKERS, strict=False):
                there = sorted((x, y) for _, label, where, x, y in points if (label, where) == (method, task))
                axis.plot([x for x, _ in there], [y for _, y in there], color=colour, marker=marker, label=name,
                          linestyle="none" if hollow else "-", markerfacecolor="none" if hollow else colour)
            axis.set(title=title, xlabel="log10 of trainable parameters", ylabel="validation accuracy")
            if not hollow:
                axis.set_xlim(5.4, 11.6)
        axes[0][-1].legend(fontsize=7)
        return plots.svg(figure)
