"""A split as a model wants it: tokenised, special tokens in place, padded by the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from engine.contract import Batch, Special


class Tokens:
    """The tokenised examples of one split, kept flat (no padding, no Python lists): a Split of engine.contract."""

    def __init__(self, texts: Sequence[Sequence[str]], labels: torch.Tensor, tokenizer: Any, length: int,
                 special: Special) -> None:
        """Tokenises one column of texts, or two; what exceeds `length` tokens loses the end of its longest side.

        A method's prefix goes in front of the text, yet behind the sign with which a tokenizer begins ([CLS]), from
        which encoders are read out. Its infix goes behind all, where decoders are read out.
        """
        if len(texts) > 1 and tokenizer.num_special_tokens_to_add(True) == tokenizer.num_special_tokens_to_add(False):
            texts = [["\n".join(pair) for pair in zip(*texts, strict=True)]]  # it would glue the two together
        coded = tokenizer(*texts, truncation=True, max_length=length, return_attention_mask=False)
        begin = {tokenizer.cls_token_id, tokenizer.bos_token_id} - {None}
        cuts = [int(bool(row) and row[0] in begin) for row in coded["input_ids"]]
        ids = [row or [tokenizer.eos_token_id] for row in coded["input_ids"]]  # an empty text is still an input
        around = [(row[:cut], special.prefix, row[cut:], special.infix) for row, cut in zip(ids, cuts, strict=True)]
        self.fields = {"input_ids": _flat(around)}
        if "token_type_ids" in coded:  # special tokens are of their neighbour's type
            self.fields["token_type_ids"] = _flat([
                (row[:cut], row[:1] * len(special.prefix), row[cut:], row[-1:] * len(special.infix))
                for row, cut in zip(coded["token_type_ids"], cuts, strict=True)])
        self.lengths: Sequence[int] = [sum(map(len, parts)) for parts in around]
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)])
        self.labels = labels
        self.pads = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}

    def __len__(self) -> int:
        return len(self.lengths)

    def weight(self, indices: Sequence[int]) -> float:
        """Their number: a loss is the mean over examples."""
        return len(indices)

    def batch(self, indices: Sequence[int]) -> Batch:
        """These examples padded to the longest of them: input_ids, attention_mask (n, longest), labels (n,)."""
        longest = max(self.lengths[i] for i in indices)
        batch: Batch = {"labels": self.labels[torch.tensor(indices)]}
        mask = np.zeros((len(indices), longest), np.int64)
        for name, flat in self.fields.items():
            padded = np.full((len(indices), longest), self.pads[name], np.int64)
            for row, i in enumerate(indices):
                padded[row, :self.lengths[i]] = flat[self.starts[i]:self.starts[i + 1]]
                mask[row, :self.lengths[i]] = 1
            batch[name] = torch.from_numpy(padded)
        batch["attention_mask"] = torch.from_numpy(mask)
        return batch


def _flat(rows: Sequence[Sequence[Sequence[int]]]) -> np.ndarray:
    """The parts of all rows, one after the other."""
    return np.concatenate([np.asarray(part, np.int32) for parts in rows for part in parts])
