"""Figure 2: validation accuracy against trainable parameters, GPT-3 on WikiSQL and MNLI; our own methods apart."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import log10

import pandas as pd

from analysis import beside, frames, plots
from analysis.aggregate import Statistic, stand_ins, statistic
from analysis.claims import value
from analysis.exhibit import Exhibit, Figure, Inputs
from analysis.exhibits.table15 import STAND_IN
from analysis.protocol import numbers
from engine.record import Record

NEEDS = "no record for the printed points; stand-ins by python run.py table=table15"
SERIES = {"FT": "Fine-Tune", "PreEmbed": "PrefixEmbed", "PreLayer": "PrefixLayer", "Adapter-H": "Adapter(H)",
          "LoRA": "LoRA"}
TASKS = {"wikisql": "WikiSQL", "mnli-lm": "MultiNLI-matched"}
METHODS = ("LoRA", "FT", "FT-Top2", "BitFit", "Adapter-H", "Adapter-L", "Adapter-P", "Adapter-D", "PreEmbed",
           "PreLayer", "LoRA+PE", "LoRA+PL")  # each has one look in all figures
MARKERS = (*plots.MARKERS, "<", ">", "p", "h")
SEVERAL = 4  # methods from which on a task and a model have a figure
SAYS = """\
Each point is a row of Table 15: how many parameters trained, and the validation accuracy. LoRA holds its accuracy
over two orders of magnitude, while both prefix methods fall off when they get many special tokens. LoRA+PE and
LoRA+PL of Table 15 are not in the paper's figure. Runs of stand-ins, other models and sizes, have a figure of their
own, and so has every task and model of which four methods were run."""
Point = tuple[str, str, str, float, float]  # model, series, task, log10 of the parameters, accuracy


@dataclass(frozen=True)
class Median:
    """One cell of our own: its runs' median of the task's metric."""

    run: Record
    log10: float  # of the trained parameters
    ours: Statistic

    @property
    def series(self) -> tuple[str, bool]:
        """The method, and whether it started from MNLI."""
        return self.run.label, self.run.settings.get("init_from") == "mnli"

    @property
    def settings(self) -> str:
        """The method's, and what the command line changed."""
        typed = [word for word in frames.changed(self.run).split() if not word.startswith("init_from=")]
        return " ".join(filter(None, [self.run.variant, *typed, "init_from=mnli" * self.series[1]]))


def make(inputs: Inputs) -> Exhibit:
    """The paper's two panels, those of each stand-in, and one panel for each task and model with several methods."""
    everything = numbers("gpt3_hyperparameter_analysis")
    printed = [number for number in everything if number.method in SERIES]
    points: list[Point] = [(n.model, n.method, n.task, log10(value(n.params)), float(n.value)) for n in printed]
    figures = [Figure("figure2", "As printed: GPT-3, validation accuracy against log10 of the trainable parameters.",
                      _drawn(points, hollow=False))]
    cells = frames.real(inputs.records)
    ours: list[Point] = []
    for entry in stand_ins(cells, printed, []):
        if entry.cell and entry.ours and not entry.cell.first.settings["task"].get("limit"):
            run = entry.cell.first
            ours.append((run.model, run.label, run.task, log10(run.footprint["trainable"]), entry.ours.value))
    for model in sorted({point[0] for point in ours}):
        figures.append(Figure(
            f"figure2-{model}", f"Stand-in {model}, on axes of its own: not comparable with the paper's points.",
            _drawn([point for point in ours if point[0] == model], hollow=True)))
    several = _several(cells)
    figures += [_methods(name, medians) for name, medians in several.items()]
    lines = [("paper", *p, "accuracy", 1, None, "") for p in points] + [
        ("ours", *p, "accuracy", None, None, "") for p in ours] + [
        (name, m.run.model, m.run.label, m.run.task, m.log10, m.ours.value, m.run.metric, m.ours.n, m.ours.spread,
         m.settings)
        for name, medians in several.items() for m in medians]
    data = pd.DataFrame(lines, columns=["whose", "model", "method", "task", "log10_trainable", "value", "metric", "n",
                                        "spread", "settings"]).astype({"n": "Int64", "spread": float})
    return Exhibit("Figure 2: accuracy and trainable parameters", [SAYS], [], figures, data,
                   [] if ours else [f"{beside.NEVER}: `{STAND_IN}`"])


