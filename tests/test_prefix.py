"""Prefix methods: special tokens that are tokens, and activations that are replaced before every layer reads them."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from peft import PromptTuningConfig, get_peft_model
from torch import nn

from baselines.prefix import PreEmbed, PreLayer
from engine.backbone import Backbone
from engine.contract import Batch, Refused, generator

KINDS = tiny.KINDS
ON = pytest.mark.parametrize("kind", KINDS)
METHODS = pytest.mark.parametrize("method", [PreEmbed, PreLayer])
TEXT = (5, 9, 8, 7)
L_P, L_I = 3, 2


def made(method: type[Any], kind: str, **changes: Any) -> Backbone:
    backbone = tiny.adapted(tiny.prefix(method), kind, layers=3, **changes)
    backbone.model.double()
    return backbone


def one(kind: str) -> Batch:
    """A single example without padding."""
    return tiny.inputs(tiny.prefix(), kind, [TEXT])


def places(kind: str) -> list[int]:
    """Where the special tokens stand: behind the encoder's first sign, and behind all."""
    cut = 0 if kind in tiny.DECODERS else 1
    return [*range(cut, cut + L_P), *range(L_P + len(TEXT), L_P + len(TEXT) + L_I)]


def embedded(base: nn.Module, kind: str, special: torch.Tensor) -> torch.Tensor:
    """The example's word embeddings with these rows (l_p + l_i, d) for its special tokens, put together by hand."""
    words = base.get_input_embeddings().weight[list(TEXT)]
    cut = 0 if kind in tiny.DECODERS else 1
    return torch.cat([words[:cut], special[:L_P], words[cut:], special[L_P:]])[None]


@ON
def test_preembed_is_the_base_model_on_embeddings_put_together_by_hand(kind: str) -> None:
    backbone, base = made(PreEmbed, kind), tiny.backbone(kind, layers=3).model.double()
    special = backbone.model.get_input_embeddings().special
    expected = base(inputs_embeds=embedded(base, kind, special)).logits
    assert (backbone.model(**one(kind)).logits - expected).abs().max() < 1e-10


@ON
def test_prelayer_is_the_layers_called_one_by_one_on_replaced_activations(kind: str) -> None:
    backbone, base = made(PreLayer, kind), tiny.backbone(kind, layers=3).model.double()
    rows = [p for name, p in backbone.model.named_parameters() if name.endswith(".special.weight")]
    assert len(rows) == 3
    body, n = getattr(base, base.base_model_prefix), len(TEXT) + L_P + L_I
    words = embedded(base, kind, torch.zeros(L_P + L_I, 16, dtype=torch.float64))

    def put(hidden: torch.Tensor, layer: int) -> torch.Tensor:
        out = hidden.clone()
        out[0, places(kind)] = rows[layer]
        return out

    if kind == "gpt2":
        hidden = words + body.wpe.weight[:n]
        mask = torch.full((n, n), float("-inf"), dtype=torch.float64).triu(1)[None, None]
        for layer, block in enumerate(body.h):
            hidden = block(put(hidden, layer), None, mask)
        expected = base.score(body.ln_f(hidden))[:, -1]
    elif kind == "llama":
        hidden, mask = words, torch.full((n, n), float("-inf"), dtype=torch.float64).triu(1)[None, None]
        turned = body.rotary_emb(words, torch.arange(n)[None])
        for layer, block in enumerate(body.layers):
            hidden = block(put(hidden, layer), mask, position_embeddings=turned)
        expected = base.score(body.norm(hidden))[:, -1]
    elif kind == "mpnet":
        hidden = body.embeddings(inputs_embeds=words)
        for layer, block in enumerate(body.encoder.layer):
            hidden = block(put(hidden, layer), None, body.encoder.compute_position_bias(words))[0]
        expected = base.classifier(hidden)
    elif kind == "deberta":
        encoder, mask = body.encoder, torch.ones(1, n, dtype=torch.long)
        hidden = start = put(body.embeddings(inputs_embeds=words, mask=mask), 0)
        for layer, block in enumerate(encoder.layer):
            hidden = block(put(hidden, layer), encoder.get_attention_mask(mask),
                           relative_pos=encoder.get_rel_pos(hidden), rel_embeddings=encoder.get_rel_embedding())[0]
            hidden = encoder.conv(start, hidden, mask) if layer == 0 else hidden
        expected = base.classifier(base.pooler(hidden))
    else:
        hidden = body.embeddings(inputs_embeds=words)
        for layer, block in enumerate(body.encoder.layer):
            hidden = block(put(hidden, layer), None)
        expected = base.classifier(body.pooler(hidden) if kind == "bert" else hidden)
    assert (backbone.model(**one(kind)).logits - expected).abs().max() < 1e-10


