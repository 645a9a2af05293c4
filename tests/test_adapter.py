"""Adapters sit where their sources put them: against formulas written out in float64, and against AdapterHub's code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import tiny
import torch
import transformers
from safetensors import safe_open
from torch import nn

from baselines.adapter import Bottleneck
from engine import models
from engine.backbone import Backbone, Role
from engine.contract import Refused, generator

KINDS = tiny.KINDS
ORACLE = Path(__file__).parent / "oracles" / "adapters.safetensors"   # tests/oracles/make_adapters.py wrote it
ROLES = {"gpt2": tiny.GPT2, "deberta-v2": tiny.DEBERTA}

Function = Callable[[torch.Tensor], torch.Tensor]


def made(design: str, kind: str, **changes: Any) -> Backbone:
    """A tiny model with adapters, all its numbers random, in float64."""
    dropout = changes.pop("dropout", 0.0)
    backbone = tiny.adapted(tiny.adapter(design, **changes), kind, dropout=dropout)
    with torch.no_grad():
        for module in backbone.model.modules():
            if isinstance(module, Bottleneck):
                for parameter in module.parameters():
                    parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
    backbone.model.double()
    return backbone


def bottlenecks(backbone: Backbone, design: str) -> list[Function]:
    """Each adapter of the model as a formula on its numbers, in order: a reference for the module itself."""
    def function(one: Bottleneck) -> Function:
        down, up, act = one.down, one.up, {nn.ReLU: lambda x: x * (x > 0), nn.SiLU: lambda x: x / (1 + (-x).exp())}

        def f(y: torch.Tensor) -> torch.Tensor:
            if design == "lin":
                y = (y - y.mean(-1, keepdim=True)) / (y.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
                y = y * one.norm.weight + one.norm.bias
            return act[type(one.activation)](y @ down.weight.T + down.bias) @ up.weight.T + up.bias

        return f

    return [function(module) for module in backbone.model.modules() if isinstance(module, Bottleneck)]


def reference(design: str, kind: str, fs: list[Function], dropout: float = 0.0) -> nn.Module:
    """The base model with the formulas of baselines/adapter.py written into its layers' forward."""
    model = tiny.backbone(kind, dropout=dropout).model.double()
    fs = list(fs)
    for block in (model.transformer.h if kind == "gpt2" else getattr(model, model.base_model_prefix).encoder.layer):
        if design == "houlsby":
            first, second = fs.pop(0), fs.pop(0)
        else:
            f = fs.pop(0)
        if kind == "gpt2" and design == "houlsby":
            def forward(self: Any, x: Any, cache: Any, mask: Any, *_: Any, one: Any = first, two: Any = second,
                        **__: Any) -> torch.Tensor:
                h = self.attn(self.ln_1(x), past_key_values=cache, attention_mask=mask)[0]
                x = x + h + one(h)
                h = self.mlp(self.ln_2(x))
                return x + h + two(h)
            block.forward = MethodType(forward, block)
        elif design == "houlsby":
            for output, g in ((block.attention.output, first), (block.output, second)):
                def houlsby(self: Any, hidden: torch.Tensor, x: torch.Tensor, g: Any = g) -> torch.Tensor:
                    h = self.dropout(self.dense(hidden))
                    return self.LayerNorm(h + g(h) + x)
                output.forward = MethodType(houlsby, output)
        elif design == "pfeiffer" and kind != "gpt2":
            def pfeiffer(self: Any, hidden: torch.Tensor, x: torch.Tensor, f: Any = f) -> torch.Tensor:
                h = self.dropout(self.dense(hidden))
                return self.LayerNorm(h + x + f(self.LayerNorm(h + x)))
            block.output.forward = MethodType(pfeiffer, block.output)
        else:   # on the layer's output y, with the adapter's own LayerNorm (lin) or without one (pfeiffer on GPT-2)
            def behind(*args: Any, plain: Any = block.forward, f: Any = f, **kwargs: Any) -> Any:
                y = plain(*args, **kwargs)
                return (y[0] + f(y[0]), *y[1:]) if isinstance(y, tuple) else y + f(y)
            block.forward = behind
    assert not fs
    return model


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("design", ["houlsby", "pfeiffer", "lin"])
def test_an_adapted_model_is_the_formula(design: str, kind: str, dropout: float) -> None:
    """In training too: the adapter stands behind the sub-layer's dropout and draws no dropout of its own."""
    backbone, batch = made(design, kind, dropout=dropout), tiny.inputs(tiny.lora(), kind)
    outputs = []
    for model in (backbone.model, reference(design, kind, bottlenecks(backbone, design), dropout)):
        torch.manual_seed(3)
        outputs.append(model.train()(**batch).logits)
    plain = tiny.backbone(kind).model.double()(**batch).logits
    assert (outputs[0] - outputs[1]).abs().max() < 1e-10 < 1e-2 < (outputs[0] - plain).abs().max()


