"""The latency study: what is timed, in which order, on which modules, and what its record and exhibits say."""

import itertools
import json
import random
import re
import statistics
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import ROOT, Cli, ran, tree, write_model
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from analysis.exhibit import Exhibit, Inputs
from analysis.exhibits import figure5, table1
from analysis.write import write
from engine import device as devices
from engine import latency, timing, variants
from engine.backbone import Backbone
from engine.record import Record, read
from engine.spec import ModelSpec
from lora.layer import LoRALinear

CONF = ROOT / "conf"
RECORDS = sorted((ROOT / "results" / "runs" / "paper" / "latency").glob("*.json"))


@cache
def settings(*words: str) -> dict[str, Any]:
    """The study's settings as run.py hands them over; not to be changed."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", ["task=latency", *words])
    assert "method" not in config and "recipe" not in config
    keep = ["task", "model", "scale", "seed", "runtime"]
    return OmegaConf.to_container(OmegaConf.masked_copy(config, keep), resolve=True)   # type: ignore[return-value]


def study(*words: str) -> Any:
    return instantiate(settings(*words)["task"], _convert_="all")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 of two layers, 32 wide, with 96 positions."""
    return write_model(tmp_path_factory.mktemp("models") / "gpt2", "gpt2")


@pytest.fixture
def words(folder: Path, tmp_path: Path) -> list[str]:
    """The words of a study of a second."""
    return ["task=latency", "model=decoder", f"model.path={folder}", "task.batches=[1,2]", "task.lengths=[8,16]",
            "task.ranks=[2,4]", "task.trials=3", "task.warmup=1", f"runtime.out={tmp_path / 'out'}"]


@pytest.fixture
def base(folder: Path) -> Backbone:
    """The tiny model as a study builds it, with its own weights."""
    spec = ModelSpec(**settings("model=decoder", f"model.path={folder}")["model"])
    shape = variants.shaped(spec, study("task.lengths=[96]"))
    return variants.built(shape, torch.device("cpu"), "fp32", 0)


# --- timing, with a clock that does what it is told -----------------------------------------------------------------


class Fake:
    """Calls that last as long as a list says, one entry a call, on a clock that nothing else moves."""

    def __init__(self, *seconds: list[float]) -> None:
        self.now, self.asked = 0.0, []
        self.calls = [self._call(which, iter(each)) for which, each in enumerate(seconds)]

    def _call(self, which: int, lasts: Any) -> Any:
        def call() -> None:
            self.asked.append(which)
            self.now += next(lasts)
        return call

    def timed(self, warmup: int, trials: int, wait: Any = lambda: None) -> list[list[float]]:
        self.ticks = 0

        def tick() -> None:
            self.ticks += 1
        return timing.interleaved(self.calls, warmup, trials, wait, lambda: self.now, tick)


def test_trials_are_interleaved_and_their_order_turns() -> None:
    fake = Fake(*([1.0] * 6 for _ in range(3)))
    fake.timed(2, 4)
    rounds = [fake.asked[i:i + 3] for i in range(0, 18, 3)]
    assert rounds == [[0, 1, 2], [0, 2, 1], [2, 0, 1], [2, 1, 0], [1, 2, 0], [1, 0, 2]]
    assert fake.ticks == 18
    follows = {(one, two) for turn in rounds for one, two in itertools.pairwise(turn)}
    assert follows == set(itertools.permutations(range(3), 2))   # nothing always comes behind the same


def test_warm_up_is_run_and_not_counted() -> None:
    fake = Fake([100.0, 50.0, 0.25, 0.5], [70.0, 60.0, 1.0, 2.0])
    assert fake.timed(2, 2) == [[250.0, 500.0], [1000.0, 2000.0]]   # milliseconds


