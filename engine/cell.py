"""One cell of a table, from plain settings to its record."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine import record
from engine.contract import Refused, generator
from engine.files import whole_text
from engine.resolve import Cell, Resolved, resolve
from engine.spec import Recipe
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
        there = record.read(at.path)
        bare = " (its weights were not kept)" if there.weights is None else ""
        again = ", with runtime.train=false it is only decoded and scored again" if cell.decode else ""
        say(f"already there: {title}: {there.metric} {two(there.value)}{bare}; runtime.force=true runs it again{again}"
            f"\nrecord {at.path}")
        return at.path

    from engine import device as devices  # only now what takes seconds to import: the cell can run, and is not done yet
    from engine import models, weights

    commit, began = record.commit(cell.root), datetime.now(UTC).isoformat(timespec="seconds")
    backbone = models.load(cell.model, at.folder, cell.task.outputs, recipe, sum(cell.method.tokens),
                           generator(seed, "head"))
    special = backbone.special(cell.method.tokens)
    cell.method.apply(backbone, generator(seed, "adapter"))
    begun = f", started from {weights.load(backbone, at.parent.weights, keep_output=True)}" if at.parent.weights else ""
    say(title + begun)
    counts, name = models.footprint(backbone), devices.name_of(at.device)
    say(f"{counted(counts.trainable, counts.head, counts.total)}\n{name}, {recipe.precision}")
    about: dict[str, Any] = {"commit": commit[0], "dirty": commit[1], "started": began, "device": name}
    made = _trained(cell, at, backbone, special, recipe, report, about, say)
    numbers, outcome = made.outcome["best"], made.outcome
    if cell.decode is not None:
        from engine import decoding

        weights.put(backbone.model, made.tensors)
        judged = decoding.judge(cell, at, backbone, special, say)
        numbers = {**outcome[cell.decode.checkpoint], **judged.numbers}
        outcome = {**outcome, "notes": [*outcome["notes"], *judged.notes], "decoded": judged.about}
        say(f"\n{judged.samples}\n")
    finished = record.Record(
        schema=record.SCHEMA, digest=at.digest, task=cell.task.name, model=cell.model.name, method=cell.method.name,
        label=cell.method.label, variant=cell.variant, scale=at.settings["scale"]["name"], data=at.raw.kind, seed=seed,
        metric=cell.task.metric, value=numbers.get(cell.task.metric), numbers=numbers,
        footprint=asdict(counts), outcome=outcome, settings=at.settings, sources=dict(cell.sources),
        init_from=at.parent.identity, versions=record.versions(), model_revision=at.revision,
        data_revision=at.raw.revision, data_sha256=at.raw.sha256,
        weights=str(Path(*at.kept.parts[-4:])) if made.kept else None, **about)
    say(summary(finished))
    if main_process():
        if cell.decode is not None and made.kept:
            _try(lambda: decoding.keep(judged.texts, at.path.with_suffix("")), "the texts were not kept")
        try:
            record.write(finished, at.path)
        except OSError as error:
            raise record.NotWritten(f"{error.filename or at.path}: {error.strerror}; the run left no record") from None
    say(f"record {at.path}")
    return at.path


@dataclass(frozen=True)
class _Trained:
    """What training gave, now or in an earlier run that differs in decoding alone."""

    outcome: dict[str, Any]
    tensors: dict[str, Any]  # those that are decoded with, where the model does not have them yet
    kept: bool  # whether the weights are on disk


def _trained(cell: Cell, at: Resolved, backbone: Any, special: Any, recipe: Recipe,
             report: Callable[[dict[str, Any]], None], about: dict[str, Any], say: Callable[[str], None]) -> _Trained:
    """Trains, and puts the weights on disk before anything is decoded; or finds them there."""
    from engine import train, weights

    runtime = cell.settings["runtime"]
    decoded = at.kept / f"{cell.decode.checkpoint if cell.decode else 'best'}.safetensors"
    before = at.kept / "training.json"  # only runs with texts leave it
    if before.is_file() and decoded.is_file() and not (runtime["force"] and runtime["train"]):
        try:
            said = json.loads(before.read_text(encoding="utf-8"))
            say(f"trained before, on {said['trained']['started'][:10]}: {weights.load(backbone, decoded, False)}")
        except (ValueError, KeyError) as error:
            raise Refused(f"{before}: not whole ({error}); delete it to train again") from None
        return _Trained(said, {}, kept=True)
    if not runtime["train"]:
        raise Refused(f"runtime.train=false: not trained yet, or {decoded} is gone\nleave runtime.train out")
    splits = cell.task.splits(at.raw, backbone.tokenizer, recipe, special)
    say(f"{len(splits.train):,} training examples, {recipe.epochs} epochs of batch {recipe.batch}")
    cut = getattr(splits.train, "cut", 0)
    if cut:
        say(f"note: {cut:,} of them are longer than length={recipe.length} and lose the beginning of their input")
    fitted = train.fit(backbone, cell.task, splits, recipe, at.settings["seed"], at.device, runtime["micro_batch"],
                       report)
    outcome, kept = asdict(fitted.outcome), False
    if cell.decode is not None:
        outcome["trained"] = about
    if main_process() and runtime["save"] != "none":
        last = fitted.last if runtime["save"] == "both" else {}
        kept = _try(lambda: _keep(at, cell, fitted.best, last, backbone.output, outcome), "the weights were not kept")
    tensors = fitted.last if cell.decode and cell.decode.checkpoint == "last" else fitted.best
    return _Trained(outcome, tensors, kept)


def _try(write: Callable[[], None], what: str) -> bool:
    """Whether it could be written: a number must not be lost with what lies beside it."""
    try:
        write()
    except OSError as error:
        print(f"note: {what}: {error.strerror} ({error.filename})")
        return False
    return True


def _keep(at: Resolved, cell: Cell, best: dict[str, Any], last: dict[str, Any], output: str,
          outcome: dict[str, Any]) -> None:
    """The trained tensors, with a JSON that says what they are; for runs with texts, another that says how they came
    about, so that they can be decoded again."""
    from engine import weights

    for stale in ("training.json", "last.safetensors"):  # of an earlier training: it vouches for these weights no more
        (at.kept / stale).unlink(missing_ok=True)
    about = {"task": cell.task.name, "model": cell.model.name, "model_revision": at.revision,
             "record": f"{at.path.stem}.json", "output": output, "method": record.plain(at.settings["method"])}
    weights.save(best, at.kept / "best.safetensors", about)
    if last:
        weights.save(last, at.kept / "last.safetensors", about)
    if cell.decode is not None:
        text = json.dumps(outcome, indent=1) + "\n"
        whole_text(at.kept / "training.json", text)


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
