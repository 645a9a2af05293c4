"""One cell of a table, from plain settings to its record. Everything that can be refused is refused before training.

Nothing heavy is imported until the cell is known to be possible and not done yet: a wrong request is answered at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine import hub, record, start
from engine.contract import Method, Origin, Refused, generator, number, one_of
from engine.spec import ModelSpec, Recipe
from engine.words import counted, main_process, summary, two

Settings = dict[str, Any]
ELSEWHERE = ("runtime", "data_root")  # where and how, not what: no part of a run's identity


@dataclass(frozen=True)
class Cell:
    """What run.py hands over: the resolved settings, the objects made of them, where each hyperparameter is from."""

    settings: Settings
    task: Any
    method: Method
    recipe: Recipe
    model: ModelSpec
    sources: Mapping[str, str]
    root: Path  # of the code, for the commit

    def __post_init__(self) -> None:
        runtime = self.settings["runtime"]
        number("seed", self.settings["seed"], 0, 2**31 - 1, whole=True)
        number("runtime.micro_batch", runtime["micro_batch"], 1, whole=True, none=True)
        one_of("runtime.device", runtime["device"], ("auto", "cpu", "cuda"))
        one_of("runtime.save", runtime["save"], ("both", "best", "none"))
        one_of("runtime.wandb", runtime["wandb"], ("off", "offline", "online"))
        if not isinstance(runtime["force"], bool):
            raise Refused(f"runtime.force={runtime['force']}: runtime.force must be true or false")

    @property
    def out(self) -> Path:
        """The results folder."""
        return Path(self.settings["runtime"]["out"]).expanduser()

    @property
    def variant(self) -> str:
        """The method's own settings in a word: r=8 alpha=8 targets=q,v."""
        own = self.settings["method"]
        shown = {key: own[key] for key in ("r", "alpha", "targets") if key in own}
        return " ".join(f"{k}={','.join(v) if isinstance(v, list) else v}" for k, v in shown.items())


def run(cell: Cell, report: Callable[[dict[str, Any]], None]) -> Path:
    """Runs the cell unless its record is there; returns the record's path. report gets every epoch's numbers.

    Raises Refused before anything is written, and record.NotWritten when the disk takes no record at the end.
    """
    say = print if main_process() else lambda *_: None
    _writable(cell.out)
    start.find(cell.settings, cell.out, None)  # before anything is looked up or downloaded
    origin = _origin(cell.settings)
    folder = hub.model_folder(cell.model.name, cell.model.path, cell.model.revision, cell.model.package)
    raw = cell.task.load(origin)
    packaged = cell.model.path == cell.model.package
    revision = hub.revision_of(folder, cell.model.revision, cell.model.sha256 if packaged else None)
    parent = start.find(cell.settings, cell.out, revision)
    if parent.revision not in (None, revision):
        raise Refused(f"init_from={cell.settings['init_from']}: run {parent.identity} had other base weights\n"
                      "run task=mnli with these first, or give init_from=RECORD or init_from=none")

    from engine import device as devices

    device, precision = devices.pick(cell.settings["runtime"]["device"], cell.recipe.precision)
    settings, seed = identity(cell.settings) | {"precision": precision}, cell.settings["seed"]
    digest = record.digest(settings, raw.sha256, revision, parent.identity)
    scale = settings["scale"]["name"]
    path = record.path_of(cell.out, scale, cell.task.name, cell.model.name, cell.method.name, seed, digest)
    title = " · ".join(filter(None, [cell.task.name, cell.model.name, f"{cell.method.label} {cell.variant}".strip(),
                                     f"seed {seed}", f"scale {scale}", f"{raw.kind} data"]))
    if path.exists() and not cell.settings["runtime"]["force"]:
        done = record.read(path)
        without = " and keeps its weights, which it has none of" if done.weights is None else ""
        say(f"already there: {title}: {done.metric} {two(done.value)}; runtime.force=true runs it again{without}\n"
            f"record {path}")
        return path

    from engine import models, train, weights

    commit, dirty = record.commit(cell.root)
    began = datetime.now(UTC).isoformat(timespec="seconds")
    backbone = models.load(cell.model, folder, cell.task.outputs, cell.recipe.length, cell.recipe.dropout,
                           generator(seed, "head"))
    cell.method.apply(backbone, generator(seed, "adapter"))
    begun = f", started from {weights.load(backbone, parent.weights, keep_output=True)}" if parent.weights else ""
    say(title + begun)
    counts = models.footprint(backbone)
    splits = cell.task.splits(raw, backbone.tokenizer, cell.recipe.length)
    say(f"{counted(counts.trainable, counts.head, counts.total)}\n{devices.name_of(device)}, {precision}; "
        f"{len(splits.train):,} training examples, {cell.recipe.epochs} epochs of batch {cell.recipe.batch}")
    fitted = train.fit(backbone, cell.task, splits, replace(cell.recipe, precision=precision), seed, device,
                       cell.settings["runtime"]["micro_batch"], report)

    kept = path.with_suffix("") if cell.settings["runtime"]["save"] != "none" else None
    finished = record.Record(
        schema=record.SCHEMA, digest=digest, task=cell.task.name, model=cell.model.name, method=cell.method.name,
        label=cell.method.label, variant=cell.variant, scale=scale, data=raw.kind, seed=seed, metric=cell.task.metric,
        value=fitted.outcome.best[cell.task.metric], numbers=fitted.outcome.best, footprint=asdict(counts),
        outcome=asdict(fitted.outcome), settings=settings, sources=dict(cell.sources), init_from=parent.identity,
        commit=commit, dirty=dirty, versions=record.versions(), model_revision=revision, data_revision=raw.revision,
        data_sha256=raw.sha256, device=devices.name_of(device), started=began,
        weights=str(kept.relative_to(cell.out)) if kept else None)
    say(summary(finished))
    if main_process():
        try:
            if kept is not None:
                both = cell.settings["runtime"]["save"] == "both"
                _keep(kept, fitted.best, fitted.last if both else {}, finished, backbone.output)
        except OSError as error:  # the number must not be lost with the weights
            finished = replace(finished, weights=None)
            say(f"note: the weights were not kept: {error.strerror} ({error.filename or kept})")
        try:
            record.write(finished, path)  # last: a record promises that its weights are there
        except OSError as error:
            raise record.NotWritten(f"{error.filename or path}: {error.strerror}; the run left no record") from None
    say(f"record {path}")
    return path


