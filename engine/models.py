"""A base model by its spec: build its shape or load its weights, freeze everything but the fresh head, count."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from engine.backbone import Backbone, Role
from engine.configs import check_room, set_dropout
from engine.contract import Refused
from engine.hub import ROOT
from engine.spec import ModelSpec, Recipe


@dataclass(frozen=True)
class Footprint:
    """Parameter counts: trainable leaves the head out, as the paper does; total is the whole model, head included."""

    trainable: int
    head: int
    total: int


def shape(spec: ModelSpec, outputs: int, recipe: Recipe | None, special: int) -> Backbone:
    """The model without weights, on the meta device: for counting, without any download. outputs 0: a language model.

    Raises Refused when nobody wrote the shape down, or (with a recipe) when load() would refuse its length or dropout.
    """
    folder = Path(spec.path or "").expanduser()
    if spec.config is not None:
        config = AutoConfig.for_model(**spec.config, num_labels=outputs or 1)
    elif spec.path is not None and folder.is_dir():
        with _readable(spec.name, folder):
            config = AutoConfig.from_pretrained(folder, num_labels=outputs or 1, trust_remote_code=False)
    else:
        raise Refused(f"model={spec.name}: neither conf/model/{spec.name}.yaml nor a folder (model.path=DIR) says what "
                      "shape it has")
    _check_writes(spec.name, config, outputs)
    if recipe is not None:
        check_room(spec.name, config, recipe.length, special)
        set_dropout(spec.name, config, recipe)
    config.pad_token_id = config.eos_token_id if config.pad_token_id is None else config.pad_token_id
    with torch.device("meta"):
        model = _kind(outputs).from_config(config, attn_implementation=spec.attention, dtype=torch.float32)
    return _frozen(model, None, spec, outputs)


def checked(spec: ModelSpec, folder: Path, outputs: int, recipe: Recipe, special: int) -> PretrainedConfig:
    """The configuration of the base weights in a folder, with the recipe's dropout. Raises Refused when it is not the
    one that the spec names, or has no room for the recipe's length beside `special` tokens."""
    if (folder / "adapter_config.json").exists():
        raise Refused(f"model={spec.name}: {folder} is an adapter (adapter_config.json), not a base model")
    with _readable(spec.name, folder):
        config = AutoConfig.from_pretrained(folder, num_labels=outputs or 1, trust_remote_code=False)
    _check_writes(spec.name, config, outputs)
    for key, value in (spec.config or {}).items():
        found = getattr(config, key, None)
        if found != value:
            kind = "encoder" if type(config) in MODEL_FOR_MASKED_LM_MAPPING else "decoder"
            names = sorted(path.stem for path in (ROOT / "conf" / "model" / "roles").glob("*.yaml"))
            raise Refused(f"model={spec.name}: {folder} has {key}={found}, not {value}\n"
                          f"for another model: model={kind} model/roles={'|'.join(names)} model.path={spec.path}")
    check_room(spec.name, config, recipe.length, special)
    set_dropout(spec.name, config, recipe)
    return config


