"""The models of a latency study: one base with random weights, and every method in a copy that shares them.

So that only one copy of the weights is in memory, and nothing is downloaded.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import nn
from transformers import MODEL_FOR_MASKED_LM_MAPPING

from engine import configs, models
from engine.backbone import Backbone
from engine.contract import Refused, generator
from engine.spec import ModelSpec

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def shaped(spec: ModelSpec, study: Any) -> Backbone:
    """The model on the meta device: an encoder with a head for two classes, a decoder as a language model, which gives
    the logits of every position and keeps no cache."""
    if spec.path is None:
        raise Refused(f"model={spec.name} is only counted: runtime.show=parameters with another task")
    with models.quiet():  # a small vocabulary does not have the signs that a configuration's defaults name
        shape = models.shape(spec, 2, None, 0)
        if type(shape.model.config) not in MODEL_FOR_MASKED_LM_MAPPING:
            shape = models.shape(spec, 0, None, 0)
    shape.model.config.use_cache = False
    try:
        configs.check_room(spec.name, shape.model.config, max(study.lengths), 0)
    except Refused as error:
        raise Refused(str(error).replace("length=", "task.lengths=")) from None
    return shape


def counts(study: Any, shape: Backbone) -> dict[Any, Any]:
    """What each method would train, by (name, r), and the footprint of the model as a whole. Raises Refused where a
    method does not fit the model, before weights are made."""
    found: dict[Any, Any] = {"whole": asdict(models.footprint(shape))}
    for variant in every(study):
        made = sharing(shape)
        try:
            if variant.method is not None:
                variant.method.apply(made, generator(0, "adapter"))
        except Refused as error:
            raise Refused(f"{variant.label}: {error}") from None
        found[variant.name, variant.r] = models.footprint(made).trainable
    return found


def every(study: Any) -> list[Any]:
    """Every variant of any cell, each once."""
    found = [variant for cell in study.cells() for variant in study.variants(*cell)]
    return list({(variant.name, variant.r): variant for variant in found}.values())


def built(shape: Backbone, device: torch.device, precision: str, seed: int) -> Backbone:
    """The model of that shape with random weights, which are drawn where it will run."""
    with torch.random.fork_rng(), torch.device(device), models.quiet():
        torch.manual_seed(generator(seed, "weights").initial_seed())
        model: Any = type(shape.model)(shape.model.config)
    return replace(shape, model=model.requires_grad_(False).to(PRECISIONS[precision]).eval())


def sharing(backbone: Backbone) -> Backbone:
    """A copy of the model's modules around the same weights: methods change it, and the original stays as it is."""
    tensors = [*backbone.model.parameters(), *backbone.model.buffers()]
    return replace(backbone, model=copy.deepcopy(backbone.model, {id(tensor): tensor for tensor in tensors}))


def adapted(base: Backbone, variant: Any, seed: int) -> nn.Module:
    """The model as the variant runs it. Of merged LoRA only the base's modules are left (Section 4.1). What it
    has merged is its own; all else is shared."""
    if variant.method is None:
        return base.model
    made = sharing(base)
    variant.method.apply(made, generator(seed, "adapter"))
    for name, module in list(made.model.named_modules()) if variant.merged else ():
        if hasattr(module, "merge"):
            module.merge()
            made.swap(name, module.base)
    model: nn.Module = made.model
    return model.to(base.model.dtype).eval()
