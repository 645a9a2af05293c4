"""Prompts and completions as a decoder learns them, against a straight reference: one example at a time, no padding."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from conftest import ROOT, write_model
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from engine import batches, models
from engine.backbone import Backbone
from engine.contract import Special, Splits, generator
from tasks.completions import IGNORED, Completions, encode, token_losses
from tasks.generation import Generation

PAIRS = [("the cat sees", "a dog."), ("name", "the bird and the tree and the cat"), ("a", "b"),
         ("one two three four five six", "seven"), ("the", "the the the the the the the the")]
Ids = list[int]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = AutoTokenizer.from_pretrained(write_model(tmp_path_factory.mktemp("models") / "gpt2", "gpt2"))
    made.pad_token = made.eos_token
    return made


def base(tokenizer: Any, kind: str = "gpt2") -> Backbone:
    """A language model with random weights for that tokenizer's words."""
    gpt2 = GPT2Config(vocab_size=len(tokenizer), n_positions=40, n_embd=16, n_layer=2, n_head=2, initializer_range=0.2,
                      resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
    llama = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=40, hidden_size=16, num_hidden_layers=2,
                        num_attention_heads=4, num_key_value_heads=2, intermediate_size=24, initializer_range=0.2,
                        tie_word_embeddings=True)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = GPT2LMHeadModel(gpt2) if kind == "gpt2" else LlamaForCausalLM(llama)
    return models._frozen(model.eval(), tokenizer, tiny.spec(tiny.ROLES[kind]), 0)


def adapted(tokenizer: Any, **changes: Any) -> Backbone:
    made = base(tokenizer)
    tiny.lora(**changes).apply(made, generator(0, "adapter"))
    return made


def split(tokenizer: Any, averaging: str = "tokens", length: int = 40, special: Special = tiny.NONE) -> Completions:
    return Completions(PAIRS, tokenizer, length, special, averaging)


def straight(tokenizer: Any) -> list[tuple[Ids, Ids]]:
    """What the official code makes of each pair: context BOS, blank completion EOS."""
    def ids(text: str) -> Ids:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    sign = tokenizer.eos_token_id
    return [([*ids(context), sign], [*ids(f" {completion}"), sign]) for context, completion in PAIRS]