def stored() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    with safe_open(ORACLE, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, json.loads(file.metadata()["about"])   # noqa: SIM118


@pytest.mark.parametrize("design", ["houlsby", "pfeiffer"])
@pytest.mark.parametrize("name", ["roberta", "bert", "deberta-v2", "gpt2"])
def test_adapters_are_adapterhubs(name: str, design: str) -> None:
    """Same weights, same hidden states as the AdapterHub package gave (its double and its plain bottleneck config)."""
    tensors, about = stored()
    base = about["models"][name]
    config = getattr(transformers, base["class"].removesuffix("Model") + "Config")(**base["config"], num_labels=2)
    model = getattr(transformers, base["class"].removesuffix("Model") + "ForSequenceClassification")(config).eval()
    body = getattr(model, model.base_model_prefix)
    start = f"{name}/base/"
    own = {key.removeprefix(start): tensor for key, tensor in tensors.items() if key.startswith(start)}
    body.load_state_dict({key: tensor for key, tensor in own.items() if key in body.state_dict()}, strict=True)
    backbone = models._frozen(model, None, tiny.spec(ROLES.get(name, tiny.BERT)), 2)
    tiny.adapter(design).apply(backbone, generator(0, "adapter"))
    places = ("attention", "ffn") if design == "houlsby" else ("ffn",)
    found = [module for module in model.modules() if isinstance(module, Bottleneck)]
    with torch.no_grad():
        for i, module in enumerate(found):
            for part, parameter in module.named_parameters():
                where = f"{i // len(places)}/{places[i % len(places)]}"
                parameter.copy_(tensors[f"{name}/{design}/adapter/{where}/{part}"])
    model.double()
    batch = {key: tensors[f"{name}/{key}"] for key in ("input_ids", "attention_mask")}
    hidden = body(**batch).last_hidden_state
    real = batch["attention_mask"].bool()
    assert len(found) == 2 * len(places)
    assert (hidden - tensors[f"{name}/{design}/hidden"])[real].abs().max() < 1e-10
    assert (hidden - tensors[f"{name}/base_hidden"])[real].abs().max() > 0.1


@pytest.mark.parametrize(("drop", "kept"), [(0, {0, 1, 2}), (1, {1, 2}), (2, {2}), ([1], {0, 2}), ([0, 2], {1})])
def test_drop_says_which_layers_go_without(drop: Any, kept: set[int]) -> None:
    backbone = tiny.adapted(tiny.adapter("pfeiffer", drop=drop), layers=3)
    with_one = {int(name.split(".layer.")[1][0]) for name, module in backbone.model.named_modules()
                if isinstance(module, Bottleneck)}
    assert with_one == kept


@pytest.mark.parametrize("changes", [{"drop": 2}, {"drop": [0, 1]}, {"drop": [5]}, {"drop": -1}, {"r": 0}, {"r": 1.5},
                                     {"activation": "sin"}, {"design": "tall"}, {"std": 0}], ids=str)
def test_nonsense_is_refused_and_changes_nothing(changes: dict[str, Any]) -> None:
    backbone = tiny.backbone()
    before = repr(backbone.model)
    with pytest.raises(Refused, match=next(iter(changes))):
        tiny.adapter(**changes).apply(backbone, generator(0, "adapter"))
    assert repr(backbone.model) == before


def test_layers_of_an_unknown_build_are_refused() -> None:
    """DistilBERT normalises outside of its sub-layers, and its attention has a dropout that is not the output's."""
    config = transformers.DistilBertConfig(vocab_size=50, dim=16, n_layers=1, n_heads=2, hidden_dim=24)
    model = transformers.DistilBertForSequenceClassification(config)
    roles = {"o": Role(r".*\.attention\.out_lin", 0, 1), "ff": Role(r".*\.ffn\.lin2", 0, 1)}
    backbone = Backbone(model, None, roles, (), "")
    for design in ("houlsby", "pfeiffer"):
        with pytest.raises(Refused, match="only known"):
            tiny.adapter(design).apply(backbone, generator(0, "adapter"))


@pytest.mark.parametrize(("design", "places"), [
    ("houlsby", {"self_attn.o_proj.adapter", "mlp.down_proj.adapter"}), ("pfeiffer", {"adapter"}),
    ("lin", {"adapter"})])
def test_llama_has_no_dropout_and_its_adapters_stand_behind_the_projections(design: str, places: set[str]) -> None:
    config = transformers.LlamaConfig(vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
                                      num_attention_heads=2, num_labels=2, pad_token_id=0)
    roles = {"o": r".*\.self_attn\.o_proj", "ff": r".*\.mlp\.(gate|up|down)_proj"}
    backbone = models._frozen(transformers.LlamaForSequenceClassification(config), None, tiny.spec(roles), 2)
    tiny.adapter(design).apply(backbone, generator(0, "adapter"))
    found = {name.removeprefix("model.layers.0.") for name, module in backbone.model.named_modules()
             if isinstance(module, Bottleneck)}
    assert found == places and backbone.model(torch.tensor([[3, 4, 5]])).logits.isfinite().all()
