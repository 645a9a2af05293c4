"""The made-up restaurants: E2E's columns, several true texts each, splits apart, and nothing to gain by parroting."""

import gzip
import hashlib
import json
import random
import re
from functools import cache
from itertools import groupby
from typing import Any

import pytest
from conftest import ROOT

from tasks.prompts.e2e import E2E
from tasks.synthetic.restaurants import NAMES, SLOTS, SPLITS, rows

SHARED = ROOT.parent / "shared" / "data" / "e2e_nlg"
SAID = {"priceRange": {"cheap": "cheap|low", "moderate": "moderate", "high": "expensive|high"},
        "familyFriendly": {"yes": "family-friendly|welcomes children|[Cc]hildren are welcome",
                           "no": "not family-friendly|not welcome"}}   # where the value itself need not be there


@cache
def sample(split: str, n: int = 2000) -> list[tuple[str, list[str]]]:
    """Restaurants with their texts."""
    groups = groupby(rows(split, n, 0), key=lambda row: row["meaning_representation"])
    return [(meaning, [row["human_reference"] for row in group]) for meaning, group in groups]


def facts(meaning: str) -> dict[str, str]:
    return dict(re.findall(r"([^,\[\]]+)\[([^\]]+)\](?:, )?", meaning))


@pytest.mark.parametrize(("split", "fewest", "most"), [("train", 1, 3), ("validation", 3, 6), ("test", 3, 6)])
def test_restaurants_have_three_to_eight_slots_and_texts_that_differ(split: str, fewest: int, most: int) -> None:
    made = sample(split)
    assert {len(facts(meaning)) for meaning, _ in made} == set(range(3, 9))
    assert {len(texts) for _, texts in made} == set(range(fewest, most + 1))
    assert len({meaning for meaning, _ in made}) == len(made)
    assert all(len(set(texts)) == len(texts) for _, texts in made)
    assert all(E2E().check(row) is None for row in rows(split, 200, 1))


def test_repeatable() -> None:
    made = rows("train", 400, 1)
    assert made == rows("train", 400, 1) and 400 <= len(made) < 403
    few = rows("train", 10, 1)
    assert made[:len(few)] == few and 10 <= len(few) < 13
    assert made != rows("train", 400, 2)
    assert hashlib.sha256(json.dumps(made).encode()).hexdigest()[:16] == "014317b711e0abca"


def test_splits_are_disjoint_and_half_of_the_held_out_names_are_new() -> None:
    train = {row["meaning_representation"] for row in rows("train", 12000, 0)}
    names = {facts(meaning)["name"] for meaning in train}
    held = {split: {row["meaning_representation"] for row in rows(split, 3000, 5)} for split in ("validation", "test")}
    assert not train & (held["validation"] | held["test"]) and not held["validation"] & held["test"]
    for meanings in held.values():
        assert 0.4 < sum(facts(meaning)["name"] not in names for meaning in meanings) / len(meanings) < 0.6


@pytest.mark.parametrize("split", SPLITS)
def test_texts_are_true_whole_and_well_formed(split: str) -> None:
    for meaning, texts in sample(split):
        known = facts(meaning)
        for text in texts:
            assert re.fullmatch(r"[A-Z].*\.", text) and "  " not in text and " ," not in text and " ." not in text, text
            assert not re.search(r"\b[Aa] [aeioAEIO]|\b[Aa]n [^aeioAEIO]|[{}\[\]]", text), text
            for slot, value in known.items():
                assert re.search(SAID.get(slot, {}).get(value, re.escape(value)), text), (slot, value, text)
            for slot in ("food", "area", "near", "eatType"):
                others = [value for value in SLOTS[slot] if value != known.get(slot)]
                assert not re.search(rf"\b({'|'.join(others)})\b", text), (slot, text)
            assert ("customer" in text.lower()) == ("customer rating" in known)
            assert ("child" in text.lower() or "family" in text) == ("familyFriendly" in known)


def bleu(hypotheses: list[str], references: list[list[str]]) -> float:
    sacrebleu: Any = pytest.importorskip("sacrebleu")
    most = max(map(len, references))
    columns = [[several[place] if place < len(several) else None for several in references] for place in range(most)]
    return sacrebleu.corpus_bleu(hypotheses, columns).score


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_text_resembles_those_of_its_own_restaurant_only(split: str) -> None:
    texts = [several for _, several in sample(split)]
    assert 40 < bleu([several[0] for several in texts], [several[1:] for several in texts]) < 75
    rng = random.Random(0)
    assert bleu([rng.choice(several) for several in rng.sample(texts, len(texts))], texts) < 25


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data is not beside the checkout")
def test_no_name_street_or_kitchen_is_of_e2e() -> None:
    with gzip.open(SHARED / "train.jsonl.gz", "rt", encoding="utf-8") as file:
        real = [facts(meaning) for meaning in {json.loads(line)["meaning_representation"] for line in file}]
    theirs = {known[slot] for known in real for slot in ("name", "near", "food") if slot in known}
    assert len(theirs) > 50 and not theirs & {*NAMES, *SLOTS["near"], *SLOTS["food"]}


@pytest.mark.parametrize(("split", "n", "message"), [("dev", 5, "unknown split"), ("test", 0, "choose 1 to"),
                                                     ("train", 10**6, "choose 1 to 40000")])
def test_bad_requests_are_refused_in_one_line(split: str, n: int, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        rows(split, n, 0)
    assert "\n" not in str(caught.value)