def test_the_device_is_waited_for_before_the_clock_is_read_each_time() -> None:
    """What was begun earlier is not counted; what a call began is."""
    fake, pending = Fake([1.0, 1.0], [3.0, 3.0]), [0.0]

    def wait() -> None:
        fake.now += pending[0]
        pending[0] = 0.0

    def later(which: int) -> None:   # a call that returns at once
        pending[0] += (1.0, 3.0)[which]

    fake.calls = [lambda: later(0), lambda: later(1)]
    assert fake.timed(0, 2, wait) == [[1000.0, 1000.0], [3000.0, 3000.0]]


def test_the_numbers_of_a_call_against_ones_by_hand() -> None:
    """Base drifts to twice its time in the middle; the call is always 10 to 30 % above its neighbour."""
    base, call = [10.0, 20.0, 20.0, 10.0, 10.0], [11.0, 24.0, 26.0, 12.0, 12.0]
    assert timing.summary(call, base) == pytest.approx({
        "median": 12.0, "mean": 17.0, "std": statistics.stdev(call), "min": 11.0, "max": 26.0, "slowdown": 20.0,
        "slowdown_low": 20.0, "slowdown_high": 20.0}, abs=1e-4)
    assert timing.summary([10.0, 11.0], [10.0, 10.0])["slowdown_high"] == pytest.approx(7.5)   # between 0 and 10
    assert timing.summary(base, base)["slowdown"] == 0


# --- what is timed --------------------------------------------------------------------------------------------------


def test_the_grid_is_figure_5s_with_table_1s_columns() -> None:
    made = study()
    assert set(made.cells()) == set(itertools.product(figure5.BATCHES, figure5.LENGTHS))
    tokens = [batch * length for batch, length in made.cells()]
    assert tokens == sorted(tokens) and (made.trials, made.precision) == (100, "fp32")
    names = [(variant.name, variant.r) for variant in made.variants(8, 256)]
    assert names == [("none", 0), ("lora-merged", 4), ("lora", 4), *(
        (name, r) for name in ("adapter-h", "adapter-l") for r in figure5.RANKS)]
    extra = {cell: {(v.name, v.r) for v in made.variants(*cell)} - set(names) for cell in made.cells()}
    assert {cell: found for cell, found in extra.items() if found} == {
        (32, 512): {("adapter-h", 5), ("adapter-l", 8)}, (16, 256): {("adapter-h", 112), ("adapter-l", 224)},
        (1, 128): {("adapter-h", 112), ("adapter-l", 224)}}


def test_table_1s_sizes_are_the_audits() -> None:
    """On GPT-2 medium's shape, counted as built; results/paper/parameter_counts.csv has the formula's."""
    shape = variants.shaped(ModelSpec(**settings()["model"]), study())
    counts = variants.counts(study("task.batches=[1,32]", "task.lengths=[128,512]", "task.ranks=[10]"), shape)
    told = pd.read_csv(ROOT / "results" / "paper" / "parameter_counts.csv", dtype=str)
    told = told[(told.table == "1") & (told.model == "gpt2-medium")]
    formula = {(row.method.lower(), int(row.config.rpartition("r=")[2])): int(row.exact_params)
               for row in told.itertuples()}
    assert formula == {("adapter-l", 8): 467136, ("adapter-h", 5): 540912, ("adapter-l", 224): 11089152,
                       ("adapter-h", 112): 11064576}
    assert {key: counts[key] for key in formula} == formula
    assert counts["none", 0] == 0
    assert counts["lora", 4] == counts["lora-merged", 4] == 24 * 2 * 2 * 4 * 1024   # Table 11: 0.39M, of 0.35M printed
    assert counts["whole"]["total"] == 354_823_168   # GPT-2 medium, output tied


