"""Row (f): beam search over many prompts at once against one prompt at a time, ours and transformers'."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from benchmarks import shapes
from benchmarks.bench import Bench, Cells, Table, ratio, spread
from engine import generate, hub, models
from engine.backbone import Backbone
from engine.contract import Special, generator
from engine.spec import Decode, Recipe
from lora.method import LoRA
from tasks.completions import encode, prompt
from tasks.prompts.e2e import E2E
from tasks.synthetic import restaurants

LETTER, TITLE = "f", "Decoding: many prompts at once, and one at a time"
PROMPTS, BEAMS, TOKENS = 16, 10, 30
RECIPE = Recipe(lr=1e-3, epochs=1, batch=1, length=256, warmup=0, schedule="linear", weight_decay=0, decay_on="all",
                betas=(0.9, 0.999), eps=1e-8, clip=None, label_smoothing=0, dropout=0.0, cls_dropout=None,
                precision="fp32", batching="grouped", averaging="tokens")


def run(bench: Bench) -> list[Table]:
    """gpt2-nano with LoRA (trained or not is the same to the clock) on prompts of generated restaurants."""
    count, beams, tokens = (2, 2, 3) if bench.quick else (PROMPTS, BEAMS, TOKENS)
    made = _model(bench.device)
    asked = _prompts(made.tokenizer, count)
    ways = {(search, size): partial(_texts, made, search, beams, tokens, asked, bench.device, size)
            for search in ("official", "hf") for size in (1, len(asked))}
    with torch.inference_mode():
        alike = {search: sum(one == other for one, other in zip(
            ways[search, 1](), ways[search, len(asked)](), strict=True)) for search in ("official", "hf")}
        taken = dict(zip(ways, bench.measure("decoding", list(ways.values()), warmup=0), strict=True))
    rows: list[Cells] = [
        {"search": search, "at_once": size, **spread(times, "s", 1000), **ratio(taken[search, 1], times)}
        for (search, size), times in taken.items()]
    return [Table("decoding", rows, [
        f"gpt2-nano, {len(asked)} prompts, {beams} beams, at most {tokens} new tokens, float32; official: our search "
        "after the official code's, hf: that of transformers; `ratio`: one at a time over this",
        *(f"{search}: {same} of {len(asked)} texts alike at once and one by one (in float32 ties may fall otherwise)"
          for search, same in alike.items())])]


def _model(device: torch.device) -> Backbone:
    spec = shapes.spec("gpt2-nano")
    folder = hub.model_folder(spec.name, str(spec.path), None, None)
    made = models.load(spec, folder, 0, RECIPE, 0, generator(0, "head"))
    LoRA("lora", "LoRA", 4, 32, ["q", "v"], 0.0, "gaussian", 0.02).apply(made, generator(0, "adapter"))
    made.model.to(device)  # type: ignore[arg-type]
    return made


def _prompts(tokenizer: Any, count: int) -> list[Any]:
    contexts = list(dict.fromkeys(pair[0] for row in restaurants.rows("test", 8 * count, 0)
                                  for pair in E2E().examples(row)))[:count]
    return [prompt(ids, tokenizer, 150, Special((), ())) for ids in encode(contexts, tokenizer)]


def _texts(made: Backbone, search: str, beams: int, tokens: int, asked: list[Any], device: torch.device,
           size: int) -> list[generate.Output]:
    how = Decode(search, "best", search, beams, 0.9, 4, "completion", True, ["\n\n"], tokens)
    return list(generate.generate(made, how, asked, device, 0, 1, size))