def reference(model: nn.Module, examples: Sequence[tuple[Ids, Ids]], smoothing: float) -> list[torch.Tensor]:
    """The loss of every completion token of every example, each by itself: examples/NLG/src/model.py in words of our
    own."""
    losses = []
    for prompt, completion in examples:
        logp = model(input_ids=torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
        places = range(len(prompt) - 1, len(prompt) + len(completion) - 1)
        losses.append(torch.stack([-(1 - smoothing) * logp[place, word] - smoothing * logp[place].mean()
                                   for place, word in zip(places, completion, strict=True)]))
    return losses


def task(**changes: Any) -> Generation:
    settings: dict[str, Any] = {"name": "e2e", "version": 1, "form": None, "score": None, "metric": "bleu",
                                "train": "train", "validation": "validation", "scored": "validation", "source": None,
                                "limit": None}
    return Generation(**(settings | changes))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("averaging", ["tokens", "examples"])
@pytest.mark.parametrize("micro", [None, 2, 1])
def test_loss_and_gradients_are_those_of_one_example_at_a_time(tokenizer: Any, averaging: str, smoothing: float,
                                                               micro: int | None) -> None:
    """In float64, with LoRA on all four, whatever the micro-batch."""
    made = adapted(tokenizer, targets=["q", "k", "v", "o"])
    tiny.randomise(made.model)
    made.model.double()
    rows, examples = split(tokenizer, averaging), straight(tokenizer)
    losses = reference(made.model, examples, smoothing)
    each = [loss.mean() for loss in losses] if averaging == "examples" else list(torch.cat(losses))
    told = sum(each) / len(each)
    told.backward()
    expected = {name: p.grad.clone() for name, p in made.model.named_parameters() if p.grad is not None}
    made.model.zero_grad()

    total = torch.zeros((), dtype=torch.float64)
    for indices, share in batches.shares(list(range(len(PAIRS))), 0, 1, micro, rows.weight):
        loss = task().losses(made.model, rows.batch(indices), smoothing).sum() * share
        loss.backward()
        total += loss.detach()
    assert total.item() == pytest.approx(told.item(), rel=1e-6)   # the weights of a batch are float32
    assert expected and all(torch.allclose(made.model.get_parameter(name).grad, grad, rtol=1e-5, atol=1e-8)
                            for name, grad in expected.items())


def test_the_two_averagings_differ(tokenizer: Any) -> None:
    made = base(tokenizer)
    rows = {averaging: split(tokenizer, averaging) for averaging in ("tokens", "examples")}
    values = {averaging: task().losses(made.model, each.batch(range(5)), 0.0).sum().item() / each.weight(range(5))
              for averaging, each in rows.items()}
    assert abs(values["tokens"] - values["examples"]) > 1e-3


def test_validation_loss_is_over_all_tokens_and_without_smoothing(tokenizer: Any) -> None:
    made = base(tokenizer)
    rows = split(tokenizer, "examples")

    def predict(given: Any, step: Any, size: int = 2) -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([step(made.model, given.batch([i])) for i in range(len(given))])

    told = torch.cat(reference(made.model, straight(tokenizer), 0.0)).mean().item()
    assert task().evaluate(predict, {"validation": rows})["val_loss"] == pytest.approx(told, rel=1e-6)


def test_a_training_run_takes_the_steps_of_the_reference(tokenizer: Any) -> None:
    """fit() on two micro-batches against AdamW on the straight loss."""
    made = adapted(tokenizer)
    plain = copy.deepcopy(made.model)
    settings = {"epochs": 3, "batch": 5, "lr": 1e-2, "warmup": 0, "schedule": "constant_with_warmup", "clip": None,
                "label_smoothing": 0.1, "averaging": "tokens", "eps": tiny.CALM, "batching": "shuffle"}
    rows = split(tokenizer)
    fitted = tiny.train(made, task(), Splits(rows, {"validation": rows}), micro=2, **settings)
    optimiser = torch.optim.AdamW([p for p in plain.parameters() if p.requires_grad], lr=1e-2, eps=tiny.CALM,
                                  weight_decay=0.0)
    for _ in range(3):
        torch.cat(reference(plain, straight(tokenizer), 0.1)).mean().backward()
        optimiser.step()
        optimiser.zero_grad()
    trained = {name: p.detach() for name, p in plain.named_parameters() if p.requires_grad}
    assert tiny.furthest(fitted.last, trained) < 1e-5
    assert [entry["val_loss"] for entry in fitted.outcome.curve] == sorted(
        (entry["val_loss"] for entry in fitted.outcome.curve), reverse=True)


def test_a_batch_holds_what_the_official_code_feeds(tokenizer: Any) -> None:
    """Left-padded, positions from the first token on, labels for the completion and its end alone."""
    special = Special((900, 901), (902,))
    batch = split(tokenizer, special=special).batch([1, 2])
    for row, (prompt, completion) in zip(range(2), straight(tokenizer)[1:3], strict=True):
        ids = [900, 901, *prompt, 902, *completion][:-1]
        kept = batch["attention_mask"][row].bool()
        assert batch["input_ids"][row][kept].tolist() == ids
        assert batch["position_ids"][row][kept].tolist() == list(range(len(ids)))
        labels = batch["labels"][row]
        assert labels[labels != IGNORED].tolist() == completion
    assert batch["attention_mask"][:, -1].all() and not batch["attention_mask"].all()
    assert batch["weights"].equal((batch["labels"] != IGNORED).float())


def test_what_is_too_long_loses_the_beginning_of_its_context(tokenizer: Any) -> None:
    rows = split(tokenizer, length=8)
    for i, (prompt, completion) in enumerate(straight(tokenizer)):
        batch = rows.batch([i])
        target = completion[:6]
        room = 8 - len(target)
        kept = [*prompt[:-1][max(0, len(prompt) - room):], prompt[-1]]
        assert batch["input_ids"][0].tolist() == [*kept, *target][:-1] and len(kept) + len(target) <= 8
        assert batch["labels"][0].tolist() == target
    assert rows.cut == sum(len(prompt) + len(completion) > 8 for prompt, completion in straight(tokenizer))


def test_only_the_completions_go_through_the_output_layer(tokenizer: Any) -> None:
    made, seen = base(tokenizer), []
    made.model.get_output_embeddings().register_forward_hook(lambda _, args, __: seen.append(args[0].shape))
    batch = split(tokenizer).batch(range(5))
    token_losses(made.model, batch, 0.0)
    assert seen == [(5, batch["labels"].shape[1], 16)] and batch["labels"].shape[1] < batch["input_ids"].shape[1]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_padding_changes_no_loss(tmp_path: Path, tokenizer: Any, kind: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(write_model(tmp_path / kind, kind)).double().eval()
    rows = split(tokenizer)
    together = token_losses(model, rows.batch(range(5)), 0.1)
    for i in range(5):
        alone = token_losses(model, rows.batch([i]), 0.1)[0]
        assert torch.allclose(together[i][-len(alone):], alone, atol=1e-12)


def test_a_sign_that_someone_typed_is_text() -> None:
    nano = AutoTokenizer.from_pretrained(ROOT / "assets" / "gpt2-nano")
    (ids,) = encode(["a <|endoftext|> b"], nano)
    assert nano.eos_token_id not in ids and nano.decode(ids) == "a <|endoftext|> b"
