"""Frozen weights need no care that trained ones do: hold them in 16 bits while training, or fold updates into them.

Under autocast every linear layer casts its float32 weight in every forward (autocast remembers the copy of a weight
that trains, of no other), and the graph keeps the copy for the backward. A weight that never changes is cast once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
CAST = (nn.Linear, nn.Conv1d, Conv1D)  # autocast casts their weight and bias, whatever reaches them

Place = tuple[nn.Module, str, nn.Parameter]  # a module, and the name of its own parameter


@contextmanager
def held(model: nn.Module, precision: str) -> Iterator[None]:
    """The frozen float32 weights and biases that autocast would cast are 16-bit copies, within; with fp32, nothing.

    The same numbers, to the bit. Whatever else reads such a weight (an embedding tied to the output layer) still reads
    float32. Parameters that share their storage share the copy: put several models into one nn.ModuleList. Afterwards
    the very same parameters are back. Enter behind accelerate's prepare(), with the model on its device: on a GPU the
    float32 originals wait on the CPU. Within, merge nothing, and compute under autocast only.
    """
    places = _places(model) if precision in HALF else []
    copies: dict[object, nn.Parameter] = {}
    try:
        for module, name, parameter in places:
            key = _storage(parameter)
            if key not in copies:
                copies[key] = nn.Parameter(parameter.detach().to(HALF[precision]), requires_grad=False)
            setattr(module, name, copies[key])
        with _waiting(_originals(model, places)):
            yield
    finally:
        for module, name, parameter in places:
            setattr(module, name, parameter)


def _places(model: nn.Module) -> list[Place]:
    """Where a frozen float32 weight or bias stands that only its own module computes with. By the exact type: a
    subclass may do anything with its weight."""
    return [(module, name, parameter) for module in model.modules() if type(module) in CAST
            for name, parameter in module.named_parameters(recurse=False)
            if not parameter.requires_grad and parameter.dtype == torch.float32]


def _storage(parameter: torch.Tensor) -> object:
    """What two parameters with the same numbers in the same memory have in common."""
    return parameter.data_ptr(), parameter.shape, parameter.stride()


def _originals(model: nn.Module, places: Sequence[Place]) -> list[nn.Parameter]:
    """The replaced parameters that nobody reads meanwhile: not those of a tied embedding."""
    read = {_storage(parameter) for parameter in model.parameters()}
    return [parameter for parameter in {id(p): p for _, _, p in places}.values() if _storage(parameter) not in read]


@contextmanager
def _waiting(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Their numbers are on the CPU, within (on the CPU they just stay), each once, and then back where they were."""
    homes = [parameter.device for parameter in parameters]
    try:
        _move(parameters, [torch.device("cpu")] * len(homes))
        yield
    finally:
        _move(parameters, homes)


def _move(parameters: Sequence[nn.Parameter], devices: Sequence[torch.device]) -> None:
    """Parameters that share their storage do so afterwards too."""
    moved: dict[object, torch.Tensor] = {}
    for parameter, device in zip(parameters, devices, strict=True):
        key = _storage(parameter)
        if key not in moved:
            moved[key] = parameter.data.to(device)
        parameter.data = moved[key]


@contextmanager
def merged(model: nn.Module) -> Iterator[None]:
    """Every module that can fold its update into its weight has done so, within (Section 4.1): the plain network, with
    the base's speed. In float32 outputs change by rounding only; afterwards the weights are what they were, to the
    bit. For weights in float32: in 16 bits, or within held(), the sum of W0 and the update would be rounded."""
    folded: list[Any] = []
    try:
        for module in [each for each in model.modules() if hasattr(each, "merge")]:
            cast(Any, module).merge()
            folded.append(module)
        yield
    finally:
        for module in folded:
            module.unmerge()
