"""Labelled English made by rule, in the columns of GLUE, for runs without a hub or a data folder."""

import hashlib
import random
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from . import restaurants
from .acceptability import cola
from .answers import qnli
from .nli import mnli, rte
from .paraphrase import mrpc, stsb
from .pronouns import wnli
from .questions import qqp
from .sentiment import sst2

__all__ = ["rows"]


class Task(NamedTuple):
    """How one task is made: its text columns, its generator, how many labels it draws, how many rows it can give."""

    columns: tuple[str, ...]
    make: Callable[[random.Random, str, int], tuple[Any, ...]]
    labels: int
    train: int = 20_000
    validation: int = 2_000


TASKS = {
    "cola": Task(("sentence",), cola, 2),
    "sst2": Task(("sentence",), sst2, 2),
    "mrpc": Task(("sentence1", "sentence2"), mrpc, 2),
    "qqp": Task(("question1", "question2"), qqp, 2),
    "qnli": Task(("question", "sentence"), qnli, 2),
    "rte": Task(("sentence1", "sentence2"), rte, 2),
    "wnli": Task(("sentence1", "sentence2"), wnli, 2, 8_000, 1_000),
    "stsb": Task(("sentence1", "sentence2"), stsb, 7),
    "mnli": Task(("premise", "hypothesis"), mnli, 3),
}
VALIDATION_SHARE = 0.2


def rows(task: str, split: str, n: int, seed: int) -> list[dict[str, Any]]:
    """Make n labelled rows of a task; fewer rows of the same split and seed are a prefix of more. E2E's rows are texts
    about restaurants, some more than n, since none is left without the last of its texts."""
    if task == "e2e":
        return restaurants.rows(split, n, seed)
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}: choose one of {', '.join(TASKS)}")
    splits = ("train", "validation_matched", "validation_mismatched") if task == "mnli" else ("train", "validation")
    if split not in splits:
        raise ValueError(f"unknown split {split!r} of {task}: choose one of {', '.join(splits)}")
    supply = TASKS[task].train if split == "train" else TASKS[task].validation
    if not 1 <= n <= supply:
        raise ValueError(f"cannot make {n} rows of {task} {split}: choose 1 to {supply}")
    return list(islice(_stream(task, split, seed), n))


def _stream(task: str, split: str, seed: int) -> Iterator[dict[str, Any]]:
    """Yield a split without end; the label comes first, so that the classes stay balanced."""
    columns, make, count, *_ = TASKS[task]
    rng = random.Random(f"{task} {split} {seed}")
    seen: set[tuple[str, ...]] = set()
    labels: list[int] = []
    while True:
        if not labels:
            labels = rng.sample(range(count), count)
        made = make(rng, split, labels[-1])
        texts = made[:len(columns)]
        if texts in seen or texts[:1] == texts[1:] or _held_out(texts) != (split != "train"):
            continue
        seen.add(texts)
        label = labels.pop()
        yield {**dict(zip(columns, texts, strict=True)), "label": made[-1] if len(made) > len(columns) else label,
               "idx": len(seen) - 1}


def _held_out(texts: tuple[str, ...]) -> bool:
    """Say by its texts alone whether a row is for validation, so that no seed can mix the splits."""
    return hashlib.sha256("\n".join(texts).encode()).digest()[0] < 256 * VALIDATION_SHARE
