"""Which examples go into which step, on which device: decided before training, from the seed alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch


def order(lengths: Sequence[int], batch: int, batching: str, generator: torch.Generator) -> list[list[int]]:
    """One epoch: every example once, in global batches of `batch` (the last one may be smaller).

    shuffle: a plain random order. grouped: examples of similar length together, the batches in random order, so that
    little is spent on padding.
    """
    if batching == "shuffle":
        indices = torch.randperm(len(lengths), generator=generator).tolist()
    else:
        from transformers.trainer_pt_utils import get_length_grouped_indices

        indices = get_length_grouped_indices(list(lengths), batch, generator=generator)
    batches = [indices[i:i + batch] for i in range(0, len(indices), batch)]
    if batching == "grouped":
        batches = [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
    return batches


def shares(batch: Sequence[int], rank: int, world: int, micro: int | None,
           weight: Callable[[Sequence[int]], float]) -> Iterator[tuple[list[int], float]]:
    """This device's part of a global batch, in micro-batches, each with what one of its examples counts: 1 / the weight
    of the global batch.

    So the step is that of the whole batch, whatever the number of devices and micro-batches, also when they do not
    divide it. Every device gets the same number of micro-batches, as DDP needs; one that has too few examples repeats
    one that counts 0.
    """
    parts = [list(batch[r::world]) for r in range(world)]
    size = min(micro or len(parts[0]), len(parts[0]))
    for start in range(0, len(parts[0]), size):
        mine = parts[rank][start:start + size]
        yield (mine, 1 / weight(batch)) if mine else ([batch[0]], 0.0)


def by_length(lengths: Sequence[int], size: int, rank: int, world: int) -> list[list[int]]:
    """Evaluation batches of this device, longest first, each example on one device only."""
    indices = sorted(range(len(lengths)), key=lambda i: -lengths[i])[rank::world]
    return [indices[i:i + size] for i in range(0, len(indices), size)]
