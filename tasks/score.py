"""`python -m tasks.score`: the paper's scores of generated text in files, as the official scorers print them."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.contract import Numbers, Refused

if TYPE_CHECKING:
    from tasks.metrics import Scores

Lines = list[str]
# what --as names: its module, what its scorer prints where that is not the paper's unit, and how to call the scale
SCORERS: Mapping[str, tuple[str, Mapping[str, float], str]] = {
    "e2e": ("e2e", {"bleu": 0.01, "meteor": 0.01, "rouge_l": 0.01},
            "tuetschek/e2e-metrics: BLEU, METEOR and ROUGE-L from 0 to 1 (the paper prints them x 100)"),
    "webnlg": ("generation_eval", {}, "WebNLG/GenerationEval: BLEU from 0 to 100, METEOR and TER from 0 (TER: lower is "
                                      "better)"),
    "samsum": ("rouge", {}, "the paper's: F1 from 0 to 100 (rouge_score itself prints 0 to 1)"),
}
EPILOG = """references, one file: groups of lines with a blank line between them, the first for the first output (E2E),
or one line for each output and no blank line; several files: a line for each output in each, empty where there is no
further reference (WebNLG). Text is UTF-8; metrics that need a package or Java that is not there are named with what to
install. DART is scored like WebNLG. Exit status 2: the input is wrong."""


def main(words: Sequence[str] | None = None) -> int:
    """Scores the files and prints a table, or JSON; returns the exit status."""
    what = __doc__.partition(": ")[2]
    parser = argparse.ArgumentParser(prog="python -m tasks.score", description=what, epilog=EPILOG)
    parser.add_argument("--references", nargs="+", required=True, metavar="FILE", type=Path)
    parser.add_argument("--hypotheses", required=True, metavar="FILE", type=Path, help="one output a line")
    parser.add_argument("--as", dest="scorer", choices=tuple(SCORERS), default="e2e", help="which scorer (e2e)")
    parser.add_argument("--json", action="store_true", help="print JSON: the same numbers, not rounded")
    said = parser.parse_args(words)
    module, scale, called = SCORERS[said.scorer]
    try:
        outputs = read(said.hypotheses)
        groups = references(said.references, said.hypotheses, len(outputs))
        _note_empty(outputs, said.hypotheses)
        scores: Scores = importlib.import_module(f"tasks.metrics.{module}").score(outputs, groups)
    except Refused as reason:
        print(f"error: {reason}", file=sys.stderr)
        return 2
    numbers = {name: value * scale.get(name, 1) for name, value in scores.numbers.items()}
    counts = {"outputs": len(outputs), "references": sum(map(len, groups))}
    print(_json(numbers, scores, counts, called) if said.json else _table(numbers, scores, counts, called))
    return 0


def read(path: Path) -> Lines:
    r"""The lines of a text file, split at \n alone: a form feed or U+2028 belongs to its line. A byte order mark, \r
    at line ends and a missing last line end are taken. Raises Refused if there is no such file, UTF-8 or line."""
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise Refused(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Refused(f"{path}, line {line:,}: not UTF-8 (byte 0x{data[error.start]:02x})") from None
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    if not lines[-1]:
        lines.pop()
    if not lines:
        raise Refused(f"{path}: no lines in it")
    return lines


def references(paths: Sequence[Path], hypotheses: Path, outputs: int) -> list[Lines]:
    """The references of each output, out of one file or several. Raises Refused naming both counts if they differ."""
    if len(paths) > 1:
        return _columns(paths, hypotheses, outputs)
    lines = read(paths[0])
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise Refused(f"{paths[0]}: no references in it, only blank lines")
    if all(line.strip() for line in lines) and (len(lines) == outputs or outputs > 1):
        groups, kind = [[line] for line in lines], "lines and no blank line, so one reference each"
    else:
        groups, kind = _groups(paths[0], lines), "groups of references"
    if len(groups) != outputs:
        raise _differ(paths[0], f"{len(groups):,} {kind}", hypotheses, outputs)
    return groups


def _groups(path: Path, lines: Lines) -> list[Lines]:
    groups: list[Lines] = [[]]
    for number, line in enumerate(lines, 1):
        if line.strip():
            groups[-1].append(line)
        elif groups[-1]:
            groups.append([])
        else:
            raise Refused(f"{path}, line {number:,}: a group without a reference (a blank line too many)")
    return groups


def _columns(paths: Sequence[Path], hypotheses: Path, outputs: int) -> list[Lines]:
    columns = [read(path) for path in paths]
    for path, lines in zip(paths, columns, strict=True):
        if len(lines) != outputs:
            raise _differ(path, f"{len(lines):,} lines", hypotheses, outputs)
    groups = [[line for line in row if line.strip()] for row in zip(*columns, strict=True)]
    empty = next((number for number, group in enumerate(groups, 1) if not group), None)
    if empty is not None:
        raise Refused(f"line {empty:,} is empty in every one of the {len(paths)} reference files")
    return groups


def _differ(path: Path, has: str, hypotheses: Path, outputs: int) -> Refused:
    return Refused(f"{path} has {has};\n{hypotheses} has {outputs:,} outputs (every line is one, a blank one too)")


def _note_empty(outputs: Lines, path: Path) -> None:
    empty = sum(not line.strip() for line in outputs)
    if empty:
        print(f"note: {path}: {empty:,} of {len(outputs):,} outputs are empty; they count as wrong, as in the official "
              "scorer", file=sys.stderr)


def _json(numbers: Numbers, scores: Scores, counts: Mapping[str, int], scale: str) -> str:
    made: dict[str, Any] = {"scale": scale, **counts, "numbers": numbers, "missing": dict(scores.missing),
                            "seconds": {name: round(value, 3) for name, value in scores.seconds.items()}}
    return json.dumps(made, indent=2)


def _table(numbers: Numbers, scores: Scores, counts: Mapping[str, int], scale: str) -> str:
    rows = [f"scale: {scale}", f"{counts['outputs']:,} outputs, {counts['references']:,} references", ""]
    rows += [f"{name:<14} {value:10.4f} {_seconds(scores, name)}".rstrip() for name, value in numbers.items()]
    rows += [f"{name:<14} {'':>10} {_seconds(scores, name)}" for name in scores.seconds
             if name not in numbers and name not in scores.missing]
    rows.append(f"{'in all':<14} {'':>10} {sum(scores.seconds.values()):8.1f} s")
    for reason in dict.fromkeys(scores.missing.values()):
        names = [name for name, other in scores.missing.items() if other == reason]
        rows.append(f"missing: {', '.join(names)}: {reason}")
    return "\n".join(rows)


def _seconds(scores: Scores, name: str) -> str:
    return f"{scores.seconds[name]:8.1f} s" if name in scores.seconds else ""


if __name__ == "__main__":
    sys.exit(main())
