"""`python -m tasks.score`: files in, a table or JSON out; a wrong file is one clear error and exit status 2."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from test_scores import OUTPUTS, SEVERAL, SHARED, needs_oracles

from engine.contract import Refused
from tasks import score

pytest.importorskip("sacrebleu")
Answer = tuple[int, str, str]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def blocks() -> str:
    return "\n\n".join("\n".join(group) for group in SEVERAL) + "\n"


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> object:
    """call(words…) in this process, without Java: (exit status, stdout, stderr)."""
    monkeypatch.setenv("PATH", "")

    def answer(*words: object) -> Answer:
        capsys.readouterr()
        status = score.main([str(word) for word in words])
        return (status, *capsys.readouterr())

    return answer


def run(*words: object, **environment: str) -> Answer:
    """The command itself."""
    done = subprocess.run([sys.executable, "-m", "tasks.score", *map(str, words)], cwd=ROOT, capture_output=True,
                          text=True, env=os.environ | environment)
    return done.returncode, done.stdout, done.stderr


def test_the_command_prints_a_table(tmp_path: Path) -> None:
    status, said, errors = run("--references", write(tmp_path / "r", blocks()), "--hypotheses",
                               write(tmp_path / "h", "\n".join(OUTPUTS)), PATH="")
    assert (status, errors) == (0, "")
    assert "e2e-metrics" in said and "5 outputs, 12 references" in said
    rows = {line.split()[0]: line.split() for line in said.splitlines() if line}
    assert rows["bleu"][1] == "0.5534" and rows["nist"][1] == "5.9684"
    assert rows["bleu"][3] == "s" and "missing: meteor, rouge_l, cider: no java on the PATH; install" in said


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = ("import sys; from tasks import score\ntry: score.main(['--help'])\nexcept SystemExit: pass\n"
            "print(sorted({'sacrebleu', 'nltk', 'numpy', 'torch', 'pycocoevalcap'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: python -m tasks.score") and done.stdout.endswith("[]\n")


def test_importing_the_scorers_loads_nothing_heavy() -> None:
    code = ("import sys; from tasks.metrics import e2e, generation_eval, java, nist, rouge\n"
            "print(sorted({'sacrebleu', 'nltk', 'numpy', 'torch', 'pycocoevalcap', 'rouge_score'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@needs_oracles
@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("java"), reason="there is no Java")
def test_the_command_scores_the_official_example() -> None:
    pytest.importorskip("pycocoevalcap")
    folder = SHARED / "oracles" / "e2e_example"
    status, said, _ = run("--references", folder / "references.txt", "--hypotheses", folder / "outputs.txt", "--json",
                          LC_ALL="C")
    assert status == 0
    assert {name: round(value, 4) for name, value in json.loads(said)["numbers"].items()} == {
        "bleu": 0.7203, "nist": 7.8212, "meteor": 0.4801, "rouge_l": 0.7910, "cider": 2.3039}


def test_the_three_formats_and_two_systems_of_line_ends_give_the_same(tmp_path: Path, call: object) -> None:
    made = write(tmp_path / "h", "\n".join(OUTPUTS) + "\n")
    columns = [write(tmp_path / f"r{place}", "".join((group[place] if place < len(group) else "") + "\n"
                                                     for group in SEVERAL)) for place in range(4)]
    several = [call("--references", *paths, "--hypotheses", path, "--json") for paths, path in (   # type: ignore[operator]
        ([write(tmp_path / "r", blocks())], made), (columns, made),
        ([write(tmp_path / "w", b"\xef\xbb\xbf" + blocks().replace("\n", "\r\n").encode() + b"\r\n\r\n")],
         write(tmp_path / "v", b"\xef\xbb\xbf" + "\r\n".join(OUTPUTS).encode())))]
    assert {(status, errors) for status, _, errors in several} == {(0, "")}
    first, *others = [{key: value for key, value in json.loads(said).items() if key != "seconds"}
                      for _, said, _ in several]
    assert others == [first, first] and first["references"] == 12 and set(first["missing"]) == {
        "meteor", "rouge_l", "cider"}


def test_one_reference_a_line(tmp_path: Path) -> None:
    path = write(tmp_path / "r", "a\nb\nc\n")
    assert score.references([path], tmp_path / "h", 3) == [["a"], ["b"], ["c"]]
    assert score.references([path], tmp_path / "h", 1) == [["a", "b", "c"]]


def test_only_a_newline_ends_a_line(tmp_path: Path) -> None:
    text = "a\u2028b\x0cc\x85d\x1ce\rf"
    assert score.read(write(tmp_path / "h", f"{text}\n\n{text}")) == [text, "", text]


def test_empty_outputs_are_scored_and_noted(tmp_path: Path, call: object) -> None:
    status, said, errors = call("--references", write(tmp_path / "r", "a b\nc\n"), "--hypotheses",   # type: ignore[operator]
                                write(tmp_path / "h", "\n \n"), "--json")
    assert status == 0 and json.loads(said)["numbers"] == {"bleu": 0, "nist": 0}
    assert "2 of 2 outputs are empty" in errors


def test_summaries_and_webnlg(tmp_path: Path, call: object) -> None:
    files = ("--references", write(tmp_path / "r", "the cat sat down\n"), "--hypotheses",
             write(tmp_path / "h", "The cat sat down"))
    for scorer, module, numbers in (("samsum", "rouge_score", {"rouge1": 100, "rouge2": 100, "rougeL": 100}),
                                    ("webnlg", "nltk", {"bleu": 100, "ter": 0})):
        pytest.importorskip(module)
        status, said, _ = call(*files, "--as", scorer, "--json")   # type: ignore[operator]
        assert status == 0 and json.loads(said)["numbers"] == pytest.approx(numbers)


@pytest.mark.parametrize(("references", "hypotheses", "said"), [
    (None, "a\n", "r: No such file"), ("a\n", None, "h: No such file"), ("", "a\n", "r: no lines"),
    ("a\n", "", "h: no lines"), ("\n\n", "a\n", "r: no references"), (b"a\nb\xff\n", "a\nb\n", "r, line 2: not UTF-8"),
    ("a\n\nb\n", "x\n", "r has 2 groups of references;\n"), ("a\n\nb\n", "x\n", "h has 1 outputs"),
    ("a\nb\nc\n", "x\ny\n", "r has 3 lines and no blank line"), ("a\n\n\nb\n", "x\ny\n", "r, line 3: a group without"),
    ("\na\n\nb\n", "x\ny\n", "r, line 1: a group without"), ("a\n\nb\n", "x\ny\n\n", "h has 3 outputs"),
])
def test_a_wrong_file_is_refused(tmp_path: Path, call: object, references: str | bytes | None, hypotheses: str | None,
                                 said: str) -> None:
    for name, content in (("r", references), ("h", hypotheses)):
        if content is not None:
            write(tmp_path / name, content)
    status, out, errors = call("--references", tmp_path / "r", "--hypotheses", tmp_path / "h")   # type: ignore[operator]
    assert (status, out) == (2, "")
    assert said in errors and errors.startswith("error: ") and len(errors.splitlines()) <= 2


def test_wrong_columns_are_refused(tmp_path: Path) -> None:
    paths = [write(tmp_path / "r0", "a\n\n"), write(tmp_path / "r1", "b\n\n")]
    with pytest.raises(Refused, match="line 2 is empty in every one of the 2"):
        score.references(paths, tmp_path / "h", 2)
    with pytest.raises(Refused, match="r0 has 2 lines;\n.*h has 3 outputs"):
        score.references(paths, tmp_path / "h", 3)
    assert run("--references", paths[0], "--hypotheses", tmp_path / "no")[0] == 2


def test_a_folder_is_no_file(tmp_path: Path, call: object) -> None:
    assert call("--references", tmp_path, "--hypotheses", tmp_path)[::2] == (   # type: ignore[operator]
        2, f"error: {tmp_path}: Is a directory\n")
