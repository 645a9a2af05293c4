"""What the tests share: an offline process, the door as a function, a tiny encoder and a tiny GLUE folder on disk."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"   # before anything of Hugging Face's is imported
os.environ["HF_EVALUATE_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "disabled"
os.environ.setdefault("USERS_LORA_MODELS", os.environ.get("LORA_MODELS") or os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "lora-paper", "models"))
os.environ["LORA_MODELS"] = os.path.join(os.sep, "no-models")   # the user's own store decides no test
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

import gc
import gzip
import json
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import quick

ROOT = Path(__file__).parents[1]
STORE = Path(os.environ["USERS_LORA_MODELS"])   # for the slow tests of the real models
COLUMNS = {
    "cola": ("sentence",), "sst2": ("sentence",), "mrpc": ("sentence1", "sentence2"), "qqp": ("question1", "question2"),
    "qnli": ("question", "sentence"), "rte": ("sentence1", "sentence2"), "wnli": ("sentence1", "sentence2"),
    "stsb": ("sentence1", "sentence2"), "mnli": ("premise", "hypothesis"),
}
WORDS = ["a", "the", "cat", "dog", "bird", "sees", "hears", "likes", "finds", "that", "one", "two", "three", "old",
         "new", "happy", "sad", "is", "was", "not", "and", "or", "on", "in"]

Row = dict[str, Any]
Cli = Callable[..., tuple[int, str, str]]


def pytest_collection_finish() -> None:
    """Before the first test: what is imported by now stays, so looking for garbage in it costs and finds nothing."""
    quick.read_once()
    gc.collect()
    gc.freeze()


def sentence(number: int, length: int = 6) -> str:
    """An English-looking line, another one for every number."""
    words = [WORDS[(number * 7 + place * (3 + number % 5)) % len(WORDS)] for place in range(length)]
    return " ".join([*words, str(number)])


def glue_rows(task: str, count: int, start: int = 0) -> list[Row]:
    """Rows in the hub's columns for a task."""
    classes = {"mnli": 3}.get(task, 2)
    return [{name: sentence(start + 2 * i + side, 5 + side) for side, name in enumerate(COLUMNS[task])}
            | {"label": round((i * 0.7) % 5, 1) if task == "stsb" else i % classes, "idx": i} for i in range(count)]


def glue_splits(task: str, train: int = 24, validation: int = 10) -> dict[str, list[Row]]:
    """All splits of a task that training needs."""
    names = ("validation_matched", "validation_mismatched") if task == "mnli" else ("validation",)
    return {"train": glue_rows(task, train)} | {
        name: glue_rows(task, validation, 1000 * (place + 1)) for place, name in enumerate(names)}


def jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Writes JSON Lines, compressed when the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def write_glue(root: Path, tasks: Sequence[str] = ("rte",), suffix: str = "jsonl.gz") -> Path:
    """A data_root with tiny splits of these tasks."""
    for task in tasks:
        for split, rows in glue_splits(task).items():
            jsonl(root / "glue" / task / f"{split}.{suffix}", rows)
    return root


