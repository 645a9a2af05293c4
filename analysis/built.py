"""What the models of the parameter audit train, counted on models that are built, without weights.

The one part of the analysis that builds something: every other reads what runs recorded.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import yaml

from baselines.adapter import Adapter
from baselines.bitfit import BitFit
from baselines.combined import LoRAWithPrefix
from baselines.full import FullFineTuning
from baselines.prefix import PreEmbed, PreLayer
from baselines.top_layers import TopLayers
from engine import models
from engine.backbone import Backbone
from engine.contract import generator
from engine.spec import ModelSpec
from lora.method import LoRA

CONF = Path(__file__).parents[1] / "conf" / "model"
DESIGNS = {"Adapter-H": "houlsby", "Adapter-L": "lin", "Adapter-P": "pfeiffer", "Adapter-D": "pfeiffer"}
Applied = FullFineTuning | TopLayers | BitFit | Adapter | LoRA | PreEmbed | PreLayer | LoRAWithPrefix
PLAIN: dict[str, Applied] = {"FT": FullFineTuning("ft", "FT"), "FT-Top2": TopLayers("ft-top2", "FT-Top2", 2),
                             "BitFit": BitFit("bitfit", "BitFit")}


@cache
def spec(model: str) -> ModelSpec:
    """conf/model/<model>.yaml with the roles that its defaults name."""
    stated = yaml.safe_load((CONF / f"{model}.yaml").read_text(encoding="utf-8"))
    roles = next(entry["roles"] for entry in stated.pop("defaults") if "roles" in entry)
    named = CONF / "roles" / f"{roles}.yaml"
    return ModelSpec(**stated, roles=yaml.safe_load(named.read_text(encoding="utf-8")))


def sizes(model: str, config: str) -> dict[str, int]:
    """The model's sizes under the paper's letters, and what the row states, which has the last word."""
    c = spec(model).config or {}
    found = {"d": c.get("hidden_size", c.get("n_embd")), "L": c.get("num_hidden_layers", c.get("n_layer")),
             "V": c["vocab_size"], "T": c.get("type_vocab_size", 0), "pooler": int(c["model_type"] == "roberta"),
             "P": c.get("n_positions", c.get("max_position_embeddings")) if c.get("position_biased_input", True) else 0,
             "buckets": c.get("position_buckets", 0), "kernel": c.get("conv_kernel_size", 0)}
    return found | {name: int(number) for name, number in re.findall(r"([\w+]+)=(\d+)(?!\w)", config)}


def method(name: str, s: Mapping[str, int], targets: Sequence[str]) -> Applied:
    """The row's method. What does not count (alpha, std, activation, init) is anything."""
    if name in DESIGNS:
        layers = s["L_adpt"] // 2 if name == "Adapter-H" else s["L_adpt"]
        return Adapter(name, name, DESIGNS[name], s["r"], "relu", 1.0, drop=s["L"] - layers)
    if name in PLAIN:
        return PLAIN[name]
    ranks = {target: s[f"r_{target}"] for target in "qkvo" if f"r_{target}" in s}
    ranks = ranks or dict.fromkeys(targets, s.get("r", 1))
    one = len(set(ranks.values())) == 1
    lora = LoRA(name, name, next(iter(ranks.values())) if one else ranks, 1.0, list(ranks), 0.0, "gaussian", 1.0)
    if name == "LoRA":
        return lora
    kind = PreEmbed if name in ("PreEmbed", "LoRA+PE") else PreLayer
    prefix = kind(name, name, s.get("l_p", s.get("l_p+l_i", 0)), s.get("l_i", 0), "gaussian", 1.0)
    return LoRAWithPrefix(name, name, lora, prefix) if name.startswith("LoRA") else prefix


@cache
def _shape(model: str) -> bytes:
    """The model as it comes, with a head for MNLI's three classes or a language model without one; as bytes, which
    become a model some seven times faster than a model is copied."""
    return pickle.dumps(models.shape(spec(model), 0 if model.startswith("gpt") else 3, None, 0))


@cache
def trains(model: str, name: str, config: str, targets: Sequence[str]) -> tuple[int, int, int]:
    """What trains in the model with the method on, head left out; the head; and of it the dense layer of RoBERTa's."""
    backbone: Backbone = pickle.loads(_shape(model))
    method(name, sizes(model, config), targets).apply(backbone, generator(0, "adapter"))
    counts = models.footprint(backbone)
    parameters = backbone.model.named_parameters()
    return counts.trainable, counts.head, sum(p.numel() for n, p in parameters if n.startswith("classifier.dense."))
