"""How gpt2-nano was made: its BPE vocabulary and its weights, from nothing but novels.

    python assets/gpt2-nano/pretrain.py --text DIR --work DIR          trains; started again, it goes on where it was
    python assets/gpt2-nano/pretrain.py --text DIR --work DIR --steps N    fewer or more steps: also of a run under way

DIR of --text holds train.jsonl.gz and validation.jsonl.gz with a column `text`, one book a row. The learning rate
is constant after its warm-up and falls to zero in the last part of the steps, so that the number of steps can still be
settled while it runs. What comes out lands in WORK/model; log.jsonl beside it has a line for every 100 steps.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import json
import math
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

END = "<|endoftext|>"  # between books; GPT-2's name for it
VOCABULARY, LENGTH, TOKENS = 4096, 256, 4096  # words, longest row, tokens a step
WARM, DECAY = 100, 0.35  # steps of warm-up; the share of all steps, the last, in which the learning rate falls
SHORT = 128  # tokens in a row until then; LENGTH in these
MATRIX_LR, OTHER_LR = 0.005, 0.003  # Muon (updates of AdamW's size) for the layers' matrices; AdamW for the rest
SHAPE = {"vocab_size": VOCABULARY, "n_positions": LENGTH, "n_embd": 256, "n_layer": 4, "n_head": 8,
         "activation_function": "gelu_pytorch_tanh"}  # GPT-2's own function, computed in one go


def books(path: Path) -> Iterator[str]:
    """Each book's text, paragraphs on a line of their own: the lines of the files are cut at 70 signs."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            paragraphs = re.split(r"\n\s*\n", json.loads(line)["text"])
            yield "\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def vocabulary(text: Path, folder: Path) -> GPT2TokenizerFast:
    """GPT-2's kind of byte-level BPE, learnt from the training books."""
    if not (folder / "tokenizer.json").exists():
        learner = Tokenizer(models.BPE())
        learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        learner.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[END], show_progress=False,
                                      initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
        learner.train_from_iterator(books(text / "train.jsonl.gz"), trainer)
        GPT2TokenizerFast(tokenizer_object=learner, bos_token=END, eos_token=END, unk_token=END,
                          model_max_length=SHAPE["n_positions"]).save_pretrained(folder)
    return GPT2TokenizerFast.from_pretrained(folder)


def tokens(text: Path, split: str, tokenizer: GPT2TokenizerFast, work: Path) -> np.ndarray:
    """All books of a split in one row of ids, END in front of each; kept in WORK."""
    kept = work / f"{split}.npy"
    if not kept.exists():
        rows = [[tokenizer.eos_token_id, *tokenizer(book, verbose=False)["input_ids"]]
                for book in books(text / f"{split}.jsonl.gz")]
        np.save(kept, np.concatenate([np.array(row, np.uint16) for row in rows]))
    return np.load(kept)


