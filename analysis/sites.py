"""Which matrices and layers of a model stand for those that the paper shows."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from lora.files import Update

Site = tuple[int, str]  # layer, from 1, and the paper's name of the matrix
Updates = dict[Site, Update]  # of a run


def shown(places: Collection[Site]) -> list[str]:
    """The matrices of a picture: q and v as in the paper; where neither was adapted, the first two that were; one where
    no layer has both."""
    names = list(dict.fromkeys(name for _, name in places))
    chosen: list[str] = [name for name in ("q", "v") if name in names] or names[:2]
    return chosen if layers(places, chosen) else chosen[:1]


def layers(places: Collection[Site], targets: Sequence[str]) -> list[int]:
    """The layers in which all of these matrices were adapted, first to last."""
    return sorted({layer for layer, _ in places if all((layer, target) in places for target in targets)})


def central(updates: Updates) -> Site:
    """The one matrix that stands for the paper's W_q of layer 48."""
    target = shown(updates)[0]
    return middle(layers(updates, [target])), target


def middle(there: Sequence[int]) -> int:
    """What stands for the paper's layer 48 of 96: layer L / 2, or the nearest of those that are there."""
    return _nearest(there, there[-1] // 2)


def spread(there: Sequence[int]) -> list[int]:
    """What stands for the paper's layers 1, 32, 64 and 96 of 96: 1, L / 3, 2 L / 3 and L, each once."""
    L = there[-1]
    return sorted({_nearest(there, wanted) for wanted in (1, round(L / 3), round(2 * L / 3), L)})


def _nearest(there: Sequence[int], wanted: int) -> int:
    return min(there, key=lambda layer: (abs(layer - wanted), layer))
