"""Scores that need Java: the official numbers, the same tokens as pycocoevalcap's, and a JVM that fails or hangs."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_scores import OUTPUTS, SEVERAL, example, groups, needs_oracles, outputs, systems

from tasks.metrics import Unavailable, e2e, generation_eval, java

pytest.importorskip("sacrebleu")
pytest.importorskip("pycocoevalcap")
pytestmark = pytest.mark.skipif(not shutil.which("java"), reason="there is no Java")
# METEOR, ROUGE-L, CIDEr of each of the hard outputs; CIDEr's weights are those of the set
EACH = [(.4995, .7729, 3.7628), (.4843, .5552, 3.5994), (.4364, .8342, 5.3584), (.4790, .7801, 3.7496),
        (.5161, .9491, 3.1721)]


@pytest.fixture(scope="module")
def jvm() -> Iterator[java.Meteor]:
    """One METEOR for all tests: it takes 5 to 20 seconds to start."""
    with java.Meteor() as started:
        yield started


@pytest.fixture
def shared(jvm: java.Meteor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the scorers use it."""
    monkeypatch.setattr(java, "Meteor", lambda: contextlib.nullcontext(jvm))


def published(file: str, found: dict[str, float], *names: str) -> bool:
    """Whether these numbers are the published ones to four decimals."""
    unit = {"meteor": 100, "rouge_l": 100, "bleu": 100}
    return all(round(found[name] / unit.get(name, 1), 4) == systems()[file][name] for name in names)


@needs_oracles
@pytest.mark.slow
@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("file", ["system_01.txt", "system_05.txt", "system_09.txt", "system_13.txt", "system_16.txt",
                                  "system_19.txt"])
def test_real_systems_have_their_published_scores(file: str) -> None:
    made = e2e.score(outputs(file), groups())
    assert made.missing == {}
    assert published(file, made.numbers, "bleu", "meteor", "rouge_l", "cider")


@needs_oracles
def test_without_meteor_a_real_system_has_its_other_published_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java.Meteor, "__enter__", failing)
    made = e2e.score(outputs("system_01.txt"), groups())
    assert made.missing == {"meteor": "no heap"}
    assert published("system_01.txt", made.numbers, "bleu", "rouge_l", "cider")


def failing(_: java.Meteor) -> java.Meteor:
    raise Unavailable("no heap")


@needs_oracles
@pytest.mark.usefixtures("shared")
def test_the_official_example() -> None:
    numbers = e2e.score(*example()).numbers
    assert numbers == pytest.approx({"bleu": 72.0293, "nist": 7.821152, "meteor": 48.0072, "rouge_l": 79.0953,
                                     "cider": 2.303943}, abs=5e-5)


@pytest.mark.usefixtures("shared")
def test_hard_punctuation() -> None:
    numbers = e2e.score(OUTPUTS, SEVERAL).numbers
    assert numbers == pytest.approx({"bleu": 55.3407, "nist": 5.968371, "meteor": 48.5803, "rouge_l": 77.8280,
                                     "cider": 3.928468}, abs=5e-5)


def test_each_output_has_its_official_scores(jvm: java.Meteor) -> None:
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    made, known = e2e.tokenized(OUTPUTS, SEVERAL)
    whole = dict(enumerate(known)), {place: [text] for place, text in enumerate(made)}
    found = zip(jvm.score(made, known)[1], Rouge().compute_score(*whole)[1], Cider().compute_score(*whole)[1],
                strict=True)
    assert [tuple(round(float(number), 4) for number in numbers) for numbers in found] == EACH


@pytest.mark.usefixtures("shared")
def test_order_does_not_matter() -> None:
    order = [3, 0, 4, 2, 1]
    turned = [OUTPUTS[place] for place in order], [SEVERAL[place][::-1] for place in order]
    for measure in (e2e.score, generation_eval.score):
        assert measure(*turned).numbers == pytest.approx(measure(OUTPUTS, SEVERAL).numbers, rel=1e-12)


