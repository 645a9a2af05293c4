"""Adapter files from anywhere: ours, PEFT's and loralib's are read into one form, and written as ours or PEFT's.

    ours      best.safetensors or last.safetensors (….query.A.q, ….query.B.q, the head), adapter.json beside it
    peft      adapter_model.safetensors (base_model.model.….query.lora_A.weight, …), adapter_config.json
    loralib   a state dict saved by torch (….query.lora_A, ….query.lora_B, the head): .bin, .pt
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from engine.contract import Refused, number
from lora import loralib_files, pair, peft_files
from lora.loading import Keys, load
from lora.peft_files import write_peft
from lora.update import Adapter, Place, Update, adapter, described, places, roles, scaled, update

__all__ = ["Adapter", "Keys", "Update", "load", "read", "write", "write_peft"]
OURS = ("best.safetensors", "last.safetensors")


def read(path: Path, alpha: float | None = None) -> Adapter:
    """The adapter in a folder or file of any form. alpha is for files that do not say theirs, and holds for these only.

    Raises Refused on what is no LoRA adapter, not whole, or has a part that is not ΔW = scale · B A."""
    if alpha is not None:
        number("alpha", alpha, 0, open_low=True)
    if path.is_dir():
        file = next((path / name for name in OURS if (path / name).is_file()), None)
        if file is not None:
            return _read_ours(file, alpha)
        if (path / peft_files.CONFIG).is_file():
            return peft_files.read(path)
        raise Refused(f"{path}: no adapter in it; give a folder with {OURS[0]} or {peft_files.CONFIG}, or a file")
    if not path.is_file():
        raise Refused(f"{path}: no such file or folder")
    if path.name in (peft_files.CONFIG, peft_files.TENSORS):
        return peft_files.read(path.parent)
    if path.suffix == ".json":
        raise Refused(f"{path}: a JSON, no weights; give the folder with {OURS[0]}"
                      + (f": {path.with_suffix('')}" if path.with_suffix("").is_dir() else " if the run kept one"))
    return _read_ours(path, alpha) if path.suffix == ".safetensors" else loralib_files.read(path, alpha)


def write(adapter: Adapter, folder: Path) -> Path:
    """Writes best.safetensors, whose path it returns, and adapter.json beside it, as a run does. Of another form's
    adapter adapter.json keeps what can be known. Raises Refused."""
    tensors = dict(adapter.rest)
    for each in adapter.updates:
        tensors |= {f"{each.module}.A.{each.target}": each.A, f"{each.module}.B.{each.target}": each.B}
    about = adapter.about if adapter.form == "ours" else _about(adapter)
    path = folder / OURS[0]
    pair.write(tensors, {"updates": described(adapter.updates)}, path, about, folder / "adapter.json")
    return path


def _about(adapter: Adapter) -> dict[str, Any]:
    """adapter.json for an adapter that no run of ours made. A setting that is not one for all of a target is null."""
    ranks = {u.target: {v.A.shape[0] for v in adapter.updates if v.target == u.target} for u in adapter.updates}
    one = {target: found.pop() if len(found) == 1 else None for target, found in ranks.items()}
    alphas = {None if u.scale is None else round(u.scale * u.A.shape[0], 6) for u in adapter.updates}
    method = {"name": "lora", "label": "LoRA", "r": one if len(set(one.values())) > 1 else next(iter(one.values())),
              "alpha": alphas.pop() if len(alphas) == 1 else None, "targets": list(one)}
    config = {"peft": dict(adapter.about)} if adapter.form == "peft" else {}
    return {"model": adapter.about.get("base_model_name_or_path"), "from": adapter.form, "method": method} | config


def _read_ours(path: Path, alpha: float | None) -> Adapter:
    beside = path.with_name("adapter.json")
    about = pair.read_json(beside) if beside.is_file() else {}
    tensors, metadata = pair.read_tensors(path)
    said = {f"{module}.{place.target}": place for module, group in places(path, metadata).items() for place in group}
    factors = {name: found for name in tensors if (found := re.fullmatch(r"(.+)\.([AB])\.([^.]+)", name))}
    updates = []
    for module, target in sorted({(found[1], found[3]) for found in factors.values()}):
        for factor in "AB":
            if f"{module}.{factor}.{target}" not in tensors:
                raise Refused(f"{path}: {module}.{factor}.{target} is missing; A and B belong together")
        A, B = tensors[f"{module}.A.{target}"], tensors[f"{module}.B.{target}"]
        place = said.pop(f"{module}.{target}", None) or _place(path, about, module, target, A, B, alpha)
        if place.scale is None:
            place = Place(target, place.start, place.stop, place.r, scaled(alpha, place.r))
        updates.append(update(path, module, place, A, B))
    if said:
        raise Refused(f"{path}: {len(said)} updates that its metadata names are missing ({next(iter(said))}, …)")
    rest = {name: tensor for name, tensor in tensors.items() if name not in factors}
    return adapter(path, path.parent.resolve().name, "ours", updates, rest, about)


def _place(path: Path, about: Mapping[str, Any], module: str, target: str, A: torch.Tensor, B: torch.Tensor,
           alpha: float | None) -> Place:
    """Where a run's update belongs, from the role of its module, and its scale alpha / r from adapter.json."""
    rows, outputs = (sum(tensor.shape[:1]) for tensor in (A, B))  # 0 of what is no matrix, which update() refuses
    method = about.get("method")
    method = method if isinstance(method, Mapping) else {}
    method = method["lora"] if isinstance(method.get("lora"), Mapping) else method  # LoRA+PE and LoRA+PL
    r = method.get("r", rows)
    r = r.get(target) if isinstance(r, Mapping) else r
    if r != rows or not rows:
        raise Refused(f"{path}: A of {module} ({target}) has rank {rows}, and adapter.json says r={r}")
    said = method.get("alpha", alpha)
    if said is not None:
        number(f"{path}: alpha", said, 0, open_low=True)
    role = roles(module).get(target)
    start = role.part * outputs if role else 0
    return Place(target, start, start + outputs, rows, scaled(said, rows))