def load(spec: ModelSpec, folder: Path, outputs: int, recipe: Recipe, special: int,
         head: torch.Generator) -> Backbone:
    """The model with its weights from a folder (safetensors only), in float32, its head freshly drawn from `head`.
    outputs 0: a language model, which has no fresh head.

    Raises Refused when the weights are not of the shape that the spec names, lack a part of the body, or have no
    positions for inputs of recipe.length tokens beside `special` ones.
    """
    config = checked(spec, folder, outputs, recipe, special)
    with _readable(spec.name, folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    transformers_logging.disable_progress_bar()
    with _readable(spec.name, folder), quiet():  # the library's report of the missing head is said better by _redraw
        model, report = _kind(outputs).from_pretrained(
            folder, config=config, dtype=torch.float32, attn_implementation=spec.attention, use_safetensors=True,
            trust_remote_code=False, output_loading_info=True,
            ignore_mismatched_sizes=True)  # another task's head; another body is refused below
    _check(spec.name, model, tokenizer, recipe, report["unexpected_keys"])
    if not outputs and tokenizer.eos_token_id is None:
        raise Refused(f"model={spec.name}: its tokenizer has no sign for the end of a text (eos_token)")
    if getattr(tokenizer, "pad_token", "") is None:  # GPT-2 has none; padding is masked, so any sign will do
        tokenizer.pad_token = tokenizer.eos_token
    if config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    backbone = _frozen(model, tokenizer, spec, outputs)
    resized = {entry[0] for entry in report["mismatched_keys"]}
    _redraw(backbone, set(report["missing_keys"]) | resized, config, head)
    return backbone


def _check_writes(name: str, config: PretrainedConfig, outputs: int) -> None:
    """Refuses an encoder where texts are asked for (outputs 0)."""
    if not outputs and type(config) in MODEL_FOR_MASKED_LM_MAPPING:
        raise Refused(f"model={name}: an encoder cannot write texts; name a decoder, such as model=gpt2-medium")


@contextmanager
def quiet() -> Iterator[None]:
    """transformers says nothing but errors, within."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


@contextmanager
def _readable(name: str, folder: Path) -> Iterator[None]:
    """Turns whatever a damaged or foreign model folder makes the libraries raise into a refusal."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        said = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise Refused(f"model={name}: {folder} cannot be read as a model ({said})") from error


def _kind(outputs: int) -> Any:
    return AutoModelForSequenceClassification if outputs else AutoModelForCausalLM


def _check(name: str, model: PreTrainedModel, tokenizer: Any, recipe: Recipe, unexpected: Iterable[str]) -> None:
    """Refuses what would train, but not on what it seems to: other words, a part of the layers, another dropout."""
    words, rows = len(tokenizer), model.get_input_embeddings().get_parameter("weight").shape[0]
    if not rows // 2 <= words <= rows:
        raise Refused(f"model={name}: its tokenizer has {words} words and its embedding {rows} rows: not of one model")
    layers = [key for key in unexpected if re.search(r"\.layers?\.\d+\.", key)]
    if layers:
        raise Refused(f"model={name}: the weights hold layers that config.json does not ({layers[0]}, …)")
    rates = {module.p for module in model.modules() if isinstance(module, nn.Dropout)} - {recipe.cls_dropout}
    if recipe.dropout is not None and rates - {recipe.dropout}:
        raise Refused(f"dropout={recipe.dropout}: {name} names its dropouts differently and keeps {max(rates)}; "
                      "say dropout=null for its own")


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


def _frozen(model: PreTrainedModel, tokenizer: Any, spec: ModelSpec, outputs: int) -> Backbone:
    """The one place that freezes. The head is everything outside the body, and the body's pooler if it has one: the
    official code's rule, and what BERT's pooler is to RoBERTa's dense layer. A language model has none: what is outside
    of its body came with the weights."""
    body = model.base_model_prefix
    head = [name for name, _ in model.named_children() if name != body] if outputs else []
    if outputs and getattr(model.get_submodule(body), "pooler", None) is not None:
        head.append(f"{body}.pooler")
    prefixes = tuple(f"{name}." for name in head)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(prefixes))
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    roles = {key: Role(value, 0, 1) if isinstance(value, str) else Role(**value) for key, value in spec.roles.items()}
    return Backbone(model, tokenizer, roles, prefixes, output=linear[-1] if outputs else "")


def _redraw(backbone: Backbone, missing: set[str], config: PretrainedConfig, head: torch.Generator) -> None:
    """Draws the head from the run's own stream: normal(0, initializer_range), biases zero. What the weights have inside
    the encoder (BERT's pooler) is kept; a classifier that came with them was another task's and is drawn anew."""
    lost = sorted(name for name in missing if not name.startswith(backbone.head))
    if lost:
        raise Refused(f"the weights lack {len(lost)} tensors of the body ({', '.join(lost[:3])}, …): wrong file?")
    body = f"{backbone.model.base_model_prefix}."
    fresh = missing | {name for name, _ in backbone.model.named_parameters() if not name.startswith(body)}
    if not backbone.head:
        return
    with torch.no_grad():
        for name, parameter in backbone.model.named_parameters():
            if name in fresh and parameter.ndim > 1:
                parameter.normal_(0.0, getattr(config, "initializer_range", 0.02), generator=head)
            elif name in fresh:  # a LayerNorm's weight is one, biases are zero
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
