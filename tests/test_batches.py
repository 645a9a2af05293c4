"""Batches: made in one piece as row by row, cut by a budget of tokens, and made ahead in a thread that harms nobody."""

import itertools
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, glue_rows, write_model
from transformers import AutoTokenizer

from engine import batches
from engine.contract import Batch, Special
from tasks.completions import IGNORED, Completions
from tasks.tokens import Tokens

SPECIALS = [Special((), ()), Special((900, 901), (902,))]
PLANS = [[0], [3], [5, 3, 0], [2, 2, 2], list(range(7)), [6, 1]]
CPU = torch.device("cpu")


def same(one: Batch, other: Batch) -> None:
    """To the bit, in the same order of names, of the same kind, and laid out alike."""
    assert list(one) == list(other)
    for name in one:
        assert one[name].dtype == other[name].dtype and one[name].stride() == other[name].stride()
        assert torch.equal(one[name], other[name]), name


# --- row by row -----------------------------------------------------------------------------------------------------


def tokens_by_row(split: Tokens, indices: Sequence[int]) -> Batch:
    """Padded on the right, an example at a time."""
    longest = max(split.lengths[i] for i in indices)
    batch: Batch = {"labels": split.labels[torch.tensor(indices)]}
    mask = np.zeros((len(indices), longest), np.int64)
    for name, flat in split.fields.items():
        padded = np.full((len(indices), longest), split.pads[name], np.int64)
        for row, i in enumerate(indices):
            start = sum(split.lengths[:i])
            padded[row, :split.lengths[i]] = flat[start:start + split.lengths[i]]
            mask[row, :split.lengths[i]] = 1
        batch[name] = torch.from_numpy(padded)
    batch["attention_mask"] = torch.from_numpy(mask)
    return batch


def completions_by_row(split: Completions, indices: Sequence[int]) -> Batch:
    """Padded on the left, an example at a time."""
    longest, most = max(split.lengths[i] for i in indices), max(split.targets[i] for i in indices)
    ids = np.full((len(indices), longest), split.pad, np.int64)
    mask = np.zeros((len(indices), longest), np.int64)
    labels = np.full((len(indices), most), IGNORED, np.int64)
    for row, i in enumerate(indices):
        start = sum(split.lengths[:i]) + i
        tokens = split.flat[start:start + split.lengths[i] + 1]
        ids[row, longest - split.lengths[i]:] = tokens[:-1]
        mask[row, longest - split.lengths[i]:] = 1
        labels[row, most - split.targets[i]:] = tokens[len(tokens) - split.targets[i]:]
    counted = (labels != IGNORED).astype(np.float32)
    weights = counted if split.averaging == "tokens" else counted / counted.sum(1, keepdims=True)
    batch = {"input_ids": ids, "attention_mask": mask, "position_ids": np.maximum(mask.cumsum(1) - 1, 0),
             "labels": labels, "weights": weights}
    return {name: torch.from_numpy(array) for name, array in batch.items()}


@pytest.mark.parametrize("special", SPECIALS)
@pytest.mark.parametrize("columns", [("sentence1",), ("sentence1", "sentence2")])
@pytest.mark.parametrize("labels", [torch.long, torch.float32])
def test_a_batch_of_tokens_is_that_of_row_by_row(tiny: Path, columns: tuple[str, ...], special: Special,
                                                 labels: torch.dtype) -> None:
    rows = glue_rows("rte", 7)
    rows[3]["sentence1"], rows[5]["sentence1"] = "the cat " * 60, ""
    split = Tokens([[row[name] for row in rows] for name in columns], torch.arange(7).to(labels),
                   AutoTokenizer.from_pretrained(tiny), 24, special)
    assert len(set(split.lengths)) > 2
    for indices in PLANS:
        same(split.batch(indices), tokens_by_row(split, indices))


