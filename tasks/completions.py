"""A split of prompts and completions as a decoder learns it: context BOS completion EOS, padded on the left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from engine.contract import Batch, Special
from tasks.cache import Arrays, Cache
from tasks.tokens import CHUNK, flat

IGNORED = -100  # the label of padding, cross_entropy's own


class Completions:
    """The tokenised examples of one split, kept flat: a Split of engine.contract.

    As the official code has it (examples/NLG/src/gpt2_encode.py, data_utils.py): the context, the sign BOS, a blank and
    the completion, the sign EOS; special tokens of prefix methods in front of all and behind BOS. Only the completion
    and EOS are learnt."""

    def __init__(self, pairs: Sequence[tuple[str, str]], tokenizer: Any, length: int, special: Special,
                 averaging: str, cache: Cache | None = None) -> None:
        """Tokenises (context, completion) pairs. Where a pair has more than `length` tokens the context loses its
        beginning, and a completion that is longer by itself its end; `cut` counts such pairs.

        averaging: tokens (all of a batch count the same: the official code) · examples (these do)."""
        contexts, completions = zip(*pairs, strict=True)
        settings = {"kind": "completions", "length": length, "prefix": [*special.prefix], "infix": [*special.infix]}
        made = (cache or Cache(None, tokenizer)).arrays(
            (contexts, completions), settings,
            lambda: _tokenised(contexts, completions, tokenizer, length, special))
        self.flat, self.ends = made["ids"], np.cumsum(made["sizes"])
        self.sizes, self.goals = made["sizes"] - 1, made["goals"]  # nothing is predicted from the last token
        self.lengths: Sequence[int] = self.sizes.tolist()
        self.targets: Sequence[int] = self.goals.tolist()
        self.cut = int(made["cut"].sum())
        self.pad = tokenizer.pad_token_id
        self.averaging = averaging

    def __len__(self) -> int:
        return len(self.lengths)

    def weight(self, indices: Sequence[int]) -> float:
        """Their tokens to learn, or their number, as the loss is averaged."""
        return float(sum(self.targets[i] for i in indices) if self.averaging == "tokens" else len(indices))

    def batch(self, indices: Sequence[int]) -> Batch:
        """input_ids, attention_mask, position_ids (n, longest) and labels (n, longest completion): what the last
        positions have to predict, IGNORED where there is nothing; weights (n, same), what each counts."""
        rows = np.asarray(indices)
        ids, real = self._left(self.ends[rows] - 1, self.sizes[rows], self.pad)
        labels, learnt = self._left(self.ends[rows], self.goals[rows], IGNORED)
        mask, counted = real.astype(np.int64), learnt.astype(np.float32)
        weights = counted if self.averaging == "tokens" else counted / counted.sum(1, keepdims=True)
        batch = {"input_ids": ids, "attention_mask": mask, "position_ids": np.maximum(mask.cumsum(1) - 1, 0),
                 "labels": labels, "weights": weights}
        return {name: torch.from_numpy(array) for name, array in batch.items()}

    def _left(self, ends: np.ndarray, sizes: np.ndarray, pad: int) -> tuple[np.ndarray, np.ndarray]:
        """The last so many tokens before each end, padded on the left, and where there is one: (n, most of sizes)."""
        places = np.arange(-sizes.max(), 0)
        real = places >= -sizes[:, None]
        padded = np.full(real.shape, pad, np.int64)
        padded[real] = self.flat[(ends[:, None] + places)[real]]
        return padded, real


def _tokenised(contexts: Sequence[str], completions: Sequence[str], tokenizer: Any, length: int,
               special: Special) -> Arrays:
    """The ids of all rows one after the other, and of each (n,): its size, how many of its tokens are to learn (goals),
    whether it was cut."""
    rows, goals, cut = [], [], []
    for context, completion in zip(encode(contexts, tokenizer), encode([f" {text}" for text in completions], tokenizer),
                                   strict=True):
        whole = [*completion, tokenizer.eos_token_id]
        target = whole[:length - 2]
        room = length - len(target)
        cut.append(len(target) < len(whole) or len(context) + 1 > room)
        rows.append([*prompt(context, tokenizer, room, special), *target])
        goals.append(len(target))
    sizes = [len(row) for row in rows]
    return {"ids": flat(rows), "sizes": np.asarray(sizes, np.int32), "goals": np.asarray(goals, np.int32),
            "cut": np.asarray(cut)}


def encode(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """The ids of each text and nothing else, each distinct text once. A sign of the tokenizer's own that someone typed
    (<|endoftext|>) is text like any other."""
    distinct = list(dict.fromkeys(texts))
    ids: dict[str, list[int]] = {}
    for start in range(0, len(distinct), CHUNK):
        part = distinct[start:start + CHUNK]
        coded = tokenizer(part, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False,
                          verbose=False)
        ids |= zip(part, coded["input_ids"], strict=True)
    return [ids[text] for text in texts]


def prompt(context: Sequence[int], tokenizer: Any, room: int, special: Special) -> list[int]:
    """What a completion follows: the end of the context and BOS, at most `room` tokens, special ones around them."""
    begin = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    kept = context[max(0, len(context) + 1 - room):]
    return [*special.prefix, *kept, begin, *special.infix]


def token_losses(model: nn.Module, batch: Batch, smoothing: float) -> torch.Tensor:
    """The loss at every label (n, longest completion) in nats, float32 or finer, 0 where there is none:
    (1 - smoothing) x -log p(label) + smoothing x the mean of -log p over all words, as in the official model.py.

    Only the last positions go through the output layer."""
    labels = batch["labels"]
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"],
                   position_ids=batch["position_ids"], logits_to_keep=labels.shape[1], use_cache=False).logits
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none", ignore_index=IGNORED,
                           label_smoothing=smoothing).view(labels.shape)
