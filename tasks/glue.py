"""The nine GLUE tasks: one class, nine files in conf/task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from engine.contract import Batch, Numbers, Origin, Predict, Refused, Special, Split, Splits, generator, number, one_of
from tasks import data
from tasks.cache import Cache
from tasks.rows import Rows, TextRows, column
from tasks.tokens import Tokens

METRICS = {"cola": ("matthews_correlation", "accuracy"), "stsb": ("pearson", "spearman"),
           "mrpc": ("accuracy", "f1"), "qqp": ("accuracy", "f1")}  # the others: accuracy alone


@dataclass(frozen=True)
class Glue:
    """Classify one sentence or a pair, or (labels: null) score a pair from 0 to 5."""

    name: str
    version: int
    sentences: Sequence[str]  # the text columns
    labels: Sequence[str] | None  # class names by label number
    metric: str  # the one Table 2 prints
    train: str
    validation: Mapping[str, str]  # our name -> the split's
    source: data.Source
    limit: int | None

    higher_is_better = True

    @property
    def criterion(self) -> str:
        """The best epoch is that of the number which is reported."""
        return self.metric

    def __post_init__(self) -> None:
        number("task.limit", self.limit, 1, whole=True, none=True)
        one_of("task.metric", self.metric, METRICS.get(self.name, ("accuracy",)))
        if not isinstance(self.sentences, (list, tuple)) or len(self.sentences) not in (1, 2):
            raise Refused(f"task.sentences={self.sentences}: task.sentences must be a list of one or two columns")

    @property
    def outputs(self) -> int:
        """Size of the head's last layer: one for a score."""
        return len(self.labels) if self.labels else 1

    def load(self, origin: Origin) -> data.Raw:
        """The rows, checked. Raises Refused."""
        splits = [self.train, *self.validation.values()]
        format = TextRows(self.sentences, len(self.labels)) if self.labels else TextRows(self.sentences, highest=5)
        return data.load(self.name, self.source, origin, splits, format)

    def splits(self, raw: data.Raw, tokenizer: Any, recipe: Any, special: Special,
               cache: Path | None = None) -> Splits:
        """Tokenised, texts cut to recipe.length, special tokens around them; once for all runs that share the folder
        cache. A limit draws its examples once, for all seeds alike."""
        train, kept = data.limited(raw.rows[self.train], self.limit), Cache(cache, tokenizer)

        def tokens(rows: Rows) -> Tokens:
            texts = [column(rows, name) for name in self.sentences]
            return Tokens(texts, self._labels(rows), tokenizer, recipe.length, special, kept)

        validation = {name: tokens(raw.rows[split]) for name, split in self.validation.items()}
        return Splits(tokens(train), validation)

    def _labels(self, rows: Rows) -> torch.Tensor:
        return torch.tensor(column(rows, "label"), dtype=torch.long if self.labels else torch.float32)

    def losses(self, model: nn.Module, batch: Batch, smoothing: float) -> torch.Tensor:
        """Of each example (n,): cross-entropy, or the squared error of a score (no smoothing there)."""
        logits = _logits(model, batch)
        if self.labels is None:
            return F.mse_loss(logits.squeeze(-1), batch["labels"], reduction="none")
        return F.cross_entropy(logits, batch["labels"], reduction="none", label_smoothing=smoothing)

    def evaluate(self, predict: Predict, validation: Mapping[str, Split]) -> Numbers:
        """Every usual GLUE number in points; for MNLI over both sets together, then each set's accuracy beside it. And
        the task's own metric on either half of all that (…_half1, …_half2), always the same halves: fit() keeps them in
        the curve, for choosing an epoch on the one and reporting the other."""
        from tasks.metrics.glue import score  # evaluate and scikit-learn take seconds to import

        outputs, labels = {}, {}
        for name, split in validation.items():
            logits = predict(split, _logits)
            outputs[name] = (logits.argmax(-1) if self.labels else logits.squeeze(-1)).numpy()
            assert isinstance(split, Tokens)
            labels[name] = split.labels.numpy()
        predicted, known = (np.concatenate(list(each.values())) for each in (outputs, labels))
        numbers = score(self.name, predicted, known)
        if len(validation) > 1:
            for name in validation:
                each = score(self.name, outputs[name], labels[name])
                numbers |= {f"{metric}_{name}": value for metric, value in each.items()}
        for place, half in enumerate(_halves(len(known)), 1):
            whole = len(half) > 1  # a correlation of fewer is not defined
            numbers[f"{self.metric}_half{place}"] = (
                score(self.name, predicted[half], known[half])[self.metric] if whole else float("nan"))
        return numbers


def _halves(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The places 0 to count - 1 in two halves drawn at random, the same for every run."""
    places = torch.randperm(count, generator=generator(0, "halves")).numpy()
    return np.sort(places[:count // 2]), np.sort(places[count // 2:])


def _logits(model: nn.Module, batch: Batch) -> torch.Tensor:
    """The head's outputs (n, outputs) in float32: losses and scores are never taken in bf16."""
    return model(**{name: tensor for name, tensor in batch.items() if name != "labels"}).logits.float()
