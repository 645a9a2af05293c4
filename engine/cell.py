"""One cell of a table, from plain settings to its record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine import record
from engine.contract import generator
from engine.resolve import Cell, resolve
from engine.words import counted, main_process, summary, two


def run(cell: Cell, report: Callable[[dict[str, Any]], None]) -> Path:
    """Runs the cell unless its record is there; returns the record's path. report gets every epoch's numbers.

    Raises Refused before anything is written, and record.NotWritten when the disk takes no record at the end.
    """
    at = resolve(cell)
    say = print if main_process() else lambda *_: None
    seed, recipe = at.settings["seed"], replace(cell.recipe, precision=at.settings["precision"])
    title = " · ".join(filter(None, [cell.task.name, cell.model.name, f"{cell.method.label} {cell.variant}".strip(),
                                     f"seed {seed}", f"scale {at.settings['scale']['name']}", f"{at.raw.kind} data"]))
    if at.path.exists() and not cell.settings["runtime"]["force"]:
        done = record.read(at.path)
        bare = " (its weights were not kept)" if done.weights is None else ""
        say(f"already there: {title}: {done.metric} {two(done.value)}{bare}; runtime.force=true runs it again\n"
            f"record {at.path}")
        return at.path

    from engine import device as devices  # only now what takes seconds to import: the cell can run, and is not done yet
    from engine import models, train, weights

    commit, began = record.commit(cell.root), datetime.now(UTC).isoformat(timespec="seconds")
    backbone = models.load(cell.model, at.folder, cell.task.outputs, recipe, sum(cell.method.tokens),
                           generator(seed, "head"))
    special = backbone.special(cell.method.tokens)
    cell.method.apply(backbone, generator(seed, "adapter"))
    begun = f", started from {weights.load(backbone, at.parent.weights, keep_output=True)}" if at.parent.weights else ""
    say(title + begun)
    counts, name = models.footprint(backbone), devices.name_of(at.device)
    splits = cell.task.splits(at.raw, backbone.tokenizer, recipe.length, special)
    say(f"{counted(counts.trainable, counts.head, counts.total)}\n{name}, {recipe.precision}; "
        f"{len(splits.train):,} training examples, {recipe.epochs} epochs of batch {recipe.batch}")
    fitted = train.fit(backbone, cell.task, splits, recipe, seed, at.device, cell.settings["runtime"]["micro_batch"],
                       report)
    finished = record.Record(
        schema=record.SCHEMA, digest=at.digest, task=cell.task.name, model=cell.model.name, method=cell.method.name,
        label=cell.method.label, variant=cell.variant, scale=at.settings["scale"]["name"], data=at.raw.kind, seed=seed,
        metric=cell.task.metric, value=fitted.outcome.best[cell.task.metric], numbers=fitted.outcome.best,
        footprint=asdict(counts), outcome=asdict(fitted.outcome), settings=at.settings, sources=dict(cell.sources),
        init_from=at.parent.identity, commit=commit[0], dirty=commit[1], versions=record.versions(),
        model_revision=at.revision, data_revision=at.raw.revision, data_sha256=at.raw.sha256, device=name,
        started=began, weights=None)
    say(summary(finished))
    if main_process():
        _write(finished, at.path, cell.settings["runtime"]["save"], fitted.best, fitted.last, backbone.output)
    say(f"record {at.path}")
    return at.path


def _write(finished: record.Record, path: Path, save: str, best: dict[str, Any], last: dict[str, Any],
           output: str) -> None:
    """The weights asked for, then the record, which promises that they are there. Raises record.NotWritten."""
    if save != "none":
        try:
            _keep(path.with_suffix(""), best, last if save == "both" else {}, finished, output)
            finished = replace(finished, weights=str(Path(*path.with_suffix("").parts[-4:])))
        except OSError as error:  # the number must not be lost with the weights
            print(f"note: the weights were not kept: {error.strerror} ({error.filename or path})")
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
    return (show.parameters(backbone, counts.trainable, counts.head, counts.total) + "\n\n"
            + show.memory(memory.expected(backbone, examples, tokens), examples, tokens))


def _keep(folder: Path, best: dict[str, Any], last: dict[str, Any], of: record.Record, output: str) -> None:
    """The trained tensors beside the record, with a JSON that says what they are."""
    from engine import weights

    about = {"task": of.task, "model": of.model, "model_revision": of.model_revision, "record": f"{folder.name}.json",
             "output": output, "method": record.plain(of.settings["method"])}
    weights.save(best, folder / "best.safetensors", about)
    if last:
        weights.save(last, folder / "last.safetensors", about)
