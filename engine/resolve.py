"""The door of a cell: everything that can be refused is refused here, before training, cheapest first.

Nothing heavier than torch is imported, so that a wrong request is answered at once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import hub, record, start, store
from engine.contract import Method, Origin, Refused, number, one_of
from engine.spec import Decode, ModelSpec, Recipe

Settings = dict[str, Any]
# Settings that came later: no part of a run's identity while null, so that no name changed.
LATER = ("cls_dropout", "averaging", "decode")
ELSEWHERE = ("runtime", "data_root")  # where and how, not what: no part of a run's identity


@dataclass(frozen=True)
class Cell:
    """What run.py hands over: the resolved settings, the objects made of them, where each hyperparameter is from."""

    settings: Settings
    task: Any
    method: Method
    recipe: Recipe
    decode: Decode | None  # for tasks with texts
    model: ModelSpec
    sources: Mapping[str, str]
    root: Path  # of the code, for the commit

    def __post_init__(self) -> None:
        runtime = self.settings["runtime"]
        check_run(self.settings)
        number("runtime.checkpoint", runtime["checkpoint"], 0, none=True)
        number("runtime.micro_batch", runtime["micro_batch"], 1, whole=True, none=True)
        one_of("runtime.save", runtime["save"], ("both", "best", "none"))
        one_of("runtime.wandb", runtime["wandb"], ("off", "offline", "online"))
        one_of("runtime.train", runtime["train"], (True, False))

    @property
    def out(self) -> Path:
        """The results folder."""
        return Path(self.settings["runtime"]["out"]).expanduser()

    @property
    def title(self) -> str:
        """What it is called on the screen and in plans: rte · minilm · LoRA r=8 alpha=16 targets=q,v · seed 0"""
        return " · ".join([self.task.name, self.model.name, f"{self.method.label} {self.variant}".strip(),
                           f"seed {self.settings['seed']}"])

    @property
    def variant(self) -> str:
        """The method's own settings in a word: r=8 alpha=8 targets=q,v."""
        return record.variant(self.settings)


@dataclass(frozen=True)
class Base:
    """What a run stands on: the data's rows, the base weights' folder and what identifies them."""

    raw: Any
    folder: Path
    revision: str


@dataclass(frozen=True)
class Identity:
    """What a run is, and so where its record and its weights are."""

    settings: Settings  # of the record: resolved, without paths
    digest: str
    path: Path  # of the record
    kept: Path  # folder of the trained weights: the same for runs that differ in decoding alone


@dataclass(frozen=True)
class Resolved(Base, Identity):
    """All that is settled at the door: the data, the weights, the start, the device, and so the run's identity."""

    parent: start.Start
    device: Any


def resolve(cell: Cell, base: Base | None = None) -> Resolved:
    """Finds and checks all that the cell needs. base: what it stands on, where that is known. Raises Refused; writes
    nothing."""
    out = cell.out
    check_model(cell)
    start.find(cell.settings, out, None)  # before anything is looked up or downloaded
    base = base or ground(cell)
    parent = start.find(cell.settings, out, base.revision)
    if parent.revision not in (None, base.revision):
        raise Refused(f"init_from={cell.settings['init_from']}: run {parent.identity} had other base weights\n"
                      "run task=mnli with these first, or give init_from=RECORD or init_from=none")

    from engine import device as devices

    device, precision = devices.pick(cell.settings["runtime"]["device"], cell.recipe.precision)
    named = identify(cell, precision, base.raw.sha256, base.revision, parent.identity)
    return Resolved(**vars(base), **vars(named), parent=parent, device=device)


def check_model(cell: Cell) -> None:
    """Refuses a results folder that cannot be written and a model without weights, before anything is looked up."""
    writable(cell.out)
    if cell.model.path is None:
        raise Refused(f"model={cell.model.name} has no weights (model.path=null); it is only counted: "
                      "runtime.show=parameters\nanother decoder stands in: model=gpt2-medium "
                      f"recipe={cell.settings['recipe']['name']}")


def ground(cell: Cell) -> Base:
    """Finds and checks the base weights and the data, fetching what is missing. Raises Refused."""
    hub.check_settings()
    origin = _origin(cell.settings)
    model = cell.model
    assert model.path is not None  # check_model
    folder = hub.model_folder(model.name, model.path, model.revision, model.package)
    raw = cell.task.load(origin)
    known = model.path == model.package or store.has_known_content(model.name, folder)
    revision = hub.revision_of(folder, model.sha256, known, others=hub.users_folder(model.path) is not None)
    return Base(raw, folder, revision)


def identify(cell: Cell, precision: str, data_sha256: str, revision: str, begun: str | None) -> Identity:
    """The cell's identity at a precision (no auto) on this data and these base weights. begun: what its start is known
    by, see start.Start."""
    settings = identity(cell.settings, revision) | {"precision": precision}

    def path(digest: str) -> Path:
        return record.path_of(cell.out, settings["scale"]["name"], cell.task.name, cell.model.name, cell.method.name,
                              settings["seed"], digest)

    training = {key: value for key, value in settings.items() if key != "decode"}
    digest, trained = (record.digest(each, data_sha256, revision, begun) for each in (settings, training))
    return Identity(settings, digest, path(digest), path(trained).with_suffix(""))


def identity(settings: Settings, revision: str | None = None) -> Settings:
    """The settings that say what a run is, and no path: files are known by their fingerprints, kept beside. revision:
    what identifies the base weights. Weights of a known sha256 are the same wherever they came from."""
    silent = {*ELSEWHERE, *(key for key in LATER if settings[key] is None)}
    kept = record.plain({key: value for key, value in settings.items() if key not in silent})
    known = store.known_origin(kept["model"]["name"], revision)
    if known is not None:
        kept["model"] |= known
    elif hub.users_folder(kept["model"]["path"]) is not None:
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


def check_run(settings: Mapping[str, Any]) -> None:
    """Refuses what is wrong with the settings that a run of any kind has."""
    number("seed", settings["seed"], 0, 2**31 - 1, whole=True)
    one_of("runtime.device", settings["runtime"]["device"], ("auto", "cpu", "cuda"))
    one_of("runtime.force", settings["runtime"]["force"], (True, False))


def writable(out: Path) -> None:
    """Refuses a results folder that nothing can be written to."""
    nearest = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    for place in (nearest, *(folder for name in ("runs", "work", "sweeps") if (folder := out / name).exists())):
        if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
            raise Refused(f"runtime.out={out}: cannot write to {place}")
