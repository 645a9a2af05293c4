"""One cell of a table, from plain settings to its record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine import hold, kin, record
from engine.at_once import Shared, Steps, fit
from engine.contract import Refused, Stopped, generator
from engine.processes import first
from engine.resolve import Base, Cell, Resolved, resolve
from engine.stop import Stop
from engine.training import Built, Run, attempt, check_trained, still_ours, trained
from engine.words import counted, main_process, summary, two

Report = Callable[[dict[str, Any]], None]


def run(cell: Cell, report: Report) -> Path:
    """Runs the cell unless its record is there; returns the record's path. report gets every epoch's numbers.

    Goes on at its last checkpoint if it was interrupted. Raises Refused before anything is written, Elsewhere when
    another process runs it, Stopped when a signal came (or what waited for that signal before does its own), and
    record.NotWritten when the disk takes no record at the end.
    """
    (made,) = run_all([cell], [report])
    if isinstance(made, Exception):
        raise made
    return made


def run_all(cells: Sequence[Cell], reports: Sequence[Report]) -> list[Path | Exception]:
    """Runs cells of one kin (engine/kin.py), which train at once; for each the path of its record, or what run() would
    raise. Raises Stopped."""
    shared = Shared()
    stop, names = Stop(), kin.names([cell.settings for cell in cells])
    steps = {place: _steps(cell, report, name, shared, Stop(over=stop))
             for place, (cell, report, name) in enumerate(zip(cells, reports, names, strict=True))}
    ends: dict[int, Path | Exception] = {}
    try:
        wanted = _on(steps, dict.fromkeys(steps), ends)
        with stop:
            if wanted:
                made: Sequence[Any]
                try:
                    made = fit(list(wanted.values()))
                except Exception as error:
                    made = [error] * len(wanted)
                _on(steps, dict(zip(wanted, made, strict=True)), ends)
            _on(steps, {place: None for place in steps if place not in ends}, ends)  # all weights are kept: they decode
    except BaseException as error:
        for each in steps.values():  # so that each lets go of what it holds
            with suppress(BaseException):
                each.throw(error)
        if isinstance(error, Stopped):
            stop.hand_over()
        raise
    return [ends[place] for place in range(len(cells))]


def _on(steps: Mapping[int, Steps[Path]], sent: Mapping[int, Any],
        ends: dict[int, Path | Exception]) -> dict[int, Any]:
    """Takes these cells as far as they go with what they are sent; what they ask for then, and in ends how those ended
    that are through."""
    asked = {}
    for place, what in sent.items():
        try:
            answer = steps[place].throw(what) if isinstance(what, Exception) else steps[place].send(what)
            if answer is not None:
                asked[place] = answer
        except StopIteration as end:
            ends[place] = end.value
        except Exception as error:
            ends[place] = error
    return asked


def _steps(cell: Cell, report: Report, name: str, shared: Shared, stop: Stop) -> Steps[Path]:
    """A cell from its settings to its record. Stands still for its training, which several do at once, and once more
    when its weights are kept."""
    at = resolve(cell, shared.base)
    shared.base = Base(at.raw, at.folder, at.revision)
    say = print if main_process() else lambda *_: None
    title = f"{cell.title} · scale {at.settings['scale']['name']} · {at.raw.kind} data"
    title = f"[{place}] {title}" if (place := cell.settings["runtime"]["place"]) else title
    if _there(cell, at, title, say):
        hold.tidy(cell.out, at.path)
        return at.path
    check_trained(cell, at)
    built = _built(cell, at, shared)  # before the claim: it refuses what is wrong with the weights
    with hold.claimed(cell.out, at.path, at.device) as held, ExitStack() as until:
        stop.lost = lambda: held.lost
        if not _there(cell, at, title, say):  # now that nobody else can be about to write it
            say(name + title + built.begun)
            yield from _run(Run(cell, at, built, report, say, held, stop, until, name,
                                shared.model is built.backbone.model))
    return at.path


def _there(cell: Cell, at: Resolved, title: str, say: Callable[[str], None]) -> bool:
    """Whether the cell is done; says so."""
    if cell.settings["runtime"]["force"] or not first(at.path.exists, at.device):
        return False
    there = record.read(at.path)
    bare = " (its weights were not kept)" if there.weights is None else ""
    again = ", with runtime.train=false it is only decoded and scored again" if cell.decode else ""
    say(f"already there: {title}: {there.metric} {two(there.value)}{bare}; runtime.force=true runs it again{again}"
        f"\nrecord {at.path}")
    return True


def _built(cell: Cell, at: Resolved, shared: Shared) -> Built:
    """The base model with the method in it, where it starts. Raises Refused."""
    from engine import device as devices  # only now what takes seconds to import: the cell can run, and is not done yet
    from engine import models, weights
    from engine.together import share

    seed, recipe = at.settings["seed"], replace(cell.recipe, precision=at.settings["precision"])
    commit, began = record.commit(cell.root), datetime.now(UTC).isoformat(timespec="seconds")
    about = {"commit": commit[0], "dirty": commit[1], "started": began, "device": devices.name_of(at.device)}
    backbone = models.load(cell.model, at.folder, cell.task.outputs, recipe, sum(cell.method.tokens),
                           generator(seed, "head"))
    special = backbone.special(cell.method.tokens)
    cell.method.apply(backbone, generator(seed, "adapter"))
    begun = f", started from {weights.load(backbone, at.parent.weights, keep_output=True)}" if at.parent.weights else ""
    if shared.model is None:
        shared.model = backbone.model
    share(shared.model, backbone.model)
    return Built(backbone, special, recipe, about, begun)


def _run(run: Run) -> Steps[None]:
    """From the built model to the record, with the claim held."""
    from engine import models, weights

    cell, at, say, stop, backbone = run.cell, run.at, run.say, run.stop, run.built.backbone
    about, counts = dict(run.built.about), models.footprint(backbone)
    if run.leads:
        say(f"{counted(counts.trainable, counts.head, counts.total)}\n{about['device']}, {run.built.recipe.precision}")
    made = yield from trained(run)
    yield None
    about["started"] = made.started or about["started"]
    numbers, outcome, texts = made.outcome["best"], made.outcome, None
    if cell.decode is not None:
        from engine import decoding

        weights.put(backbone.model, made.tensors)
        with stop.leaving("stopped while decoding; the training is saved, and the same command decodes it"):
            judged = decoding.judge(cell, at, backbone, run.built.special, say, stop.check)
        numbers, texts = {**outcome[cell.decode.checkpoint], **judged.numbers}, judged.texts
        outcome = {**outcome, "notes": [*outcome["notes"], *judged.notes], "decoded": judged.about}
        say(f"\n{judged.samples}\n")
    finished = record.Record(
        schema=record.SCHEMA, digest=at.digest, task=cell.task.name, model=cell.model.name, method=cell.method.name,
        label=cell.method.label, variant=cell.variant, scale=at.settings["scale"]["name"], data=at.raw.kind,
        seed=at.settings["seed"],
        metric=cell.task.metric, value=numbers.get(cell.task.metric), numbers=numbers,
        footprint=asdict(counts), outcome=outcome, settings=at.settings, sources=dict(cell.sources),
        init_from=at.parent.identity, versions=record.versions(), model_revision=at.revision,
        data_revision=at.raw.revision, data_sha256=at.raw.sha256,
        weights=str(Path(*at.kept.parts[-4:])) if made.kept else None, **about)
    say(f"{run.name}{summary(finished)}")
    still_ours(stop, at.device)
    first(lambda: _write(finished, at.path, texts if made.kept else None), at.device)
    say(f"record {at.path}")


def _write(finished: record.Record, path: Path, texts: Sequence[str] | None) -> None:
    """The texts first, where the weights are kept: the record comes last. Raises record.NotWritten."""
    if texts is not None:
        from engine import decoding

        attempt(lambda: decoding.keep(texts, path.with_suffix("")), "the texts were not kept")
    try:
        record.write(finished, path)
    except OSError as error:
        raise record.NotWritten(f"{error.filename or path}: {error.strerror}; the run left no record") from None


def parameters(cell: Cell) -> str:
    """What the cell would train, and in how much memory, seen on the built model without any weights
    (runtime.show=parameters)."""
    from engine import memory, models, show

    special = sum(cell.method.tokens)
    backbone = models.shape(cell.model, cell.task.outputs, cell.recipe, special)
    cell.method.apply(backbone, generator(cell.settings["seed"], "adapter"))
    counts = models.footprint(backbone)
    examples = min(cell.recipe.batch, cell.settings["runtime"]["micro_batch"] or cell.recipe.batch)
    tokens = cell.recipe.length + special
    try:
        needed = show.memory(memory.expected(backbone, examples, tokens), examples, tokens)
    except Refused as why:
        needed = f"memory in training is not known: {why}"
    return f"{show.parameters(backbone, counts.trainable, counts.head, counts.total)}\n\n{needed}"