def test_the_methods_are_those_of_conf_method_but_for_r() -> None:
    """Numbers that stand in two places are the same."""
    task = yaml.safe_load((CONF / "task" / "latency.yaml").read_text())
    for name, node in {**task["adapters"], "lora": task["lora"]}.items():
        file = yaml.safe_load((CONF / "method" / f"{name}.yaml").read_text())["method"]
        free = {"r", "_partial_", "alpha", "targets"}
        assert {k: v for k, v in node.items() if k not in free} == {k: v for k, v in file.items() if k not in free}
    table11 = yaml.safe_load((CONF / "recipe" / "common" / "table11.yaml").read_text())
    assert {key: task["lora"][key] for key in ("r", "alpha", "targets")} == {
        key: table11[key] for key in ("r", "alpha", "targets")}


def test_variants_share_the_weights_and_leave_the_base_as_it_was(base: Backbone) -> None:
    before, tree_before = base.model.state_dict(), [type(module) for module in base.model.modules()]
    before = {name: tensor.clone() for name, tensor in before.items()}
    own = {tensor.data_ptr() for tensor in base.model.parameters()}
    ids = torch.arange(30, 46).view(2, 8)
    expected = base.model(input_ids=ids).logits
    for variant in study("task.ranks=[4]").variants(2, 8):
        model = variants.adapted(base, variant, 0)
        new = [p for p in model.parameters() if p.data_ptr() not in own]
        count = {"none": 0, "lora-merged": 2 * 32 * 96, "lora": 2 * 2 * 2 * 4 * 32,
                 "adapter-h": 2 * 2 * (2 * 32 * 4 + 4 + 32), "adapter-l": 2 * (2 * 32 * 4 + 4 + 3 * 32)}[variant.name]
        assert sum(p.numel() for p in new) == count, variant.name
        assert len(own - {p.data_ptr() for p in model.parameters()}) == 2 * (variant.name == "lora-merged")
        assert not model.training
        same = torch.equal(model(input_ids=ids).logits, expected)
        assert same == (not variant.name.startswith("adapter")), variant.name   # LoRA's B is zero at the start
    assert [type(module) for module in base.model.modules()] == tree_before
    assert all(torch.equal(before[name], tensor) for name, tensor in base.model.state_dict().items())


def test_merged_lora_is_the_base_graph_and_lora_is_not(base: Backbone) -> None:
    merged, lora = (variants.adapted(base, variant, 0) for variant in study().variants(1, 8)[1:3])
    assert [(name, type(module)) for name, module in merged.named_modules()] == [
        (name, type(module)) for name, module in base.model.named_modules()]
    assert not any(module._forward_hooks for module in merged.modules())
    assert sum(isinstance(module, LoRALinear) for module in lora.modules()) == 2


