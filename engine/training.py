"""A cell's training, now or before: its weights on disk, and what training gave, for the record and for decoding."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine import hold, record, work
from engine.at_once import Steps, Wanted
from engine.contract import Elsewhere, Refused
from engine.files import whole_text
from engine.processes import first
from engine.resolve import Cell, Resolved
from engine.spec import Recipe
from engine.stop import Stop
from engine.words import main_process

BEFORE = "training.json"  # beside the weights: how they came about; only runs with texts leave it


@dataclass(frozen=True)
class Trained:
    """What training gave, now or in an earlier run that differs in decoding alone."""

    outcome: dict[str, Any]
    tensors: dict[str, Any]  # those that are decoded with, where the model does not have them yet
    kept: bool  # whether the weights are on disk
    started: str | None  # when it began, if in an earlier piece of this run


@dataclass(frozen=True)
class Built:
    """A model that is ready to be trained, and how."""

    backbone: Any
    special: Any
    recipe: Recipe  # its precision settled
    about: dict[str, Any]  # what the record says of where and when
    begun: str  # from which weights it starts, in words, if not from the base model's


@dataclass(frozen=True)
class Run:
    """A cell on its way: what is asked for, what it stands on, who listens, who has it."""

    cell: Cell
    at: Resolved
    built: Built
    report: Callable[[dict[str, Any]], None]
    say: Callable[[str], None]
    held: hold.Held
    stop: Stop
    until: ExitStack  # what is held until the record is there
    name: str  # what its lines begin with, where several train at once
    leads: bool  # the first of them, which says what is true of all


def trained(run: Run) -> Steps[Trained]:
    """Trains, and puts the weights on disk before anything is decoded; or finds them there.

    Cells that differ in decoding alone share a training: whoever comes first has it, and the others are Elsewhere.
    """
    cell, at, runtime = run.cell, run.at, run.cell.settings["runtime"]
    forced = runtime["force"] and runtime["train"]
    anew = forced and not first(lambda: hold.goes_on(cell.out, at.path), at.device)
    found = _found(run, forced)
    if found is not None:
        return found
    if cell.decode is None:
        return (yield from _train(run, at.path, run.held, anew))
    own = at.kept.with_name(f"{at.kept.name}.json")
    with ExitStack() as stack:
        held = stack.enter_context(hold.claimed(cell.out, own, at.device))
        found = _found(run, forced)
        if found is not None:
            return found
        run.stop.lost = lambda: held.lost or run.held.lost
        made = yield from _train(run, own, held, anew)
        run.stop.lost = lambda: run.held.lost
        if not made.kept:  # its checkpoint is all there is of it until the record is written
            run.until.enter_context(stack.pop_all())
    return made


def check_trained(cell: Cell, at: Resolved) -> None:
    """Refuses runtime.train=false where there is nothing to decode with."""
    if not cell.settings["runtime"]["train"] and not ((at.kept / BEFORE).is_file() and _decoded(cell, at).is_file()):
        raise Refused(f"runtime.train=false: not trained yet, or {_decoded(cell, at)} is gone\n"
                      "leave runtime.train out")


def _decoded(cell: Cell, at: Resolved) -> Path:
    return at.kept / f"{cell.decode.checkpoint if cell.decode else 'best'}.safetensors"


def _found(run: Run, forced: bool) -> Trained | None:
    """The training that was done before, its weights put into the model."""
    from engine import weights

    before, decoded = run.at.kept / BEFORE, _decoded(run.cell, run.at)

    def there() -> bool:
        new = not forced or hold.replacing(run.cell.out, run.at.path)
        return before.is_file() and decoded.is_file() and new

    if not first(there, run.at.device):
        return None
    try:
        said = json.loads(before.read_text(encoding="utf-8"))
        run.say(f"trained before, on {said['trained']['started'][:10]}: "
                f"{weights.load(run.built.backbone, decoded, False)}")
    except (ValueError, KeyError) as error:
        raise Refused(f"{before}: not whole ({error}); delete it to train again") from None
    return Trained(said, {}, True, None)


def _train(run: Run, own: Path, held: hold.Held, anew: bool) -> Steps[Trained]:
    """own: what the training's work folder is named by."""
    from engine.checkpoint import Checkpoints
    from engine.member import Asked

    cell, at, runtime = run.cell, run.at, run.cell.settings["runtime"]
    commit = f"{run.built.about['commit']}{' (changed)' if run.built.about['dirty'] else ''}"
    checkpoints = Checkpoints(work.folder_of(cell.out, own), own.stem, runtime["checkpoint"], commit)
    if anew and main_process():
        checkpoints.clear()
        hold.force(cell.out, at.path)
    fitted = yield Wanted(Asked(run.built.backbone, run.built.recipe, at.settings["seed"], run.report, checkpoints,
                                run.stop, held.progress, run.name), run)
    outcome, kept = asdict(fitted.outcome), False
    started = fitted.started if fitted.outcome.resumed else None
    if cell.decode is not None:
        outcome["trained"] = run.built.about | ({"started": started} if started else {})
    still_ours(run.stop, at.device)
    if main_process() and runtime["save"] != "none":
        hold.aside(cell.out, at.path)
        last = fitted.last if runtime["save"] == "both" else {}
        kept = attempt(lambda: _keep(run, fitted.best, last, outcome), "the weights were not kept")
    tensors = fitted.last if cell.decode and cell.decode.checkpoint == "last" else fitted.best
    return Trained(outcome, tensors, kept, started)


def still_ours(stop: Stop, device: Any) -> None:
    """Raises Elsewhere, in all processes, when another run has taken the cell over: nothing more may be written."""
    def check() -> None:
        lost = stop.lost()
        if lost:
            raise Elsewhere(lost)

    first(check, device)


def attempt(write: Callable[[], None], what: str) -> bool:
    """Whether it could be written: a number must not be lost with what lies beside it."""
    try:
        write()
    except OSError as error:
        print(f"note: {what}: {error.strerror} ({error.filename})")
        return False
    return True


def _keep(run: Run, best: dict[str, Any], last: dict[str, Any], outcome: dict[str, Any]) -> None:
    """The trained tensors, with a JSON that says what they are; for runs with texts, another that says how they came
    about, so that they can be decoded again."""
    from engine import weights

    at, cell = run.at, run.cell
    for stale in (BEFORE, "last.safetensors"):  # of an earlier training: it vouches for these weights no more
        (at.kept / stale).unlink(missing_ok=True)
    about = {"task": cell.task.name, "model": cell.model.name, "model_revision": at.revision,
             "record": f"{at.path.stem}.json", "output": run.built.backbone.output,
             "method": record.plain(at.settings["method"])}
    weights.save(best, at.kept / "best.safetensors", about)
    if last:
        weights.save(last, at.kept / "last.safetensors", about)
    if cell.decode is not None:
        whole_text(at.kept / BEFORE, json.dumps(outcome, indent=1) + "\n")