@pytest.mark.parametrize("special", SPECIALS)
@pytest.mark.parametrize("averaging", ["tokens", "examples"])
def test_a_batch_of_completions_is_that_of_row_by_row(decoder: Path, averaging: str, special: Special) -> None:
    tokenizer = AutoTokenizer.from_pretrained(decoder)
    tokenizer.pad_token = "[PAD]"
    pairs = [("the cat sees " * (i % 3), "a dog. " * (1 + i * 5 % 4)) for i in range(7)]
    split = Completions(pairs, tokenizer, 14, special, averaging)
    assert len(set(split.lengths)) > 2 and len(set(split.targets)) > 2 and 0 < split.cut < 7
    for indices in PLANS:
        same(split.batch(indices), completions_by_row(split, indices))
        counted = split.batch(indices)["labels"] != IGNORED
        assert split.weight(indices) == (int(counted.sum()) if averaging == "tokens" else len(indices))


def test_many_texts_at_once_are_tokenised_as_few(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In chunks, of which the last one may be small."""
    rows = glue_rows("rte", 25)
    texts = [[row[name] for row in rows] for name in ("sentence1", "sentence2")]
    encoder = AutoTokenizer.from_pretrained(tiny)
    decoder = AutoTokenizer.from_pretrained(write_model(tmp_path, "gpt2"))

    def made() -> list[np.ndarray]:
        split = Tokens(texts, torch.zeros(25), encoder, 24, SPECIALS[1])
        other = Completions(list(zip(*texts, strict=True)), decoder, 24, SPECIALS[1], "tokens")
        return [*split.fields.values(), split.sizes, other.flat, other.sizes, other.goals]

    whole = made()
    monkeypatch.setattr("tasks.tokens.CHUNK", 7)
    monkeypatch.setattr("tasks.completions.CHUNK", 7)
    assert all(np.array_equal(one, other) for one, other in zip(whole, made(), strict=True))


# --- evaluation -----------------------------------------------------------------------------------------------------


def lengths(n: int) -> list[int]:
    return torch.randint(1, 100, (n,), generator=torch.Generator().manual_seed(0)).tolist()


@pytest.mark.parametrize("world", [1, 3])
def test_without_a_budget_evaluation_batches_are_of_one_size(world: int) -> None:
    sizes = lengths(50)
    for rank in range(world):
        indices = sorted(range(50), key=lambda i: -sizes[i])[rank::world]
        assert batches.by_length(sizes, 8, rank, world) == [indices[i:i + 8] for i in range(0, len(indices), 8)]
    assert batches.by_length([], 8, 0, 1) == [] == batches.by_length([], 8, 0, 1, 100)


@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize("tokens", [1, 64, 99, 300, 10**9])
def test_a_budget_of_tokens_cuts_evaluation_batches(world: int, tokens: int) -> None:
    """The same examples in the same order; and each batch as large as may be."""
    sizes = lengths(50)
    for rank in range(world):
        plan = batches.by_length(sizes, 8, rank, world, tokens)
        assert sum(plan, []) == sum(batches.by_length(sizes, 8, rank, world), [])
        for batch, following in itertools.zip_longest(plan, plan[1:]):
            longest = max(sizes[i] for i in batch)
            assert 1 <= len(batch) <= 8 and (longest * len(batch) <= tokens or len(batch) == 1)
            assert following is None or len(batch) == 8 or longest * (len(batch) + 1) > tokens


def test_a_budget_of_tokens_saves_padding_and_batches() -> None:
    sizes = [500, *[10] * 99]
    plans = [batches.by_length(sizes, size, 0, 1, tokens) for size, tokens in ((50, None), (99, 1000))]
    padded = [sum(max(sizes[i] for i in batch) * len(batch) for batch in plan) for plan in plans]
    assert padded[0] == 500 * 50 + 10 * 50 and padded[1] == 500 * 2 + 10 * 98 and len(plans[1]) == 2


# --- ahead ----------------------------------------------------------------------------------------------------------


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "ahead"]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert threads() == []


@pytest.mark.parametrize("n", [0, 1, 2, 3, 50])
def test_ahead_makes_all_in_order(n: int) -> None:
    assert list(batches.ahead(range(n), lambda i: i * i)) == [i * i for i in range(n)]
    assert list(batches.ahead(iter(range(n)), lambda i: None)) == [None] * n


def test_the_next_ones_are_made_while_one_is_in_use_and_not_more() -> None:
    made: list[int] = []
    begun = [threading.Event() for _ in range(9)]

    def make(i: int) -> int:
        assert threading.current_thread() is not threading.main_thread()
        made.append(i)
        begun[i].set()
        return i

    for i in batches.ahead(range(9), make):
        assert begun[min(i + batches.AHEAD, 8)].wait(10)   # without asking for it
        time.sleep(0.01)
        assert made == list(range(min(i + batches.AHEAD, 8) + 1))


def failing(item: int) -> int:
    if item == 3:
        raise ValueError("the fourth")
    return item


def broken() -> Iterator[int]:
    yield from range(3)
    raise ValueError("the fourth")


@pytest.mark.parametrize(("work", "make"), [(range(9), failing), (broken(), lambda i: i)])
def test_an_error_is_raised_where_its_batch_would_have_come(work: Any, make: Any) -> None:
    seen = []
    with pytest.raises(ValueError, match="the fourth"):
        for item in batches.ahead(work, make):
            time.sleep(0.01)   # the thread has met it long before
            seen.append(item)
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("error", [StopIteration, KeyboardInterrupt, SystemExit])
def test_no_error_is_taken_for_the_end(error: type[BaseException]) -> None:
    def make(item: int) -> int:
        raise error("no end")

    with pytest.raises(BaseException, match="no end|StopIteration"):
        list(batches.ahead(range(3), make))


@pytest.mark.parametrize("taken", [0, 1, 4])
def test_the_thread_ends_when_nobody_wants_more(taken: int) -> None:
    made: list[int] = []
    source = batches.ahead(itertools.count(), lambda i: made.append(i) or i)
    for _ in range(taken):
        next(source)
    source.close()
    assert threads() == [] and len(made) <= taken + batches.AHEAD


def test_the_thread_ends_when_the_loop_is_left() -> None:
    with pytest.raises(KeyError):
        for item in batches.ahead(itertools.count(), lambda i: i):
            assert threads()
            if item == 2:
                raise KeyError
    for item in batches.ahead(itertools.count(), lambda i: i):
        if item == 2:
            break
    assert threads() == []


def test_no_random_number_is_drawn_and_no_mode_of_the_caller_holds() -> None:
    """A tensor that is made ahead within inference_mode may be trained on."""
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        made = list(batches.ahead(range(5), lambda i: (torch.full((2,), i), torch.is_grad_enabled())))
    assert not any(tensor.is_inference() for tensor, _ in made) and all(grad for _, grad in made)
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    assert all(np.array_equal(one, other) for one, other in zip(np.random.get_state(), before[2], strict=True))


def test_a_process_ends_with_iterators_still_open() -> None:
    """Also in the middle of making one."""
    code = """
import itertools, time
from engine import batches

def slow(i):
    time.sleep(90 * (i > 0))

waiting, making = batches.ahead(itertools.count(), int), batches.ahead(range(9), slow)
print(next(waiting), next(making))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=80)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0 None\n", "")


def test_for_a_cpu_nothing_is_pinned() -> None:
    batch = {"labels": torch.arange(3)}
    assert batches.pinned(batch, CPU) is batch


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_for_a_gpu_every_tensor_is_pinned() -> None:
    batch = {"labels": torch.arange(3), "input_ids": torch.ones(3, 5, dtype=torch.long)}
    for made in batches.ahead([batch] * 3, lambda each: batches.pinned(each, torch.device("cuda"))):
        assert all(tensor.is_pinned() for tensor in made.values())
        same(made, batch)
