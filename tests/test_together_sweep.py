"""runtime.together in sweeps: which cells are kin, what is launched as one, and how each of a bundle's cells ends."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import Cli, ran
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from test_graph import Fake, begin, cell, records
from test_status import RECORD, entry, folder, held, plan, put

from analysis import estimate, status, sweeps
from engine import kin, record, sweep, work
from engine.contract import Elsewhere, Refused, Stopped, Unfinished
from engine.sweep import Sweep
from hydra_plugins.lora_paper import beside

DEFAULTS = {"seed": 0, "lr": 1e-3, "warmup": 0.1, "schedule": "linear", "weight_decay": 0.0, "decay_on": "matrices",
            "clip": None, "betas": [0.9, 0.999], "eps": 1e-8, "alpha": 8, "r": 8, "init_from": "none"}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def composed(*words: str) -> dict[str, Any]:
    """The settings of a cell, resolved, as run.py has them."""
    from test_sweeps import settings_of

    return copy.deepcopy(settings_of(*words))


def leaves(node: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(node, dict) or not node:
        return [path]
    return [leaf for name, value in node.items() for leaf in leaves(value, (*path, name))]


def put_in(settings: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        settings = settings[name]
    settings[path[-1]] = value


@pytest.mark.parametrize("method", ["lora", "lora-pe", "adapter-d"])
def test_every_setting_splits_a_bundle_but_those_that_each_run_has_for_itself(method: str) -> None:
    settings = composed("task=rte", f"method={method}", "model=minilm")
    free = {leaf for leaf in leaves(settings) if leaf[0].startswith("_")}
    free |= {(name,) for name in kin.FREE} | {("runtime", name) for name in kin.OWN}
    free |= {leaf for leaf in leaves(settings) if leaf[0] == "method" and leaf[-1] in ("r", "alpha")}
    mine, other = kin.key(settings), {}
    for leaf in leaves(settings):
        changed = copy.deepcopy(settings)
        put_in(changed, leaf, 977)
        other[leaf] = kin.key(changed)
    assert {leaf for leaf, key in other.items() if key == mine} == free & other.keys()
    assert {("seed",), ("lr",), ("r",), ("init_from",)} <= free & other.keys() and len(other) > 60
    assert {("epochs",), ("batch",), ("precision",), ("model", "path"), ("task", "limit"), ("method", "name"),
            ("data_root",), ("runtime", "micro_batch")} <= other.keys() - free


def test_a_rank_for_each_target_is_not_one_rank() -> None:
    one, two, three = (composed("task=rte", "method=lora", "model=minilm", word)
                       for word in ("r=4", "r={q:8,v:4}", "r={q:8,v:2}"))
    assert len({kin.key(each) for each in (one, two, three)}) == 3
    assert kin.key(one) == kin.key(composed("task=rte", "method=lora", "model=minilm", "r=16", "alpha=2", "seed=3"))


def stub(**changes: Any) -> Any:
    """As much of a Cell as is asked about."""
    parts = {"method": SimpleNamespace(name="lora"), "recipe": SimpleNamespace(precision="auto"),
             "model": SimpleNamespace(name="m", config={"model_type": "roberta"})}
    return SimpleNamespace(**(parts | changes))


def test_what_trains_alone_says_why(tmp_path: Path) -> None:
    from baselines.full import FullFineTuning

    nowhere = tmp_path / "nowhere"
    assert kin.alone(stub(), nowhere) == ""
    assert "no base to share" in kin.alone(stub(method=FullFineTuning("ft", "FT")), nowhere)
    assert "loss scale" in kin.alone(stub(recipe=SimpleNamespace(precision="fp16")), nowhere)
    shape = SimpleNamespace(name="d", config={"model_type": "deberta-v2"})
    assert "relative positions" in kin.alone(stub(model=shape), nowhere)
    (tmp_path / "config.json").write_text('{"model_type": "deberta-v2"}')   # what is there counts
    assert "relative positions" in kin.alone(stub(), tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "roberta"}')
    assert kin.alone(stub(model=shape), tmp_path) == ""


@pytest.mark.parametrize(("value", "count"), [(True, 10), (False, 1), (1, 1), (3, 3)])
def test_how_many_at_most(value: Any, count: int) -> None:
    assert kin.most(value) == count


@pytest.mark.parametrize("value", [0, -1, 2.5, "two", None, [2]])
def test_what_is_no_number_of_runs_is_refused(value: Any) -> None:
    with pytest.raises(Refused, match=r"runtime\.together="):
        kin.most(value)


def test_bundles_are_of_one_kin_of_about_one_size_and_lose_none(out: Path) -> None:
    kins = "abacaaabacaad"
    cells = [replace(cell(out, f"{place}"), kin=None if name == "c" else name) for place, name in enumerate(kins)]
    made = kin.bundles(cells, 3)
    assert sorted(map(len, made), reverse=True) == [3, 3, 2, 2, 1, 1, 1]   # eight, two, one and two on their own
    assert sorted(each.title for group in made for each in group) == sorted(each.title for each in cells)
    assert all(len({each.kin for each in group}) == 1 and (group[0].kin or len(group) == 1) for group in made)
    assert kin.bundles(cells, 1) == [[each] for each in sorted(cells, key=lambda each: kins.index(
        kins[int(each.title)]) if each.kin else int(each.title))]


def test_a_bundles_line_gives_back_each_cells_own() -> None:
    lines = [["task=rte", "seed=0", "betas=[0.9,0.98]", "alpha=8", "model.path='a b'"],
             ["task=rte", "seed=1", "betas=[0.9,0.999]", "alpha=8", "model.path='a b'"],
             ["task=rte", "seed=2", r"model.path='c:\x\'", "runtime.parent='0123'", "lr=1e-3"]]
    made = kin.line(lines)
    assert made[:-1] == lines[0] and kin.line(lines[:1]) == lines[0]
    entries = read(made[-1])
    assert entries[0] == ["seed=1", "betas=[0.9,0.999]"] and "~alpha" in entries[1]
    assert [set(line) for line in kin.beside(made, entries)] == [set(line) for line in lines[1:]]
    assert kin.beside(lines[0], []) == []


def read(word: str) -> list[list[str]]:
    """runtime.beside as Hydra reads it."""
    value = OverridesParser.create().parse_override(word).value()
    return [[each.text if isinstance(each, QuotedString) else each for each in entry] for entry in value]  # type: ignore


def test_hydra_reads_any_word_back() -> None:
    words = ["k=" + "".join(signs) for size in range(5) for signs in itertools.product("a'\\\"", repeat=size)]
    words += ["k=[a,b]", "k={q:8,v:4}", "k=a b", "k=$x", "k=é", "k=a#b", "k=(1)", "~k", "k=1e-4"]
    assert read(kin.line([["a=1"], words])[-1]) == [[*words, "~a"]]


class Bundles(Fake):
    """A launcher that takes lines apart: what each cell of a bundle is told to do."""

    def __call__(self, lines: list[list[str]]) -> Sequence[BaseException | None]:
        errors: list[BaseException | None] = []
        taken = []
        for line in lines:
            entries = [read(word) for word in line if word.startswith("runtime.beside=")]
            cells = [[word for word in line if not word.startswith("runtime.beside")]]
            cells += kin.beside(line, entries[0]) if entries else []
            taken.append(cells)
            results = super().__call__(cells)
            self.launched.pop()
            ends = {place: kin.end(error) for place, error in enumerate(results) if error is not None}
            if not ends or not entries:
                errors.append(results[0])
            else:   # as it comes out of another process
                errors.append(pickle.loads(pickle.dumps(kin.Partly(ends))))
        self.launched.append(taken)
        return errors


def kins(out: Path, names: str, **fields: Any) -> list[Any]:
    return [replace(cell(out, name), kin="k", **fields) for name in names]


def names(fake: Fake) -> list[list[list[str]]]:
    return [[[line[0].removeprefix("name=") for line in bundle] for bundle in wave] for wave in fake.launched]


def test_cells_of_one_kin_are_launched_as_one_line(out: Path) -> None:
    fake = Bundles(out)
    Sweep(fake, [*kins(out, "abcde"), cell(out, "z")], out, False, together=3).run("t", "again")
    assert names(fake) == [[["a", "b"], ["c", "d", "e"], ["z"]]]
    places = [[line[-1] for line in bundle] for bundle in fake.launched[0]]
    assert places == [["runtime.place='1-2/6'"] * 2, ["runtime.place='3-5/6'"] * 3, ["runtime.place='6/6'"]]
    alone = Bundles(out / "other")
    Sweep(alone, [replace(each, records=(out / "other" / each.key.relative_to(out),)) for each in kins(out, "ab")],
          out / "other", False).run("t", "again")
    assert names(alone) == [[["a"], ["b"]]]


def test_one_that_fails_costs_none_of_the_others(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = Bundles(out, b=[ValueError("the loss is nan\nin step 3")])
    child = [replace(cell(out, f"of-{name}"), after=cell(out, name).key, child=True, kin="c") for name in "abc"]
    with pytest.raises(Unfinished, match="failed: b: ValueError: the loss is nan") as ended:
        Sweep(fake, [*kins(out, "abc"), *child], out, False, together=10).run("t", "again")
    assert str(ended.value).count("failed:") == 1 and names(fake) == [[["a", "b", "c"]], [["of-a", "of-c"]]]
    state = work.state(out / "work" / "demo" / "rte" / "b")
    assert state.kind == "failed" and state.failed and "in step 3" in state.failed["traceback"]
    assert "4 of 6 cells done (0 before), 1 failed, 1 not run" in capsys.readouterr().out


def test_what_another_process_has_of_a_bundle_is_waited_for(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []
    monkeypatch.setattr(sweep, "time", SimpleNamespace(sleep=naps.append))
    fake = Bundles(out, a=[Elsewhere("just taken"), Elsewhere("still"), "done"], b=["done"],
                   c=[Elsewhere("just taken"), Elsewhere("still"), "done"])
    Sweep(fake, kins(out, "abc"), out, False, together=10).run("t", "again")
    assert names(fake) == [[["a", "b", "c"]], [["a", "c"]], [["a", "c"]]]
    assert len(naps) == 1   # once nothing was run but what others have; not where b was


def test_a_job_that_is_gone_has_done_what_the_disk_says(out: Path) -> None:
    """As Slurm's OUT_OF_MEMORY: one word for the whole bundle."""
    def launch(lines: list[list[str]]) -> list[BaseException | None]:
        Fake(out)([["name=b"]])
        return [RuntimeError("Slurm job 17 ended as OUT_OF_MEMORY")]

    with pytest.raises(Unfinished, match="OUT_OF_MEMORY") as ended:
        Sweep(launch, kins(out, "abc"), out, False, together=10).run("t", "again")
    assert [name for name in "abc" if f"failed: {name}:" in str(ended.value)] == ["a", "c"]


