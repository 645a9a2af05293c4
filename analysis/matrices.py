"""What the matrices of an adapter are called, and that their numbers can be worked with."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import torch

from engine.contract import Refused
from lora.files import Adapter, Update


def names(updates: Sequence[Update]) -> list[str]:
    """A name for every update of an adapter: the paper's (q, v, …) where a layer has one such matrix, else with as much
    of the module's name as tells them apart: q encoder, q decoder."""
    words = [_word(update) for update in updates]
    count = Counter(zip((update.layer for update in updates), words, strict=True))
    several = {word for (_, word), n in count.items() if n > 1}
    apart: dict[str, dict[str, str]] = {}
    for word in several:
        apart[word] = _apart([update.module for update, own in zip(updates, words, strict=True) if own == word])
    return [f"{word} {apart[word][update.module]}" if word in several else word
            for update, word in zip(updates, words, strict=True)]


def finite(adapter: Adapter) -> None:
    """Raises Refused where A or B has a number that is not finite, or ‖ΔW‖² may be above what float64 holds."""
    for update in adapter.updates:
        where = f"{adapter.name}: A or B of {update.module} ({update.target})"
        if not (update.A.isfinite().all() and update.B.isfinite().all()):
            raise Refused(f"{where} is not finite: a diverged run")
        sizes = [float(torch.linalg.vector_norm(factor.double())) for factor in (update.A, update.B)]
        most = math.prod([*sizes, 1.0 if update.scale is None else abs(update.scale)])
        if not math.isfinite(most * most):
            raise Refused(f"{where} is too large: the norm of its ΔW is not finite")


def _word(update: Update) -> str:
    """The paper's name of the matrix; several of a layer are called ff, so these say which."""
    return f"ff {'.'.join(update.module.split('.')[-2:])}" if update.target == "ff" else update.target


def _apart(modules: Sequence[str]) -> dict[str, str]:
    """Each module's name without the number of its layer and without what all of them begin and end with."""
    short = {module: re.sub(r"\.\d+(?=\.|$)", "", module, count=1).split(".") for module in modules}
    for end in (0, -1):
        while all(len(parts) > 1 for parts in short.values()) and len({parts[end] for parts in short.values()}) == 1:
            for parts in short.values():
                del parts[end]
    return {module: ".".join(parts) for module, parts in short.items()}
