"""Scores of generated text without Java: NIST, BLEU, TER and ROUGE against known answers, and what is refused."""

import gzip
import json
import math
import random
from collections import Counter
from collections.abc import Sequence

import pytest
from conftest import ROOT

from engine.contract import Refused
from tasks.metrics import Scores, e2e, generation_eval, java, rouge
from tasks.metrics.nist import nist, nist_python

sacrebleu = pytest.importorskip("sacrebleu")
SHARED = ROOT.parent / "shared"
References = list[list[str]]
# with the official scorer's numbers for each output alone: BLEU, NIST (its Python)
HARD = [
    (.4691, 3.9475,
     "The Wrestlers is a coffee shop near Raja Indian Cuisine which is family friendly with £20-25 prices.",
     ["The Wrestlers is a family-friendly coffee shop near Raja Indian Cuisine, with prices of £20-25.",
      '"The Wrestlers" — a coffee shop close to Raja Indian Cuisine — costs £20-25 and is kid-friendly.']),
    (.4090, 3.8435, "Zizzi's is rated 1 out of 5, and it's less than £20.",
     ["Prices at Zizzi's are less than £20; it's rated 1 out of 5!", "Zizzi's (1 out of 5) isn't expensive: under £20.",
      "It's cheap, Zizzi's, at less than £20 -- customers rate it 1/5."]),
    (.3375, 2.0277, "In 2005 Café Ménage served 1,200.50 meals and drinks.",
     ["In 2005, the Café Ménage served 1,200.50 meals & drinks..."]),
    (.7856, 4.2269, "The population was 3,001,456 (2010-2011).",
     ["The population was 3,001,456 in 2010-2011.", "There were 3001456 people (2010-2011)."]),
    (.7677, 5.3968, "Blue Spice has a customer rating of 5 out of 5.",
     ["Blue Spice has a high customer rating of 5 out of 5.", "Blue Spice: 5 out of 5 rating.",
      "Rated 5-out-of-5, Blue Spice is popular.", "Blue Spice is rated very highly by customers."]),
]
OUTPUTS, SEVERAL = [row[2] for row in HARD], [row[3] for row in HARD]
needs_oracles = pytest.mark.skipif(not (SHARED / "oracles").is_dir(), reason="the oracles are not beside the checkout")


