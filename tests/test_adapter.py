"""Adapters sit where their sources put them: against formulas written out in float64, and against AdapterHub's code."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import tiny
import torch
import transformers
import yaml
from conftest import ROOT
from safetensors import safe_open
from torch import nn

from baselines.adapter import Bottleneck
from engine import models
from engine.backbone import Backbone, Role
from engine.contract import Refused, generator

ORACLE = Path(__file__).parent / "oracles" / "adapters.safetensors"   # tests/oracles/make_adapters.py wrote it
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4,
         "intermediate_size": 24, "vocab_size": 50, "max_position_embeddings": 40, "pad_token_id": 1}

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
    for block in Backbone(model, None, {}, (), "").blocks()[1]:
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
        elif kind == "llama" and design == "houlsby":
            def llama(self: Any, x: Any, one: Any = first, two: Any = second, **given: Any) -> torch.Tensor:
                h = self.self_attn(self.input_layernorm(x), **given)[0]
                x = x + h + one(h)
                h = self.mlp(self.post_attention_layernorm(x))
                return x + h + two(h)
            block.forward = MethodType(llama, block)
        elif design == "houlsby":
            def houlsby(self: Any, hidden: torch.Tensor, x: torch.Tensor, g: Any = second) -> torch.Tensor:
                h = self.dropout(self.dense(hidden))
                return self.LayerNorm(h + g(h) + x)

            def mpnet(self: Any, x: torch.Tensor, mask: Any, g: Any = first, **given: Any) -> tuple[torch.Tensor]:
                h = self.dropout(self.attn(x, mask, **given)[0])
                return (self.LayerNorm(h + g(h) + x),)
            block.output.forward = MethodType(houlsby, block.output)
            if kind == "mpnet":
                block.attention.forward = MethodType(mpnet, block.attention)
            else:
                block.attention.output.forward = MethodType(partial(houlsby, g=first), block.attention.output)
        elif design == "pfeiffer" and kind in tiny.ENCODERS:
            def pfeiffer(self: Any, hidden: torch.Tensor, x: torch.Tensor, f: Any = f) -> torch.Tensor:
                h = self.dropout(self.dense(hidden))
                return self.LayerNorm(h + x + f(self.LayerNorm(h + x)))
            block.output.forward = MethodType(pfeiffer, block.output)
        else:   # on the layer's output y, with the adapter's own LayerNorm (lin) or without one (pfeiffer of decoders)
            def behind(*args: Any, plain: Any = block.forward, f: Any = f, **kwargs: Any) -> Any:
                y = plain(*args, **kwargs)
                return (y[0] + f(y[0]), *y[1:]) if isinstance(y, tuple) else y + f(y)
            block.forward = behind
    assert not fs
    return model


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("kind", tiny.KINDS)
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
    backbone = models._frozen(model, None, tiny.spec(tiny.ROLES.get(name.removesuffix("-v2"), tiny.BERT)), 2)
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


def built(name: str, roles: str | dict[str, str]) -> Backbone:
    """A small model of that architecture, with the roles of conf/model/roles, or of its own."""
    declared = transformers.AutoConfig.for_model(name)
    config = transformers.AutoConfig.for_model(name, **{k: v for k, v in SMALL.items() if hasattr(declared, k)})
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    if isinstance(roles, str):
        roles = yaml.safe_load((ROOT / "conf" / "model" / "roles" / f"{roles}.yaml").read_text())
    return models._frozen(model, None, tiny.spec(roles), 2)


BERT = ["attention.output.dropout", "output.dropout", "output.LayerNorm"]   # of Adapter-H, and of Adapter-P
LLAMA = ["mlp.down_proj", "self_attn.o_proj", ""]
DISTILBERT = {"o": r".*\.attention\.out_lin", "ff": r".*\.ffn\.lin[12]"}
PLACES = {   # what transformers calls the modules that the formulas mean; "" is the layer
    "electra": ("bert", BERT), "xlm-roberta": ("bert", BERT), "roformer": ("bert", BERT),
    "roberta-prelayernorm": ("bert", [*BERT[:2], ""]), "megatron-bert": ("bert", [*BERT[:2], ""]),
    "esm": ("bert", [*BERT[:2], ""]), "xlm-roberta-xl": ("bert", [BERT[0], "output.dense", ""]),
    "deberta": ("deberta", BERT), "mpnet": ("mpnet", ["attention.dropout", *BERT[1:]]),
    "gpt2": ("gpt2", ["attn.resid_dropout", "mlp.dropout", ""]),
    "openai-gpt": ("gpt2", ["attn.resid_dropout", "mlp.dropout", "ln_2"]),
    "llama": ("llama", LLAMA), "mistral": ("llama", LLAMA), "qwen2": ("llama", LLAMA), "qwen3": ("llama", LLAMA),
    "gemma": ("llama", LLAMA), "phi3": ("llama", ["resid_attn_dropout", "resid_mlp_dropout", ""]),
    "distilbert": (DISTILBERT, ["attention.out_lin", "ffn.dropout", "output_layer_norm"])}


@pytest.mark.parametrize("name", PLACES)
def test_an_adapters_place_is_found_in_every_architecture(name: str) -> None:
    roles, expected = PLACES[name]
    for design, places in (("houlsby", expected[:2]), ("pfeiffer", expected[2:]), ("lin", [""])):
        backbone = built(name, roles)
        holder = backbone.blocks()[0]
        tiny.adapter(design).apply(backbone, generator(0, "adapter"))
        found = {each for each, module in backbone.model.named_modules() if isinstance(module, Bottleneck)}
        assert found == {f"{holder}.{layer}.{place}.adapter".replace("..", ".") for layer in (0, 1) for place in places}
        assert backbone.model(input_ids=torch.tensor([[3, 4, 5]])).logits.isfinite().all()
        hooked = [module for module in backbone.model.modules() if module._forward_hooks or module._forward_pre_hooks]
        assert len(hooked) == (2 if places == [""] else 0) and all(each.training for each in backbone.model.modules())


UNKNOWN = {   # what h is added to is not what the formulas say
    "gemma2": "llama", "olmo2": "llama",   # LN(h) + x
    "seed_oss": "llama",   # dropout is a function, and no module gives h
    "gpt_neox": {"o": r".*\.attention\.dense", "ff": r".*\.mlp\.dense_4h_to_h"},   # x + h of attention + h of the MLP
    "ibert": "bert"}   # sums are quantised


@pytest.mark.parametrize("name", UNKNOWN)
def test_layers_of_an_unknown_build_are_refused(name: str) -> None:
    for design in ("houlsby", "pfeiffer"):
        backbone = built(name, UNKNOWN[name])
        before = repr(backbone.model)
        with pytest.raises(Refused, match=r"x \+ sublayer\(x\).*\.0 does not\n.*adapter-l") as refusal:
            tiny.adapter(design).apply(backbone, generator(0, "adapter"))
        assert repr(backbone.model) == before and str(refusal.value).count("\n") == 1
        assert not any(module._forward_hooks for module in backbone.model.modules())
    tiny.adapter("lin").apply(backbone, generator(0, "adapter"))   # needs a layer's output alone


SUMS: dict[str, Callable[..., torch.Tensor]] = {   # what could be made of attention's output instead of x + h
    "subtracted": lambda x, h: x - h, "scaled": lambda x, h: x + 2 * h, "used twice": lambda x, h: x + (h + h),
    "normalised": lambda x, h: x + torch.layer_norm(h, [16])}


@pytest.mark.parametrize("how", [*SUMS, "used later", "stacked", "dropped by one module"])
def test_only_a_plain_sum_is_a_known_build(how: str) -> None:
    backbone = tiny.backbone("llama")

    def forward(self: Any, x: torch.Tensor, **given: Any) -> torch.Tensor:
        drop = self.drop if "dropped" in how else nn.Identity()
        h = drop(self.self_attn(self.input_layernorm(x), **given)[0])
        x = SUMS.get(how, torch.add)(x, h)
        self.seen = torch.stack([h, h]) if how == "stacked" else None
        m = drop(self.mlp(self.post_attention_layernorm(x)))
        return (x + h if how == "used later" else x) + m

    for block in backbone.blocks()[1]:
        block.forward, block.drop = MethodType(forward, block), nn.Dropout()
    for design in ("houlsby", "pfeiffer"):
        with pytest.raises(Refused, match="layers that compute x"):
            tiny.adapter(design).apply(backbone, generator(0, "adapter"))


def test_a_role_that_does_not_end_its_sublayer_is_refused() -> None:
    backbone = tiny.backbone("llama")
    roles = backbone.roles | {"ff": Role(r".*\.mlp\.gate_proj", 0, 1)}
    with pytest.raises(Refused, match="layers that compute x"):
        tiny.adapter().apply(replace(backbone, roles=roles), generator(0, "adapter"))
