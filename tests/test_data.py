"""Data: a row is the same row and a data set the same data set wherever it was read from."""

import gzip
import hashlib
import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
import yaml
from conftest import (
    COLUMNS,
    ROOT,
    TEXTS,
    Row,
    glue_rows,
    glue_splits,
    jsonl,
    tree,
    write_glue,
    write_model,
    write_texts,
)
from datasets import ClassLabel, Dataset, Features, Value
from hydra.utils import instantiate
from pyarrow.parquet import write_table
from tiny import recipe

from engine.contract import Origin, Refused, Special
from tasks import data
from tasks.glue import Glue
from tasks.rows import RowFormat, Table, TextRows, column
from tasks.tokens import Tokens

NONE = Special((), ())

SHARED = ROOT.parent / "shared" / "data"
ORDER = {   # the label numbers of the GLUE sets, as their cards on the hub document them
    "cola": ["unacceptable", "acceptable"], "sst2": ["negative", "positive"], "mrpc": ["not_equivalent", "equivalent"],
    "qqp": ["not_duplicate", "duplicate"], "stsb": None, "mnli": ["entailment", "neutral", "contradiction"],
    "qnli": ["entailment", "not_entailment"], "rte": ["entailment", "not_entailment"],
    "wnli": ["not_entailment", "entailment"],
}


def conf(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "conf" / "task" / f"{name}.yaml").read_text())


def task(name: str, **changes: Any) -> Glue:
    """A task as its file in conf/task makes it."""
    said = {key: value for key, value in conf(name).items() if key != "_target_"}
    source = data.Source(**{key: value for key, value in said["source"].items() if key != "_target_"})
    return Glue(**said | {"source": source} | changes)


def read(name: str, root: Path) -> data.Raw:
    return task(name).load(Origin("folder", str(root), None, None))


def texts(raw: data.Raw, name: str) -> dict[str, list[tuple[Any, ...]]]:
    return {split: [(*(row[column] for column in COLUMNS[name]), row["label"]) for row in rows]
            for split, rows in raw.rows.items()}


def parquet(path: Path, name: str, rows: list[Row]) -> None:
    """One Parquet file with the hub's own column types."""
    path.parent.mkdir(parents=True, exist_ok=True)
    label = Value("float32") if ORDER[name] is None else ClassLabel(names=ORDER[name])
    features = {column: Value("string") for column in COLUMNS[name]} | {"label": label, "idx": Value("int32")}
    Dataset.from_list(rows, features=Features(features)).to_parquet(str(path))


@pytest.mark.parametrize("name", ["rte", "stsb", "mnli"])
def test_every_format_gives_the_same_rows_and_the_same_sha256(tmp_path: Path, name: str) -> None:
    for kind in ("jsonl.gz", "jsonl"):
        write_glue(tmp_path / kind, [name], kind)
    for split, rows in glue_splits(name).items():
        folder = tmp_path / "parquet" / "glue" / name
        parquet(folder / f"{split}.parquet", name, rows)
        for number, part in enumerate((rows[:7], rows[7:])):
            parquet(tmp_path / "shards" / "glue" / name / f"{split}-0000{number}-of-00002.parquet", name, part)
    found = [read(name, tmp_path / kind) for kind in ("jsonl.gz", "jsonl", "parquet", "shards")]
    assert len({raw.sha256 for raw in found}) == 1 and {raw.kind for raw in found} == {"folder"}
    for raw in found[1:]:
        for split, rows in texts(raw, name).items():
            for one, other in zip(rows, texts(found[0], name)[split], strict=True):
                assert one[:-1] == other[:-1] and one[-1] == pytest.approx(other[-1])


@pytest.mark.parametrize("name", ["rte", "stsb", "mnli"])
def test_the_hub_and_a_folder_have_the_same_sha256(tmp_path: Path, no_cache: Path, name: str) -> None:
    source = task(name).source
    snapshot = no_cache / "datasets--nyu-mll--glue" / "snapshots" / source.revision
    for split, rows in glue_splits(name).items():
        parquet(snapshot / name / f"{split}-00000-of-00001.parquet", name, rows)
    hub = task(name).load(Origin("hub", None, None, None))
    assert (hub.kind, hub.revision) == ("hub", source.revision)
    folder = read(name, write_glue(tmp_path / "data", [name]))
    assert (folder.kind, folder.revision) == ("folder", None)
    assert hub.sha256 == folder.sha256


