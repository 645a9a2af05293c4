"""Which runs go into which picture: LoRA runs on real data that differ in r or the seed, and in nothing else."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from analysis import matrices
from analysis.exhibit import Inputs
from analysis.sites import Updates
from engine.contract import Refused
from engine.record import Record, plain
from lora.files import read

Measured = TypeVar("Measured")
MAKE = ("python run.py -m task=cola method=lora model=minilm init_from=none r=4,8,64 seed=0,1 data_root=DIR makes such "
        "runs on a stand-in; without model, init_from and data_root, on RoBERTa base")
ONE_RANK = "needs a run with one rank for all targets"
STAND_IN = "These runs are not GPT-3's: they show whether the picture is the paper's, not its numbers."


@dataclass(frozen=True)
class Group:
    """Runs that differ in r and seed only, with their weights on disk."""

    name: str  # cola-minilm; cola-minilm-2 where there are several of a task and model
    records: Sequence[Record]  # by r, then seed

    @property
    def ranks(self) -> list[int]:
        """Every rank, smallest first. Runs with a rank for each target are in no picture."""
        return sorted({record.settings["r"] for record in self.records if isinstance(record.settings["r"], int)})

    def at(self, r: int) -> dict[int, Record]:
        """The runs of a rank by their seed, lowest first."""
        return {record.seed: record for record in self.records if record.settings["r"] == r}


def groups(inputs: Inputs) -> list[Group]:
    """All groups, by name. Runs that differ in how their texts were decoded are one run: its weights are the same. Of
    two records of one run the later start counts."""
    found: dict[tuple[str, str, str], dict[tuple[str, int], Record]] = {}
    for record in sorted(_lora(inputs), key=lambda run: (run.started, run.digest)):
        if inputs.weights(record) is not None:
            rest = {key: value for key, value in record.settings.items() if key not in ("r", "seed", "decode")}
            rest["method"] = {key: value for key, value in rest["method"].items() if key != "r"}
            start = [record.init_from] if record.settings.get("init_from") == "file" else []
            said = json.dumps([plain(rest), record.data_sha256, record.model_revision, *start], sort_keys=True)
            key = record.task, record.model, hashlib.sha256(said.encode()).hexdigest()
            found.setdefault(key, {})[json.dumps(record.settings["r"]), record.seed] = record
    out: list[Group] = []
    numbers: Counter[str] = Counter()
    for (task, model, _), runs in sorted(found.items(), key=lambda item: item[0]):
        name = f"{task}-{model}"
        numbers[name] += 1
        ordered = sorted(runs.values(), key=lambda run: (_order(run.settings["r"]), run.seed))
        out.append(Group(name if numbers[name] == 1 else f"{name}-{numbers[name]}", ordered))
    return out


def lacking(inputs: Inputs, found: Sequence[Group]) -> list[str]:
    """The tasks and models whose LoRA runs are in no picture because their weights are gone; or that there are none."""
    there = {(record.task, record.model) for group in found for record in group.records}
    bare = [record for record in _lora(inputs) if (record.task, record.model) not in there]
    names = sorted({f"{record.task}-{record.model}" for record in bare})
    out = [f"{len(bare)} LoRA runs ({', '.join(names)}) have no best.safetensors beside their record; the same command "
           "with runtime.force=true makes it again"] if bare else []
    return out if there else [*out, f"no LoRA run on real data with its weights; {MAKE}"]


def stretch(there: Sequence[int], low: int, high: int) -> tuple[int, ...]:
    """The paper's two ranks as far as they are there; for one that is not, the smallest or the largest there is."""
    if not there:
        return ()
    pair = {low if low in there else min(there), high if high in there else max(there)}
    return tuple(sorted(pair if len(pair) == 2 else {min(there), max(there)}))


def two_ranks(group: Group, low: int, high: int) -> tuple[Record, Record] | None:
    """Runs of the two ranks with one seed, the lowest that has both; else of the two furthest ranks that share one."""
    seeds = sorted({record.seed for record in group.records})
    options = [(seed, stretch(group.ranks, low, high)) for seed in seeds]
    options += [(seed, stretch([r for r in group.ranks if seed in group.at(r)], low, high)) for seed in seeds]
    for seed, ranks in options:
        if len(ranks) == 2 and all(seed in group.at(r) for r in ranks):
            return group.at(ranks[0])[seed], group.at(ranks[1])[seed]
    return None