def test_cells_whose_process_was_killed_go_on_one_by_one(out: Path) -> None:
    """One of them kills its process each time, and costs none of the others."""
    began: list[list[str]] = []

    def launch(lines: list[list[str]]) -> list[None]:
        for line in lines:
            entries = [read(word) for word in line if word.startswith("runtime.beside=")]
            cells = [line, *kin.beside(line, entries[0] if entries else [])]
            began.append([each[0].removeprefix("name=") for each in cells])
            if "b" in began[-1]:
                for name in began[-1]:
                    begin(out, name)
                raise OSError("killed")
            Fake(out)(cells)
        return [None] * len(lines)

    with pytest.raises(Unfinished, match="failed: b: RuntimeError: its process ended without a word, 2 times") as ended:
        Sweep(launch, [*kins(out, "abc"), cell(out, "z")], out, False, together=10).run("t", "again")
    assert str(ended.value).count("failed:") == 1 and began == [["a", "b", "c"], ["z"], ["a"], ["b"], ["c"]]


def test_children_of_one_kin_have_a_parent_each(out: Path) -> None:
    parents = [replace(cell(out, f"m-{name * 10}"), kin="mnli") for name in "123"]
    children = [replace(cell(out, f"child-{name}"), after=cell(out, f"m-{name * 10}").key, child=True, kin="rte")
                for name in "123"]
    fake = Bundles(out)
    Sweep(fake, [*parents, *children], out, False, together=10).run("t", "again")
    assert [len(bundle) for wave in fake.launched for bundle in wave] == [3, 3]
    assert [set(line) for line in fake.launched[1][0]] == [
        {f"name=child-{name}", f"runtime.parent='{name * 10}'", "runtime.place='4-6/6'"} for name in "123"]