def test_a_part_of_a_sharded_split_is_refused(tmp_path: Path) -> None:
    """An interrupted download leaves some shards; training on half the data must not look like training on all."""
    parquet(tmp_path / "glue" / "rte" / "train-00000-of-00002.parquet", "rte", glue_rows("rte", 8))
    parquet(tmp_path / "glue" / "rte" / "validation-00000-of-00001.parquet", "rte", glue_rows("rte", 8))
    with pytest.raises(Refused, match="1 of the 2 files of train"):
        read("rte", tmp_path)


def test_a_shard_that_is_there_twice_stands_for_no_other(tmp_path: Path) -> None:
    """A browser calls a second download so."""
    folder = tmp_path / "glue" / "rte"
    parquet(folder / "validation-00000-of-00001.parquet", "rte", glue_rows("rte", 8))
    for name in ("train-00000-of-00002.parquet", "train-00000-of-00002 (1).parquet"):
        parquet(folder / name, "rte", glue_rows("rte", 8))
    with pytest.raises(Refused, match="1 of the 2 files of train; fetch the others"):
        read("rte", tmp_path)
    parquet(folder / "train-00001-of-00002.parquet", "rte", glue_rows("rte", 8))
    with pytest.raises(Refused, match="3 files of train, which has 2; delete those too many"):
        read("rte", tmp_path)
    (folder / "train-00000-of-00002 (1).parquet").unlink()
    assert len(read("rte", tmp_path).rows["train"]) == 16


def test_reading_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither beside the data nor into the cache of `datasets`, which may be read-only on a cluster."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    parquet(tmp_path / "glue" / "rte" / "train.parquet", "rte", glue_rows("rte", 8))
    parquet(tmp_path / "glue" / "rte" / "validation.parquet", "rte", glue_rows("rte", 8))
    before = tree(tmp_path)
    read("rte", tmp_path)
    assert tree(tmp_path) == before


def sha(root: Path, name: str, rows: list[Row]) -> str:
    write_glue(root, [name])
    jsonl(root / "glue" / name / "train.jsonl.gz", rows)
    return read(name, root).sha256


def test_a_score_of_three_point_eight_is_one_score_in_either_precision(tmp_path: Path) -> None:
    rows = glue_rows("stsb", 6)
    exact, rounded = ([row | {"label": label} for row in rows] for label in (3.8, float(np.float32(3.8))))
    assert exact != rounded and sha(tmp_path / "a", "stsb", exact) == sha(tmp_path / "b", "stsb", rounded)


def test_another_label_text_order_or_number_of_rows_changes_the_sha256(tmp_path: Path) -> None:
    rows = glue_rows("rte", 8)
    variants = [rows, rows[::-1], rows[:-1], [rows[0] | {"label": 1}, *rows[1:]],
                [rows[0] | {"sentence1": rows[0]["sentence1"] + "."}, *rows[1:]],
                [rows[0] | {"sentence1": rows[0]["sentence2"], "sentence2": rows[0]["sentence1"]}, *rows[1:]]]
    assert len({sha(tmp_path, "rte", variant) for variant in variants}) == len(variants)
    renumbered = [row | {"idx": 100 + row["idx"], "extra": "x"} for row in rows]
    assert sha(tmp_path, "rte", renumbered) == sha(tmp_path, "rte", rows)


def test_a_subset_is_used_only_without_the_whole_and_is_named(tmp_path: Path) -> None:
    write_glue(tmp_path, ["rte"])
    folder = tmp_path / "glue" / "rte"
    jsonl(folder / "train_subset.jsonl.gz", glue_rows("rte", 5))
    whole = read("rte", tmp_path)
    assert (whole.kind, len(whole.rows["train"])) == ("folder", 24)
    (folder / "train.jsonl.gz").unlink()
    part = read("rte", tmp_path)
    assert (part.kind, len(part.rows["train"])) == ("folder (subset)", 5)
    assert part.sha256 != whole.sha256


