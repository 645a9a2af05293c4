"""Whole runs of the tasks whose answers are texts: trained once, decoded in several ways, judged, killed, refused."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TEXTS, Cli, Row, jsonl, ran, text_rows, tree
from safetensors.torch import load_file
from test_cell import timeless
from transformers import AutoTokenizer

from engine import generate, record, weights
from engine.contract import Refused
from engine.door import stand_in
from engine.record import Record
from engine.spec import Decode, decode_of
from tasks.generation import Generation
from tasks.metrics import e2e, generation_eval, rouge

pytestmark = pytest.mark.usefixtures("no_java")
# Learns the texts' most frequent words, and the first epoch is the best: what is best and last must be told apart.
FT = ["method=ft", "recipe=text/ft", "lr=0.02", "epochs=4", "batch=2", "decode.length_penalty=2"]
STEPS = 32
CONF = Path(__file__).parents[1] / "conf"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def words(small_texts: list[str]) -> list[str]:
    return ["task=e2e", *small_texts, *FT]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shelf") / "out"


@pytest.fixture
def trained(cli: Cli, words: list[str], out: Path, shelf: Path) -> Path:
    """The results folder after one run of e2e, decode=paper, which is made once."""
    if not shelf.exists():
        ran(cli, *words)
        shutil.copytree(out, shelf)
    elif not out.exists():
        shutil.copytree(shelf, out)
    return out


def records(out: Path) -> list[tuple[Record, Path]]:
    """Every record with the folder beside it."""
    return [(record.read(path), path.with_suffix("")) for path in sorted(out.glob("runs/*/*/*.json"))]


def by_decode(out: Path) -> dict[str, tuple[Record, Path]]:
    return {done.settings["decode"]["name"]: (done, folder) for done, folder in records(out)}


def hypotheses(folder: Path) -> list[str]:
    return (folder / "hypotheses.txt").read_text().splitlines()


def weights_at(done: Record, out: Path, name: str = "best") -> dict[str, torch.Tensor]:
    return load_file(out / str(done.weights) / f"{name}.safetensors")


def lasting(done: Record) -> dict[str, Any]:
    """What must be the same whenever it is run, the second half of a run included."""
    told = timeless(done)
    decoded = {key: value for key, value in done.outcome["decoded"].items() if "seconds" not in key}
    return told | {"outcome": {**told["outcome"], "trained": None, "decoded": decoded}}


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps of every training from here on."""
    from engine import train

    done, fit = [], train.fit

    def wrapped(*given: Any) -> Any:
        made = fit(*given)
        done.extend(fitted.outcome.steps for fitted in made)
        return made

    monkeypatch.setattr("engine.train.fit", wrapped)
    return done


class Said:
    """Instead of generate(): says what it is given to say; keeps the prompts, and the numbers of the model."""

    def __init__(self, texts: Sequence[str], ended: bool = True) -> None:
        self.texts, self.ended = texts, ended
        self.prompts: list[list[int]] = []
        self.model: dict[str, torch.Tensor] = {}

    def __call__(self, backbone: Any, decode: Decode, prompts: Sequence[list[int]], *_: Any) -> list[generate.Output]:
        self.prompts, self.model = list(prompts), weights.trained(backbone.model)
        return [generate.Output(text, self.ended) for text in self.texts]


def speak(monkeypatch: pytest.MonkeyPatch, texts: Sequence[str], ended: bool = True) -> Said:
    spoken = Said(texts, ended)
    monkeypatch.setattr("engine.generate.generate", spoken)
    return spoken


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_record_says_how_the_texts_came_about(trained: Path) -> None:
    ((done, folder),) = records(trained)
    lines, references = hypotheses(folder), [several for _, several in E2E]
    assert len(lines) == 4 and any(lines) and done.metric == "bleu"
    assert done.value == pytest.approx(e2e.bleu(lines, references)) and done.value > 0
    assert done.value == done.numbers["bleu"] and done.numbers["nist"] > 0
    decode = {"name": "paper", "checkpoint": "best", "search": "official", "beams": 2, "length_penalty": 2,
              "no_repeat": 4, "ban_sees": "completion", "renormalise": True, "ends": ["\n\n"], "max_new": 8}
    assert done.settings["decode"] == decode and done.settings["averaging"] == "tokens"
    assert done.sources["decode.beams"] == "command line" and done.sources["decode.no_repeat"] == "Table 11"
    curve = done.outcome["curve"]
    losses = [entry["val_loss"] for entry in curve]
    assert len(curve) == 4 and len(set(losses)) == 4 and 0 < max(losses) < 6 and done.outcome["steps"] == STEPS
    assert done.outcome["best_epoch"] == 1 + losses.index(min(losses))
    assert done.numbers["val_loss"] == done.outcome["best"]["val_loss"] == min(losses)
    assert done.outcome["last"]["val_loss"] == losses[-1]
    assert (done.data, done.footprint["head"], done.footprint["trainable"]) == ("folder", 0, done.footprint["total"])
    assert not {"trained", "missing"} & done.numbers.keys() and done.outcome["trained"]["started"] == done.started


