"""Models, data and tasks small enough to train in a blink: random weights and tokens, nothing from disk or hub."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MPNetConfig,
    MPNetForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from baselines.adapter import Adapter
from baselines.bitfit import BitFit
from baselines.combined import LoRAWithPrefix
from baselines.full import FullFineTuning
from baselines.prefix import PreEmbed, PreLayer
from baselines.top_layers import TopLayers
from engine import models
from engine.backbone import Backbone
from engine.checkpoint import Checkpoints
from engine.contract import Batch, Method, Numbers, Predict, Special, Split, Splits, generator
from engine.member import Asked
from engine.spec import ModelSpec, Recipe
from engine.stop import Stop
from engine.train import Fitted, fit
from lora.method import LoRA
from tasks import data
from tasks.glue import Glue
from tasks.tokens import Tokens

ENCODERS, DECODERS = ("roberta", "bert", "deberta", "mpnet"), ("gpt2", "llama")
KINDS = (*ENCODERS, *DECODERS)  # the architectures that backbone() builds
NONE = Special((), ())
VOCAB, PAD, CPU = 100, 1, torch.device("cpu")
# Adam's eps where two runs are compared: with a tiny one, a gradient that is zero but for rounding (as that of a key's
# bias, which attention does not feel) makes steps as large as any other.
CALM = 1e-3
BERT = {
    "q": r".*\.layer\.\d+\.attention\.self\.query", "k": r".*\.layer\.\d+\.attention\.self\.key",
    "v": r".*\.layer\.\d+\.attention\.self\.value", "o": r".*\.layer\.\d+\.attention\.output\.dense",
    "ff": r".*\.layer\.\d+\.(intermediate|output)\.dense",
}
DEBERTA = {role: re.sub("(query|key|value)$", r"\1_proj", pattern) for role, pattern in BERT.items()}
FUSED = r".*\.h\.\d+\.attn\.c_attn"
GPT2 = {name: {"pattern": FUSED, "part": part, "parts": 3} for part, name in enumerate("qkv")} | {
    "o": r".*\.h\.\d+\.attn\.c_proj", "ff": r".*\.h\.\d+\.mlp\.(c_fc|c_proj)"}
MPNET = {role: rf".*\.layer\.\d+\.attention\.attn\.{role}" for role in "qkvo"} | {"ff": BERT["ff"]}
LLAMA = {role: rf".*\.layers\.\d+\.self_attn\.{role}_proj" for role in "qkvo"} | {
    "ff": r".*\.layers\.\d+\.mlp\.(gate|up|down)_proj"}
ROLES = {"gpt2": GPT2, "deberta": DEBERTA, "mpnet": MPNET, "llama": LLAMA}  # BERT for the others


def spec(roles: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> ModelSpec:
    return ModelSpec("tiny", "tiny", None, None, None, None, config, roles)


def backbone(kind: str = "roberta", outputs: int = 2, seed: int = 0, dropout: float = 0.0, layers: int = 2,
             device: str = "cpu") -> Backbone:
    """Random weights from the seed, biases and LayerNorms too; frozen but for the head. A decoder with outputs=0 is a
    language model, its output tied to the words. Llama has two heads of keys and values for four of queries."""
    drop = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    common = {"vocab_size": VOCAB, "num_labels": outputs or 1, "pad_token_id": PAD}
    encoder = common | drop | {"hidden_size": 16, "num_hidden_layers": layers, "num_attention_heads": 2,
                               "intermediate_size": 24, "max_position_embeddings": 40, "initializer_range": 0.2}
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(seed)
        if kind == "gpt2":
            config = GPT2Config(n_embd=16, n_layer=layers, n_head=2, n_positions=40, initializer_range=0.2,
                                bos_token_id=0, eos_token_id=0, embd_pdrop=dropout, attn_pdrop=dropout,
                                resid_pdrop=dropout, **common)
            model: nn.Module = (GPT2ForSequenceClassification if outputs else GPT2LMHeadModel)(config)
        elif kind == "llama":
            llama = LlamaConfig(hidden_size=16, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
                                intermediate_size=24, max_position_embeddings=40, initializer_range=0.2, bos_token_id=0,
                                eos_token_id=0, tie_word_embeddings=True, attention_dropout=dropout, **common)
            model = (LlamaForSequenceClassification if outputs else LlamaForCausalLM)(llama)
        elif kind == "mpnet":
            model = MPNetForSequenceClassification(MPNetConfig(**encoder))
        elif kind == "bert":
            model = BertForSequenceClassification(BertConfig(**encoder))
        elif kind == "deberta":
            model = DebertaV2ForSequenceClassification(DebertaV2Config(
                **encoder, pooler_hidden_size=16, attention_head_size=8, type_vocab_size=0, relative_attention=True,
                position_buckets=8, pos_att_type=["p2c", "c2p"], share_att_key=True, norm_rel_ebd="layer_norm",
                position_biased_input=False, conv_kernel_size=3, conv_act="gelu", pooler_dropout=dropout))
        else:
            model = RobertaForSequenceClassification(RobertaConfig(**encoder))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
    return models._frozen(model.eval(), None, spec(ROLES.get(kind, BERT)), outputs)


def lora(**changes: Any) -> LoRA:
    settings = {"name": "lora", "label": "LoRA", "r": 4, "alpha": 8, "targets": ["q", "v"], "dropout": 0.0,
                "init": "gaussian", "std": 0.02}
    return LoRA(**(settings | changes))


def adapter(design: str = "houlsby", **changes: Any) -> Adapter:
    settings = {"name": "adapter", "label": "Adapter", "design": design, "r": 4, "std": 0.3, "drop": 0,
                "activation": "swish" if design == "houlsby" else "relu"}
    return Adapter(**(settings | changes))


def prefix(kind: type[PreEmbed | PreLayer] = PreEmbed, **changes: Any) -> PreEmbed | PreLayer:
    settings = {"name": "prefix", "label": "Prefix", "l_p": 3, "l_i": 2, "init": "gaussian", "std": 0.5}
    return kind(**(settings | changes))


def methods() -> dict[str, Method]:
    """Every method of conf/method under its name there, small."""
    return {
        "ft": FullFineTuning("ft", "FT"), "ft-top2": TopLayers("ft-top2", "FT-Top2", 2),
        "bitfit": BitFit("bitfit", "BitFit"),
        "adapter-h": adapter("houlsby"), "adapter-p": adapter("pfeiffer"), "adapter-l": adapter("lin"),
        "adapter-d": adapter("pfeiffer", drop=1), "preembed": prefix(PreEmbed), "prelayer": prefix(PreLayer),
        "lora": lora(), "lora-pe": LoRAWithPrefix("lora-pe", "LoRA+PE", lora(), prefix(PreEmbed)),
        "lora-pl": LoRAWithPrefix("lora-pl", "LoRA+PL", lora(), prefix(PreLayer))}


def pairs() -> list[tuple[str, str]]:
    """Every method with every architecture that it can adapt: BitFit has nothing to train in Llama."""
    return [(name, kind) for name in methods() for kind in KINDS if (name, kind) != ("bitfit", "llama")]


def inputs(method: Method, kind: str = "roberta", texts: Sequence[Sequence[int]] = ((9, 8, 7, 6), (11, 12)),
           left: bool = False) -> Batch:
    """Rows of ids with the method's special tokens where tasks/tokens.py puts them, padded, and their mask."""
    special, cut = backbone(kind).special(method.tokens), 0 if kind in DECODERS else 1
    rows = [[*text[:cut], *special.prefix, *text[cut:], *special.infix] for text in texts]
    longest = max(map(len, rows))
    pads = [[PAD] * (longest - len(row)) for row in rows]
    ids = [pad + row if left else row + pad for row, pad in zip(rows, pads, strict=True)]
    ones = [[0] * len(pad) + [1] * len(row) for row, pad in zip(rows, pads, strict=True)]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(ones if left else [m[::-1] for m in ones])}


