"""PEFT's adapter folders. PEFT gives a module one A (r, d_in) and one B (d_out, r), a fused projection too.

Read: B's slices are the updates of q, k and v, which share A. Written: see blocks.py; the file's metadata says how to
cut them apart again.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from engine.contract import Refused, number
from lora import pair
from lora.blocks import cut, joined, rank
from lora.update import ROLES, Adapter, Place, adapter, by_module, described, last, parent, places, roles, update

CONFIG, TENSORS, PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model.model."
# What makes the module's output something else than (W0 + scale B A) x + b of the base model.
BEYOND = ("use_dora", "lora_bias", "layer_replication", "alora_invocation_tokens", "use_qalora", "use_bdlora",
          "velora_config", "kasa_config", "monteclora_config", "arrow_config", "target_parameters",
          "trainable_token_indices", "enable_lora")
CONV1D = re.compile(r"\.h\.\d+\.(attn|mlp)\.c_")  # GPT-2's layers, which keep W0 as (d_in, d_out)
STARTS = (None, True, False, "gaussian", "eva", "orthogonal")  # the others change W0, which the file does not hold


def read(folder: Path) -> Adapter:
    """The adapter in a PEFT folder; heads and biases that it saved go to the rest. Raises Refused, also on what PEFT
    calls LoRA but is no W0 + scale B A of the base model's own W0."""
    config, path = pair.read_json(folder / CONFIG), folder / TENSORS
    if config.get("peft_type") != "LORA":
        raise Refused(f"{folder}: an adapter of PEFT's type {config.get('peft_type')}, not LORA")
    odd = [key for key in BEYOND if config.get(key)]
    if odd or config.get("init_lora_weights") not in STARTS:
        key = odd[0] if odd else "init_lora_weights"
        raise Refused(f"{folder}: {key}={config[key]}: not LoRA on the base model as it is; convert it with PEFT")
    if not path.is_file():
        raise Refused(f"{folder}: no {TENSORS}; a pickle (.bin) is not read: save it with safe_serialization=True")
    tensors, metadata = pair.read_tensors(path)
    factors: dict[str, dict[str, torch.Tensor]] = {}
    rest = {}
    for name, tensor in tensors.items():
        inner = name.removeprefix(PREFIX)
        found = re.fullmatch(r"(.+)\.lora_([AB])\.(?:[^.]+\.)?weight", inner)
        if inner == name or (".lora_" in inner and not found):
            raise Refused(f"{path}: {name}: not a tensor of plain LoRA on a model's linear layers")
        if found:
            factors.setdefault(found[1], {})[found[2]] = tensor
        elif ".original_module." not in inner:  # what a saved module was before it trained
            rest[re.sub(r"\.(base_layer|modules_to_save\.[^.]+)(?=\.)", "", inner)] = tensor
    said = places(path, metadata)
    updates = []
    for module, own in factors.items():
        if len(own) < 2:
            raise Refused(f"{path}: {module} has lora_{next(iter(own))} alone; A and B belong together")
        A, B = own["A"], own["B"]
        scale = _scale(folder, config, module, A)
        whole = Place(last(module), 0, sum(B.shape[:1]), sum(A.shape[:1]), scale)
        update(path, module, whole, A, B)  # as a whole it must be one, however it is cut
        updates += cut(path, module, said.pop(module, []) or _slices(module, whole, A.shape[1]), A, B, scale)
    if said:
        raise Refused(f"{path}: {len(said)} modules that its metadata names are missing ({next(iter(said))}, …)")
    return adapter(path, folder.resolve().name, "peft", updates, rest, config)


def _scale(folder: Path, config: Mapping[str, Any], module: str, A: torch.Tensor) -> float:
    """alpha / r, or alpha / sqrt(r) (rsLoRA), of a module. A (r, d_in)."""
    values: dict[str, Any] = {}
    for key, pattern in (("r", "rank_pattern"), ("lora_alpha", "alpha_pattern")):
        values[key] = config.get(key)
        own = config.get(pattern) or {}
        try:
            found = [value for name, value in own.items() if re.match(rf"(.*\.)?({name})$", module)]  # PEFT's own rule
        except (AttributeError, re.error) as error:
            raise Refused(f"{folder / CONFIG}: {pattern}={own}: not names with numbers ({error})") from None
        values[key] = found[0] if found else values[key]
        number(f"{CONFIG}: {key}", values[key], 0, whole=key == "r")
    r, alpha = values["r"], values["lora_alpha"]
    if not r or A.shape[:1] != (r,):
        raise Refused(f"{folder}: A of {module} is {tuple(A.shape)}, and {CONFIG} says r={r}")
    return float(alpha / (math.sqrt(r) if config.get("use_rslora") else r))


