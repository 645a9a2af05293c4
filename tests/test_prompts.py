"""Rows as text: what the official files have, row by row, and refusals that leave nothing to fall over."""

import copy
import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from tasks.prompts import Form
from tasks.prompts.dart import DART
from tasks.prompts.e2e import E2E, tokenise
from tasks.prompts.mnli import MNLI
from tasks.prompts.samsum import SAMSum
from tasks.prompts.webnlg import WebNLG
from tasks.prompts.wikisql import WikiSQL

SHARED = ROOT.parent / "shared" / "data"
needs_data = pytest.mark.skipif(not (SHARED / "e2e_nlg").is_dir(), reason="the real data is not beside the checkout")

ROWS: dict[type[Form], dict[str, Any]] = {
    E2E: {"meaning_representation": "name[The Iron Bell], priceRange[less than £20], near[Elder Lane]",
          "human_reference": "It's family-friendly."},
    WebNLG: {"category": "Food", "lex": {"comment": ["good", "toFix", "good"], "text": ["One.", "Two.", "Three."],
                                         "lid": ["Id1", "Id2", "Id3"], "lang": ["", "", ""]},
             "modified_triple_sets": {"mtriple_set": [["Rye_bread | madeOf | Rye", "Rye | a | Cereal"]]},
             "test_category": ""},
    DART: {"tripleset": [["Rye bread", "MADE_OF", "Rye"], ["Rye", "IS", "Cereal"]],
           "annotations": {"source": ["a", "b"], "text": ["One.", "Two."]}},
    WikiSQL: {"question": "Who won?", "table": {"header": ["Year", "Winner"], "id": "1"},
              "sql": {"human_readable": "SELECT Winner FROM table WHERE Year > 1900", "sel": 1, "agg": 0,
                      "conds": {"column_index": [0], "operator_index": [1], "condition": ["1900"]}}},
    SAMSum: {"id": "1", "dialogue": "Ann: hi \r\nBob: hello\r\n", "summary": "Ann greets Bob. "},
    MNLI: {"premise": "It rains.", "hypothesis": "It is wet.", "label": 1, "idx": 0},
}
BREAD = "Rye_bread : madeOf : Rye | Rye : a : Cereal"
EXAMPLES: dict[type[Form], list[tuple[str, str]]] = {
    E2E: [("name : The Iron Bell | price : less than £ 20 | near : Elder Lane", "It 's family - friendly .")],
    WebNLG: [(BREAD, "One."), (BREAD, "Three.")],
    DART: [("Rye bread : made_of : Rye | Rye : is : Cereal", text) for text in ("One.", "Two.")],
    WikiSQL: [("table: Year, Winner\nquestion: Who won?\n", "SELECT Winner FROM table WHERE Year > 1900")],
    SAMSum: [("Ann: hi \nBob: hello\n\n", "Ann greets Bob.")],
    MNLI: [("premise: It rains.\nhypothesis: It is wet.\n", "neutral")],
}
JUNK = (None, 0, -1, 7, True, 0.5, "", "x", "a | b", "x\ud800", [], ["x"], [0], [["x"]], [[]], {}, {"text": ["x"]})
forms = pytest.mark.parametrize("form", ROWS, ids=lambda form: form.__name__)


