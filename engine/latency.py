"""A latency study, from plain settings to its record: forward passes of a model, every method beside it."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import record
from engine.contract import Refused, generator
from engine.resolve import check_run, writable
from engine.spec import ModelSpec

if TYPE_CHECKING:
    import torch

    from engine.backbone import Backbone

SETTINGS = ("task.batches", "task.lengths", "task.ranks", "task.table1", "task.lora.r", "task.trials", "task.warmup",
            "task.precision", "seed", "runtime.device", "runtime.out", "runtime.force")
CHOICES = r"task|model|model/roles|model\.(path|attention|roles.*)"
Row = dict[str, Any]


def run(study: Any, settings: Mapping[str, Any], said: Sequence[str], root: Path) -> Path:
    """Times the study unless its record is there; returns the record's path. said: the words of the command line.

    Raises Refused before anything is written, and record.NotWritten when the disk takes no record at the end.
    """
    out = _check(settings, said)
    from engine import device as devices  # only now what takes seconds to import
    from engine import variants

    spec, seed = ModelSpec(**settings["model"]), settings["seed"]
    device, precision = devices.pick(settings["runtime"]["device"], study.precision)
    shape = variants.shaped(spec, study)
    kept = _identity(settings, shape, device)
    digest = record.digest(kept, "", None, None)
    path = record.path_of(out, settings["scale"]["name"], study.name, spec.name, "all", seed, digest)
    name = kept["machine"]["device"]
    title = f"{study.name} · {spec.name} · {name} · {precision}"
    if path.exists() and not settings["runtime"]["force"]:
        print(f"already there: {title}; runtime.force=true runs it again\nrecord {path}")
        return path
    counts = variants.counts(study, shape)
    commit, began, clock = record.commit(root), datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    cells = ", ".join(f"{batch} x {length}" for batch, length in study.cells())
    print(f"{title}\nbatch x length: {cells}; {study.trials} trials", flush=True)
    rows, missing = _measured(study, variants.built(shape, device, precision, seed), device, seed)
    if not rows:
        raise Refused(f"model={spec.name}: not one cell fits into the memory of {name}; say smaller task.batches")
    outcome = {"measurements": [{**row, "trainable": counts[row["method"], row["r"]]} for row in rows],
               "missing": missing, "seconds": round(time.perf_counter() - clock, 1)}
    done = _record(kept, digest, counts["whole"], outcome, {"commit": commit[0], "dirty": commit[1], "started": began})
    try:
        record.write(done, path)
    except OSError as error:
        raise record.NotWritten(f"{error.filename or path}: {error.strerror}; the study left no record") from None
    print(f"{words(rows, missing)}\nrecord {path}")
    return path


def _record(kept: Mapping[str, Any], digest: str, whole: Mapping[str, int], outcome: Mapping[str, Any],
            about: Mapping[str, Any]) -> record.Record:
    """The study as a record. kept: its identity; whole: the model's footprint; about: commit, dirty, started."""
    value = outcome["measurements"][0]["median"]
    return record.Record(
        schema=record.SCHEMA, digest=digest, task=kept["task"]["name"], model=kept["model"]["name"], method="all",
        label="", variant="", scale=kept["scale"]["name"], data="none", seed=kept["seed"], metric="forward_latency",
        value=value, numbers={"forward_latency": value}, footprint=whole, outcome=outcome, settings=kept, sources={},
        init_from=None, versions=record.versions(), model_revision=None, data_revision=None, data_sha256="",
        device=kept["machine"]["device"], weights=None, **about)


def _check(settings: Mapping[str, Any], said: Sequence[str]) -> Path:
    """The results folder, if every word of the command line means something here. Light: before torch is loaded."""
    for word in said:
        key = word.partition("=")[0]
        if key not in SETTINGS and not re.fullmatch(CHOICES, key):
            raise Refused(f"{word}: task=latency trains nothing: no method, recipe, scale or data\n"
                          f"its settings: model {' '.join(SETTINGS)}")
    check_run(settings)
    runtime = settings["runtime"]
    if not isinstance(runtime["out"], str) or not runtime["out"]:
        raise Refused(f"runtime.out={runtime['out']}: runtime.out must be a folder")
    out = Path(runtime["out"]).expanduser()
    writable(out)
    return out


