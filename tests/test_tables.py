"""The tables of the paper: every printed number in its place, ours where it belongs and nowhere else."""

import csv
import json
import re
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib import import_module
from itertools import product
from pathlib import Path
from statistics import stdev
from typing import Any

import pandas as pd
import pytest
import yaml
from conftest import ROOT, Cli

from analysis import markdown
from analysis.declared import departures
from analysis.exhibit import Exhibit, Inputs, inputs
from engine.record import Record, plain, read

TABLES = {"table2": "table2_glue", "table3": "table3_e2e", "table4": "table4_gpt3", "table5": "table5_weight_types",
          "table6": "table6_rank", "table8": "table8_fewshot", "table13": "dart", "table14": "webnlg",
          "table15": "gpt3_hyperparameter_analysis", "table16": "low_data_mnli", "table18": "rank_gpt2_e2e"}
EVERY = [*TABLES, "figure2", "control", "forest", "splitdev", "provenance"]
RUNS = ROOT / "results" / "runs" / "paper"
TASKS = {"mnli": 87.5, "sst2": 95.1, "mrpc": 89.7, "cola": 63.4, "qnli": 93.3, "qqp": 90.8, "rte": 86.6, "stsb": 91.5}


def stated(group: str, name: str, **changes: Any) -> dict[str, Any]:
    """conf/<group>/<name>.yaml as a record has it (a model without roles)."""
    found: dict[str, Any] = plain(yaml.safe_load((ROOT / "conf" / group / f"{name}.yaml").read_text(encoding="utf-8")))
    return {key: value for key, value in found.items() if key != "defaults"} | changes


def glue(task: str, value: float | None, seed: int = 0, settings: Mapping[str, Any] | None = None,
         origin: str = "paper", **changes: Any) -> Record:
    """A run of LoRA on RoBERTa base as the paper's recipe has it, planted with its number; settings and fields as
    said."""
    metric = {"cola": "matthews_correlation", "stsb": "pearson"}.get(task, "accuracy")
    base = read(RUNS / "rte" / "minilm-ft-s0-fc154f4ee9.json")
    start = "mnli" if task in ("mrpc", "rte", "stsb") else "none"
    recipe = {"setup": "standard", "origin": origin, "name": "roberta-base/lora"}
    said = {**base.settings, "seed": seed, "r": 8, "alpha": 8, "targets": ["q", "v"], "init_from": start,
            "precision": "fp32", "recipe": recipe, "task": stated("task", task),
            "model": stated("model", "roberta-base"), **(settings or {})}
    made = replace(base, task=task, metric=metric, model="roberta-base", method="lora", label="LoRA", seed=seed,
                   variant="r=8 alpha=8 targets=q,v", value=value, numbers={metric: value}, settings=said, sources={},
                   digest=f"{task}{seed}", outcome={**base.outcome, "last": {metric: value}})
    return replace(made, **changes)


def text(numbers: Mapping[str, float], seed: int = 0, settings: Mapping[str, Any] | None = None, task: str = "e2e",
         scored: str = "test", **changes: Any) -> Record:
    """A run of LoRA on GPT-2 medium as Table 11 has it."""
    base = read(RUNS / "e2e" / "gpt2-nano-lora-s0-d01c99ff2d.json")
    recipe = {"setup": "standard", "origin": "paper", "name": "gpt2-medium/lora"}
    said = {**base.settings, "seed": seed, "recipe": recipe, "precision": "fp32",
            "task": stated("task", task, scored=scored), "model": stated("model", "gpt2-medium"), **(settings or {})}
    made = replace(base, task=task, model="gpt2-medium", seed=seed, value=numbers.get("bleu"), numbers=dict(numbers),
                   settings=said, sources={}, digest=f"{task}{seed}",
                   outcome={**base.outcome, "last": {"val_loss": 1.0}})
    return replace(made, **changes)


def make(name: str, *records: Record) -> Exhibit:
    made: Exhibit = import_module(f"analysis.exhibits.{name}").make(Inputs(Path("nowhere"), records, []))
    return made


@cache
def committed() -> Inputs:
    return inputs(ROOT / "results")


@cache
def nothing(name: str) -> Exhibit:
    """What an exhibit says without any record, made once for the tests that only compare with it."""
    return make(name)


