"""In what runs differ from the paper: which printed number they are for, and a label that lists every difference.

Some differences decide: with them a number cannot be held against the printed one. The others are only said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from analysis.claims import notations
from analysis.declared import departures
from analysis.exhibit import printed
from analysis.frames import Cell, setting
from engine.record import Record

GPT3 = "gpt3-175b"
LIST = ("r", "targets", "l_p", "l_i", "drop", "top")  # the methods' own settings that a printed row names
ELSEWHERE = (*LIST, "init_from", "precision")  # typed, they have a word of their own in the label
SEEDS = {"2": 5, "3": 3, "13": 3, "14": 3}  # of a cell, where the paper says how many
MEAN = ("3", "13", "14", "18")  # tables of means; of the others we take medians
FRACTIONS = (("dart", "meteor"), ("dart", "ter"), ("webnlg", "meteor"), ("webnlg", "ter"))  # ours from 0 to 1
CAPTION = {("13", "meteor"), ("13", "ter"), ("14", "meteor"), ("14", "ter")}  # they vary by less than 0.01, it says


@dataclass(frozen=True)
class Printed:
    """One number that the paper prints, and what its row and column say."""

    table: str
    model: str
    method: str  # as a record's label
    label: str  # the row's name as printed: * prior work, † restricted setup
    variant: str
    params: str  # trainable parameters as printed: 0.3M
    task: str  # ours
    split: str
    metric: str
    value: str
    std: str
    typical: str  # spread of its column, where a caption has one instead
    unit: str
    higher_is_better: str
    source: str  # paper · prior_work
    setup: str
    note: str
    examples: str  # of Table 16

    @property
    def spread(self) -> str:
        """The spread that is printed for the number or for its column, if any."""
        return self.std or self.typical

    @property
    def key(self) -> str:
        """The metric as our records call it: WebNLG's by part of the test set."""
        part = self.split.removeprefix("test")
        return self.metric + (part if part in ("_seen", "_unseen") else "")

    @property
    def factor(self) -> float:
        """From our unit to the printed one."""
        points = (self.task, self.metric) not in FRACTIONS
        return {("points_0_1", True): 0.01, ("points_0_100", False): 100.0}.get((self.unit, points), 1.0)

    @property
    def how(self) -> str:
        """The aggregate over seeds."""
        return "mean" if self.table in MEAN else "median"

    @property
    def start(self) -> str:
        """What the row's runs start from, as init_from says it."""
        return "mnli" if "best MNLI" in self.note else "none"


def numbers(name: str) -> list[Printed]:
    """The printed numbers of results/paper/<name>.csv, in its order."""
    found = []
    for row in printed(name).to_dict("records"):
        task = {"e2e_nlg": "e2e"}.get(row["task"], row["task"])
        task = {"mnli": "mnli-lm", "rte": "rte-lm"}.get(task, task) if row["model"] == GPT3 else task
        typical = row.get("typical_std", "") or ("0.01" if (row["table"], row["metric"]) in CAPTION else "")
        found.append(Printed(
            row["table"], row["model"], row["method"], row["row_label"].strip(), row["variant"],
            row["trainable_params"], task, row["split_or_subset"], row["metric"], row["value"], row["std"], typical,
            row["unit"], row["higher_is_better"], row["source"], row["setup"], row["note"], row.get("n_train", "")))
    return found


def ranks(settings: Mapping[str, Any]) -> dict[str, int]:
    """LoRA's rank of each target: {q: 8, v: 8}; {} without LoRA."""
    r = settings.get("r")
    return {target: r[target] if isinstance(r, Mapping) else int(r or 0) for target in settings.get("targets", ())}


def readings(number: Printed) -> list[dict[str, Any]]:
    """The settings that a row names; several where it can be read in several ways, as Table 4's two LoRA rows."""
    found = []
    for part in number.variant.split(" or "):
        part = part.partition(" ")[0]
        said: dict[str, Any] = {key: int(count) for key, count in re.findall(r"\b(l_p|l_i)=(\d+)", part)}
        said |= {"r": int(size[1])} if (size := re.search(r"(?:bottleneck|adapter)_r=(\d+)", part)) else {}
        lora = {target: int(rank) for names, rank in re.findall(r"((?:r_[qkvo]=)+)(\d+)", part)
                for target in re.findall(r"r_(.)", names)}
        lora |= {target: int(rank) for rank in re.findall(r"^W_.*;r=(\d+)", part)
                 for target in re.findall(r"W_(.)", part)}
        found.append(said | ({"ranks": lora} if lora else {}))
    found += [{"ranks": dict.fromkeys("qv", int(rank))} for rank in re.findall(r"needs r=(\d+)", number.variant)]
    return found


