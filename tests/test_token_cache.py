"""Tokenised texts on disk: the same to the bit as made anew, found by all that they depend on and by nothing else."""

import errno
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, glue_rows, write_glue, write_texts
from safetensors.torch import save_file
from test_data import read, task
from tiny import recipe
from transformers import AutoTokenizer

from engine.contract import Origin, Special
from tasks import cache as caching
from tasks import completions, data, scoring, tokens
from tasks.cache import Cache
from tasks.completions import Completions
from tasks.generation import Generation
from tasks.prompts.e2e import E2E
from tasks.tokens import Tokens

NONE, SPECIAL = Special((), ()), Special((900, 901), (902,))
PAIRS = [("the cat sees", "a dog."), ("name", "the bird and the tree and the cat"), ("a", "b"), ("the cat sees", "b"),
         ("one two three four five six", "seven"), ("the", "the the the the the the the the")]
TEXTS = [[row["sentence1"] for row in glue_rows("rte", 9)], [row["sentence2"] for row in glue_rows("rte", 9)]]
LABELS = torch.arange(9)


@pytest.fixture
def bert(tiny: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny)


@pytest.fixture
def gpt(decoder: Path) -> Any:
    made = AutoTokenizer.from_pretrained(decoder)
    made.pad_token = made.eos_token
    return made


def never(*_: object) -> Any:
    raise AssertionError("tokenised again")


def of_tokens(folder: Path | None, tokenizer: Any, texts: Sequence[Sequence[str]] = TEXTS, length: int = 24,
              special: Special = NONE) -> Tokens:
    return Tokens(texts, LABELS[:len(texts[0])], tokenizer, length, special, Cache(folder, tokenizer))


def of_completions(folder: Path | None, tokenizer: Any, averaging: str = "tokens", special: Special = NONE,
                   length: int = 10) -> Completions:
    return Completions(PAIRS, tokenizer, length, special, averaging, Cache(folder, tokenizer))


def alike(one: Any, other: Any) -> None:
    """All that a split holds, and what it makes of it."""
    assert vars(one).keys() == vars(other).keys()
    for name, value in vars(one).items():
        arrays = value if isinstance(value, dict) else {name: value}
        others = vars(other)[name] if isinstance(value, dict) else {name: vars(other)[name]}
        assert arrays.keys() == others.keys()
        for key in arrays:
            assert getattr(arrays[key], "dtype", None) == getattr(others[key], "dtype", None)
            assert np.array_equal(np.asarray(arrays[key]), np.asarray(others[key])), (name, key)
    indices = [2, 0, 3]
    batches = one.batch(indices), other.batch(indices)
    assert all(torch.equal(batches[0][key], batches[1][key]) for key in batches[0] | batches[1])
    assert one.weight(indices) == other.weight(indices)


