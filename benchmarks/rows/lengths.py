"""Row (c): an epoch of real examples, padded to a fixed length, to its batch's longest, and with like beside like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
import yaml
from transformers import AutoTokenizer

from benchmarks import shapes, ways
from benchmarks.bench import Bench, CannotRun, Cells, Table, ratio, same, spread
from benchmarks.rows.decoding import RECIPE
from engine import batches, hub
from engine.contract import Batch, Origin, Special, Split, generator
from tasks.data import Source
from tasks.glue import Glue

LETTER, TITLE = "c", "An epoch, by how its batches are padded"
TASKS, BATCH, MICRO = ("rte", "cola"), 16, 4
LONG, SHORT = (512, 128), (64, 32)  # what is padded to; for a toy
SAMPLE = {True: 1, False: 4}  # batches that are timed on a CPU: of one fixed length all are alike


def ways_of(quick: bool) -> list[tuple[str, int, str, bool, int]]:
    """Name, length that examples are cut to, order of engine/batches.py, whether all are padded to that length, and how
    many examples are computed at once."""
    long, short = SHORT if quick else LONG
    return [(f"to {long}", long, "shuffle", True, BATCH), (f"to {short}", short, "shuffle", True, BATCH),
            ("by batch", long, "shuffle", False, BATCH),
            (f"by batch, {MICRO} alike at once", long, "shuffle", False, MICRO),
            ("by batch, grouped", long, "grouped", False, BATCH)]


def run(bench: Bench) -> list[Table]:
    """Seconds of an epoch each way."""
    if bench.data is None:
        raise CannotRun("it needs real examples: --data DIR, with glue/rte/train.jsonl.gz and glue/cola/train.jsonl.gz")
    name = "roberta-base" if bench.cuda else "minilm"
    base = shapes.base(name, shapes.layers(name, bench.cuda, bench.quick), bench.device, False, every_word=True)
    made = ways.way("ours", "lora", base, bench.precisions()[-1])
    spec = shapes.spec("minilm")
    tokenizer = AutoTokenizer.from_pretrained(hub.model_folder(spec.name, str(spec.path), None, spec.package))
    rows: list[Cells] = []
    lengths = SHORT if bench.quick else LONG
    for task in TASKS:
        splits = {length: _split(task, bench, tokenizer, length) for length in lengths}
        agree(made, splits[max(lengths)], bench.device)
        with made.held():
            rows += _task(bench, task, splits, made)
    about = [f"{name}'s shape, {base.model.config.num_hidden_layers} layers, LoRA r={ways.R}, batch {BATCH}, "
             f"{made.precision}; MiniLM's tokenizer; `ratio`: how many times as long an epoch "
             f"lasts that is padded to {max(lengths)}",
             "cut at the shorter length, an example may lose its end; the others compute the same"]
    if not bench.cuda:
        about.append("`timed` of the epoch's batches are timed, evenly over all of them in order of their length, and "
                     "the time is multiplied")
    return [Table("lengths", rows, about)]


def _split(task: str, bench: Bench, tokenizer: object, length: int) -> Split:
    said = yaml.safe_load((hub.ROOT / "conf" / "task" / f"{task}.yaml").read_text(encoding="utf-8"))
    source = {key: value for key, value in said.pop("source").items() if key != "_target_"}
    del said["_target_"]
    made = Glue(**said | {"source": Source(**source), "limit": 96 if bench.quick else None})
    raw = made.load(Origin("folder", str(bench.data), 0, 0))
    return made.splits(raw, tokenizer, replace(RECIPE, length=length), Special((), ())).train


def _task(bench: Bench, task: str, splits: dict[int, Split], made: ways.Way) -> list[Cells]:
    calls: list[Callable[[], object]] = []
    lines: list[Cells] = []
    for name, length, batching, fixed, micro in ways_of(bench.quick):
        split = splits[length]
        plan = batches.order(split.lengths, BATCH, batching, generator(0, "order"))
        picked = plan if bench.cuda and not bench.quick else sample(plan, split.lengths, SAMPLE[fixed])
        ready = [[padded(split.batch(part), length if fixed else 0, bench.device)
                  for part in alike(indices, split.lengths, micro)] for indices in picked]
        calls.append(partial(_steps, made, ready))
        cells = sum(len(part) * (length if fixed else max(split.lengths[i] for i in part))
                    for indices in plan for part in alike(indices, split.lengths, micro))
        lines.append({"task": task, "examples": len(split), "padded": name, "batches": len(plan), "timed": len(picked),
                      "real_share": sum(split.lengths) / cells})
    taken = bench.measure(task, calls, warmup=0)
    epochs = [[each * line["batches"] / line["timed"] for each in times]
              for line, times in zip(lines, taken, strict=True)]
    return [line | spread(times, "s", 1000) | ratio(epochs[0], times)
            for line, times in zip(lines, epochs, strict=True)]


def alike(indices: Sequence[int], lengths: Sequence[int], size: int) -> list[Sequence[int]]:
    """A batch in parts of similar length, as engine/train.py takes micro-batches; whole where it is no larger."""
    if size >= len(indices):
        return [indices]
    ordered = sorted(indices, key=lambda i: lengths[i])
    return [ordered[start:start + size] for start in range(0, len(ordered), size)]


def sample(plan: Sequence[Sequence[int]], lengths: Sequence[int], count: int) -> list[Sequence[int]]:
    """So many batches of an epoch: the middle ones of `count` equal parts, once they are sorted by what they are padded
    to."""
    by_length = sorted(plan, key=lambda indices: max(lengths[i] for i in indices))
    count = min(count, len(by_length))
    return [by_length[int((place + 0.5) * len(by_length) / count)] for place in range(count)]


def padded(batch: Batch, length: int, device: torch.device) -> Batch:
    """The batch on the device, padded on to `length` columns if it has fewer (zeros: BERT's padding, masked)."""
    more = max(0, length - batch["input_ids"].shape[1])
    return {key: (tensor if key == "labels" else F.pad(tensor, (0, more))).to(device) for key, tensor in batch.items()}


def agree(made: ways.Way, split: Split, device: torch.device) -> None:
    """Raises Unequal unless padding leaves the loss what it was (no dropout, float32)."""
    batch, exact = split.batch(range(4)), replace(made, precision="fp32")
    made.model.eval()
    with torch.no_grad():
        as_is, more = (exact.loss(padded(batch, length, device)) for length in (0, max(LONG)))
    same("loss, padded on", as_is, more, 1e-4)
    made.model.train()


def _steps(made: ways.Way, ready: Sequence[Sequence[Batch]]) -> None:
    for parts in ready:
        count = sum(len(part["labels"]) for part in parts)
        for part in parts:
            (made.loss(part) * (len(part["labels"]) / count)).backward()
        made.optimiser.step()
        made.optimiser.zero_grad()
