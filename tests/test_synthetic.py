"""The made-up GLUE tasks: right columns, repeatable, disjoint splits, and labels that need both texts."""

import hashlib
import json
import re
from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from tasks.synthetic import rows
from tasks.synthetic.lexicon import MATCHED, MISMATCHED, World

COLUMNS = {
    "cola": ("sentence",), "sst2": ("sentence",), "mrpc": ("sentence1", "sentence2"),
    "qqp": ("question1", "question2"), "qnli": ("question", "sentence"), "rte": ("sentence1", "sentence2"),
    "wnli": ("sentence1", "sentence2"), "stsb": ("sentence1", "sentence2"), "mnli": ("premise", "hypothesis"),
}
PAIRS = [task for task, columns in COLUMNS.items() if len(columns) == 2 and task != "stsb"]
FINGERPRINTS = {
    "cola": "4eb5898a1ef366b4", "sst2": "c8a75ec0a940b41b", "mrpc": "d7fe92dc52739bf2",
    "qqp": "540f9f6022c8c836", "qnli": "beb46fe4af1f1376", "rte": "b6f96118cf284d3b",
    "wnli": "ab5a7fa0305b628b", "stsb": "97e7526c462cf6e4", "mnli": "71ed813dc5b6050e",
}
@cache
def sample(task: str, split: str, n: int) -> list[dict[str, Any]]:
    return rows(task, split, n, 0)


def validation(task: str) -> str:
    return "validation_matched" if task == "mnli" else "validation"


def texts(task: str, split: str, n: int, columns: tuple[str, ...]) -> list[str]:
    return [" ".join(row[column] for column in columns) for row in sample(task, split, n)]


def labels(task: str, split: str, n: int) -> np.ndarray:
    return np.array([row["label"] for row in sample(task, split, n)])


@pytest.mark.parametrize("task", COLUMNS)
def test_columns_labels_and_balance(task: str) -> None:
    made = sample(task, "train", 3000)[:2000]
    assert all(tuple(row) == (*COLUMNS[task], "label", "idx") for row in made)
    assert [row["idx"] for row in made] == list(range(2000))
    found = [row["label"] for row in made]
    if task == "stsb":
        assert all(isinstance(label, float) and 0 <= label <= 5 for label in found)
        assert min(np.histogram(found, bins=5, range=(0, 5))[0]) > 200
        return
    count = 3 if task == "mnli" else 2
    share = Counter(found)
    assert set(share) == set(range(count)) and all(type(label) is int for label in share)
    assert max(share.values()) - min(share.values()) <= 0.03 * 2000


@pytest.mark.parametrize("task", COLUMNS)
def test_repeatable(task: str) -> None:
    made = rows(task, "train", 40, 1)
    assert made == rows(task, "train", 40, 1)
    assert made[:10] == rows(task, "train", 10, 1)
    assert made != rows(task, "train", 40, 2)
    assert hashlib.sha256(json.dumps(made).encode()).hexdigest()[:16] == FINGERPRINTS[task]


@pytest.mark.parametrize("task", COLUMNS)
def test_splits_are_disjoint_and_without_repeats(task: str) -> None:
    columns = COLUMNS[task]
    size = 500 if task == "wnli" else 700
    train = {tuple(row[column] for column in columns) for row in sample(task, "train", 3000)}
    held = {tuple(row[column] for column in columns) for row in rows(task, validation(task), size, 5)}
    assert len(train) == 3000 and len(held) == size
    assert not train & held


@pytest.mark.parametrize("task", COLUMNS)
def test_sentences_are_well_formed(task: str) -> None:
    made = [row for row in sample(task, "train", 3000) if task != "cola" or row["label"] == 1]
    for text in {row[column] for row in made for column in COLUMNS[task]}:
        assert re.fullmatch(r"[A-Z].*[.?]", text) and "  " not in text and " ," not in text, text
        assert not re.search(r"\b[Aa] [aeio]|\b[Aa]n [^aeiouh]|[{}]", text), text


def test_mismatched_has_content_words_of_its_own() -> None:
    def content(world: World) -> set[str]:
        return {word for word in re.findall(r"[a-z]+", json.dumps(world).lower()) if len(word) > 2} - {"piece", "the"}

    def used(split: str) -> set[str]:
        return set(re.findall(r"[a-z]+", " ".join(texts("mnli", split, 1000, COLUMNS["mnli"])).lower()))

    ours, theirs = content(MATCHED), content(MISMATCHED)
    assert not ours & theirs
    assert not used("train") & theirs and not used("validation_mismatched") & ours
    assert len(used("train") & ours) > 150 and len(used("validation_mismatched") & theirs) > 100


@pytest.mark.parametrize("task", PAIRS)
@pytest.mark.parametrize("side", [0, 1])
def test_one_text_alone_does_not_tell(task: str, side: int) -> None:
    column, size = (COLUMNS[task][side],), 500 if task == "wnli" else 1000
    words = CountVectorizer(ngram_range=(1, 2), min_df=2, binary=True)
    seen = words.fit_transform(texts(task, "train", 3000, column))
    model = LogisticRegression(C=0.1, max_iter=60).fit(seen, labels(task, "train", 3000))
    new = words.transform(texts(task, validation(task), size, column))
    assert model.score(new, labels(task, validation(task), size)) < (0.42 if task == "mnli" else 0.58)


@pytest.mark.parametrize("side", [0, 1])
def test_one_text_alone_does_not_tell_similarity(side: int) -> None:
    column = (COLUMNS["stsb"][side],)
    words = CountVectorizer(ngram_range=(1, 2), min_df=2, binary=True)
    seen = words.fit_transform(texts("stsb", "train", 3000, column))
    model = Ridge(10.0).fit(seen, labels("stsb", "train", 3000))
    guess = model.predict(words.transform(texts("stsb", "validation", 1000, column)))
    assert abs(np.corrcoef(guess, labels("stsb", "validation", 1000))[0, 1]) < 0.2


@pytest.mark.parametrize("task", PAIRS)
def test_overlap_alone_does_not_tell(task: str) -> None:
    def overlap(split: str, size: int) -> np.ndarray:
        sets = [[set(re.findall(r"[\w']+", text.lower())) for text in texts(task, split, size, (column,))]
                for column in COLUMNS[task]]
        return np.array([[len(one & two) / len(one | two)] for one, two in zip(*sets, strict=True)])

    size = 500 if task == "wnli" else 1000
    model = LogisticRegression(C=100.0).fit(overlap("train", 3000), labels(task, "train", 3000))
    score = model.score(overlap(validation(task), size), labels(task, validation(task), size))
    assert score < (0.60 if task == "mnli" else 0.70)


@pytest.mark.parametrize(("task", "split", "n", "message"), [
    ("nope", "train", 1, "unknown task"), ("mnli", "validation", 1, "unknown split"),
    ("cola", "validation_matched", 1, "unknown split"), ("rte", "train", 0, "choose 1 to"),
    ("wnli", "train", 10**6, "choose 1 to 8000"),
])
def test_bad_requests_are_refused_in_one_line(task: str, split: str, n: int, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        rows(task, split, n, 0)
    assert "\n" not in str(caught.value)