@pytest.fixture
def tokenizer(tiny: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny)


def test_a_limit_draws_the_same_rows_for_every_seed(tmp_path: Path, tokenizer: Any) -> None:
    raw = read("rte", write_glue(tmp_path, ["rte"]))
    drawn = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        limited = task("rte", limit=9).splits(raw, tokenizer, recipe(length=64), NONE)
        drawn.append(limited.train.batch(list(range(len(limited.train)))))
        assert len(limited.train) == 9 and len(limited.validation["validation"]) == 10
    assert all(torch.equal(drawn[0][key], drawn[1][key]) for key in drawn[0])
    assert len(task("rte", limit=1000).splits(raw, tokenizer, recipe(length=64), NONE).train) == 24


def tokens(rows: list[Row], columns: tuple[str, ...], tokenizer: Any, length: int = 64,
           special: Special = NONE) -> Tokens:
    texts = [[row[name] for row in rows] for name in columns]
    return Tokens(texts, torch.tensor([row["label"] for row in rows]), tokenizer, length, special)


def test_a_batch_is_padded_to_its_own_longest_example(tokenizer: Any) -> None:
    rows = [{"sentence": "the cat " * count, "label": count % 2} for count in (1, 3, 2, 9)]
    split = tokens(rows, ("sentence",), tokenizer)
    batch = split.batch([2, 0])
    assert list(split.lengths) == [4, 8, 6, 20] and len(split) == 4
    assert batch["input_ids"].shape == (2, 6) and batch["labels"].tolist() == [0, 1]
    assert batch["attention_mask"].tolist() == [[1] * 6, [1] * 4 + [0] * 2]
    assert batch["input_ids"][1, 4:].tolist() == [tokenizer.pad_token_id] * 2


@pytest.mark.parametrize("columns", [("sentence1",), ("sentence1", "sentence2")])
def test_a_batch_is_what_the_tokenizer_itself_makes(tokenizer: Any, columns: tuple[str, ...]) -> None:
    rows = glue_rows("rte", 7)
    rows[3]["sentence1"] = "the cat " * 60
    split = tokens(rows, columns, tokenizer, 24)
    indices = [5, 3, 0]
    wanted = tokenizer(*[[rows[i][name] for i in indices] for name in columns], truncation=True, max_length=24,
                       padding=True, return_tensors="pt")
    batch = split.batch(indices)
    assert batch.keys() == {*wanted.keys(), "labels"}
    assert all(torch.equal(batch[key], wanted[key]) for key in wanted)
    assert batch["token_type_ids"].any() == (len(columns) == 2)


def test_a_long_pair_is_cut_to_the_length_at_its_longest_side(tokenizer: Any) -> None:
    rows = [{"sentence1": "cat " * 100, "sentence2": "dog dog", "label": 0}]
    ids = tokens(rows, ("sentence1", "sentence2"), tokenizer, 16).batch([0])["input_ids"][0].tolist()
    words = tokenizer.convert_ids_to_tokens(ids)
    assert words == ["[CLS]", *["cat"] * 11, "[SEP]", "dog", "dog", "[SEP]"]


@pytest.mark.parametrize("columns", [("sentence1",), ("sentence1", "sentence2")])
def test_special_tokens_stand_behind_cls_and_behind_all(tokenizer: Any, columns: tuple[str, ...]) -> None:
    """The text is the same as without them, and padding comes behind the infix."""
    rows = [{"sentence1": "the cat", "sentence2": "a dog sees", "label": 0},
            {"sentence1": "the cat " * 40, "sentence2": "dog", "label": 1}]
    plain, split = (tokens(rows, columns, tokenizer, 16, special) for special in (NONE, Special((900, 901), (902,))))
    one, other = plain.batch([0, 1]), split.batch([0, 1])
    for i, length in enumerate(plain.lengths):
        text = one["input_ids"][i, :length].tolist()
        row = other["input_ids"][i].tolist()
        assert row[:length + 3] == [text[0], 900, 901, *text[1:], 902]
        assert set(row[length + 3:]) <= {tokenizer.pad_token_id}
        assert other["attention_mask"][i].sum() == length + 3 == split.lengths[i]
        types, kept = other["token_type_ids"][i].tolist(), one["token_type_ids"][i, :length].tolist()
        assert types[:length + 3] == [0, 0, 0, *kept[1:], kept[-1]]
    assert plain.lengths[1] == 16   # the text is cut to the length; the special tokens come on top


