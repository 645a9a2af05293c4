"""What every method promises on every architecture: where it starts, what trains, what is kept, who reads what."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from conftest import ROOT

from engine import models, weights
from engine.backbone import Backbone, Role
from engine.contract import Batch, Refused, generator

METHODS = tiny.methods()
EACH = pytest.mark.parametrize("name", METHODS)
EACH_ON = pytest.mark.parametrize(("name", "kind"), tiny.pairs())
HEADS = {"roberta": "classifier.", "bert": ("classifier.", "bert.pooler."), "deberta": ("classifier.", "pooler."),
         "mpnet": "classifier.", "gpt2": "score.", "llama": "score."}
UNCHANGED = ("ft", "ft-top2", "bitfit", "lora")   # by definition; the others add something that is not zero
BLOCK = r".*\.(layers?|h)\.{layer}\."
TRAINS = {   # what is called so trains, and nothing else but the head
    "ft": r".*", "ft-top2": BLOCK.replace("{layer}", "[12]") + ".*", "bitfit": r".*\.bias", "lora": r".*\.(A|B)\.[qv]",
    "adapter-h": r".*\.adapter\.(down|up)\.(weight|bias)", "adapter-p": r".*\.adapter\.(down|up)\.(weight|bias)",
    "adapter-l": r".*\.adapter\.(down|up|norm)\.(weight|bias)", "preembed": r".*\.special",
    "adapter-d": BLOCK.replace("{layer}", "[12]") + r".*adapter\.(down|up)\.(weight|bias)",
    "prelayer": r".*\.special\.weight", "lora-pe": r".*(\.(A|B)\.[qv]|\.special)",
    "lora-pl": r".*(\.(A|B)\.[qv]|\.special\.weight)"}


def made(name: str, kind: str, layers: int = 3, **changes: Any) -> Backbone:
    """The method on a tiny model of three layers, in float64, its Bs not zero."""
    backbone = tiny.adapted(METHODS[name], kind, layers=layers, **changes)
    tiny.randomise(backbone.model)
    backbone.model.double()
    return backbone


def logits(backbone: Backbone, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return backbone.model(**batch).logits


def test_the_list_above_is_that_of_conf() -> None:
    assert set(METHODS) == {path.stem for path in (ROOT / "conf" / "method").glob("*.yaml")} == set(TRAINS)


# --- where it starts ------------------------------------------------------------------------------------------------


@EACH_ON
def test_a_method_starts_at_the_base_model_or_says_that_it_does_not(name: str, kind: str) -> None:
    method, batch = METHODS[name], tiny.inputs(tiny.lora(), kind)
    before = logits(tiny.backbone(kind, layers=3), batch)
    after = logits(tiny.adapted(method, kind, layers=3), tiny.inputs(method, kind))
    assert torch.equal(after, before) == (name in UNCHANGED)


@EACH_ON
def test_a_seed_decides_how_it_starts_and_the_global_random_state_does_not(name: str, kind: str) -> None:
    state = torch.get_rng_state()
    one, same, other = (tiny.adapted(METHODS[name], kind, seed).model for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())   # tiny.backbone keeps it too
    assert tiny.furthest(one.state_dict(), same.state_dict()) == 0
    draws = name not in ("ft", "ft-top2", "bitfit")
    assert (tiny.furthest(one.state_dict(), other.state_dict()) > 0) == draws


@pytest.mark.parametrize("name", ["lora-pe", "lora-pl"])
def test_lora_beside_a_prefix_starts_from_the_matrices_of_lora_alone(name: str) -> None:
    alone, both = (dict(tiny.adapted(METHODS[each]).model.named_parameters()) for each in ("lora", name))
    names = [parameter for parameter in alone if re.fullmatch(r".*\.A\.[qv]", parameter)]
    assert len(names) == 4 and all(torch.equal(alone[each], both[each]) for each in names)


# --- what trains ----------------------------------------------------------------------------------------------------


@EACH_ON
def test_only_what_should_move_moves(name: str, kind: str) -> None:
    backbone = tiny.adapted(METHODS[name], kind, layers=3)
    names = [each for each, _ in backbone.model.named_parameters()]
    expected = {each for each in names if re.fullmatch(TRAINS[name], each) or each.startswith(HEADS[kind])}
    assert {each for each, p in backbone.model.named_parameters() if p.requires_grad} == expected
    before, special = tiny.state(backbone.model), tiny.backbone(kind).special(METHODS[name].tokens)
    tiny.train(backbone, rows=tiny.splits(24, special=special), epochs=1, weight_decay=0.1, decay_on="all", warmup=0)
    moved = {each for each, tensor in backbone.model.state_dict().items() if not torch.equal(tensor, before[each])}
    assert moved == expected


@EACH_ON
def test_every_trained_tensor_has_a_say(name: str, kind: str) -> None:
    """No parameter is counted that changes nothing: each gets a gradient."""
    backbone = made(name, kind)
    backbone.model(**tiny.inputs(METHODS[name], kind)).logits.pow(2).sum().backward()
    silent = {each for each, p in backbone.model.named_parameters() if p.requires_grad and not p.grad.abs().max() > 0}
    assert silent == set()


# --- what is kept ---------------------------------------------------------------------------------------------------


@EACH_ON
def test_saved_and_reloaded_logits_are_identical(name: str, kind: str, tmp_path: Path) -> None:
    trained = tiny.adapted(METHODS[name], kind, layers=3)
    with torch.no_grad():
        for parameter in trained.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    batch = tiny.inputs(METHODS[name], kind)
    before = logits(trained, batch)
    weights.save(weights.trained(trained.model), tmp_path / "best.safetensors", {})
    fresh = tiny.adapted(METHODS[name], kind, seed=7, layers=3)
    assert not torch.equal(logits(fresh, batch), before)
    weights.load(fresh, tmp_path / "best.safetensors", keep_output=False)
    assert torch.equal(logits(fresh, batch), before)


@EACH_ON
def test_a_copy_is_a_model_of_its_own(name: str, kind: str) -> None:
    """Hooks and shared modules must not tie a copy to what it was copied from."""
    one, batch = made(name, kind), tiny.inputs(METHODS[name], kind)
    other = copy.deepcopy(one)
    before = logits(one, batch)
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.add_(torch.randn_like(parameter))
    assert torch.equal(logits(one, batch), before) and not torch.equal(logits(other, batch), before)


# --- who reads what -------------------------------------------------------------------------------------------------


@EACH_ON
def test_padding_changes_no_example(name: str, kind: str) -> None:
    backbone, method = made(name, kind), METHODS[name]
    texts = [(5, 9, 8, 7, 6, 40, 41, 42), (5, 11, 12), (5, 33)]
    together = logits(backbone, tiny.inputs(method, kind, texts))
    for row, text in zip(together, texts, strict=True):
        assert (row - logits(backbone, tiny.inputs(method, kind, [text]))[0]).abs().max() < 1e-10


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize(("name", "kind"), [pair for pair in tiny.pairs() if pair[1] in tiny.DECODERS])
def test_a_decoder_generates_the_same_with_and_without_a_cache_alone_or_padded(name: str, kind: str,
                                                                               beams: int) -> None:
    backbone, method = made(name, kind, outputs=0), METHODS[name]
    backbone.model.generation_config.pad_token_id = tiny.PAD
    texts = [(5, 9, 8, 7, 6), (5, 11), (33, 4, 2)]

    def generate(rows: list[tuple[int, ...]], cache: bool) -> list[list[int]]:
        batch = tiny.inputs(method, kind, rows, left=True)
        out = backbone.model.generate(**batch, max_new_tokens=8, min_new_tokens=8, do_sample=False, num_beams=beams,
                                      use_cache=cache)
        return out[:, batch["input_ids"].shape[1]:].tolist()

    cached = generate(texts, True)
    assert cached == generate(texts, False) and cached == [generate([text], True)[0] for text in texts]
    assert len({tuple(row) for row in cached}) > 1   # what is generated depends on the prompt


@EACH_ON
def test_it_trains_in_bf16(name: str, kind: str) -> None:
    backbone = tiny.adapted(METHODS[name], kind)
    with torch.autocast("cpu", torch.bfloat16):
        loss = backbone.model(**tiny.inputs(METHODS[name], kind)).logits.float().pow(2).sum()
    loss.backward()
    assert loss.isfinite() and all(p.grad is not None and p.grad.isfinite().all()
                                   for p in backbone.model.parameters() if p.requires_grad)


@EACH_ON
def test_it_is_counted_on_the_meta_device_as_it_is_built(name: str, kind: str) -> None:
    """Also what the graph would keep is the same there, so that memory can be told without weights."""
    from engine import memory

    real = tiny.adapted(METHODS[name], kind)
    shape = tiny.backbone(kind, device="meta")
    METHODS[name].apply(shape, generator(0, "adapter"))
    for backbone in (real, shape):
        backbone.model.set_attn_implementation("eager")   # other kernels keep other things on other devices
    assert models.footprint(shape) == models.footprint(real)
    assert memory.expected(shape, 3, 9) == memory.expected(real, 3, 9)


def test_a_model_without_biases_is_refused() -> None:
    backbone = tiny.backbone("llama")
    with pytest.raises(Refused, match="no biases"):
        METHODS["bitfit"].apply(backbone, generator(0, "adapter"))


def test_more_top_layers_than_there_are_are_refused() -> None:
    from baselines.top_layers import TopLayers

    with pytest.raises(Refused, match="2 layers"):
        tiny.adapted(TopLayers("ft-top2", "FT-Top3", 3))
    with pytest.raises(Refused, match="top"):
        TopLayers("ft-top2", "FT-Top0", 0)


def test_the_biases_of_layernorms_and_embeddings_are_biases() -> None:
    names = {each for each, p in tiny.adapted(METHODS["bitfit"]).model.named_parameters() if p.requires_grad}
    assert {"roberta.embeddings.LayerNorm.bias", "roberta.encoder.layer.0.output.LayerNorm.bias",
            "roberta.encoder.layer.1.attention.self.key.bias"} <= names
    assert len(names) == 1 + 2 * 8 + 4   # the embeddings', eight a layer, and the head's weights and biases


@pytest.mark.parametrize("name", ["adapter-h", "adapter-l", "adapter-p", "lora"])
def test_a_method_is_not_applied_twice(name: str) -> None:
    with pytest.raises(Refused):
        METHODS[name].apply(tiny.adapted(METHODS[name]), generator(1, "adapter"))


def test_memory_knows_the_recipes_dropout() -> None:
    """Dropout keeps its masks, and what it was applied to, for the backward pass."""
    from engine import memory

    config = {"model_type": "bert", "num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2,
              "intermediate_size": 24, "vocab_size": 50, "max_position_embeddings": 40, "pad_token_id": 0}
    kept = {}
    for rate in (0.0, 0.1):
        shape = models.shape(tiny.spec(tiny.BERT, config), 2, tiny.recipe(dropout=rate), 0)
        real = tiny.backbone("bert", dropout=rate)
        for backbone in (shape, real):
            METHODS["lora"].apply(backbone, generator(0, "adapter"))
            backbone.model.set_attn_implementation("eager")
        kept[rate] = memory.expected(shape, 4, 20).activations
        assert kept[rate] == memory.expected(real, 4, 20).activations
    assert kept[0.0] < 0.8 * kept[0.1]


@pytest.mark.parametrize("name", ["deberta-v2", "esm", "openai-gpt", "distilbert"])
def test_memory_is_told_whatever_shape_of_mask_a_model_takes(name: str) -> None:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from engine import memory

    config = AutoConfig.for_model(name, vocab_size=50, pad_token_id=1)
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    kept = [memory.expected(models._frozen(model, None, tiny.spec({}), 2), n, 9).activations for n in (1, 2)]
    assert 0 < kept[0] < kept[1] <= 2 * kept[0]


def test_a_model_that_makes_no_forward_pass_is_refused_in_a_line() -> None:
    """XMOD must be told a language."""
    from transformers import XmodConfig, XmodForSequenceClassification

    from engine import memory

    config = XmodConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24)
    backbone = models._frozen(XmodForSequenceClassification(config), None, tiny.spec(tiny.BERT), 2)
    for ask in (lambda: memory.expected(backbone, 1, 9),
                lambda: METHODS["adapter-h"].apply(backbone, generator(0, "adapter"))):
        with pytest.raises(Refused, match="XmodForSequenceClassification makes no forward pass .*language") as refusal:
            ask()
        assert "\n" not in str(refusal.value) and backbone.model.training


@pytest.mark.parametrize(("part", "parts"), [(3, 3), (0, 5)])
def test_a_part_that_does_not_divide_a_projection_is_refused(part: int, parts: int) -> None:
    backbone = tiny.backbone("gpt2")
    roles = {"q": Role(tiny.FUSED, part, parts)}
    with pytest.raises(Refused, match="no part of the 48"):
        Backbone(backbone.model, None, roles, (), "").sites(["q"])


@pytest.mark.parametrize("name", ["prelayer", "ft-top2", "adapter-l", "lora-pl"])
def test_layers_that_are_shared_are_refused(name: str) -> None:
    """ALBERT has one layer for all; a method of single layers would do something else in silence."""
    from transformers import AlbertConfig, AlbertForSequenceClassification

    config = AlbertConfig(vocab_size=50, embedding_size=8, hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
                          intermediate_size=24)
    backbone = models._frozen(AlbertForSequenceClassification(config), None, tiny.spec({
        "q": r".*\.attention\.query", "v": r".*\.attention\.value"}), 2)
    with pytest.raises(Refused, match="no list of its layers"):
        METHODS[name].apply(backbone, generator(0, "adapter"))


@pytest.mark.parametrize("name", ["preembed", "prelayer"])
@pytest.mark.parametrize("kind", tiny.DECODERS)
def test_an_output_layer_can_still_be_tied_to_the_words(name: str, kind: str) -> None:
    backbone = tiny.adapted(METHODS[name], kind, outputs=0)
    backbone.model.tie_weights()
    assert backbone.model.get_output_embeddings().weight is backbone.model.get_input_embeddings().words.weight


@pytest.mark.parametrize("kind", tiny.DECODERS)
def test_fine_tuning_a_tied_decoder_counts_and_keeps_words_and_output_as_one(kind: str, tmp_path: Path) -> None:
    trained = tiny.adapted(METHODS["ft"], kind, outputs=0)
    words = trained.model.get_input_embeddings().weight
    own = {id(p): p.numel() for p in trained.model.parameters()}
    assert models.footprint(trained) == models.Footprint(sum(own.values()), 0, sum(own.values()))
    with torch.no_grad():
        for parameter in trained.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    kept = weights.trained(trained.model)
    assert sum(tensor.shape == words.shape for tensor in kept.values()) == 1
    weights.save(kept, tmp_path / "best.safetensors", {})
    fresh = tiny.adapted(METHODS["ft"], kind, outputs=0)
    weights.load(fresh, tmp_path / "best.safetensors", keep_output=False)
    batch = tiny.inputs(METHODS["ft"], kind)
    assert torch.equal(logits(fresh, batch), logits(trained, batch))
    assert fresh.model.get_output_embeddings().weight is fresh.model.get_input_embeddings().weight


def test_memory_is_told_in_fp32_whatever_the_weights_are_kept_in(tmp_path: Path) -> None:
    """load() computes in float32, and so does the count, also for a checkpoint that is kept in bf16."""
    import json

    from conftest import write_model

    from engine import memory

    folder = write_model(tmp_path / "llama", "llama")
    expected = []
    for dtype in ("float32", "bfloat16"):
        config = json.loads((folder / "config.json").read_text()) | {"dtype": dtype}
        (folder / "config.json").write_text(json.dumps(config))
        spec = replace(tiny.spec({}), path=str(folder))
        expected.append(memory.expected(models.shape(spec, 0, None, 0), 2, 8))
    assert expected[0] == expected[1]
