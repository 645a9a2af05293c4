"""One cell of a table, from plain settings to its record. Everything that can be refused is refused before training."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine import models, record, show, start, weights
from engine.contract import Method, Origin, Recipe, Refused, generator, number, one_of
from engine.hub import model_folder
from engine.train import fit, pick_device
from engine.words import counted, device_name, summary, two

Settings = dict[str, Any]
ELSEWHERE = ("runtime", "data_root")  # where and how, not what: no part of a run's identity


@dataclass(frozen=True)
class Cell:
    """What run.py hands over: the resolved settings, the objects made of them, where each hyperparameter is from."""

    settings: Settings
    task: Any
    method: Method
    recipe: Recipe
    model: models.ModelSpec
    sources: Mapping[str, str]
    root: Path  # of the code, for the commit

    def __post_init__(self) -> None:
        runtime = self.settings["runtime"]
        number("seed", self.settings["seed"], 0, 2**31 - 1, whole=True)
        number("runtime.micro_batch", runtime["micro_batch"], 1, whole=True, none=True)
        one_of("runtime.device", runtime["device"], ("auto", "cpu", "cuda"))
        one_of("runtime.save", runtime["save"], ("both", "best", "none"))
        one_of("runtime.wandb", runtime["wandb"], ("off", "offline", "online"))

    @property
    def out(self) -> Path:
        """The results folder."""
        return Path(self.settings["runtime"]["out"])

    @property
    def variant(self) -> str:
        """The method's own settings in a word: r=8 alpha=8 targets=q,v."""
        own = self.settings["method"]
        shown = {key: own[key] for key in ("r", "alpha", "targets") if key in own}
        return " ".join(f"{k}={','.join(v) if isinstance(v, list) else v}" for k, v in shown.items())


def run(cell: Cell, report: Callable[[dict[str, Any]], None]) -> Path:
    """Runs the cell unless its record is there; returns the record's path. Raises Refused before anything is written.

    report gets every epoch's numbers.
    """
    settings, runtime, seed = cell.settings, cell.settings["runtime"], cell.settings["seed"]
    say = print if int(os.environ.get("RANK", 0)) == 0 else lambda *_: None
    _writable(cell.out)
    parent = start.find(settings, cell.out)
    raw = cell.task.load(_origin(settings))
    folder = model_folder(cell.model.name, cell.model.path, cell.model.revision, cell.model.package)
    revision = cell.model.revision if folder.name == cell.model.revision else models.fingerprint(folder)
    device, precision = pick_device(runtime["device"], cell.recipe.precision)
    settings = identity(settings) | {"precision": precision}
    digest = record.digest(settings, raw.sha256, revision, parent.identity)
    scale = settings["scale"]["name"]
    path = record.path_of(cell.out, scale, cell.task.name, cell.model.name, cell.method.name, seed, digest)
    title = " · ".join(filter(None, [cell.task.name, cell.model.name, f"{cell.method.label} {cell.variant}".strip(),
                                     f"seed {seed}", f"scale {scale}", f"{raw.kind} data"]))
    if path.exists() and not runtime["force"]:
        done = record.read(path)
        say(f"already there: {title}: {done.metric} {two(done.value)}; runtime.force=true runs it again\n"
            f"record {path}")
        return path

    began = datetime.now(UTC)
    backbone = models.load(cell.model, folder, cell.task.outputs, cell.recipe.length, cell.recipe.dropout,
                           generator(seed, "head"))
    cell.method.apply(backbone, generator(seed, "adapter"))
    if parent.weights is not None:
        say("starting from " + weights.load(backbone, parent.weights, keep_output=True))
    counts = models.footprint(backbone)
    splits = cell.task.splits(raw, backbone.tokenizer, cell.recipe.length)
    say(f"{title}\n{counted(counts.trainable, counts.head, counts.total)}; {device_name(device)}, {precision}; "
        f"{len(splits.train):,} training examples, {cell.recipe.epochs} epochs of batch {cell.recipe.batch}")
    fitted = fit(backbone, cell.task, splits, replace(cell.recipe, precision=precision), seed, device,
                 runtime["micro_batch"], report)
    result = fitted.outcome
    if int(os.environ.get("RANK", 0)) != 0:
        return path
    kept = path.with_suffix("") if runtime["save"] != "none" else None
    commit, dirty = record.commit(cell.root)
    value = result.best[cell.task.metric]
    finished = record.Record(
        schema=record.SCHEMA, digest=digest, task=cell.task.name, model=cell.model.name, method=cell.method.name,
        label=cell.method.label, variant=cell.variant, scale=scale, data=raw.kind, seed=seed, metric=cell.task.metric,
        value=value, numbers=result.best, footprint=asdict(counts), outcome=asdict(result), settings=settings,
        sources=dict(cell.sources), init_from=parent.identity, commit=commit, dirty=dirty, versions=record.versions(),
        model_revision=revision, data_revision=raw.revision, data_sha256=raw.sha256, device=device_name(device),
        started=began.isoformat(timespec="seconds"), weights=str(kept.relative_to(cell.out)) if kept else None)
    if kept is not None:
        about = {"task": cell.task.name, "model": cell.model.name, "model_revision": revision, "record": path.name,
                 "output": backbone.output, "method": {k: v for k, v in settings["method"].items() if k != "_target_"}}
        weights.save(fitted.best, kept / "best.safetensors", about)
        if runtime["save"] == "both":
            weights.save(fitted.last, kept / "last.safetensors", about)
    record.write(finished, path)  # last: a record promises that its weights are there
    say(summary(finished, path))
    return path


def parameters(cell: Cell) -> str:
    """What the cell would train, counted on the built model without any weights (runtime.show=parameters)."""
    backbone = models.shape(cell.model, cell.task.outputs)
    cell.method.apply(backbone, generator(cell.settings["seed"], "adapter"))
    counts = models.footprint(backbone)
    return show.parameters(backbone, counts.trainable, counts.head, counts.total)


def identity(settings: Settings) -> Settings:
    """The settings that say what a run is, and no path: a folder of weights is known by its fingerprint."""
    kept = record.plain({key: value for key, value in settings.items() if key not in ELSEWHERE})
    place = kept["model"]["path"]
    return kept | {"model": kept["model"] | {"path": "folder" if Path(place).is_dir() else place}}


def recipe_of(settings: Settings) -> Recipe:
    """The recipe among a run's settings. Raises Refused on a value out of range."""
    return Recipe(**{field.name: settings[field.name] for field in fields(Recipe)})


def _origin(settings: Settings) -> Origin:
    scale, root = settings["scale"], settings["data_root"]
    if scale["data"] == "synthetic":
        if root is not None:
            raise Refused(f"data_root={root}: scale={scale['name']} makes its own data; leave one of the two out")
        return Origin("synthetic", None, scale["train"], scale["validation"])
    return Origin("hub" if root is None else "folder", root, 0, 0)


def _writable(out: Path) -> None:
    place = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
        raise Refused(f"runtime.out={out}: cannot write there")
