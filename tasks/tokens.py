"""A split as a model wants it: tokenised, special tokens in place, padded by the batch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch

from engine.contract import Batch, Special
from tasks.cache import Arrays, Cache

CHUNK = 10_000  # texts tokenised at once: what a tokenizer knows of each takes a hundred times the room of its ids


class Tokens:
    """The tokenised examples of one split, kept flat (no padding, no Python lists): a Split of engine.contract."""

    def __init__(self, texts: Sequence[Sequence[str]], labels: torch.Tensor, tokenizer: Any, length: int,
                 special: Special, cache: Cache | None = None) -> None:
        """Tokenises one column of texts, or two; what exceeds `length` tokens loses the end of its longest side.

        A method's prefix goes in front of the text, yet behind the sign with which a tokenizer begins ([CLS]), from
        which encoders are read out. Its infix goes behind all, where decoders are read out.
        """
        settings = {"kind": "tokens", "length": length, "prefix": [*special.prefix], "infix": [*special.infix]}
        self.fields = (cache or Cache(None, tokenizer)).arrays(
            texts, settings, lambda: _tokenised(texts, tokenizer, length, special))
        self.sizes = self.fields.pop("lengths")
        self.lengths: Sequence[int] = self.sizes.tolist()
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)])
        self.labels = labels
        self.pads = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}

    def __len__(self) -> int:
        return len(self.lengths)

    def weight(self, indices: Sequence[int]) -> float:
        """Their number: a loss is the mean over examples."""
        return len(indices)

    def batch(self, indices: Sequence[int]) -> Batch:
        """These examples padded to the longest of them: input_ids, attention_mask (n, longest), labels (n,)."""
        rows = np.asarray(indices)
        sizes = self.sizes[rows]
        places = np.arange(sizes.max())
        real = places < sizes[:, None]
        found = (self.starts[rows, None] + places)[real]
        batch: Batch = {"labels": self.labels[torch.from_numpy(rows)]}
        for name, flat in self.fields.items():
            padded = np.full(real.shape, self.pads[name], np.int64)
            padded[real] = flat[found]
            batch[name] = torch.from_numpy(padded)
        batch["attention_mask"] = torch.from_numpy(real.astype(np.int64))
        return batch


def _tokenised(texts: Sequence[Sequence[str]], tokenizer: Any, length: int, special: Special) -> Arrays:
    """The ids of all rows one after the other, their types where the model has any, and each row's length (n,)."""
    if len(texts) > 1 and tokenizer.num_special_tokens_to_add(True) == tokenizer.num_special_tokens_to_add(False):
        texts = [["\n".join(pair) for pair in zip(*texts, strict=True)]]  # it would glue the two together
    parts = [_chunk([column[start:start + CHUNK] for column in texts], tokenizer, length, special)
             for start in range(0, len(texts[0]), CHUNK)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _chunk(texts: Sequence[Sequence[str]], tokenizer: Any, length: int, special: Special) -> Arrays:
    coded = tokenizer(*texts, truncation=True, max_length=length, return_attention_mask=False)
    begin = {tokenizer.cls_token_id, tokenizer.bos_token_id} - {None}
    cuts = [int(bool(row) and row[0] in begin) for row in coded["input_ids"]]
    ids = [row or [tokenizer.eos_token_id] for row in coded["input_ids"]]  # an empty text is still an input
    rows = [[*row[:cut], *special.prefix, *row[cut:], *special.infix] for row, cut in zip(ids, cuts, strict=True)]
    made = {"input_ids": flat(rows), "lengths": np.asarray([len(row) for row in rows], np.int32)}
    if "token_type_ids" in coded:  # special tokens are of their neighbour's type
        made["token_type_ids"] = flat([
            [*row[:cut], *row[:1] * len(special.prefix), *row[cut:], *row[-1:] * len(special.infix)]
            for row, cut in zip(coded["token_type_ids"], cuts, strict=True)])
    return made


def flat(rows: Sequence[Sequence[int]]) -> np.ndarray:
    """All rows, one after the other, in int32."""
    return np.fromiter(chain.from_iterable(rows), np.int32, sum(map(len, rows)))
