"""The second half of a run whose answers are texts: decode the scored inputs with the trained weights, and judge."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engine.backbone import Backbone
from engine.contract import Numbers, Special
from engine.files import whole_text
from engine.resolve import Cell, Resolved

SHOWN = 3  # samples on the screen


@dataclass(frozen=True)
class Judged:
    """What decoding gave: the numbers, what the record says beside them, the texts, some of them to look at."""

    numbers: Numbers
    about: dict[str, Any]
    notes: Sequence[str]
    texts: Sequence[str]
    samples: str


def judge(cell: Cell, at: Resolved, backbone: Backbone, special: Special, say: Callable[[str], None],
          check: Callable[[], None] = lambda: None) -> Judged:
    """Decodes every distinct input of the scored split with the weights that are in the model, and scores the texts.
    say gets a line before each of the two, since both take a while; check is called between two batches, and may
    raise: decoding is not taken up where it was left."""
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    from engine.generate import generate

    assert cell.decode is not None
    state = PartialState(cpu=at.device.type == "cpu")
    backbone.model.to(at.device)  # training has moved it; weights that were found have not
    inputs = cell.task.inputs(at.raw)
    room = cell.recipe.length - cell.decode.max_new
    prompts, cut = cell.task.prompts(inputs, backbone.tokenizer, room, special)
    say(f"decoding {len(inputs):,} inputs, decode={cell.decode.name}: {cell.decode.beams} beams, at most "
        f"{cell.decode.max_new} tokens each")
    clock = time.perf_counter()
    with torch.autocast(at.device.type, enabled=False):
        outputs = generate(backbone, cell.decode, prompts, at.device, state.process_index, state.num_processes,
                           None, check)
    decoding = time.perf_counter() - clock
    texts = [output.text for output in outputs]
    say(f"decoded in {decoding:.0f} s; scoring")
    clock = time.perf_counter()
    found: list[Any] = [cell.task.score(texts, inputs) if state.is_main_process else None]
    (scores,) = broadcast_object_list(found) if state.num_processes > 1 else found
    open_ends = sum(not output.ended for output in outputs)
    notes = [f"{metric} is missing: {reason}" for metric, reason in scores.missing.items()]
    if open_ends:
        notes.append(f"{open_ends} of {len(texts)} texts were cut off at {cell.decode.max_new} tokens")
    if cut:
        notes.append(f"{cut} of {len(texts)} inputs have more than {room} tokens and lost their beginning")
    if len(texts) > 1 and len(set(texts)) == 1:
        notes.append("collapsed: the text is the same for every input; try another lr, or more epochs")
    about = {"inputs": len(inputs), "references": sum(len(each.references) for each in inputs),
             "seconds": decoding, "scoring_seconds": time.perf_counter() - clock, "cut_off": open_ends,
             "cut_inputs": cut, "missing": dict(scores.missing)}
    return Judged(dict(scores.numbers), about, notes, texts, _samples(inputs, texts))


def keep(texts: Sequence[str], folder: Path) -> None:
    """The texts, one a line in the order of the inputs, beside the record: what other scorers want. Raises OSError."""
    lines = "".join(" ".join(text.split()) + "\n" for text in texts)
    whole_text(folder / "hypotheses.txt", lines)


def _samples(inputs: Sequence[Any], texts: Sequence[str]) -> str:
    """A few texts between what they were made from and what people wrote."""
    step = max(1, len(inputs) // SHOWN)
    lines = []
    for each, text in list(zip(inputs, texts, strict=True))[::step][:SHOWN]:
        lines += [f"input      {each.context}", f"output     {text}"]
        lines += [f"reference  {reference}" for reference in each.references[:2]] + [""]
    return "\n".join(lines).rstrip()
