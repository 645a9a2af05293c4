"""Beam search against the official definition written out in plain Python, and against transformers' own."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import tiny
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, NoRepeatNGramLogitsProcessor

from engine import generate, models
from engine.backbone import Backbone
from engine.search import Ban
from engine.spec import Decode
from lora.method import layers

END, OTHER_END, WORDS = 0, 5, 12
OFFICIAL = Decode("official", "best", "official", 4, 0.8, 3, "completion", True, ["x"], 10)
Logits = Callable[[list[int]], torch.Tensor]


class Signs:
    """A tokenizer whose words are letters; `x` is the second end."""

    eos_token_id, pad_token_id = END, END

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [OTHER_END] if text == "x" else [1, 1]}

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return " ".join(map(str, ids))


def model(seed: int, kind: str = "gpt2") -> Backbone:
    """Random logits, in float64, peaked enough for hypotheses to end and to repeat themselves."""
    common = {"vocab_size": WORDS, "initializer_range": 0.6, "bos_token_id": END, "eos_token_id": END}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "gpt2":
            made: Any = GPT2LMHeadModel(GPT2Config(n_positions=40, n_embd=16, n_layer=2, n_head=2, **common))
        else:
            made = LlamaForCausalLM(LlamaConfig(
                hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=24,
                max_position_embeddings=40, tie_word_embeddings=True, **common))
    return models._frozen(made.double().eval(), Signs(), tiny.spec(tiny.ROLES[kind]), 0)


def prompts(seed: int, n: int = 5) -> list[list[int]]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(1, WORDS, (int(size),), generator=draw).tolist()
            for size in torch.randint(3, 9, (n,), generator=draw)]


def straight(made: Backbone) -> Logits:
    """One text at a time, without a cache of keys and values; a text that comes again is not computed again."""
    @cache
    def last(ids: tuple[int, ...]) -> torch.Tensor:
        with torch.no_grad():
            return made.model(input_ids=torch.tensor([ids])).logits[0, -1]

    return lambda ids: last(tuple(ids))


@cache
def plain(seed: int, kind: str = "gpt2") -> Logits:
    """Those of model(seed), for every test that asks: a model of their own, so that no search can have touched it."""
    return straight(model(seed, kind))


def banned(seen: list[int], n: int) -> set[int]:
    if n == 0 or len(seen) < n:
        return set()
    return {seen[i + n - 1] for i in range(len(seen) - n + 1) if seen[i:i + n - 1] == seen[len(seen) - n + 1:]}


def reference(logits: Logits, prompt: list[int], how: Decode) -> list[int]:
    """The official search, one prompt, no cache, no batch, no early stop: what gpt2_beam.py does, in our words."""
    live: list[tuple[float, list[int]]] = [(0.0, [])]
    best, best_score = [], -math.inf
    for length in range(1, how.max_new + 1):
        candidates = []
        for score, text in live:
            scores = logits(prompt + text).log_softmax(-1)
            scores[list(banned((prompt if how.ban_sees == "all" else []) + text, how.no_repeat))] = -math.inf
            if how.renormalise:
                scores = scores.log_softmax(-1)
            candidates += [(score + value, [*text, word]) for word, value in enumerate(scores.tolist())]
        candidates.sort(key=lambda entry: -entry[0])
        live = []
        for score, text in candidates[:how.beams]:
            if text[-1] in (END, OTHER_END):
                if score / length ** how.length_penalty > best_score:
                    best, best_score = text, score / length ** how.length_penalty
            else:
                live.append((score, text))
    for score, text in live:
        if score / how.max_new ** how.length_penalty > best_score:
            best, best_score = text, score / how.max_new ** how.length_penalty
    return best


def ended(ids: list[int]) -> list[int]:
    """Without the end and what follows it."""
    stop = next((i for i, word in enumerate(ids) if word in (END, OTHER_END)), len(ids))
    return ids[:stop]


def run(made: Backbone, how: Decode, asked: Sequence[Sequence[int]], size: int | None = None) -> list[list[int]]:
    outputs = generate.generate(made, how, asked, tiny.CPU, 0, 1, size)
    return [[int(word) for word in output.text.split()] for output in outputs]


@pytest.mark.parametrize("changes", [
    {}, {"beams": 1}, {"beams": 10, "max_new": 12}, {"length_penalty": 0.0}, {"length_penalty": 2.0},
    {"no_repeat": 0}, {"no_repeat": 2}, {"no_repeat": 1}, {"ban_sees": "all", "no_repeat": 2}, {"renormalise": False}],
    ids=str)
def test_the_official_search_is_the_official_definition(changes: dict[str, Any]) -> None:
    how, ends = replace(OFFICIAL, **changes), 0
    for seed in range(6):
        made, asked = model(seed), prompts(seed)
        told = [reference(plain(seed), prompt, how) for prompt in asked]
        assert run(made, how, asked) == [ended(text) for text in told]
        ends += sum(bool(text) and text[-1] in (END, OTHER_END) for text in told)
    assert ends, "no hypothesis ended: the test would not see how they are ranked"


def test_it_is_on_llama_too() -> None:
    """Its cache has fewer heads, its positions turn keys and queries."""
    made, asked = model(0, "llama"), prompts(0)
    assert run(made, OFFICIAL, asked) == [ended(reference(plain(0, "llama"), prompt, OFFICIAL)) for prompt in asked]


@pytest.mark.parametrize(("search", "kind", "seeds"), [("official", "gpt2", 4), ("hf", "gpt2", 4),
                                                       ("official", "llama", 1), ("hf", "llama", 1)])
def test_prompts_batched_give_what_each_gives_alone(search: str, kind: str, seeds: int) -> None:
    how = replace(OFFICIAL, search=search)
    for seed in range(seeds):
        made, asked = model(seed, kind), prompts(seed, 9)
        together = run(made, how, asked)
        assert together == run(made, how, asked, 1) == run(made, how, asked, 4)
        assert len({tuple(text) for text in together}) > 1


@pytest.mark.parametrize("changes", [{}, {"length_penalty": 0.0}, {"no_repeat": 0}, {"beams": 1}], ids=str)
def test_the_hf_search_is_transformers_own(changes: dict[str, Any]) -> None:
    how = replace(OFFICIAL, search="hf", ban_sees="all", renormalise=False, ends=[], **changes)
    for seed in range(4):
        made, asked = model(seed), prompts(seed)
        for prompt, text in zip(asked, run(made, how, asked), strict=True):
            told = made.model.generate(
                torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), do_sample=False,
                num_beams=how.beams, length_penalty=how.length_penalty, no_repeat_ngram_size=how.no_repeat,
                max_new_tokens=how.max_new, eos_token_id=END, pad_token_id=END)[0, len(prompt):].tolist()
            assert text == told[:told.index(END)] if END in told else text == told


def test_the_two_searches_differ() -> None:
    """Or the options would be names for one thing."""
    official, hf = (replace(OFFICIAL, search=search, beams=2) for search in ("official", "hf"))
    assert any(run(model(seed), official, prompts(seed)) != run(model(seed), hf, prompts(seed)) for seed in range(20))


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_the_ban_is_transformers_own_and_can_leave_the_prompt_out(n: int) -> None:
    draw = torch.Generator().manual_seed(n)
    ids = torch.randint(0, 3, (6, 30), generator=draw)
    scores = torch.randn(6, 8, generator=draw).log_softmax(-1)
    assert torch.equal(Ban(n, 0, False)(ids, scores), NoRepeatNGramLogitsProcessor(n)(ids, scores.clone()))
    alone = NoRepeatNGramLogitsProcessor(n)(ids[:, 5:], scores.clone())
    assert torch.equal(Ban(n, 5, False)(ids, scores), alone) and alone.isinf().any()
    assert torch.allclose(Ban(n, 5, True)(ids, scores).exp().sum(-1), torch.ones(6))


def test_the_ban_passes_over_ids_behind_the_vocabulary() -> None:
    """A prefix method's special tokens stand in the prompt."""
    ids = torch.tensor([[1, 99, 1]])
    assert torch.equal(Ban(2, 0, False)(ids, torch.zeros(1, 8)), torch.zeros(1, 8))