def text_rows(task: str, count: int, start: int = 0) -> list[Row]:
    """Rows in the hub's columns for a task with texts: two of each input, but the last; two references in a row of
    WebNLG and DART."""
    made: list[Row] = []
    for i in range(start, start + count):
        one, two, three = (f"{word} {i // 2}" for word in ("the bird", "one dog", "a cat"))
        said = f"{one} sees {two} ." if i % 2 else f"{one} likes {two} and {three} ."
        header = ["bird", "dog", f"cat {i // 2}"]
        made.append({
            "e2e": {"meaning_representation": f"name[{one}], near[{two}]", "human_reference": said},
            "webnlg": {"category": "Food" if i // 2 % 2 else "Politician", "test_category": "testdata_with_lex",
                       "modified_triple_sets": {"mtriple_set": [[f"{one} | sees | {two}", f"{one} | is | {three}"]]},
                       "lex": {"comment": ["good", "bad", "good"], "text": [said, "not this", f"not {said}"]}},
            "dart": {"tripleset": [[one, "SEES", two]], "annotations": {"text": [said, f"not {said}"]}},
            "wikisql": {"question": f"is it {one}", "table": {"header": header}, "sql": {
                "human_readable": f"SELECT dog FROM table WHERE bird = {i // 2}", "sel": 1, "agg": 0,
                "conds": {"column_index": [0], "operator_index": [0], "condition": [str(i // 2)]}}},
            "samsum": {"dialogue": f"{one}: is it {two}?\r\n{three}: it is.", "summary": said},
            "mnli-lm": {"premise": one, "hypothesis": two, "label": i // 2 % 3, "idx": i},
        }[task])
    return made


TEXTS = {  # the tasks with texts: where a folder has their rows, and their splits
    "e2e": ("e2e_nlg", ("train", "validation", "test")),
    "webnlg": ("web_nlg/webnlg_challenge_2017", ("train", "validation", "test")),
    "dart": ("dart", ("train", "validation", "test")), "wikisql": ("wikisql", ("train", "validation")),
    "samsum": ("samsum", ("train", "validation", "test")), "mnli-lm": ("glue/mnli", ("train", "validation_matched")),
}


def write_texts(root: Path) -> Path:
    """A data_root with every task that has texts: 16 rows to train on, 4 to validate, 7 (4 inputs) to test."""
    for task, (folder, splits) in TEXTS.items():
        for split, count, start in zip(splits, (16, 4, 7), (0, 100, 200), strict=False):
            jsonl(root / folder / f"{split}.jsonl.gz", text_rows(task, count, start))
    return root


def tree(*folders: Path) -> dict[str, bytes | None]:
    """Every path below the folders with its content: what must not change."""
    return {str(path): path.read_bytes() if path.is_file() else None for folder in folders if folder.exists()
            for path in sorted(folder.rglob("*"))}


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """A process that a script started in the background ignores Ctrl-C, and so would all that it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def glue_folder(tmp_path: Path) -> Path:
    """A data_root that has RTE, CoLA, STS-B and MNLI."""
    return write_glue(tmp_path / "data", ("rte", "cola", "stsb", "mnli"))


def write_model(folder: Path, kind: str = "bert") -> Path:
    """A folder with a two-layer model with random weights and a tokenizer: bert, deberta, mpnet, or a decoder, gpt2 or
    llama, whose tokenizers have neither a sign to begin with nor one to pad with, as the real ones."""
    import torch
    import transformers as hf
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    signs = "abcdefghijklmnopqrstuvwxyz0123456789"
    first = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    if kind == "mpnet":  # which takes 1 for padding, whatever is configured
        first[0], first[1] = first[1], first[0]
    pieces = [*first, *signs, *".,?!'-", *(f"##{sign}" for sign in signs), *WORDS]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if kind in ("gpt2", "llama"):
        hf.PreTrainedTokenizerFast(
            tokenizer_object=made, model_input_names=["input_ids", "attention_mask"],
            **{f"{name}_token": "[MASK]" for name in ("unk", "bos", "eos")}).save_pretrained(folder)
    else:
        made.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
        names = ("pad", "unk", "cls", "sep", "mask")
        types = [] if kind == "mpnet" else ["token_type_ids"]
        hf.PreTrainedTokenizerFast(
            tokenizer_object=made, model_input_names=["input_ids", *types, "attention_mask"],
            **{f"{name}_token": f"[{name.upper()}]" for name in names}).save_pretrained(folder)
    sizes = {"vocab_size": len(vocabulary), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 64, "max_position_embeddings": 96}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "gpt2":
            model: Any = hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=len(vocabulary), n_embd=32, n_layer=2, n_head=2,
                                                          n_positions=96, bos_token_id=4, eos_token_id=4))
        elif kind == "llama":
            model = hf.LlamaForCausalLM(hf.LlamaConfig(**sizes | {"num_attention_heads": 4, "num_key_value_heads": 2},
                                                       tie_word_embeddings=True, bos_token_id=4, eos_token_id=4))
        elif kind == "deberta":
            model = hf.DebertaV2Model(hf.DebertaV2Config(
                **sizes, attention_head_size=16, type_vocab_size=0, relative_attention=True, position_buckets=8,
                pos_att_type=["p2c", "c2p"], share_att_key=True, norm_rel_ebd="layer_norm", conv_kernel_size=3,
                position_biased_input=False, conv_act="gelu"))
        elif kind == "mpnet":
            model = hf.MPNetModel(hf.MPNetConfig(**sizes))
        else:
            model = hf.BertModel(hf.BertConfig(**sizes))
        model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT: model=encoder model.path=DIR."""
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Cli:
    """cli(words…) runs the door in this process, in an empty folder: (exit status, stdout, stderr)."""
    from hydra.core.global_hydra import GlobalHydra

    import run

    place = tmp_path / "cwd"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setenv("HYDRA_MAIN_MODULE", "__main__")   # an imported run.py would look for conf as a package
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")   # run.main sets it; this puts it back

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [str(ROOT / "run.py"), *map(str, words)])
        capfd.readouterr()
        GlobalHydra.instance().clear()
        try:
            status = run.main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            GlobalHydra.instance().clear()
        return (status, *capfd.readouterr())

    return call


def ran(cli: Cli, *words: str) -> str:
    """What a run says that must succeed."""
    status, said, err = cli(*words)
    assert status == 0, err
    return said


@pytest.fixture
def small(tiny: Path, tmp_path: Path) -> list[str]:
    """The words of a run of a second: generated rows, the tiny encoder, one epoch, fp32, records under tmp_path."""
    return ["scale=demo", "scale.train=32", "scale.validation=16", "epochs=1", "batch=8", "model=encoder",
            f"model.path={tiny}", "precision=fp32", f"runtime.out={tmp_path / 'out'}"]


@pytest.fixture(scope="session")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2 with 96 positions: model=decoder model.path=DIR."""
    return write_model(tmp_path_factory.mktemp("models") / "decoder", "gpt2")


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data_root of write_texts."""
    return write_texts(tmp_path_factory.mktemp("texts"))


@pytest.fixture
def small_texts(decoder: Path, texts: Path, tmp_path: Path) -> list[str]:
    """The words of a run with texts of less than a second; recipe=text/METHOD is still to be said."""
    return [f"data_root={texts}", "model=decoder", f"model.path={decoder}", "epochs=1", "batch=4", "length=64",
            "warmup=0", "precision=fp32", "decode.beams=2", "decode.max_new=8", f"runtime.out={tmp_path / 'out'}"]


@pytest.fixture
def no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    """No METEOR, ROUGE-L and CIDEr: their Java takes seconds to start."""
    monkeypatch.setattr("tasks.metrics.java.shutil", SimpleNamespace(which=lambda _: None))


@pytest.fixture
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub instead of the user's own."""
    from huggingface_hub import constants  # an attribute of the package only once somebody has imported it

    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of a test file's own, and no folder of base weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("LORA_BASE", raising=False)
        yield
