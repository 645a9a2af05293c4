"""Puts an adapter into a model: every tensor has its place and every place its tensor, or nothing changes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from engine.backbone import Backbone
from engine.contract import Refused
from lora.layer import LoRALinear, Slice
from lora.update import Adapter, Update, by_module

CONSTANTS = re.compile(r"(.*\.)?(position_ids|token_type_ids|attn\.(masked_)?bias)")  # old files hold these masks


@dataclass(frozen=True)
class Keys:
    """How an adapter fits a model: names of tensors, those of LoRA as a run names them (….query.A.q)."""

    matched: Sequence[str]
    missing: Sequence[str]
    unexpected: Sequence[str]


def load(backbone: Backbone, adapter: Adapter) -> Keys:
    """Wraps the adapted modules with LoRALinear and copies the rest into the model, the file's names being the model's
    or their ends, or the other way round. The layers have no dropout.

    Raises Refused before anything changes when a tensor has no place, one of the head or of a layer has no tensor, a
    shape does not fit, the scale is not known, or the file's base weights hold the update already.
    """
    if any(u.scale is None for u in adapter.updates):
        raise Refused(f"{adapter.name}: its scale is not in the file; give alpha when reading it")
    model, groups = backbone.model, by_module(adapter.updates)
    modules = dict(model.named_modules())
    own: dict[str, torch.Tensor] = dict(model.state_dict(keep_vars=True))
    rest = {name: tensor for name, tensor in adapter.rest.items() if not CONSTANTS.fullmatch(name)}
    places, names = _matched(groups, modules), _matched(rest, own)
    keys = _keys(backbone, adapter, places, names, rest)
    wrong = [name for name, to in names.items() if rest[name].shape != own[to].shape]
    wrong += [module for module, to in places.items() if not _fits(groups[module], modules[to], backbone, to)]
    if keys.missing or keys.unexpected or wrong:
        parts = [f"{len(found)} {what} ({', '.join(found[:3])}{', …' if len(found) > 3 else ''})" for what, found in
                 (("missing", keys.missing), ("unexpected", keys.unexpected), ("of another shape", wrong)) if found]
        raise Refused(f"{adapter.name} does not fit this model: {len(keys.matched)} names match; " + "; ".join(parts))
    layers = {to: _layer(modules[to], groups[module]) for module, to in places.items()}
    for module, to in places.items():
        if f"{module}.weight" in rest and _merged(layers[to], rest[f"{module}.weight"]):
            raise Refused(f"{adapter.name}: its {module}.weight holds the update already (loralib's eval() merges); "
                          "save the model in train() mode")
    with torch.no_grad():
        for name, to in names.items():
            own[to].copy_(rest[name])
    for to, layer in layers.items():
        backbone.swap(to, layer)
    return keys


def _matched(names: Iterable[str], own: Iterable[str]) -> dict[str, str]:
    """The model's name for each of the file's: the same, or the only one of which one is the end of the other."""
    there = set(own)
    found: dict[str, str] = {}
    for name in names:
        ends = [name] if name in there else [
            other for other in there if other.endswith(f".{name}") or (other and name.endswith(f".{other}"))]
        if len(ends) == 1 and ends[0] not in found.values():
            found[name] = ends[0]
    return found


def _keys(backbone: Backbone, adapter: Adapter, places: Mapping[str, str], names: Mapping[str, str],
          rest: Iterable[str]) -> Keys:
    body = f"{backbone.model.base_model_prefix}."
    head = [name for name, _ in backbone.model.named_parameters() if name.startswith(backbone.head)]
    if adapter.form != "ours" or "from" in adapter.about:  # others leave BERT's pooler as it came with the weights
        head = [name for name in head if not name.startswith(body)]
    there = {(places[u.module], u.target): None for u in adapter.updates if u.module in places}
    left_out = [site for site in _asked(backbone, adapter) if site not in there]
    lost = [(u.module, u.target) for u in adapter.updates if u.module not in places]

    def factors(sites: Iterable[tuple[str, str]]) -> list[str]:
        return [f"{module}.{factor}.{target}" for module, target in sites for factor in "AB"]

    return Keys([*factors(there), *names.values()],
                [*factors(left_out), *(name for name in head if name not in names.values())],
                [*factors(lost), *(name for name in rest if name not in names)])


def _asked(backbone: Backbone, adapter: Adapter) -> list[tuple[str, str]]:
    """The modules and targets that must have an update: all that play the parts of the adapter's targets, or those
    among them that PEFT's configuration names, which can adapt some layers only."""
    beside = adapter.about.get("peft")
    config = beside if isinstance(beside, Mapping) else adapter.about
    named = config.get("target_modules")
    if config.get("exclude_modules") or config.get("layers_to_transform") is not None:
        return []

    def asked(module: str) -> bool:
        if isinstance(named, str):
            return re.fullmatch(named, module) is not None
        return named is None or any(f".{module}".endswith(f".{name}") for name in named)

    modules = [name for name, _ in backbone.model.named_modules()]
    targets = [target for target in dict.fromkeys(u.target for u in adapter.updates) if target in backbone.roles]
    try:
        return [(module, target) for target in targets for module in modules
                if re.fullmatch(backbone.roles[target].pattern, module) and asked(module)]
    except (re.error, TypeError) as error:
        raise Refused(f"{adapter.name}: target_modules={named}: neither names nor a pattern ({error})") from None


def _fits(updates: Sequence[Update], module: nn.Module, backbone: Backbone, name: str) -> bool:
    """Whether a module is a linear layer that has the inputs and outputs of these updates."""
    outputs = getattr(module, "out_features", getattr(module, "nf", None))  # nf: transformers' Conv1D
    if outputs is None:
        return False
    for u in updates:
        role = backbone.roles.get(u.target)
        part, parts = (role.part, role.parts) if role and re.fullmatch(role.pattern, name) else (0, 1)
        width = outputs // parts
        if (u.start, u.stop) != (part * width, (part + 1) * width):
            return False
    return all(module.get_parameter("weight").numel() == outputs * u.A.shape[1] for u in updates)


def _layer(base: nn.Module, updates: Sequence[Update]) -> LoRALinear:
    """A layer with the adapter's own A, B and scale, in the precision and on the device of the base weight."""
    weight = base.get_parameter("weight")
    slices = [Slice(u.target, u.start, u.stop, u.A.shape[0]) for u in updates]
    layer = LoRALinear(base, slices, 1.0, 0.0, "gaussian", 0.0, torch.Generator())  # what it draws is replaced
    for u in updates:
        layer.A[u.target] = nn.Parameter(u.A.to(weight.device, weight.dtype, copy=True))
        layer.B[u.target] = nn.Parameter(u.B.to(weight.device, weight.dtype, copy=True))
        layer.scale[u.target] = float(u.scale or 0)
    return layer


def _merged(layer: LoRALinear, weight: torch.Tensor) -> bool:
    """Whether a weight is W0 + delta rather than W0."""
    delta = layer.delta().T if layer.transposed else layer.delta()
    moved = weight.to(delta) - layer.base.get_parameter("weight").to(delta)
    return bool(delta.norm() > 0 and (moved - delta).norm() < 0.01 * delta.norm())