def parameters(cell: Cell) -> str:
    """What the cell would train, counted on the built model without any weights (runtime.show=parameters)."""
    from engine import models, show

    backbone = models.shape(cell.model, cell.task.outputs)
    cell.method.apply(backbone, generator(cell.settings["seed"], "adapter"))
    counts = models.footprint(backbone)
    return show.parameters(backbone, counts.trainable, counts.head, counts.total)


def identity(settings: Settings) -> Settings:
    """The settings that say what a run is, and no path: files are known by their fingerprints, kept beside."""
    kept = record.plain({key: value for key, value in settings.items() if key not in ELSEWHERE})
    if Path(kept["model"]["path"]).is_dir():
        kept["model"]["path"] = "folder"
    if kept["init_from"] not in ("none", "mnli"):
        kept["init_from"] = "file"
    return kept


def _origin(settings: Settings) -> Origin:
    scale, root = settings["scale"], settings["data_root"]
    if scale["data"] == "synthetic":
        if root is not None:
            raise Refused(f"data_root={root}: scale={scale['name']} makes its own data; leave one of the two out")
        for name in ("train", "validation"):
            number(f"scale.{name}", scale[name], 1, whole=True)
        return Origin("synthetic", None, scale["train"], scale["validation"])
    if root is not None and not Path(str(root)).expanduser().is_dir():
        raise Refused(f"data_root={root}: no such folder")
    return Origin("hub" if root is None else "folder", root, 0, 0)


def _writable(out: Path) -> None:
    place = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
        raise Refused(f"runtime.out={out}: cannot write there")


def _keep(folder: Path, best: dict[str, Any], last: dict[str, Any], of: record.Record, output: str) -> None:
    """The trained tensors beside the record, with a JSON that says what they are."""
    from engine import weights

    about = {"task": of.task, "model": of.model, "model_revision": of.model_revision, "record": f"{folder.name}.json",
             "output": output, "method": record.plain(of.settings["method"])}
    weights.save(best, folder / "best.safetensors", about)
    if last:
        weights.save(last, folder / "last.safetensors", about)