def printed_row(made: Exhibit, **where: str) -> pd.Series:
    """The one line of the data about a printed number."""
    data = made.data
    assert data is not None
    found = data[data.kind == "paper"]
    for key, value in where.items():
        found = found[found[key] == value]
    assert len(found) == 1
    return found.iloc[0]


def cell(made: Exhibit, row: str, line: str, column: str) -> str:
    """What the first table shows in a row (by its first words), in its line paper, ours, …"""
    table = made.tables[0]
    place = next(i for i, cells in enumerate(table.rows) if cells[0] == row)
    kind = list(table.columns).index("")
    while table.rows[place][kind] != line:
        place += 1
    return table.rows[place][list(table.columns).index(column)]


@pytest.mark.parametrize("records", [[], ["committed"]], ids=["without", "with"])
@pytest.mark.parametrize("name", TABLES)
def test_every_printed_number_is_there_once_and_as_printed(name: str, records: list[str]) -> None:
    """In the data and on the page, whatever was run."""
    with (ROOT / "results" / "paper" / f"{TABLES[name]}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    made = make(name, *committed().records) if records else nothing(name)
    assert made.data is not None
    there = made.data[made.data.kind == "paper"]
    assert len(rows) == len(there)
    assert Counter((r["model"], r["method"], r["variant"], r["metric"], r["split_or_subset"], r["value"], r["std"])
                   for r in rows) == Counter(zip(*(there[key] for key in (
                       "model", "method", "variant", "metric", "split", "printed", "std")), strict=True))
    table = made.tables[0]
    shown = Counter(text for line in table.rows if {"paper", "quoted"} & set(line)
                    for i, text in enumerate(line) if i in table.right)
    assert shown == Counter(r["value"] + (f"±{r['std']}" if r["std"] else "") for r in rows)
    assert [r["row_label"].strip() for r in rows if r["row_label"].strip() not in markdown.page(made).replace(
        r"\*", "*")] == []
    assert there.printed.tolist() == [r["value"] for r in rows]  # in the paper's order


@pytest.mark.parametrize("name", EVERY)
def test_nothing_at_all_is_an_exhibit_too_and_always_the_same(name: str) -> None:
    made, again = nothing(name), make(name)
    assert made.missing and made.title and made.says
    assert markdown.page(made) == markdown.page(again)
    assert [figure.svg for figure in made.figures] == [figure.svg for figure in again.figures]


def test_a_planted_cell_stands_under_its_row() -> None:
    made = make("table2", *(glue("sst2", 94.0 + seed / 2, seed) for seed in range(5)))
    row = printed_row(made, row="RoB_base (LoRA) 0.3M", task="sst2")
    assert (row.ours, row.n, row.verdict) == (95.0, 5, "within")
    assert row.difference == pytest.approx(-0.1) and row["last"] == 95.0
    assert cell(made, "RoB_base (LoRA)", "ours", "SST-2") == "95.0±0.8 (5)"
    assert cell(made, "RoB_base (LoRA)", "difference", "SST-2") == "−0.1 within"
    assert cell(made, "RoB_base (LoRA)", "ours", "MNLI") == "—"
    assert len(made.tables) == 1
    lacking = [line for line in made.missing if line.startswith("RoB_base (LoRA)")]
    assert len(lacking) == 1 and "task=mnli,mrpc" in lacking[0] and "sst2" not in lacking[0]
    assert make("forest", glue("sst2", 95.0)).figures


def test_the_average_needs_all_eight() -> None:
    some = [glue(task, value + 1) for task, value in TASKS.items()]
    made = make("table2", *some)
    mean = sum(TASKS.values()) / 8 + 1
    row = printed_row(made, row="RoB_base (LoRA) 0.3M", task="glue_average")
    assert row.ours == pytest.approx(mean) and row.difference == pytest.approx(mean - 87.2) and row.verdict == ""
    assert cell(made, "RoB_base (LoRA)", "ours", "Avg.") == f"{mean:.1f} (1)"
    assert cell(make("table2", *some[1:]), "RoB_base (LoRA)", "ours", "Avg.") == "—"


NOT = {
    "another model": ({"model": "minilm"}, {}, "minilm for roberta-base"),
    "a limit": ({}, {"task": {"name": "sst2", "limit": 20000}}, "20,000 examples"),
    "a subset": ({"data": "folder (subset)"}, {}, "part of the data"),
    "a setting typed": ({"sources": {"epochs": "command line"}}, {}, "epochs=4"),
    "another alpha": ({"sources": {"alpha": "command line"}}, {"alpha": 16}, "alpha=16"),
    "a table's own length": ({"sources": {"length": "not in the paper; our choice: 504"}}, {}, "length=128"),
    "a recipe of ours": ({"origin": "ours"}, {}, "recipe ours"),
    "another rank": ({}, {"r": 4}, "no row has these settings"),
    "an MNLI start": ({}, {"init_from": "mnli"}, "MNLI start"),
    "the dagger's setup": ({}, {"recipe": {"setup": "dagger", "origin": "paper", "name": "roberta-base/lora"}},
                           "setup dagger"),
    "another training set": ({}, {"task": stated("task", "sst2", train="validation")}, "task.train=validation"),
    "another column": ({}, {"task": stated("task", "sst2", sentences=["idx"])}, "task.sentences=[idx]"),
    "another validation set": ({}, {"task": stated("task", "sst2", validation={"validation": "train"})},
                               "task.validation={validation: train}"),
    "another source": ({}, {"task": stated("task", "sst2", source={"id": "a/b", "config": "sst2"})},
                       "task.source.id=a/b"),
    "labels the other way round": ({}, {"task": stated("task", "sst2", labels=["positive", "negative"])},
                                   "task.labels=[positive, negative]"),
    "another score": ({}, {"task": stated("task", "sst2", score={"path": "x"})}, "task.score={path: x}"),
    "another checkpoint": ({}, {"model": stated("model", "roberta-base", path="some/other")}, "model.path=some/other"),
    "another revision": ({}, {"model": stated("model", "roberta-base", revision=None)}, "model.revision=null"),
    "another matrix": ({}, {"model": stated("model", "roberta-base", roles={"q": "foo"})}, "model.roles.q=foo"),
    "another model's recipe": ({}, {"recipe": {"setup": "standard", "origin": "paper", "name": "roberta-large/lora"}},
                               "recipe roberta-large/lora"),
}


@pytest.mark.parametrize("why", NOT)
def test_what_is_not_comparable_stands_apart(why: str) -> None:
    changes, settings, label = NOT[why]
    made = make("table2", glue("sst2", 95.1, settings=settings, **changes))
    row = printed_row(made, row="RoB_base (LoRA) 0.3M", task="sst2")
    assert pd.isna(row.ours) and row.verdict == "" and cell(made, "RoB_base (LoRA)", "ours", "SST-2") == "—"
    assert len(made.tables[1].rows) == 1 and label in made.tables[1].rows[0][-1]
    other = made.data[made.data.kind == "other"].iloc[0]
    assert other.verdict.startswith("not comparable: ") and label in other.verdict and other.ours == 95.1
    assert "n comparable" not in make("forest", glue("sst2", 95.1, settings=settings, **changes)).says
    assert make("forest", glue("sst2", 95.1, settings=settings, **changes)).figures == []


def test_every_committed_record_is_as_declared() -> None:
    records = [record for record in committed().records if "recipe" in record.settings]
    assert len(records) > 40
    assert {path: departures(record) for record in records if departures(record) for path in [record.digest]} == {}


@pytest.mark.parametrize("group", ["task", "model"])
def test_what_is_composed_is_as_declared(group: str) -> None:
    """Every file of conf/task and conf/model, roles and interpolations resolved, as a run has it."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    base = glue("sst2", 1.0)
    names = [path.stem for path in sorted((ROOT / "conf" / group).glob("*.yaml")) if path.stem != "latency"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for name in names:
            model = [f"{group}={name}", *(["model.path=a/b"] if name in ("encoder", "decoder") else [])]
            config = compose("config", [*model, "recipe=encoder/lora"])
            settings = plain(OmegaConf.to_container(config[group], resolve=True))
            made = replace(base, settings={**base.settings, group: settings}, **{group: name})
            assert [word for word in departures(made) if word.startswith(group)] == [], name
            assert settings["name"] == name and len(settings) > 4


def test_a_setting_that_an_older_record_lacks_decides_nothing_but_a_validation_set_does() -> None:
    older = {key: value for key, value in stated("task", "mnli").items() if key not in ("version", "source")}
    assert departures(glue("mnli", 1.0, settings={"task": older})) == []
    one = stated("task", "mnli", validation={"matched": "validation_matched"})
    assert departures(glue("mnli", 1.0, settings={"task": one})) == ["task.validation={matched: validation_matched}"]
    assert departures(glue("sst2", 1.0, model="../model/roberta-base")) == []  # no such file: protocol says the model


def test_no_mnli_start_is_not_comparable_where_the_paper_has_one() -> None:
    made = make("table2", glue("rte", 86.6, settings={"init_from": "none"}))
    assert pd.isna(printed_row(made, row="RoB_base (LoRA) 0.3M", task="rte").ours)
    assert "no MNLI start" in made.tables[1].rows[0][-1]
    assert printed_row(make("table2", glue("rte", 86.6)), row="RoB_base (LoRA) 0.3M", task="rte").verdict == "within"


def test_what_is_only_said_is_comparable() -> None:
    """Fewer seeds, another precision and device, the official scripts' numbers; the paper's recipe goes first."""
    official = {"setup": "standard", "origin": "official", "name": "roberta-base/lora-official"}
    folder = stated("model", "roberta-base", path="folder", attention="eager")
    one = glue("sst2", 90.0, settings={"recipe": official, "precision": "bf16", "model": folder}, device="NVIDIA H100",
               sources={"precision": "command line"})
    made = make("table2", one)
    row = printed_row(made, row="RoB_base (LoRA) 0.3M", task="sst2")
    assert row.ours == 90.0 and row.verdict == "outside"
    assert row.protocol == "1 of 5 seeds; official scripts' recipe; bf16; weights from a folder; NVIDIA H100"
    assert any(row.protocol in paragraph for paragraph in made.says)
    both = make("table2", one, glue("sst2", 95.0))
    assert printed_row(both, row="RoB_base (LoRA) 0.3M", task="sst2").ours == 95.0
    assert both.tables[1].rows[0][-1].startswith("also comparable, outside: ")


def test_demo_never_enters() -> None:
    demo = [glue(task, 50.0, **change) for task in TASKS for change in ({"scale": "demo"}, {"data": "synthetic"})]
    for name in ("table2", "control", "splitdev", "provenance", "forest"):
        assert markdown.page(make(name, *demo)) == markdown.page(nothing(name))


def test_a_study_that_trains_nothing_is_no_cell() -> None:
    """A latency record: no recipe, no method, no epochs."""
    study = replace(glue("sst2", 10.0), task="latency", method="", label="", data="none", outcome={"measurements": []},
                    settings={"seed": 0, "task": {"name": "latency"}, "scale": {"name": "paper"}})
    for name in (*EVERY, "runs", "demo"):
        assert markdown.page(make(name, study)) == markdown.page(nothing(name))


def test_two_rows_of_one_method_are_told_apart() -> None:
    """By size, by bottleneck, by setup; a size as the audit reads it."""
    def large(**changes: Any) -> Record:
        label, settings = changes.pop("label"), changes.pop("settings")
        settings = {**settings, "recipe": {"origin": "paper", "name": "roberta-large/x", "setup": changes.pop("setup")},
                    "model": stated("model", "roberta-large")}
        return glue("sst2", 96.0, model="roberta-large", label=label, settings=settings)

    for label, settings, setup, row in (
            ("LoRA", {}, "standard", "RoB_large (LoRA) 0.8M"), ("LoRA", {}, "dagger", "RoB_large (LoRA)† 0.8M"),
            ("Adapter-P", {"r": 64}, "dagger", "RoB_large (AdptP)† 3.0M"),
            ("Adapter-P", {"r": 16}, "dagger", "RoB_large (AdptP)† 0.8M"),
            ("Adapter-H", {"r": 8}, "dagger", "RoB_large (AdptH)† 0.8M")):
        data = make("table2", large(label=label, settings=settings, setup=setup)).data
        assert data is not None and data[data.ours.notna()].row.tolist() == [row]
    lm = {"name": "gpt2-medium/x", "origin": "paper", "setup": "standard"}
    sizes = {6: "GPT-2 M (AdapterL)* 0.37M", 224: "GPT-2 M (AdapterL)* 11.09M"}
    for r, row in sizes.items():
        footprint = {"trainable": 24 * (2 * 1024 * r + r + 3 * 1024), "head": 0, "total": 1}
        made = make("table3", text({"bleu": 66.0}, settings={"r": r, "recipe": lm}, label="Adapter-L",
                                   footprint=footprint))
        assert made.data is not None and made.data[made.data.ours.notna()].row.tolist() == [row]
    nearest = make("table3", text({"bleu": 66.0}, settings={"r": 112, "recipe": lm}, label="Adapter-H"))
    assert printed_row(nearest, row="GPT-2 M (AdapterH) 11.09M", metric="bleu").ours == 66.0  # no r gives it exactly


def test_units_are_the_printed_ones() -> None:
    """Ours: E2E's METEOR and ROUGE-L in points, WebNLG's and DART's METEOR and TER as fractions."""
    ours = {"bleu": 70.0, "nist": 8.8, "meteor": 46.0, "rouge_l": 71.0, "cider": 2.5, "val_loss": 1.2}
    three, eighteen = make("table3", text(ours)), make("table18", text(ours))
    where = {"row": "GPT-2 M (LoRA) 0.35M"}
    assert [printed_row(three, metric=key, **where).ours for key in ("bleu", "nist", "meteor", "rouge_l")] == [
        70.0, 8.8, 46.0, 71.0]
    assert [printed_row(eighteen, metric=key, row="r=4").ours for key in (*ours,)] == pytest.approx(
        [70.0, 8.8, 0.46, 0.71, 2.5, 1.2])
    triples = {"bleu": 47.0, "meteor": 0.385, "ter": 0.46, "bleu_seen": 60.0, "meteor_unseen": 0.36}
    dart, webnlg = make("table13", text(triples, task="dart")), make("table14", text(triples, task="webnlg"))
    assert [printed_row(dart, metric=key, method="LoRA", model="gpt2-medium").ours for key in ("meteor", "ter")] == [
        0.385, 0.46]
    seen = {"method": "LoRA", "model": "gpt2-medium"}
    assert printed_row(webnlg, metric="bleu", split="test_seen", **seen).ours == 60.0
    assert printed_row(webnlg, metric="bleu", split="test_all", **seen).ours == 47.0
    assert printed_row(webnlg, metric="meteor", split="test_unseen", **seen).ours == 0.36


def test_texts_decoded_or_scored_otherwise_stand_apart() -> None:
    """But the validation loss, which does not ask how."""
    ours = {"bleu": 70.4, "val_loss": 1.18}
    official = {**text(ours).settings["decode"], "name": "official"}
    for one, label in ((text(ours, settings={"decode": official}), "decode=official"),
                       (text(ours, scored="validation"), "scored on validation"),
                       (text(ours, sources={"decode.beams": "command line"}), "decode.beams=10")):
        assert label in make("table3", one).tables[1].rows[0][-1]
        made = make("table18", one)
        assert pd.isna(printed_row(made, row="r=4", metric="bleu").ours)
        assert printed_row(made, row="r=4", metric="val_loss").verdict == "within"
        assert "70.40" in made.tables[1].rows[0] and label in made.tables[1].rows[0][-1]


def test_a_metric_that_could_not_be_computed_is_missed() -> None:
    made = make("table3", text({"bleu": 70.4, "nist": 8.85}))
    assert cell(made, "GPT-2 M (LoRA)", "ours", "METEOR") == "—"
    assert cell(made, "GPT-2 M (LoRA)", "difference", "BLEU") == "+0.0 within"
    assert any("runtime.train=false" in line and "GPT-2 M (LoRA)" in line for line in made.missing)


def test_stand_ins_of_gpt3_are_never_in_its_rows() -> None:
    recipe = {"setup": "stand-in", "origin": "paper", "name": "gpt3-175b/lora"}
    wiki = text({"logical_form_accuracy": 60.0}, task="wikisql", scored="validation",
                settings={"r": 8, "recipe": recipe})
    mnli = text({"accuracy": 80.0}, task="mnli-lm", scored="validation_matched", settings={"recipe": recipe})
    few = replace(mnli, settings={**mnli.settings, "task": {**mnli.settings["task"], "limit": 1000}})
    for name in ("table4", "table5", "table6", "table15", "table16", "figure2"):
        made = make(name, wiki, mnli, few)
        if name != "figure2":
            assert made.data is not None and made.data[made.data.kind == "paper"].ours.isna().all()
            assert not any("ours" in row for row in made.tables[0].rows)
            assert all(row[0] == "gpt2-medium" and "gpt2-medium for gpt3-175b" in row[-1]
                       for row in made.tables[1].rows)
    assert len(make("figure2", wiki).figures) == 2 and len(make("figure2", few).figures) == 1
    assert len(make("table16", wiki, mnli, few).tables[1].rows) == 2
    labels = sorted(row[-1] for row in make("table16", mnli, few).tables[1].rows)
    assert "examples" not in labels[0].partition(";")[2]  # each is held against the column of its size
    encoder = glue("mnli", 87.5)
    assert all(len(make(name, encoder).tables) == 1 for name in ("table4", "table5", "table16"))


def test_broken_and_older_records_are_said(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "paper" / "sst2"
    folder.mkdir(parents=True)
    (folder / "half.json").write_text('{"schema": 1, "digest"')
    source = RUNS / "cola" / "minilm-lora-s0-b0630aff14.json"
    (folder / "old.json").write_text(json.dumps(json.loads(source.read_text()) | {"schema": 0}))
    shutil.copy(source, folder / "whole.json")
    given = inputs(tmp_path)
    assert len(given.broken) == 2 and len(given.records) == 1
    for name in EVERY:
        made = import_module(f"analysis.exhibits.{name}").make(given)
        assert name not in TABLES or any("2 records could not be read" in line for line in made.missing)


def test_the_control_pairs_what_differs_in_the_start_alone() -> None:
    def ft(task: str, value: float, start: str, **more: Any) -> Record:
        settings = {"init_from": start, "method": {"name": "ft"}, "r": None}
        return glue(task, value, label="FT", method="ft", settings=settings, **more)

    plain = glue("rte", 80.5, settings={"init_from": "none"})
    made = make("control", glue("rte", 86.0), plain, ft("rte", 78.0, "none"))
    rows = {(row[1], row[3]): row[4:] for row in made.tables[1].rows}
    assert rows[("LoRA", "rte")] == ["80.5 (1)", "86.0 (1)", "1", "+5.5"]
    assert rows[("FT", "rte")] == ["78.0 (1)", "—", "", ""] and len(made.missing) == 2
    whole = make("control", glue("rte", 86.0), plain, ft("rte", 78.0, "none"), ft("rte", 85.0, "mnli"))
    assert whole.missing == []
    other = make("control", glue("rte", 86.0), glue("rte", 80.5, settings={"init_from": "none", "lr": 1.0}))
    assert len(other.tables[1].rows) == 2  # another learning rate is no pair


def test_the_control_counts_the_parents_that_the_mnli_start_rests_on() -> None:
    """Three children, two of which started from one MNLI run."""
    children = [replace(glue("rte", 80.0 + seed, seed), init_from=parent) for seed, parent in enumerate("aab")]
    made = make("control", *children)
    assert made.tables[1].rows[0][4:] == ["—", "81.0±1.0 (3)", "2", ""]
    assert made.data is not None and made.data.parents.tolist() == [2]


def test_figure_2_joins_no_points_of_one_size() -> None:
    """As the printed LoRA has them."""
    from analysis.exhibits import figure2

    one, two, same = (("m", "LoRA", "wikisql", x, y) for x, y in ((6.0, 1.0), (7.0, 2.0), (6.0, 3.0)))
    apart, alike = (re.findall(r'<path d="M [^"]*"[^>]*style="fill: none; stroke: #e69f00',
                               figure2._drawn(points, hollow=False)) for points in ([one, two], [one, two, same]))
    assert len(apart) == len(alike) + 1  # the legend's sample apart


def test_methods_have_a_figure_of_each_task_and_model() -> None:
    """From four methods on; a part of the data apart; one marker each, and the median with its seeds."""
    def run(label: str, value: float, seed: int = 0, limit: int | None = None, **changes: Any) -> Record:
        size = {"trainable": 1000 * (1 + len(label)), "head": 0, "total": 1}
        return glue("cola", value, seed, {"task": stated("task", "cola", limit=limit), "method": {"name": label}},
                    label=label, model="minilm", footprint=size, **changes)

    four = [run(label, 20.0 + i) for i, label in enumerate(("LoRA", "FT", "BitFit", "Adapter-H"))]
    assert len(make("figure2", *four[:3]).figures) == 1
    more = [*four, run("FT", 25.0, 1), run("FT", 30.0, 2), run("LoRA", 9.0, limit=100)]
    made = make("figure2", *more)
    assert [figure.name for figure in made.figures] == ["figure2", "figure2-cola-minilm"]
    shown = made.figures[1]
    assert "Stand-in: minilm on CoLA" in shown.svg and all(f">{r.label}<" in shown.svg for r in four)
    assert "Stand-in minilm on CoLA" in shown.caption and "FT r=8 alpha=8 targets=q,v 3; each other 1" in shown.caption
    data = made.data[made.data.whose == "figure2-cola-minilm"]
    assert dict(zip(data.method, data.value, strict=True)) == {"LoRA": 20, "FT": 25, "BitFit": 22, "Adapter-H": 23}
    seeds = data[data.method == "FT"].iloc[0]
    assert seeds.n == 3 and seeds.spread == pytest.approx(stdev([21, 25, 30]))
    little = {"task": stated("task", "cola", limit=100)}
    few = make("figure2", *(replace(r, settings={**r.settings, **little}) for r in four),
               *(replace(r, data="folder (subset)") for r in four))
    assert [f.name for f in few.figures][1:] == [
        "figure2-cola-minilm-100-examples", f"figure2-cola-minilm-part-of-the-data-of-{four[0].data_sha256[:6]}"]


def test_a_cell_is_told_by_its_task_its_split_and_its_size() -> None:
    few = [glue("sst2", 90.0, model="minilm", settings={"task": stated("task", "sst2", limit=limit)})
           for limit in (8000, 20000)]
    made = make("table2", *few)
    place = list(made.tables[1].columns).index("task")
    assert sorted(row[place] for row in made.tables[1].rows) == ["SST-2, 20,000 examples", "SST-2, 8,000 examples"]
    scored = make("table3", text({"bleu": 60.0}, scored="validation")).tables[1]
    assert scored.rows[0][list(scored.columns).index("task")] == "E2E (validation)"
    for word in ("recipe ours", "setup", "no row has these settings"):
        assert any(f"*{word}*" in paragraph.replace("\n", " ") for paragraph in made.says)


def test_provenance_shows_what_differs_with_its_source() -> None:
    official = {"setup": "standard", "origin": "official", "name": "roberta-base/lora-official"}
    one = glue("rte", 86.0, sources={"lr": "Table 9", "batch": "Table 9"})
    two = glue("rte", 86.0, settings={"recipe": official, "lr": 0.5}, sources={"lr": "script", "batch": "script"})
    made = make("provenance", one, two)
    assert made.tables[0].rows == [["lr", "0.0001", "roberta-base/lora", "Table 9"],
                                   ["lr", "0.5", "roberta-base/lora-official", "script"]]
    assert make("provenance", one).missing


@pytest.mark.parametrize("name", ["table2", "table3", "table13", "table14", "table18", "table5", "table16"])
def test_the_commands_that_are_given_work(name: str, cli: Cli) -> None:
    """Each cut to its first cell."""
    lines = [line for line in nothing(name).missing if "`" in line]
    commands = {line.split("`")[1] for line in lines}
    assert commands
    for command in commands:
        words = [word.strip("'") for word in command.split()[2:] if word != "-m"]
        said_so = {line.endswith("` (no published recipe: ours will stand apart)") for line in lines
                   if f"`{command}`" in line}
        if not words[0].startswith("table="):
            words = [word.partition(",")[0] for word in words]
            status, said, err = cli(*words, "runtime.show=recipe")
            assert status == 0, (command, err)
            assert "lr" in said
            assert said_so == {any(word.startswith("recipe=text/") for word in words)}
        else:
            assert (ROOT / "conf" / "table" / f"{words[0].partition('=')[2]}.yaml").exists()


def test_what_provenance_needs_runs(cli: Cli) -> None:
    """Every cell of the command, each by a seed of it."""
    needs = import_module("analysis.exhibits.provenance").NEEDS
    (command,) = re.findall(r"python run.py -m ((?:\S+=\S+ ?)+)", needs)
    choices = [[f"{key}={each}" for each in values.split(",")]
               for key, _, values in (word.partition("=") for word in command.split())]
    for words in product(*choices):
        status, said, err = cli(*words, "runtime.show=recipe")
        assert status == 0, (words, err)
        assert re.search(r"init_from +none", said), words  # no MNLI run is needed


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "analysis" / "exhibits").glob("[a-z]*.py")))
def test_the_tables_that_exhibits_name_are_there(name: str) -> None:
    for table in re.findall(r"table=([\w-]+)", import_module(f"analysis.exhibits.{name}").NEEDS):
        assert (ROOT / "conf" / "table" / f"{table}.yaml").exists()
