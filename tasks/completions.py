"""A split of prompts and completions as a decoder learns it: context BOS completion EOS, padded on the left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from engine.contract import Batch, Special

IGNORED = -100  # the label of padding, cross_entropy's own


class Completions:
    """The tokenised examples of one split, kept flat: a Split of engine.contract.

    As the official code has it (examples/NLG/src/gpt2_encode.py, data_utils.py): the context, the sign BOS, a blank and
    the completion, the sign EOS; special tokens of prefix methods in front of all and behind BOS. Only the completion
    and EOS are learnt."""

    def __init__(self, pairs: Sequence[tuple[str, str]], tokenizer: Any, length: int, special: Special,
                 averaging: str) -> None:
        """Tokenises (context, completion) pairs. Where a pair has more than `length` tokens the context loses its
        beginning, and a completion that is longer by itself its end; `cut` counts such pairs.

        averaging: tokens (all of a batch count the same: the official code) · examples (these do)."""
        contexts = encode([context for context, _ in pairs], tokenizer)
        completions = encode([f" {completion}" for _, completion in pairs], tokenizer)
        rows, self.targets, self.cut = [], [], 0
        for context, completion in zip(contexts, completions, strict=True):
            whole = [*completion, tokenizer.eos_token_id]
            target = whole[:length - 2]
            room = length - len(target)
            self.cut += len(target) < len(whole) or len(context) + 1 > room
            rows.append([*prompt(context, tokenizer, room, special), *target])
            self.targets.append(len(target))
        self.flat = np.concatenate([np.asarray(row, np.int32) for row in rows])
        sizes = [len(row) for row in rows]
        self.starts = np.concatenate([[0], np.cumsum(sizes)])
        self.lengths: Sequence[int] = [size - 1 for size in sizes]  # nothing is predicted from the last token
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
        longest, most = max(self.lengths[i] for i in indices), max(self.targets[i] for i in indices)
        ids = np.full((len(indices), longest), self.pad, np.int64)
        mask = np.zeros((len(indices), longest), np.int64)
        labels = np.full((len(indices), most), IGNORED, np.int64)
        for row, i in enumerate(indices):
            tokens = self.flat[self.starts[i]:self.starts[i + 1]]
            ids[row, longest - self.lengths[i]:] = tokens[:-1]
            mask[row, longest - self.lengths[i]:] = 1
            labels[row, most - self.targets[i]:] = tokens[len(tokens) - self.targets[i]:]
        counted = (labels != IGNORED).astype(np.float32)
        weights = counted if self.averaging == "tokens" else counted / counted.sum(1, keepdims=True)
        batch = {"input_ids": ids, "attention_mask": mask, "position_ids": np.maximum(mask.cumsum(1) - 1, 0),
                 "labels": labels, "weights": weights}
        return {name: torch.from_numpy(array) for name, array in batch.items()}


def encode(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """The ids of each text and nothing else, each distinct text once. A sign of the tokenizer's own that someone typed
    (<|endoftext|>) is text like any other."""
    distinct = list(dict.fromkeys(texts))
    coded = tokenizer(distinct, add_special_tokens=False, split_special_tokens=True,
                      return_attention_mask=False, verbose=False)["input_ids"]
    ids = dict(zip(distinct, coded, strict=True))
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