def fits(number: Printed, record: Record) -> bool:
    """Whether a record's method is the row's: its name and the settings or the size that the row has."""
    settings = record.settings
    if record.label != number.method or (record.label == "FT-Top2" and settings.get("top") != 2):
        return False
    if number.variant.startswith("size=") or (number.method == "PreLayer" and number.params and not number.variant):
        return _sized(number, record)
    mine = {**settings, "ranks": ranks(settings)}
    return any(all(mine.get(key) == wanted for key, wanted in reading.items()) for reading in readings(number))


def _sized(number: Printed, record: Record) -> bool:
    """Whether the trained parameters read as the printed size, or r (or the tokens) are what the audit found for it."""
    if notations(record.footprint["trainable"], number.params):
        return True
    settings = record.settings
    tokens = settings.get("l_p", 0) + settings.get("l_i", 0)
    said = f"l_p+l_i={tokens}" if tokens else f"r={settings.get('r')}"
    return "drop" not in settings and said in audited(number).split(";")


def audited(number: Printed) -> str:
    """What the audit found to give the row's printed size: d=1024;L_adpt=24;L_LN=24;r=6."""
    return _audited().get((number.table, number.model, number.method, number.params), "")


@cache
def _audited() -> dict[tuple[str, ...], str]:
    rows = printed("parameter_counts").to_dict("records")
    return {(row["table"], row["model"], row["method"], row["printed"]): row["config"] for row in rows}


def deciding(number: Printed, cell: Cell) -> list[str]:
    """The differences that make a cell not comparable with a printed number, in words; empty: comparable."""
    first, settings = cell.first, cell.first.settings
    recipe, task, found = settings["recipe"], settings["task"], []
    if first.model != number.model:
        found.append(f"{first.model} for {number.model}")
    if not fits(number, first):
        found.append("no row has these settings")
    wanted = int(number.examples or 0) if number.examples != "392000" else 0  # all of them
    if (task.get("limit") or 0) != wanted:
        found.append(f"{task['limit']:,} examples" if task.get("limit") else "all examples")
    found += ["part of the data"] * ("subset" in first.data) + departures(first)
    start = settings.get("init_from", "none")
    if start != number.start:
        found.append({"none": "no MNLI start", "mnli": "MNLI start"}.get(start, "started from a file"))
    found += _searched(number, settings) if number.metric != "val_loss" else []
    found += [f"{key}={setting(first, key)}" for key, source in sorted(first.sources.items())
              if source.startswith(("command line", "not in the paper")) and key not in ELSEWHERE
              and not (number.metric == "val_loss" and key.startswith("decode."))]
    if number.setup in ("standard", "dagger") and recipe.get("setup") != number.setup:
        found.append(f"setup {recipe.get('setup')}")
    if recipe.get("origin") not in ("paper", "official"):
        found.append("recipe ours")
    elif recipe["name"].partition("/")[0] != number.model:
        found.append(f"recipe {recipe['name']}")
    return found


def _searched(number: Printed, settings: Mapping[str, Any]) -> list[str]:
    """Of texts: another split than the paper's, another decode= than its own."""
    scored, how, found = settings["task"].get("scored"), settings.get("decode"), []
    wanted = "test" if number.split.startswith("test") else number.split
    if scored and wanted and scored != wanted:
        found.append(f"scored on {scored}")
    if how and how["name"] != "paper" and number.model != GPT3:
        found.append(f"decode={how['name']}")
    return found


def said(number: Printed, cell: Cell, n: int) -> list[str]:
    """The differences that are only listed: seeds, precision, device, the official scripts' numbers, older records."""
    first, seeds = cell.first, SEEDS.get(number.table)
    found = [f"{n} of {seeds} seeds" if seeds else f"{n} seed{'s' * (n > 1)}"] if n != seeds else []
    if first.settings["recipe"].get("origin") == "official":
        found.append("official scripts' recipe")
    if len(readings(number)) > 1:
        found.append(first.variant)
    if first.settings["precision"] != "fp32":
        found.append(first.settings["precision"])
    if first.settings["model"].get("path") == "folder":
        found.append("weights from a folder")
    devices = sorted({"CPU" if "threads" in r.device else r.device for r in cell.records})
    return [*found, " and ".join(devices), *([f"{cell.superseded} older left out"] if cell.superseded else [])]
