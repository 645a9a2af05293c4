"""A base model by its spec: build its shape or load its weights, freeze everything but the fresh head, count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from engine.contract import Backbone, Footprint, Refused, Role
from engine.hub import fingerprint
from engine.spec import ModelSpec


def shape(spec: ModelSpec, outputs: int) -> Backbone:
    """The model without weights, on the meta device: for counting, without any download."""
    if spec.config is None:
        raise Refused(f"model={spec.name}: conf/model/{spec.name}.yaml gives no shape to build without weights")
    config = AutoConfig.for_model(**spec.config, num_labels=outputs)
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    return _frozen(model, None, spec)


def load(spec: ModelSpec, folder: Path, outputs: int, length: int, dropout: float | None,
         head: torch.Generator) -> Backbone:
    """The model with its weights from a folder (safetensors only), in float32, its head freshly drawn from `head`.

    Raises Refused when the weights are not of the shape that the spec names, lack a part of the body, or have no
    positions for inputs of `length` tokens.
    """
    if spec.sha256 and spec.path == spec.package and fingerprint(folder) != f"sha256:{spec.sha256}":
        raise Refused(f"model={spec.name}: {folder}/model.safetensors is not the file this project was tested with")
    config = AutoConfig.from_pretrained(folder, num_labels=outputs)
    for key, value in (spec.config or {}).items():
        if getattr(config, key) != value:
            raise Refused(f"model={spec.name}: {folder} has {key}={getattr(config, key)}, not {value}; for another "
                          f"model use model=encoder model.path={spec.path}")
    positions = config.max_position_embeddings
    if config.model_type in ("roberta", "xlm-roberta", "camembert"):
        positions -= config.pad_token_id + 1  # these number their positions from padding_idx + 1
    if length > positions:
        raise Refused(f"length={length}: {spec.name} has {positions} positions")
    if dropout is not None:
        for key in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
            setattr(config, key, dropout)
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # its report of the missing head is said better by _redraw
    transformers_logging.disable_progress_bar()
    model, report = AutoModelForSequenceClassification.from_pretrained(
        folder, config=config, dtype=torch.float32, attn_implementation=spec.attention, use_safetensors=True,
        output_loading_info=True, ignore_mismatched_sizes=True)  # another task's head; another body is refused below
    transformers_logging.set_verbosity(verbosity)
    backbone = _frozen(model, AutoTokenizer.from_pretrained(folder), spec)
    resized = {entry[0] for entry in report["mismatched_keys"]}
    _redraw(backbone, set(report["missing_keys"]) | resized, config, head)
    return backbone


def footprint(backbone: Backbone) -> Footprint:
    """Counts what has requires_grad, after a method was applied. Shared parameters count once."""
    trainable = head = total = 0
    for name, parameter in backbone.model.named_parameters():
        total += parameter.numel()
        if name.startswith(backbone.head):
            head += parameter.numel()
        elif parameter.requires_grad:
            trainable += parameter.numel()
    return Footprint(trainable, head, total)


def _frozen(model: PreTrainedModel, tokenizer: Any, spec: ModelSpec) -> Backbone:
    """The one place that freezes. The head is everything outside the encoder, and the encoder's pooler if it has one:
    the official code's rule, and what BERT's pooler is to RoBERTa's dense layer."""
    body = model.base_model_prefix
    head = [name for name, _ in model.named_children() if name != body]
    if getattr(model.get_submodule(body), "pooler", None) is not None:
        head.append(f"{body}.pooler")
    prefixes = tuple(f"{name}." for name in head)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(prefixes))
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    roles = {key: Role(value, 0, 1) if isinstance(value, str) else Role(**value) for key, value in spec.roles.items()}
    return Backbone(model, tokenizer, roles, prefixes, output=linear[-1])


def _redraw(backbone: Backbone, missing: set[str], config: PretrainedConfig, head: torch.Generator) -> None:
    """Draws the head from the run's own stream: normal(0, initializer_range), biases zero. What the weights have inside
    the encoder (BERT's pooler) is kept; a classifier that came with them was another task's and is drawn anew."""
    lost = sorted(name for name in missing if not name.startswith(backbone.head))
    if lost:
        raise Refused(f"the weights lack {len(lost)} tensors of the body ({', '.join(lost[:3])}, …): wrong file?")
    body = f"{backbone.model.base_model_prefix}."
    fresh = missing | {name for name, _ in backbone.model.named_parameters() if not name.startswith(body)}
    with torch.no_grad():
        for name, parameter in backbone.model.named_parameters():
            if name in fresh and name.endswith("weight"):
                parameter.normal_(0.0, config.initializer_range, generator=head)
            elif name in fresh:
                parameter.zero_()
