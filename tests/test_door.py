"""Wrong requests end at the door: exit status 2, at most two lines that say what to type, and nothing written."""

import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, Cli, glue_rows, jsonl, tree, write_model

HEAVY = ("torch", "transformers", "datasets", "evaluate", "wandb", "pandas")
REPO = ("results", "multirun", "outputs")


def names() -> set[Path]:
    """Every path that a run could leave in the checkout."""
    return {path for name in REPO for path in (ROOT / name).rglob("*")}


def refused(cli: Cli, place: Path, words: list[str], *says: str) -> None:
    """The claim: status 2, one or two lines without a traceback, every fragment said, no file gained or changed."""
    before, ours = tree(place), names()
    status, out, err = cli(*words)
    assert status == 2, out + err
    lines = err.strip().splitlines()
    assert 1 <= len(lines) <= 2 and lines[0].startswith("run.py: "), err
    assert not any(sign in err for sign in ("Traceback", 'File "', "Error executing", "HYDRA_FULL_ERROR")), err
    assert [said for said in says if said not in err] == [], err
    assert out == ""
    assert tree(place) == before and names() == ours


SETTINGS = [
    (["task=mnlii"], ["mnlii", "mnli", "cola"]),
    (["method=bitfit2"], ["bitfit2", "lora"]),
    (["r=0"], ["r=0", "whole number at least 1"]),
    (["r=-4"], ["r=-4", "whole number at least 1"]),
    (["r=abc"], ["r=abc", "whole number"]),
    (["r=2.5"], ["r=2.5", "whole number"]),
    (["r=true"], ["r=", "whole number"]),
    (["r=33"], ["r=33", "up to 32"]),
    (["alpha=0"], ["alpha=0", "above 0"]),
    (["method=ft", "r=8"], ["r: no such setting", "LoRA"]),
    (["lr=abc"], ["lr=abc", "number above 0"]),
    (["lr=-1"], ["lr=-1", "number above 0"]),
    (["lr=nan"], ["lr=nan", "number above 0"]),
    (["lr=null"], ["lr=", "number above 0"]),
    (["epochs=0"], ["epochs=0", "whole number at least 1"]),
    (["batch=0"], ["batch=0", "whole number at least 1"]),
    (["warmup=abc"], ["warmup=abc", "number"]),
    (["warmup=null"], ["warmup=", "number"]),
    (["targets=[z]"], ["'z'", "q, k, v, o, ff"]),
    (["targets=q"], ["targets=q", "[q,v]"]),
    (["targets=q,v"], ["targets=q,v", "[a,b]"]),
    (["targets=[q,q]"], ["targets=", "once"]),
    (["targets=[]"], ["targets=", "[q,v]"]),
    (["targets=[[q]]"], ["targets=", "q"]),
    (["targets=null"], ["targets=", "[q,v]"]),
    (["seed=-1"], ["seed=-1", "at least 0"]),
    (["seed=x"], ["seed=x", "whole number"]),
    (["schedule=step"], ["schedule=step", "linear, cosine"]),
    (["precision=fp8"], ["precision=fp8", "fp32"]),
    (["betas=[0.9]"], ["betas=", "two numbers"]),
    (["betas=[0.9,x]"], ["betas=x", "number"]),
    (["data_root=/nowhere"], ["data_root=/nowhere", "scale=demo", "leave one of"]),
    (["foo=1"], ["foo", "no such setting", "--help"]),
    (["table=table22"], ["table=table22", "no such table", "table2-roberta-base"]),
    (["runtime.dry=true"], ["did you mean runtime.show=parameters"]),
    (["methd=lora"], ["methd", "did you mean method;"]),
    (["epoch=1"], ["epoch", "did you mean epochs"]),
    (["runtime.shw=recipe"], ["runtime.shw", "did you mean runtime.show"]),
    (["task.limit=0"], ["task.limit=0", "at least 1"]),
    (["scale.train=0"], ["scale.train"]),
    (["scale.train=abc"], ["scale.train"]),
    (["+foo=1"], ["+foo=1", "--help"]),
    (["~r"], ["~r", "--help"]),
    (["recipe=roberta-base/nothing"], ["recipe", "roberta-base", "nothing", "lora-official"]),
    (["model.path=/nowhere"], ["model.path=/nowhere", "no such folder"]),
    (["runtime.show=x"], ["runtime.show=x", "recipe, diff, parameters"]),
    (["r={q:8,x:4}"], ["{q:8,x:4}", "x is no target", "q, v"]),
    (["r={q:8}"], ["{q:8}", "v is a target without a rank"]),
    (["r={q:4,v:4}"], ["{q:4,v:4}", "said r=4"]),
    (["r={q:[1],v:2}"], ["r.q=[1]", "whole number"]),
    (["r={q:8,v:0}"], ["r.v=0", "at least 1"]),
    (["r={q:8,v:40}"], ["r=40", "up to 32"]),
    (["r=q:8", "r=v:4"], ["r=v:4", "quotes", "'r={q:8,v:8}'"]),
    (["method=preembed", "l_p=600"], ["608", "96 positions"]),
    (["method=prelayer", "l_p=0", "l_i=0"], ["l_p=0 l_i=0", "trains nothing"]),
    (["method=prelayer", "l_p=40"], ["length=64", "96 positions", "48 special", "length=48"]),
    (["method=lora-pe", "l_i=-1"], ["l_i=-1", "at least 0"]),
    (["method=lora-pl", "targets=[z]"], ["'z'"]),
    (["method=preembed", "method.l_p=3"], ["method.l_p=3", "say l_p="]),
    (["method=adapter-h", "r=0"], ["r=0", "at least 1"]),
    (["method=adapter-h", "drop=1"], ["drop: no such setting", "adapter-d's"]),
    (["method=adapter-h", "r=33"], ["r=33", "32"]),
    (["method=adapter-h", "r=1000000000000"], ["r=1000000000000", "32"]),
    (["method=adapter-d", "drop=1000000000000"], ["drop=1000000000000", "layers 0 to 1"]),
    (["method=adapter-d", "drop=[0]"], ["drop=[0]", "say drop=1"]),
    (["method=adapter-d", "drop=[1,1]"], ["drop=[1, 1]", "once"]),
    (["method=adapter-h", "method.design=lin"], ["method.design=lin", "choose another method"]),
    (["model.name=roberta-base"], ["model.name=roberta-base", "choose another model"]),
    (["scale.data=real"], ["scale.data=real", "choose another scale"]),
    (["method=lora", "recipe=encoder/lora-pe"], ["encoder/lora-pe", "method=lora-pe", "not for method=lora"]),
    (["method=adapter-p", "recipe=encoder/adapter-d"], ["adapter-d", "not for method=adapter-p"]),
    (["method=ft", "recipe=common/glue"], ["common/glue", "no method"]),
    (["model.roles.q={pattern:x,part:7,parts:3}"], ["'q'", "x"]),
    (["model.roles.q=5"], ["model.roles.q=5", "pattern"]),
    (["model.path=null"], ["no weights"]),
    (["method=adapter-d", "drop=2"], ["drop=2", "layers 0 to 1"]),
    (["method=adapter-d", "drop=[7]"], ["drop=[7]", "layers 0 to 1"]),
    (["method=adapter-p", "method.activation=sin"], ["sin", "relu, swish, gelu"]),
    (["method=ft-top2", "top=3"], ["top=3", "2 layers"]),
    (["recipe=gpt3-175b/ft-low-data", "method=ft", "task.limit=50"], ["limit=50", "Table 17"]),
    (["cls_dropout=2"], ["cls_dropout=2", "at most 1"]),
    (["runtime.save=all"], ["runtime.save=all", "both, best, none"]),
    (["runtime.wandb=yes"], ["runtime.wandb", "off, offline, online"]),
    (["length=100000"], ["length=100000", "96 positions"]),
    (["init_from=/nowhere.json"], ["init_from=/nowhere.json", "mnli or none"]),
    (["lr="], ["lr="]),
    (["lr"], ["lr"]),
    (["r=[1"], ["[1"]),
]