@pytest.mark.parametrize("kind", tiny.DECODERS)
def test_preembed_without_an_infix_is_pefts_prompt_tuning(kind: str) -> None:
    """On a decoder, where the prefix stands in front of all."""
    method = tiny.prefix(PreEmbed, l_i=0)
    backbone = tiny.adapted(method, kind, outputs=0)
    special = backbone.model.get_input_embeddings().special
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=L_P, num_layers=2, token_dim=16,
                                num_transformer_submodules=1, num_attention_heads=2)
    theirs = get_peft_model(tiny.backbone(kind, outputs=0).model, config).eval()
    theirs.prompt_encoder["default"].embedding.weight.data.copy_(special.data)
    plain, ours = tiny.inputs(tiny.lora(), kind), tiny.inputs(method, kind)
    real = ours["attention_mask"].bool()
    assert (backbone.model(**ours).logits - theirs(**plain).logits)[real].abs().max() < 1e-5


@ON
def test_what_every_layer_reads_at_special_tokens_does_not_depend_on_the_input(kind: str) -> None:
    backbone, read = made(PreLayer, kind), []
    for block in backbone.blocks()[1]:   # behind the method's own hook
        block.register_forward_pre_hook(lambda module, args: read.append(args[0][:, places(kind)]))
    for text in (TEXT, (5, 40, 41, 42)):
        backbone.model(**tiny.inputs(tiny.prefix(), kind, [text]))
    rows = [p for name, p in backbone.model.named_parameters() if name.endswith(".special.weight")]
    assert len(read) == 6
    for layer in range(3):
        assert torch.equal(read[layer][0], rows[layer]) and torch.equal(read[layer + 3][0], rows[layer])


@METHODS
@pytest.mark.parametrize("kind", tiny.DECODERS)
def test_a_decoder_read_out_at_its_infix_still_depends_on_the_input(method: type[Any], kind: str) -> None:
    """It would not, were the last layer's output replaced too: then L + 1 places would be, not the paper's L."""
    backbone = made(method, kind)
    two = backbone.model(**tiny.inputs(tiny.prefix(), kind, [TEXT, (5, 40, 41, 42)])).logits
    assert (two[0] - two[1]).abs().max() > 1e-3


@METHODS
@ON
def test_the_order_of_the_special_tokens_matters_where_a_layer_can_tell(method: type[Any], kind: str) -> None:
    """Ids, not places, choose the vectors. BERT's layers know places only from their input, which PreLayer replaces."""
    backbone, batch = made(method, kind), one(kind)
    before = backbone.model(**batch).logits
    swapped = batch["input_ids"].clone()
    at = places(kind)
    swapped[0, at] = batch["input_ids"][0, at[::-1]]
    blind = method is PreLayer and kind in ("roberta", "bert")
    assert ((backbone.model(**batch | {"input_ids": swapped}).logits - before).abs().max() < 1e-3) == blind


@METHODS
@pytest.mark.parametrize(("l_p", "l_i"), [(4, 0), (0, 4), (1, 1)])
def test_counts_are_the_papers_formulas(method: type[Any], l_p: int, l_i: int) -> None:
    backbone = tiny.adapted(tiny.prefix(method, l_p=l_p, l_i=l_i), layers=3)
    names = [name for name, p in backbone.model.named_parameters() if p.requires_grad and "classifier" not in name]
    count = sum(backbone.model.get_parameter(name).numel() for name in names)
    assert count == 16 * (l_p + l_i) * (3 if method is PreLayer else 1)
    assert len(backbone.model.state_dict()) == len(tiny.backbone(layers=3).model.state_dict()) + len(names)
    assert backbone.model(**tiny.inputs(tiny.prefix(method, l_p=l_p, l_i=l_i))).logits.isfinite().all()


@METHODS
def test_words_are_a_start_too(method: type[Any]) -> None:
    base = tiny.backbone()
    words = base.model.get_input_embeddings().weight
    backbone = tiny.adapted(tiny.prefix(method, init="words"))
    for name, parameter in backbone.model.named_parameters():
        if ".special" in name:
            assert all((words == row).all(-1).any() for row in parameter)
    assert words.requires_grad is False


class Scaled(nn.Embedding):
    """As Gemma 3 has it."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return 4 * super().forward(ids)


@METHODS
def test_a_start_from_words_is_what_the_model_makes_of_them(method: type[Any]) -> None:
    base = tiny.backbone("llama")
    words = Scaled(tiny.VOCAB, 16).requires_grad_(False)
    base.model.set_input_embeddings(words)
    tiny.prefix(method, init="words").apply(base, generator(0, "adapter"))
    rows = torch.cat([p for name, p in base.model.named_parameters() if ".special" in name])
    assert len(rows) >= 5 and all((4 * words.weight == row).all(-1).any() for row in rows)


def test_vocabulary_words_keep_their_embeddings() -> None:
    backbone, base = tiny.adapted(tiny.prefix()), tiny.backbone()
    ids = torch.arange(tiny.VOCAB)[None]
    assert torch.equal(backbone.model.get_input_embeddings()(ids), base.model.get_input_embeddings()(ids))


@pytest.mark.parametrize("changes", [{"l_p": 0, "l_i": 0}, {"l_p": -1}, {"l_i": 1.5}, {"init": "zeros"}, {"std": 0}],
                         ids=str)
@METHODS
def test_nonsense_is_refused(method: type[Any], changes: dict[str, Any]) -> None:
    with pytest.raises(Refused, match=next(iter(changes))):
        tiny.prefix(method, **changes).apply(tiny.backbone(), generator(0, "adapter"))
