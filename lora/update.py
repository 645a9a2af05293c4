"""What an adapter file holds, whoever wrote it: the updates ΔW = scale · B A by layer and target, and the rest."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import yaml

from engine.backbone import Role
from engine.contract import Refused, number

ROLES = Path(__file__).resolve().parents[1] / "conf" / "model" / "roles"
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
ORDER = ("q", "k", "v", "o", "ff")


@dataclass(frozen=True)
class Update:
    """One ΔW = scale · B A of one weight matrix, in factors."""

    module: str  # the adapted module's name as the file has it: bert.encoder.layer.0.attention.self.query
    layer: int  # from 1, as the paper counts; 0: the name has no number
    target: str  # the paper's name: q k v o ff; a module's last name where no role is known
    A: torch.Tensor  # (r, d_in)
    B: torch.Tensor  # (d_out, r)
    scale: float | None  # alpha / r; None: the file does not say (loralib's), so norms are those of BA
    start: int  # the outputs [start, stop) of the module that it changes
    stop: int


@dataclass(frozen=True)
class Adapter:
    """The content of an adapter file. Slices of a fused projection may share one A."""

    name: str  # what to call it: the file's folder; a loralib file's own name
    form: str  # ours · peft · loralib
    updates: Sequence[Update]  # by layer, then q k v o ff, then module
    rest: Mapping[str, torch.Tensor]  # everything else in the file (the trained head)
    about: Mapping[str, Any]  # what the file's JSON says of it ({} for loralib)


@dataclass(frozen=True)
class Place:
    """What a file says of an update beside its A and B: how they are cut out, and the scale."""

    target: str
    start: int
    stop: int
    r: int
    scale: float | None


@cache
def _roles() -> tuple[tuple[str, Role], ...]:
    """Every role of conf/model/roles, the one place where the patterns are written."""
    found = []
    for path in sorted(ROLES.glob("*.yaml")):
        for target, said in yaml.safe_load(path.read_text(encoding="utf-8")).items():
            found.append((target, Role(**said) if isinstance(said, dict) else Role(said, 0, 1)))
    return tuple(found)


def roles(module: str) -> dict[str, Role]:
    """The paper's names for a module's outputs, by part: q, k and v for a fused projection, {} where none is known."""
    return {target: role for target, role in _roles() if re.fullmatch(role.pattern, f".{module}")}


def last(module: str) -> str:
    """A module's last name: its target where no role is known."""
    return module.rpartition(".")[2]


def parent(name: str) -> str:
    """The module that a tensor belongs to."""
    return name.rpartition(".")[0]


def scaled(alpha: float | None, r: int) -> float | None:
    """alpha / r; None where alpha is not known."""
    return None if alpha is None else alpha / r


def plain(where: str, A: torch.Tensor, B: torch.Tensor) -> None:
    """Raises Refused unless A and B are plain tensors in a precision that linear algebra takes. Before their shapes are
    asked for, which a nested tensor has not."""
    for name, tensor in (("A", A), ("B", B)):
        if _odd(tensor) or tensor.dtype not in DTYPES:
            raise Refused(f"{where}: {name} is {_odd(tensor) or tensor.dtype}; A and B must be plain tensors of "
                          "floating point with 16, 32 or 64 bits")


def _odd(tensor: torch.Tensor) -> str:
    """What keeps a tensor from being plain numbers one by one; "": nothing."""
    if tensor.is_nested or tensor.is_meta:
        return "nested" if tensor.is_nested else "on the meta device, without its numbers"
    return "" if tensor.layout == torch.strided else str(tensor.layout)


def update(path: Path, module: str, place: Place, A: torch.Tensor, B: torch.Tensor) -> Update:
    """An update, checked: A (r, d_in) and B (stop - start, r) are matrices of the rank that the file says. Raises
    Refused."""
    where = f"{path}: {module} ({place.target})"
    plain(where, A, B)
    shapes = f"A {tuple(A.shape)}, B {tuple(B.shape)}"
    if A.ndim != 2 or B.ndim != 2 or not A.numel() or not B.numel():
        raise Refused(f"{where}: {shapes}: not two matrices (r, d_in) and (d_out, r)")
    if not A.shape[0] == B.shape[1] == place.r:
        raise Refused(f"{where}: {shapes}: their ranks disagree, or r={place.r} is said beside them")
    if place.start < 0 or place.stop - place.start != B.shape[0]:
        raise Refused(f"{where}: {shapes}: B is not of the outputs [{place.start}, {place.stop})")
    layer = next((part for part in module.split(".") if part.isdecimal()), "")
    if len(layer) > 9:
        raise Refused(f"{path}: a module's name has a layer's number of {len(layer)} digits")
    return Update(module, int(layer or -1) + 1, place.target, A, B, place.scale, place.start, place.stop)


def adapter(path: Path, name: str, form: str, updates: Iterable[Update], rest: Mapping[str, torch.Tensor],
            about: Mapping[str, Any]) -> Adapter:
    """An adapter with its updates in order. Raises Refused when there is none, or two change the same outputs, or a
    tensor of the rest is not plain."""
    found = list(updates)
    for key, tensor in rest.items():
        if _odd(tensor):
            raise Refused(f"{path}: {key} is {_odd(tensor)}, not a plain tensor")
    if not found:
        method = about.get("method")
        named = method.get("label", method.get("name")) if isinstance(method, Mapping) else None
        seems = f"what {named} trained" if named else f"{len(rest)} tensors such as {next(iter(rest), '(none)')}"
        raise Refused(f"{path}: no LoRA update in it; it seems to be {seems}")
    for one, two in pairwise(sorted(found, key=lambda u: (u.module, u.start))):
        if one.module == two.module and (two.start < one.stop or one.A.shape[1] != two.A.shape[1]):
            raise Refused(f"{path}: {one.module}: {one.target} and {two.target} overlap or read inputs of other sizes")

    def order(u: Update) -> tuple[int, int, str, int]:
        return u.layer, ORDER.index(u.target) if u.target in ORDER else len(ORDER), u.module, u.start

    return Adapter(name, form, sorted(found, key=order), dict(rest), about)


def by_module(updates: Iterable[Update]) -> dict[str, list[Update]]:
    """The updates of each module, by the outputs that they change."""
    groups: dict[str, list[Update]] = {}
    for each in sorted(updates, key=lambda u: u.start):
        groups.setdefault(each.module, []).append(each)
    return dict(sorted(groups.items()))


def described(updates: Iterable[Update]) -> str:
    """What a safetensors file's metadata says of its updates, exactly (JSON)."""
    return json.dumps([[u.module, u.target, u.start, u.stop, u.A.shape[0], u.scale] for u in updates])


def places(path: Path, metadata: Mapping[str, str]) -> dict[str, list[Place]]:
    """What described() said, by module, in its order; {} for a file of another hand. Raises Refused."""
    found: dict[str, list[Place]] = {}
    try:
        for module, target, start, stop, r, scale in json.loads(metadata.get("updates", "[]")):
            for value in (start, stop, r):
                number("updates", value, 0, whole=True)
            if scale is not None:
                number("updates", scale, 0)
            found.setdefault(str(module), []).append(Place(str(target), start, stop, r, scale))
    except (ValueError, TypeError, RecursionError, Refused) as error:
        raise Refused(f"{path}: its metadata does not describe updates ({error})") from None
    return found