@pytest.mark.parametrize(("words", "says"), SETTINGS, ids=[" ".join(words) for words, _ in SETTINGS])
def test_a_wrong_setting_is_refused(cli: Cli, small: list[str], tmp_path: Path, words: list[str],
                                    says: list[str]) -> None:
    refused(cli, tmp_path, [*small, *words], *says)


def test_bitfit_is_refused_on_a_model_without_biases(cli: Cli, small: list[str], tmp_path: Path) -> None:
    folder = write_model(tmp_path / "llama", "llama")
    words = ["model=decoder", "model/roles=llama", "recipe=decoder/bitfit", f"model.path={folder}", "method=bitfit"]
    refused(cli, tmp_path, [word for word in small if not word.startswith("model")] + words, "no biases")


def test_what_was_never_published_is_only_counted(cli: Cli, tmp_path: Path) -> None:
    refused(cli, tmp_path, ["model=gpt3-175b", f"runtime.out={tmp_path}/out"], "gpt3-175b", "no weights", "gpt2-medium")


def test_a_refused_setting_is_not_its_own_suggestion(cli: Cli, small: list[str]) -> None:
    assert "did you mean r?" not in cli(*small, "method=ft", "r=8")[2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_refused(cli: Cli, small: list[str], tmp_path: Path) -> None:
    refused(cli, tmp_path, [*small, "runtime.device=cuda"], "runtime.device=cuda", "cpu")
    refused(cli, tmp_path, [*small, "precision=fp16"], "precision=fp16", "bf16 or fp32")


def test_a_sweep_stops_at_a_wrong_cell(cli: Cli, small: list[str], tmp_path: Path) -> None:
    status, _, err = cli("-m", *small, "task=rte,cola", "r=0", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert status == 2 and "r=0" in err and "Traceback" not in err
    assert not (tmp_path / "out").exists()


PAPER = [
    (["model=encoder"], ["model.path is needed", "model.path="]),
    (["task=wnli", "recipe=roberta-base/lora-official"], ["lora-official", "task=wnli", "conf/recipe"]),
    (["task=rte"], ["rte", "init_from=none", "task=mnli model=roberta-base method=lora", "MNLI"]),
    (["data_root=/nowhere"], ["data_root=/nowhere", "no such folder"]),
    (["task=e2e", "model=mpnet"], ["task=e2e", "mpnet/lora", "cannot write", "model=smollm2"]),
    (["task=mnli-lm", "model=roberta-base"], ["task=mnli-lm", "cannot write"]),
    (["task=rte", "model=smollm2"], ["smollm2/lora", "task=rte", "recipe=decoder/lora"]),
    (["task=cola", "recipe=decoder"], ["recipe=decoder", "MODEL/METHOD", "decoder/lora"]),
    (["task=e2e", "model=mpnet", "recipe=text/lora", "runtime.show=parameters"], ["an encoder cannot write texts"]),
    (["task=cola", "model=minilm"], ["nyu-mll/glue", "cola", "data_root=DIR", "HF_HOME=DIR", "scale=demo"]),
]


@pytest.mark.parametrize(("words", "says"), PAPER, ids=[" ".join(words) for words, _ in PAPER])
def test_a_wrong_cell_of_the_paper_is_refused(cli: Cli, tmp_path: Path, no_cache: Path, words: list[str],
                                              says: list[str]) -> None:
    refused(cli, tmp_path, [f"runtime.out={tmp_path / 'out'}", *words], *says)


def test_without_a_network_a_hub_model_is_refused_with_what_else_there_is(cli: Cli, tmp_path: Path, no_cache: Path,
                                                                          glue_folder: Path) -> None:
    words = ["task=rte", "init_from=none", f"data_root={glue_folder}", f"runtime.out={tmp_path / 'out'}"]
    says = ["FacebookAI/roberta-base", "model.path=DIR", "HF_HOME=DIR", "make models", "scale=demo"]
    refused(cli, tmp_path, words, *says)


def damaged(kind: str, folder: Path) -> None:
    """Spoils one file of a data folder in the way that kind names."""
    train, rows = folder / "glue" / "rte" / "train.jsonl.gz", glue_rows("rte", 12)
    if kind == "no column":
        jsonl(train, [{key: value for key, value in row.items() if key != "sentence2"} for row in rows])
    elif kind in ("bad label", "test label", "no label", "label as text", "text is null"):
        spoilt = {"bad label": {"label": 7}, "test label": {"label": -1}, "no label": {"label": None},
                  "label as text": {"label": "entailment"}, "text is null": {"sentence1": None}}[kind]
        jsonl(train, [*rows[:4], rows[4] | spoilt])
    elif kind == "cut off":
        train.write_bytes(train.read_bytes()[:-40])
    elif kind == "not gzip":
        train.write_text("hello")
    elif kind == "not JSON":
        train.write_bytes(gzip.compress(b'{"sentence1": "a", "sentence2": "b", "label": 0}\nhello\n'))
    elif kind == "not an object":
        train.write_bytes(gzip.compress(b"[1, 2]\n"))
    elif kind == "not UTF-8":
        train.write_bytes(gzip.compress(b'{"sentence1": "\xff"}\n'))
    elif kind == "empty":
        jsonl(train, [])
    elif kind == "not parquet":
        train.unlink()
        train.with_name("train.parquet").write_text("hello")
    elif kind == "no split":
        (folder / "glue" / "rte" / "validation.jsonl.gz").unlink()


DAMAGE = [("no column", "line 1", "sentence2"), ("bad label", "line 5", "one of 0 to 1"), ("empty", "no rows"),
          ("test label", "line 5", "-1"), ("no label", "line 5", "None"), ("label as text", "line 5", "entailment"),
          ("text is null", "line 5", "sentence1"), ("cut off", "cut off"), ("not gzip", "damaged"),
          ("no split", "validation.jsonl.gz"), ("not JSON", "line 2", "not JSON"),
          ("not an object", "line 1"), ("not UTF-8", "UTF-8"), ("not parquet", "train.parquet")]


@pytest.mark.parametrize("case", DAMAGE, ids=[kind for kind, *_ in DAMAGE])
def test_damaged_data_is_refused_with_file_and_line(cli: Cli, tmp_path: Path, tiny: Path, glue_folder: Path,
                                                    case: tuple[str, ...]) -> None:
    kind, *says = case
    damaged(kind, glue_folder)
    words = ["task=rte", "model=encoder", f"model.path={tiny}", f"data_root={glue_folder}"]
    refused(cli, tmp_path, [*words, f"runtime.out={tmp_path / 'out'}"], "rte", *says)


def test_a_results_folder_that_cannot_be_written_is_refused(cli: Cli, small: list[str], tmp_path: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    refused(cli, tmp_path, [*small, f"runtime.out={tmp_path / 'file'}"], "runtime.out", "cannot write")
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode, **kw: not mode & os.W_OK and allowed(path, mode, **kw))
    refused(cli, tmp_path, small, "runtime.out", "cannot write")


def door(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(ROOT / "run.py"), *words], cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize("words", [["task=mnlii"], ["foo=1"], ["recipe=roberta-base/nothing"]], ids=" ".join)
def test_the_program_itself_refuses(tmp_path: Path, words: list[str]) -> None:
    done = door(*words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "") and len(done.stderr.splitlines()) <= 2
    assert "Traceback" not in done.stderr and list(tmp_path.iterdir()) == []


def test_help_is_printed_without_loading_anything_heavy(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-X", "importtime", str(ROOT / "run.py"), "--help"], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode == 0 and "python run.py task=" in done.stdout
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "hydra" in loaded and loaded.isdisjoint(HEAVY)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("word", ["task=null", "task=1", "model=true", "table=3", "runtime=abc", "runtime.out=null",
                                  "runtime.out=''", "method.r=4", "recipe._table.lr.rte=1", "task.metric=abc",
                                  "task.sentences=abc", "runtime.force=maybe"])
def test_a_setting_of_the_wrong_kind_is_refused(cli: Cli, word: str) -> None:
    status, _, err = cli("scale=demo", word)
    assert status == 2 and 1 <= len(err.strip().splitlines()) <= 2, err


@pytest.mark.parametrize(("word", "near"), [("learning_rate=1", "lr"), ("rank=4", "r"), ("task=RTE", "rte"),
                                            ("epoch=3", "epochs"), ("method=lroa", "lora")])
def test_a_wrong_name_is_answered_with_the_right_one(cli: Cli, word: str, near: str) -> None:
    assert f"did you mean {near}" in cli("scale=demo", word)[2]
