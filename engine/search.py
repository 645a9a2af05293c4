"""Beam search by the definitions of the official GPT-2 code (microsoft/LoRA, examples/NLG/src/gpt2_beam.py), batched.

Where it differs from transformers' own search (decode.search=hf):
    places      a finished hypothesis has used up one of the `beams` places of its step; transformers looks at twice as
                many candidates, so that as many unfinished ones go on
    finished    only the best one counts, its score the sum of log-probabilities / length ** length_penalty, the end
                token in the length, the prompt not
    the end     nothing stops early: at max_new tokens the unfinished hypotheses compete too. We stop where no
                hypothesis can still win, which gives the same text

What is the same in both, and an option of its own: what the n-gram ban sees, and whether probabilities are renormalised
behind it (official: the completion alone, and yes; transformers: the prompt too, and no).
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor
from transformers.cache_utils import DynamicLayer


class Ban(LogitsProcessor):
    """Forbids the last word of every run of n tokens that came already, in the tokens from `start` on."""

    def __init__(self, n: int, start: int, renormalise: bool) -> None:
        self.n, self.start, self.renormalise = n, start, renormalise

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """input_ids (rows, so far), scores (rows, V) -> scores with -inf where banned."""
        seen = input_ids[:, self.start:]
        if 0 < self.n <= seen.shape[1]:
            runs = seen.unfold(1, self.n, 1)  # (rows, runs, n)
            last = seen[:, seen.shape[1] - self.n + 1:]
            again = (runs[..., :-1] == last[:, None]).all(-1)
            words = runs[..., -1]
            again &= words < scores.shape[1]  # a prefix method's ids stand behind the vocabulary
            rows, places = again.nonzero(as_tuple=True)
            scores = scores.clone()
            scores[rows, words[rows, places]] = -torch.inf
        return scores.log_softmax(-1) if self.renormalise else scores


class Beams(DynamicLayer):
    """A layer's cache for the beams of every prompt, with room for all that will come: nothing is copied to append a
    token, and beams that change places only exchange what they wrote, since the prompt is the same for all of them."""

    def __init__(self, prompts: DynamicLayer, beams: int, room: int) -> None:
        """prompts: the layer after the prompts were read, keys and values (n, heads, T, d)."""
        super().__init__()
        assert prompts.keys is not None and prompts.values is not None
        self.dtype, self.device, self.is_initialized = prompts.dtype, prompts.device, True
        self.prompt = self.length = prompts.keys.shape[-2]
        self.rooms: list[torch.Tensor] = []
        for states in (prompts.keys, prompts.values):
            n, heads, _, d = states.shape
            self.rooms.append(states.new_empty(n * beams, heads, self.prompt + room, d))
            self.rooms[-1][..., :self.prompt, :] = states.repeat_interleave(beams, 0)
        self._look()

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any,
               **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """All keys and values (rows, heads, so far, d), with the new ones at the end."""
        begin, self.length = self.length, self.length + key_states.shape[-2]
        for room, states in zip(self.rooms, (key_states, value_states), strict=True):
            room[..., begin:self.length, :] = states
        return self._look()

    def reorder_cache(self, rows: torch.Tensor) -> None:
        """Row i goes on from what row rows[i] wrote; both belong to one prompt. Fewer rows: the others are dropped."""
        if len(rows) < len(self.rooms[0]):
            self.rooms = [room[rows] for room in self.rooms]
        else:
            for room in self.rooms:
                written = room[..., self.prompt:self.length, :]
                written.copy_(written.index_select(0, rows))
        self._look()

    def _look(self) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = (room[..., :self.length, :] for room in self.rooms)
        self.keys, self.values = keys, values
        return keys, values


def official(model: Any, input_ids: torch.Tensor, generation_config: GenerationConfig, beams: int,
             length_penalty: float, ban: Ban, ends: torch.Tensor, max_new: int, **state: Any) -> torch.Tensor:
    """The best text for each left-padded prompt: (n, max_new) ids, filled up with the first end. For generate's
    custom_generate.

    input_ids: (n, T). ends: the ids that end a text. state: what generate prepared (mask, cache, …)."""
    state.pop("logits_processor"), state.pop("stopping_criteria")
    n, prompt = input_ids.shape
    device = input_ids.device
    inputs = model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **state)
    outputs = model(**inputs, return_dict=True)
    state = model._update_model_kwargs_for_generation(outputs, state)
    cache = state["past_key_values"]  # each prompt was read once, not once a beam
    if all(type(layer) is DynamicLayer for layer in cache.layers):
        cache.layers = [Beams(layer, beams, max_new) for layer in cache.layers]
    else:
        cache.batch_repeat_interleave(beams)
    state = _rows(state, torch.arange(n, device=device).repeat_interleave(beams))
    text = input_ids.repeat_interleave(beams, 0)
    logits = outputs.logits[:, -1].float().repeat_interleave(beams, 0)

    best = torch.full((n,), -torch.inf, device=device)
    found = torch.full((n, max_new), int(ends[0]), device=device)
    score = torch.full((n, beams), -torch.inf, device=device)
    score[:, 0] = 0.0  # all beams are one at the start
    live = torch.arange(n, device=device)  # the prompts that are still searched
    for length in range(1, max_new + 1):
        steps = ban(text, logits.log_softmax(-1))
        vocabulary = steps.shape[1]
        score, picked = (score[..., None] + steps.view(len(live), beams, -1)).flatten(1).topk(beams)
        origin = (picked // vocabulary + beams * torch.arange(len(live), device=device)[:, None]).flatten()
        text = torch.cat([text[origin], (picked % vocabulary).view(-1, 1)], 1)
        done = torch.isin(text[:, -1], ends).view(len(live), beams) | (length == max_new)
        finished, which = score.masked_fill(~done, -torch.inf).div(length ** length_penalty).max(1)
        better = finished > best[live]
        best[live[better]] = finished[better]
        rows = (which + beams * torch.arange(len(live), device=device))[better]
        found[live[better], :length] = text[rows, prompt:]
        score = score.masked_fill(done, -torch.inf)
        hope = score.max(1).values.div(max_new ** length_penalty) > best[live]  # log-probabilities only fall
        if not hope.any():
            break
        keep = hope.repeat_interleave(beams)
        live, score, text = live[hope], score[hope], text[keep]
        cache.reorder_cache(origin[keep])
        state = _rows(state, origin[keep])
        inputs = model.prepare_inputs_for_generation(text, next_sequence_length=1, **state)
        outputs = model(**inputs, return_dict=True)
        state = model._update_model_kwargs_for_generation(outputs, state)
        logits = outputs.logits[:, -1].float()
    return found


def _rows(state: dict[str, Any], rows: torch.Tensor) -> dict[str, Any]:
    """These rows of every tensor (mask, positions); the cache has a way of its own."""
    return {key: value[rows] if isinstance(value, torch.Tensor) else value for key, value in state.items()}