def two_seeds(group: Group, r: int) -> tuple[Record, Record] | None:
    """The runs of the two lowest seeds at rank r; where there are not two, at the largest rank that has two."""
    for rank in (r, *group.ranks[::-1]):
        if len(group.at(rank)) >= 2:
            first, second = list(group.at(rank).values())[:2]
            return first, second
    return None


def one_a_rank(group: Group, ranks: Sequence[int]) -> list[Record]:
    """A run of each rank: of one seed, the lowest that has all of them, else of the lowest there is."""
    seeds = [seed for seed in group.at(ranks[0]) if all(seed in group.at(r) for r in ranks)] if ranks else []
    return [group.at(r)[min(seeds or group.at(r))] for r in ranks]


def every_rank(group: Group) -> list[Record]:
    """A run of each rank that there is."""
    return one_a_rank(group, group.ranks)


def each(inputs: Inputs, choose: Callable[[Group], Sequence[Record] | None], need: str,
         measure: Callable[[list[Record], list[Updates]], Measured],
         ) -> tuple[list[tuple[str, list[Record], Measured]], list[str]]:
    """For every group its name, the chosen runs, and what measure() makes of them and their updates; and what is
    missing: need says what choose() looks for, and a Refused, of a file or of measure(), leaves the group out."""
    there = groups(inputs)
    found, missing = [], lacking(inputs, there)
    for group in there:
        chosen = choose(group)
        if not chosen:
            missing.append(f"{group.name}: {need}; there {'is' if len(group.records) == 1 else 'are'} "
                           f"{', '.join(f'{run.variant} seed {run.seed}' for run in group.records)}")
            continue
        try:
            runs = list(chosen)
            found.append((group.name, runs, measure(runs, [updates(inputs, record) for record in runs])))
        except Refused as error:
            missing.append(f"{group.name}: {error}".replace("\n", "; "))
    return found, missing


def updates(inputs: Inputs, record: Record) -> Updates:
    """A run's updates by their place. Raises Refused when the file is not one."""
    path = inputs.weights(record)
    if path is None:
        raise Refused(f"{record.digest} has no weights beside its record")
    adapter = read(path)
    matrices.finite(adapter)
    names = matrices.names(adapter.updates)
    return {(update.layer, name): update for update, name in zip(adapter.updates, names, strict=True)}


def told(records: Sequence[Record]) -> str:
    """Which runs, in a sentence: task, data, model, settings, and of each r, seed and digest."""
    first = records[0]
    limit = first.settings["task"].get("limit")
    data = f"{first.data}{f', {limit} examples' if limit else ''}"
    kind = re.sub(r"^r=\S+ ", "", first.variant)
    runs = "; ".join(f"r={record.settings['r']} seed {record.seed} ({record.digest})" for record in records)
    start = "" if first.init_from is None else (
        f" They started from trained weights (init_from={first.settings['init_from']})" + (
            " and share what these share." if len({record.init_from for record in records}) == 1
            else ", not all from the same."))
    return f"Task {first.task} ({data}), model {first.model}, LoRA {kind}, best epoch: {runs}.{start} {STAND_IN}"


def other_ranks(records: Sequence[Record], paper: Sequence[int]) -> str:
    """A sentence for a caption, a blank before it, where the runs' ranks are not all of the paper's."""
    ranks = sorted({record.settings["r"] for record in records})
    if ranks == sorted(paper):
        return ""
    said = f"{', '.join(map(str, paper[:-1]))} and {paper[-1]}"
    return f" The paper's ranks are {said}; there {'is' if len(ranks) == 1 else 'are'} {', '.join(map(str, ranks))}."


def _lora(inputs: Inputs) -> list[Record]:
    return [record for record in inputs.records
            if record.label == "LoRA" and record.scale == "paper" and not record.data.startswith("synthetic")]


def _order(r: object) -> tuple[bool, int, str]:
    return (False, r, "") if isinstance(r, int) else (True, 0, json.dumps(r))
