"""The types that pass between the rooms (who makes them and who uses them: README, map of the house).

Light on purpose: nothing heavy is imported here, so that a wrong request is answered before torch is loaded.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import nn

Batch = dict[str, Any]  # name -> tensor, as the model's forward wants them; "labels" (n,) is the task's own
Numbers = dict[str, float]  # named results in the unit that the paper prints


class Refused(Exception):
    """A request that cannot be served: what is wrong and what to type instead, in at most two lines."""


def number(name: str, value: object, low: float, high: float = math.inf, whole: bool = False, open_low: bool = False,
           none: bool = False) -> None:
    """Refuse a setting that is not a (whole) number in [low, high], or ]low, high] with open_low."""
    if none and value is None:
        return
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    if numeric and isinstance(value, int if whole else (int, float)) and math.isfinite(value) and (
            low < value if open_low else low <= value) and value <= high:
        return
    bounds = f"{'above' if open_low else 'at least'} {low:g}"
    bounds += f" and at most {high:,}" if math.isfinite(high) else ""
    raise Refused(f"{name}={value}: {name} must be a {'whole ' if whole else ''}number {bounds}")


def one_of(name: str, value: object, options: Sequence[str]) -> None:
    """Refuse a setting that is none of the options."""
    if value not in options:
        raise Refused(f"{name}={value}: {name} must be one of {', '.join(options)}")


def generator(seed: int, stream: str) -> torch.Generator:
    """A random stream of a run, from its seed and the stream's name alone.

    Streams are independent of each other, so the head and the data order of a seed do not depend on how many numbers
    a method draws. Streams in use: adapter, head, order, dropout.
    """
    import torch

    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@dataclass(frozen=True)
class Role:
    """Which modules play one of the paper's parts (q, k, v, o, ff): a full match on module names, and for a fused
    projection which of its equal output slices."""

    pattern: str
    part: int
    parts: int


@dataclass(frozen=True)
class Site:
    """One weight matrix to adapt: the outputs [start, stop) of the module called name."""

    name: str
    role: str
    module: nn.Module
    start: int
    stop: int


@dataclass(frozen=True)
class Backbone:
    """A base model with everything frozen but its fresh head, and the names by which methods find their way in it."""

    model: nn.Module
    tokenizer: Any  # None for a shape without weights
    roles: Mapping[str, Role]
    head: tuple[str, ...]  # name prefixes: trained by every method, counted by none
    output: str  # the head's last layer, sized by the task

    def sites(self, targets: Sequence[str]) -> list[Site]:
        """Every place the roles stand for, in model order. Raises Refused on an unknown role or one without a match."""
        modules = dict(self.model.named_modules())
        found = []
        for target in targets:
            if target not in self.roles:
                raise Refused(f"targets={list(targets)}: no '{target}' here; this model has {', '.join(self.roles)}")
            role = self.roles[target]
            try:
                names = [name for name in modules if re.fullmatch(role.pattern, name)]
            except re.error as error:
                raise Refused(f"model.roles.{target}={role.pattern}: not a regular expression ({error})") from None
            if not names:
                raise Refused(f"targets: no module matches '{target}' = {role.pattern}; set model.roles.{target}")
            for name in names:
                module = modules[name]
                outputs = getattr(module, "out_features", getattr(module, "nf", None))  # nf: transformers' Conv1D
                if outputs is None:
                    raise Refused(f"model.roles.{target}: {name} is a {type(module).__name__}, not a linear layer")
                width = int(outputs) // role.parts
                found.append(Site(name, target, module, role.part * width, (role.part + 1) * width))
        order = {name: place for place, name in enumerate(modules)}
        found.sort(key=lambda site: (order[site.name], site.start))
        for one, two in pairwise(found):
            if one.name == two.name and two.start < one.stop:
                raise Refused(f"targets: {one.role} and {two.role} are both {one.name}; name one of them")
        return found

    def blocks(self) -> tuple[str, Sequence[nn.Module]]:
        """The Transformer layers, first to last, and the name of the list that holds them (…encoder.layer)."""
        from torch import nn

        return next((name, list(module)) for name, module in self.model.named_modules()
                    if isinstance(module, nn.ModuleList))

    def swap(self, name: str, module: nn.Module) -> None:
        """Puts a module in the place of the one called name."""
        parent, _, child = name.rpartition(".")
        setattr(self.model.get_submodule(parent), child, module)

    def special(self, tokens: tuple[int, int]) -> Special:
        """The ids behind the vocabulary that stand for a method's special tokens; asked before the method is applied."""
        first = int(self.model.get_input_embeddings().num_embeddings)
        return Special(range(first, first + tokens[0]), range(first + tokens[0], first + sum(tokens)))


@dataclass(frozen=True)
class Special:
    """Ids outside the vocabulary, of the tokens that a prefix method puts in front of and behind every prompt."""

    prefix: Sequence[int]
    infix: Sequence[int]


class Method(Protocol):
    """An adaptation method: swaps modules in or turns parameters on, and never turns anything off."""

    name: str
    label: str

    @property
    def tokens(self) -> tuple[int, int]:
        """How many special tokens it puts in front of and behind every prompt (the paper's l_p, l_i); most: (0, 0)."""

    def apply(self, backbone: Backbone, generator: torch.Generator) -> None: ...


class Split(Protocol):
    """Tokenised examples of one part of a data set."""

    lengths: Sequence[int]  # tokens of each example

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> Batch: ...


@dataclass(frozen=True)
class Splits:
    """What a run trains on and is judged on."""

    train: Split
    validation: Mapping[str, Split]


@dataclass(frozen=True)
class Origin:
    """Where the rows come from: the hub, a folder in its layout, or the synthetic generator (with its sizes)."""

    kind: str  # hub · folder · synthetic
    root: str | None
    train: int  # rows to generate; 0 where rows are read
    validation: int


Step = Callable[["nn.Module", Batch], "torch.Tensor"]
Predict = Callable[[Split, Step], "torch.Tensor"]  # the step's outputs for a split, one row an example, in its order


class Task(Protocol):
    """Data in, named numbers out."""

    name: str
    metric: str
    higher_is_better: bool
    version: int
    outputs: int  # size of the head's last layer; 0: no fresh head, a language model

    def loss(self, model: nn.Module, batch: Batch, smoothing: float) -> torch.Tensor: ...

    def evaluate(self, predict: Predict, validation: Mapping[str, Split]) -> Numbers: ...