@pytest.fixture
def planned(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """planned(words): the lines that a sweep launches first, and what it says before; nothing runs."""
    made: list[list[str]] = []
    run = Sweep.run

    def launch(lines: list[list[str]]) -> None:
        made.extend(lines)
        raise Stopped("that is all")

    def instead(self: Sweep, name: str, command: str) -> None:
        self.launch = launch   # type: ignore[assignment]
        run(self, name, command)

    def call(*words: str) -> tuple[list[list[str]], str]:
        monkeypatch.setattr(Sweep, "run", instead)
        made.clear()
        _, said, err = cli(*words, f"hydra.sweep.dir={tmp_path / 'sweep'}")
        assert "that is all" in err, err
        return list(made), said

    return call


def test_seeds_and_rates_of_a_sweep_of_ones_own(planned: Any, small: list[str]) -> None:
    lines, said = planned("-m", *small, "task=rte,cola", "seed=0,1", "lr=1e-3,2e-3", "runtime.together=true")
    assert [len(read(line[-1])) for line in lines] == [3, 3]
    assert "sweep: 8 cells train together, at most 4 at once\n" in said
    assert [sorted(entry) for entry in read(lines[0][-1])] == [["lr=0.002"], ["seed=1"], ["lr=0.002", "seed=1"]]
    lines, said = planned("-m", *small, "task=rte", "seed=0,1,2", "epochs=1,2", "runtime.together=2")
    assert [line[-1].count("[seed") + line[-1].count("['seed") for line in lines] == [0, 1, 0, 1]
    assert "at most 2 at once" in said


def test_what_can_and_what_cannot_is_said(planned: Any, small: list[str]) -> None:
    lines, said = planned("-m", *small, "task=rte", "method=bitfit,ft", "seed=0,1", "runtime.together=true")
    assert ("sweep: 2 cells train together, at most 2 at once; one by one: 2 cells (method=ft: every weight trains, so "
            "its runs have no base to share)\n") in said
    assert [any(word.startswith("runtime.beside") for word in line) for line in lines] == [True, False, False]


def test_the_rows_of_a_table(planned: Any, tiny: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Table 2, narrowed, with another base: of every row and task the seeds, MNLI first."""
    monkeypatch.setattr("engine.models.checked", lambda *_: None)   # that the base is none of RoBERTa's
    lines, said = planned("table=table2-roberta-base", "task=rte", "method=ft,adapter-d", "scale=demo",
                          f"model.path={tiny}", f"runtime.out={out}", "init_from=mnli", "runtime.together=true")
    assert "15 cells and 15 MNLI runs that others start from" in said
    assert "20 cells train together, at most 5 at once; one by one: 10 cells (method=ft" in said
    sizes = [len(read(line[-1])) + 1 if line[-1].startswith("runtime.beside") else 1 for line in lines]
    assert sorted(sizes) == [1] * 5 + [5] * 2   # Adapter-D of either size
    assert sum("drop=8" in line for line in lines) == sum("drop=0" in line for line in lines) == 1
    assert all("task=mnli" in line for line in lines)


@pytest.mark.parametrize(("words", "says"), [
    (["-m", "task=rte,cola", "runtime.together=true"], "no two of its cells differ in seed, lr"),
    (["-m", "task=rte", "method=ft", "seed=0,1", "runtime.together=true"], "no base to share; leave runtime.together"),
    (["-m", "task=rte", "seed=0,1", "precision=fp16", "runtime.together=2"], "loss scale"),
    (["-m", "task=rte", "seed=0,1", "runtime.together=0"], "runtime.together=0: say true"),
    (["-m", "task=rte", "seed=0,1", "runtime.together=true,false"], "runtime.together is for the whole sweep"),
    (["-m", "task=rte", "seed=0,1", "runtime.together=true", "hydra/launcher=slurm", "hydra.launcher.tasks_per_node=2"],
     "here 2 processes train one run"),
    (["-m", "task=latency", "seed=0,1", "runtime.together=true"], "none of these cells"),
    (["task=rte", "runtime.together=true"], "this is one run: add -m and several values, seed=0,1,2,3,4 say"),
    (["task=rte", "runtime.beside=[['seed=1']]"], "this is one run"),
    (["search=demo", "task=sst2", "runtime.together=2"], "one after the other"),
])
def test_what_cannot_be_together_is_refused(cli: Cli, small: list[str], out: Path, words: list[str], says: str) -> None:
    kept = [word for word in small if word.partition("=")[0] not in {each.partition("=")[0] for each in words}]
    kept = [word for word in kept if "latency" not in str(words) or not word.startswith(("epochs", "batch", "scale."))]
    status, _, err = cli(*words, *kept)
    assert status == 2 and says in err and len(err.splitlines()) <= 2 and not (out / "runs").exists()


def test_several_processes_of_one_run_are_refused(cli: Cli, small: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    status, _, err = cli("-m", *small, "task=rte", "seed=0,1", "runtime.together=true")
    assert status == 2 and "here 2 processes train one run" in err


def test_deberta_is_refused_by_what_its_folder_says(cli: Cli, small: list[str], tmp_path: Path) -> None:
    from conftest import write_model

    made = write_model(tmp_path / "deberta", "deberta")
    words = [word for word in small if not word.startswith("model.path")]
    status, _, err = cli("-m", *words, f"model.path={made}", "model/roles=deberta", "task=rte", "seed=0,1",
                         "runtime.together=true")
    assert status == 2 and "relative positions" in err


def test_the_job_makes_each_cell_as_it_is_by_itself(cli: Cli, small: list[str], tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """The cells of a bundle have the settings, the sources and so the identity that each of them has alone."""
    from engine import cell as engine_cell

    alone, bundles = [], []

    def one(made: Any, report: Any) -> Path:
        alone.append(made)
        raise ValueError("seen")

    def all_of(cells: Sequence[Any], reports: Sequence[Any]) -> list[Path | Exception]:
        assert len(cells) == len(reports) and all(report.settings is each.settings
                                                  for report, each in zip(reports, cells, strict=True))
        bundles.append(cells)
        return [ValueError("seen") for _ in cells]

    monkeypatch.setattr(engine_cell, "run", one)
    monkeypatch.setattr(engine_cell, "run_all", all_of, raising=False)
    words = ["-m", *small, "task=rte", "seed=1", "lr=1e-3,3e-3", "clip=1.0", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    assert cli(*words)[0] == 1
    status, _, err = cli(*words, "runtime.together=true")
    assert status == 1 and err.count("failed: ") == 2 and err.count("ValueError: seen") == 2
    (cells,) = bundles
    assert len(cells) == len(alone) == 2

    def seen(cells: Sequence[Any]) -> list[Any]:
        return [({key: value for key, value in each.settings.items() if key != "runtime"}, each.recipe, each.method,
                 dict(each.sources), each.title, each.settings["runtime"]["out"]) for each in cells]

    assert seen(cells) == seen(alone) and alone[0].sources["lr"] == "command line"
    assert [each.settings["lr"] for each in cells] == [1e-3, 3e-3]
    assert {each.settings["runtime"]["place"] for each in cells} == {"1-2/2"}


@pytest.mark.slow
def test_a_bundle_gives_the_records_that_its_cells_give_alone(cli: Cli, small: list[str], tmp_path: Path) -> None:
    """With two ranks and two seeds."""
    words = ["-m", *[word for word in small if "runtime.out" not in word], "task=rte"]
    found = {}
    for name, together in ("alone", "false"), ("joint", "true"):
        out = tmp_path / name
        ran(cli, *words, "r=4,2", "seed=0,1", f"runtime.together={together}", f"runtime.out={out}",
            f"hydra.sweep.dir={tmp_path / 'sweep'}")
        found[name] = {one.digest: one for one in record.read_all(out)[0]}
    assert found["alone"].keys() == found["joint"].keys() and len(found["alone"]) == 4
    for digest, one in found["joint"].items():
        assert one.outcome["together"] == 4
        other = found["alone"][digest]
        for mine, its in zip(one.outcome["curve"], other.outcome["curve"], strict=True):
            assert mine == pytest.approx(its, rel=1e-5)
        assert (one.footprint, one.settings, one.sources) == (other.footprint, other.settings, other.sources)


@pytest.mark.parametrize("seeds", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_children_of_several_seeds_have_a_parent_each(cli: Cli, small: list[str], out: Path, tmp_path: Path,
                                                      seeds: int) -> None:
    said = ran(cli, "-m", *small, "task=rte", "init_from=mnli", f"seed={','.join(map(str, range(seeds)))}",
               "runtime.together=true", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert f"{2 * seeds} cells train together, at most {seeds} at once" in said
    made = records(out)
    assert len(made) == 2 * seeds and {one.outcome["together"] for one in made.values()} == {seeds}
    assert len({one.digest for (task, _), one in made.items() if task == "mnli"}) == seeds
    assert all(made["rte", seed].init_from == made["mnli", seed].digest for seed in range(seeds))


@pytest.mark.slow
def test_a_cell_that_fails_costs_none_of_those_that_train_with_it(
        cli: Cli, small: list[str], out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its record says nothing, its folder why; launched again it is the only one that runs."""
    from engine import train

    fit, sizes = train.fit, []

    def fails(runs: Any, *rest: Any, **more: Any) -> Any:
        sizes.append(len(runs))
        made = list(fit(runs, *rest, **more))
        return [RuntimeError("no luck") if run.seed == 1 and len(sizes) == 1 else each
                for run, each in zip(runs, made, strict=True)]

    monkeypatch.setattr(train, "fit", fails)
    words = ["-m", *small, "task=rte", "seed=0,1,2", "runtime.together=true", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    status, said, err = cli(*words)
    assert status == 1 and "failed: rte · encoder" in err and "seed 1: RuntimeError: no luck" in err
    assert "2 of 3 cells done (0 before), 1 failed" in said and records(out).keys() == {("rte", 0), ("rte", 2)}
    (failed,) = (out / "work").rglob("failed.json")
    assert "no luck" in failed.read_text()
    assert "3 of 3 cells done (2 before)" in ran(cli, *words) and sizes == [3, 1]


@pytest.mark.slow
def test_seeds_at_once_on_minilm(cli: Cli, tmp_path: Path) -> None:
    """As README has it, cut short; in a process of its own by joblib, where that is installed."""
    import importlib.util

    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=1"] if importlib.util.find_spec("joblib") else []
    said = ran(cli, "-m", "task=cola", "method=lora", "seed=0,1", "scale=demo", "scale.train=64", "scale.validation=32",
               "epochs=1", "runtime.together=true", f"runtime.out={tmp_path}", f"hydra.sweep.dir={tmp_path / 'sweep'}",
               *launcher)
    assert "2 of 2 cells done" in said and {one.outcome["together"] for one in record.read_all(tmp_path)[0]} == {2}


def test_names_of_bundles_in_worker_processes() -> None:
    lines = [kin.line([["task=rte", "method=lora", f"seed={seed}", "runtime.place='3-7/108'"] for seed in range(5)]),
             ["task=cola", "method=lora", "seed=0", "runtime.place='8/108'"]]
    assert beside.names(lines, 1) == [("3-7/108", "rte lora s0 and 4 more"), ("8/108", "cola lora s0")]


def test_status_divides_the_time_of_runs_that_trained_at_once(tmp_path: Path) -> None:
    """Five took 500 s together, so the next five will; the two that run now, in one process, are half way."""
    cells = [entry("cola", "lora", seed) for seed in range(12)]
    plan(tmp_path, cells, "run")
    for each in cells[:5]:
        put(tmp_path / each["records"][0], RECORD | {"outcome": RECORD["outcome"] | {"seconds": 500, "together": 5}})
    found = sweeps.read(tmp_path, "demo")
    assert found.cells[0].seconds == 100 and estimate.remaining(found.cells) == (700, 7, 0, 0)
    for each in cells[5:7]:
        held(folder(tmp_path, each))
        put(folder(tmp_path, each) / "progress.json", {"step": 200, "steps": 400, "seconds": 100})
    found = sweeps.read(tmp_path, "demo")
    assert estimate.remaining(found.cells) == (600, 7, 0, 0)
    assert "about 10 min of training left, 2 at a time" in status.text(found, 120)   # in one process
    held(folder(tmp_path, cells[6]), pid=43)
    assert "about 5 min of training left, 2 at a time" in status.text(sweeps.read(tmp_path, "demo"), 120)
    for each in cells[:5]:
        (tmp_path / each["records"][0]).unlink()
    held(folder(tmp_path, cells[6]))
    assert estimate.remaining(sweeps.read(tmp_path, "demo").cells) == (10 * 100 + 2 * 50, 12, 0, 0)


@pytest.mark.slow
def test_curves_of_several_runs_are_open_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    from engine.curves import Curves

    settings = {"runtime": {"wandb": "offline", "out": str(tmp_path)}, "task": {"name": "rte"}, "model": {"name": "m"},
                "method": {"name": "lora"}}
    curves = [Curves(settings | {"seed": seed}, None) for seed in range(3)]
    for epoch in range(2):
        for each in curves:
            each({"accuracy": epoch})
    runs = [each.run for each in curves]
    assert len({id(run) for run in runs}) == 3 and [run.name for run in runs] == [f"rte-m-lora-s{n}" for n in range(3)]
    put(tmp_path / "record.json", {"value": 3.0})
    ends: list[Any] = []
    results: list[Path | Exception] = [tmp_path / "record.json", ValueError("no"), tmp_path / "record.json"]
    for each, run, result in zip(curves, runs, results, strict=True):
        finish = run.finish
        monkeypatch.setattr(run, "finish", lambda exit_code, run=run: ends.append((exit_code, dict(run.summary))))
        each.close(result)
        finish()
    assert [(code, said.get("value")) for code, said in ends] == [(0, 3.0), (1, None), (0, 3.0)]
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 3