def read(name: str) -> list[dict[str, Any]]:
    with gzip.open(SHARED / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def pairs(form: Form, rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """All examples of rows that must all be good."""
    assert [problem for row in rows if (problem := form.check(row))] == []
    return [pair for row in rows for pair in form.examples(row)]


def damaged(value: Any) -> Iterator[Any]:
    """The value with one thing in it taken away or replaced by junk, every way."""
    yield from JUNK
    if isinstance(value, (dict, list)):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            without = copy.deepcopy(value)
            del without[key]
            yield without
            for junk in damaged(value[key]):
                changed = copy.deepcopy(value)
                changed[key] = junk
                yield changed


@forms
def test_examples(form: type[Form]) -> None:
    assert form().check(ROWS[form]) is None
    assert form().examples(ROWS[form]) == EXAMPLES[form]


@forms
def test_what_passes_the_check_raises_nowhere_and_what_does_not_is_said_in_a_line(form: type[Form]) -> None:
    refused = 0
    for row in damaged(ROWS[form]):
        if not isinstance(row, dict):
            continue
        problem = form().check(row)
        if problem is None:
            written = json.dumps([form().fingerprint(row), form().examples(row), form().part(row)], ensure_ascii=False)
            assert written.encode()
        else:
            refused += 1
            assert problem and "\n" not in problem and problem.isprintable() and len(problem) < 250
    assert refused > 15


@forms
def test_a_lost_column_is_named(form: type[Form]) -> None:
    column = next(iter(ROWS[form])) if form is not SAMSum else "dialogue"
    row = {name: value for name, value in ROWS[form].items() if name != column}
    assert form().check(row) == f"no column '{column}' (it has {', '.join(row)})"


@forms
def test_the_fingerprint_is_the_same_from_parquet_and_follows_every_change(form: type[Form], tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    row = ROWS[form]
    parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "rows.parquet")
    again = parquet.read_table(tmp_path / "rows.parquet").to_pylist()[0]
    assert form().check(again) is None
    assert json.dumps(form().fingerprint(again)) == json.dumps(form().fingerprint(row))
    assert form().examples(again) == form().examples(row)
    for other in damaged(row):
        if isinstance(other, dict) and form().check(other) is None and form().examples(other) != EXAMPLES[form]:
            assert form().fingerprint(other) != form().fingerprint(row)


@pytest.mark.parametrize(("raw", "tokens"), [
    ("Costs £20-25, or £20-£25.", "Costs £ 20 - 25 , or £ 20- £ 25 ."),
    ("It isn't 'cheap'; the kids' menu is.", "It isn 't ' cheap ' ; the kids ' menu is ."),
    ("Rated 5 out of 5. it is near St. Mary's...", "Rated 5 out of 5. it is near St. Mary 's ..."),
    ("It is $1,000.50.", "It is $ 1,000.50 ."), ("low,but  good.\n", "low , but good ."),
    ("'Inn' is 5,", "'Inn ' is 5,"),
])
def test_e2e_tokens(raw: str, tokens: str) -> None:
    assert tokenise(raw) == tokens == tokenise(tokens)


@needs_data
@pytest.mark.parametrize(("split", "official", "count", "stay"), [("train", "train", 42061, 42049),
                                                                  ("validation", "valid", 4672, 4672)])
def test_e2e_is_the_official_file_line_by_line(split: str, official: str, count: int, stay: int) -> None:
    """In its order too. The 12 texts that a second pass would change have "d 'oeuvre", which then reads as a quote."""
    text = gzip.decompress((SHARED / "e2e_nlg" / "lora_format" / f"{official}.txt.gz").read_bytes()).decode()
    lines = [tuple(line.strip().split("||")) for line in text.splitlines()]
    assert pairs(E2E(), read(f"e2e_nlg/{split}")) == lines and len(lines) == count
    again = lines if split == "validation" else [line for line in lines if "'" in line[1]]   # to save seconds
    changed = [completion for _, completion in again if tokenise(completion) != completion]
    assert all("hors d 'oeuvre" in completion for completion in changed) and len(lines) - len(changed) == stay


@needs_data
def test_e2e_takes_every_test_input() -> None:
    rows = [row | {"human_reference": ""} for row in read("e2e_nlg/test_inputs")]
    assert len({context for context, _ in pairs(E2E(), rows)}) == 630


def official_webnlg(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The same rows as the official repository keeps them."""
    def triples(strings: list[str]) -> list[dict[str, str]]:
        return [dict(zip(("subject", "property", "object"), each.split(" | "), strict=True)) for each in strings]

    return {"entries": [{str(number): {
        "category": row["category"], "dbpedialinks": [], "links": [], "shape": "NA", "shape_type": "NA",
        "size": str(row["size"]), "xml_id": row["eid"],
        "lexicalisations": [dict(zip(("comment", "xml_id", "lex", "lang"), each, strict=True))
                            for each in zip(*row["lex"].values(), strict=True)],
        "modifiedtripleset": triples(row["modified_triple_sets"]["mtriple_set"][0]),
        "originaltriplesets": {"originaltripleset": [
            triples(each) for each in row["original_triple_sets"]["otriple_set"]]},
    }} for number, row in enumerate(rows, 1)]}


@needs_data
@pytest.mark.parametrize(("split", "blob", "texts", "silent"), [
    ("train", "461766d1fe902bd659b821a03f49310c22403686", 18025, 5),
    ("validation", "180f096ff49a7e597dd7c507ea0c5441e839b770", 2258, 1)])
def test_webnlg_is_what_the_official_files_give(split: str, blob: str, texts: int, silent: int) -> None:
    """blob: the git ids of microsoft/LoRA's train.json and dev.json."""
    rows = read(f"web_nlg/webnlg_challenge_2017/{split}")
    official = official_webnlg(rows)
    written = json.dumps(official, indent=4, ensure_ascii=False, sort_keys=True).encode()
    assert hashlib.sha1(b"blob %d\0" % len(written) + written).hexdigest() == blob
    wanted = []
    for number, entry in enumerate(official["entries"], 1):
        context = " | ".join(f"{each['subject']} : {each['property']} : {each['object']}"
                             for each in entry[str(number)]["modifiedtripleset"])
        wanted += [(context, each["lex"]) for each in entry[str(number)]["lexicalisations"]
                   if each["comment"] == "good"]
    assert pairs(WebNLG(), rows) == wanted and len(wanted) == texts
    assert sum(not WebNLG().examples(row) for row in rows) == silent
    assert {WebNLG().part(row) for row in rows} == {"seen"}


def test_webnlg_scores_a_test_row_once() -> None:
    row = ROWS[WebNLG]
    assert WebNLG().part(row | {"category": "Athlete"}) == "unseen"
    assert len(WebNLG().examples(row | {"test_category": "testdata_with_lex"})) == 2
    assert WebNLG().examples(row | {"test_category": "testdata_unseen_with_lex"}) == []


@needs_data
def test_dart_has_every_text_and_relations_in_small_letters() -> None:
    rows = read("dart/validation")
    made = pairs(DART(), rows)
    assert len(made) == 6980
    assert made[0] == ("Mars Hill College : joined : 1973 | Mars Hill College : location : Mars Hill, North Carolina",
                       "A school from Mars Hill, North Carolina, joined in 1973.")
    assert [text for _, text in made] == [text for row in rows for text in row["annotations"]["text"]]


@needs_data
def test_samsum_keeps_one_utterance_a_line() -> None:
    rows = read("samsum/train")
    made = pairs(SAMSum(), rows)
    assert len(made) == 14732 and sum(not context.strip() for context, _ in made) == 1
    assert made[0][0] == ("Amanda: I baked  cookies. Do you want some?\nJerry: Sure!\n"
                          "Amanda: I'll bring you tomorrow :-)\n\n")
    for row, (context, _) in zip(rows, made, strict=True):
        assert context.endswith("\n\n") and "\r" not in context
        assert len(context.split("\n")) - 2 == max(1, len(row["dialogue"].strip().split("\n")))


@needs_data
def test_wikisql_and_mnli_take_every_row() -> None:
    rows = read("wikisql/validation")
    assert len(pairs(WikiSQL(), rows)) == 8384
    assert pairs(MNLI(), read("glue/mnli/validation_matched"))[0][1] in ("entailment", "neutral", "contradiction")


def test_a_chat_that_is_null_is_an_empty_one() -> None:
    """The training set has one empty chat; a copy made by CSV has null there. Both are the same data."""
    null, empty = ({"dialogue": said, "summary": "Nobody spoke."} for said in (None, ""))
    form = SAMSum()
    assert form.check(null) is None and form.check({"summary": "x"}) and form.check({"dialogue": 1, "summary": "x"})
    assert form.examples(null) == form.examples(empty) == [("\n\n", "Nobody spoke.")]
    assert form.fingerprint(null) == form.fingerprint(empty)
