"""Record: one JSON a run, whole or absent, from which every table is rebuilt. No number exists without one."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import NoneType
from typing import Any

from engine.contract import Refused
from engine.files import whole_text

SCHEMA = 1
VARIANT = ("r", "alpha", "targets", "l_p", "l_i", "drop", "top")  # the methods' own settings, as the paper calls them
PACKAGES = ("torch", "transformers", "datasets", "evaluate", "accelerate", "tokenizers", "safetensors", "numpy")


class NotWritten(Exception):
    """The disk would not take a finished run's record: what and why, in a line."""


@dataclass(frozen=True)
class Record:
    """What was run, how it came out, and all that is needed to know how the number came about. Unknown is null."""

    schema: int
    digest: str  # of settings, data and start: the run's identity
    task: str
    model: str
    method: str
    label: str  # the method as the paper's tables call it
    variant: str  # of the method: r=8 alpha=8 targets=q,v
    scale: str  # paper · demo
    data: str  # hub · folder · synthetic, and (subset) where the training file says so
    seed: int
    metric: str
    value: float | None  # of the best epoch, in the unit the paper prints
    numbers: Mapping[str, Any]  # all metrics of the best epoch
    footprint: Mapping[str, int]
    outcome: Mapping[str, Any]
    settings: Mapping[str, Any]  # as resolved
    sources: Mapping[str, str]  # where each hyperparameter comes from
    init_from: str | None  # digest of the record, or sha256 of the file, that the run started from
    commit: str | None
    dirty: bool | None
    versions: Mapping[str, str]
    model_revision: str | None
    data_revision: str | None
    data_sha256: str
    device: str
    started: str
    weights: str | None  # folder beside the record with best.safetensors, last.safetensors, adapter.json


def digest(settings: Mapping[str, Any], data_sha256: str, model_revision: str | None, init_from: str | None) -> str:
    """A run's identity: ten hex digits. Keys that begin with _ are comments and do not count."""
    said = json.dumps([plain(settings), data_sha256, model_revision, init_from], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:10]


def path_of(out: Path, scale: str, task: str, model: str, method: str, seed: int, digest: str) -> Path:
    """OUT/runs/<scale>/<task>/<model>-<method>-s<seed>-<digest>.json"""
    return out / "runs" / scale / task / f"{model}-{method}-s{seed}-{digest}.json"


def write(record: Record, path: Path) -> None:
    """Puts the record at path in one step: a reader sees all of it or nothing. Raises OSError, leaving no part."""
    text = json.dumps(_finite(asdict(record)), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    whole_text(path, text)


KINDS: dict[str, tuple[type, ...]] = {  # what a field holds, by its annotation; a bool is no number
    "str": (str,), "int": (int,), "bool | None": (bool, NoneType), "str | None": (str, NoneType),
    "float | None": (float, int, NoneType)}
TRAINED: dict[str, type | tuple[type, ...]] = {  # what a record of training has besides
    "outcome.best": dict, "outcome.last": dict, "outcome.notes": list, "outcome.seconds": (int, float),
    "footprint.trainable": int, "settings.task": dict, "settings.model": dict, "settings.scale": dict,
    "settings.recipe.name": str, "settings.precision": str}


def read(path: Path) -> Record:
    """One record, every field of its kind. Raises Refused when the file is not one of this schema."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_constant)
        if not isinstance(content, dict):
            raise ValueError("not an object")
        if content.get("schema") != SCHEMA:
            raise Refused(f"{path}: a record of schema {content.get('schema')}; this version reads {SCHEMA}")
        found = Record(**{field.name: content[field.name] for field in fields(Record)})
        _check(found)
        return found
    except KeyError as error:
        raise Refused(f"{path}: not a whole record: it has no {error.args[0]}") from None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise Refused(f"{path}: not a whole record ({error})") from None


def _check(found: Record) -> None:
    """Raises ValueError, naming the first field that is not what every reader of records relies on."""
    for field in fields(Record):
        kinds = KINDS.get(str(field.type), (Mapping,))
        _of_kind(field.name, getattr(found, field.name), kinds)
    for name, number in found.numbers.items():
        _of_kind(f"numbers.{name}", number, (float, int, NoneType))
    if "recipe" in found.settings:  # a latency study has none
        for key, kind in TRAINED.items():
            try:
                held = value(vars(found), key)
            except (KeyError, TypeError):
                raise ValueError(f"no {key}") from None
            _of_kind(key, held, kind if isinstance(kind, tuple) else (kind,))


def _of_kind(name: str, held: object, kinds: tuple[type, ...]) -> None:
    if not isinstance(held, kinds) or (isinstance(held, bool) and bool not in kinds):
        raise ValueError(f"{name} is {str(held)[:40]!r}")


def _constant(word: str) -> float:
    raise ValueError(f"{word} is no number of JSON")


def read_all(out: Path) -> tuple[list[Record], list[str]]:
    """Every readable record under OUT/runs, sorted by path, and what was wrong with the others."""
    records, broken = [], []
    for path in sorted((out / "runs").rglob("*.json")):
        if path.name in ("adapter.json", "training.json"):
            continue
        try:
            records.append(read(path))
        except Refused as error:
            broken.append(str(error))
    return records, broken


def versions() -> dict[str, str]:
    """The installed version of each package that can move a number."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit(root: Path) -> tuple[str | None, bool | None]:
    """The commit of the code, and whether code or configuration differ from it; None where git does not say."""
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--", ".", ":!results"))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def variant(settings: Mapping[str, Any]) -> str:
    """A method's own settings in a word: r=8 alpha=8 targets=q,v."""
    def word(value: Any) -> str:
        if isinstance(value, Mapping):
            return ",".join(f"{key}:{each}" for key, each in value.items())
        return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)

    def said(key: str) -> str:  # drop=1 drops one layer, drop=[1] the second
        return f"[{word(settings[key])}]" if key == "drop" and isinstance(settings[key], list) else word(settings[key])

    return " ".join(f"{key}={said(key)}" for key in VARIANT if key in settings)


def plain(node: Any) -> Any:
    """Settings without the keys that begin with _, which are comments."""
    if isinstance(node, Mapping):
        return {key: plain(value) for key, value in node.items() if not str(key).startswith("_")}
    return [plain(value) for value in node] if isinstance(node, (list, tuple)) else node


def value(settings: Mapping[str, Any], key: str) -> Any:
    """A setting by its dotted name."""
    node: Any = settings
    for part in key.split("."):
        node = node[part]
    return node


def _finite(node: Any) -> Any:
    """JSON knows no NaN: an undefined number (the correlation of constant predictions) is null."""
    if isinstance(node, Mapping):
        return {key: _finite(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_finite(value) for value in node]
    return None if isinstance(node, float) and not math.isfinite(node) else node