def _drawn(points: Sequence[Point], hollow: bool) -> str:
    """A panel a task, a colour and marker a method; no line where two points of a method have the same size."""
    with plots.panels(1, len(TASKS), 3.6, 2.8) as (figure, axes):
        for axis, (task, title) in zip(axes[0], TASKS.items(), strict=True):
            for (method, name), colour, marker in zip(SERIES.items(), plots.COLOURS, plots.MARKERS, strict=False):
                there = sorted((x, y) for _, label, where, x, y in points if (label, where) == (method, task))
                line = not hollow and len({x for x, _ in there}) == len(there)
                axis.plot([x for x, _ in there], [y for _, y in there], color=colour, marker=marker, label=name,
                          linestyle="-" if line else "none", markerfacecolor="none" if hollow else colour)
            axis.set(title=title, xlabel="log10 of trainable parameters", ylabel="validation accuracy")
            if not hollow:
                axis.set_xlim(5.4, 11.6)
        axes[0][-1].legend(fontsize=7)
        return plots.svg(figure)


def _several(cells: Sequence[frames.Cell]) -> dict[str, list[Median]]:
    """The cells of each task and model that has several methods, by the name of their figure; the whole data and each
    part of it, and texts of each split, apart."""
    found: dict[str, list[Median]] = {}
    for cell in cells:
        run = cell.first
        ours = statistic(cell, run.metric, "median", 1)
        if ours:
            part = f" of {run.data_sha256[:6]}" * ("subset" in run.data)  # two parts are two figures
            name = re.sub(r"[^\w.+-]+", "-", f"figure2-{run.task}-{run.model}{_beyond(run)}{part}")
            found.setdefault(name, []).append(Median(run, log10(run.footprint["trainable"]), ours))
    return {name: medians for name, medians in sorted(found.items())
            if len({median.run.label for median in medians}) >= SEVERAL}


def _beyond(run: Record) -> str:
    """What of the task's data there is, where it is not the whole: (validation), 8,000 examples."""
    return beside.task_of(run).removeprefix(beside.HEADS.get(run.task, run.task)).replace(",", "")


def _methods(name: str, medians: Sequence[Median]) -> Figure:
    """A point a cell, a colour and marker a method, edged in ink where it started from MNLI; named outside the axes."""
    run = medians[0].run
    known = {label: place for place, label in enumerate(METHODS)}
    rest = [label for label in dict.fromkeys(median.run.label for median in medians) if label not in known]
    known |= {label: len(METHODS) + place for place, label in enumerate(rest)}
    with plots.panels(1, 1, 6.2, 3.8) as (figure, axes):
        axis = axes[0][0]
        for series in sorted({median.series for median in medians}, key=lambda each: (known[each[0]], each[1])):
            there = [median for median in medians if median.series == series]
            place = known[series[0]]
            colour = plots.COLOURS[place % len(plots.COLOURS)]
            axis.errorbar([m.log10 for m in there], [m.ours.value for m in there],
                          yerr=[m.ours.spread or 0 for m in there], color=colour, linestyle="none", elinewidth=1,
                          marker=MARKERS[place % len(MARKERS)], markersize=7, zorder=2 + series[1],
                          markeredgecolor=plots.INK if series[1] else plots.PAPER,
                          label=series[0] + ", from MNLI" * series[1])
        metric = beside.HEADS.get(run.metric, run.metric.replace("_", " "))
        axis.set(title=f"Stand-in: {run.model} on {beside.task_of(run)}", xlabel="log10 of trainable parameters",
                 ylabel=f"{metric}, points")
        figure.legend(loc="outside right upper", fontsize=8)
        return Figure(name, _caption(medians), plots.svg(figure))


def _caption(medians: Sequence[Median]) -> str:
    """What is shown, of which data and how many runs, and what it cannot say."""
    run, fell = medians[0].run, sum(median.ours.collapsed for median in medians)
    whole = "" if _beyond(run) else ", all training examples"
    seeds = ", ".join(f"{' '.join(filter(None, [m.run.label, m.settings]))} {m.ours.n}"
                      for m in medians if m.ours.n > 1)
    return (f"Stand-in {run.model} on {beside.task_of(run)} ({run.data}{whole}), not comparable with the paper's "
            f"points: a point a cell, the median of the best epochs, its bar the standard deviation over seeds. "
            f"Seeds: {f'{seeds}; each other' if seeds else 'each'} 1, so that a difference may be chance."
            + f" {fell} collapsed: they predict one value for everything." * bool(fell))
