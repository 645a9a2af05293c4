"""From command lines to the cells of a sweep, before anything runs: what cannot run is refused here."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm.auto import tqdm

from engine import kin, start
from engine.contract import Refused
from engine.plan import Planned, Words, digest_of, ordered, told_apart
from engine.resolve import Base, Cell, check_model, ground, identify

PARENTS = ("task.", "task=", "init_from=", "runtime.save=")  # words of a child that are not its parent's
UNKNOWN = "unknown"  # instead of a digest, where only a plan is to be shown
DEVICE_DECIDES = ("bf16", "fp32")  # what precision=auto may become where the cell runs


class Planner:
    """Turns command lines into planned cells. make: a command line's Cell, None for a study, which has no record that
    could be looked for. to_show: goes on without a model or data that are not to be had (`missing` says which), though
    no record of theirs can be known then."""

    def __init__(self, make: Callable[[Words], Cell | None], to_show: bool = False) -> None:
        self.make = make
        self.to_show = to_show
        self.missing: Refused | None = None
        self.studies: list[Words] = []
        self._checked: set[tuple[object, ...]] = set()
        self._bases: dict[str, Base | Refused] = {}
        self._planned: dict[Path, Planned] = {}

    def plan(self, cells: Iterable[Words]) -> list[Planned]:
        """All cells and the parents that they lack, each once, in an order in which they can run. Raises Refused when
        one cannot be run, and how many others."""
        refused: list[str] = []
        children: list[tuple[Words, Cell]] = []
        for words in tqdm(cells, desc="planning", unit="cell", delay=3, leave=False, disable=None):
            try:
                cell = self.make(words)
                if cell is None:
                    self.studies.append(words)
                    continue
                check_model(cell)
                if cell.settings["init_from"] == "mnli":
                    children.append((words, cell))
                else:
                    self._add(self._cell(words, cell, [self._begun(cell)]))
            except Refused as error:
                refused.append(f"{' '.join(words)}: {error}")
        for words, cell in children:
            try:
                self._add(self._child(words, cell))
            except Refused as error:
                refused.append(f"{' '.join(words)}: {error}")
        if refused:
            more = f"\n{len(refused)} cells of this sweep cannot be run; nothing was started" if refused[1:] else ""
            raise Refused(refused[0] + more)
        return ordered(told_apart(list(self._planned.values())))

    def _begun(self, cell: Cell) -> str | None:
        return start.find(cell.settings, cell.out, None).identity

    def _cell(self, words: Words, cell: Cell, begun: Sequence[str | None]) -> Planned:
        base = self._base(cell)
        self._check(cell, base)
        made, why = planned(words, cell, base.raw, base.revision, begun), kin.alone(cell, base.folder)
        return replace(made, kin=None if why else kin.key(cell.settings), alone=why)

    def _child(self, words: Words, cell: Cell) -> Planned:
        """A cell that starts from MNLI: from the run that runtime.parent names, that of its own settings and seed, in
        this sweep or recorded; else from a recorded one that fits; else the run is added."""
        above = (*(word for word in words if not word.startswith(PARENTS)), "task=mnli")
        made = self.make(above)
        assert made is not None
        if made.settings["init_from"] == "mnli":
            raise Refused("init_from=mnli: MNLI itself cannot start from MNLI")
        parent = replace(self._cell(above, made, [self._begun(made)]), added=True)
        there, asked = parent.record(), self._planned.get(parent.key)
        named = cell.settings["runtime"]["parent"] is not None
        if named or (there is None and asked is None):
            try:
                other = start.find(cell.settings, cell.out, self._base(cell).revision)
                return replace(self._cell(words, cell, [other.identity]), begun=other.identity, child=True)
            except Refused:
                if named:
                    raise
        if there is not None and not start.weights_of(there).is_file():
            again = shlex.join(word for word in above if not word.startswith("runtime.together="))
            raise Refused(f"{start.weights_of(there)} is gone, from which it starts\n"
                          f"first: python run.py {again} runtime.force=true; or give init_from=none")
        if there is None and asked and not asked.added and cell.settings["runtime"]["save"] == "none":
            raise Refused("runtime.save=none: MNLI would leave no weights to start from; say runtime.save=best")
        self._add(parent)
        child = self._cell(words, cell, [digest_of(path) for path in parent.records])
        return replace(child, after=parent.key, child=True)

    def _base(self, cell: Cell) -> Base:
        """The cell's data (their sha256 alone) and base weights, looked at once for all cells that share them."""
        parts = [cell.settings[key] for key in ("task", "model", "scale", "data_root")]
        key = json.dumps(parts, sort_keys=True, default=str)
        if key not in self._bases:
            try:
                found = ground(cell)
                self._bases[key] = Base(found.raw.sha256, found.folder, found.revision)
            except Refused as error:
                self._bases[key] = Base(UNKNOWN, Path(UNKNOWN), UNKNOWN) if self.to_show else error
                self.missing = self.missing or error
        base = self._bases[key]
        if isinstance(base, Refused):
            raise base
        return base

    def _check(self, cell: Cell, base: Base) -> None:
        """Raises Refused where the model has no room for the recipe's length, or is another kind of model."""
        if base.raw == UNKNOWN:
            return
        from engine.models import checked  # which loads transformers

        key = (base.folder, cell.task.outputs, cell.recipe.length, cell.recipe.dropout, cell.recipe.cls_dropout,
               sum(cell.method.tokens))
        if key not in self._checked:
            checked(cell.model, base.folder, cell.task.outputs, cell.recipe, sum(cell.method.tokens))
            self._checked.add(key)

    def _add(self, planned: Planned) -> None:
        there = self._planned.get(planned.key)
        if there is None or there.added:
            self._planned[planned.key] = planned


def planned(words: Words, cell: Cell, data_sha256: str, revision: str, begun: Sequence[str | None]) -> Planned:
    """The cell of a command line on this data and these base weights. begun: what its start may be known by."""
    asked = cell.recipe.precision
    named = [identify(cell, precision, data_sha256, revision, before) for before in begun
             for precision in (DEVICE_DECIDES if asked == "auto" else (asked,))]
    about = {"task": cell.task.name, "model": cell.model.name, "method": cell.method.name, "label": cell.method.label,
             "variant": cell.variant, "seed": cell.settings["seed"], "scale": cell.settings["scale"]["name"]}
    return Planned(tuple(words), cell.title, about, tuple(one.path for one in named),
                   tuple(dict.fromkeys(one.kept for one in named)))
