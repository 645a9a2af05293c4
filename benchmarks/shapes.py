"""Models of the paper's shapes with random weights, and inputs for them: the numbers are the same to the clock."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch

from analysis.declared import declared
from engine import configs, models, variants
from engine.backbone import Backbone
from engine.contract import Batch, generator
from engine.spec import ModelSpec

DECODERS = ("gpt2-medium",)
CUT = {"roberta-base": 3, "gpt2-medium": 2, "minilm": 3}  # layers on a CPU, where whole models take minutes
LAYERS = {"gpt2": "n_layer"}
TOY = {"gpt2": {"n_embd": 32, "n_head": 2, "vocab_size": 120},
       "other": {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48, "vocab_size": 120}}
DROPOUT = 0.1  # as in training


def spec(name: str) -> ModelSpec:
    """A file of conf/model, its roles put in."""
    said = declared("model", name)
    assert said is not None
    return ModelSpec(**said)


def layers(name: str, cuda: bool, quick: bool) -> int:
    """How many layers of a model are measured: all on a GPU, some on a CPU, one for a toy."""
    return 1 if quick else whole(name) if cuda else CUT.get(name, whole(name))


def whole(name: str) -> int:
    """The layers of a model of conf/model."""
    config = spec(name).config or {}
    return int(config[LAYERS.get(config["model_type"], "num_hidden_layers")])


def base(name: str, count: int, device: torch.device, quick: bool, dropout: float = DROPOUT,
         every_word: bool = False) -> Backbone:
    """The model of conf/model/NAME.yaml with `count` layers and random float32 weights, frozen but for its fresh head.
    Of the words it has the same share as of the layers, or words would cost more of the step than in the whole model;
    every_word: all. quick: narrow, with few words."""
    said = spec(name)
    config = dict(said.config or {})
    kind = config["model_type"]
    words = config["vocab_size"] if every_word else config["vocab_size"] * count // whole(name)
    config |= {LAYERS.get(kind, "num_hidden_layers"): count, "vocab_size": words}
    config |= TOY.get(kind, TOY["other"]) if quick else {}
    with models.quiet():
        shape = models.shape(replace(said, config=config), 0 if name in DECODERS else 2, None, 0)
    shape.model.config.use_cache = False
    for key in (key for key in configs.DROPOUTS if hasattr(shape.model.config, key)):
        setattr(shape.model.config, key, dropout)
    made = variants.built(shape, device, "fp32", 0)
    for key, parameter in made.model.named_parameters():
        parameter.requires_grad_(bool(made.head) and key.startswith(made.head))
    return made


def batch(name: str, made: Backbone, size: int, length: int, device: torch.device) -> Batch:
    """Random ids, a mask of ones and labels: a class each, or, of a language model, the ids themselves."""
    stream, words = generator(0, "tokens"), made.model.config.vocab_size
    # The ends of the vocabulary have the signs for padding, which some models leave out of the positions.
    ids = torch.randint(words // 4, words // 2, (size, length), generator=stream)
    labels = ids.clone() if name in DECODERS else torch.randint(2, (size,), generator=stream)
    return {"input_ids": ids.to(device), "attention_mask": torch.ones_like(ids).to(device), "labels": labels.to(device)}


def copied(backbone: Backbone, own: bool) -> Backbone:
    """The model once more. own: with weights of its own; else only what trains is its own."""
    tensors = [*backbone.model.parameters(), *backbone.model.buffers()]
    shared = {id(tensor): tensor for tensor in tensors if not own and not tensor.requires_grad}
    return replace(backbone, model=copy.deepcopy(backbone.model, shared))