def test_a_tokenizer_without_signs_of_its_own_gets_a_line_break_between_two_texts(tmp_path: Path) -> None:
    """GPT-2's would glue the two together. Its prefix stands in front of all."""
    from transformers import AutoTokenizer

    bare = AutoTokenizer.from_pretrained(write_model(tmp_path / "gpt2", "gpt2"))
    bare.pad_token = bare.eos_token
    rows = [{"sentence1": "the cat", "sentence2": "a dog", "label": 0}, {"sentence1": "", "sentence2": "", "label": 0}]
    split = tokens(rows, ("sentence1", "sentence2"), bare, 16, Special((900,), (901,)))
    assert split.batch([0])["input_ids"].tolist() == [[900, *bare("the cat\na dog")["input_ids"], 901]]
    alone = tokens(rows, ("sentence1",), bare, 16)
    assert alone.batch([1])["input_ids"].tolist() == [[bare.eos_token_id]]   # an empty text is an input too


@pytest.mark.parametrize("name", sorted(ORDER))
def test_labels_and_columns_stand_in_the_order_that_glue_documents(name: str) -> None:
    assert conf(name)["labels"] == ORDER[name] and tuple(conf(name)["sentences"]) == COLUMNS[name]
    assert ORDER.keys() <= {path.stem for path in (ROOT / "conf" / "task").glob("*.yaml")}


@pytest.mark.skipif(not (SHARED / "glue").is_dir(), reason="the real data is not beside the checkout")
@pytest.mark.parametrize("name", ["cola", "rte", "stsb", "wnli"])
def test_the_real_data_has_every_label_of_the_task(name: str) -> None:
    raw = read(name, SHARED)
    labels = {row["label"] for rows in raw.rows.values() for row in rows}
    assert labels == set(range(len(ORDER[name]))) if ORDER[name] else (min(labels), max(labels)) == (0, 5)
    sizes = {"cola": (8551, 1043), "rte": (2490, 277), "stsb": (5749, 1500), "wnli": (635, 71)}
    assert tuple(len(rows) for rows in raw.rows.values()) == sizes[name]


def test_a_subset_for_judging_is_said_too(tmp_path: Path) -> None:
    place = tmp_path / "glue" / "rte"
    rows = [{"sentence1": "a", "sentence2": "b", "label": label} for label in (0, 1)]
    jsonl(place / "train.jsonl", rows)
    jsonl(place / "validation_subset.jsonl", rows)
    raw = read("rte", tmp_path)
    assert raw.kind == "folder (subset)"


# --- reading quickly changes nothing --------------------------------------------------------------------------------

PAIR, SCORED, TEXT = TextRows(("a", "b"), classes=3), TextRows(("a", "b"), highest=5), TextRows(("a",))
LABELS: dict[TextRows, list[Any]] = {PAIR: [0, 1, 2, 1.0], SCORED: [0, 5, 3.8, 0.1, 2.4000000953674316, 1e-9, 5.0],
                                     TEXT: [None]}
formats = pytest.mark.parametrize("format", LABELS, ids=["classes", "scores", "no label"])


def plainly(row: Row, format: TextRows) -> str:
    """What a row's line is, in the words of json.dumps alone."""
    label = [] if format is TEXT else [int(row["label"]) if format is PAIR else float(np.float32(row["label"]))]
    return json.dumps([*(row[name] for name in format.texts), *label], ensure_ascii=False)