@pytest.mark.usefixtures("shared")
def test_empty_and_strange_outputs_count_with_little_and_shift_no_other() -> None:
    strange = ["", "a\u2028b", "x ||| y", "\x0c...", "\x85\x0b\ud800"]
    alone = e2e.score(["the cat sat on a mat"] * 3, [["the cat sat on a mat"]] * 3)
    mixed = e2e.score([*strange, "the cat sat on a mat"], [["the cat sat on a mat"]] * 6)
    assert mixed.missing == {}
    assert alone.numbers["rouge_l"] == 100
    assert 100 / 6 <= mixed.numbers["rouge_l"] < 25   # the "a" of the second
    nothing = e2e.score(["", ""], [["a b"], ["c"]]).numbers
    assert nothing == {"bleu": 0, "nist": 0, "meteor": 0, "rouge_l": 0, "cider": 0}


@pytest.mark.usefixtures("shared")
def test_meteor_of_webnlg() -> None:
    pytest.importorskip("nltk")
    numbers = generation_eval.score(OUTPUTS, SEVERAL).numbers
    assert list(numbers) == ["bleu", "meteor", "ter"]
    assert 0 < numbers["meteor"] < 1 and 0 < numbers["ter"] < 1


@pytest.mark.slow
def test_meteor_is_that_of_its_own_command_line(tmp_path: Path, jvm: java.Meteor) -> None:
    """As GenerationEval calls it: files, as many references for each by repeating the first."""
    pytest.importorskip("nltk")
    made = list(map(" ".join, generation_eval.tokenized(list(map(generation_eval.plain, OUTPUTS)))))
    known = [list(map(" ".join, generation_eval.tokenized(list(map(generation_eval.plain, group)))))
             for group in SEVERAL]
    (tmp_path / "made").write_text("\n".join(made), encoding="utf-8")
    (tmp_path / "known").write_text("\n".join(text for group in known for text in [*group, *[group[0]] * 3][:4]),
                                    encoding="utf-8")
    command = [*java._java(), "-jar", java._file("meteor/meteor-1.5.jar"), str(tmp_path / "made"),
               str(tmp_path / "known"), "-l", "en", "-norm", "-r", "4"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert float(said.split()[-1]) == jvm.score(made, known)[0]


@needs_oracles
def test_tokens_are_pycocoevalcaps() -> None:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    if not os.access(sys.modules[PTBTokenizer.__module__].__file__ or "", os.W_OK):
        pytest.skip("pycocoevalcap's tokeniser writes into its own folder")
    lines = [text for group in [*groups(), *SEVERAL, *example()[1]] for text in group]
    lines += [*OUTPUTS, *example()[0], *(text for file in systems() for text in outputs(file)), "", " ", "a  b\t c", ""]
    theirs = PTBTokenizer().tokenize({place: [{"caption": text}] for place, text in enumerate(lines)})
    assert java.tokens(lines) == [theirs[place][0] for place in range(len(lines))]


def fake(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Another `java`, the only one on the PATH beside the shell's own programs."""
    program = folder / "java"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize(("script", "said"), [
    ("echo 'Exception: no heap' >&2; echo '  at x' >&2; exit 3", "ended with 3: Exception: no heap"),
    ("echo 'Error occurred during initialization'; exit 1", "Error occurred during initialization"),
    ("exit 0", ""), ("kill -9 $$", "-9"), ("echo", ""), ("cat", "SCORE"), ("exec 1>&-; exit 5", "5"),
])
def test_a_jvm_that_fails_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str) -> None:
    fake(tmp_path, monkeypatch, script)
    many = ["a cat " * 20] * 2000   # more than a pipe holds
    with pytest.raises(Unavailable) as failed, java.Meteor() as jvm:
        jvm.score(many, [[text] for text in many])
    assert "\n" not in str(failed.value) and said in str(failed.value)
    if script != "cat":
        made = e2e.score(OUTPUTS, SEVERAL)
        assert list(made.numbers) == ["bleu", "nist"] and list(made.missing) == ["meteor", "rouge_l", "cider"]


def test_a_jvm_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(tmp_path, monkeypatch, "exec sleep 60")
    monkeypatch.setattr(java, "PATIENCE", 0.5)
    start = time.monotonic()
    with pytest.raises(Unavailable, match=r"did not end within 0\.5 s"):
        java.tokens(["a"])
    with pytest.raises(Unavailable, match=r"did not end within 0\.5 s"), java.Meteor() as jvm:
        jvm.score(["a"], [["a"]])
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("failing", [False, True])
def test_no_jvm_outlives_its_block(failing: bool) -> None:
    with contextlib.suppress(ZeroDivisionError), java.Meteor() as jvm:
        assert jvm._jvm.poll() is None
        if failing:
            _ = 1 / 0
    assert jvm._jvm.poll() is not None
