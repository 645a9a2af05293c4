"""Prefix methods: trainable special tokens in front of and behind every prompt (Section 5.1).

The tokens are ids outside the vocabulary that stand in the input itself (tasks/tokens.py puts them there), so that
attention masks, positions, padding and a decoder's cache treat them as what they are: tokens.

    PreEmbed   their word embeddings are trained; what becomes of them in the layers is up to the frozen network
    PreLayer   their activations are trained: what each of the L layers reads at their places is replaced by a vector

PreLayer has L (l_p + l_i) vectors. The first of the L stands for the activation after the embeddings, the others for
those after layers 1 to L - 1. What the last layer gives is left alone: no layer reads it, and where a model is read out
at a special token (GPT-2 behind an infix) the answer would not depend on the input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from engine.backbone import Backbone
from engine.contract import Refused, number, one_of
from lora.layer import gaussian


class SpecialEmbedding(nn.Module):
    """The word embedding with rows for ids behind the vocabulary. Remembers, until the next forward, where they were.

    special: (l_p + l_i, d), trained; None where the layers replace whatever the embedding says."""

    def __init__(self, words: nn.Module, special: torch.Tensor | None) -> None:
        super().__init__()
        self.words = words
        self.first = int(words.get_parameter("weight").shape[0])
        self.special = None if special is None else nn.Parameter(special)

    @property
    def weight(self) -> torch.Tensor:
        """The words' own rows: what an output layer is tied to."""
        return self.words.get_parameter("weight")

    def __getstate__(self) -> dict[str, Any]:
        """A copy starts without the last batch's places."""
        return {key: value for key, value in self.__dict__.items() if key not in ("index", "where")}

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        self.index = (ids - self.first).clamp(min=0)  # (n, T), of special tokens
        self.where = (ids >= self.first).unsqueeze(-1)  # (n, T, 1)
        words = self.words(torch.where(ids < self.first, ids, 0))
        return words if self.special is None else self.put(words, self.special)

    def put(self, hidden: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """hidden (n, T, d) with rows (l_p + l_i, d) at the places of the special tokens."""
        return torch.where(self.where, F.embedding(self.index, rows).to(hidden.dtype), hidden)


class Activations(nn.Module):
    """What one layer reads at the special tokens: weight (l_p + l_i, d)."""

    def __init__(self, weight: torch.Tensor, embedding: SpecialEmbedding) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self._embedding = [embedding]  # in a list, so that it does not become a part of the layer

    def replace(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """A forward pre-hook, for modules that take the hidden states (n, T, d) first."""
        put, given = self._embedding[0].put, dict(kwargs)
        if args:
            return (put(args[0], self.weight), *args[1:]), given
        given["hidden_states"] = put(given["hidden_states"], self.weight)
        return args, given


@dataclass(frozen=True)
class Prefix:
    """What PreEmbed and PreLayer share: l_p tokens in front of the prompt, l_i behind it, and how they start."""

    name: str
    label: str
    l_p: int
    l_i: int
    init: str  # words: the embeddings of words drawn from the vocabulary · gaussian
    std: float  # of the Gaussian

    def __post_init__(self) -> None:
        number("l_p", self.l_p, 0, whole=True)
        number("l_i", self.l_i, 0, whole=True)
        number("method.std", self.std, 0, open_low=True)
        one_of("method.init", self.init, ("words", "gaussian"))
        if self.l_p + self.l_i == 0:
            raise Refused(f"l_p=0 l_i=0: {self.name} without a special token trains nothing; set l_p, l_i or both")

    @property
    def tokens(self) -> tuple[int, int]:
        """(l_p, l_i)"""
        return self.l_p, self.l_i

    def _draw(self, words: nn.Module, generator: torch.Generator) -> torch.Tensor:
        """(l_p + l_i, d) to start from. A word's embedding is what the module gives for it, which may be scaled."""
        weight = words.get_parameter("weight")
        if self.init == "gaussian" or weight.is_meta:
            return gaussian((self.l_p + self.l_i, weight.shape[1]), self.std, generator, weight.device)
        drawn = torch.randint(weight.shape[0], (self.l_p + self.l_i,), generator=generator)
        with torch.no_grad():
            return words(drawn.to(weight.device)).clone()


class PreEmbed(Prefix):
    """Prefix-embedding tuning: d (l_p + l_i) parameters."""

    def apply(self, backbone: Backbone, generator: torch.Generator) -> None:
        """Adds the special tokens' rows to the word embedding."""
        words = backbone.model.get_input_embeddings()
        special = self._draw(words, generator)
        backbone.model.set_input_embeddings(SpecialEmbedding(words, special))


class PreLayer(Prefix):
    """Prefix-layer tuning: L d (l_p + l_i) parameters."""

    def apply(self, backbone: Backbone, generator: torch.Generator) -> None:
        """Has every layer read trained vectors at the special tokens."""
        holder, blocks = backbone.blocks()
        words = backbone.model.get_input_embeddings()
        if words.get_parameter("weight").shape[1] != backbone.model.config.hidden_size:
            raise Refused(f"method={self.name}: only where words are as wide as what the layers read")
        embedding = SpecialEmbedding(words, None)
        backbone.model.set_input_embeddings(embedding)
        encoder = backbone.model.get_submodule(holder.rpartition(".")[0])
        for layer, block in enumerate(blocks):
            activations = Activations(self._draw(words, generator), embedding)
            block.add_module("special", activations)
            # DeBERTa's encoder has a convolution beside its first layer: both have to read the same
            reader = encoder if layer == 0 and not hasattr(encoder, "get_input_embeddings") else block
            reader.register_forward_pre_hook(activations.replace, with_kwargs=True)