@pytest.mark.parametrize("special", [NONE, SPECIAL])
@pytest.mark.parametrize("columns", [1, 2])
def test_tokens_from_disk_are_those_made_anew(tmp_path: Path, bert: Any, columns: int, special: Special,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    texts = TEXTS[:columns]
    anew, first = (of_tokens(folder, bert, texts, special=special) for folder in (None, tmp_path))
    monkeypatch.setattr(tokens, "_tokenised", never)
    again = of_tokens(tmp_path, bert, texts, special=special)
    assert "token_type_ids" in again.fields and again.fields["token_type_ids"].any() == (columns == 2)
    alike(anew, first)
    alike(anew, again)
    with pytest.raises(AssertionError, match="tokenised again"):
        of_tokens(None, bert, texts, special=special)


@pytest.mark.parametrize("special", [NONE, SPECIAL])
def test_completions_from_disk_are_those_made_anew(tmp_path: Path, gpt: Any, special: Special,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    """How the loss is averaged has nothing to do with it: one file for both."""
    anew = {averaging: of_completions(None, gpt, averaging, special) for averaging in ("tokens", "examples")}
    assert anew["tokens"].cut > 0
    alike(anew["tokens"], of_completions(tmp_path, gpt, "tokens", special))
    monkeypatch.setattr(completions, "_tokenised", never)
    for averaging, split in anew.items():
        alike(split, of_completions(tmp_path, gpt, averaging, special))
    assert len(list(tmp_path.iterdir())) == 1


def test_labels_and_what_the_tokenizer_did_before_are_no_part_of_it(tmp_path: Path, tiny: Path, bert: Any) -> None:
    of_tokens(tmp_path, bert)
    bert(["the cat"] * 3, truncation=True, max_length=7, padding="max_length")
    bert("[MASK]", split_special_tokens=True)
    bert("the cat " * 100, truncation=False)
    for tokenizer in (bert, AutoTokenizer.from_pretrained(tiny)):
        Tokens(TEXTS, LABELS.flip(0), tokenizer, 24, NONE, Cache(tmp_path, tokenizer))
    assert len(list(tmp_path.iterdir())) == 1


def moved(texts: list[list[str]]) -> list[list[str]]:
    """The first letter of the second text belongs to the first one."""
    return [[texts[0][0] + texts[0][1][0], texts[0][1][1:], *texts[0][2:]], texts[1]]


TEXT_CHANGES: dict[str, Callable[[list[list[str]]], list[list[str]]]] = {
    "a letter": lambda texts: [[texts[0][0][:-1] + "x", *texts[0][1:]], texts[1]],
    "a capital": lambda texts: [texts[0], [*texts[1][:-1], texts[1][-1].upper()]],
    "where one ends": moved,
    "the order": lambda texts: [column[::-1] for column in texts],
    "the sides": lambda texts: texts[::-1],
    "a row": lambda texts: [column[:-1] for column in texts],
    "one side": lambda texts: texts[:1],
    "both sides one": lambda texts: [texts[0] + texts[1]],
}
ASKED: dict[str, dict[str, Any]] = {
    "length": {"length": 23}, "prefix": {"special": Special((900,), ())}, "longer prefix": {"special": SPECIAL},
    "infix": {"special": Special((), (900,))}, "other ids": {"special": Special((901,), ())}}


def test_whatever_it_depends_on_changes_the_file(tmp_path: Path, bert: Any) -> None:
    """And each gives the arrays that it would have given without the others' files."""
    of_tokens(tmp_path, bert)
    for change in TEXT_CHANGES.values():
        alike(of_tokens(tmp_path, bert, change(TEXTS)), of_tokens(None, bert, change(TEXTS)))
    for asked in ASKED.values():
        alike(of_tokens(tmp_path, bert, **asked), of_tokens(None, bert, **asked))
    assert len(list(tmp_path.iterdir())) == 1 + len(TEXT_CHANGES) + len(ASKED)


def test_texts_that_look_like_the_lengths_of_others_have_a_key_of_their_own() -> None:
    one = "\x05" + "\0" * 7   # the length of the other, as the digest takes it
    assert caching._key("", [[one, "hello"]], {}) != caching._key("", [[one], ["hello"]], {})


def replace_word(tokenizer: Any) -> None:
    """Another vocabulary of the same size."""
    said = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = said["model"]["vocab"]
    vocabulary["cat"], vocabulary["dog"] = vocabulary["dog"], vocabulary["cat"]
    tokenizer._tokenizer = type(tokenizer._tokenizer).from_str(json.dumps(said))


def cased(tokenizer: Any) -> None:
    from tokenizers import normalizers

    tokenizer.backend_tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)


def bare(tokenizer: Any) -> None:
    """Without [CLS] and [SEP]."""
    from tokenizers import processors

    tokenizer.backend_tokenizer.post_processor = processors.Sequence([])


TOKENIZERS: dict[str, Callable[[Any], object]] = {
    "vocabulary": replace_word, "normaliser": cased, "signs": bare,
    "a word more": lambda tokenizer: tokenizer.add_tokens(["sees the"]),
    "which side is cut": lambda tokenizer: setattr(tokenizer, "truncation_side", "left"),
    "typed signs": lambda tokenizer: setattr(tokenizer, "split_special_tokens", True),
    "types": lambda tokenizer: setattr(tokenizer, "model_input_names", ["input_ids", "attention_mask"]),
    "what it begins with": lambda tokenizer: setattr(tokenizer, "cls_token", "[SEP]"),
    "bos": lambda tokenizer: setattr(tokenizer, "bos_token", "[SEP]"),
    "eos": lambda tokenizer: setattr(tokenizer, "eos_token", "[SEP]"),
}


@pytest.mark.parametrize("change", TOKENIZERS)
def test_another_tokenizer_has_another_file(tmp_path: Path, tiny: Path, bert: Any, change: str) -> None:
    texts = [["the cat sees the dog [MASK] a CAT " * 3, *TEXTS[0][1:]], TEXTS[1]]
    of_tokens(tmp_path, bert, texts)
    other = AutoTokenizer.from_pretrained(tiny)
    TOKENIZERS[change](other)
    alike(of_tokens(tmp_path, other, texts, special=NONE), of_tokens(None, other, texts, special=NONE))
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(("name", "value"), [("VERSION", caching.VERSION + 1), ("version", lambda name: f"{name} 0")])
def test_another_version_has_another_file(tmp_path: Path, bert: Any, name: str, value: Any,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    of_tokens(tmp_path, bert)
    monkeypatch.setattr(caching, name, value)
    of_tokens(tmp_path, bert)
    assert len(list(tmp_path.iterdir())) == 2


def test_tokens_and_completions_of_the_same_texts_have_files_of_their_own(tmp_path: Path, gpt: Any) -> None:
    of_completions(tmp_path, gpt, length=24)
    of_tokens(tmp_path, gpt, list(zip(*PAIRS, strict=True)))
    assert len(list(tmp_path.iterdir())) == 2


def test_the_arrays_are_those_of_this_version(bert: Any, gpt: Any) -> None:
    """If they have to change, raise VERSION in tasks/cache.py: else files of before would be taken for the new ones."""
    assert caching.VERSION == 1
    digest = hashlib.sha256()
    left, right = [left for left, _ in PAIRS], [right for _, right in PAIRS]
    for made in (tokens._tokenised([left, right], bert, 9, SPECIAL), tokens._tokenised([left], gpt, 9, SPECIAL),
                 completions._tokenised(left, right, gpt, 9, SPECIAL)):
        for name, array in made.items():
            digest.update(f"{name} {array.dtype} {array.tolist()}".encode())
    assert digest.hexdigest()[:16] == "5be1d33dc839807d"


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"", "half": lambda whole: whole[:len(whole) // 2], "a byte less": lambda whole: whole[:-1],
    "a bit": lambda whole: whole[:-3] + bytes([whole[-3] ^ 4]) + whole[-2:], "text": lambda whole: b"{}" * 99,
    "another kind": lambda whole: whole.replace(b'"dtype":"I32"', b'"dtype":"U32"', 1),
    "names": lambda whole: whole.replace(b"lengths", b"lengthz")}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_written_anew(tmp_path: Path, bert: Any, damage: str) -> None:
    anew = of_tokens(tmp_path, bert)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(DAMAGES[damage](whole))
    assert path.read_bytes() != whole
    alike(anew, of_tokens(tmp_path, bert))
    assert path.read_bytes() == whole and list(tmp_path.iterdir()) == [path]


def test_a_file_of_another_make_is_written_anew(tmp_path: Path, bert: Any) -> None:
    """numpy has no bfloat16."""
    anew = of_tokens(tmp_path, bert)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    save_file({"weight": torch.zeros(3, dtype=torch.bfloat16)}, path)
    alike(anew, of_tokens(tmp_path, bert))
    assert path.read_bytes() == whole


def test_a_file_under_the_name_of_another_is_written_anew(tmp_path: Path, bert: Any) -> None:
    of_tokens(tmp_path, bert)
    (path,) = tmp_path.iterdir()
    other = of_tokens(tmp_path, bert, [column[::-1] for column in TEXTS])
    (second,) = set(tmp_path.iterdir()) - {path}
    second.write_bytes(path.read_bytes())
    alike(other, of_tokens(tmp_path, bert, [column[::-1] for column in TEXTS]))
    assert second.read_bytes() != path.read_bytes()


def test_a_full_disk_costs_a_note_and_no_more(tmp_path: Path, bert: Any, capfd: pytest.CaptureFixture[str],
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    """One for all splits."""
    def full(_: Path, __: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    for texts in (TEXTS, TEXTS[:1]):
        alike(of_tokens(tmp_path, bert, texts), of_tokens(None, bert, texts))
    note = f"note: the tokenised texts were not kept in {tmp_path}: No space left on device\n"
    assert capfd.readouterr().err == note and list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_costs_a_note_too(tmp_path: Path, bert: Any,
                                                       capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("no folder")
    for _ in range(2):
        alike(of_tokens(tmp_path / "file" / "cache", bert), of_tokens(None, bert))
    assert capfd.readouterr().err.count("note: ") == 1


def test_a_tokenizer_with_code_of_its_own_is_never_taken_for_another(tmp_path: Path, bert: Any, tiny: Path) -> None:
    class Reading:
        """What a tokenizer without a backend offers here."""

        def __init__(self, *, tokenizer: Any) -> None:
            self.tokenizer = tokenizer

        def __call__(self, *texts: Any, **asked: Any) -> Any:
            return self.tokenizer(*texts, **asked)

        def __getattr__(self, name: str) -> Any:
            if name == "backend_tokenizer":
                raise AttributeError(name)
            return getattr(self.tokenizer, name)

    alike(of_tokens(tmp_path, Reading(tokenizer=bert)), of_tokens(None, bert))

    class Upper:
        def normalize(self, text: Any) -> None:
            text.map(str.upper)

    from tokenizers import normalizers

    other = AutoTokenizer.from_pretrained(tiny)
    other.backend_tokenizer.normalizer = normalizers.Normalizer.custom(Upper())
    of_tokens(tmp_path, other)
    assert list(tmp_path.iterdir()) == []


def test_processes_that_make_the_same_at_once_all_get_it_whole(tmp_path: Path) -> None:
    """Three of them, again and again, while each now and then damages or deletes what is there."""
    code = f"""
import pathlib, random, sys
from types import SimpleNamespace as Space
import numpy as np
from tasks.cache import Cache

folder = pathlib.Path({str(tmp_path)!r})
backend = Space(to_str=lambda: '{{"added_tokens":[]}}')
cache = Cache(folder, Space(backend_tokenizer=backend))
random.seed(int(sys.argv[1]))
read = 0
for turn in range(150):
    i = random.randrange(3)
    wanted = {{"ids": np.arange(5000 * i, 5000 * i + 3000, dtype=np.int32)}}
    made = []
    got = cache.arrays([["text", str(i)]], {{}}, lambda: made.append(i) or wanted)
    assert list(got) == ["ids"] and np.array_equal(got["ids"], wanted["ids"])
    read += not made
    for path in folder.glob("[!.]*"):
        if turn % 10 == 9:
            path.unlink(missing_ok=True)
        elif turn % 10 == 4:
            path.write_bytes(b"damaged")
assert read > 20
"""
    running = [subprocess.Popen([sys.executable, "-c", code, str(i)], cwd=ROOT, stderr=subprocess.PIPE, text=True)
               for i in range(3)]
    assert [(process.communicate(timeout=120)[1], process.returncode) for process in running] == [("", 0)] * 3
    assert list(tmp_path.glob(".part-*")) == []


# --- tasks ----------------------------------------------------------------------------------------------------------


def test_a_glue_task_keeps_every_split(tmp_path: Path, bert: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a limit leaves of the training texts has a file of its own; the validation sets keep theirs."""
    raw = read("mnli", write_glue(tmp_path / "data", ["mnli"]))
    folder = tmp_path / "cache"
    anew, first = (task("mnli").splits(raw, bert, recipe(length=64), NONE, cache) for cache in (None, folder))
    assert len(list(folder.iterdir())) == 3
    task("mnli", limit=9).splits(raw, bert, recipe(length=64), NONE, folder)
    assert len(list(folder.iterdir())) == 4
    monkeypatch.setattr(tokens, "_tokenised", never)
    again = task("mnli").splits(raw, bert, recipe(length=64, batch=3), NONE, folder)
    for found in (first, again):
        for one, other in zip([anew.train, *anew.validation.values()], [found.train, *found.validation.values()],
                              strict=True):
            alike(one, other)


def test_a_task_with_texts_keeps_every_split(tmp_path: Path, gpt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = data.Source("tuetschek/e2e_nlg", None, "main")
    e2e = Generation("e2e", 1, E2E(), scoring.e2e, "bleu", "train", "validation", "test", source, None)
    raw = e2e.load(Origin("folder", str(write_texts(tmp_path / "data")), 0, 0))
    folder = tmp_path / "cache"
    anew = e2e.splits(raw, gpt, recipe(length=64, averaging="tokens"), NONE)
    e2e.splits(raw, gpt, recipe(length=64, averaging="tokens"), NONE, folder)
    monkeypatch.setattr(completions, "_tokenised", never)
    again = e2e.splits(raw, gpt, recipe(length=64, averaging="tokens"), NONE, folder)
    alike(anew.train, again.train)
    alike(anew.validation["validation"], again.validation["validation"])
    assert len(list(folder.iterdir())) == 2
