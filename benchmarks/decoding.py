"""Beam search batched against one prompt at a time, ours against transformers': python -m benchmarks.decoding

gpt2-nano with LoRA (trained or not is the same to the clock) on prompts of generated restaurants. The ways take turns,
so that a busy machine slows all of them."""

from __future__ import annotations

import argparse
import statistics
import time

import torch
import yaml

from engine import device as devices
from engine import generate, hub, models
from engine.contract import Special, generator
from engine.hub import ROOT
from engine.spec import Decode, ModelSpec, Recipe
from lora.method import LoRA
from tasks.completions import encode, prompt
from tasks.prompts.e2e import E2E
from tasks.synthetic import restaurants

RECIPE = Recipe(lr=1e-3, epochs=1, batch=1, length=256, warmup=0, schedule="linear", weight_decay=0, decay_on="all",
                betas=(0.9, 0.999), eps=1e-8, clip=None, label_smoothing=0, dropout=0.0, cls_dropout=None,
                precision="fp32", batching="grouped", averaging="tokens")


def main() -> None:
    """Prints a table: seconds for all prompts, the spread over the rounds, new tokens a second, the ratio."""
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    ask.add_argument("--prompts", type=int, default=16)
    ask.add_argument("--beams", type=int, default=10)
    ask.add_argument("--tokens", type=int, default=40, help="most new tokens of a text")
    ask.add_argument("--rounds", type=int, default=3)
    said = ask.parse_args()
    device, _ = devices.pick("auto", "fp32")
    roles = yaml.safe_load((ROOT / "conf" / "model" / "roles" / "gpt2.yaml").read_text(encoding="utf-8"))
    spec = ModelSpec("gpt2-nano", "assets/gpt2-nano", None, None, None, "eager", None, roles)
    folder = hub.model_folder(spec.name, str(spec.path), None, None)
    made = models.load(spec, folder, 0, RECIPE, 0, generator(0, "head"))
    LoRA("lora", "LoRA", 4, 32, ["q", "v"], 0.0, "gaussian", 0.02).apply(made, generator(0, "adapter"))
    made.model.to(device)  # type: ignore[arg-type]
    contexts = list(dict.fromkeys(pair[0] for row in restaurants.rows("test", 8 * said.prompts, 0)
                                  for pair in E2E().examples(row)))[:said.prompts]
    asked = [prompt(ids, made.tokenizer, 150, Special((), ())) for ids in encode(contexts, made.tokenizer)]

    ways: dict[str, tuple[Decode, int]] = {}
    times: dict[str, list[float]] = {}
    texts: dict[str, list[generate.Output]] = {}
    for search in ("official", "hf"):
        how = Decode(search, "best", search, said.beams, 0.9, 4, "completion", True, ["\n\n"], said.tokens)
        ways[f"{search}, one at a time"] = (how, 1)
        ways[f"{search}, batched"] = (how, len(asked))
    for each in range(said.rounds + 1):  # the first round warms up
        for name, (how, size) in ways.items():
            begin = time.perf_counter()
            texts[name] = generate.generate(made, how, asked, device, 0, 1, size)
            if each:
                times.setdefault(name, []).append(time.perf_counter() - begin)
    for search in ("official", "hf"):
        same = sum(a == b for a, b in zip(texts[f"{search}, batched"], texts[f"{search}, one at a time"], strict=True))
        print(f"{search}: {same} of {len(asked)} texts alike, batched and alone (ties may fall otherwise in float32)")
    lines = [f"{devices.name_of(device)}: {len(asked)} prompts, {said.beams} beams, at most {said.tokens} tokens, "
             f"{said.rounds} rounds", "", "| way | seconds (median) | least to most | ratio |", "|---|---:|---:|---:|"]
    first = statistics.median(times["official, one at a time"])
    lines += [f"| {name} | {statistics.median(took):.2f} | {min(took):.2f} to {max(took):.2f} | "
              f"{first / statistics.median(took):.2f} |" for name, took in times.items()]
    print("\n".join(lines))
    place = ROOT / "results" / "benchmarks" / f"decoding-{device.type}.md"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("\n".join(["# Decoding", "", *lines]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