def _slices(module: str, whole: Place, d_in: int) -> list[Place]:
    """The updates of a module that PEFT wrote: one, or one each of the parts, d_in wide, of a fused projection."""
    known = roles(module)
    if whole.stop == len(known) * d_in and all(role.parts == len(known) for role in known.values()):
        return [Place(target, role.part * d_in, (role.part + 1) * d_in, whole.r, whole.scale)
                for target, role in known.items()]
    fused = any(role.parts > 1 for role in known.values())  # another model's: [q|k|v], but of other widths
    return [whole if fused else Place(next(iter(known), whole.target), 0, whole.stop, whole.r, whole.scale)]


def write_peft(adapter: Adapter, folder: Path) -> Path:
    """Writes adapter_model.safetensors, whose path it returns, and adapter_config.json; modules of the rest become
    modules_to_save. Raises Refused on an unknown scale and on what PEFT has no place for."""
    groups = by_module(adapter.updates)
    odd = sorted(name for name in adapter.rest if not _whole_module(name, adapter.rest) or parent(name) in groups)
    if odd:
        raise Refused(f"{adapter.name}: PEFT keeps whole modules beside LoRA, and has no place for {odd[0]}")
    tensors = {f"{PREFIX}{name}": tensor for name, tensor in adapter.rest.items()}
    ranks, alphas = {}, {}
    for module, updates in groups.items():
        known = [u.scale for u in updates if u.scale is not None]
        if len(known) < len(updates):
            raise Refused(f"{adapter.name}: its scale is not in the file; give alpha when reading it")
        parts = {roles(module)[u.target].parts for u in updates if u.target in roles(module)}
        outputs = max(parts, default=1) * (updates[0].stop - updates[0].start)
        if updates[-1].stop > outputs:
            raise Refused(f"{adapter.name}: conf/model/roles does not say how many outputs {module} has")
        ranks[module] = rank(updates)
        alphas[module] = _alpha(max(known), ranks[module])
        A, B = joined(updates, alphas[module] / ranks[module], outputs)
        tensors |= {f"{PREFIX}{module}.lora_A.weight": A, f"{PREFIX}{module}.lora_B.weight": B}
    path = folder / TENSORS
    pair.write(tensors, {"updates": described(u for group in groups.values() for u in group)}, path,
               _config(adapter, ranks, alphas), folder / CONFIG)
    return path


def _whole_module(name: str, rest: Mapping[str, torch.Tensor]) -> bool:
    """Whether a tensor of the rest belongs to a module of the head, not to a bias or a prefix trained on its own."""
    return (last(name) in ("weight", "bias") and f"{parent(name)}.weight" in rest
            and "special" not in name.split("."))  # the name of what PreEmbed and PreLayer add


def _alpha(scale: float, r: int) -> float:
    """The alpha of a scale alpha / r, without the noise of having been divided."""
    near = round(scale * r, 6)
    alpha = near if near / r == scale else scale * r
    return int(alpha) if alpha == int(alpha) else alpha


def _config(adapter: Adapter, ranks: Mapping[str, int], alphas: Mapping[str, float]) -> dict[str, Any]:
    """adapter_config.json. PEFT matches the ends of names: whole ones are matched by no other module."""
    (r, _), (alpha, _) = (Counter(found.values()).most_common(1)[0] for found in (ranks, alphas))
    about = adapter.about
    name, revision = about.get("base_model_name_or_path", about.get("model")), about.get("revision")
    if adapter.form == "ours" and "from" not in about:
        name, revision = _hub(str(about.get("model")))
    return {"peft_type": "LORA", "task_type": None, "base_model_name_or_path": name, "revision": revision,
            "inference_mode": True, "r": r, "lora_alpha": alpha, "use_rslora": False, "lora_dropout": 0.0,
            "bias": "none", "fan_in_fan_out": any(CONV1D.search(f".{module}") for module in ranks),
            "target_modules": list(ranks), "init_lora_weights": True,
            "rank_pattern": {module: own for module, own in ranks.items() if own != r},
            "alpha_pattern": {module: own for module, own in alphas.items() if own != alpha},
            "modules_to_save": sorted({parent(name) for name in adapter.rest}) or None}


def _hub(model: str) -> tuple[str | None, str | None]:
    """The hub's name and revision of one of conf/model; None where it is not on the hub."""
    path = ROLES.parent / f"{model}.yaml"
    said = yaml.safe_load(path.read_text(encoding="utf-8")) if path.parent == ROLES.parent and path.is_file() else {}
    name = str(said.get("path", ""))
    on_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not name.startswith("assets/")
    return (name, said.get("revision")) if on_hub else (None, None)