def test_lora_is_merged_while_it_decodes_and_not_afterwards() -> None:
    made = model(0)
    tiny.lora(r=2).apply(made, torch.Generator().manual_seed(0))
    for name, parameter in made.model.named_parameters():
        parameter.data = parameter.data.double()
        if ".B." in name:
            parameter.data.normal_(0, 0.5)
    before = {name: p.clone() for name, p in made.model.named_parameters()}
    asked, merged = prompts(0), []
    hook = made.model.register_forward_hook(lambda *_: merged.append([each.merged for each in layers(made.model)]))
    texts = run(made, OFFICIAL, asked)
    hook.remove()
    assert merged and all(map(all, merged)) and not any(each.merged for each in layers(made.model))
    assert all(torch.allclose(p, before[name], atol=1e-12) for name, p in made.model.named_parameters())
    assert texts == [ended(reference(straight(made), prompt, OFFICIAL)) for prompt in asked]
    assert texts != run(model(0), OFFICIAL, asked)


@pytest.mark.parametrize(("name", "kind"), [
    ("preembed", "gpt2"), ("prelayer", "gpt2"), ("lora-pe", "gpt2"), ("adapter-h", "gpt2"), ("prelayer", "llama"),
    ("lora-pe", "llama"), ("adapter-h", "llama")])
def test_methods_with_parts_of_their_own_decode_batched_as_alone(name: str, kind: str) -> None:
    made = tiny.adapted(tiny.methods()[name], kind, outputs=0)
    made = Backbone(made.model, Signs(), made.roles, (), "")
    special = tiny.backbone(kind, outputs=0).special(tiny.methods()[name].tokens)
    asked = [[*special.prefix, *prompt, *special.infix] for prompt in prompts(3, 6)]
    for ban in ("completion", "all"):
        how = replace(OFFICIAL, ban_sees=ban)
        assert run(made, how, asked) == run(made, how, asked, 1)


def test_an_end_of_several_words_cuts_the_text() -> None:
    class Lines(Signs):
        def decode(self, ids: Sequence[int], **_: Any) -> str:
            return " one\n\ntwo" if ids else ""

    made = replace_tokenizer(model(1), Lines())
    (output,) = generate.generate(made, replace(OFFICIAL, ends=["\n\n"]), [[1, 2, 3]], tiny.CPU, 0, 1)
    assert output.text in ("one", "") and output.ended


def replace_tokenizer(made: Backbone, tokenizer: Any) -> Backbone:
    return replace(made, tokenizer=tokenizer)


def test_no_prompts_give_no_texts() -> None:
    assert generate.generate(model(0), OFFICIAL, [], tiny.CPU, 0, 1) == []