def batch(ids: np.ndarray, step: int, length: int) -> torch.Tensor:
    """The rows of a step: (TOKENS / length, length + 1) ids. Every pass cuts the books elsewhere and takes the pieces
    in an order of its own."""
    rows, pieces = TOKENS // length, (len(ids) - length - 1) // length - 1
    steps = pieces // rows  # in a pass
    rng = np.random.default_rng(step // steps)
    shift, order = int(rng.integers(length)), rng.permutation(pieces)
    starts = shift + length * order[step % steps * rows:(step % steps + 1) * rows]
    return torch.from_numpy(np.stack([ids[s:s + length + 1] for s in starts]).astype(np.int64))


def loss(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the next token, in nats."""
    logits = model(input_ids=rows[:, :-1], use_cache=False).logits
    return nn.functional.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())


@torch.inference_mode()
def held_out(model: nn.Module, ids: np.ndarray, rows: int | None = None) -> float:
    """Loss on the validation books, in rows of LENGTH tokens side by side; rows: only so many."""
    starts = range(0, len(ids) - LENGTH - 1, LENGTH)[:rows]
    total = 0.0
    for i in range(0, len(starts), 16):
        part = np.stack([ids[s:s + LENGTH + 1] for s in starts[i:i + 16]]).astype(np.int64)
        total += loss(model, torch.from_numpy(part)).item() * len(part)
    return total / len(starts)


def optimisers(model: nn.Module) -> list[torch.optim.Optimizer]:
    layers = [p for name, p in model.named_parameters() if ".h." in name and p.ndim == 2]
    others = [p for name, p in model.named_parameters() if not (".h." in name and p.ndim == 2)]
    return [torch.optim.Muon(layers, lr=MATRIX_LR, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=OTHER_LR, betas=(0.9, 0.95), weight_decay=0.01, fused=True)]


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--text", type=Path, required=True)
    ask.add_argument("--work", type=Path, required=True)
    ask.add_argument("--steps", type=int, default=5000)
    said = ask.parse_args()
    folder, state = said.work / "model", said.work / "state.pt"
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = vocabulary(said.text, folder)
    train, validation = (tokens(said.text, split, tokenizer, said.work) for split in ("train", "validation"))
    print(f"{len(train):,} tokens to train on, {len(validation):,} held out, {len(tokenizer)} words")

    torch.manual_seed(0)
    config = GPT2Config(**SHAPE, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
                        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    model = GPT2LMHeadModel._from_config(config, attn_implementation="eager")
    fast = copy.deepcopy(model).bfloat16()  # computes; what the optimisers move is model, in float32
    both, begin, seconds = optimisers(model), 0, 0.0
    if state.exists():
        kept = torch.load(state, weights_only=True)
        model.load_state_dict(kept["model"])
        for optimiser, its in zip(both, kept["optimisers"], strict=True):
            optimiser.load_state_dict(its)
        begin, seconds = kept["step"], kept["seconds"]
    pairs = list(zip(model.parameters(), fast.parameters(), strict=True))
    clock, running = time.perf_counter(), 0.0
    for step in range(begin, said.steps):
        with torch.no_grad():
            for weight, its in pairs:
                its.copy_(weight)
        falling = said.steps * (1 - DECAY) <= step
        now = loss(fast, batch(train, step, LENGTH if falling else SHORT))
        now.backward()
        for weight, its in pairs:
            weight.grad, its.grad = its.grad.float(), None
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        share = min((step + 1) / WARM, (said.steps - step) / (said.steps * DECAY), 1.0)
        for optimiser, peak in zip(both, (MATRIX_LR, OTHER_LR), strict=True):
            for group in optimiser.param_groups:
                group["lr"] = peak * share
            optimiser.step()
        running += now.item()
        if not math.isfinite(running):
            raise FloatingPointError(f"the loss is not finite in step {step}")
        if (step + 1) % 100 == 0 or step + 1 == said.steps:
            spent = seconds + time.perf_counter() - clock
            line = {"step": step + 1, "tokens": (step + 1) * TOKENS, "lr": round(share, 4),
                    "loss": round(running / (step % 100 + 1), 4), "seconds": round(spent)}
            if (step + 1) % 500 == 0:
                line["held_out"] = round(held_out(fast, validation, 256), 4)
                torch.save({"model": model.state_dict(), "optimisers": [o.state_dict() for o in both],
                            "step": step + 1, "seconds": spent}, state.with_suffix(".part"))
                os.replace(state.with_suffix(".part"), state)
            with (said.work / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
            print(line, flush=True)
            running = 0.0
    nats = held_out(model, validation)
    letters = sum(len(book) + 1 for book in books(said.text / "validation.jsonl.gz"))
    result = {"steps": said.steps, "tokens": said.steps * TOKENS, "passes": said.steps * TOKENS / len(train),
              "held_out_loss": nats, "held_out_perplexity": math.exp(nats),
              "held_out_bits_per_character": nats * len(validation) / letters / math.log(2)}
    model.half().save_pretrained(folder)
    (said.work / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(result)


if __name__ == "__main__":
    main()
