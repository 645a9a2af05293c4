"""Which cells of a sweep can train at once on one frozen base (runtime.together), how a bundle of them is launched as
one command line, and how each of them ended."""

from __future__ import annotations

import hashlib
import json
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import work
from engine.contract import Elsewhere, Refused

if TYPE_CHECKING:
    from engine.plan import Planned
    from engine.resolve import Cell

MOST = 10  # runs at once with runtime.together=true; what does not fit in memory is divided further where it trains
FREE = ("seed", "lr", "warmup", "schedule", "weight_decay", "decay_on", "clip", "betas", "eps", "alpha", "r",
        "init_from")  # what runs that train at once have each for themselves
OWN = ("parent", "place", "beside", "together")  # of runtime


def most(together: object) -> int:
    """At most so many runs at once: runtime.together is false (1), true or a number. Raises Refused."""
    if isinstance(together, bool):
        return MOST if together else 1
    if not isinstance(together, int) or together < 1:
        raise Refused(f"runtime.together={together}: say true (runs that can share their base train at once), false or "
                      "a whole number: so many at most")
    return together


def check_place(launcher: Mapping[str, Any], world: int) -> None:
    """Refuses runtime.together where a run has several processes. launcher: its settings; world: processes now."""
    number = max(world, (launcher.get("tasks_per_node") or 1) * (launcher.get("nodes") or 1))
    if number > 1:
        raise Refused(f"runtime.together: here {number} processes train one run, and runs that train at once share one "
                      "process\nleave one of the two out")


def key(settings: Mapping[str, Any]) -> str:
    """What cells have in common that can train at once: all settings, but for what each run has for itself. A rank for
    each target is not such a thing, one rank for all is."""
    def shared(node: Mapping[str, Any]) -> dict[str, Any]:
        return {name: shared(value) if isinstance(value, Mapping) else value for name, value in node.items()
                if not (name == "alpha" or (name == "r" and _number(value)))}

    said = {name: value for name, value in settings.items()
            if name not in (*FREE, "method", "runtime") and not name.startswith("_")}
    said["method"] = shared(settings["method"])
    said["runtime"] = {name: value for name, value in settings["runtime"].items() if name not in OWN}
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:10]


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def alone(cell: Cell, folder: Path) -> str:
    """Why a cell can train with no other; empty where it can. folder: of the base weights, if they are there."""
    if not getattr(cell.method, "frozen", True):
        return f"method={cell.method.name}: every weight trains, so its runs have no base to share"
    if cell.recipe.precision == "fp16":
        return "precision=fp16: its loss scale belongs to one run; bf16 or fp32 can"
    config: Mapping[str, Any] = cell.model.config or {}
    if (folder / "config.json").is_file():
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if str(config.get("model_type")).startswith("deberta"):
        return f"model={cell.model.name}: DeBERTa's relative positions are one run's, they have no batch axis"
    return ""


def told(plan: Sequence[Planned], at_most: int) -> str:
    """Which cells of a plan will train at once and which one by one, in a line. Raises Refused where none can."""
    groups = Counter(cell.kin for cell in plan if cell.kin is not None)
    whys = Counter(cell.alone for cell in plan if cell.alone)
    count = sum(size for size in groups.values() if size > 1)
    if not count:
        why = "; ".join(whys) or f"no two of its cells differ in {', '.join(FREE)} alone"
        raise Refused(f"runtime.together: none of these cells can train with another\n{why}; leave runtime.together "
                      "out")
    single = len(plan) - count - whys.total()
    parts = [f"{number} cells ({why})" for why, number in whys.items()]
    parts += [f"{single} cell{'s' * (single != 1)} that no other is like"] if single else []
    return f"{count} cells train together, at most {min(at_most, max(groups.values()))} at once" + (
        f"; one by one: {'; '.join(parts)}" if parts else "")


def names(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the lines of each of these runs begin with: what sets it apart from the others."""
    apart = [name for name in FREE if len({json.dumps(one.get(name)) for one in settings}) > 1]
    return [" ".join(f"{name}={one.get(name)}" for name in apart) + ": " if apart else "" for one in settings]


def bundles(cells: Sequence[Planned], at_most: int) -> list[list[Planned]]:
    """The cells as they are to be launched, in the order of their firsts: those of one kin in parts of about one size,
    at most so many each."""
    groups: dict[str, list[Planned]] = {}
    for number, cell in enumerate(cells):
        groups.setdefault(cell.kin or f"alone {number}", []).append(cell)
    made = []
    for group in groups.values():
        parts = -(-len(group) // at_most)
        cuts = [len(group) * part // parts for part in range(parts + 1)]
        made += [group[begin:end] for begin, end in zip(cuts, cuts[1:], strict=False)]
    return made


def line(lines: Sequence[Sequence[str]]) -> list[str]:
    """The command line of a bundle from those of its cells: the first's, and for each other the words in which it
    differs (~key: it has no such word)."""
    first, *others = lines
    if not others:
        return [*first]
    keys = {word.partition("=")[0] for word in first}
    entries = []
    for words in others:
        gone = keys - {word.partition("=")[0] for word in words}
        entries.append([*(word for word in words if word not in first), *(f"~{name}" for name in sorted(gone))])
    quoted = ",".join(f"[{','.join(map(_quoted, entry))}]" for entry in entries)
    return [*first, f"runtime.beside=[{quoted}]"]


def _quoted(word: str) -> str:
    """As Hydra reads it: a quote inside and the backslashes in front of it, or of the last one, have one more each."""
    parts = [part + "\\" * (len(part) - len(part.rstrip("\\"))) for part in word.split("'")]
    return "'" + r"\'".join(parts) + "'"


def beside(words: Sequence[str], entries: Sequence[Sequence[str]]) -> list[list[str]]:
    """The command lines of a bundle's other cells, from its first's and runtime.beside: line() undone."""
    own = [word for word in words if not word.startswith("runtime.beside=")]
    made = []
    for entry in entries:
        said = {word.partition("=")[0]: word for word in entry}
        kept = [said.pop(name, word) for word in own if f"~{(name := word.partition('=')[0])}" not in said]
        made.append([*kept, *(word for word in said.values() if not word.startswith("~"))])
    return made


@dataclass(frozen=True)
class End:
    """How a cell ended that gave no record: the error in a line and as a traceback; or another process has it."""

    error: str
    text: str
    elsewhere: bool


def end(error: BaseException) -> End:
    """An exception as words, which every process understands."""
    elsewhere = isinstance(error, Elsewhere)
    return End(str(error) if elsewhere else work.said(error), "".join(traceback.format_exception(error)), elsewhere)


class Partly(Exception):
    """Some cells of a bundle gave no record. ends: how these ended, by their places in the bundle; the others are
    done."""

    def __init__(self, ends: Mapping[int, End]) -> None:
        super().__init__(dict(ends))
        self.ends = dict(ends)

    def __str__(self) -> str:
        return "; ".join(f"{place + 1}: {one.error}" for place, one in self.ends.items())


def checked(results: Sequence[Path | Exception]) -> list[Path]:
    """The records of a bundle's cells. Raises Partly when one of them gave none."""
    ends = {place: end(error) for place, error in enumerate(results) if isinstance(error, Exception)}
    if ends:
        raise Partly(ends)
    return [each for each in results if isinstance(each, Path)]


def ends(size: int, error: BaseException | None) -> list[End | None]:
    """How each cell of a line of so many cells ended, by what the line raised; None: well, or without a word."""
    if isinstance(error, Partly):
        return [error.ends.get(place) for place in range(size)]
    return [None if error is None else end(error)] * size