def test_merging_adds_the_update_to_the_weights(base: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a B that is not zero the merged model computes what the other does, and its modules are gone."""
    plain, real = study().variants(1, 8)[1], type(study().lora).apply

    def apply(self: Any, backbone: Backbone, stream: torch.Generator) -> None:
        real(self, backbone, stream)
        for module in backbone.model.modules():
            for parameter in module.B.values() if isinstance(module, LoRALinear) else ():
                torch.nn.init.normal_(parameter, 0, 0.1, generator=torch.Generator().manual_seed(3))

    monkeypatch.setattr(type(study().lora), "apply", apply)
    ids = torch.arange(30, 38).view(1, 8)
    before = base.model(input_ids=ids).logits
    expected = variants.adapted(base, replace(plain, merged=False), 0)(input_ids=ids).logits
    merged = variants.adapted(base, plain, 0)(input_ids=ids).logits
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(merged, before, atol=1e-3)


def test_precision_reaches_every_weight_and_a_forward_pass(folder: Path) -> None:
    spec = ModelSpec(**settings("model=decoder", f"model.path={folder}")["model"])
    made = study("task.lengths=[8]", "task.ranks=[4]")
    base = variants.built(variants.shaped(spec, made), torch.device("cpu"), "bf16", 0)
    for variant in made.variants(1, 8):
        model = variants.adapted(base, variant, 0)
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
        assert model(input_ids=torch.arange(8)[None]).logits.dtype == torch.bfloat16


@pytest.mark.parametrize("model", ["gpt2", "gpt2-large", "gpt2-nano", "roberta-base", "roberta-large", "minilm",
                                   "deberta-v2-xxlarge"])
def test_every_model_with_a_shape_takes_every_variant(model: str) -> None:
    made = study(f"model={model}", "task.lengths=[128]", "task.batches=[1]", "task.ranks=[10]")
    counts = variants.counts(made, variants.shaped(ModelSpec(**settings(f"model={model}")["model"]), made))
    assert len(counts) == 1 + 3 + 2 * 2 and counts["adapter-h", 10] > counts["adapter-l", 10] > 0


# --- the command ----------------------------------------------------------------------------------------------------


def record_of(out: Path) -> Record:
    (path,) = (out / "runs").rglob("*.json")
    return read(path)


def test_the_whole_command(cli: Cli, words: list[str], tmp_path: Path) -> None:
    said = ran(cli, *words)
    out = tmp_path / "out"
    found = record_of(out)
    assert (found.task, found.model, found.method, found.metric) == ("latency", "decoder", "all", "forward_latency")
    rows = found.outcome["measurements"]
    assert [(row["batch"], row["length"]) for row in rows[::7]] == [(1, 8), (1, 16), (2, 8), (2, 16)]
    assert [(row["method"], row["r"]) for row in rows[:7]] == [
        ("none", 0), ("lora-merged", 4), ("lora", 4), ("adapter-h", 2), ("adapter-h", 4), ("adapter-l", 2),
        ("adapter-l", 4)]
    for row in rows:
        assert 0 < row["min"] <= row["median"] <= row["max"] and row["trials"] == 3 and row["std"] >= 0
        assert row["slowdown_low"] <= row["slowdown"] <= row["slowdown_high"]
        assert (row["trainable"] == 0) == (row["method"] == "none")
    assert found.value == rows[0]["median"] and found.device == devices.name_of(torch.device("cpu"))
    assert {"device", "torch", "transformers", "attention"} <= found.settings["machine"].keys()
    assert str(out) not in json.dumps(found.settings) and found.weights is None
    assert "batch 1, length 8" in said and "Adapter-L r=4" in said
    assert said.splitlines()[-1] == f"record {next(out.rglob('*.json'))}"
    before = tree(out)
    assert "already there" in ran(cli, *words) and tree(out) == before
    ran(cli, *words, "runtime.force=true")
    assert tree(out) != before and len(list(out.rglob("*.json"))) == 1


def test_another_machine_or_grid_is_another_study(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def identity(*said: str) -> dict[str, Any]:
        told = settings("model=decoder", f"model.path={folder}", "task.lengths=[8]", *said)
        spec, made = ModelSpec(**told["model"]), instantiate(told["task"], _convert_="all")
        return latency._identity(told, variants.shaped(spec, made), torch.device("cpu"))

    first = identity()
    assert identity("runtime.out=elsewhere", "runtime.force=true") == first
    for word in ("task.trials=7", "task.batches=[1]", "task.ranks=[7]", "task.precision=bf16", "seed=1",
                 "model.attention=eager", "task.table1=[]", "task.lora.r=8"):
        assert identity(word) != first, word
    monkeypatch.setattr(devices, "name_of", lambda device: "another")
    assert identity() != first and identity()["machine"]["device"] == "another"


def test_a_cell_that_does_not_fit_is_missing_and_the_others_are_there(
        cli: Cli, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = timing.interleaved

    def full(calls: Any, *others: Any) -> Any:
        if calls[0].keywords["input_ids"].shape == (2, 16):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(calls, *others)

    monkeypatch.setattr(timing, "interleaved", full)
    said = ran(cli, *words)
    found = record_of(tmp_path / "out")
    assert found.outcome["missing"] == [{"batch": 2, "length": 16, "why": "out of memory"}]
    assert len(found.outcome["measurements"]) == 3 * 7 and "batch 2, length 16 is missing" in said


def test_no_record_where_nothing_fits_or_something_breaks(
        cli: Cli, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(error: Exception) -> tuple[int, str, str]:
        def call(*_: Any) -> Any:
            raise error
        monkeypatch.setattr(timing, "interleaved", call)
        return cli(*words)

    status, _, err = fail(torch.OutOfMemoryError("CUDA out of memory"))
    assert status == 2 and "not one cell fits" in err
    with pytest.raises(RuntimeError, match="device-side assert"):
        fail(RuntimeError("device-side assert"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("said", "says"), [
    ("task.batches=[0]", "task.batches=0"), ("task.batches=[]", "task.batches=[]"), ("task.batches=1", "a list"),
    ("task.lengths=[a]", "task.lengths=a"), ("task.ranks=[1.5]", "task.ranks=1.5"), ("task.ranks=[4,2]", "smallest"),
    ("task.ranks=[2,2]", "once"), ("task.trials=1", "task.trials=1"), ("task.warmup=-1", "task.warmup=-1"),
    ("task.precision=fp8", "fp32, bf16, fp16"), ("task.precision=fp16", "needs a GPU"), ("task.table1=5", "table1"),
    ("task.table1=[{batch: 1}]", "adapter-h"), ("task.lora.r=0", "r=0"), ("task.lora.r=64", "up to 32"),
    ("task.ranks=[64]", "Adapter-H: r=64: a bottleneck is at most as wide as the model, 32"),
    ("task.lengths=[8,128]", "task.lengths=128: decoder has 96 positions"), ("seed=-1", "seed=-1"),
    ("runtime.device=tpu", "auto, cpu, cuda"), ("runtime.out=5", "runtime.out"), ("runtime.force=maybe", "true, false"),
    ("lr=1", "trains nothing"), ("method=lora", "trains nothing"), ("scale=demo", "trains nothing"),
    ("recipe=text/lora", "trains nothing"), ("runtime.show=parameters", "trains nothing"),
    ("data_root=x", "trains nothing"), ("model.config={n_layer: 1}", "trains nothing"),
    ("r=8", "r: no such setting"), ("task.batchs=[1]", "task.batchs"), ("model=gpt3-175b", "only counted")])
def test_refused_at_the_door(cli: Cli, words: list[str], tmp_path: Path, said: str, says: str) -> None:
    if said.startswith("task.precision=fp16") and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    kept = [word for word in words if not (said.startswith("model=") and word.startswith("model"))]
    status, out, err = cli(*kept, said)
    assert status == 2 and says in err and len(err.strip().splitlines()) <= 2, err
    assert out == "" and not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_timed(
        cli: Cli, words: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    status, _, err = cli(*words, f"runtime.out={tmp_path / 'file'}")
    assert status == 2 and "cannot write" in err


# --- the exhibits ---------------------------------------------------------------------------------------------------


def planted(model: str = "gpt2-medium", device: str = "Some CPU, 1 threads", digest: str = "abc",
            **changes: Any) -> Record:
    """A record with the slow-downs drawn from a seed."""
    task = settings()["task"] | {"trials": 100} | changes
    draw = random.Random(5)
    rows = []
    for batch, length in itertools.product(task["batches"], task["lengths"]):
        columns = [c for c in task["table1"] if (c["batch"], c["length"]) == (batch, length)]
        for name, r in [("none", 0), ("lora-merged", 4), ("lora", 4), *(
                (name, r) for name in ("adapter-h", "adapter-l")
                for r in sorted({*task["ranks"], *(c[name] for c in columns)}))]:
            slower = draw.uniform(0, 30) if r else 0.0
            rows.append({"batch": batch, "length": length, "method": name, "label": name.title(), "r": r,
                         "trainable": 1000 * r, "trials": task["trials"], "median": 10 + slower, "mean": 11 + slower,
                         "std": 0.5, "min": 9.0, "max": 50.0, "slowdown": slower, "slowdown_low": slower - 1,
                         "slowdown_high": slower + 1})
    machine = {"device": device, "torch": "2", "transformers": "5", "attention": "sdpa", "float32_matmul": "highest"}
    told = {"task": task, "model": {"name": model}, "scale": {"name": "paper"}, "seed": 0, "machine": machine}
    return Record(1, digest, "latency", model, "all", "", "", "paper", "none", 0, "forward_latency", 10.0, {},
                  {"trainable": 0, "head": 0, "total": 1}, {"measurements": rows, "missing": [], "seconds": 1.0}, told,
                  {}, None, None, None, {}, None, None, "", device, "2000-01-01", None)


def made(*records: Record) -> tuple[Exhibit, Exhibit]:
    given = Inputs(Path("nowhere"), records, [])
    return table1.make(given), figure5.make(given)


def test_without_records_the_papers_numbers_and_the_command() -> None:
    table, figure = made()
    assert len(table.tables) == 3 and [len(each.rows) for each in table.tables] == [3, 3, 3]
    assert len(table.missing) == 3 and len(figure.missing) == 1 and not figure.figures and figure.data is None
    for what in (*table.missing, *figure.missing):
        assert "python run.py task=latency model=gpt2-medium" in what
    assert "108 of the 108" in figure.missing[0]


def test_table_1_has_the_papers_numbers_as_printed() -> None:
    told = pd.read_csv(ROOT / "results" / "paper" / "table1_latency.csv", dtype=str)
    table, _ = made()
    for each in table.tables:
        batch, length = re.findall(r"\d+", each.title)[:2]
        column = told[(told.batch_size == batch) & (told.seq_len == length)]
        shown = [cell.replace(",", "") for row in each.rows for cell in row]
        for row in column.itertuples():
            word = f"{row.value} ± {row.std}" if row.metric == "forward_latency" else f"+{row.value}"
            assert word in shown, word
        size, = column.trainable_params.dropna().unique()
        assert each.title.endswith(f"the paper's adapters have {size}")


def test_table_1_puts_ours_beside_it() -> None:
    record = planted()
    table, _ = made(record, replace(planted("gpt2-nano", "Quadro RTX 8000"), label="x"), replace(record, task="rte"))
    assert table.missing == []
    last = next(each for each in table.tables if each.title.startswith("Batch 1, length 128"))
    ours = [row for row in last.rows if row[0].startswith("ours: gpt2-medium")]
    assert [(row[1], row[2]) for row in ours] == [("None", "0"), ("Lora-Merged", "4"), ("Lora", "4"),
                                                  ("Adapter-H", "112"), ("Adapter-L", "224")]
    rows = table1.measured(record)
    found = rows[(rows.batch == 1) & (rows.length == 128) & (rows.r == 112)].iloc[0]
    assert ours[3][3:] == ["112,000", f"{found['mean']:.1f} ± 0.5", f"{found['median']:.1f}",
                           f"{found.slowdown:+.1f} ({found.slowdown - 1:+.1f} to {found.slowdown + 1:+.1f})"]
    assert "not comparable: other device)" in ours[0][0]
    assert any("not comparable: other model)" in row[0] for row in last.rows)
    assert any(f"Adapter-H r=112 {found.slowdown:+.1f} %" in paragraph for paragraph in table.says)
    sure = [word for word in table.says if "include 0" in word]
    unsure = rows[(rows.batch == 1) & (rows.length == 128) & (rows.r > 0) & (rows.slowdown < 1)]   # ± 1 in planted()
    assert bool(sure) == bool(len(unsure))
    near = replace(record, outcome={**record.outcome, "measurements": [
        {**row, "slowdown_low": -1.0} if row["method"] == "adapter-l" else row
        for row in record.outcome["measurements"]]})
    said = made(near)[0].says[-1]
    assert "The quartiles include 0 for Adapter-L r=10, Adapter-L r=100" in said and "no evidence" in said
    assert "as the paper" in table1.whose(planted(device="Quadro RTX 8000"))
    assert "other trials" in table1.whose(planted(device="Quadro RTX 8000", trials=10))
    assert ", fp32, " in table1.whose(record) and ", bf16, " in table1.whose(planted(precision="bf16"))
    coarse = replace(record, settings={**record.settings, "machine": {
        **record.settings["machine"], "float32_matmul": "high"}})
    assert "fp32 but for matrix products (torch's high)" in table1.whose(coarse)


def test_a_cell_out_of_memory_says_so() -> None:
    record = planted(batches=[1], lengths=[128])
    record = replace(record, outcome={**record.outcome, "missing": [
        {"batch": 32, "length": 512, "why": "out of memory"}]})
    table, figure = made(record)
    assert len(table.missing) == 2
    assert "batch 32, length 512: out of memory on Some CPU" in table.missing[0]
    assert "102 of the 108" in figure.missing[0]


def test_a_study_without_adapters_leaves_them_missing() -> None:
    record = planted(table1=[])
    rows = [row for row in record.outcome["measurements"] if not row["method"].startswith("adapter")]
    record = replace(record, outcome={**record.outcome, "measurements": rows})
    table, figure = made(record)
    assert len(table.missing) == 3 and all("GPT-2 medium at batch" in each for each in table.missing)
    assert figure.figures[0].caption.endswith("No adapter was timed at the figure's bottlenecks.")
    assert all("lora" not in each.figures[0].caption.lower() for each in (made(planted())[1], figure))
    assert len(made(planted(table1=[]))[0].missing) == 3   # Figure 5's bottlenecks are not the column's
    one = replace(record, outcome={**record.outcome, "measurements": [row for row in rows if row["method"] == "none"]})
    assert made(one)[0].says[-1].endswith("no method timed.")


FAULTS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no rows": ({"measurements": []}, {}, "measurements"), "a word": ({"measurements": "x"}, {}, "measurements"),
    "rows of words": ({"measurements": ["x"]}, {}, "measurements"), "no missing": ({"missing": None}, {}, "missing"),
    "missing of words": ({"missing": [{"batch": 1}]}, {}, "missing"), "no machine": ({}, {"machine": None}, "machine"),
    "half a machine": ({}, {"machine": {"torch": "2"}}, "machine"), "no grid": ({}, {"task": {}}, "grid"),
    "no columns": ({}, {"task": settings()["task"] | {"table1": [{"batch": 1}]}}, "grid"),
    "another grid": ({}, {"task": settings()["task"] | {"batches": [7]}}, "not on its grid")}


@pytest.mark.parametrize(("outcome", "told", "says"), FAULTS.values(), ids=FAULTS)
def test_a_study_that_is_not_whole_is_left_out_and_named(outcome: dict[str, Any], told: dict[str, Any],
                                                         says: str) -> None:
    good = planted(batches=[1], lengths=[128], ranks=[10])
    bad = replace(good, digest="bad", outcome={**good.outcome, **outcome}, settings={**good.settings, **told})
    for exhibit, alone in zip(made(good, bad), made(good), strict=True):
        assert exhibit.missing[0].startswith("latency study bad is left out: ") and says in exhibit.missing[0]
        assert replace(exhibit, data=None, missing=exhibit.missing[1:]) == replace(alone, data=None)


@pytest.mark.parametrize(("key", "value"), [("slowdown", None), ("slowdown_low", None), ("median", "x"),
                                            ("r", True), ("mean", float("nan")), ("method", ...)])
def test_a_study_with_a_row_that_is_not_whole_is_left_out(key: str, value: Any) -> None:
    good = planted(batches=[1], lengths=[128], ranks=[10])
    first, *others = good.outcome["measurements"]
    odd = {name: each for name, each in first.items() if name != key} | ({} if value is ... else {key: value})
    for exhibit in made(replace(good, outcome={**good.outcome, "measurements": [odd, *others]})):
        assert not exhibit.figures and "latency study abc is left out: a measurement" in exhibit.missing[0]


def test_figure_5_draws_each_study_and_what_there_is(tmp_path: Path) -> None:
    whole, part = planted(), planted("gpt2-nano", batches=[1], lengths=[128], ranks=[10])
    _, figure = made(whole, part)
    assert [each.name for each in figure.figures] == ["figure5-gpt2-medium-some-cpu-1-threads",
                                                      "figure5-gpt2-nano-some-cpu-1-threads"]
    assert figure.missing == []
    full, small = (each.svg for each in figure.figures)
    assert all(f"{label}, length {length}" in full for label in figure5.ROWS.values() for length in figure5.LENGTHS)
    assert "Adapter-H, length 128" in small and "length 256" not in small
    rows = table1.measured(part)
    for row in rows[rows.method.isin(figure5.ROWS) & (rows.r == 10)].itertuples():
        assert f">{row.slowdown:.{0 if row.slowdown >= 9.95 else 1}f}<" in small
    worst = figure5._grid(whole).slowdown.max()
    assert f"{worst:+.1f} %" in figure.figures[0].caption
    assert set(figure.data.r) == {0, *figure5.RANKS}   # Table 1's bottlenecks are no part of the figure
    _, again = made(part, replace(part, digest="def"))
    assert len({each.name for each in again.figures}) == 2   # the same model and device twice


def test_quartiles_are_no_test_as_table_1_says() -> None:
    """How often they leave 0 out without a slow-down at 10 rounds, and with one of half a standard deviation at 100."""
    draws = np.random.default_rng(0).standard_normal((40_000, 100))
    found = []
    for rounds in (draws[:, :10], draws + 0.5):
        low, high = np.quantile(rounds, (0.25, 0.75), axis=1)
        found.append(f"{100 * ((low > 0) | (high < 0)).mean():.0f} %")
    for share in found:
        assert f" {share}" in made()[0].says[0], share


def test_figure_5_brackets_where_the_quartiles_include_none() -> None:
    one = planted(batches=[1], lengths=[128], ranks=[10])
    rows = [{**row, "slowdown": 5.0, "slowdown_low": -1.0 if row["method"] == "adapter-l" else 1.0}
            if row["r"] == 10 else row for row in one.outcome["measurements"]]
    _, figure = made(replace(one, outcome={**one.outcome, "measurements": rows}))
    assert figure.figures[0].svg.count(">(5.0)<") == 1 and figure.figures[0].svg.count(">5.0<") == 1
    assert ">(0)<" not in figure.figures[0].svg


def test_the_exhibits_are_the_same_byte_for_byte(tmp_path: Path) -> None:
    part = planted(batches=[1], lengths=[128], ranks=[10])
    for folder in ("one", "two"):
        for name, exhibit in zip(("table1", "figure5"), made(part), strict=True):
            assert len(write(name, exhibit, tmp_path / folder)) == 3
    one, two = ({Path(path).name: content for path, content in tree(tmp_path / folder).items()}
                for folder in ("one", "two"))
    assert one == two and b"" not in one.values()


# --- the committed records ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_the_settings_still_give_a_committed_record_its_own(path: Path) -> None:
    told = read(path).settings
    keys = ("batches", "lengths", "ranks", "trials", "warmup")
    said = [f"task.{key}={json.dumps(told['task'][key])}" for key in keys]
    again = settings(f"model={told['model']['name']}", f"task.lora.r={told['task']['lora']['r']}", *said)
    spec, grid = ModelSpec(**again["model"]), instantiate(again["task"], _convert_="all")
    made_again = latency._identity(again, variants.shaped(spec, grid), torch.device("cpu"))
    assert {k: v for k, v in made_again.items() if k in ("task", "model")} == {
        k: v for k, v in told.items() if k in ("task", "model")}
