"""Where the output of attention and MLP goes, read off a forward pass: so an adapter finds its place in the same way in
every architecture, whatever the modules are called.

    o = projection(…)     h = dropout(o), if there is one     y = h + x     LN(y), where the layer normalises its sums
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from engine.backbone import Backbone
from engine.contract import Batch

ADDITIONS = (torch.add, torch.Tensor.add, torch.Tensor.add_)


@dataclass(frozen=True)
class Sublayer:
    """How attention or MLP ends."""

    h: str  # the module that gives h: the dropout behind the projection, or the projection itself
    norm: str | None  # the LayerNorm of this layer that reads y; None: y is the layer's output
    last: bool  # whether y or LN(y) is the layer's output


@dataclass(frozen=True)
class Step:
    """An operation of a forward pass: a module without parts, by its name, or a function outside of such a module."""

    by: str | Callable[..., Any]
    read: list[torch.Tensor]
    gave: torch.Tensor


class Trace(TorchFunctionMode):
    """The operations of a model's forward pass. Nothing is dropped in it, and a dropout gives the very tensor that it
    reads. Every tensor is kept, so that none is mistaken for an earlier one."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.model = model = backbone.model
        self.steps: list[Step]
        self.outputs: dict[str, Any]  # what each module gave; the first of several
        self._inside: bool  # a module without parts
        with torch.no_grad(), ExitStack() as stack:
            for module in model.modules():
                stack.callback(setattr, module, "training", module.training)
            model.eval()
            for name, module in model.named_modules():
                if not list(module.children()):
                    stack.callback(module.register_forward_pre_hook(self._enter).remove)
                stack.callback(module.register_forward_hook(partial(self._leave, name), with_kwargs=True).remove)
            backbone.blank_pass(self._forward, 1, 2)

    def _forward(self, batch: Batch) -> None:
        self.steps, self.outputs, self._inside = [], {}, False
        with self:
            self.model(**batch)

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        gave = func(*args, **(kwargs or {}))
        if not self._inside:
            self._note(func, args, kwargs or {}, gave)
        return gave

    def _enter(self, module: nn.Module, args: Any) -> None:
        self._inside = True

    def _leave(self, name: str, module: nn.Module, args: Any, kwargs: dict[str, Any], gave: Any) -> None:
        self.outputs[name] = gave[0] if isinstance(gave, (tuple, list)) else gave
        if not list(module.children()):
            self._inside = False
            self._note(name, args, kwargs, gave)

    def _note(self, by: str | Callable[..., Any], args: Any, kwargs: dict[str, Any], gave: Any) -> None:
        if isinstance(gave, torch.Tensor):
            given = [*args, *kwargs.values()]
            given += [each for some in given if isinstance(some, (list, tuple)) for each in some]  # torch.cat's
            self.steps.append(Step(by, [each for each in given if isinstance(each, torch.Tensor)], gave))

    def sublayer(self, layer: str, projection: str) -> Sublayer | None:
        """How the sub-layer that ends with this projection ends in that layer. None where it does not end as written
        above: what a projection gives is used twice, or scaled or normalised before it is added, or dropped by a
        function, in front of which no module can stand; or no LayerNorm reads the sum. None also where one of these
        modules is at work elsewhere, too."""
        steps = self.steps
        at = next((place for place, step in enumerate(steps) if step.by == projection), None)
        if at is None:
            return None
        h, readers = projection, self._readers(at)
        while readers and isinstance(steps[readers[0]].by, str) and steps[readers[0]].gave is steps[at].gave:
            h = str(steps[readers.pop(0)].by)
        if len(readers) != 1 or steps[readers[0]].by not in ADDITIONS:
            return None
        last = steps[readers[0]].gave is self.outputs[layer]
        norm = None if last else next((step for step in map(steps.__getitem__, self._readers(readers[0]))
                                       if isinstance(step.by, str) and self._normalises(step.by)), None)
        if norm is not None:
            last = norm.gave is self.outputs[layer]
        elif not last:
            return None
        name = None if norm is None else str(norm.by)
        used = [step.by for step in steps if step.by in (projection, h, name)]
        return Sublayer(h, name, last) if len(used) == len(set(used)) else None

    def _normalises(self, module: str) -> bool:
        return "norm" in type(self.model.get_submodule(module)).__name__.lower()

    def _readers(self, at: int) -> list[int]:
        """The places of the later steps that read what this one gave."""
        gave = self.steps[at].gave
        return [place for place in range(at + 1, len(self.steps)) if any(t is gave for t in self.steps[place].read)]