def awkward() -> list[str]:
    """Texts with every character up to U+FFFF, some beyond, and what JSON escapes."""
    every = "".join(chr(code) for code in [*range(0xD800), *range(0xE000, 0x10000), 0x1F600, 0x10FFFF])
    drawn = random.Random(0)
    return [every, "", '"', "\\", "\\u0041", "\n", "\r\n", "\x00\x1f\x7f", "\u2028", "[1, 2]", *(
        "".join(drawn.choices(every, k=drawn.randrange(1, 40))) for _ in range(500))]


@formats
def test_the_line_of_a_row_is_what_json_makes_of_its_fingerprint(format: TextRows) -> None:
    texts, labels = awkward(), LABELS[format]
    rows = [{"a": text, "b": text[::-1], "label": labels[i % len(labels)]} for i, text in enumerate(texts)]
    table = Table({name: [row[name] for row in rows] for name in ("a", "b", "label")})
    wanted = [f"{plainly(row, format)}\n" for row in rows]
    assert format.first_wrong(rows) is None
    assert list(format.lines(rows)) == list(format.lines(table)) == list(RowFormat.lines(format, rows)) == wanted


@formats
def test_by_columns_the_first_wrong_row_is_the_one_that_is_found_row_by_row(format: TextRows) -> None:
    good = {"a": "é", "b": "b", "label": LABELS[format][0]}
    junk = [None, -1, 3, 7, 0.5, 5.1, float("nan"), float("inf"), 10**400, True, "", "1", "x\ud800", b"x", [], {}]
    found = 0
    for name in ("a", "b", "label"):
        for value in [*junk, "lost"]:
            bad = {key: each for key, each in good.items() if key != name} | ({} if value == "lost" else {name: value})
            rows = [good, good, bad, good, bad]
            wanted = RowFormat.first_wrong(format, rows)
            assert format.first_wrong(rows) == wanted and (wanted is None or wanted[0] == 2)
            if value != "lost":
                assert format.first_wrong(Table({key: [row[key] for row in rows] for key in good})) == wanted
            found += wanted is not None
    assert found > 12


def test_a_table_is_the_rows_that_it_was_made_of() -> None:
    rows = [{"a": str(i), "label": i} for i in range(5)]
    table = Table({"a": [row["a"] for row in rows], "label": [row["label"] for row in rows]})
    assert list(table) == rows and len(table) == 5 and table[3] == rows[3] and list(table[1:3]) == rows[1:3]
    assert column(table, "a") == column(rows, "a") == list("01234") and len(Table({"a": []})) == len(Table({})) == 0


def made(name: str, **changes: Any) -> Any:
    """Any task as its file in conf/task makes it."""
    said = {key: value for key, value in conf(name).items() if key != "defaults"}
    return instantiate(said | changes, _convert_="all")


def used(row: Row, name: str) -> list[Any]:
    """What a task uses of a row, in the order that was first chosen."""
    if name == "webnlg":
        return [row["category"], row["test_category"], row["modified_triple_sets"]["mtriple_set"],
                row["lex"]["comment"], row["lex"]["text"]]
    if name == "wikisql":
        sql, conds = row["sql"], row["sql"]["conds"]
        return [row["question"], row["table"]["header"], sql["human_readable"], sql["sel"], sql["agg"],
                conds["column_index"], conds["operator_index"], conds["condition"]]
    if name == "dart":
        return [row["tripleset"], row["annotations"]["text"]]
    if name == "stsb":
        return [row["sentence1"], row["sentence2"], float(np.float32(row["label"]))]
    columns = {"e2e": ("meaning_representation", "human_reference"), "samsum": ("dialogue", "summary"),
               "mnli-lm": ("premise", "hypothesis", "label")}
    return [row[key] for key in columns.get(name) or (*COLUMNS[name], "label")]


def digest(rows: dict[str, list[Row]], name: str) -> str:
    """data_sha256 as it was first defined: a line for each split's name, a line of JSON for each row."""
    found = hashlib.sha256()
    for split, each in rows.items():
        found.update(f"{split}\n".encode())
        for row in each:
            found.update(json.dumps(used(row, name), ensure_ascii=False).encode() + b"\n")
    return found.hexdigest()


