"""A base model as methods see it: where the paper's q, k, v, o and ff are, its layers, its word embedding."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from engine.contract import Batch, Refused, Special

if TYPE_CHECKING:
    from transformers import PreTrainedModel  # takes seconds to import

T = TypeVar("T")


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

    model: PreTrainedModel
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
                if not 0 <= role.part < role.parts or outputs % role.parts:
                    raise Refused(f"model.roles.{target}: part {role.part} of {role.parts} is no part of the {outputs} "
                                  f"outputs of {name}")
                width = int(outputs) // role.parts
                found.append(Site(name, target, module, role.part * width, (role.part + 1) * width))
        order = {name: place for place, name in enumerate(modules)}
        found.sort(key=lambda site: (order[site.name], site.start))
        for one, two in pairwise(found):
            if one.name == two.name and two.start < one.stop:
                raise Refused(f"targets: {one.role} and {two.role} are both {one.name}; name one of them")
        return found

    def blocks(self) -> tuple[str, Sequence[nn.Module]]:
        """The name of the list that holds the Transformer layers (…encoder.layer), and these, first to last. Raises
        Refused when there is none."""
        lists = ((name, module) for name, module in self.model.named_modules() if isinstance(module, nn.ModuleList))
        name, blocks = next(lists, ("", nn.ModuleList()))
        if not len(blocks) or len(blocks) != self.model.config.num_hidden_layers:
            raise Refused(f"{type(self.model).__name__} has no list of its layers, each by itself, to adapt one by one")
        return name, list(blocks)

    def swap(self, name: str, module: nn.Module) -> None:
        """Puts a module in the place of the one called name."""
        parent, _, child = name.rpartition(".")
        setattr(self.model.get_submodule(parent), child, module)

    def blank_pass(self, forward: Callable[[Batch], T], examples: int, tokens: int) -> T:
        """What forward gives for inputs without content: for a pass of which only the operations matter, on whatever
        device the model is, the meta device too. There no model can look into its mask, and which shape of mask it
        takes as it is depends on the model, so forward is called until one will do. Raises Refused where none does."""
        device = next(self.model.parameters()).device
        ids = {"input_ids": torch.zeros(examples, tokens, dtype=torch.long, device=device)}
        square = torch.ones(examples, 1, tokens, tokens, dtype=torch.bool, device=device)
        flat = torch.ones(examples, tokens, device=device)  # DeBERTa
        said = ""
        for batch in (ids | {"attention_mask": square}, ids | {"attention_mask": flat}, ids):
            try:
                return forward(batch)
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                said = said or str(error).strip().partition("\n")[0]
        raise Refused(f"{type(self.model).__name__} makes no forward pass on the {device} device with tokens alone "
                      f"({said})")

    def special(self, tokens: tuple[int, int]) -> Special:
        """The ids behind the vocabulary that stand for a method's (l_p, l_i) special tokens. Ask before applying it."""
        first = self.model.get_input_embeddings().get_parameter("weight").shape[0]
        return Special(range(first, first + tokens[0]), range(first + tokens[0], first + sum(tokens)))
