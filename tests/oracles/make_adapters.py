"""Makes `adapters.safetensors`: what AdapterHub's `adapters` computes with its two bottleneck adapters, as an oracle.

`adapters` is the reference for the adapters of Houlsby et al. (2019; `DoubleSeqBnConfig`) and Pfeiffer et al. (2020;
`SeqBnConfig`), but it needs a transformers older than this project's. So its answers are stored here, and the tests
only read them. To make the file again (the seed is fixed), in an environment of its own:

    pip install adapters==1.3.0
    python tests/oracles/make_adapters.py

Four tiny models with random weights, eager attention and no dropout see one padded batch, without an adapter and with
each of the two. Weights are float32 and everything is computed in float64. The tensors:

    <model>/input_ids, <model>/attention_mask
    <model>/base/<name>                     the model's parameters, with the names that plain transformers gives them
    <model>/base_hidden                     the last hidden state without an adapter
    <model>/<config>/adapter/<layer>/<attention|ffn>/<down|up>.<weight|bias>
    <model>/<config>/hidden                 the last hidden state with the adapter

and under the metadata's `about`, as JSON: the versions; for each model its class (in transformers) and the keyword
arguments of its config; for each adapter config its class (in `adapters`) and all its settings.
"""

from __future__ import annotations

import json
from pathlib import Path

import adapters
import torch
import transformers
from safetensors.torch import save_file
from torch import nn

FILE = Path(__file__).with_name("adapters.safetensors")
PAD, LENGTHS = 1, (7, 5)
COMMON = {"vocab_size": 50, "initializer_range": 0.2, "pad_token_id": PAD, "attn_implementation": "eager"}
ENCODER = COMMON | {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
                    "max_position_embeddings": 40, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
DISENTANGLED = {"relative_attention": True, "pos_att_type": "p2c|c2p", "share_att_key": True, "position_buckets": 8,
                "norm_rel_ebd": "layer_norm", "conv_kernel_size": 3, "conv_act": "gelu", "type_vocab_size": 0,
                "position_biased_input": False}
DECODER = COMMON | {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_inner": 24, "n_positions": 40, "bos_token_id": 0,
                    "eos_token_id": 0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}
MODELS = {   # name -> (the class's name without Model or Config, the config's keyword arguments)
    "roberta": ("Roberta", ENCODER), "bert": ("Bert", ENCODER),
    "deberta-v2": ("DebertaV2", ENCODER | DISENTANGLED), "gpt2": ("GPT2", DECODER),
}
CONFIGS = {   # hidden size 16: a bottleneck of 4
    "houlsby": adapters.DoubleSeqBnConfig(reduction_factor=4), "pfeiffer": adapters.SeqBnConfig(reduction_factor=4),
}
PLACES = {"mh_adapter": "attention", "output_adapter": "ffn"}


def build(prefix: str, settings: dict[str, object]) -> nn.Module:
    """The plain model in float64, its weights exact in float32; biases and LayerNorms are random too."""
    config = getattr(transformers, f"{prefix}Config")(**settings)
    model: nn.Module = getattr(transformers, f"{prefix}Model")(config)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.double().eval()


def fill(model: nn.Module, name: str) -> dict[str, torch.Tensor]:
    """Draws the weights of the adapter `name`, in float32, and returns them by their keys."""
    weights = {}
    for layer, places in model.get_adapter(name).items():
        for place, module in places.items():
            for part, linear in {"down": module.adapter_down[0], "up": module.adapter_up}.items():
                for kind, std in {"weight": 0.3, "bias": 0.1}.items():
                    parameter = getattr(linear, kind)
                    drawn = torch.randn(parameter.shape) * std
                    parameter.copy_(drawn)
                    weights[f"{layer}/{PLACES[place]}/{part}.{kind}"] = drawn
    return weights


def answers(prefix: str, settings: dict[str, object]) -> dict[str, torch.Tensor]:
    """All that is stored of one model."""
    torch.manual_seed(0)
    model = build(prefix, settings)
    stored = {f"base/{name}": parameter.float() for name, parameter in model.named_parameters()}
    mask = torch.tensor([[int(i < length) for i in range(max(LENGTHS))] for length in LENGTHS])
    ids = torch.randint(3, settings["vocab_size"], mask.shape).masked_fill(mask == 0, PAD)
    stored |= {"input_ids": ids, "attention_mask": mask}

    def run() -> torch.Tensor:
        return model(input_ids=ids, attention_mask=mask).last_hidden_state

    stored["base_hidden"] = run()
    adapters.init(model)
    assert torch.equal(run(), stored["base_hidden"])
    for name, config in CONFIGS.items():
        model.add_adapter(name, config=config)
        model.double().eval()
        stored |= {f"{name}/adapter/{key}": weight for key, weight in fill(model, name).items()}
        model.set_active_adapters(name)
        stored[f"{name}/hidden"] = run()
    return stored


@torch.no_grad()
def main() -> None:
    tensors = {f"{name}/{key}": tensor.contiguous() for name, (prefix, settings) in MODELS.items()
               for key, tensor in answers(prefix, settings).items()}
    about = {"versions": {package.__name__: package.__version__ for package in (adapters, transformers, torch)},
             "models": {name: {"class": f"{prefix}Model", "config": settings}
                        for name, (prefix, settings) in MODELS.items()},
             "configs": {name: {"class": type(config).__name__, "config": config.to_dict()}
                         for name, config in CONFIGS.items()}}
    save_file(tensors, FILE, metadata={"about": json.dumps(about)})
    print(f"{FILE.name}: {len(tensors)} tensors, {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