def _identity(settings: Mapping[str, Any], shape: Backbone, device: torch.device) -> dict[str, Any]:
    """What makes the numbers: the grid and its methods, the model's shape, the machine and its libraries; no path."""
    import torch

    from engine import device as devices

    task = {key: value for key, value in settings["task"].items() if key != "run"}
    config = settings["model"]["config"]
    if config is None:  # a folder's own
        config = shape.model.config.to_diff_dict()
        config = {key: config[key] for key in config if key not in ("architectures", "transformers_version")}
    model = {"name": settings["model"]["name"], "config": config, "roles": settings["model"]["roles"]}
    machine = {"device": devices.name_of(device), "torch": torch.__version__,
               "transformers": record.versions()["transformers"], "attention": shape.model.config._attn_implementation,
               "float32_matmul": torch.get_float32_matmul_precision()}
    return record.plain({"task": task, "model": model, "scale": settings["scale"], "seed": settings["seed"],
                         "machine": machine})


def _measured(study: Any, base: Backbone, device: torch.device, seed: int) -> tuple[list[Row], list[Row]]:
    """A row for every variant of every cell, and the cells that the memory has no room for."""
    import torch
    from tqdm.auto import tqdm

    from engine import variants

    models = {(variant.name, variant.r): variants.adapted(base, variant, seed) for variant in variants.every(study)}
    vocabulary, stream = base.model.config.vocab_size, generator(seed, "tokens")
    tokens = sum(batch * length * len(study.variants(batch, length)) for batch, length in study.cells())
    rows: list[Row] = []
    missing = []
    with tqdm(total=tokens * (study.warmup + study.trials), desc=study.name, unit=" tokens", unit_scale=True,
              mininterval=0.5 if sys.stderr.isatty() else 20) as bar:
        for batch, length in study.cells():
            bar.set_postfix(batch=batch, length=length)
            # The ends of the vocabulary have the signs for padding, which some models leave out of the positions.
            ids = torch.randint(vocabulary // 4, vocabulary // 2, (batch, length), generator=stream).to(device)
            try:
                rows += _cell(study, models, ids, bar.update)
            except RuntimeError as error:
                if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                    raise
                missing.append({"batch": batch, "length": length, "why": "out of memory"})
    return rows, missing


def _cell(study: Any, models: Mapping[tuple[str, int], torch.nn.Module], ids: torch.Tensor,
          tick: Callable[[int], object]) -> list[Row]:
    """The rows of one cell. ids: (batch, length), the same for all variants."""
    import torch

    from engine import timing

    batch, length = ids.shape
    variants = study.variants(batch, length)
    calls = [partial(models[variant.name, variant.r], input_ids=ids) for variant in variants]
    wait = torch.cuda.synchronize if ids.is_cuda else lambda: None
    with torch.inference_mode():
        times = timing.interleaved(calls, study.warmup, study.trials, wait, time.perf_counter,
                                   lambda: tick(ids.numel()))
    return [{"batch": batch, "length": length, "method": variant.name, "label": variant.label, "r": variant.r,
             "trials": study.trials, **timing.summary(each, times[0])}
            for variant, each in zip(variants, times, strict=True)]


def words(rows: Sequence[Row], missing: Sequence[Row]) -> str:
    """The slow-downs in the first cell, the smallest, where they are largest; and what did not fit."""
    first = rows[0]
    lines = [f"batch {first['batch']}, length {first['length']}, median time and slow-down (quartiles over the rounds)"]
    for row in rows:
        if (row["batch"], row["length"]) == (first["batch"], first["length"]):
            name = f"{row['label']} r={row['r']}" if row["r"] else row["label"]
            lines.append(f"  {name:<22}{row['median']:10.2f} ms" + (
                f"  {row['slowdown']:+.1f} % ({row['slowdown_low']:+.1f} to {row['slowdown_high']:+.1f})"
                if row["r"] else ""))
    lines += [f"note: batch {cell['batch']}, length {cell['length']} is missing: {cell['why']}" for cell in missing]
    return "\n".join(lines)
