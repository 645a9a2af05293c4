"""What every table of conf/table takes to train: GPU-hours in turn, seeds at once, and as the official scripts pad."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from analysis import composed
from analysis.exhibit import Exhibit, Inputs, Table
from analysis.pace import Measured, Pace, Rule
from analysis.padding import texts
from analysis.timings import devices
from analysis.workload import Training, joined, paper_tables, trainings

NEEDS = "no record; with results/benchmarks/*.json of a GPU (python -m benchmarks there) its own times"
HEADER = ("table", "cells", "trained", "at once", "steps", "tokens, M", "padded, M", "official, M", "hours in turn",
          "hours at once", "hours official", "official / in turn", "official / at once")
TOTAL = "all, each run once"
SHUFFLED = (4, 16, 32, 128)  # batches of which the padding is shown
SAYS = """\
Training alone, of every table of `conf/table`: judging and decoding are not in it, nor loading and saving.

- **trained**: the table's runs, each once; the MNLI runs that cells start from are among them where the table has none,
  and cells that only decode otherwise share one. **at once**: how many differ in the seed alone. The last row has a run
  that several tables share once.
- **tokens**: of all examples of all epochs, cut to the recipe's length, with the special tokens of prefix methods.
  **padded**: with the padding that our batches have, each as long as its longest example. **official**: as the official
  scripts pad, every example to the length (`lora-official`'s for LoRA on GLUE in the standard setup and on GPT-2, else
  the cell's own); epochs, batch and precision stay the cell's own.
- **hours in turn**: one run after the other. **hours at once**: the seeds of a cell in one step (`runtime.together`).
  Their batches stand beside each other and are padded to the longest of all, which costs more the more there are; FT
  has no frozen base to share and DeBERTa's attention no room for several: they stay in turn. **hours official**: in
  turn, padded so.
- Lengths and how batches pad follow from the quantiles of each task's lengths in `conf/table/tasks.csv`, with MiniLM's
  tokenizer (other tokenizers differ by some percent); the last table has them.
- The hours in the heads of `conf/table/*.yaml` are a lower bound: the same rule, without padding and special tokens."""
RULE = """\
**No GPU was measured**: the hours are of one H100 by the rule of `conf/table/README.md`, whose 30 % of the peak and
millisecond a layer are guesses. Seeds at once: the work of all, launched once; a guess as well, by which only small
steps gain, those that take longer to launch than to compute."""
CARRIED = """\
Hours on {device} are carried over from the step that was timed nearest to each (same method and precision if there is
one, then the nearest number of operations), by the floating-point operations of the matrices that multiply: 4 a weight
and token, 6 for FT; attention's own products are left out. No step is taken to be faster a layer than the fastest one
timed. Seeds at once: as much faster as in the nearest joint step that was timed{joint}."""


@dataclass(frozen=True)
class Spent:
    """What trainings take on a device, in hours; None: nothing tells."""

    done: Sequence[Training]
    pace: Pace

    @cached_property
    def turn(self) -> float:
        """One after the other."""
        return sum(one.runs * one.steps * self.pace.seconds(one.step(one.padded())) for one in self.done) / 3600

    @cached_property
    def official(self) -> float:
        """The same, every example padded to the official length."""
        return sum(one.runs * one.steps * self.pace.seconds(one.step(one.fixed)) for one in self.done) / 3600

    @cached_property
    def once(self) -> float | None:
        """Those that differ in the seed alone at once."""
        seconds = 0.0
        for one in self.done:
            step, wide = one.step(one.padded()), one.step(one.padded(one.runs))
            joint = self.pace.together(step, wide, one.runs) if one.joins else one.runs * self.pace.seconds(step)
            if joint is None:
                return None
            seconds += one.steps * joint
        return seconds / 3600

    @cached_property
    def tokens(self) -> tuple[float, float, float]:
        """All that is seen: themselves, with our padding, and with that to the official length."""
        real, padded, fixed = (sum(one.runs * one.seen * tokens for one, tokens in each) for each in (
            [(one, one.real) for one in self.done], [(one, one.padded()) for one in self.done],
            [(one, one.fixed) for one in self.done]))
        return real, padded, fixed

    @property
    def counts(self) -> tuple[int, int]:
        """Runs, and the steps of all."""
        return sum(one.runs for one in self.done), sum(one.runs * one.steps for one in self.done)

    def row(self) -> dict[str, float | None]:
        """All numbers, unrounded."""
        return {**dict(zip(("trained", "steps", "tokens", "padded", "official"), (*self.counts, *self.tokens),
                           strict=True)),
                "hours_in_turn": self.turn, "hours_at_once": self.once, "hours_official": self.official}


def make(inputs: Inputs) -> Exhibit:
    """A table for each GPU that was measured, else one by the rule; a CPU's days in a column of their own."""
    found, broken = devices(inputs.results)
    gpus, cpus = ([each for each in found if each.kind == kind] for kind in ("cuda", "cpu"))
    work = {name: trainings(name) for name in paper_tables()}
    work[TOTAL] = joined([one for done in work.values() for one in done])
    paces: list[Pace] = [*gpus] if gpus else [Rule()]
    spent = {pace.device: {name: Spent(done, pace) for name, done in work.items()} for pace in [*paces, *cpus]}
    said = [SAYS, *([] if gpus else [RULE]), *(_carried(each) for each in [*gpus, *cpus])]
    missing = [*([] if gpus else ["a measured GPU: `python -m benchmarks` on a machine with one"]),
               *([] if cpus else ["what a CPU takes: `python -m benchmarks`"]), *broken]
    data = pd.DataFrame([{"device": pace.device, "measured": pace in found, "table": name} | each.row()
                         for pace in [*paces, *cpus] for name, each in spent[pace.device].items()])
    tables = [_table(pace, spent[pace.device], {cpu.device: spent[cpu.device] for cpu in cpus}) for pace in paces]
    tables += [*map(_timed, found), *(_joint(each) for each in found if each.joint), _lengths()]
    return Exhibit("What the tables take to train", said, tables, [], data, missing)


def _table(pace: Pace, spent: Mapping[str, Spent], cpus: Mapping[str, Mapping[str, Spent]]) -> Table:
    """A line a table of conf/table, and one for all."""
    columns = [*HEADER, *(f"days on {device}" for device in cpus)]
    rows = []
    for name, each in spent.items():
        cells = sum(len(composed.cells(table)) for table in (paper_tables() if name == TOTAL else [name]))
        at_once = sorted({one.runs if one.joins else 1 for one in each.done})
        rows.append([name, f"{cells:,}", f"{each.counts[0]:,}", ", ".join(map(str, at_once)), f"{each.counts[1]:,}",
                     *(f"{count / 1e6:,.0f}" for count in each.tokens),
                     _hours(each.turn), _hours(each.once), _hours(each.official),
                     _ratio(each.official, each.turn), _ratio(each.official, each.once),
                     *(_hours(cpu[name].turn / 24) for cpu in cpus.values()), _sources(each.done, pace)])
    return Table(f"Training on {pace.device}", [*columns, "from"], rows, range(1, len(columns)))


def _carried(measured: Measured) -> str:
    return CARRIED.format(device=measured.device,
                          joint="" if measured.joint else "; none was, so nothing is said of them")


def _timed(measured: Measured) -> Table:
    rows = [[str(place), *each.words, f"{1000 * each.seconds:,.4g}", f"{each.step.tokens / each.seconds:,.0f}",
             f"{each.step.operations / each.seconds / 1e12:,.3g}"] for place, each in enumerate(measured.steps, 1)]
    return Table(f"Steps timed on {measured.device}", ("", "model", "layers", "method", "batch x length", "precision",
                                                       "ms", "tokens/s", "TFLOP/s"), rows, (0, 2, 6, 7, 8))


def _joint(measured: Measured) -> Table:
    rows = [[each.step.model, str(each.step.layers), f"{each.step.tokens:,.0f}",
             "16 bits" if each.step.short else "fp32", str(each.runs), f"{each.share:.2f}"] for each in measured.joint]
    return Table(f"Joint steps timed on {measured.device}", ("model", "layers", "tokens of a run", "precision", "runs",
                                                             "time at once / in turn"), rows, (1, 2, 4, 5))


def _lengths() -> Table:
    """What the padding follows from."""
    rows = []
    for task, each in texts().items():
        long = 10 ** 6
        shuffled = [each.padded(long, size, "shuffle", each.examples) for size in SHUFFLED]
        rows.append([task, f"{each.examples:,}", f"{each.mean:.0f}", *(f"{one:.0f}" for one in shuffled),
                     f"{each.padded(long, 16, 'grouped', each.examples):.0f}", each.measured])
    right: Collection[int] = range(1, 4 + len(SHUFFLED))
    return Table("Tokens of an example: mean, and padded to the longest of its batch (shuffled; grouped by length)",
                 ("task", "examples", "mean", *(f"of {size}" for size in SHUFFLED), "of 16, grouped", "measured on"),
                 rows, right)


def _sources(done: Sequence[Training], pace: Pace) -> str:
    found = {pace.source(one.step(one.padded())) for one in done} - {None}
    return ", ".join(map(str, sorted(place for place in found if place))) if found else "rule"


def _hours(count: float | None) -> str:
    if count is None:
        return "—"
    return f"{count:,.0f}" if count >= 100 else f"{count:.1f}" if count >= 1 else f"{count:.2g}"


def _ratio(official: float, ours: float | None) -> str:
    return "—" if not ours else f"{official / ours:.1f}"
