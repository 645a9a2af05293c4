"""Cells: what is one, what is two, and what the table says of it."""

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Cli

from analysis import frames
from engine.record import Record, read


@pytest.fixture
def record(cli: Cli, small: list[str], tmp_path: Path) -> Record:
    out = tmp_path / "out"
    assert cli("task=rte", "runtime.save=none", "method.std=0.5", *small)[0] == 0
    return read(next(out.glob("runs/*/rte/*.json")))


def test_a_cell_is_its_settings_without_the_seed(record: Record) -> None:
    """Seeds are pooled; other data, sizes, weights or hyperparameters are not."""
    def other(**changes: object) -> Record:
        return replace(record, settings={**record.settings, **changes})

    again = replace(record, seed=1, value=1.0, settings={**record.settings, "seed": 1})
    assert frames.cells(frames.runs([record, again])).n.tolist() == [2]
    for odd in (other(lr=0.5), other(precision="bf16"), other(scale={**record.settings["scale"], "train": 7}),
                replace(record, data_sha256="0"), replace(record, model_revision="0")):
        assert frames.cells(frames.runs([record, odd])).n.tolist() == [1, 1]
    assert "method.std=0.5" in frames.runs([record]).changed[0]
    assert frames.cells(frames.runs([record, again])).iloc[0]["median"] == (record.value + 1.0) / 2
    nulled = replace(record, sources={**record.sources, "cls_dropout": "command line"})   # null, so not in the settings
    assert "cls_dropout=None" in frames.runs([nulled]).changed[0]


@pytest.mark.parametrize(("limit", "train", "said"), [
    (None, None, "synthetic"), (100, None, "synthetic, 100 examples"), (None, 7, "synthetic, 7 examples"),
    (100, 7, "synthetic, 7 examples"), (5, 7, "synthetic, 5 examples")])
def test_the_data_say_how_many_were_trained_on(record: Record, limit: int | None, train: int | None, said: str) -> None:
    """The fewer of the task's limit and of what is generated."""
    settings = {**record.settings, "task": {**record.settings["task"], "limit": limit}, "scale": {"train": train}}
    assert frames.data_of(replace(record, settings=settings)) == said


def test_a_run_records_halves_in_its_curve_alone(record: Record) -> None:
    halves = {"accuracy_half1", "accuracy_half2"}
    assert halves <= record.outcome["curve"][0].keys()
    assert halves.isdisjoint({*record.numbers, *record.outcome["best"], *record.outcome["last"]})


def test_the_table_of_a_results_folder(record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                       capfd: pytest.CaptureFixture[str]) -> None:
    from analysis.__main__ import main

    out = tmp_path / "out"
    (out / "runs" / "broken.json").write_text("{")
    monkeypatch.setattr("sys.argv", ["analysis", "runs", "demo", "--results", str(out)])
    assert main() == 1   # one record could not be read, and it says which
    said = capfd.readouterr()
    assert "broken.json" in said.err and "1 run in 1 cell;" in said.out and f"{record.value:.2f}" in said.out
    assert "0 runs in 0 cells" in said.out   # generated text is in demo alone
    first = (out / "tables" / "demo.md").read_bytes()
    main()
    assert (out / "tables" / "demo.md").read_bytes() == first
    for wrong, words in ((["--results", str(tmp_path / "nowhere")], "no such folder"), (["rnus"], "mean runs?")):
        monkeypatch.setattr("sys.argv", ["analysis", *wrong])
        assert main() == 2
        assert words in capfd.readouterr().err
