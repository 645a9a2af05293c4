"""Rows (a) and (b): one training step of LoRA, by this project, PEFT and loralib, and of everything (FT)."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from functools import partial

import torch

from benchmarks import shapes, ways
from benchmarks.bench import Bench, Cells, Table, ratio, same, spread
from benchmarks.ways import Way
from engine.backbone import Backbone

LETTER, TITLE = "a, b", "A training step of LoRA, and of FT"
MODELS = ("roberta-base", "gpt2-medium")
IN_HALF = ("minilm", *MODELS)  # 384, 768 and 1024 wide
SHAPES = ((4, 24), (16, 64), (32, 128), (4, 512))  # batch x length
TOYS = ((2, 8),)
ALIKE = 1e-4  # of the loss and of a gradient, in float32
PAPER = 43.1 / 32.5  # tokens/s per V100 of LoRA and of FT on GPT-3: Section 4.2, footnote
LIMIT = 6 / 4  # FLOPs a weight and token: forward and both halves of backward; LoRA leaves one of the three out


def run(bench: Bench) -> list[Table]:
    """Every model, shape and precision: milliseconds of each way, and how many times ours they take."""
    steps: list[Cells] = []
    missing = sorted({name for name, _ in ways.WAYS if ways.missing(name)})
    for name in MODELS:
        count = shapes.layers(name, bench.cuda, bench.quick)
        base = shapes.base(name, count, bench.device, bench.quick)
        agree(bench, name, base)
        words = base.model.config.vocab_size
        for size, length in TOYS if bench.quick else SHAPES:
            for precision in bench.precisions():
                found = _cell(bench, name, base, size, length, precision)
                steps += [{"model": name, "layers": count, "words": words} | cells for cells in found]
    halves = _halves(bench)
    about = [
        f"forward, backward, fused AdamW, zero_grad; r={ways.R}, alpha={ways.ALPHA:g}, targets q and v, LoRA dropout "
        f"0, the model's dropout {shapes.DROPOUT}; `ratio`: how many times ours it takes (quartiles low, high)",
        "random weights; the same A, B, attention and optimiser for all; before the clock starts all are shown to give "
        "the same loss and the same gradient of B",
        "GPT-2: PEFT adapts the fused c_attn as one, q, k and v with one A; loralib's MergedLinear (the paper's) and "
        "ours adapt q and v alone, each with its own A"]
    if not bench.cuda:
        about.append("on a CPU the models are cut to the layers that the table names, and to the same share of their "
                     "words; loralib's MergedLinear, a grouped convolution, takes minutes there: 16 x 64 alone")
    about += [f"{name} is missing: pip install -e '.[bench]'" for name in missing]
    return [Table("step", steps, about), full(steps), halves]


def agree(bench: Bench, name: str, base: Backbone) -> None:
    """Raises Unequal unless every LoRA gives the same loss and gradient from the same A and B (float32, no dropout)."""
    first: tuple[torch.Tensor, torch.Tensor] | None = None
    for way, method in ways.WAYS:
        if method != "lora" or ways.missing(way):
            continue
        made = ways.way(way, method, shapes.copied(base, own=True), "fp32")
        made.model.eval()
        loss = made.loss(shapes.batch(name, base, 2, 8 if bench.quick else 32, bench.device))
        loss.backward()
        found = loss.detach(), ways.gradient_of_B(made)
        first = first or found
        for what, one, other in zip(("loss", "gradient of B"), first, found, strict=True):
            same(f"{name}, {way}: {what}", one, other[:len(one)] if other.ndim else other, ALIKE)


def _cell(bench: Bench, name: str, base: Backbone, size: int, length: int, precision: str) -> list[Cells]:
    batch = shapes.batch(name, base, size, length, bench.device)
    there = [(way, method) for way, method in ways.WAYS if not ways.missing(way)
             and (bench.cuda or not slow(name, way, size * length))]
    made: list[Way] = [ways.way(way, method, shapes.copied(base, own=True), precision) for way, method in there]
    with ExitStack() as stack:
        for each in made:
            stack.enter_context(each.held())
        try:
            times = bench.measure(f"{name} {size}x{length} {precision}", [partial(each.step, batch) for each in made])
        except torch.OutOfMemoryError:
            print(f"{name} {size}x{length} {precision}: out of memory", file=sys.stderr)
            return []
    return [{"way": each.name, "method": each.method, "batch": size, "length": length, "precision": precision,
             **spread(taken), **ratio(taken, times[0]), "peak_bytes": None}
            for each, taken in zip(made, times, strict=True)]


def _halves(bench: Bench) -> Table:
    """fp32 and bf16 beside each other, whichever of them precision=auto stands for on this device."""
    chosen = bench.precisions()[-1]
    rows: list[Cells] = []
    for name in IN_HALF if chosen == "bf16" or not bench.cuda else ():
        count = shapes.layers(name, bench.cuda, bench.quick)
        base = shapes.base(name, count, bench.device, bench.quick)
        for size, length in TOYS if bench.quick else SHAPES:
            batch = shapes.batch(name, base, size, length, bench.device)
            single, half = (ways.way("ours", "lora", shapes.copied(base, own=True), precision)
                            for precision in ("fp32", "bf16"))
            with half.held():
                times = bench.measure(f"{name} {size}x{length} fp32, bf16", [partial(single.step, batch),
                                                                             partial(half.step, batch)])
            rows.append({"model": name, "layers": count, "width": base.model.config.hidden_size, "batch": size,
                         "length": length, **spread(times[0], "ms_fp32"), **spread(times[1], "ms_bf16"),
                         **ratio(times[0], times[1])})
    return Table("precision", rows, [
        "LoRA by this project, as in `step`; the two precisions take turns; `ratio`: fp32 over bf16",
        f"precision=auto is {chosen} here"])


def slow(name: str, way: str, tokens: int) -> bool:
    """Whether a CPU would take minutes: loralib's MergedLinear is a grouped convolution there."""
    return way == "loralib" and name in shapes.DECODERS and tokens > 1024


def full(steps: list[Cells]) -> Table:
    """Row (b): FT's step over LoRA's, ours both."""
    rows = []
    for ft in (row for row in steps if row["method"] == "ft"):
        lora = next(row for row in steps if (row["way"], row["method"]) == ("ours", "lora") and all(
            row[key] == ft[key] for key in ("model", "batch", "length", "precision")))
        kept = {key: ft[key] for key in ("model", "layers", "batch", "length", "precision")}
        rows.append(kept | {"ms_ft": ft["ms"], "ms_lora": lora["ms"]} | {key: ft[key] for key in (
            "ratio", "low", "high")} | {"paper": PAPER, "limit": LIMIT})
    return Table("full", rows, [
        "`paper`: 43.1 over 32.5 tokens/s per V100, GPT-3 (Section 4.2, footnote); `limit`: 6 over 4 FLOPs a weight "
        "and token, since LoRA needs no gradient of W0"])

