"""Several runs on one frozen base: one forward pass for all, each example with its own run's trained parameters.

The runs' batches lie one behind the other in one batch, of which the frozen base takes note of nothing. Where an
operation meets a trained parameter of that model, it is done with the stack of all runs' parameters instead,
each on its own part of the batch, and dropout draws from each run's own generator what it would draw alone. Layers and
methods know nothing of it: torch hands every call to Together while it is active. No example of one run can reach
another's gradient, so the sum of the runs' losses goes backward at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from engine.contract import Batch


def share(first: nn.Module, other: nn.Module) -> None:
    """The other model's frozen parameters become the first's: the same numbers, once in memory."""
    theirs = dict(first.named_parameters())
    for name, parameter in other.named_parameters():
        if not parameter.requires_grad:
            parameter.data = theirs[name].data


Part = tuple[int, slice]  # of a run's rows in a joint batch, how many are its own, and which columns they fill


def parts(batch: Batch, counts: Sequence[int]) -> list[Part]:
    """Of a joint batch on the CPU. counts: the rows of each run that are its own; the others only fill it up."""
    masks = batch["attention_mask"].view(len(counts), -1, batch["attention_mask"].shape[1])
    used = [mask[:count].any(0).nonzero().flatten().tolist() or [0] for mask, count in zip(masks, counts, strict=True)]
    return [(count, slice(columns[0], columns[-1] + 1)) for count, columns in zip(counts, used, strict=True)]


class Together(TorchFunctionMode):
    """The forward pass of several runs (models) through one model, the host. They are alike but for the values of what
    trains, its ranks (padded with zeros, which stay zero) and what LoRA scales by.

    generators: each run's dropout stream, on the device where it is drawn.
    """

    def __init__(self, host: nn.Module, models: Sequence[nn.Module], generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        self.runs = len(models)
        self.generators = generators
        parameters, gains = [dict(model.named_parameters()) for model in models], [_gains(model) for model in models]
        scale = _gains(host)
        self._own: dict[int, list[tuple[nn.Parameter, float]]] = {
            id(parameter): [(own[name], gain.get(name, 1.0) / scale.get(name, 1.0))
                            for own, gain in zip(parameters, gains, strict=True)]
            for name, parameter in host.named_parameters() if parameter.requires_grad}
        self._stacks: dict[int, torch.Tensor] = {}
        self.rows = self.columns = 0  # of the joint batch
        self._own_parts: Sequence[Part] = ()

    @contextmanager
    def batch(self, batch: Batch, own: Sequence[Part] = ()) -> Iterator[None]:
        """Within, the host takes this joint batch: as many rows of each run, in the order of the runs. own: what of it
        each run's own batch would have, parts(); only asked for where something is dropped."""
        self.rows, self.columns = batch["attention_mask"].shape
        self._own_parts, self._stacks = own, {}
        with self:
            yield
        self._stacks = {}

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        done = OPERATIONS.get(func)
        if done is not None:
            return done(self, *args, **(kwargs or {}))
        given = [*args, *(kwargs or {}).values()]
        given += [each for some in given if isinstance(some, (list, tuple)) for each in some]
        if any(id(each) in self._own for each in given) and not _asks(func):
            raise NotImplementedError(f"{func.__name__} of a trained parameter is not known for several runs at once")
        return func(*args, **(kwargs or {}))

    def _stack(self, parameter: torch.Tensor | None) -> torch.Tensor | None:
        """All runs' (runs, …); None if it is frozen."""
        key = id(parameter)
        if parameter is None or key not in self._own:
            return None
        if key not in self._stacks:
            own = self._own[key]
            shape = [max(sizes) for sizes in zip(*(each.shape for each, _ in own), strict=True)]
            self._stacks[key] = torch.stack([_padded(each if gain == 1 else each * gain, shape) for each, gain in own])
        return self._stacks[key]

    def _apart(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, …, d) or (rows x columns, d) as (runs, what each has, d)."""
        if x.shape[0] != self.rows and not (x.ndim == 2 and x.shape[0] == self.rows * self.columns):
            raise NotImplementedError(f"{tuple(x.shape)} meets a trained parameter, and is not of {self.rows} examples")
        return x.reshape(self.runs, -1, x.shape[-1])

    def linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """x W^T + b; either of the two may be trained."""
        own = self._stack(weight)
        return self._affine(x, weight.t() if own is None else own.transpose(1, 2), own is not None, bias)

    def addmm(self, bias: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """x W + b, as transformers' Conv1D has it."""
        own = self._stack(weight)
        return self._affine(x, weight if own is None else own, own is not None, bias)

    def _affine(self, x: torch.Tensor, weight: torch.Tensor, trained: bool, bias: torch.Tensor | None) -> torch.Tensor:
        """x weight + bias, where at least one may be the runs' own: weight (d_in, d_out) or, trained, one a run."""
        added = self._stack(bias)
        if not trained and added is None:
            return F.linear(x, weight.t(), bias)
        y = torch.bmm(self._apart(x), weight) if trained else self._apart(F.linear(x, weight.t()))
        if bias is not None:
            y = y + (bias if added is None else added[:, None]).to(y.dtype)
        return y.view(*x.shape[:-1], y.shape[-1])

    def layer_norm(self, x: torch.Tensor, shape: Sequence[int], weight: torch.Tensor | None = None,
                   bias: torch.Tensor | None = None, eps: float = 1e-5) -> torch.Tensor:
        """With its weight, its bias or both trained."""
        own, added = self._stack(weight), self._stack(bias)
        if own is None and added is None:
            return F.layer_norm(x, shape, weight, bias, eps)
        y = self._apart(F.layer_norm(x, shape, weight if own is None else None, None, eps))
        y = y if own is None else y * own[:, None].to(y.dtype)
        if bias is not None:
            y = y + (bias if added is None else added[:, None]).to(y.dtype)
        return y.view(x.shape)

    def mul(self, x: Any, other: Any) -> torch.Tensor:
        """An RMSNorm's product with its weight (d,), which may be trained, on either side."""
        x, weight = (other, x) if id(x) in self._own else (x, other)
        own = self._stack(weight)
        if own is None:
            return torch.mul(x, weight)
        if own.ndim != 2 or x.shape[-1:] != weight.shape:
            raise NotImplementedError("mul of a trained parameter is only known where it scales the last axis")
        return (self._apart(x) * own[:, None]).view(x.shape)

    def embedding(self, index: torch.Tensor, rows: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
        """Rows of a run's own table for its own examples."""
        own = self._stack(rows)
        if own is None:
            return F.embedding(index, rows, *rest, **named)
        if index.shape[0] != self.rows:
            raise NotImplementedError("an embedding trains that is not looked up for each example by itself")
        first = torch.arange(self.runs, device=index.device)[:, None] * own.shape[1]
        return F.embedding(index.view(self.runs, -1) + first, own.flatten(0, 1)).view(*index.shape, -1)

    def dropout(self, x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
        """What each run would draw alone, for as many columns as its own batch would have."""
        if not training or p == 0 or p == 1:
            return F.dropout(x, p, training)
        if x.shape[0] != self.rows or (x.ndim > 2 and x.shape[x.ndim - 2] != self.columns):
            raise NotImplementedError(f"dropout of a tensor of shape {tuple(x.shape)} is not known for several runs")
        noise = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        for part, (count, span), stream in zip(noise.chunk(self.runs), self._own_parts, self.generators, strict=True):
            own = part[:count]
            own = own if x.ndim == 2 else own[:, span] if x.ndim == 3 else own[:, :, span, span]
            if own.shape == part.shape:
                part.bernoulli_(1 - p, generator=stream)
                continue
            drawn = torch.empty(own.shape, dtype=x.dtype, device=x.device).bernoulli_(1 - p, generator=stream)
            part.zero_()
            own.copy_(drawn)
        return x * noise.div_(1 - p)

    def attention(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_mask: torch.Tensor | None = None,
                  dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None,
                  enable_gqa: bool = False) -> torch.Tensor:
        """Fused where nothing is dropped; else written out, since the fused kernels draw for all runs at once.
        enable_gqa: each head of k and v serves several of q, as many as lie beside each other."""
        if dropout_p == 0:
            return F.scaled_dot_product_attention(q, k, v, attn_mask, 0.0, is_causal, scale=scale,
                                                  enable_gqa=enable_gqa)
        if enable_gqa:
            k, v = (each.repeat_interleave(q.shape[1] // each.shape[1], 1) for each in (k, v))
        scores = q @ k.transpose(-2, -1) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, float("-inf"))
        elif attn_mask is not None:
            scores = scores + attn_mask
        return self.dropout(torch._safe_softmax(scores, -1), dropout_p).to(v.dtype) @ v  # padding may see nothing


OPERATIONS: dict[Any, Callable[..., torch.Tensor]] = {
    F.linear: Together.linear, torch.addmm: Together.addmm, F.layer_norm: Together.layer_norm,
    F.embedding: Together.embedding, F.dropout: Together.dropout,
    torch.mul: Together.mul, torch.Tensor.mul: Together.mul,
    F.scaled_dot_product_attention: Together.attention}


def _asks(func: Callable[..., Any]) -> bool:
    """Whether it only asks for what all runs' parameters have alike: not w.T or w.data."""
    name = getattr(getattr(func, "__self__", None), "__name__", "")
    return func.__name__ == "__get__" and (name in ("dtype", "device", "ndim", "requires_grad") or name[:3] == "is_")


def _padded(parameter: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """With zeros behind, up to the shape: a rank that is not used gives nothing and learns nothing."""
    missing = [(0, want - have) for want, have in zip(shape, parameter.shape, strict=True)]
    if not any(map(sum, missing)):
        return parameter
    return F.pad(parameter, [size for pair in reversed(missing) for size in pair])


def _gains(model: nn.Module) -> dict[str, float]:
    """What the effect of a parameter is multiplied by, where a module says so (LoRA's alpha / r)."""
    return {f"{place}.{name}": gain for place, module in model.named_modules()
            for name, gain in getattr(module, "gains", {}).items()}