def adapted(method: Method, kind: str = "roberta", seed: int = 0, **changes: Any) -> Backbone:
    """A tiny model with the method applied, the adapter drawn as a run of that seed draws it."""
    made = backbone(kind, **changes)
    method.apply(made, generator(seed, "adapter"))
    return made


def randomise(model: nn.Module, std: float = 0.1) -> None:
    """Gives every B random numbers, so that the update is not zero."""
    stream = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".B." in f".{name}":
                parameter.copy_(torch.randn(parameter.shape, generator=stream, dtype=parameter.dtype) * std)


class Rows(Tokens):
    """A split of random tokens and labels, padded by the real thing; remembers which examples were asked for."""

    def __init__(self, n: int = 24, seed: int = 0, outputs: int = 2, pad: int = PAD, longest: int = 12,
                 special: Special = NONE) -> None:
        draw = np.random.default_rng(seed)
        lengths = draw.integers(3, longest + 1, n).tolist()
        ids = np.split(draw.integers(3, VOCAB, sum(lengths)), np.cumsum(lengths)[:-1])
        rows = [[text[0], *special.prefix, *text[1:], *special.infix] for text in ids]
        self.lengths = list(map(len, rows))
        self.sizes = np.asarray(self.lengths)
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)])
        self.fields = {"input_ids": np.concatenate(rows).astype(np.int32)}
        self.labels = torch.from_numpy(draw.integers(0, outputs, n) if outputs > 1 else draw.random(n, np.float32) * 5)
        self.pads = {"input_ids": pad}
        self.asked: list[list[int]] = []

    def batch(self, indices: Sequence[int]) -> Batch:
        self.asked.append(list(indices))
        return super().batch(indices)


