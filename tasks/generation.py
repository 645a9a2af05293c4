"""The tasks whose answers are texts: E2E, WebNLG, DART, WikiSQL, SAMSum, and MNLI answered in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.contract import Batch, Numbers, Origin, Predict, Refused, Special, Split, Splits, number
from tasks import data
from tasks.cache import Cache
from tasks.completions import Completions, encode, prompt, token_losses
from tasks.metrics import Scores
from tasks.prompts import Form
from tasks.rows import Row

EVALUATED = 32  # examples at once: the output layer makes a row of the whole vocabulary for every token


@dataclass(frozen=True)
class Input:
    """One distinct prompt of the scored split: decoded once, judged against all its references."""

    context: str
    references: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    part: str | None


@dataclass(frozen=True)
class Generation:
    """Learn to continue a context with a completion; be judged by the loss after every epoch, by texts at the end."""

    name: str
    version: int
    form: Form  # how rows become contexts and completions
    score: Callable[[Sequence[str], Sequence[Input]], Scores]
    metric: str  # the one that the paper's table begins with
    train: str
    validation: str
    scored: str  # the split whose inputs are decoded
    source: data.Source
    limit: int | None

    criterion = "val_loss"
    higher_is_better = False
    outputs = 0

    def __post_init__(self) -> None:
        number("task.limit", self.limit, 1, whole=True, none=True)
        for key in ("train", "validation", "scored"):
            if not isinstance(getattr(self, key), str):
                raise Refused(f"task.{key}={getattr(self, key)}: task.{key} must be the name of a split")
        if self.train in (self.validation, self.scored):
            raise Refused(f"task.scored={self.scored} task.validation={self.validation}: not the split to train on")

    def load(self, origin: Origin) -> data.Raw:
        """The rows of all splits, checked. Raises Refused; for a scored split without references too."""
        splits = list(dict.fromkeys([self.train, self.validation, self.scored]))
        judged = self.scored == self.validation
        hint = "" if judged else f"\nor judge on the validation set: task.scored={self.validation}"
        raw = data.load(self.name, self.source, origin, splits, self.form, hint)
        for split in splits:
            if not any(self.form.examples(row) for row in raw.rows[split]):
                raise Refused(f"task={self.name}: split {split} has no texts to learn or to be judged by{hint}")
        bare = [each.context for each in self.inputs(raw) if not any(each.references)]
        if bare:
            raise Refused(f"task={self.name}: {len(bare)} inputs of {self.scored} have no text to be judged by, first "
                          f"{bare[0][:80]!a}{hint}")
        return raw

    def splits(self, raw: data.Raw, tokenizer: Any, recipe: Any, special: Special,
               cache: Path | None = None) -> Splits:
        """Tokenised, once for all runs that share the folder cache. A limit draws its examples once, for all seeds
        alike."""
        train, kept = data.limited(self._pairs(raw, self.train), self.limit), Cache(cache, tokenizer)
        made = [Completions(pairs, tokenizer, recipe.length, special, recipe.averaging, kept)
                for pairs in (train, self._pairs(raw, self.validation))]
        return Splits(made[0], {"validation": made[1]})

    def _pairs(self, raw: data.Raw, split: str) -> list[tuple[str, str]]:
        return [pair for row in raw.rows[split] for pair in self.form.examples(row)]

    def losses(self, model: nn.Module, batch: Batch, smoothing: float) -> torch.Tensor:
        """Of each example (n,): the sum over its completion's tokens, or their mean (averaging)."""
        return (token_losses(model, batch, smoothing) * batch["weights"]).sum(1)

    def evaluate(self, predict: Predict, validation: Mapping[str, Split]) -> Numbers:
        """val_loss: nats for a token of the completions, without smoothing, over all of them."""
        split = validation["validation"]
        assert isinstance(split, Completions)
        sums = predict(split, _nats, EVALUATED)
        return {"val_loss": float(sums.double().sum()) / sum(split.targets)}

    def inputs(self, raw: data.Raw) -> list[Input]:
        """The distinct contexts of the scored split, in the order in which they first appear, each with all its
        references."""
        grouped: dict[str, list[tuple[str, Row]]] = {}
        for row in raw.rows[self.scored]:
            for context, completion in self.form.examples(row):
                grouped.setdefault(context, []).append((completion.strip(), row))
        return [Input(context, [reference for reference, _ in known], [row for _, row in known],
                      self.form.part(known[0][1])) for context, known in grouped.items()]

    def prompts(self, inputs: Sequence[Input], tokenizer: Any, room: int,
                special: Special) -> tuple[list[list[int]], int]:
        """The ids of each input's prompt, of at most `room` tokens beside the special ones, and how many lost their
        beginning to that."""
        contexts = encode([each.context for each in inputs], tokenizer)
        cut = sum(len(context) + 1 > room for context in contexts)
        return [prompt(context, tokenizer, room, special) for context in contexts], cut


def _nats(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Each example's summed loss (n, 1)."""
    return token_losses(model, batch, 0.0).sum(1, keepdim=True)
