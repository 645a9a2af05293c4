"""Several processes that train one run: the first decides for all."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def first(decide: Callable[[], T], device: Any) -> T:
    """What decide() gives in the first process, or what it raises, in all of them: they ask the disk once, and go the
    same way; and none goes on before it is done. device: where they train, which settles how they speak."""
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return decide()
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    state = PartialState(cpu=device.type == "cpu")
    told: list[Any] = [None]
    if state.is_main_process:
        try:
            told = [(decide(), None)]
        except Exception as error:
            told = [(None, error)]
    broadcast_object_list(told)
    found, refusal = told[0]
    if refusal is not None:
        raise refusal
    return found