def groups() -> References:
    """The references of E2E's validation set, one group an input."""
    found: dict[str, list[str]] = {}
    with gzip.open(SHARED / "data" / "e2e_nlg" / "validation.jsonl.gz", "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            found.setdefault(row["meaning_representation"], []).append(row["human_reference"])
    return list(found.values())


def systems() -> dict[str, dict[str, float]]:
    """The published scores of each file of outputs."""
    header, *rows = (SHARED / "oracles" / "e2e_dev" / "scores.csv").read_text().split()
    names = header.split(",")[1:]
    return {file: dict(zip(names, map(float, numbers), strict=True))
            for file, *numbers in (row.split(",") for row in rows)}


def outputs(file: str) -> list[str]:
    return (SHARED / "oracles" / "e2e_dev" / file).read_text(encoding="utf-8").split("\n")[:-1]


def example() -> tuple[list[str], References]:
    """The official scorer's own example."""
    folder = SHARED / "oracles" / "e2e_example"
    made, known = ((folder / name).read_text(encoding="utf-8").strip() for name in ("outputs.txt", "references.txt"))
    return made.split("\n"), [group.split("\n") for group in known.split("\n\n")]


def slow_nist(hypotheses: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> float:
    """NIST of words, straight from its definition and one n-gram at a time."""
    def cut(words: Sequence[str], size: int) -> list[tuple[str, ...]]:
        return [tuple(words[start:start + size]) for start in range(len(words) - size + 1)]

    everything = [words for group in references for words in group]
    count = Counter(gram for words in everything for size in range(1, 6) for gram in cut(words, size))
    count[()] = sum(map(len, everything))
    total = 0.0
    for size in range(1, 6):
        informed = 0.0
        for words, group in zip(hypotheses, references, strict=True):
            for gram in set(cut(words, size)):
                matches = min(cut(words, size).count(gram), max(cut(other, size).count(gram) for other in group))
                if matches:
                    informed += matches * math.log2(count[gram[:-1]] / count[gram])
        total += informed / max(1, sum(len(cut(words, size)) for words in hypotheses))
    ratio = sum(map(len, hypotheses)) / (count[()] / len(everything) * len(references))
    return total * (1 if ratio >= 1 else .5 ** ((math.log(ratio) / math.log(1.5)) ** 2) if ratio else 0)


@needs_oracles
@pytest.mark.parametrize("file", ["system_13.txt", *(
    pytest.param(f"system_{number}.txt", marks=pytest.mark.slow) for number in ("01", "05", "09", "16", "19"))])
def test_bleu_and_nist_of_real_systems(file: str) -> None:
    known, published = groups(), systems()[file]
    assert len(known) == 547
    assert round(e2e.bleu(outputs(file), known) / 100, 4) == published["bleu"]
    assert round(nist_python(outputs(file), known), 4) == published["nist"]


@needs_oracles
def test_bleu_and_nist_of_the_official_example() -> None:
    made, known = example()
    numbers = (e2e.bleu(made, known) / 100, nist(made, known), nist_python(made, known))
    assert [round(number, 4) for number in numbers] == [0.7203, 7.8212, 7.7889]


def test_bleu_and_nist_of_hard_punctuation() -> None:
    assert e2e.bleu(OUTPUTS, SEVERAL) == pytest.approx(55.3407, abs=5e-5)
    assert nist(OUTPUTS, SEVERAL) == pytest.approx(5.968371, abs=5e-7)
    assert nist_python(OUTPUTS, SEVERAL) == pytest.approx(5.9130, abs=5e-5)
    for bleu, score, made, known in HARD:
        assert round(e2e.bleu([made], [known]) / 100, 4) == bleu
        assert round(nist_python([made], [known]), 4) == score


@pytest.mark.parametrize("seed", range(20))
def test_nist_is_its_definition(seed: int) -> None:
    drawn = random.Random(seed)
    words = "abcdefg"[:drawn.randint(1, 7)]

    def text() -> list[str]:
        return [drawn.choice(words) for _ in range(drawn.randint(1, 12))]

    known = [[text() for _ in range(drawn.randint(1, 4))] for _ in range(8)]
    made = [text() if drawn.random() < .8 else drawn.choice(group)[:drawn.randint(0, 9)] for group in known]
    joined = [list(map(" ".join, group)) for group in known]
    assert nist(list(map(" ".join, made)), joined) == pytest.approx(slow_nist(made, known), abs=1e-12)


def test_the_order_of_inputs_and_of_references_does_not_matter() -> None:
    order = [3, 0, 4, 2, 1]
    turned = [OUTPUTS[place] for place in order], [SEVERAL[place][::-1] for place in order]
    for measure in (e2e.bleu, nist, nist_python, generation_eval.bleu):
        assert measure(*turned) == measure(OUTPUTS, SEVERAL)


def test_outputs_that_match_nothing_score_zero() -> None:
    for made in (["", ""], ["q", "q"]):
        assert e2e.bleu(made, [["a b"], ["c"]]) == nist(made, [["a b"], ["c"]]) == 0
    assert nist([""], [["."]]) == 0


def test_a_newline_in_an_output_is_a_blank() -> None:
    broken = [text.replace(" ", "\n", 2).replace(" ", "\r\n", 1) for text in OUTPUTS]
    for measure in (rouge.score, bleu_only):
        assert measure(broken, SEVERAL) == measure(OUTPUTS, SEVERAL)


def bleu_only(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
    """E2E's scores on a machine without Java."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "")
        return e2e.score(hypotheses, references)


def test_without_java_bleu_and_nist_still_come() -> None:
    made = bleu_only(OUTPUTS, SEVERAL)
    assert list(made.numbers) == ["bleu", "nist"]
    assert made.numbers["bleu"] == pytest.approx(55.3407, abs=5e-5)
    assert list(made.missing) == ["meteor", "rouge_l", "cider"]
    assert all("java" in reason and "install" in reason and "\n" not in reason for reason in made.missing.values())


@pytest.mark.parametrize(("absent", "metrics"), [("sacrebleu", {"bleu", "nist"}), ("pycocoevalcap", set())])
def test_a_missing_package_is_named_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch, absent: str,
                                                       metrics: set[str]) -> None:
    import sys

    monkeypatch.setattr(java, "_java", lambda: ["true"])
    for name in [name for name in sys.modules if name.partition(".")[0] == absent]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, absent, None)   # an import of it fails
    made = e2e.score(OUTPUTS, SEVERAL)
    for name in metrics or {"meteor", "rouge_l", "cider"}:
        assert f"pip install {absent}==" in made.missing[name]


@pytest.mark.parametrize("measure", [e2e.score, generation_eval.score, rouge.score])
@pytest.mark.parametrize(("made", "known", "said"), [
    (["a"], [["a"], ["b"]], "1 outputs and references for 2 inputs"), ([], [], "no outputs"),
    (["a", "b"], [["a"], []], "input 2 of 2 has no reference"), (["a"], [["", " \n"]], "input 1 of 1 has no reference"),
])
def test_what_cannot_be_scored_is_refused(measure: object, made: list[str], known: References, said: str) -> None:
    with pytest.raises(Refused, match=said):
        measure(made, known)   # type: ignore[operator]


def test_padding_with_the_first_reference_makes_both_rules_of_padding_agree() -> None:
    """microsoft/LoRA pads so; an empty line is a reference of length 0 to multi-bleu-detok, and none to sacrebleu."""
    made = ["a cat sat on a mat .", "two dogs"]
    known = [["the cat sat on the mat .", "a cat was on a mat .", "a cat"], ["two dogs ran far away"]]
    bleu = sacrebleu.metrics.BLEU(tokenize="13a", smooth_method="none", force=True)

    def padded(filler: str | None) -> float:
        rows = [[*group, *[filler if filler is not None else group[0]] * (3 - len(group))] for group in known]
        return bleu.corpus_score(made, [list(column) for column in zip(*rows, strict=True)]).score

    assert padded("") != padded(None)
    assert padded(None) == generation_eval.bleu(made, known)


def test_the_text_of_webnlg_is_lower_case_with_blanks_around_every_sign() -> None:
    assert generation_eval.plain(" It's\u2028 (3,5)\tin  Été_1. ") == "it ' s ( 3 , 5 ) in été_1 ."


def test_webnlg_takes_the_first_six_references(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nltk")
    monkeypatch.setenv("PATH", "")
    known = ["a b c d e f"] * 5 + ["A B c d"]
    one = generation_eval.score(["x y z v w"], [[*known, "x y z v w"]])
    assert one == generation_eval.score(["x y z v w"], [known])
    assert list(one.missing) == ["meteor"] and one.numbers == {"bleu": 0, "ter": 1}
    assert generation_eval.score(["x y z v w"], [[*known[:5], "X y z V w"]]).numbers["ter"] == 0


def test_ter_is_pyters() -> None:
    pyter = pytest.importorskip("pyter")
    drawn = random.Random(0)

    def text(least: int, most: int, words: Sequence[str]) -> list[str]:
        return [drawn.choice(words) for _ in range(drawn.randint(least, most))]

    for _ in range(800):
        words = "abcdefghijklmn"[:drawn.randint(1, 14)]
        made, known = text(0, 12, words), [text(1, 12, words) for _ in range(drawn.randint(1, 3))]
        if drawn.random() < .3:   # the words of a reference, in other runs
            made = known[0][len(known[0]) // 2:] + text(0, 2, words) + known[0][:len(known[0]) // 2]
        assert generation_eval.ter(made, known) == min(pyter.ter(made, words) for words in known)
    assert generation_eval.ter([], [["a"], []]) == generation_eval.ter(["a"], [[]]) == 1


@needs_oracles
@pytest.mark.slow
def test_ter_of_a_real_system_is_pyters() -> None:
    pyter = pytest.importorskip("pyter")
    pytest.importorskip("nltk")
    for made, known in list(zip(outputs("system_05.txt"), groups(), strict=True))[:60]:
        words, *several = generation_eval.tokenized([generation_eval.plain(text) for text in (made, *known)])
        assert generation_eval.ter(words, several) == min(pyter.ter(words, other) for other in several)


def test_rouge_takes_the_best_reference_by_each_metric() -> None:
    pytest.importorskip("rouge_score")
    made = rouge.score(["the dogs run"], [["dog runs fast", "a dog", "the dog was running"]])
    assert made.missing == {}
    assert made.numbers == pytest.approx({"rouge1": 600 / 7, "rouge2": 50, "rougeL": 600 / 7})
    assert rouge.score(["", "a b"], [["a"], ["a b"]]).numbers == {"rouge1": 50, "rouge2": 50, "rougeL": 50}


def test_scores_with_other_times_are_the_same_scores() -> None:
    assert Scores({"a": 1}, {}, {"a": 3}) == Scores({"a": 1}, {}) != Scores({"a": 2}, {})
