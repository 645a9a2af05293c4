"""Which examples go into which step, on which device: decided before training, from the seed alone. And the next
batches made while the device works on this one."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, TypeVar, cast

import numpy as np
import torch

from engine.contract import Batch

AHEAD = 2  # batches that lie ready beside the one in use
T = TypeVar("T")
U = TypeVar("U")


def order(lengths: Sequence[int], batch: int, batching: str, generator: torch.Generator) -> list[list[int]]:
    """One epoch: every example once, in global batches of `batch` (the last one may be smaller).

    shuffle: a plain random order. grouped: examples of similar length together, the batches in random order, so that
    little is spent on padding.

    Both keep to the recipe's number of examples. A budget of tokens would waste still less, but the examples of a step
    would be as many as fit, and so the steps, the schedule and the numbers other ones.
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


def by_length(lengths: Sequence[int], size: int, rank: int, world: int, tokens: int | None = None) -> list[list[int]]:
    """Evaluation batches of this device, longest first, each example on one device only.

    At most `size` examples each; with `tokens`, of at most so many tokens, padding included, unless one example alone
    has more."""
    indices = np.argsort(-np.asarray(lengths), kind="stable")[rank::world].tolist()
    plan, start = [], 0
    while start < len(indices):
        longest = max(1, lengths[indices[start]])
        count = size if tokens is None else max(1, min(size, tokens // longest))
        plan.append(indices[start:start + count])
        start += count
    return plan


def pinned(batch: Batch, device: torch.device) -> Batch:
    """The batch in memory from which a GPU copies while it works, so that device.move waits for nothing; for a CPU the
    batch itself."""
    return batch if device.type != "cuda" else {name: tensor.pin_memory() for name, tensor in batch.items()}


def ahead(work: Iterable[T], make: Callable[[T], U]) -> Iterator[U]:
    """make(each) of work, in order: while one is in use, a thread makes the next ones, at most AHEAD.

    What work or make raise is raised here, in the place of what would have come. The thread ends with the last one, or
    when nobody wants more (the iterator is closed or dropped), and keeps no process alive. Threads share the global
    random state, so make must not draw from it; the caller's modes (autocast, inference_mode) do not hold in make."""
    ready: SimpleQueue[_Made[U]] = SimpleQueue()
    room, unwanted = threading.Semaphore(AHEAD), threading.Event()
    gpu = torch.cuda.current_device() if torch.cuda.is_initialized() else None
    exiting = sys.is_finalizing  # sys itself is gone when an iterator is dropped that late

    def run() -> None:
        try:
            if gpu is not None:
                torch.cuda.set_device(gpu)  # a thread starts on the first one, and pinning would take memory there
            room.acquire()
            for each in work:
                if unwanted.is_set():
                    return
                ready.put(_Made(make(each)))
                room.acquire()
            ready.put(_Made(last=True))
        except BaseException as error:
            ready.put(_Made(error=error))

    thread = threading.Thread(target=run, name="ahead", daemon=True)
    thread.start()
    try:
        while not (made := ready.get()).last:
            if made.error is not None:
                raise made.error
            room.release()
            yield cast(U, made.value)
    finally:
        unwanted.set()
        room.release()
        if not exiting():  # then a daemon thread stands still for good, and newer Pythons let nobody wait for it
            thread.join()


@dataclass(frozen=True)
class _Made(Generic[U]):
    """What a thread hands over: a value, an error, or that there are no more."""

    value: U | None = None
    error: BaseException | None = None
    last: bool = False
