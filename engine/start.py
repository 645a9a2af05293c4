"""Where a run starts: the pre-trained model, or another run's weights (the paper's MNLI start, Appendix D.1)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import record
from engine.contract import Refused


@dataclass(frozen=True)
class Start:
    """The safetensors file to start from (None: the pre-trained model), and how the new record names it."""

    weights: Path | None
    identity: str | None
    revision: str | None  # of the base weights it was trained on, where known


def find(settings: dict[str, Any], out: Path, revision: str | None) -> Start:
    """What init_from stands for: none, mnli (the recorded MNLI run of the same seed, model, method settings, recipe and
    scale, on the base weights `revision` or, if None, any), or the path of a record or a safetensors file.

    Raises Refused, saying how to get it or do without."""
    asked = settings["init_from"]
    if asked in (None, "none"):
        return Start(None, None, None)
    if asked == "mnli":
        return _mnli(settings, out, revision)
    path = Path(str(asked)).expanduser().resolve()
    if not path.is_file():
        raise Refused(f"init_from={asked}: no such file; give a record, a safetensors file, mnli or none")
    if path.suffix == ".json":
        parent = record.read(path)
        return _of(parent, path.parent / Path(str(parent.weights)).name)
    if path.suffix != ".safetensors":
        raise Refused(f"init_from={asked}: only records (.json) and .safetensors are read")
    return Start(path, "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest(), None)


def _mnli(settings: dict[str, Any], out: Path, revision: str | None) -> Start:
    """The parent that all children of a seed and a method share. Of several such runs that which runtime.parent names,
    else one on all of the data, then the best."""
    model, method, scale = settings["model"]["name"], settings["method"], settings["scale"]["name"]
    seed, parent = settings["seed"], settings["runtime"]["parent"]
    parents = [r for r in record.read_all(out)[0]
               if (r.task, r.model, r.scale, r.seed) == ("mnli", model, scale, seed)
               and r.settings["method"] == record.plain(method) and parent in (None, r.digest)
               and r.settings["recipe"]["name"] == settings["recipe"]["name"] and revision in (None, r.model_revision)
               and r.value is not None and (out / str(r.weights) / "best.safetensors").is_file()]
    if not parents:
        name, task = method["name"], settings["task"]["name"]
        raise Refused(f"recipe {settings['recipe']['name']} starts {task} from an MNLI run, and {out}/runs has none of "
                      f"model={model} method={name} seed={seed} with these settings of it\nfirst run task=mnli "
                      f"model={model} method={name} seed={seed}, or give init_from=RECORD, or init_from=none for the "
                      "pre-trained model")
    best = max(parents, key=lambda r: (r.settings["task"]["limit"] is None, r.value))
    return _of(best, out / str(best.weights))


def _of(parent: record.Record, folder: Path) -> Start:
    if parent.weights is None:
        raise Refused(f"init_from: record {parent.digest} was run with runtime.save=none, so it has no weights")
    path = folder / "best.safetensors"
    if not path.is_file():
        raise Refused(f"init_from: {path} is gone; run its record again with runtime.force=true")
    return Start(path, parent.digest, parent.model_revision)


def weights_of(path: Path) -> Path:
    """Where the best weights of the run recorded at path lie, if they were kept."""
    weights = record.read(path).weights
    return path.parent / Path(weights or path.stem).name / "best.safetensors"