@pytest.mark.parametrize("name", [*TEXTS, *sorted(ORDER)])
def test_the_sha256_is_that_of_the_definition_from_either_format(tmp_path: Path, name: str) -> None:
    root = write_texts(tmp_path) if name in TEXTS else write_glue(tmp_path, [name])
    raw = made(name).load(Origin("folder", str(root), None, None))
    rows: dict[str, list[Row]] = {}
    source = made(name).source
    for split in raw.rows:
        path = root / source.id.rpartition("/")[2] / (source.config or "") / f"{split}.jsonl.gz"
        rows[split] = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
        write_table(pyarrow.Table.from_pylist(rows[split]), path.with_name(f"{split}.parquet"))
        path.unlink()
    again = made(name).load(Origin("folder", str(root), None, None))
    assert raw.sha256 == again.sha256 == digest(rows, name)
    assert all(isinstance(each, Table) for each in again.rows.values())


RECORDS = [json.loads(path.read_text(encoding="utf-8")) for path in ROOT.glob("results/runs/paper/*/*.json")]
KNOWN = {(record["settings"]["task"]["name"], record["settings"]["task"].get("scored"), record["data"],
          record["data_sha256"]) for record in RECORDS if record["data"].startswith("folder")}


@pytest.mark.skipif(not (SHARED / "glue").is_dir(), reason="the real data is not beside the checkout")
@pytest.mark.parametrize("known", sorted(KNOWN, key=str), ids=lambda known: known[0])
def test_committed_records_were_made_of_the_data_that_is_read_now(known: tuple[str, str | None, str, str]) -> None:
    name, scored, kind, sha256 = known
    raw = made(name, **({"scored": scored} if scored else {})).load(Origin("folder", str(SHARED), None, None))
    assert (raw.kind, raw.sha256) == (kind, sha256)


# --- Parquet --------------------------------------------------------------------------------------------------------


def rte(root: Path, rows: list[Row], name: str = "train.parquet", **how: Any) -> Path:
    """A data_root whose training split, or a part of it, is this Parquet file."""
    folder = write_glue(root, ["rte"]) / "glue" / "rte"
    (folder / "train.jsonl.gz").unlink()
    write_table(pyarrow.Table.from_pylist(rows), folder / name, **how)
    return folder / name


def refusal(root: Path) -> str:
    with pytest.raises(Refused) as caught:
        read("rte", root)
    return str(caught.value)


def test_of_parquet_only_the_columns_that_a_task_needs_are_read(tmp_path: Path) -> None:
    rte(tmp_path, [row | {"parse": "(S (NP x))"} for row in glue_rows("rte", 8)])
    rows = read("rte", tmp_path).rows["train"]
    assert isinstance(rows, Table) and list(rows.columns) == ["sentence1", "sentence2", "label"]


def test_a_column_that_parquet_lacks_is_named_with_those_that_it_has(tmp_path: Path) -> None:
    path = rte(tmp_path, [{"sentence1": "a", "label": 0, "idx": 0}])
    assert refusal(tmp_path) == f"{path}, row 1: no column 'sentence2' (it has sentence1, label, idx)"


def test_a_column_that_parquet_has_twice_is_refused(tmp_path: Path) -> None:
    path = rte(tmp_path, glue_rows("rte", 8))
    table = pyarrow.Table.from_pylist(glue_rows("rte", 8))
    write_table(table.append_column("label", table["label"]), path)
    assert refusal(tmp_path) == f"{path}: it has the column 'label' more than once"


@pytest.mark.parametrize(("wrong", "says"), [
    ({"label": 2}, "label 2 is not one of 0 to 1"), ({"label": None}, "label None is not one of 0 to 1"),
    ({"sentence2": None}, "'sentence2' is not text: None")], ids=str)
def test_a_wrong_row_of_parquet_is_named_by_its_own_file_and_its_place_there(tmp_path: Path, wrong: Row,
                                                                             says: str) -> None:
    rows = glue_rows("rte", 8)
    rte(tmp_path, rows, "train-00000-of-00002.parquet")
    second = tmp_path / "glue" / "rte" / "train-00001-of-00002.parquet"
    write_table(pyarrow.Table.from_pylist([*rows[:5], rows[5] | wrong]), second)
    assert refusal(tmp_path) == f"{second}, row 6: {says}"


