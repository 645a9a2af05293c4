"""Texts from a trained language model: prompts in, outputs out, batched and over all devices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import GenerationConfig, LogitsProcessorList

from engine import batches
from engine.backbone import Backbone
from engine.frozen import merged
from engine.models import quiet
from engine.search import Ban, official
from engine.spec import Decode
from engine.words import progress

ROWS = 320  # prompts x beams at once


@dataclass(frozen=True)
class Output:
    """What one prompt gave: its text, and whether it came to an end by itself."""

    text: str
    ended: bool


def generate(backbone: Backbone, decode: Decode, prompts: Sequence[Sequence[int]], device: torch.device, rank: int,
             world: int, size: int | None = None, check: Callable[[], None] = lambda: None) -> list[Output]:
    """An output for every prompt, in order. What can be merged into the weights is, for as long as it takes (Section
    4.1): the search runs on the plain model. In float32, whatever the run was trained in.

    size: prompts at once; None: as many as make ROWS rows. check is called between two batches, and may raise."""
    model, tokenizer = backbone.model.eval(), backbone.tokenizer
    ends = _ends(decode, tokenizer)
    search = _search(decode, tokenizer.pad_token_id, ends)
    size = size or max(1, ROWS // decode.beams)
    plan = batches.by_length([len(prompt) for prompt in prompts], size, rank, world)
    mine: list[tuple[int, Output]] = []
    model.generation_config = GenerationConfig()  # not what the model's makers recommend (penalties, shortest length)
    # quiet: a prompt ends with BOS, which generate takes for padding on the right
    with merged(model), torch.inference_mode(), quiet():
        for indices in progress(plan, "decoding"):
            check()
            ids, mask = _padded([prompts[i] for i in indices], tokenizer.pad_token_id)
            found = search(model, ids.to(device), mask.to(device))
            mine += [(i, _output(row, ends, decode, tokenizer)) for i, row in zip(indices, found.tolist(), strict=True)]
    everyone = gather_object(mine) if world > 1 else mine
    return [output for _, output in sorted(everyone, key=lambda entry: entry[0])]


def _search(decode: Decode, pad: int, ends: list[int]) -> Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]:
    """(model, ids, mask) -> the new ids (n, at most max_new)."""
    config: dict[str, Any] = {"pad_token_id": pad, "eos_token_id": ends,
                              "max_new_tokens": decode.max_new, "do_sample": False, "use_cache": True}

    def search(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        ban = Ban(decode.no_repeat, 0 if decode.ban_sees == "all" else ids.shape[1], decode.renormalise)
        if decode.search == "official":
            way = partial(official, beams=decode.beams, length_penalty=decode.length_penalty, ban=ban,
                          ends=torch.tensor(ends, device=ids.device), max_new=decode.max_new)
            return model.generate(ids, attention_mask=mask, generation_config=GenerationConfig(**config),
                                  custom_generate=way)
        beam = GenerationConfig(**config, num_beams=decode.beams, length_penalty=decode.length_penalty)
        found = model.generate(ids, attention_mask=mask, generation_config=beam,
                               logits_processor=LogitsProcessorList([ban]))
        return found[:, ids.shape[1]:]

    return search


def _ends(decode: Decode, tokenizer: Any) -> list[int]:
    """The ids that end a text: EOS, and the end texts that are one token of this vocabulary; the others end a text
    afterwards, in _output."""
    coded = [tokenizer(end, add_special_tokens=False)["input_ids"] for end in decode.ends]
    return [tokenizer.eos_token_id, *(ids[0] for ids in coded if len(ids) == 1)]


def _output(row: list[int], ends: list[int], decode: Decode, tokenizer: Any) -> Output:
    """The text up to its end, blanks around it cut off."""
    stop = next((place for place, word in enumerate(row) if word in ends), None)
    text = tokenizer.decode(row[:stop], clean_up_tokenization_spaces=False)
    cut = min((place for end in decode.ends if (place := text.find(end)) >= 0), default=None)
    return Output(text[:cut].strip(), stop is not None or cut is not None)


def _padded(prompts: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """ids and mask (n, longest), padded on the left."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask
