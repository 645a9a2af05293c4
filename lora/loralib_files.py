"""loralib's files, the official repository's: a state dict saved by torch. Nothing but tensors is ever unpickled.

MergedLinear keeps n enabled slices of a fused projection in one A (n r, d_in) and one B (n d, r): the slices' own A and
B stacked. n = 2 of q, k, v is q and v, the official setting.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from engine.contract import Refused
from lora.update import Adapter, Place, Update, adapter, last, parent, plain, roles, scaled, update

WRAPPERS = ("model_state_dict", "state_dict", "model")  # under which a checkpoint keeps its tensors
ENABLED = {2: ("q", "v"), 3: ("q", "k", "v")}


def read(path: Path, alpha: float | None) -> Adapter:
    """The adapter in a loralib file; its scale is alpha / r, or not known. Raises Refused, also on a pickle with
    anything but named tensors in it."""
    tensors = _tensors(path)
    modules = sorted({parent(name) for name in tensors if last(name) in ("lora_A", "lora_B")})
    updates: list[Update] = []
    for module in modules:
        A, B = (tensors.pop(f"{module}.lora_{factor}", None) for factor in "AB")
        if A is None or B is None:
            raise Refused(f"{path}: {module}.lora_{'A' if A is None else 'B'} is missing; A and B belong together")
        plain(f"{path}: {module}", A, B)
        updates += _updates(path, module, A, B, alpha)
        _linear(path, module, A, B, tensors)
    return adapter(path, path.stem, "loralib", updates, tensors, {})


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file can make the unpickler raise anything
        # torch's own words advise weights_only=False, which runs whatever the file says
        named = re.search(r"(?:GLOBAL|class|global) ([\w.]+)", str(error))
        why = f"; it holds a {named[1]}" if named else ""
        raise Refused(f"{path}: not a file that torch saved with nothing but tensors in it{why}") from None
    while isinstance(held, dict) and len(held) == 1 and next(iter(held)) in WRAPPERS:
        held = next(iter(held.values()))
    if not isinstance(held, dict):
        raise Refused(f"{path}: holds a {type(held).__name__}, not names with tensors")
    odd = [name for name, value in held.items() if not (isinstance(name, str) and isinstance(value, torch.Tensor))]
    if odd:
        raise Refused(f"{path}: '{odd[0]}' is not a tensor with a name; save the model's state dict alone")
    return {name: tensor.detach() for name, tensor in held.items()}


def _linear(path: Path, module: str, A: torch.Tensor, B: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raises Refused on what is, or may be, a convolution: with a kernel k wide loralib's A is (r k, d_in k) and its B
    (d_out k, r k), so they look like a linear layer's of rank r k."""
    weight = tensors.get(f"{module}.weight")
    if f"{module}.conv.weight" in tensors or (weight is not None and weight.dim() > 2):
        raise Refused(f"{path}: {module} is a convolution; LoRA is read on linear layers only")
    if weight is None and not roles(module) and math.gcd(*A.shape, *B.shape) > 1:
        raise Refused(f"{path}: {module}: a linear layer's A and B or, of a smaller r, a convolution's?\n"
                      "its weight would say: save the model's whole state dict")


def _updates(path: Path, module: str, A: torch.Tensor, B: torch.Tensor, alpha: float | None) -> Iterator[Update]:
    """A module's updates, one a slice: A (n r, d_in), B (n d, r)."""
    shapes = f"A {tuple(A.shape)}, B {tuple(B.shape)}"
    if A.ndim != 2 or B.ndim != 2 or not A.numel() or not B.numel() or A.shape[0] % B.shape[1]:
        raise Refused(f"{path}: {module}: {shapes}: not loralib's (n r, d_in) and (n d, r)")
    n, r = A.shape[0] // B.shape[1], B.shape[1]
    parts = {target: role for target, role in roles(module).items() if role.parts > 1}
    if not parts and n == 1:
        target = next(iter(roles(module)), last(module))
        yield update(path, module, Place(target, 0, len(B), r, scaled(alpha, r)), A, B)
        return
    shared = n == 1 and len(B) == len(parts) * A.shape[1]  # lora.Linear on the whole projection
    enabled = tuple(parts) if shared else ENABLED.get(n, ())
    if not enabled or not set(enabled) <= parts.keys() or len(B) % len(enabled):
        raise Refused(f"{path}: {module}: {shapes}: which of its slices the {n} updates belong to is not known")
    width = len(B) // len(enabled)
    for i, target in enumerate(enabled):
        start = parts[target].part * width
        own, at = (A, start) if shared else (A[i * r:(i + 1) * r], i * width)
        yield update(path, module, Place(target, start, start + width, r, scaled(alpha, r)), own, B[at:at + width])