def test_a_file_without_rows_beside_one_with_some_is_no_empty_split(tmp_path: Path) -> None:
    rows = glue_rows("rte", 8)
    first = rte(tmp_path, rows, "train-00000-of-00002.parquet")
    write_table(pyarrow.Table.from_pylist(rows).slice(0, 0), first.with_name("train-00001-of-00002.parquet"))
    assert len(read("rte", tmp_path).rows["train"]) == 8
    write_table(pyarrow.Table.from_pylist(rows).slice(0, 0), first)
    assert refusal(tmp_path) == f"{first}: no rows"


def spoil(path: Path, how: str) -> None:
    """Damages a Parquet file: cuts it, changes a bit of its footer or of its data, or takes it away."""
    data = bytearray(path.read_bytes())
    if how == "cut off":
        data = data[:len(data) // 2]
    elif how == "footer":
        data[-12] ^= 1
        data[-60:-20] = bytes(40)
    elif how == "a bit":
        data[data.index(b"the cat") + 3] ^= 4
    elif how == "not UTF-8":
        data[data.index(b"the cat") + 3] = 0xFF
    path.write_bytes(data)


DAMAGED = [("cut off", "not a whole Parquet file (", False), ("footer", "not a whole Parquet file (", False),
           ("a bit", "not a whole Parquet file (", True), ("not UTF-8", "'sentence1' is not UTF-8 (invalid ", False)]
UNPACKED: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_statistics": False}
ways_to_damage = pytest.mark.parametrize(("how", "says", "checksum"), DAMAGED, ids=[how for how, *_ in DAMAGED])


@ways_to_damage
def test_damaged_parquet_in_a_folder_is_to_be_fetched_again(tmp_path: Path, how: str, says: str,
                                                            checksum: bool) -> None:
    rows = [row | {"sentence1": f"the cat {i}"} for i, row in enumerate(glue_rows("rte", 40))]
    path = rte(tmp_path, rows, **UNPACKED, write_page_checksum=checksum)
    spoil(path, how)
    said = refusal(tmp_path)
    assert said.startswith(f"{path}, row 1: {says}" if how == "not UTF-8" else f"{path}: {says}")
    assert said.endswith("; fetch it again") and "\n" not in said


@ways_to_damage
def test_damaged_parquet_in_the_hubs_cache_is_to_be_deleted_link_and_content(
        tmp_path: Path, no_cache: Path, how: str, says: str, checksum: bool) -> None:
    snapshot = no_cache / "datasets--nyu-mll--glue" / "snapshots" / task("rte").source.revision / "rte"
    snapshot.mkdir(parents=True)
    rows = [row | {"sentence1": f"the cat {i}"} for i, row in enumerate(glue_rows("rte", 40))]
    content, link = tmp_path / "content", snapshot / "train-00000-of-00001.parquet"
    for path in (content, snapshot / "validation-00000-of-00001.parquet"):
        write_table(pyarrow.Table.from_pylist(rows), path, **UNPACKED, write_page_checksum=checksum)
    os.symlink(content, link)
    hub = Origin("hub", None, None, None)
    assert task("rte").load(hub).kind == "hub"
    spoil(content, how)
    with pytest.raises(Refused) as caught:
        task("rte").load(hub)
    said = str(caught.value)
    assert said.startswith(str(link)) and says in said
    assert said.endswith(f"; delete it and its content, {content}, and run again: it is fetched anew")


@pytest.mark.parametrize("cached", [False, True], ids=["own folder", "hub's cache"])
def test_damaged_json_lines_say_what_to_do(tmp_path: Path, no_cache: Path, cached: bool) -> None:
    root = no_cache if cached else tmp_path / "own"
    path = write_glue(root, ["rte"]) / "glue" / "rte" / "train.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-40])
    said = refusal(root)
    assert said.startswith(f"{path}: damaged or cut off after line ")
    assert said.endswith("; delete it and run again: it is fetched anew" if cached else "; fetch it again")