def splits(n: int = 24, outputs: int = 2, seed: int = 0, special: Special = NONE) -> Splits:
    return Splits(Rows(n, seed, outputs, special=special), {"validation": Rows(11, seed + 1, outputs, special=special)})


def task(outputs: int = 2) -> Glue:
    """The real GLUE task over made-up columns: rte with two classes, mnli with three, stsb with a score."""
    name, metric = {1: ("stsb", "pearson"), 2: ("rte", "accuracy"), 3: ("mnli", "accuracy")}[outputs]
    labels = [str(i) for i in range(outputs)] if outputs > 1 else None
    source = data.Source("tiny", "tiny", "tiny")
    return Glue(name, 1, ["text"], labels, metric, "train", {"validation": "validation"}, source, None)


class Scripted:
    """The real loss, but the metric is read from a list; `seen` keeps what look() gave at every evaluation."""

    name, metric, criterion, version = "scripted", "score", "score", 1

    def __init__(self, values: Sequence[float] = (1, 2, 3, 4, 5), outputs: int = 2, higher_is_better: bool = True,
                 look: Callable[[], Any] = lambda: None) -> None:
        self.higher_is_better, self.outputs = higher_is_better, outputs
        self.values, self.look, self.seen = iter(values), look, []
        self.real = task(outputs)

    def losses(self, model: nn.Module, batch: Batch, smoothing: float) -> torch.Tensor:
        return self.real.losses(model, batch, smoothing)

    def evaluate(self, predict: Predict, validation: Mapping[str, Split]) -> Numbers:
        for split in validation.values():
            predict(split, logits)
        self.seen.append(self.look())
        return {"score": next(self.values)}


def logits(model: nn.Module, batch: Batch) -> torch.Tensor:
    return model(**{name: tensor for name, tensor in batch.items() if name != "labels"}).logits


def recipe(**changes: Any) -> Recipe:
    settings = {"lr": 5e-3, "epochs": 2, "batch": 8, "length": 32, "warmup": 0.1, "schedule": "linear",
                "weight_decay": 0.0, "decay_on": "matrices", "betas": [0.9, 0.999], "eps": 1e-8, "clip": None,
                "label_smoothing": 0.0, "dropout": None, "cls_dropout": None, "precision": "fp32",
                "batching": "shuffle", "averaging": None}
    return Recipe(**(settings | changes))


def train(made: Backbone, task: Any = None, rows: Splits | None = None, seed: int = 0, micro: int | None = None,
          checkpoints: Checkpoints | None = None, stop: Stop | None = None, **changes: Any) -> Fitted:
    """fit() on the CPU with tiny rows and a scripted metric, unless told otherwise."""
    asked = Asked(made, recipe(**changes), seed, lambda numbers: None, checkpoints, stop)
    return alone(fit([asked], task or Scripted(), rows or splits(), CPU, micro))


def alone(made: Sequence[Fitted | Exception]) -> Fitted:
    """What fit() gave for one run; raises what went wrong with it."""
    (fitted,) = made
    if isinstance(fitted, Exception):
        raise fitted
    return fitted


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return copy.deepcopy(model.state_dict())


def furthest(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> float:
    """The largest difference between two sets of tensors of the same names."""
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)