def test_what_cannot_be_computed_is_named_with_its_reason(trained: Path) -> None:
    ((done, _),) = records(trained)
    decoded = done.outcome["decoded"]
    assert set(decoded["missing"]) == {"meteor", "rouge_l", "cider"} and not decoded["missing"].keys() & done.numbers
    for metric, reason in decoded["missing"].items():
        assert "no java on the PATH" in reason and f"{metric} is missing: {reason}" in done.outcome["notes"]
    assert (decoded["inputs"], decoded["references"]) == (4, 7)
    assert decoded["seconds"] > 0 and decoded["scoring_seconds"] > 0 and 0 <= decoded["cut_off"] <= 4


def test_the_weights_lie_in_a_folder_of_their_own(trained: Path) -> None:
    ((done, folder),) = records(trained)
    shared = trained / str(done.weights)
    assert shared.parent == folder.parent and shared != folder
    assert {file.name for file in shared.iterdir()} == {"best.safetensors", "last.safetensors", "adapter.json",
                                                        "training.json"}
    assert [file.name for file in folder.iterdir()] == ["hypotheses.txt"]
    assert not record.read_all(trained)[1]   # the other JSONs are not taken for records


def test_a_text_run_is_not_done_twice(cli: Cli, words: list[str], trained: Path,
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("engine.models.load")
    before = tree(trained)
    shown = ran(cli, *words)
    assert shown.startswith("already there: e2e") and "bleu" in shown and tree(trained) == before


@pytest.mark.parametrize("decode", ["hf", "official"])
def test_another_way_to_decode_does_not_train_again(cli: Cli, words: list[str], trained: Path, decode: str,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("engine.train.fit")
    before = tree(trained)
    status, shown, err = cli(*words, f"decode={decode}")
    assert status == 0 and "trained before" in shown and "epoch 1/" not in err and "step" not in err
    after = tree(trained)
    assert before.items() <= after.items()
    found = by_decode(trained)
    (paper, first), (done, folder) = found["paper"], found[decode]
    assert done.digest != paper.digest and folder != first and done.weights == paper.weights
    assert done.outcome["curve"] == paper.outcome["curve"] and done.outcome["trained"] == paper.outcome["trained"]
    assert len(hypotheses(folder)) == 4
    which = "last" if decode == "official" else "best"
    assert done.numbers["val_loss"] == paper.outcome[which]["val_loss"]


def test_a_changed_setting_of_decoding_alone_finds_the_weights_and_one_of_training_does_not(
        cli: Cli, words: list[str], trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = counted(monkeypatch)
    ran(cli, *words, "decode.max_new=5", "decode.no_repeat=0")
    assert steps == [] and len({done.weights for done, _ in records(trained)}) == 1
    ran(cli, *words, "decode.max_new=5", "decode.no_repeat=0", "lr=0.03")
    assert steps == [STEPS] and len(records(trained)) == 3 and len({done.weights for done, _ in records(trained)}) == 2


def test_the_epoch_that_is_decoded_is_the_one_that_was_asked_for(cli: Cli, words: list[str], out: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the losses 3, 1, 2, 2 the second is the best: decoded with after training, the last later, from disk."""
    losses = iter([3.0, 1.0, 2.0, 2.0])
    monkeypatch.setattr(Generation, "evaluate", lambda *_: {"val_loss": next(losses)})
    spoken = speak(monkeypatch, ["the bird"] * 4)
    for decode, which, loss in (("paper", "best", 1.0), ("official", "last", 2.0)):
        ran(cli, *words, f"decode={decode}")
        done, _ = by_decode(out)[decode]
        assert done.outcome["best_epoch"] == 2 and done.numbers["val_loss"] == loss
        assert same(spoken.model, weights_at(done, out, which))
        assert any(note.startswith("collapsed: the text is the same") for note in done.outcome["notes"])
        assert done.outcome["decoded"]["cut_off"] == 0 and not any("cut off" in note for note in done.outcome["notes"])
    assert not same(weights_at(done, out, "best"), weights_at(done, out, "last"))


def test_only_decoding_is_refused_before_training_and_works_after(cli: Cli, words: list[str], trained: Path,
                                                                  tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("engine.train.fit")
    nowhere = tmp_path / "nowhere"
    refused(cli, nowhere, [*words, "runtime.train=false", f"runtime.out={nowhere}"], "not trained yet", "runtime.train")
    ran(cli, *words, "decode=hf", "runtime.train=false")
    assert by_decode(trained).keys() == {"paper", "hf"}


def test_a_sweep_over_ways_to_decode_trains_once(cli: Cli, words: list[str], out: Path, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    steps = counted(monkeypatch)
    ran(cli, "-m", *words, "decode=paper,official", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    found = by_decode(out)
    assert steps == [STEPS] and found.keys() == {"paper", "official"}
    assert found["paper"][0].weights == found["official"][0].weights


def test_without_kept_weights_it_trains_again(cli: Cli, words: list[str], out: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    steps = counted(monkeypatch)
    for decode in ("paper", "hf"):
        ran(cli, *words, f"decode={decode}", "runtime.save=none")
    found = by_decode(out)
    assert steps == [STEPS, STEPS] and found["paper"][0].outcome["curve"] == found["hf"][0].outcome["curve"]
    assert all(done.weights is None for done, _ in found.values()) and not list((out / "runs").rglob("*.safetensors"))


def test_the_last_epoch_is_decoded_though_only_the_best_is_kept(cli: Cli, words: list[str], out: Path, trained: Path,
                                                                tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    """It must be trained for anew each time; the numbers are those of a run that kept both."""
    ran(cli, *words, "decode=official")
    steps = counted(monkeypatch)
    alone = [*words, "runtime.save=best", f"runtime.out={tmp_path / 'alone'}"]
    ran(cli, *alone, "decode=official")
    ((done, folder),) = records(tmp_path / "alone")
    assert steps == [STEPS] and (tmp_path / "alone" / str(done.weights) / "best.safetensors").is_file()
    assert not list((tmp_path / "alone").rglob("last.safetensors"))
    both, texts = by_decode(out)["official"]
    assert lasting(done) == lasting(both) and hypotheses(folder) == hypotheses(texts)
    ran(cli, *alone, "decode=official", "decode.beams=1")
    assert steps == [STEPS, STEPS]


def test_killed_while_decoding_it_goes_on_from_the_weights(cli: Cli, words: list[str], out: Path, trained: Path,
                                                           tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    ((undisturbed, known),) = records(trained)
    there = [*words, f"runtime.out={tmp_path / 'again'}"]
    steps = counted(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr("engine.generate.generate", killed)
        status, _, err = cli(*there)
    assert status == 130 and "interrupted" in err and steps == [STEPS] and not records(tmp_path / "again")
    left = {path.name for path in (tmp_path / "again" / "runs").rglob("*") if path.is_file()}
    assert left == {"best.safetensors", "last.safetensors", "adapter.json", "training.json"}
    ran(cli, *there)
    ((done, folder),) = records(tmp_path / "again")
    assert steps == [STEPS] and lasting(done) == lasting(undisturbed) and hypotheses(folder) == hypotheses(known)


def test_force_trains_again_and_gives_the_same(cli: Cli, words: list[str], trained: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    ((before, folder),) = records(trained)
    lines, kept = hypotheses(folder), weights_at(before, trained)
    (folder / "hypotheses.txt").write_text("old")
    steps = counted(monkeypatch)
    ran(cli, *words, "runtime.force=true")
    ((after, _),) = records(trained)
    assert steps == [STEPS] and lasting(after) == lasting(before)
    assert hypotheses(folder) == lines and same(weights_at(after, trained), kept)


def test_micro_batches_change_nothing(cli: Cli, words: list[str], tmp_path: Path) -> None:
    """Though the texts of a batch differ in length, and every token counts the same."""
    made = []
    for micro in ("null", "1"):
        ran(cli, *words, "batch=4", "epochs=2", "eps=1e-3", f"runtime.micro_batch={micro}",
            f"runtime.out={tmp_path / micro}")
        made += records(tmp_path / micro)
    (whole, _), (parts, _) = made
    assert parts.digest == whole.digest and len(parts.outcome["curve"]) == 2
    for one, other in zip(whole.outcome["curve"], parts.outcome["curve"], strict=True):
        assert one["val_loss"] == pytest.approx(other["val_loss"], rel=1e-4)
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


def said(i: int) -> list[str]:
    """The references of an input of the test split; its last has one alone."""
    return [f"the bird {i} likes one dog {i} and a cat {i} .", f"the bird {i} sees one dog {i} ."][:2 - (i == 103)]


def twice(i: int) -> list[str]:
    return [text for one in said(i) for text in (one, f"not {one}")]


TEST = (100, 101, 102, 103)
E2E = [(f"name : the bird {i} | near : one dog {i}", said(i)) for i in TEST]
# Of every task: the inputs and their references, what is answered in the test below, the numbers a hand can count.
JUDGED: dict[str, tuple[list[tuple[str, list[str]]], list[str], dict[str, float]]] = {
    "e2e": (E2E, ["the bird 100 sees one dog 100 .", "a dog", "the bird 102", "one dog 103 and a cat"], {}),
    "webnlg": ([(f"the bird {i} : sees : one dog {i} | the bird {i} : is : a cat {i}", twice(i)) for i in TEST],
               ["the bird 100 sees one dog 100 .", "it sees one dog 101 .", "", "not the bird 103"], {}),
    "dart": ([(f"the bird {i} : sees : one dog {i}", twice(i)) for i in TEST],
             ["the bird 100 sees one dog 100 .", "it sees one dog 101 .", "", "not the bird 103"], {}),
    "wikisql": ([(f"table: bird, dog, cat {i}\nquestion: is it the bird {i}\n",
                  [f"SELECT dog FROM table WHERE bird = {i}"] * 2) for i in (50, 51)],
                ["SELECT dog FROM table WHERE bird = 52", "SELECT dog  FROM table WHERE BIRD = 51"],
                {"logical_form_accuracy": 50}),
    "samsum": ([(f"the bird {i}: is it one dog {i}?\na cat {i}: it is.\n\n", said(i)) for i in TEST],
               ["the bird 100 sees one dog 100 .", "bird 101", "", "the cat"], {}),
    "mnli-lm": ([(f"premise: the bird {i}\nhypothesis: one dog {i}\n", [label] * 2)
                 for i, label in ((50, "contradiction"), (51, "entailment"))],
                ["contradiction", "not entailment"], {"accuracy": 50}),
}


@pytest.mark.parametrize("task", TEXTS)
def test_each_distinct_input_is_decoded_once_and_judged_by_all_its_references(
        cli: Cli, small_texts: list[str], out: Path, decoder: Path, task: str,
        monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, texts, numbers = JUDGED[task]
    spoken = speak(monkeypatch, texts, ended=False)
    shown = ran(cli, f"task={task}", "recipe=text/lora", *small_texts)
    ((done, folder),) = records(out)
    tokenizer = AutoTokenizer.from_pretrained(decoder)
    assert spoken.prompts == [[*tokenizer(context)["input_ids"], tokenizer.eos_token_id] for context, _ in inputs]
    references = [several for _, several in inputs]
    if task == "e2e":
        numbers = e2e.score(texts, references).numbers
    elif task in ("dart", "webnlg"):
        numbers = generation_eval.score(texts, references).numbers
    elif task == "samsum":
        numbers = rouge.score(texts, references).numbers
    assert numbers and {name: done.numbers[name] for name in numbers} == pytest.approx(numbers)
    assert done.value == done.numbers[done.metric] and 0 < done.value < 100
    assert hypotheses(folder) == [" ".join(text.split()) for text in texts]
    decoded = done.outcome["decoded"]
    assert (decoded["inputs"], decoded["references"], decoded["cut_off"]) == (
        len(inputs), sum(map(len, references)), len(inputs))
    assert f"{len(inputs)} of {len(inputs)} texts were cut off at 8 tokens" in done.outcome["notes"]
    assert f"input      {inputs[0][0]}" in shown and f"reference  {references[0][0]}" in shown
    if task == "webnlg":   # Politicians are unseen, food is not: 100 and 102, 101 and 103
        for part, chosen in (("unseen", (0, 2)), ("seen", (1, 3))):
            alone = generation_eval.score([texts[i] for i in chosen], [references[i] for i in chosen])
            assert {key: done.numbers[f"{key}_{part}"] for key in alone.numbers} == pytest.approx(alone.numbers)
            assert f"meteor_{part}" in decoded["missing"]


def shortened(texts: Path, folder: Path, task: str, **splits: list[Row] | None) -> str:
    """data_root= of a copy of one task's data with other rows in some splits, or without them."""
    shutil.copytree(texts / TEXTS[task][0], folder / TEXTS[task][0])
    for split, rows in splits.items():
        path = folder / TEXTS[task][0] / f"{split}.jsonl.gz"
        path.unlink() if rows is None else jsonl(path, rows)
    return f"data_root={folder}"


def test_the_validation_set_can_be_scored_instead(cli: Cli, words: list[str], out: Path, texts: Path, trained: Path,
                                                  tmp_path: Path) -> None:
    """Nothing needs a test set then."""
    ran(cli, *words, "task.scored=validation", shortened(texts, tmp_path / "less", "e2e", test=None))
    found = {done.settings["task"]["scored"]: (done, folder) for done, folder in records(out)}
    assert {key: done.outcome["decoded"]["inputs"] for key, (done, _) in found.items()} == {"test": 4, "validation": 2}
    one, other = (found[key][0] for key in ("test", "validation"))
    assert one.digest != other.digest and one.outcome["curve"] == other.outcome["curve"]
    assert len(hypotheses(found["validation"][1])) == 2


def refused(cli: Cli, out: Path, words: list[str], *says: str) -> None:
    status, _, err = cli(*words)
    assert status == 2 and 1 <= len(err.strip().splitlines()) <= 2 and "Traceback" not in err, err
    assert [part for part in says if part not in err] == [], err
    assert not out.exists()


def test_a_missing_test_split_is_refused_with_a_way_out(cli: Cli, words: list[str], out: Path, texts: Path,
                                                        tmp_path: Path) -> None:
    refused(cli, out, [*words, shortened(texts, tmp_path / "less", "e2e", test=None)], "no test.jsonl.gz",
            "task.scored=validation")




@pytest.mark.parametrize("task", ["webnlg", "e2e"])
def test_a_test_split_without_references_is_refused_before_training(
        cli: Cli, small_texts: list[str], out: Path, texts: Path, tmp_path: Path, task: str,
        monkeypatch: pytest.MonkeyPatch) -> None:
    """As publishers withhold them: without a text, or with an empty one."""
    monkeypatch.delattr("engine.models.load")
    withheld = {"lex": {"comment": [], "text": []}, "human_reference": ""}
    rows = [row | {key: value for key, value in withheld.items() if key in row} for row in text_rows(task, 4, 200)]
    data = shortened(texts, tmp_path / "withheld", task, test=rows)
    refused(cli, out, [f"task={task}", "recipe=text/lora", *small_texts, data], "test", "task.scored=validation")


def test_texts_need_a_decoder_and_labels_no_decoding(cli: Cli, small: list[str], small_texts: list[str], tiny: Path,
                                                     out: Path) -> None:
    encoder = ["task=e2e", *small_texts, "model=encoder", f"model.path={tiny}", "recipe=text/lora"]
    refused(cli, out, encoder, "an encoder cannot write texts", "decoder")
    refused(cli, out, ["task=rte", *small, "decode=greedy", "decode.max_new=8"], "decode", "task=rte", "labels")
    refused(cli, out, ["task=rte", *small, "decode.beams=2"], "decode.beams", "only tasks that answer with texts")


@pytest.mark.parametrize(("changes", "says"), [
    (["averaging=null"], ["averaging", "tokens", "examples"]), (["task.scored=dev"], ["no dev.jsonl.gz"])], ids=str)
def test_a_wrong_setting_of_a_text_run_is_refused(cli: Cli, words: list[str], out: Path, changes: list[str],
                                                  says: list[str]) -> None:
    refused(cli, out, [*words, *changes], *says)


@pytest.mark.parametrize("more", [[], ["decode.beams=2"]], ids=str)
def test_an_unknown_way_to_decode_is_named(cli: Cli, out: Path, more: list[str]) -> None:
    refused(cli, out, ["task=e2e", "decode=greedi", f"runtime.out={out}", *more], "decode=greedi", "greedy")


PLAIN = {"name": "x", "_why": "a comment", "checkpoint": "best", "search": "official", "beams": 1,
         "length_penalty": 1.0, "no_repeat": 0, "ban_sees": "all", "renormalise": False, "ends": [], "max_new": 8}


def decoding(task: str = "e2e", scored: bool = True, texts: Any = None, **changes: Any) -> dict[str, Any]:
    """What of a run's settings decode_of reads."""
    return {"decode": PLAIN | changes, "length": 64, "averaging": "tokens", "scale": {"name": "demo", "_texts": texts},
            "task": {"name": task} | ({"scored": "test"} if scored else {})}


@pytest.mark.parametrize(("key", "bad", "good"), [
    ("beams", (0, 1.5, "x", True, None), (1, 10)), ("max_new", (0, 63, 2.5), (1, 62)), ("no_repeat", (-1, 0.5), (0, 4)),
    ("length_penalty", (-0.1, "x", None), (0, 0.8, 2)), ("checkpoint", ("first", None), ("best", "last")),
    ("search", ("theirs",), ("official", "hf")), ("ban_sees", ("prompt",), ("all", "completion")),
    ("renormalise", ("yes", None), (True, False)), ("ends", ("x", [""], [3], None), ([], ["x", "\n\n"]))])
def test_what_can_be_said_of_decoding(key: str, bad: Sequence[Any], good: Sequence[Any]) -> None:
    for value in good:
        assert getattr(decode_of(decoding(**{key: value})), key) == value
    for value in bad:
        with pytest.raises(Refused, match=rf"^decode\.{key}="):
            decode_of(decoding(**{key: value}))


def test_texts_are_decoded_and_labels_are_not() -> None:
    assert decode_of(decoding(scored=False) | {"decode": None}) is None
    with pytest.raises(Refused, match="task=rte answers with labels: leave it out"):
        decode_of(decoding("rte", scored=False))
    with pytest.raises(Refused, match="task=e2e answers with texts: name one"):
        decode_of(decoding() | {"decode": None})
    assert decode_of(decoding(texts={"e2e": {}})) == decode_of(decoding())
    for task in set(TEXTS) - {"e2e"}:
        with pytest.raises(Refused, match=f"texts are generated for e2e alone; for task={task} give data_root=DIR"):
            decode_of(decoding(task, texts={"e2e": {}}))


def test_special_tokens_stand_around_the_text_while_it_is_decoded_too(cli: Cli, small_texts: list[str], out: Path,
                                                                      decoder: Path,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the vocabulary: l_p in front of the text and l_i behind it, beside a length that leaves them room."""
    asked: list[list[list[int]]] = []
    real = generate.generate
    monkeypatch.setattr("engine.generate.generate", lambda *given: asked.append(given[2]) or real(*given))
    ran(cli, "task=e2e", "method=lora-pe", "recipe=text/lora-pe", *small_texts, "l_p=3", "l_i=2")
    ((done, folder),) = records(out)
    size = len(AutoTokenizer.from_pretrained(decoder))
    for prompt in asked[0]:
        assert [word for word in prompt if word >= size] == [*prompt[:3], *prompt[-2:]]
    assert len(asked[0]) == len(hypotheses(folder)) == 4 and done.footprint["trainable"] > 0
    assert done.settings["l_p"] == 3 and done.numbers["val_loss"] > 0


def test_a_limit_draws_the_same_examples_for_every_seed(cli: Cli, words: list[str],
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    class Seen(Exception):
        pass

    def look(runs: Any, task: Any, splits: Any, *_: Any) -> None:
        one = splits.train
        raise Seen([row["input_ids"][0].tolist() + row["labels"][0].tolist() for row in (
            one.batch([i]) for i in range(len(one)))])

    monkeypatch.setattr("engine.train.fit", look)
    drawn = []
    for changes in (["task.limit=5", "seed=0"], ["task.limit=5", "seed=1"], ["task.limit=99"]):
        with pytest.raises(Seen) as seen:
            cli(*words, *changes)
        drawn.append(seen.value.args[0])
    five, other, every = drawn
    places = [every.index(row) for row in five]
    assert five == other and len(five) == 5 and len(every) == 16
    assert places == sorted(set(places)) and places != [0, 1, 2, 3, 4]   # drawn, not the first


def test_the_demo_makes_its_own_texts_and_takes_the_small_decoder(cli: Cli, out: Path) -> None:
    shown = ran(cli, "task=e2e", "scale=demo", "scale.train=24", "scale.validation=6", "epochs=1", "batch=16",
                "decode.beams=2", "decode.max_new=8", f"runtime.out={out}")
    ((done, folder),) = records(out)
    assert (done.model, done.data, done.scale) == ("gpt2-nano", "synthetic", "demo") and "gpt2-nano" in shown
    assert done.outcome["steps"] == 2 and (out / str(done.weights)).parent == out / "runs" / "demo" / "e2e"
    decoded = done.outcome["decoded"]
    assert decoded["inputs"] == len(hypotheses(folder)) < 6 <= decoded["references"] and all(hypotheses(folder))


def test_the_demo_has_texts_for_e2e_alone(cli: Cli, out: Path) -> None:
    refused(cli, out, ["task=samsum", "scale=demo", f"runtime.out={out}"], "e2e alone", "data_root=DIR")


@pytest.mark.parametrize(("call", "added"), [
    ("task=e2e scale=demo", ["model=gpt2-nano"]), ("scale=demo task=e2e seed=3", ["model=gpt2-nano"]),
    ("task=e2e", []), ("task=e2e scale=paper", []), ("task=e2e scale=demo model=gpt2", []),
    ("task=e2e scale=demo table=demo", []), ("scale=demo", []), ("task=rte scale=demo", []),
    ("task=rte,mnli scale=demo", []), ("task=e2e,e2e scale=demo", ["model=gpt2-nano"]), ("task=x scale=demo", []),
    ("task=e2e,x scale=demo", ["model=gpt2-nano"])])
def test_the_small_decoder_stands_in_where_no_model_is_named(call: str, added: list[str]) -> None:
    assert stand_in(call.split(), CONF / "task") == added


def test_tasks_that_need_different_stand_ins_are_refused(cli: Cli, out: Path) -> None:
    with pytest.raises(Refused, match="task=e2e,rte"):
        stand_in(["task=e2e,rte", "scale=demo"], CONF / "task")
    assert stand_in(["task=e2e,rte", "scale=demo", "model=minilm"], CONF / "task") == []
    refused(cli, out, ["-m", "task=rte,e2e", "scale=demo", f"runtime.out={out}"], "different small models")


def test_a_run_can_start_from_another_texts_record(cli: Cli, words: list[str], no_java: None, out: Path) -> None:
    """The weights of a run with texts lie under its training's name, not under its record's."""
    status, _, err = cli(*words)
    assert status == 0, err
    (first,) = [path for path in (out / "runs").rglob("*-s0-*.json") if path.name != "training.json"]
    status, said, err = cli(*words, "seed=1", f"init_from={first}")
    assert status == 0, err
    assert "started from" in said


def test_a_recorded_run_is_decoded_again_without_training(cli: Cli, words: list[str], no_java: None) -> None:
    status, _, err = cli(*words)
    assert status == 0, err
    status, said, err = cli(*words, "runtime.force=true", "runtime.train=false")
    assert status == 0, err
    assert "trained before" in said and "training examples" not in said
